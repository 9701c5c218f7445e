//! ResourceQuota: tells in its status what the Namespace uses. Admission counts for itself; this is for people.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::look;
use super::outcome::Outcome;
use super::runner::{Controller, Seen};
use crate::admission::quota;
use crate::kinds;
use crate::object::{Key, Resource};
use crate::reader::Reader;

const QUOTAS: Resource = "resourcequotas";

pub struct Quotas;

impl Controller for Quotas {
    fn name(&self) -> &'static str {
        "system:serviceaccount:kube-system:resourcequota-controller"
    }

    fn watches(&self) -> Vec<Resource> {
        let counted = kinds::all().iter().filter(|kind| kind.namespaced && kind.is_stored());
        counted.map(|kind| kind.resource).filter(|resource| *resource != "events").collect()
    }

    fn keys(&self, world: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        let Some(object) = seen.latest() else { return Vec::new() };
        match seen.resource {
            QUOTAS => vec![object.key()],
            _ => world.list(QUOTAS, Some(&object.meta.namespace)).iter().map(|q| q.key()).collect(),
        }
    }

    fn reconcile(&self, world: &dyn Reader, key: &Key, _: Timestamp) -> Outcome {
        let mut outcome = Outcome::idle();
        let Some(object) = world.get(QUOTAS, &key.namespace, &key.name) else { return outcome };
        let Ok(known) = object.view::<ResourceQuota>() else { return outcome };
        let spec = known.spec.clone().unwrap_or_default();
        let used = quota::used(world, &key.namespace, &spec);
        let used =
            used.into_iter().map(|(name, amount)| (name, Quantity(amount.to_string()))).collect();
        let status = ResourceQuotaStatus { hard: spec.hard, used: Some(used) };
        if known.status.as_ref() != Some(&status) {
            outcome.together(
                look::status_update(&object, &status).map(Into::into).into_iter().collect(),
            );
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controllers::world::{World, pod};

    #[test]
    fn the_status_follows_the_pods() {
        let quota = json!({"metadata": {"name": "q", "namespace": "team"}, "spec": {"hard": {"pods": "2", "requests.cpu": "1"}}});
        let mut world = World::with([(QUOTAS, quota), pod("team", "a"), pod("other", "b")]);
        let key = Key::new(QUOTAS, "team", "q");
        let outcome = Quotas.reconcile(&world, &key, world.now);
        for act in outcome.batches.into_iter().flatten() {
            world.apply(act.change).expect("apply");
        }
        let status = world.value(QUOTAS, "team", "q")["status"].clone();
        assert_eq!(status["used"]["pods"], "1");
        assert_eq!(status["hard"], json!({"pods": "2", "requests.cpu": "1"}));
        assert!(Quotas.reconcile(&world, &key, world.now).is_idle());
    }
}
