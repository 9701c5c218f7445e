//! IngressClass.

use k8s_openapi::api::networking::v1::{IngressClass, IngressClassParametersReference};
use serde_json::Value;

use super::GROUP;
use crate::kinds::field::{Errors, Path};
use crate::kinds::{Column, Kind, Operation, Strategy, edit, metadata, names, table, typed};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "IngressClass",
    plural: "ingressclasses",
    singular: "ingressclass",
    resource: "ingressclasses.networking.k8s.io",
    short_names: &[],
    categories: &[],
    namespaced: false,
    subresources: &[],
    strategy: &Classes,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::text("Controller", "Controller that is responsible for handling this class"),
    table::text("Parameters", "A reference to a resource with additional parameters"),
    table::AGE,
];

struct Classes;

impl Strategy for Classes {
    typed!(IngressClass);

    fn default(&self, value: &mut Value) {
        let spec = value.as_object_mut().and_then(|class| edit::child(class, "spec"));
        if let Some(parameters) = spec.and_then(|spec| edit::child(spec, "parameters")) {
            edit::default_to(parameters, "scope", "Cluster");
        }
    }

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        edit::count_generation(value, op);
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        metadata::validated::<IngressClass>(named, value, op, |errors, class| {
            let path = Path::new("spec");
            let spec = class.spec.clone().unwrap_or_default();
            let controller = spec.controller.as_deref().unwrap_or_default();
            match op {
                Operation::Create if controller.is_empty() => {
                    errors.required(&path.child("controller"), "");
                }
                Operation::Create => domain_path(errors, &path.child("controller"), controller),
                Operation::Update { old, .. } => {
                    let before = old["spec"]["controller"].as_str().unwrap_or_default();
                    metadata::same(errors, &path.child("controller"), controller, before);
                }
            }
            if let Some(parameters) = &spec.parameters {
                check(errors, &path.child("parameters"), parameters);
            }
        })
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let class = object.view::<IngressClass>().unwrap_or_default();
        let spec = class.spec.clone().unwrap_or_default();
        let parameters = spec.parameters.map(|p| {
            let group = p.api_group.filter(|group| !group.is_empty());
            group.map_or_else(
                || format!("{}/{}", p.kind, p.name),
                |group| format!("{}.{group}/{}", p.kind, p.name),
            )
        });
        vec![
            table::name(object),
            spec.controller.unwrap_or_default().into(),
            table::or_none(&parameters.unwrap_or_default()),
            table::age(object, now),
        ]
    }
}

/// `example.org/name`
fn domain_path(errors: &mut Errors, path: &Path, text: &str) {
    let (domain, rest) = text.split_once('/').unwrap_or((text, ""));
    errors.all_invalid(path, text, names::dns_subdomain(domain));
    if rest.is_empty() {
        errors.invalid(path, text, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    }
}

fn check(errors: &mut Errors, path: &Path, parameters: &IngressClassParametersReference) {
    for (name, text) in [("kind", &parameters.kind), ("name", &parameters.name)] {
        if text.is_empty() {
            errors.required(&path.child(name), "");
        }
    }
    let scope = parameters.scope.as_deref();
    let namespace = parameters.namespace.as_deref().unwrap_or_default();
    errors.one_of(&path.child("scope"), scope, &["Cluster", "Namespace"]);
    match (scope, namespace) {
        (Some("Namespace"), "") => {
            let why = "`parameters.scope` is set to 'Namespace'";
            errors.required(&path.child("namespace"), why);
        }
        (Some("Cluster"), namespace) if !namespace.is_empty() => {
            let why = "`parameters.scope` is set to 'Cluster'";
            errors.forbidden(&path.child("namespace"), why);
        }
        _ => {}
    }
}
