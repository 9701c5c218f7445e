//! Role-based access control: may this user do this? Decided on one view of the roles and bindings, with the rules
//! that upstream's authorizer has. Pure; who the user is was found out before.
//!
//! A binding gives somebody the rules of a role: everywhere (ClusterRoleBinding) or in its namespace (RoleBinding).
//! Nothing is ever taken away by a rule, so the first one that fits decides.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};

use crate::api::UserInfo;
use crate::reader::Reader;

const ROLES: &str = "roles.rbac.authorization.k8s.io";
const CLUSTER_ROLES: &str = "clusterroles.rbac.authorization.k8s.io";
const BINDINGS: &str = "rolebindings.rbac.authorization.k8s.io";
const CLUSTER_BINDINGS: &str = "clusterrolebindings.rbac.authorization.k8s.io";

/// Members of this group may do everything, whatever the roles say: the way back in.
const MASTERS: &str = "system:masters";

/// What somebody wants to do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action<'a> {
    Resource(Attributes<'a>),
    /// A path that is no resource: `/metrics`.
    Path {
        verb: &'a str,
        path: &'a str,
    },
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attributes<'a> {
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    /// Empty: the resource itself.
    pub(crate) subresource: &'a str,
    /// Empty: cluster-scoped, or all namespaces.
    pub(crate) namespace: &'a str,
    /// Empty: the collection.
    pub(crate) name: &'a str,
    /// The node whose Pods alone are asked for, by field selector; empty: those of all nodes.
    pub(crate) on_node: &'a str,
}

/// A set of rules that the user has, and by which binding.
pub(crate) struct Grant {
    pub(crate) rules: Vec<PolicyRule>,
    reason: String,
}

/// Why the user may do it; None when nothing allows it.
pub(crate) fn allows(world: &dyn Reader, user: &UserInfo, action: Action<'_>) -> Option<String> {
    if is_master(user) {
        return Some(format!("group {MASTERS:?}"));
    }
    let namespace = match action {
        Action::Resource(attributes) => attributes.namespace,
        Action::Path { .. } => "",
    };
    let allowed =
        |grant: Grant| grant.rules.iter().any(|r| fits(r, action)).then_some(grant.reason);
    grants(world, user, namespace).find_map(allowed)
}

pub(crate) fn is_master(user: &UserInfo) -> bool {
    user.groups.iter().any(|group| group == MASTERS)
}

/// Everything that the user has in `namespace` (empty: in the cluster), one binding after the other.
pub(crate) fn grants<'a>(
    world: &'a dyn Reader,
    user: &'a UserInfo,
    namespace: &'a str,
) -> impl Iterator<Item = Grant> + 'a {
    let everywhere = world
        .typed_list::<ClusterRoleBinding>(CLUSTER_BINDINGS, None)
        .into_iter()
        .filter_map(move |binding| {
            let subject = find(binding.subjects.as_deref(), user, "")?;
            let name = binding.metadata.name.as_deref().unwrap_or_default();
            let reason = reason("ClusterRoleBinding", name, &binding.role_ref, subject);
            Some(Grant { rules: rules(world, "", &binding.role_ref)?, reason })
        });
    let here: Vec<Arc<RoleBinding>> = match namespace {
        "" => Vec::new(),
        namespace => world.typed_list(BINDINGS, Some(namespace)),
    };
    everywhere.chain(here.into_iter().filter_map(move |binding| {
        let subject = find(binding.subjects.as_deref(), user, namespace)?;
        let name = binding.metadata.name.as_deref().unwrap_or_default();
        let name = format!("{name}/{namespace}");
        let reason = reason("RoleBinding", &name, &binding.role_ref, subject);
        Some(Grant { rules: rules(world, namespace, &binding.role_ref)?, reason })
    }))
}

fn reason(kind: &str, binding: &str, role: &RoleRef, subject: &Subject) -> String {
    format!(
        "RBAC: allowed by {kind} {binding:?} of {} {:?} to {} {:?}",
        role.kind, role.name, subject.kind, subject.name
    )
}

fn find<'s>(subjects: Option<&'s [Subject]>, user: &UserInfo, home: &str) -> Option<&'s Subject> {
    subjects?.iter().find(|subject| is(subject, user, home))
}

