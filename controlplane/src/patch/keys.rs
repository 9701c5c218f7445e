//! Which lists strategic merge patches merge, and by which key: a fact of the API, per struct and field. Lists that
//! are not named here are replaced whole; maps and structs are merged.

/// How a patch changes one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeStrategy {
    /// Lists only: merged, by `key` or as a set when `key` is empty.
    pub merge: bool,
    pub key: &'static str,
    /// Only the keys that the patch names stay.
    pub retain_keys: bool,
}

/// (struct, field, key); an empty key merges primitives.
const MERGED: &[(&str, &str, &str)] = &[
    ("ObjectMeta", "finalizers", ""),
    ("ObjectMeta", "ownerReferences", "uid"),
    ("PodSpec", "containers", "name"),
    ("PodSpec", "ephemeralContainers", "name"),
    ("PodSpec", "hostAliases", "ip"),
    ("PodSpec", "imagePullSecrets", "name"),
    ("PodSpec", "initContainers", "name"),
    ("PodSpec", "resourceClaims", "name"),
    ("PodSpec", "schedulingGates", "name"),
    ("PodSpec", "topologySpreadConstraints", "topologyKey"),
    ("PodSpec", "volumes", "name"),
    ("Container", "env", "name"),
    ("Container", "ports", "containerPort"),
    ("Container", "volumeDevices", "devicePath"),
    ("Container", "volumeMounts", "mountPath"),
    ("EphemeralContainer", "env", "name"),
    ("EphemeralContainer", "ports", "containerPort"),
    ("EphemeralContainer", "volumeDevices", "devicePath"),
    ("EphemeralContainer", "volumeMounts", "mountPath"),
    ("PodStatus", "conditions", "type"),
    ("PodStatus", "hostIPs", "ip"),
    ("PodStatus", "podIPs", "ip"),
    ("PodStatus", "resourceClaimStatuses", "name"),
    ("NodeSpec", "podCIDRs", ""),
    ("NodeStatus", "addresses", "type"),
    ("NodeStatus", "conditions", "type"),
    ("NamespaceStatus", "conditions", "type"),
    ("ServiceSpec", "ports", "port"),
    ("ServiceStatus", "conditions", "type"),
    ("ServiceAccount", "secrets", "name"),
    ("DeploymentStatus", "conditions", "type"),
    ("ReplicaSetStatus", "conditions", "type"),
];

/// (struct, field)
const RETAINED: &[(&str, &str)] = &[
    ("DeploymentSpec", "strategy"),
    ("PodSpec", "volumes"),
    ("PodSpec", "resourceClaims"),
    ("PodStatus", "resourceClaimStatuses"),
];

/// For `field` of the struct with the short name `owner`.
pub fn merge_strategy(owner: &str, field: &str) -> MergeStrategy {
    let merged = MERGED.iter().find(|(o, f, _)| (*o, *f) == (owner, field));
    MergeStrategy {
        merge: merged.is_some(),
        key: merged.map_or("", |(_, _, key)| key),
        retain_keys: RETAINED.contains(&(owner, field)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{Type, types};

    #[test]
    fn every_entry_names_a_real_field() {
        let types = types();
        let field = |owner: &str, name: &str| {
            let owned = types.all().iter().find(|s| s.short() == owner && s.field(name).is_some());
            owned.and_then(|s| s.field(name)).unwrap_or_else(|| panic!("no {owner}.{name}"))
        };
        for (owner, name, key) in MERGED {
            let Type::List(item) = field(owner, name) else { panic!("{owner}.{name} is no list") };
            match &**item {
                Type::Struct(index) => {
                    assert!(types.get(*index).field(key).is_some(), "{owner}.{name} by {key}");
                }
                Type::String => assert!(key.is_empty(), "{owner}.{name}"),
                other => panic!("{owner}.{name}: {other:?}"),
            }
        }
        for (owner, name) in RETAINED {
            field(owner, name);
        }
    }
}
