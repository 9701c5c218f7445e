//! Who a container's process is: runAsUser and friends over the image's USER. Pure; `/etc/passwd` and `/etc/group`
//! of the image come in as text.

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SecurityContext};
use oci_spec::runtime::{User, UserBuilder};

use super::ConfigError;

/// User and group ids are at most this; larger values are refused, not cut.
const MAX_ID: i64 = i32::MAX as i64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Sorted, without repetition.
    pub groups: Vec<u32>,
}

impl Identity {
    pub fn oci_user(&self) -> Result<User, ConfigError> {
        UserBuilder::default()
            .uid(self.uid)
            .gid(self.gid)
            .additional_gids(self.groups.clone())
            .build()
            .map_err(|error| ConfigError::Create(format!("build the user: {error}")))
    }
}

/// The image's account files, empty if it has none.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    pub passwd: String,
    pub group: String,
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

pub fn identity(
    pod: &Pod,
    container: &Container,
    image_user: Option<&str>,
    accounts: &Accounts,
) -> Result<Identity, ConfigError> {
    let default = (PodSecurityContext::default(), SecurityContext::default());
    let pod_context =
        pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()).unwrap_or(&default.0);
    let context = container.security_context.as_ref().unwrap_or(&default.1);
    let image_user = image_user.unwrap_or_default();
    let (user, group) = image_user.split_once(':').unwrap_or((image_user, ""));

    let run_as_user = context.run_as_user.or(pod_context.run_as_user);
    let run_as_group = context.run_as_group.or(pod_context.run_as_group);
    let non_root = context.run_as_non_root.or(pod_context.run_as_non_root).unwrap_or(false);
    if non_root && run_as_user.is_none() {
        check_image_user(user, container)?;
    }
    let (uid, account) = match run_as_user {
        Some(uid) => (id(uid, "runAsUser")?, None),
        None => find_user(user, accounts)?,
    };
    if non_root && uid == 0 {
        return Err(runs_as_root(container));
    }
    let account = account.or_else(|| users(accounts).find(|account| account.uid == uid));
    let gid = match run_as_group {
        Some(gid) => id(gid, "runAsGroup")?,
        None if run_as_user.is_none() && !group.is_empty() => find_group(group, accounts)?,
        None => account.as_ref().map_or(0, |account| account.gid),
    };
    let strict = pod_context.supplemental_groups_policy.as_deref() == Some("Strict");
    let name = account.as_ref().map(|account| account.name);
    let mut groups = if strict { Vec::new() } else { memberships(name, accounts) };
    let extra = pod_context.supplemental_groups.iter().flatten().chain(&pod_context.fs_group);
    for gid in extra {
        groups.push(id(*gid, "supplementalGroups")?);
    }
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    Ok(Identity { uid, gid, groups })
}

fn check_image_user(user: &str, container: &Container) -> Result<(), ConfigError> {
    let numeric = user.parse::<u32>();
    match (user, numeric) {
        ("", _) | (_, Ok(0)) => Err(runs_as_root(container)),
        (_, Ok(_)) => Ok(()),
        (name, Err(_)) => Err(ConfigError::Config(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root \
             (container: {})",
            container.name
        ))),
    }
}

fn runs_as_root(container: &Container) -> ConfigError {
    let name = &container.name;
    ConfigError::Config(format!(
        "container has runAsNonRoot and image will run as root (container: {name})"
    ))
}

fn id(value: i64, what: &str) -> Result<u32, ConfigError> {
    match u32::try_from(value) {
        Ok(id) if value <= MAX_ID => Ok(id),
        _ => Err(ConfigError::Config(format!("{what} {value} is not between 0 and {MAX_ID}"))),
    }
}

fn find_user<'a>(
    user: &str,
    accounts: &'a Accounts,
) -> Result<(u32, Option<Account<'a>>), ConfigError> {
    if user.is_empty() {
        return Ok((0, None));
    }
    if let Some(account) = users(accounts).find(|account| account.name == user) {
        return Ok((account.uid, Some(account)));
    }
    match user.parse::<i64>() {
        Ok(uid) => Ok((id(uid, "the image's user")?, None)),
        Err(_) => Err(ConfigError::Create(format!(
            "unable to find user {user}: no matching entries in passwd file"
        ))),
    }
}

