//! rbac.authorization.k8s.io/v1: Role, ClusterRole and the bindings that give them to somebody.

mod binding;
mod role;

use super::names;

pub(super) use binding::{CLUSTER_ROLE_BINDING, ROLE_BINDING};
pub(super) use role::{CLUSTER_ROLE, ROLE};

pub(super) const GROUP: &str = "rbac.authorization.k8s.io";

/// Names here may hold colons and capitals (`system:node`): whatever a path segment may be.
fn path_segment(name: &str) -> Vec<String> {
    match name {
        "." | ".." => vec![format!("may not be '{name}'")],
        _ => {
            let wrong = ["/", "%"].into_iter().filter(|c| name.contains(c));
            wrong.map(|c| format!("may not contain '{c}'")).collect()
        }
    }
}

/// What the name of a subject must look like.
fn subject_name(kind: &str, name: &str) -> Vec<String> {
    match kind {
        "ServiceAccount" => names::dns_subdomain(name),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::kinds::{Operation, find};

    fn wrong(plural: &str, value: Value, old: Option<&Value>) -> Vec<String> {
        let kind = find(super::GROUP, "v1", plural).unwrap();
        let op = match old {
            None => Operation::Create,
            Some(old) => Operation::Update { old, subresource: "" },
        };
        let mut value = value;
        kind.strategy.default(&mut value);
        let causes = kind.strategy.validate(&value, op);
        causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
    }

    fn role(namespace: Option<&str>, rule: Value) -> Value {
        let mut value = json!({"metadata": {"name": "system:x"}, "rules": [rule]});
        if let Some(namespace) = namespace {
            value["metadata"]["namespace"] = namespace.into();
        }
        value
    }

    #[test]
    fn rules_name_verbs_and_what_they_are_for() {
        let pods = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]});
        assert_eq!(wrong("roles", role(Some("a"), pods.clone()), None), [""; 0]);
        let paths = json!({"verbs": ["get"], "nonResourceURLs": ["/healthz"]});
        assert_eq!(wrong("clusterroles", role(None, paths.clone()), None), [""; 0]);
        let found = wrong("roles", role(Some("a"), paths), None);
        assert!(
            found[0].contains("namespaced rules cannot apply to non-resource URLs"),
            "{found:?}"
        );
        for missing in ["verbs", "apiGroups", "resources"] {
            let mut rule = pods.clone();
            rule[missing] = json!([]);
            let found = wrong("roles", role(Some("a"), rule), None);
            assert!(found[0].starts_with(&format!("rules[0].{missing}: Required")), "{found:?}");
        }
    }

    #[test]
    fn bindings_keep_their_role() {
        let binding = json!({
            "metadata": {"name": "b", "namespace": "a"},
            "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "User", "name": "jane"}, {"kind": "ServiceAccount", "name": "s", "namespace": "a"}],
        });
        assert_eq!(wrong("rolebindings", binding.clone(), None), [""; 0]);
        let mut old = binding.clone();
        old["roleRef"] = json!({"apiGroup": super::GROUP, "kind": "Role", "name": "other"});
        let found = wrong("rolebindings", binding.clone(), Some(&old));
        assert!(found.iter().any(|f| f.starts_with("roleRef: ") && f.contains("cannot change")));
        let mut unknown = binding;
        unknown["subjects"] =
            json!([{"kind": "Robot", "name": "x"}, {"kind": "ServiceAccount", "name": "s"}]);
        let found = wrong("rolebindings", unknown, None);
        assert!(found[0].starts_with("subjects[0].kind: Unsupported"), "{found:?}");
        assert!(found[1].starts_with("subjects[1].namespace: Required"), "{found:?}");
    }
}
