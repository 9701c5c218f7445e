//! policy/v1: PodDisruptionBudget.

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::field::{Errors, Path};
use super::{Column, Kind, Operation, Strategy, edit, metadata, names, table, typed};
use crate::object::Object;
use crate::status::Cause;

pub(super) const KIND: Kind = Kind {
    group: "policy",
    version: "v1",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    resource: "poddisruptionbudgets.policy",
    short_names: &["pdb"],
    categories: &[],
    namespaced: true,
    subresources: &["status"],
    strategy: &Budgets,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::text("Min Available", "The minimum number of pods that must be available."),
    table::text("Max Unavailable", "The maximum number of pods that may be unavailable."),
    table::integer(
        "Allowed Disruptions",
        "Calculated number of pods that may be disrupted at this time.",
    ),
    table::AGE,
];

struct Budgets;

impl Strategy for Budgets {
    typed!(PodDisruptionBudget);

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        edit::guard_status(value, op);
        edit::count_generation(value, op);
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let mut errors = Errors::default();
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        let Some(budget) = metadata::check::<PodDisruptionBudget>(&mut errors, named, value, op)
        else {
            return errors.into_causes();
        };
        let spec = budget.spec.unwrap_or_default();
        let path = Path::new("spec");
        if spec.min_available.is_some() && spec.max_unavailable.is_some() {
            errors.invalid(&path, "", "minAvailable and maxUnavailable cannot be both set");
        }
        for (field, amount) in
            [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)]
        {
            if let Some(amount) = amount {
                check(&mut errors, &path.child(field), amount);
            }
        }
        let policy = spec.unhealthy_pod_eviction_policy.as_deref();
        errors.optional_one_of(
            &path.child("unhealthyPodEvictionPolicy"),
            policy,
            &["AlwaysAllow", "IfHealthyBudget"],
        );
        errors.into_causes()
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let budget = object.view::<PodDisruptionBudget>().unwrap_or_default();
        let spec = budget.spec.clone().unwrap_or_default();
        let text = |amount: &Option<IntOrString>| -> Value {
            match amount {
                None => "N/A".into(),
                Some(IntOrString::Int(number)) => number.to_string().into(),
                Some(IntOrString::String(text)) => text.as_str().into(),
            }
        };
        let allowed = budget.status.as_ref().map_or(0, |status| status.disruptions_allowed);
        vec![
            table::name(object),
            text(&spec.min_available),
            text(&spec.max_unavailable),
            allowed.into(),
            table::age(object, now),
        ]
    }
}

fn check(errors: &mut Errors, path: &Path, amount: &IntOrString) {
    match amount {
        IntOrString::Int(number) => errors.not_negative(path, Some((*number).into())),
        IntOrString::String(text) => match text.strip_suffix('%').map(str::parse::<u32>) {
            Some(Ok(0..=100)) => {}
            Some(Ok(_)) => errors.invalid(path, text, "must not be greater than 100%"),
            _ => errors.invalid(path, text, "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"),
        },
    }
}
