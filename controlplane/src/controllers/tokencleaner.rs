//! Bootstrap tokens that have expired are deleted.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use super::look;
use super::outcome::Outcome;
use super::runner::{Controller, Seen};
use crate::auth::bootstrap::{self, Expiry};
use crate::object::{Key, Object, Resource};
use crate::reader::Reader;

pub struct TokenCleaner;

impl Controller for TokenCleaner {
    fn name(&self) -> &'static str {
        "system:serviceaccount:kube-system:token-cleaner"
    }

    fn watches(&self) -> Vec<Resource> {
        vec!["secrets"]
    }

    fn keys(&self, _: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        let here = seen.new.filter(|secret| secret.meta.namespace == bootstrap::NAMESPACE);
        here.map(Object::key).into_iter().collect()
    }

    fn reconcile(&self, world: &dyn Reader, key: &Key, now: Timestamp) -> Outcome {
        let mut outcome = Outcome::idle();
        let Some(object) = world.get("secrets", &key.namespace, &key.name) else { return outcome };
        let expiry = object.view::<Secret>().ok().and_then(|secret| bootstrap::expiry_of(&secret));
        match expiry {
            Some(Expiry::At(until)) if until <= now => outcome.push(look::deletion(&object)),
            Some(Expiry::At(until)) => {
                let left = Duration::try_from(until.duration_since(now)).unwrap_or_default();
                outcome.again_after(left);
            }
            // One that never expires, one that never worked, or none at all.
            Some(Expiry::Never | Expiry::Unreadable) | None => {}
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::{Value, json};

    use super::*;
    use crate::controllers::world::World;

    fn secret(kind: &str, expiration: &str) -> Value {
        let data = json!({"expiration": ByteString(expiration.as_bytes().to_vec())});
        json!({"metadata": {"name": "t", "namespace": "kube-system"}, "type": kind, "data": data})
    }

    #[test]
    fn tokens_go_when_they_expire() {
        let outcome = |kind: &str, expiration: &str| {
            let world = World::with([("secrets", secret(kind, expiration))]);
            TokenCleaner.reconcile(&world, &Key::new("secrets", "kube-system", "t"), world.now)
        };
        let now = World::with([]).now;
        let kind = "bootstrap.kubernetes.io/token";
        assert_eq!(outcome(kind, &now.to_string()).batches.len(), 1);
        let soon = now + Duration::from_secs(5);
        assert_eq!(outcome(kind, &soon.to_string()).requeue_after, Some(Duration::from_secs(5)));
        for (kind, expiration) in [(kind, ""), (kind, "soon"), ("Opaque", &*now.to_string())] {
            assert_eq!(outcome(kind, expiration), Outcome::idle(), "{kind} {expiration}");
        }
    }
}
