//! The claims of each member: made before its Pod, and whose they are once it is not wanted any more. Pure.
//!
//! A claim outlives its Pod unless the retention policy says otherwise; then it is owned by the set
//! (`whenDeleted`) or, once the Pod is surplus, by the Pod (`whenScaled`), and goes with its owner.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use serde_json::{Value, json};

use super::{CLAIMS, STATEFULSETS, Set, member};
use crate::controllers::look::{self, PodView};
use crate::controllers::outcome::{Act, Note};
use crate::controllers::workload;
use crate::object::{Key, Object};
use crate::reader::Reader;
use crate::writer::Change;

/// `(name in the template, name of the claim)`
pub(super) fn names(set: &Set<'_>, ordinal: i64) -> impl Iterator<Item = (String, String)> {
    let templates = set.spec.volume_claim_templates.iter().flatten();
    templates.filter_map(move |template| {
        let name = template.metadata.name.clone()?;
        let claim = format!("{name}-{}", member::name(set, ordinal));
        Some((name, claim))
    })
}

/// Sets that use a claim, by its name.
pub(super) fn users(world: &dyn Reader, claim: &Object) -> Vec<Key> {
    let sets = world.list(STATEFULSETS, Some(&claim.meta.namespace));
    let uses = |set: &&Arc<Object>| {
        let view: Option<Arc<StatefulSet>> = set.view().ok();
        let spec = view.as_ref().and_then(|set| set.spec.as_ref());
        spec.into_iter().flat_map(|s| s.volume_claim_templates.iter().flatten()).any(|template| {
            let prefix = template.metadata.name.as_deref().unwrap_or_default();
            let pod = claim.meta.name.strip_prefix(prefix).and_then(|r| r.strip_prefix('-'));
            pod.is_some_and(|pod| member::ordinal(&set.meta.name, pod).is_some())
        })
    };
    sets.iter().filter(uses).map(|set| set.key()).collect()
}

/// What a member needs before its Pod is made.
pub(super) enum Need {
    Ready,
    /// These first.
    Make(Vec<Act>),
    /// One is on its way out; its event brings us back.
    Wait,
}

pub(super) fn need(set: &Set<'_>, ordinal: i64) -> Need {
    let namespace = &set.object.meta.namespace;
    let mut missing = Vec::new();
    for (index, (_, name)) in names(set, ordinal).enumerate() {
        match set.world.get(CLAIMS, namespace, &name) {
            None => missing.extend(creation(set, index, ordinal, &name)),
            Some(claim) if is_leaving(set, &claim, ordinal) => return Need::Wait,
            Some(_) => {}
        }
    }
    if missing.is_empty() { Need::Ready } else { Need::Make(missing) }
}

/// Deleted, or about to be with the former Pod of this name.
fn is_leaving(set: &Set<'_>, claim: &Object, ordinal: i64) -> bool {
    let pod = set.pod(ordinal).map(|pod| pod.meta().uid.as_str());
    let name = member::name(set, ordinal);
    let mut owners = claim.meta.owner_references.iter();
    look::is_deleting(&claim.meta)
        || owners.any(|o| o.kind == "Pod" && o.name == name && Some(o.uid.as_str()) != pod)
}

fn creation(set: &Set<'_>, index: usize, ordinal: i64, name: &str) -> Option<Act> {
    let template = set.spec.volume_claim_templates.as_ref()?.get(index)?;
    let mut claim = serde_json::to_value(template).ok()?;
    claim.as_object_mut()?.remove("status");
    let metadata = &mut claim["metadata"];
    let mut labels = metadata["labels"].as_object().cloned().unwrap_or_default();
    for (key, value) in set.spec.selector.match_labels.iter().flatten() {
        labels.insert(key.clone(), value.as_str().into());
    }
    metadata["labels"] = labels.into();
    metadata["name"] = name.into();
    metadata["namespace"] = set.object.meta.namespace.as_str().into();
    if policy(set).0 {
        metadata["ownerReferences"] = json!([workload::reference(&set.object)]);
    }
    let pod = member::name(set, ordinal);
    let text = format!("create Claim {name} Pod {pod} in StatefulSet {} ", set.object.meta.name);
    let done = Note::normal(&set.object, "SuccessfulCreate", format!("{text}success"));
    let refused = Note::warning(&set.object, "FailedCreate", format!("{text}failed error: {{}}"));
    let change = Change::Create { resource: CLAIMS, object: claim };
    Some(Act::from(change).noting(done).or_noting(refused))
}

/// `(deleted with the set, deleted with a surplus Pod)`
fn policy(set: &Set<'_>) -> (bool, bool) {
    let policy = set.spec.persistent_volume_claim_retention_policy.clone().unwrap_or_default();
    (
        policy.when_deleted.as_deref() == Some("Delete"),
        policy.when_scaled.as_deref() == Some("Delete"),
    )
}

/// Gives claims the owners that they should have.
pub(super) fn owners(set: &Set<'_>) -> Vec<Act> {
    let surplus: Vec<i64> = set.surplus().iter().map(|pod| set.ordinal(pod)).collect();
    let mut acts = Vec::new();
    for pod in &set.pods.own {
        let ordinal = set.ordinal(pod);
        for (_, name) in names(set, ordinal) {
            let claim = set.world.get(CLAIMS, &set.object.meta.namespace, &name);
            let Some(claim) = claim.filter(|claim| !look::is_deleting(&claim.meta)) else {
                continue;
            };
            let is_surplus = surplus.contains(&ordinal);
            acts.extend(reowned(set, &claim, pod, is_surplus).map(Act::from));
        }
    }
    acts
}

fn reowned(set: &Set<'_>, claim: &Object, pod: &PodView, is_surplus: bool) -> Option<Change> {
    let ours = |uid: &str| uid == set.object.meta.uid || uid == pod.meta().uid;
    let (with_set, with_pod) = policy(set);
    let wanted = match (is_surplus && with_pod, with_set) {
        (true, _) => Some(look::controller_reference("v1", "Pod", pod.meta())),
        (false, true) => Some(workload::reference(&set.object)),
        (false, false) => None,
    };
    let mut present = claim.meta.owner_references.iter().filter(|owner| ours(&owner.uid));
    let is_right = match &wanted {
        Some(wanted) => {
            present.next().is_some_and(|o| wanted["uid"] == *o.uid) && present.next().is_none()
        }
        None => present.next().is_none(),
    };
    // Somebody else answers for it.
    let foreign = look::controller_of(&claim.meta).is_some_and(|owner| !ours(&owner.uid));
    if is_right || foreign {
        return None;
    }
    Some(look::edited(claim, |value| {
        let list = value["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        let others = list.into_iter().filter(|o| !o["uid"].as_str().is_some_and(ours));
        value["metadata"]["ownerReferences"] = others.chain(wanted).collect::<Vec<Value>>().into();
    }))
}
