//! How deciders look at objects: owners, label selectors, the state of a Pod, conditions. All pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use serde_json::{Value, json};

use crate::object::{Meta, Object, OwnerReference};
use crate::writer::Change;

pub type Labels = BTreeMap<String, String>;

/// The owner that manages the object; there is at most one.
pub fn controller_of(meta: &Meta) -> Option<&OwnerReference> {
    meta.owner_references.iter().find(|owner| owner.controller)
}

pub fn is_controlled_by(meta: &Meta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|owner| owner.uid == uid)
}

pub fn is_deleting(meta: &Meta) -> bool {
    meta.deletion_timestamp.is_some()
}

/// An ownerReference that makes `owner` the controller.
pub fn controller_reference(api_version: &str, kind: &str, owner: &Meta) -> Value {
    json!({
        "apiVersion": api_version, "kind": kind, "name": owner.name, "uid": owner.uid,
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// Seconds are what the API stores; anything finer would make equal objects differ.
pub fn stamp(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

pub fn parse_time(text: Option<&str>) -> Option<Timestamp> {
    text?.parse().ok()
}

/// Time from `now` until `since + wait`; None when it has passed.
pub fn remaining(since: Timestamp, wait: Duration, now: Timestamp) -> Option<Duration> {
    let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    wait.checked_sub(passed).filter(|left| !left.is_zero())
}

/// Whether `labels` satisfy `selector`. An empty selector selects everything.
pub fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    equal
        && selector.match_expressions.iter().flatten().all(|need| {
            let value = labels.get(&need.key);
            let listed = value.is_some_and(|v| need.values.iter().flatten().any(|have| have == v));
            match need.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

pub fn is_empty_selector(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// Whether `labels` have everything of a plain map selector (Services). An empty map selects nothing.
pub fn has_all(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty() && selector.iter().all(|(k, v)| labels.get(k) == Some(v))
}

/// One Pod with its metadata and typed view.
#[derive(Clone)]
pub struct PodView {
    pub object: std::sync::Arc<Object>,
    pub pod: std::sync::Arc<Pod>,
}

impl PodView {
    pub fn of(object: std::sync::Arc<Object>) -> Option<Self> {
        let pod = object.view().ok()?;
        Some(Self { object, pod })
    }

    pub fn meta(&self) -> &Meta {
        &self.object.meta
    }

    pub fn phase(&self) -> &str {
        self.pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
    }

    pub fn node(&self) -> &str {
        self.pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
    }

    pub fn is_finished(&self) -> bool {
        matches!(self.phase(), "Succeeded" | "Failed")
    }

    pub fn is_terminating(&self) -> bool {
        is_deleting(self.meta())
    }

    /// Counts as a replica: neither finished nor on its way out.
    pub fn is_active(&self) -> bool {
        !self.is_finished() && !self.is_terminating()
    }

    pub fn condition(&self, name: &str) -> Option<&PodCondition> {
        let status = self.pod.status.as_ref()?;
        status.conditions.iter().flatten().find(|c| c.type_ == name)
    }

    pub fn is_ready(&self) -> bool {
        self.condition("Ready").is_some_and(|c| c.status == "True")
    }

    pub fn ready_since(&self) -> Option<Timestamp> {
        let ready = self.condition("Ready").filter(|c| c.status == "True")?;
        ready.last_transition_time.as_ref().map(|t| t.0)
    }

    /// Whether it has been ready long enough, and if not yet, how long it takes if it stays ready.
    pub fn availability(&self, min_ready_seconds: i32, now: Timestamp) -> Availability {
        if !self.is_ready() {
            return Availability::No;
        }
        let Ok(wait @ 1..) = u64::try_from(min_ready_seconds) else {
            return Availability::Yes;
        };
        match self.ready_since().map(|since| remaining(since, Duration::from_secs(wait), now)) {
            Some(None) => Availability::Yes,
            Some(Some(left)) => Availability::After(left),
            None => Availability::No,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    Yes,
    After(Duration),
    No,
}

/// An update of `object` with its status replaced.
pub fn status_update(object: &Object, status: &impl serde::Serialize) -> Option<Change> {
    let mut value = object.value();
    value["status"] = serde_json::to_value(status).ok()?;
    Some(Change::Update { resource: object.resource, subresource: Some("status"), object: value })
}

/// An update of `object` after `edit` changed its JSON.
pub fn edited(object: &Object, edit: impl FnOnce(&mut Value)) -> Change {
    let mut value = object.value();
    edit(&mut value);
    Change::Update { resource: object.resource, subresource: None, object: value }
}

/// Deletes this very object.
pub fn deletion(object: &Object) -> Change {
    Change::Delete {
        resource: object.resource,
        namespace: object.meta.namespace.clone(),
        name: object.meta.name.clone(),
        uid: Some(object.meta.uid.clone()),
        resource_version: None,
        propagation: Some("Background"),
        grace_period_seconds: None,
    }
}

/// Makes `owner` the controller of `object`.
pub fn adoption(object: &Object, reference: &Value) -> Change {
    edited(object, |value| {
        let owners = &mut value["metadata"]["ownerReferences"];
        if let Some(owners) = owners.as_array_mut() {
            owners.push(reference.clone());
        } else {
            *owners = json!([reference]);
        }
    })
}

/// Removes the owner references whose uid satisfies `gone`.
pub fn release(object: &Object, gone: impl Fn(&str) -> bool) -> Change {
    edited(object, |value| {
        if let Some(owners) = value["metadata"]["ownerReferences"].as_array_mut() {
            owners.retain(|owner| !owner["uid"].as_str().is_some_and(&gone));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn selector(value: Value) -> LabelSelector {
        serde_json::from_value(value).expect("selector")
    }

    #[test]
    fn selectors_ask_for_all_their_terms() {
        let have = labels(&[("app", "a"), ("tier", "web")]);
        let cases = [
            (json!({}), true),
            (json!({"matchLabels": {"app": "a"}}), true),
            (json!({"matchLabels": {"app": "b"}}), false),
            (
                json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["web"]}]}),
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["web"]}]}),
                false,
            ),
            (
                json!({"matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["web"]}]}),
                true,
            ),
            (json!({"matchExpressions": [{"key": "x", "operator": "Exists"}]}), false),
            (json!({"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}), true),
        ];
        for (json, expected) in cases {
            assert_eq!(selects(&selector(json.clone()), &have), expected, "{json}");
        }
        assert!(!has_all(&labels(&[]), &have));
        assert!(has_all(&labels(&[("app", "a")]), &have));
    }

    #[test]
    fn time_that_passed_does_not_remain() {
        let at = |s| Timestamp::from_second(s).expect("in range");
        let ten = Duration::from_secs(10);
        assert_eq!(remaining(at(100), ten, at(104)), Some(Duration::from_secs(6)));
        assert_eq!(remaining(at(100), ten, at(110)), None);
        assert_eq!(
            remaining(at(100), ten, at(90)),
            Some(ten),
            "a clock that went back starts anew"
        );
    }
}
