//! ClusterRoles that are the sum of others: `admin`, `edit` and `view` get what roles labelled for them say.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use serde_json::{Value, json};

use super::look;
use super::outcome::Outcome;
use super::runner::{Controller, Seen};
use crate::object::{Key, Resource};
use crate::reader::Reader;

const ROLES: Resource = "clusterroles.rbac.authorization.k8s.io";

pub struct Aggregation;

impl Controller for Aggregation {
    fn name(&self) -> &'static str {
        "system:serviceaccount:kube-system:clusterrole-aggregation-controller"
    }

    fn watches(&self) -> Vec<Resource> {
        vec![ROLES]
    }

    /// Any role may be a part of any sum.
    fn keys(&self, world: &dyn Reader, _: Seen<'_>) -> Vec<Key> {
        let roles = world.list(ROLES, None).into_iter();
        let sums = roles.filter(|role| {
            role.view::<ClusterRole>().is_ok_and(|role| role.aggregation_rule.is_some())
        });
        sums.map(|role| Key::new(ROLES, "", &role.meta.name)).collect()
    }

    fn reconcile(&self, world: &dyn Reader, key: &Key, _: Timestamp) -> Outcome {
        let mut outcome = Outcome::idle();
        let Some(object) = world.get(ROLES, "", &key.name) else { return outcome };
        let Ok(role) = object.view::<ClusterRole>() else { return outcome };
        let Some(rules) = sum(world, &key.name, &role) else { return outcome };
        if role.rules.as_deref().unwrap_or_default() != rules {
            let rules: Value = json!(rules);
            outcome.push(look::edited(&object, |value| value["rules"] = rules));
        }
        outcome
    }
}

/// The rules of all parts in the order of their names, each once; None when it is no sum.
fn sum(world: &dyn Reader, name: &str, role: &ClusterRole) -> Option<Vec<PolicyRule>> {
    let aggregation = role.aggregation_rule.as_ref()?;
    let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for part in world.list(ROLES, None) {
        let chosen = selectors.iter().any(|selector| look::selects(selector, &part.meta.labels));
        let Ok(view) = part.view::<ClusterRole>() else { continue };
        if !chosen || part.meta.name == name {
            continue;
        }
        for rule in view.rules.iter().flatten() {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    Some(rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::world::World;

    fn rule(resource: &str) -> Value {
        json!({"verbs": ["get"], "apiGroups": [""], "resources": [resource]})
    }

    fn role(name: &str, rules: Value) -> (Resource, Value) {
        let labels = json!({"rbac.authorization.k8s.io/aggregate-to-view": "true"});
        (ROLES, json!({"metadata": {"name": name, "labels": labels}, "rules": rules}))
    }

    #[test]
    fn a_sum_follows_its_parts_and_then_rests() {
        let view = json!({"metadata": {"name": "view"}, "rules": [], "aggregationRule": {"clusterRoleSelectors": [
            {"matchLabels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        ]}});
        let parts =
            [role("b", json!([rule("pods")])), role("a", json!([rule("nodes"), rule("pods")]))];
        let mut world = World::with([(ROLES, view)].into_iter().chain(parts));
        let key = Key::new(ROLES, "", "view");
        let settle = |world: &mut World| {
            let outcome = Aggregation.reconcile(world, &key, world.now);
            let acts: Vec<_> = outcome.batches.into_iter().flatten().collect();
            let count = acts.len();
            acts.into_iter().for_each(|act| drop(world.apply(act.change).expect("apply")));
            count
        };
        assert_eq!(settle(&mut world), 1);
        assert_eq!(world.value(ROLES, "", "view")["rules"], json!([rule("nodes"), rule("pods")]));
        assert_eq!(settle(&mut world), 0);
        world.remove(ROLES, "", "a");
        assert_eq!(settle(&mut world), 1);
        assert_eq!(world.value(ROLES, "", "view")["rules"], json!([rule("pods")]));
    }
}
