//! Subresources that are not the object itself: `scale`, `binding`.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::write::{Options, Place, Written, store_error};
use super::{Api, errors, meta};
use crate::kinds::{Kind, invalid};
use crate::object::{Key, Object};
use crate::status::ApiError;
use crate::store::{StoreError, Write};

/// Bindings race with status updates only.
const BIND_ATTEMPTS: usize = 16;

/// The object as an `autoscaling/v1 Scale`. Pure.
pub(crate) fn scale_of(object: &Object) -> Value {
    let value = object.value();
    let meta = &value["metadata"];
    let mut status = json!({"replicas": value["status"]["replicas"].as_i64().unwrap_or(0)});
    if let Some(selector) = selector_text(&value["spec"]["selector"]) {
        status["selector"] = selector.into();
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
            "creationTimestamp": meta["creationTimestamp"],
        },
        "spec": {"replicas": value["spec"]["replicas"].as_i64().unwrap_or(0)},
        "status": status,
    })
}

/// A label selector as one line, the way queries write it.
fn selector_text(selector: &Value) -> Option<String> {
    let mut parts = Vec::new();
    // A ReplicationController's is the map itself.
    let plain = selector.as_object().into_iter().flatten();
    for (key, value) in plain.filter_map(|(key, value)| Some((key, value.as_str()?))) {
        parts.push(format!("{key}={value}"));
    }
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        parts.push(format!("{key}={}", value.as_str()?));
    }
    for e in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = e["key"].as_str()?;
        let values: Vec<_> =
            e["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let values = values.join(",");
        parts.push(match e["operator"].as_str()? {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    (!parts.is_empty()).then(|| parts.join(","))
}

/// What a Scale asks for. Pure.
pub(super) fn replicas_of(kind: &Kind, name: &str, scale: &Value) -> Result<i64, ApiError> {
    let replicas = match &scale["spec"]["replicas"] {
        Value::Null => 0,
        value => value.as_i64().ok_or_else(|| {
            errors::bad_request("Scale in version \"v1\" cannot be handled as a Scale: spec.replicas is not an integer")
        })?,
    };
    if replicas < 0 || i32::try_from(replicas).is_err() {
        let message = format!("Invalid value: {replicas}: must be greater than or equal to 0");
        let cause = errors::cause("FieldValueInvalid", "spec.replicas", message);
        return Err(invalid(kind, name, vec![cause]));
    }
    Ok(replicas)
}

/// The object with the replicas (and the version) that a Scale asks for. Pure.
fn scaled(kind: &Kind, object: &Object, scale: &Value) -> Result<Value, ApiError> {
    let name = &object.meta.name;
    if !matches!(scale["kind"].as_str(), None | Some("" | "Scale")) {
        return Err(errors::bad_request("the body is not an autoscaling/v1 Scale"));
    }
    if !matches!(meta::text(scale, "name"), "") && meta::text(scale, "name") != name {
        let found = meta::text(scale, "name");
        return Err(errors::bad_request(format!(
            "the name of the object ({found}) does not match the name on the URL ({name})"
        )));
    }
    let replicas = replicas_of(kind, name, scale)?;
    let mut value = object.value();
    value["spec"]["replicas"] = replicas.into();
    let metadata = meta::metadata(&mut value)?;
    for field in ["resourceVersion", "uid"] {
        match scale["metadata"][field].as_str().filter(|v| !v.is_empty()) {
            Some(given) => metadata.insert(field.into(), given.into()),
            None => metadata.remove(field),
        };
    }
    Ok(value)
}

impl Api {
    /// Writes `spec.replicas` through the Scale that `desired` makes of the stored one.
    pub(crate) async fn scale(
        &self,
        place: Place<'_>,
        options: &Options,
        desired: impl Fn(Value) -> Result<Value, ApiError> + Send + Sync,
    ) -> Result<Written, ApiError> {
        let whole = Place { subresource: "", ..place };
        let options = Options { via: "scale", ..options.clone() };
        self.update(whole, &options, |object| {
            scaled(place.kind, object, &desired(scale_of(object))?)
        })
        .await
    }

    /// Gives a Pod its node, once.
    pub(crate) async fn bind(
        &self,
        place: Place<'_>,
        binding: &Value,
    ) -> Result<Arc<Object>, ApiError> {
        let (kind, name) = (place.kind, place.name);
        let target = &binding["target"];
        let node = target["name"].as_str().unwrap_or_default();
        if node.is_empty() || !matches!(target["kind"].as_str(), None | Some("" | "Node")) {
            let message = "Required value: the name of a Node";
            let cause = errors::cause("FieldValueRequired", "target.name", message);
            return Err(invalid(kind, name, vec![cause]));
        }
        let uid = meta::text(binding, "uid");
        for _ in 0..BIND_ATTEMPTS {
            let pod = self.find(place)?;
            let value = bound(kind, &pod, node, uid)?;
            let key = Key::new(kind.resource, place.namespace, name);
            let version = pod.meta.resource_version;
            match self.store.commit(Write::Update { key, version, value }).await {
                Err(StoreError::Conflict { .. }) => {}
                done => return done.map_err(|e| store_error(kind, name, e)),
            }
        }
        Err(errors::modified(kind, name))
    }
}

fn bound(kind: &Kind, pod: &Object, node: &str, uid: &str) -> Result<Value, ApiError> {
    let name = &pod.meta.name;
    if !uid.is_empty() && uid != pod.meta.uid {
        return Err(super::write::uid_conflict(kind, name, uid, &pod.meta.uid));
    }
    if pod.meta.deletion_timestamp.is_some() {
        let why = format!("pod {name} is being deleted, cannot be assigned to a host");
        return Err(errors::conflict(kind, name, &why));
    }
    let mut value = pod.value();
    match value["spec"]["nodeName"].as_str().unwrap_or_default() {
        "" => {}
        taken => {
            let why = format!("pod {name} is already assigned to node {taken:?}");
            return Err(errors::conflict(kind, name, &why));
        }
    }
    value["spec"]["nodeName"] = node.into();
    let scheduled = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": meta::time(Timestamp::now()),
    });
    let status = value["status"].as_object_mut();
    match status.and_then(|s| s.get_mut("conditions")).and_then(Value::as_array_mut) {
        Some(conditions) => {
            conditions.retain(|c| c["type"] != "PodScheduled");
            conditions.push(scheduled);
        }
        None => value["status"]["conditions"] = json!([scheduled]),
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing;

    fn deployment() -> Object {
        let value = json!({"metadata": {"name": "d", "namespace": "a", "uid": "u", "resourceVersion": "4"},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "d"},
                "matchExpressions": [{"key": "t", "operator": "NotIn", "values": ["x", "y"]}]}},
            "status": {"replicas": 1}});
        Object::from_value("deployments.apps", &value).unwrap()
    }

    #[test]
    fn scales_go_there_and_back() {
        let kind = testing::kind("deployments.apps");
        let mut scale = scale_of(&deployment());
        assert_eq!(scale["spec"]["replicas"], 2);
        assert_eq!(scale["status"], json!({"replicas": 1, "selector": "app=d,t notin (x,y)"}));
        let plain = json!({"spec": {"selector": {"app": "d"}}});
        assert_eq!(selector_text(&plain["spec"]["selector"]).as_deref(), Some("app=d"));
        scale["spec"]["replicas"] = 5.into();
        let value = scaled(kind, &deployment(), &scale).unwrap();
        assert_eq!(value["spec"]["replicas"], 5);
        assert_eq!(value["metadata"]["resourceVersion"], "4");
        scale["spec"]["replicas"] = (-1).into();
        assert_eq!(scaled(kind, &deployment(), &scale).unwrap_err().reason, "Invalid");
    }

    #[test]
    fn a_pod_is_bound_once() {
        let kind = testing::kind("pods");
        let pod = |spec: Value| {
            let value = json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec});
            Object::from_value("pods", &value).unwrap()
        };
        let value = bound(kind, &pod(json!({})), "n1", "u").unwrap();
        assert_eq!(value["spec"]["nodeName"], "n1");
        assert_eq!(value["status"]["conditions"][0]["type"], "PodScheduled");
        assert!(bound(kind, &pod(json!({})), "n1", "other").unwrap_err().is_conflict());
        assert!(bound(kind, &pod(json!({"nodeName": "n2"})), "n1", "").unwrap_err().is_conflict());
    }
}