/// `home` is the binding's namespace, for accounts that name none.
fn is(subject: &Subject, user: &UserInfo, home: &str) -> bool {
    match subject.kind.as_str() {
        "User" => subject.name == user.name,
        "Group" => user.groups.contains(&subject.name),
        "ServiceAccount" => {
            let namespace = subject.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or(home);
            let rest = user.name.strip_prefix("system:serviceaccount:");
            !namespace.is_empty()
                && rest.and_then(|r| r.split_once(':')) == Some((namespace, &subject.name))
        }
        _ => false,
    }
}

/// The rules of a role; None when there is no such role (yet).
pub(crate) fn rules(
    world: &dyn Reader,
    namespace: &str,
    role: &RoleRef,
) -> Option<Vec<PolicyRule>> {
    match role.kind.as_str() {
        "ClusterRole" => world.typed::<ClusterRole>(CLUSTER_ROLES, "", &role.name)?.rules.clone(),
        "Role" => world.typed::<Role>(ROLES, namespace, &role.name)?.rules.clone(),
        _ => None,
    }
    .or_else(|| Some(Vec::new()))
}

pub(crate) fn fits(rule: &PolicyRule, action: Action<'_>) -> bool {
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    match action {
        Action::Path { verb, path } => {
            has(&rule.verbs, verb)
                && rule.non_resource_urls.iter().flatten().any(|p| path_fits(p, path))
        }
        Action::Resource(wanted) => {
            has(&rule.verbs, wanted.verb)
                && has(&list(&rule.api_groups), wanted.group)
                && list(&rule.resources)
                    .iter()
                    .any(|r| resource_fits(r, wanted.resource, wanted.subresource))
                && name_fits(&list(&rule.resource_names), wanted.name)
        }
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

/// `*`, `pods`, `pods/log`, `*/scale`.
fn resource_fits(rule: &str, resource: &str, subresource: &str) -> bool {
    match rule.split_once('/') {
        _ if rule == "*" => true,
        None => subresource.is_empty() && rule == resource,
        Some((of, sub)) => {
            !subresource.is_empty() && sub == subresource && (of == "*" || of == resource)
        }
    }
}

/// No names means all of them; a request without a name is not about one of those.
fn name_fits(names: &[String], name: &str) -> bool {
    names.is_empty() || names.iter().any(|n| n == name)
}

/// A `*` at the end covers everything below.
fn path_fits(rule: &str, path: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == rule,
    }
}

/// The first of `wanted` that `held` does not cover: nobody may give away what he does not have.
pub(crate) fn uncovered(held: &[PolicyRule], wanted: &[PolicyRule]) -> Option<PolicyRule> {
    wanted.iter().flat_map(single).find(|one| !held.iter().any(|rule| covers(rule, one)))
}

/// A rule as rules of one verb and one resource (or path) each.
fn single(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut all = Vec::new();
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    for verb in &rule.verbs {
        for path in list(&rule.non_resource_urls) {
            all.push(PolicyRule {
                verbs: vec![verb.clone()],
                non_resource_urls: Some(vec![path]),
                ..PolicyRule::default()
            });
        }
        for group in list(&rule.api_groups) {
            for resource in list(&rule.resources) {
                let one = PolicyRule {
                    verbs: vec![verb.clone()],
                    api_groups: Some(vec![group.clone()]),
                    resources: Some(vec![resource]),
                    ..PolicyRule::default()
                };
                match list(&rule.resource_names) {
                    names if names.is_empty() => all.push(one),
                    names => all.extend(names.into_iter().map(|name| PolicyRule {
                        resource_names: Some(vec![name]),
                        ..one.clone()
                    })),
                }
            }
        }
    }
    all
}

/// Whether a held rule covers a single one.
fn covers(held: &PolicyRule, one: &PolicyRule) -> bool {
    let first = |list: &Option<Vec<String>>| list.iter().flatten().next().cloned();
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let Some(verb) = one.verbs.first() else { return true };
    if !has(&held.verbs, verb) {
        return false;
    }
    if let Some(path) = first(&one.non_resource_urls) {
        return held.non_resource_urls.iter().flatten().any(|p| path_fits(p, &path));
    }
    let (group, resource) = (first(&one.api_groups), first(&one.resources));
    let resource = resource.unwrap_or_default();
    let (name, sub) = resource.split_once('/').unwrap_or((&resource, ""));
    has(&list(&held.api_groups), &group.unwrap_or_default())
        && list(&held.resources).iter().any(|r| *r == resource || resource_fits(r, name, sub))
        && match first(&one.resource_names) {
            None => list(&held.resource_names).is_empty(),
            Some(name) => name_fits(&list(&held.resource_names), &name),
        }
}

#[cfg(test)]
mod tests;
