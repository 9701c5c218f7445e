//! Ids of user namespaces and of idmapped mounts. Pure.

use std::fmt::Write as _;

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType};

use super::ProcessPlan;
use crate::oci::ConfigError;

/// The kernel takes no more lines than this (user_namespaces(7)).
const MAX_RANGES: usize = 340;

/// `size` ids that begin with `inside` there and `outside` here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdRange {
    pub(crate) inside: u32,
    pub(crate) outside: u32,
    pub(crate) size: u32,
}

/// The maps of one user namespace; neither is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdMaps {
    pub(crate) uids: Vec<IdRange>,
    pub(crate) gids: Vec<IdRange>,
}

impl IdMaps {
    /// The fields `uidMappings` and `gidMappings` of the object at `at`; `None` when both are absent.
    pub(super) fn of(
        uids: &Option<Vec<LinuxIdMapping>>,
        gids: &Option<Vec<LinuxIdMapping>>,
        at: &str,
    ) -> Result<Option<IdMaps>, ConfigError> {
        let uids = ranges(uids, &format!("{at}.uidMappings"))?;
        let gids = ranges(gids, &format!("{at}.gidMappings"))?;
        let missing =
            |name| Err(ConfigError::field(format!("{at}.{name}"), "required beside the other"));
        match (uids.is_empty(), gids.is_empty()) {
            (true, true) => Ok(None),
            (true, false) => missing("uidMappings"),
            (false, true) => missing("gidMappings"),
            (false, false) => Ok(Some(IdMaps { uids, gids })),
        }
    }

    /// What `uid` is outside.
    pub(crate) fn outside_uid(&self, uid: u32) -> Option<u32> {
        outside(&self.uids, uid)
    }

    /// What `gid` is outside.
    pub(crate) fn outside_gid(&self, gid: u32) -> Option<u32> {
        outside(&self.gids, gid)
    }
}

/// As the files uid_map and gid_map want it.
pub(crate) fn encode(ranges: &[IdRange]) -> String {
    ranges.iter().fold(String::new(), |mut text, range| {
        let _ = writeln!(text, "{} {} {}", range.inside, range.outside, range.size);
        text
    })
}

fn outside(ranges: &[IdRange], id: u32) -> Option<u32> {
    let range =
        ranges.iter().find(|range| id.checked_sub(range.inside).is_some_and(|n| n < range.size))?;
    range.outside.checked_add(id - range.inside)
}

fn ranges(list: &Option<Vec<LinuxIdMapping>>, at: &str) -> Result<Vec<IdRange>, ConfigError> {
    let list = list.as_deref().unwrap_or_default();
    if list.len() > MAX_RANGES {
        return Err(ConfigError::field(at, format!("more than {MAX_RANGES} entries")));
    }
    let range = |(index, map): (usize, &LinuxIdMapping)| {
        let range =
            IdRange { inside: map.container_id(), outside: map.host_id(), size: map.size() };
        let fits = |first: u32| first.checked_add(range.size).is_some();
        let fine = range.size > 0 && fits(range.inside) && fits(range.outside);
        let field = || ConfigError::field(format!("{at}[{index}]"), "not a range of ids");
        if fine { Ok(range) } else { Err(field()) }
    };
    list.iter().enumerate().map(range).collect()
}

/// The maps of the user namespace to make; `None` when none is to be made.
pub(super) fn plan(linux: &Linux) -> Result<Option<IdMaps>, ConfigError> {
    let maps = IdMaps::of(linux.uid_mappings(), linux.gid_mappings(), "linux")?;
    let mut namespaces = linux.namespaces().iter().flatten();
    let user = namespaces.find(|namespace| namespace.typ() == LinuxNamespaceType::User);
    match (user, maps) {
        (None, None) => Ok(None),
        (None, Some(_)) => {
            let why = "needs a user namespace in linux.namespaces";
            Err(ConfigError::field("linux.uidMappings", why))
        }
        // The maps are those that the namespace has.
        (Some(user), _) if user.path().is_some() => Ok(None),
        (Some(_), None) => {
            Err(ConfigError::field("linux.uidMappings", "required for a new user namespace"))
        }
        (Some(_), Some(maps)) => {
            let root = |mapped: Option<u32>, field| match mapped {
                Some(_) => Ok(()),
                None => Err(ConfigError::field(field, "containerID 0 is not mapped")),
            };
            root(maps.outside_uid(0), "linux.uidMappings")?;
            root(maps.outside_gid(0), "linux.gidMappings")?;
            Ok(Some(maps))
        }
    }
}

