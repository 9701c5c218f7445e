//! Events are news: an hour after they were last told they are deleted.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;

use super::look;
use super::outcome::Outcome;
use super::runner::{Controller, Seen};
use crate::object::{Key, Object, Resource};
use crate::reader::Reader;

const KEPT: Duration = Duration::from_secs(3600);

pub struct EventTtl;

impl Controller for EventTtl {
    fn name(&self) -> &'static str {
        "system:serviceaccount:kube-system:ttl-controller"
    }

    fn watches(&self) -> Vec<Resource> {
        vec!["events"]
    }

    /// An update needs no look of its own: the timer finds out.
    fn keys(&self, _world: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        let born = seen.new.filter(|_| seen.old.is_none());
        born.map(Object::key).into_iter().collect()
    }

    fn reconcile(&self, world: &dyn Reader, key: &Key, now: Timestamp) -> Outcome {
        let mut outcome = Outcome::idle();
        let Some(object) = world.get("events", &key.namespace, &key.name) else { return outcome };
        let told = last_told(&object).unwrap_or(now);
        match look::remaining(told, KEPT, now) {
            Some(left) => outcome.again_after(left),
            None => outcome.push(look::deletion(&object)),
        }
        outcome
    }
}

fn last_told(object: &Object) -> Option<Timestamp> {
    let event: std::sync::Arc<Event> = object.view().ok()?;
    let series = event.series.as_ref().and_then(|s| s.last_observed_time.as_ref()).map(|t| t.0);
    let told = event.last_timestamp.as_ref().map(|t| t.0);
    let begun = event.event_time.as_ref().map(|t| t.0);
    let created = look::parse_time(object.meta.creation_timestamp.as_deref());
    [series, told, begun, created].into_iter().flatten().max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::world::World;
    use serde_json::json;

    #[test]
    fn an_event_is_kept_for_an_hour_after_it_was_last_told() {
        let event =
            json!({"metadata": {"name": "e", "namespace": "default"}, "involvedObject": {}});
        let mut world = World::with([("events", event)]);
        let key = Key::new("events", "default", "e");
        assert_eq!(EventTtl.reconcile(&world, &key, world.now).requeue_after, Some(KEPT));
        world.now += Duration::from_secs(1800);
        let told = world.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        world.edit("events", "default", "e", |event| event["lastTimestamp"] = json!(told));
        world.now += Duration::from_secs(3599);
        assert_eq!(
            EventTtl.reconcile(&world, &key, world.now).requeue_after,
            Some(Duration::from_secs(1))
        );
        world.now += Duration::from_secs(1);
        assert_eq!(EventTtl.reconcile(&world, &key, world.now).batches.len(), 1);
    }
}
