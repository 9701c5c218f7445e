//! ResourceQuota: how much of what a Namespace may have in all.

use k8s_openapi::api::core::v1::ResourceQuota;
use serde_json::Value;

use crate::kinds::field::{Errors, Path};
use crate::kinds::{
    Column, Kind, Operation, Quantity, Strategy, edit, metadata, names, table, typed,
};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ResourceQuota",
    plural: "resourcequotas",
    singular: "resourcequota",
    resource: "resourcequotas",
    short_names: &["quota"],
    categories: &[],
    namespaced: true,
    subresources: &["status"],
    strategy: &ResourceQuotas,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::text(
        "Request",
        "Request represents a minimum amount of cpu/memory that a container may consume.",
    ),
    table::text(
        "Limit",
        "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
    ),
    table::AGE,
];

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
];

struct ResourceQuotas;

impl Strategy for ResourceQuotas {
    typed!(ResourceQuota);

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        edit::no_generation(value);
        edit::guard_status(value, op);
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let mut errors = Errors::default();
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        let Some(quota) = metadata::check::<ResourceQuota>(&mut errors, named, value, op) else {
            return errors.into_causes();
        };
        let spec = quota.spec.unwrap_or_default();
        let path = Path::new("spec");
        for (name, amount) in spec.hard.iter().flatten() {
            let at = path.child("hard").key(name);
            match Quantity::parse(&amount.0) {
                Err(why) => errors.invalid(&at, &amount.0, &why.to_string()),
                Ok(q) if q.is_negative() => {
                    errors.invalid(&at, &amount.0, "must be greater than or equal to 0")
                }
                Ok(_) => errors.all_invalid(&at, name, names::qualified_name(name)),
            }
        }
        for (index, scope) in spec.scopes.iter().flatten().enumerate() {
            errors.one_of(&path.child("scopes").index(index), Some(scope), SCOPES);
        }
        let needs = spec.scope_selector.and_then(|selector| selector.match_expressions);
        for (index, need) in needs.iter().flatten().enumerate() {
            let at = path.child("scopeSelector.matchExpressions").index(index);
            errors.one_of(&at.child("scopeName"), Some(&need.scope_name), SCOPES);
            errors.one_of(
                &at.child("operator"),
                Some(&need.operator),
                &["DoesNotExist", "Exists", "In", "NotIn"],
            );
        }
        errors.into_causes()
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let quota = object.view::<ResourceQuota>().unwrap_or_default();
        let status = quota.status.clone().unwrap_or_default();
        let (hard, used) = (status.hard.unwrap_or_default(), status.used.unwrap_or_default());
        let list = |limits: bool| -> Value {
            let of = hard.iter().filter(|(name, _)| name.starts_with("limits.") == limits);
            let text = |(name, hard): (&String, &_)| {
                let hard: &k8s_openapi::apimachinery::pkg::api::resource::Quantity = hard;
                let used = used.get(name).map_or("0", |used| used.0.as_str());
                format!("{name}: {used}/{}", hard.0)
            };
            of.map(text).collect::<Vec<_>>().join(", ").into()
        };
        vec![table::name(object), list(false), list(true), table::age(object, now)]
    }
}
