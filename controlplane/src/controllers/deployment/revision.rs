//! Revisions: which ReplicaSet is the n-th template, what annotations say about it, and which old ones are
//! forgotten. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::hash::{HASH_LABEL, template_hash};
use super::{Rollout, Set, conditions, rolling};
use crate::controllers::look;
use crate::controllers::outcome::{Act, Note, Outcome};
use crate::controllers::replicaset::REPLICASETS;
use crate::writer::Change;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";

/// Longest list of former revisions on one set.
const HISTORY_LENGTH: usize = 2000;
const DEFAULT_HISTORY_LIMIT: i32 = 10;

/// Annotations of a Deployment that mean nothing on its sets.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAXIMUM,
    "deprecated.deployment.rollback.to",
];

/// The sizes that each set carries, from which proportional scaling starts.
pub(super) fn sizes(rollout: &Rollout) -> [(&'static str, String); 2] {
    let replicas = rollout.replicas();
    [(DESIRED, replicas.to_string()), (MAXIMUM, (replicas + rollout.max_surge()).to_string())]
}

fn revision(set: &Set) -> i64 {
    set.annotation(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Brings the revision annotations of the current set and of the Deployment up to date. False when there is
/// something to write; decide the rest when that is done.
pub(super) fn sync(rollout: &Rollout, outcome: &mut Outcome) -> bool {
    let Some(new) = &rollout.new else { return true };
    let mut number = rollout.old.iter().map(revision).max().unwrap_or(0) + 1;
    number = number.max(revision(new));
    let annotations = annotations(rollout, Some(new), number);
    let min_ready = rollout.spec.min_ready_seconds;
    let same_min_ready = new.set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
        == min_ready.unwrap_or(0);
    if !same_min_ready || annotations.iter().any(|(k, v)| new.annotation(k) != Some(v)) {
        outcome.push(look::edited(&new.object, |value| {
            for (key, text) in annotations {
                value["metadata"]["annotations"][key] = text.into();
            }
            value["spec"]["minReadySeconds"] = json!(min_ready.unwrap_or(0));
        }));
        return false;
    }
    let known = rollout.deployment.metadata.annotations.as_ref().and_then(|a| a.get(REVISION));
    if known.is_none_or(|known| *known != number.to_string()) {
        // Through the status, as nothing else is wanted of the Deployment than before.
        let mut object = rollout.object.value();
        object["metadata"]["annotations"][REVISION] = number.to_string().into();
        let (resource, subresource) = (rollout.object.resource, Some("status"));
        outcome.push(Change::Update { resource, subresource, object });
        return false;
    }
    true
}

/// What the current set's annotations should say.
fn annotations(rollout: &Rollout, set: Option<&Set>, number: i64) -> BTreeMap<String, String> {
    let given = rollout.deployment.metadata.annotations.iter().flatten();
    let mut wanted: BTreeMap<String, String> = given
        .filter(|(key, _)| !NOT_COPIED.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    wanted.insert(REVISION.into(), number.to_string());
    if let Some(former) = set.map(revision).filter(|former| *former > 0 && *former < number) {
        let listed = set.and_then(|set| set.annotation(HISTORY)).unwrap_or_default();
        wanted.insert(HISTORY.into(), history(listed, former));
    }
    wanted
}

fn history(listed: &str, former: i64) -> String {
    let former = former.to_string();
    let mut list: Vec<&str> = listed.split(',').filter(|text| !text.is_empty()).collect();
    list.push(&former);
    while list.len() > 1 && list.iter().map(|text| text.len() + 1).sum::<usize>() > HISTORY_LENGTH {
        list.remove(0);
    }
    list.join(",")
}

/// Creates the set of the current template, as large as the bounds allow, and says so in the status.
pub(super) fn create(rollout: &Rollout, outcome: &mut Outcome) {
    let status = rollout.deployment.status.clone().unwrap_or_default();
    let hash = template_hash(&rollout.spec.template, status.collision_count);
    let name = format!("{}-{hash}", rollout.name());
    let replicas = rolling::new_size(rollout);
    let number = rollout.old.iter().map(revision).max().unwrap_or(0) + 1;
    let Some(object) = new_set(rollout, &name, &hash, replicas, number) else { return };
    let mut act = Act::from(Change::Create { resource: REPLICASETS, object });
    if replicas > 0 {
        act = act.noting(rollout.scaling_note(&name, 0, replicas));
    }
    let text = format!("Failed to create new replica set \"{name}\": {{}}");
    outcome.push(act.or_noting(Note::warning(&rollout.object, "ReplicaSetCreateError", text)));
    if let Some(change) = conditions::created(rollout, &name) {
        outcome.push(change);
    }
}

fn new_set(rollout: &Rollout, name: &str, hash: &str, replicas: i32, number: i64) -> Option<Value> {
    let mut template = serde_json::to_value(&rollout.spec.template).ok()?;
    template["metadata"]["labels"][HASH_LABEL] = hash.into();
    let mut selector = serde_json::to_value(&rollout.spec.selector).ok()?;
    selector["matchLabels"][HASH_LABEL] = hash.into();
    let mut annotations = annotations(rollout, None, number);
    annotations.extend(sizes(rollout).map(|(key, value)| (key.to_owned(), value)));
    let owner = look::controller_reference("apps/v1", "Deployment", &rollout.object.meta);
    let mut spec = json!({"replicas": replicas, "selector": selector, "template": template});
    if let Some(seconds) = rollout.spec.min_ready_seconds {
        spec["minReadySeconds"] = seconds.into();
    }
    Some(json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": name, "namespace": rollout.object.meta.namespace,
            "labels": template["metadata"]["labels"], "annotations": annotations,
            "ownerReferences": [owner],
        },
        "spec": spec,
    }))
}

/// Deletes the oldest empty sets beyond the limit.
pub(super) fn clean_up(rollout: &Rollout, outcome: &mut Outcome) {
    let limit = rollout.spec.revision_history_limit.unwrap_or(DEFAULT_HISTORY_LIMIT);
    let mut sets: Vec<&Set> =
        rollout.old.iter().filter(|set| !look::is_deleting(&set.object.meta)).collect();
    let surplus = sets.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    sets.sort_by_key(|set| revision(set));
    let empty = |set: &&&Set| {
        let status = set.set.status.as_ref().map_or(0, |status| status.replicas);
        set.replicas() == 0 && status == 0 && set.pods.is_empty() && set.is_observed()
    };
    let doomed = sets.iter().take(surplus).filter(empty);
    outcome.together(doomed.map(|set| look::deletion(&set.object).into()).collect());
}

#[cfg(test)]
mod tests {
    use super::history;

    #[test]
    fn history_lists_former_revisions_and_forgets_the_oldest() {
        assert_eq!(history("", 1), "1");
        assert_eq!(history("1,3", 5), "1,3,5");
        let long = vec!["1234567"; 250].join(",");
        let grown = history(&long, 7_654_321);
        assert!(grown.len() <= 2000 && grown.ends_with(",7654321"));
    }
}
