//! Admission: rules between kinds that no single kind can decide. Pure.

use http::StatusCode;
use serde_json::{Value, json};

use super::errors;
use crate::admission::account;
use crate::controllers::volumes::protection;
use crate::kinds::Kind;
use crate::status::ApiError;

/// Namespaces that the cluster cannot be without.
pub(crate) const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// What admission adds to a new object.
pub(crate) fn create(kind: &Kind, value: &mut Value) {
    if kind.resource == "pods" {
        if !account::is_mirror(value) {
            service_account(&mut value["spec"]);
        }
        tolerations(&mut value["spec"]);
    }
    match kind.resource {
        "persistentvolumeclaims" => protect(value, protection::CLAIM_FINALIZER),
        "persistentvolumes" => protect(value, protection::VOLUME_FINALIZER),
        _ => {}
    }
}

/// What is in use is not gone before it is out of use.
fn protect(value: &mut Value, finalizer: &str) {
    let list = &mut value["metadata"]["finalizers"];
    match list.as_array_mut() {
        Some(list) if list.iter().any(|known| known == finalizer) => {}
        Some(list) => list.push(finalizer.into()),
        None => *list = json!([finalizer]),
    }
}

fn service_account(spec: &mut Value) {
    let Some(spec) = spec.as_object_mut() else { return };
    let named = |field: &str| {
        spec.get(field).and_then(Value::as_str).filter(|n| !n.is_empty()).map(str::to_owned)
    };
    let account = named("serviceAccountName").or(named("serviceAccount"));
    let account = account.unwrap_or_else(|| "default".into());
    // The second name is what the first was called once; clients still read it.
    spec.insert("serviceAccountName".into(), account.clone().into());
    spec.insert("serviceAccount".into(), account.into());
}

/// Pods leave a node that is away for five minutes, unless they say otherwise.
fn tolerations(spec: &mut Value) {
    const AWAY: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
    let Some(spec) = spec.as_object_mut() else { return };
    let list = spec.entry("tolerations").or_insert_with(|| json!([]));
    if list.is_null() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else { return };
    for taint in AWAY {
        let tolerates = |t: &Value| {
            let key = t["key"].as_str().unwrap_or_default();
            let effect = t["effect"].as_str().unwrap_or_default();
            (key == taint || key.is_empty()) && matches!(effect, "" | "NoExecute")
        };
        if !list.iter().any(tolerates) {
            list.push(json!({
                "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300
            }));
        }
    }
}

pub(crate) fn namespace_missing(namespace: &str) -> ApiError {
    let message = format!("namespaces {namespace:?} not found");
    let mut error = ApiError::new(StatusCode::NOT_FOUND, "NotFound", message);
    error.name = namespace.into();
    error.kind = "namespaces".into();
    error
}

pub(crate) fn namespace_ending(kind: &Kind, namespace: &str, name: &str) -> ApiError {
    let why = format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    );
    let mut error = errors::forbidden(kind, name, &why);
    let message = format!("namespace {namespace} is being terminated");
    error.causes = vec![errors::cause("NamespaceTerminating", "metadata.namespace", message)];
    error
}

/// Namespaces are also held by their content.
pub(crate) fn emptied(kind: &Kind, value: &Value) -> bool {
    kind.resource != "namespaces"
        || value["spec"]["finalizers"].as_array().is_none_or(|finalizers| finalizers.is_empty())
}

/// Kinds that `PUT` creates when absent.
pub(crate) fn created_by_update(kind: &Kind) -> bool {
    matches!(
        kind.resource,
        "services"
            | "endpoints"
            | "events"
            | "leases.coordination.k8s.io"
            | "endpointslices.discovery.k8s.io"
    )
}

/// Kinds that are never replaced unseen.
pub(crate) fn needs_version(kind: &Kind) -> bool {
    matches!(kind.resource, "leases.coordination.k8s.io" | "endpointslices.discovery.k8s.io")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_get_an_account_and_tolerations_once() {
        let mut spec = json!({"serviceAccount": "build", "tolerations": [{"operator": "Exists"}]});
        service_account(&mut spec);
        tolerations(&mut spec);
        assert_eq!(spec["serviceAccountName"], "build");
        assert_eq!(spec["tolerations"].as_array().unwrap().len(), 1);
        let mut spec = json!({});
        tolerations(&mut spec);
        tolerations(&mut spec);
        assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    }
}
