//! OpenAPI v3 documents, one per group and version, made from the registry and the learnt API types when asked for:
//! enough for kubectl to validate, to compute patches and to explain. Nothing but the index is kept.

mod paths;
mod schemas;

use std::sync::OnceLock;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::kinds::{self, Kind};

/// What `GET /openapi/v3` answers: where each document is, with a hash that changes when it does.
pub fn v3_index() -> Value {
    static INDEX: OnceLock<Value> = OnceLock::new();
    INDEX.get_or_init(index).clone()
}

fn index() -> Value {
    let mut found = Map::new();
    for kind in kinds::all() {
        let place = place(kind.group, kind.version);
        if found.contains_key(&place) {
            continue;
        }
        let text = v3(kind.group, kind.version).unwrap_or_default().to_string();
        let digest = Sha256::digest(text.as_bytes());
        let hash: String = digest.iter().map(|byte| format!("{byte:02X}")).collect();
        let url = format!("/openapi/v3/{place}?hash={hash}");
        found.insert(place, json!({"serverRelativeURL": url}));
    }
    json!({ "paths": found })
}

/// `api/v1`, `apis/apps/v1`
fn place(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// The document of one group and version, None when nothing is served there.
pub fn v3(group: &str, version: &str) -> Option<Value> {
    let served: Vec<&Kind> =
        kinds::all().iter().filter(|k| k.group == group && k.version == version).collect();
    if served.is_empty() {
        return None;
    }
    let mut all = Map::new();
    for kind in &served {
        paths::of(kind, &mut all);
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": env!("CARGO_PKG_VERSION")},
        "paths": all,
        "components": {"schemas": schemas::of(&served)},
    }))
}

/// How documents name a kind.
fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "kind": kind, "version": version})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_leads_to_documents() {
        let index = v3_index();
        let paths = index["paths"].as_object().expect("paths");
        assert!(paths.contains_key("api/v1") && paths.contains_key("apis/apps/v1"), "{index}");
        for (place, entry) in paths {
            let url = entry["serverRelativeURL"].as_str().expect("url");
            assert!(url.starts_with(&format!("/openapi/v3/{place}?hash=")), "{url}");
        }
        assert!(v3("apps", "v1beta1").is_none());
    }

    /// The lookups that kubectl makes before it sends `fieldValidation=` or computes a strategic patch.
    #[test]
    fn kubectl_finds_what_it_looks_for() {
        let doc = v3("apps", "v1").expect("apps/v1");
        let path = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";
        let patch = &doc["paths"][path]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"], gvk("apps", "v1", "Deployment"));
        let parameters = patch["parameters"].as_array().expect("parameters");
        for name in ["fieldValidation", "dryRun", "fieldManager", "force"] {
            assert!(parameters.iter().any(|p| p["name"] == name && p["in"] == "query"), "{name}");
        }
        let content = patch["requestBody"]["content"].as_object().expect("content");
        assert!(content.contains_key("application/strategic-merge-patch+json"));
        let schemas = doc["components"]["schemas"].as_object().expect("schemas");
        let wanted = json!([gvk("apps", "v1", "Deployment")]);
        let (_, root) = schemas
            .iter()
            .find(|(_, s)| s["x-kubernetes-group-version-kind"] == wanted)
            .expect("schema of Deployment");
        let follow = |schema: &Value| -> Value {
            let name = schema["allOf"][0]["$ref"].as_str().expect("ref");
            schemas[name.trim_start_matches("#/components/schemas/")].clone()
        };
        let spec = follow(&root["properties"]["spec"]);
        assert_eq!(spec["properties"]["strategy"]["x-kubernetes-patch-strategy"], "retainKeys");
        let pod = follow(&follow(&spec["properties"]["template"])["properties"]["spec"]);
        let containers = &pod["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
        let container = follow(&containers["items"]);
        assert_eq!(container["properties"]["image"]["type"], "string");
    }

    #[test]
    fn every_reference_resolves() {
        for kind in kinds::all() {
            let doc = v3(kind.group, kind.version).expect("document");
            let text = doc.to_string();
            let marker = "#/components/schemas/";
            for part in text.split(marker).skip(1) {
                let name = part.split('"').next().unwrap_or_default();
                assert!(doc["components"]["schemas"].get(name).is_some(), "{name}");
            }
        }
    }
}
