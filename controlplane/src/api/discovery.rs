//! What this server serves, told to clients: versions, groups, resources; and all at once (aggregated). Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::registry::Registry;
use crate::kinds::{Kind, subresource};

/// `/api`
pub(crate) fn legacy_versions(server: &str) -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server}],
    })
}

/// `/apis`
pub(crate) fn groups(registry: &Registry) -> Value {
    let mut names: Vec<_> = registry.groups().into_keys().map(|(group, _)| group).collect();
    names.dedup();
    let groups: Vec<_> = names.iter().filter_map(|name| group_entry(registry, name)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`
pub(crate) fn group(registry: &Registry, name: &str) -> Option<Value> {
    let mut group = group_entry(registry, name)?;
    group["kind"] = "APIGroup".into();
    group["apiVersion"] = "v1".into();
    Some(group)
}

fn group_entry(registry: &Registry, name: &str) -> Option<Value> {
    let versions: Vec<_> = registry
        .groups()
        .into_keys()
        .filter(|(group, _)| *group == name && !name.is_empty())
        .map(|(group, version)| {
            json!({"groupVersion": format!("{group}/{version}"), "version": version})
        })
        .collect();
    let preferred = versions.first()?.clone();
    Some(json!({"name": name, "versions": versions, "preferredVersion": preferred}))
}

/// `/api/v1`, `/apis/<group>/<version>`
pub(crate) fn resources(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let kinds = registry.groups().remove(&(group, version))?;
    let mut resources = Vec::new();
    for kind in &kinds {
        resources.push(resource(kind));
        for name in kind.subresources {
            let Some(sub) = subresource(kind, name) else { continue };
            let mut entry = json!({
                "name": format!("{}/{name}", kind.plural), "singularName": "",
                "namespaced": kind.namespaced, "kind": sub.kind, "verbs": sub.verbs,
            });
            if (sub.group, sub.version) != (kind.group, kind.version) {
                entry["group"] = sub.group.into();
                entry["version"] = sub.version.into();
            }
            resources.push(entry);
        }
    }
    if kinds.iter().any(|k| k.subresources.contains(&"binding")) {
        resources.insert(
            0,
            json!({
                "name": "bindings", "singularName": "binding", "namespaced": true,
                "kind": "Binding", "verbs": ["create"],
            }),
        );
    }
    let group_version = kinds.first()?.api_version();
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": group_version, "resources": resources,
    }))
}

fn resource(kind: &Kind) -> Value {
    let mut entry = json!({
        "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
        "kind": kind.kind, "verbs": kind.verbs(),
    });
    if !kind.short_names.is_empty() {
        entry["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        entry["categories"] = json!(kind.categories);
    }
    entry
}

/// `/api` and `/apis` as one list each; `version` is that of the list's own API.
pub(crate) fn aggregated(registry: &Registry, legacy: bool, version: &str) -> Value {
    let mut groups: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for ((group, version), kinds) in registry.groups() {
        if group.is_empty() != legacy {
            continue;
        }
        let mut resources: Vec<Value> = kinds.iter().map(|k| aggregated_resource(k)).collect();
        if kinds.iter().any(|k| k.subresources.contains(&"binding")) {
            let kind = json!({"group": "", "version": "v1", "kind": "Binding"});
            resources.insert(
                0,
                json!({
                    "resource": "bindings", "responseKind": kind, "scope": "Namespaced",
                    "singularResource": "binding", "verbs": ["create"],
                }),
            );
        }
        groups.entry(group).or_default().push(json!({
            "version": version, "resources": resources, "freshness": "Current",
        }));
    }
    let items: Vec<Value> = groups
        .into_iter()
        .map(|(name, versions)| {
            let metadata = if name.is_empty() { json!({}) } else { json!({"name": name}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {}, "items": items,
    })
}

fn aggregated_resource(kind: &Kind) -> Value {
    let response = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let subresources: Vec<Value> = kind
        .subresources
        .iter()
        .filter_map(|name| {
            let sub = subresource(kind, name)?;
            let response = json!({"group": sub.group, "version": sub.version, "kind": sub.kind});
            Some(json!({"subresource": name, "responseKind": response, "verbs": sub.verbs}))
        })
        .collect();
    let mut entry = json!({
        "resource": kind.plural, "responseKind": response,
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular, "verbs": kind.verbs(),
    });
    if !kind.short_names.is_empty() {
        entry["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        entry["categories"] = json!(kind.categories);
    }
    if !subresources.is_empty() {
        entry["subresources"] = subresources.into();
    }
    entry
}

/// Changes when the document does.
pub(crate) fn etag(document: &[u8]) -> String {
    let hash: String =
        Sha256::digest(document).iter().take(16).map(|b| format!("{b:02X}")).collect();
    format!("\"{hash}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing;

    #[test]
    fn every_list_names_the_deployments() {
        let registry = testing::registry();
        let list = resources(&registry, "apps", "v1").unwrap();
        let find = |name: &str| {
            let resources = list["resources"].as_array().unwrap();
            resources.iter().find(|r| r["name"] == name).cloned().unwrap()
        };
        assert_eq!(find("deployments")["shortNames"], json!(["deploy"]));
        assert_eq!(find("deployments/scale")["group"], "autoscaling");
        assert_eq!(group(&registry, "apps").unwrap()["preferredVersion"]["version"], "v1");
        assert!(group(&registry, "").is_none());
        let all = aggregated(&registry, false, "v2");
        let apps =
            all["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "apps");
        assert_eq!(apps.unwrap()["versions"][0]["version"], "v1");
        let core = aggregated(&registry, true, "v2");
        assert_eq!(core["items"].as_array().unwrap().len(), 1);
        assert_eq!(groups(&registry)["groups"][0]["name"], "apps");
    }

    #[test]
    fn evictions_are_announced_where_drain_looks() {
        let list = resources(&testing::registry(), "", "v1").unwrap();
        let resources = list["resources"].as_array().unwrap();
        let eviction = resources.iter().find(|r| r["name"] == "pods/eviction").unwrap();
        assert_eq!((&eviction["group"], &eviction["version"]), (&json!("policy"), &json!("v1")));
    }
}
