//! RoleBinding and ClusterRoleBinding: who gets a role.

use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding, RoleRef, Subject};
use serde_json::Value;

use super::{GROUP, path_segment, subject_name};
use crate::kinds::field::{Errors, Path};
use crate::kinds::{Column, Kind, Operation, Strategy, edit, metadata, table, typed};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const ROLE_BINDING: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "RoleBinding",
    plural: "rolebindings",
    singular: "rolebinding",
    resource: "rolebindings.rbac.authorization.k8s.io",
    short_names: &[],
    categories: &[],
    namespaced: true,
    subresources: &[],
    strategy: &RoleBindings,
};

pub(in crate::kinds) const CLUSTER_ROLE_BINDING: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "ClusterRoleBinding",
    plural: "clusterrolebindings",
    singular: "clusterrolebinding",
    resource: "clusterrolebindings.rbac.authorization.k8s.io",
    short_names: &[],
    categories: &[],
    namespaced: false,
    subresources: &[],
    strategy: &ClusterRoleBindings,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::text(
        "Role",
        "RoleRef can reference a Role in the current namespace or a ClusterRole in the global namespace. If the RoleRef cannot be resolved, the Authorizer must return an error. This field is immutable.",
    ),
    table::AGE,
    table::wide("Users", "Users in the roleBinding"),
    table::wide("Groups", "Groups in the roleBinding"),
    table::wide("ServiceAccounts", "ServiceAccounts in the roleBinding"),
];

fn row(object: &Object, role: &RoleRef, subjects: &[Subject], now: i64) -> Vec<Value> {
    let named = |kind: &str| -> Value {
        let of_kind = subjects.iter().filter(|s| s.kind == kind);
        let names: Vec<String> = of_kind
            .map(|s| match (kind, &s.namespace) {
                ("ServiceAccount", Some(namespace)) => format!("{namespace}/{}", s.name),
                _ => s.name.clone(),
            })
            .collect();
        names.join(", ").into()
    };
    vec![
        table::name(object),
        format!("{}/{}", role.kind, role.name).into(),
        table::age(object, now),
        named("User"),
        named("Group"),
        named("ServiceAccount"),
    ]
}

/// The API groups follow from the kinds.
fn default(value: &mut Value) {
    let Some(object) = value.as_object_mut() else { return };
    if let Some(role) = edit::child(object, "roleRef") {
        edit::default_to(role, "apiGroup", GROUP);
    }
    for subject in edit::each(object, "subjects") {
        if matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group")) {
            edit::default_to(subject, "apiGroup", GROUP);
        }
    }
}

fn role(errors: &mut Errors, role: &RoleRef, kinds: &[&str]) {
    let path = Path::new("roleRef");
    if role.api_group != GROUP {
        errors.not_supported(&path.child("apiGroup"), &role.api_group, &[GROUP]);
    }
    errors.one_of(&path.child("kind"), Some(&role.kind), kinds);
    match role.name.as_str() {
        "" => errors.required(&path.child("name"), ""),
        name => errors.all_invalid(&path.child("name"), name, path_segment(name)),
    }
}

fn subjects(errors: &mut Errors, subjects: &[Subject]) {
    for (index, subject) in subjects.iter().enumerate() {
        let path = Path::new("subjects").index(index);
        let group = subject.api_group.as_deref().unwrap_or_default();
        if subject.name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        let expected = match subject.kind.as_str() {
            "ServiceAccount" => "",
            "User" | "Group" => GROUP,
            kind => {
                let known = &["Group", "ServiceAccount", "User"];
                errors.not_supported(&path.child("kind"), kind, known);
                continue;
            }
        };
        let name = subject_name(&subject.kind, &subject.name);
        errors.all_invalid(&path.child("name"), &subject.name, name);
        if group != expected {
            errors.not_supported(&path.child("apiGroup"), group, &[expected]);
        }
        let homeless = subject.namespace.as_deref().unwrap_or_default().is_empty();
        if subject.kind == "ServiceAccount" && homeless {
            errors.required(&path.child("namespace"), "");
        }
    }
}

/// Who may edit a binding could otherwise turn it into one of a stronger role.
fn same_role(errors: &mut Errors, value: &Value, op: Operation<'_>) {
    if let Operation::Update { old, .. } = op
        && old["roleRef"] != value["roleRef"]
    {
        let given = value["roleRef"].to_string();
        errors.invalid(&Path::new("roleRef"), given, "cannot change roleRef");
    }
}

struct RoleBindings;

impl Strategy for RoleBindings {
    typed!(RoleBinding);

    fn default(&self, value: &mut Value) {
        default(value);
    }

    fn prepare(&self, value: &mut Value, _: Operation<'_>) {
        edit::no_generation(value);
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let named = (&ROLE_BINDING, path_segment as fn(&str) -> Vec<String>);
        metadata::validated::<RoleBinding>(named, value, op, |errors, binding| {
            role(errors, &binding.role_ref, &["ClusterRole", "Role"]);
            subjects(errors, binding.subjects.as_deref().unwrap_or_default());
            same_role(errors, value, op);
        })
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let binding = object.view::<RoleBinding>().unwrap_or_default();
        row(object, &binding.role_ref, binding.subjects.as_deref().unwrap_or_default(), now)
    }
}

struct ClusterRoleBindings;

impl Strategy for ClusterRoleBindings {
    typed!(ClusterRoleBinding);

    fn default(&self, value: &mut Value) {
        default(value);
    }

    fn prepare(&self, value: &mut Value, _: Operation<'_>) {
        edit::no_generation(value);
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let named = (&CLUSTER_ROLE_BINDING, path_segment as fn(&str) -> Vec<String>);
        metadata::validated::<ClusterRoleBinding>(named, value, op, |errors, binding| {
            role(errors, &binding.role_ref, &["ClusterRole"]);
            subjects(errors, binding.subjects.as_deref().unwrap_or_default());
            same_role(errors, value, op);
        })
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let binding = object.view::<ClusterRoleBinding>().unwrap_or_default();
        row(object, &binding.role_ref, binding.subjects.as_deref().unwrap_or_default(), now)
    }
}
