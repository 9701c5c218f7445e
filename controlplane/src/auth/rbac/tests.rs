//! Decisions of the authorizer over roles and bindings.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::admission::testing::World;
use crate::object::{Object, Resource};

/// Roles and bindings are put into the list that admission's tests look at, too.
trait Building: Sized {
    fn with(self, resource: Resource, value: Value) -> Self;
    fn cluster_role(self, name: &str, rules: Value) -> Self;
    fn bind(self, namespace: Option<&str>, role: &str, subject: Value) -> Self;
}

impl Building for World {
    fn with(mut self, resource: Resource, value: Value) -> Self {
        self.0.push(Arc::new(Object::from_value(resource, &value).unwrap()));
        self
    }

    fn cluster_role(self, name: &str, rules: Value) -> Self {
        self.with(CLUSTER_ROLES, json!({"metadata": {"name": name}, "rules": rules}))
    }

    fn bind(self, namespace: Option<&str>, role: &str, subject: Value) -> Self {
        let mut value = json!({
            "metadata": {"name": format!("{role}-binding")}, "subjects": [subject],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        });
        match namespace {
            None => self.with(CLUSTER_BINDINGS, value),
            Some(namespace) => {
                value["metadata"]["namespace"] = namespace.into();
                self.with(BINDINGS, value)
            }
        }
    }
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"})
}

fn pods() -> Value {
    json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]}])
}

fn get(
    namespace: &'static str,
    resource: &'static str,
    subresource: &'static str,
) -> Action<'static> {
    let wanted = Attributes {
        verb: "get",
        resource,
        subresource,
        namespace,
        name: "x",
        group: "",
        on_node: "",
    };
    Action::Resource(wanted)
}

#[test]
fn a_tenant_stays_at_home() {
    let world =
        World::of([]).cluster_role("reader", pods()).bind(Some("a"), "reader", user("jane"));
    let jane = UserInfo::new("jane", &["system:authenticated"]);
    let allowed = |action| allows(&world, &jane, action);
    let reason = allowed(get("a", "pods", "")).unwrap();
    assert_eq!(
        reason,
        r#"RBAC: allowed by RoleBinding "reader-binding/a" of ClusterRole "reader" to User "jane""#
    );
    assert!(allowed(get("a", "pods", "log")).is_some());
    for refused in [
        get("b", "pods", ""),
        get("", "pods", ""),
        get("a", "pods", "exec"),
        get("a", "secrets", ""),
    ] {
        assert_eq!(allowed(refused), None, "{refused:?}");
    }
    assert_eq!(allows(&world, &UserInfo::new("joe", &[]), get("a", "pods", "")), None);
}

#[test]
fn accounts_are_found_by_namespace_and_name() {
    let account = json!({"kind": "ServiceAccount", "name": "build", "namespace": "ci"});
    let world = World::of([]).cluster_role("reader", pods()).bind(None, "reader", account);
    let of = |name: &str| allows(&world, &UserInfo::new(name, &[]), get("b", "pods", "")).is_some();
    assert!(of("system:serviceaccount:ci:build"));
    assert!(!of("system:serviceaccount:ci:builder"));
    assert!(!of("system:serviceaccount:c:i:build"));
    assert!(!of("build"));
}

#[test]
fn names_paths_and_stars() {
    let rules = json!([
        {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"]},
        {"verbs": ["update"], "apiGroups": ["*"], "resources": ["*/scale"]},
        {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/logs/*"]},
    ]);
    let world = World::of([]).cluster_role("r", rules).bind(None, "r", user("jane"));
    let jane = UserInfo::new("jane", &[]);
    let resource = |verb, resource, subresource, name| {
        let wanted = Attributes {
            verb,
            resource,
            subresource,
            name,
            group: "apps",
            namespace: "a",
            on_node: "",
        };
        allows(&world, &jane, Action::Resource(wanted)).is_some()
    };
    let core = |name| {
        let wanted = Attributes {
            verb: "get",
            resource: "secrets",
            name,
            namespace: "a",
            ..Default::default()
        };
        allows(&world, &jane, Action::Resource(wanted)).is_some()
    };
    assert!(core("one") && !core("two") && !core(""));
    assert!(resource("update", "deployments", "scale", "x"));
    assert!(!resource("update", "deployments", "", "x"));
    assert!(!resource("get", "deployments", "scale", "x"));
    let path = |path| allows(&world, &jane, Action::Path { verb: "get", path }).is_some();
    assert!(path("/healthz") && path("/logs/a/b") && !path("/healthz/x") && !path("/metrics"));
}

#[test]
fn nobody_gives_away_what_he_has_not() {
    let rule = |text: &str| -> PolicyRule { serde_json::from_str(text).unwrap() };
    let held = [
        rule(r#"{"verbs":["get","list"],"apiGroups":[""],"resources":["pods"]}"#),
        rule(
            r#"{"verbs":["get"],"apiGroups":[""],"resources":["secrets"],"resourceNames":["one"]}"#,
        ),
    ];
    let fine =
        rule(r#"{"verbs":["list"],"apiGroups":[""],"resources":["pods"],"resourceNames":["x"]}"#);
    assert!(uncovered(&held, &[fine]).is_none());
    for more in [
        r#"{"verbs":["*"],"apiGroups":[""],"resources":["pods"]}"#,
        r#"{"verbs":["get"],"apiGroups":["","apps"],"resources":["pods"]}"#,
        r#"{"verbs":["get"],"apiGroups":[""],"resources":["pods/exec"]}"#,
        r#"{"verbs":["get"],"apiGroups":[""],"resources":["secrets"]}"#,
        r#"{"verbs":["get"],"nonResourceURLs":["/metrics"]}"#,
    ] {
        assert!(uncovered(&held, &[rule(more)]).is_some(), "{more}");
    }
}

fn some_rule() -> impl Strategy<Value = PolicyRule> {
    let some = |of: &'static [&'static str]| {
        prop::sample::subsequence(of, 1..=of.len())
            .prop_map(|list| list.into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    let names = prop::option::of(some(&["x", "y"]));
    (
        some(&["get", "list", "*"]),
        some(&["", "apps", "*"]),
        some(&["pods", "pods/log", "*/log", "*"]),
        names,
    )
        .prop_map(|(verbs, groups, resources, resource_names)| PolicyRule {
            verbs,
            api_groups: Some(groups),
            resources: Some(resources),
            resource_names,
            non_resource_urls: None,
        })
}

proptest! {
    /// What is covered allows nothing that was not allowed before.
    #[test]
    fn cover_means_cover(held in prop::collection::vec(some_rule(), 1..3), wanted in some_rule()) {
        prop_assert!(uncovered(&held, &held).is_none());
        if uncovered(&held, std::slice::from_ref(&wanted)).is_some() {
            return Ok(());
        }
        for verb in ["get", "list", "watch"] {
            for group in ["", "apps", "batch"] {
                for (resource, subresource) in [("pods", ""), ("pods", "log"), ("jobs", ""), ("jobs", "log")] {
                    for name in ["", "x", "z"] {
                        let action = Action::Resource(Attributes { verb, group, resource, subresource, namespace: "a", name, on_node: "" });
                        prop_assert!(!fits(&wanted, action) || held.iter().any(|rule| fits(rule, action)), "{:?}", action);
                    }
                }
            }
        }
    }
}