/// Refuses a process whose ids the namespace does not have: the kernel would only say "invalid argument".
pub(super) fn check_process(maps: &IdMaps, process: &ProcessPlan) -> Result<(), ConfigError> {
    let mapped = |outside: Option<u32>, field: String, list| match outside {
        Some(_) => Ok(()),
        None => Err(ConfigError::field(field, format!("not mapped by linux.{list}"))),
    };
    mapped(maps.outside_uid(process.uid), "process.user.uid".into(), "uidMappings")?;
    mapped(maps.outside_gid(process.gid), "process.user.gid".into(), "gidMappings")?;
    for (index, gid) in process.groups.iter().enumerate() {
        let field = format!("process.user.additionalGids[{index}]");
        mapped(maps.outside_gid(*gid), field, "gidMappings")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(value: Value) -> Result<Option<IdMaps>, ConfigError> {
        plan(&serde_json::from_value(value).unwrap())
    }

    fn map(inside: u32, outside: u32, size: u32) -> Value {
        json!([{"containerID": inside, "hostID": outside, "size": size}])
    }

    #[test]
    fn ids_are_found_on_the_other_side() {
        let maps = of(json!({
            "namespaces": [{"type": "user"}],
            "uidMappings": [
                {"containerID": 0, "hostID": 1000, "size": 1},
                {"containerID": 1, "hostID": 100_000, "size": 10},
            ],
            "gidMappings": map(0, 5000, 3),
        }));
        let maps = maps.unwrap().unwrap();
        assert_eq!(maps.outside_uid(0), Some(1000));
        assert_eq!(maps.outside_uid(10), Some(100_009));
        assert_eq!(maps.outside_uid(11), None);
        assert_eq!(maps.outside_gid(2), Some(5002));
        assert_eq!(encode(&maps.uids), "0 1000 1\n1 100000 10\n");
    }

    #[test]
    fn each_mistake_names_its_field() {
        let user = json!([{"type": "user"}]);
        let cases = [
            (
                json!({"uidMappings": map(0, 1, 1), "gidMappings": map(0, 1, 1)}),
                "linux.uidMappings: needs a user",
            ),
            (json!({"namespaces": user}), "linux.uidMappings: required for"),
            (
                json!({"namespaces": user, "uidMappings": map(0, 1, 1)}),
                "linux.gidMappings: required beside",
            ),
            (
                json!({"namespaces": user, "gidMappings": map(0, 1, 1)}),
                "linux.uidMappings: required beside",
            ),
            (
                json!({"namespaces": user, "uidMappings": map(0, 1, 0), "gidMappings": map(0, 1, 1)}),
                "linux.uidMappings[0]: not a range",
            ),
            (
                json!({"namespaces": user, "uidMappings": map(0, u32::MAX, 2), "gidMappings": map(0, 1, 1)}),
                "linux.uidMappings[0]: not a range",
            ),
            (
                json!({"namespaces": user, "uidMappings": map(0, 1, 1), "gidMappings": map(1, 1, 1)}),
                "linux.gidMappings: containerID 0",
            ),
        ];
        for (value, expected) in cases {
            let error = of(value).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error:?} does not start with {expected:?}");
        }
    }

    #[test]
    fn a_namespace_that_is_joined_has_its_maps() {
        let joined = json!([{"type": "user", "path": "/proc/1/ns/user"}]);
        assert_eq!(of(json!({"namespaces": joined})).unwrap(), None);
    }
}
