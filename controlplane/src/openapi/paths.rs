//! Path items: which verbs a resource has, with which parameters and bodies.

use serde_json::{Map, Value, json};

use super::{gvk, place};
use crate::kinds::{Kind, subresource, types};

const PATCH_TYPES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// Every path of a kind.
pub(super) fn of(kind: &Kind, paths: &mut Map<String, Value>) {
    let root = format!("/{}", place(kind.group, kind.version));
    if !kind.is_stored() {
        let place = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let path = format!("{root}{place}/{}", kind.plural);
        paths.insert(path, item(kind, &[("post", "post")], false));
        return;
    }
    let collection = if kind.namespaced {
        let across = format!("{root}/{}", kind.plural);
        paths.insert(across, json!({"get": operation(kind, "list", "get")}));
        format!("{root}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        format!("{root}/{}", kind.plural)
    };
    let one = format!("{collection}/{{name}}");
    paths.insert(
        collection,
        item(kind, &[("list", "get"), ("post", "post"), ("deletecollection", "delete")], false),
    );
    let verbs = [("get", "get"), ("put", "put"), ("patch", "patch"), ("delete", "delete")];
    paths.insert(one.clone(), item(kind, &verbs, true));
    for name in kind.subresources {
        let Some(sub) = subresource(kind, name) else { continue };
        let mut content = Map::new();
        for verb in sub.verbs {
            let (action, method) = match *verb {
                "update" => ("put", "put"),
                "create" if sub.kind.ends_with("Options") => ("connect", "post"),
                "create" => ("post", "post"),
                "get" if sub.kind.ends_with("Options") => ("connect", "get"),
                other => (other, other),
            };
            let mut operation = operation(kind, action, method);
            operation["x-kubernetes-group-version-kind"] = gvk(sub.group, sub.version, sub.kind);
            if sub.kind != kind.kind && method != "patch" {
                operation["requestBody"] =
                    json!({"content": {"*/*": {"schema": {"type": "object"}}}});
            }
            content.insert(method.into(), operation);
        }
        content.insert("parameters".into(), place_parameters(kind, true));
        paths.insert(format!("{one}/{name}"), content.into());
    }
}

fn item(kind: &Kind, verbs: &[(&str, &str)], named: bool) -> Value {
    let mut content = Map::new();
    for (action, method) in verbs {
        content.insert((*method).into(), operation(kind, action, method));
    }
    content.insert("parameters".into(), place_parameters(kind, named));
    content.into()
}

fn place_parameters(kind: &Kind, named: bool) -> Value {
    let parameter = |name: &str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}});
    let mut all = Vec::new();
    if named {
        all.push(parameter("name"));
    }
    if kind.namespaced {
        all.push(parameter("namespace"));
    }
    all.into()
}

fn operation(kind: &Kind, action: &str, method: &str) -> Value {
    let names: &[(&str, &str)] = match action {
        "list" | "deletecollection" => &[
            ("allowWatchBookmarks", "boolean"),
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
        ],
        "post" | "put" => {
            &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")]
        }
        "patch" => &[
            ("dryRun", "string"),
            ("fieldManager", "string"),
            ("fieldValidation", "string"),
            ("force", "boolean"),
        ],
        "delete" => &[
            ("dryRun", "string"),
            ("gracePeriodSeconds", "integer"),
            ("orphanDependents", "boolean"),
            ("propagationPolicy", "string"),
        ],
        _ => &[],
    };
    let query = |(name, ty): &(&str, &str)| json!({"name": name, "in": "query", "schema": {"type": ty, "uniqueItems": true}});
    let mut operation = json!({
        "tags": [format!("{}_{}", if kind.group.is_empty() { "core" } else { kind.group }, kind.version)],
        "parameters": names.iter().map(query).collect::<Vec<_>>(),
        "responses": {"200": {"description": "OK"}, "401": {"description": "Unauthorized"}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk(kind.group, kind.version, kind.kind),
    });
    if let Some(body) = body(kind, method) {
        operation["requestBody"] = body;
    }
    operation
}

fn body(kind: &Kind, method: &str) -> Option<Value> {
    let content: Map<String, Value> = match method {
        "patch" => PATCH_TYPES
            .iter()
            .map(|t| ((*t).to_owned(), json!({"schema": {"type": "object"}})))
            .collect(),
        "post" | "put" => {
            let name = &types().get(kind.strategy.root()?).name;
            let schema = json!({"schema": {"$ref": format!("#/components/schemas/{name}")}});
            [("*/*".to_owned(), schema)].into_iter().collect()
        }
        _ => return None,
    };
    Some(json!({"content": content, "required": true}))
}
