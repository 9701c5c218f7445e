//! Role and ClusterRole: lists of rules.

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use serde_json::Value;

use super::{GROUP, path_segment};
use crate::kinds::field::{Errors, Path};
use crate::kinds::{Column, Kind, Operation, Strategy, edit, metadata, table, typed};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const ROLE: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "Role",
    plural: "roles",
    singular: "role",
    resource: "roles.rbac.authorization.k8s.io",
    short_names: &[],
    categories: &[],
    namespaced: true,
    subresources: &[],
    strategy: &Roles,
};

pub(in crate::kinds) const CLUSTER_ROLE: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "ClusterRole",
    plural: "clusterroles",
    singular: "clusterrole",
    resource: "clusterroles.rbac.authorization.k8s.io",
    short_names: &[],
    categories: &[],
    namespaced: false,
    subresources: &[],
    strategy: &ClusterRoles,
};

/// Roles are as old as their creation says: there is no age here.
const COLUMNS: &[Column] = &[
    table::NAME,
    Column {
        name: "Created At",
        kind: "date",
        format: "",
        priority: 0,
        description: "CreationTimestamp is a timestamp representing the server time when this object was created.",
    },
];

fn row(object: &Object) -> Vec<Value> {
    vec![table::name(object), object.meta.creation_timestamp.clone().into()]
}

fn rules(errors: &mut Errors, rules: &[PolicyRule], namespaced: bool) {
    for (index, rule) in rules.iter().enumerate() {
        check(errors, &Path::new("rules").index(index), rule, namespaced);
    }
}

fn check(errors: &mut Errors, path: &Path, rule: &PolicyRule, namespaced: bool) {
    if rule.verbs.is_empty() {
        errors.required(&path.child("verbs"), "verbs must contain at least one value");
    }
    let list = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let urls = rule.non_resource_urls.as_deref().unwrap_or_default();
    if !urls.is_empty() {
        let path = path.child("nonResourceURLs");
        if namespaced {
            let detail = "namespaced rules cannot apply to non-resource URLs";
            errors.invalid(&path, format!("{urls:?}"), detail);
        }
        if list(&rule.api_groups) || list(&rule.resources) || list(&rule.resource_names) {
            let detail = "rules cannot apply to both regular resources and non-resource URLs";
            errors.invalid(&path, format!("{urls:?}"), detail);
        }
        return;
    }
    if !list(&rule.api_groups) {
        let detail = "resource rules must supply at least one api group";
        errors.required(&path.child("apiGroups"), detail);
    }
    if !list(&rule.resources) {
        let detail = "resource rules must supply at least one resource";
        errors.required(&path.child("resources"), detail);
    }
}

struct Roles;

impl Strategy for Roles {
    typed!(Role);

    fn prepare(&self, value: &mut Value, _: Operation<'_>) {
        edit::no_generation(value);
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let mut errors = Errors::default();
        if let Some(role) = metadata::check::<Role>(&mut errors, (&ROLE, path_segment), value, op) {
            rules(&mut errors, role.rules.as_deref().unwrap_or_default(), true);
        }
        errors.into_causes()
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, _: i64) -> Vec<Value> {
        row(object)
    }
}

struct ClusterRoles;

impl Strategy for ClusterRoles {
    typed!(ClusterRole);

    fn prepare(&self, value: &mut Value, _: Operation<'_>) {
        edit::no_generation(value);
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let mut errors = Errors::default();
        let named = (&CLUSTER_ROLE, path_segment as fn(&str) -> Vec<String>);
        let Some(role) = metadata::check::<ClusterRole>(&mut errors, named, value, op) else {
            return errors.into_causes();
        };
        rules(&mut errors, role.rules.as_deref().unwrap_or_default(), false);
        if let Some(aggregation) = &role.aggregation_rule {
            let path = Path::new("aggregationRule").child("clusterRoleSelectors");
            let selectors = aggregation.cluster_role_selectors.as_deref().unwrap_or_default();
            if selectors.is_empty() {
                errors.required(
                    &path,
                    "at least one clusterRoleSelector required if aggregationRule is non-nil",
                );
            }
        }
        errors.into_causes()
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, _: i64) -> Vec<Value> {
        row(object)
    }
}