fn find_group(group: &str, accounts: &Accounts) -> Result<u32, ConfigError> {
    if let Some((gid, _)) =
        groups(accounts).find_map(|(name, gid, members)| (name == group).then_some((gid, members)))
    {
        return Ok(gid);
    }
    match group.parse::<i64>() {
        Ok(gid) => id(gid, "the image's group"),
        Err(_) => Err(ConfigError::Create(format!(
            "unable to find group {group}: no matching entries in group file"
        ))),
    }
}

fn users(accounts: &Accounts) -> impl Iterator<Item = Account<'_>> {
    accounts.passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Account { name, uid, gid })
    })
}

fn groups(accounts: &Accounts) -> impl Iterator<Item = (&str, u32, &str)> {
    accounts.group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn memberships(name: Option<&str>, accounts: &Accounts) -> Vec<u32> {
    let Some(name) = name else { return Vec::new() };
    let member = |members: &str| members.split(',').any(|member| member == name);
    groups(accounts).filter(|(_, _, members)| member(members)).map(|(_, gid, _)| gid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/:/bin/sh\n".into(),
            group: "root:x:0:\napp:x:1001:\naudio:x:29:app,other\n".into(),
        }
    }

    fn resolve(pod: &str, container: &str, image: Option<&str>) -> Result<Identity, String> {
        let pod: Pod = serde_json::from_str(&format!(
            r#"{{"spec":{{"containers":[],"securityContext":{pod}}}}}"#
        ))
        .unwrap();
        let container: Container =
            serde_json::from_str(&format!(r#"{{"name":"c","securityContext":{container}}}"#))
                .unwrap();
        identity(&pod, &container, image, &accounts()).map_err(|error| error.to_string())
    }

    fn of(uid: u32, gid: u32, groups: &[u32]) -> Result<Identity, String> {
        Ok(Identity { uid, gid, groups: groups.to_vec() })
    }

    #[test]
    fn users_and_groups() {
        assert_eq!(resolve("{}", "{}", None), of(0, 0, &[0]));
        assert_eq!(resolve("{}", "{}", Some("app")), of(1000, 1001, &[29, 1001]));
        assert_eq!(resolve("{}", "{}", Some("1000")), of(1000, 1001, &[29, 1001]));
        assert_eq!(resolve("{}", "{}", Some("1000:audio")), of(1000, 29, &[29]));
        assert_eq!(resolve("{}", "{}", Some("7:8")), of(7, 8, &[8]));
        assert_eq!(
            resolve(r#"{"runAsUser":5}"#, r#"{"runAsUser":6}"#, Some("app")),
            of(6, 0, &[0])
        );
        assert_eq!(resolve(r#"{"runAsUser":5,"runAsGroup":9}"#, "{}", None), of(5, 9, &[9]));
        assert_eq!(
            resolve(r#"{"fsGroup":70,"supplementalGroups":[60]}"#, "{}", None),
            of(0, 0, &[0, 60, 70])
        );
        let strict = r#"{"supplementalGroupsPolicy":"Strict"}"#;
        assert_eq!(resolve(strict, "{}", Some("app")), of(1000, 1001, &[1001]));
        assert!(
            resolve("{}", "{}", Some("nobody")).unwrap_err().contains("unable to find user nobody")
        );
        assert!(
            resolve(r#"{"runAsUser":4294967296}"#, "{}", None)
                .unwrap_err()
                .contains("is not between")
        );
    }

    #[test]
    fn run_as_non_root_is_verified() {
        let non_root = r#"{"runAsNonRoot":true}"#;
        for image in [None, Some("0"), Some("0:5")] {
            assert!(
                resolve(non_root, "{}", image).unwrap_err().contains("will run as root"),
                "{image:?}"
            );
        }
        assert!(
            resolve(non_root, "{}", Some("app")).unwrap_err().contains("non-numeric user (app)")
        );
        assert!(
            resolve(non_root, r#"{"runAsUser":0}"#, Some("9"))
                .unwrap_err()
                .contains("will run as root")
        );
        assert_eq!(resolve(non_root, "{}", Some("9")), of(9, 0, &[0]));
    }
}
