//! scheduling.k8s.io/v1: PriorityClass.

use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::Value;

use super::field::{Errors, Path};
use super::{Column, Kind, Operation, Strategy, edit, metadata, names, table, typed};
use crate::object::Object;
use crate::status::Cause;

pub(super) const KIND: Kind = Kind {
    group: "scheduling.k8s.io",
    version: "v1",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    resource: "priorityclasses.scheduling.k8s.io",
    short_names: &["pc"],
    categories: &[],
    namespaced: false,
    subresources: &[],
    strategy: &PriorityClasses,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::integer("Value", "value represents the integer value of this priority class."),
    Column {
        name: "Global-Default",
        kind: "boolean",
        format: "",
        priority: 0,
        description: "globalDefault specifies whether this PriorityClass should be considered as the default priority for pods that do not have any priority class.",
    },
    table::AGE,
    table::text(
        "PreemptionPolicy",
        "preemptionPolicy is the Policy for preempting pods with lower priority.",
    ),
];

/// The most that people may ask for; above are the system's own two.
const HIGHEST: i32 = 1_000_000_000;

struct PriorityClasses;

impl Strategy for PriorityClasses {
    typed!(PriorityClass);

    fn default(&self, value: &mut Value) {
        if let Some(class) = value.as_object_mut() {
            edit::default_to(class, "preemptionPolicy", "PreemptLowerPriority");
        }
    }

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        // As upstream: the first generation is 1 and stays.
        match op {
            Operation::Create => edit::set_generation(value, 1),
            Operation::Update { old, .. } => {
                edit::set_generation(value, old["metadata"]["generation"].as_i64().unwrap_or(1));
            }
        }
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let mut errors = Errors::default();
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        let Some(class) = metadata::check::<PriorityClass>(&mut errors, named, value, op) else {
            return errors.into_causes();
        };
        let name = class.metadata.name.as_deref().unwrap_or_default();
        let known = [
            ("system-cluster-critical", 2 * HIGHEST),
            ("system-node-critical", 2 * HIGHEST + 1000),
        ];
        if name.starts_with("system-") {
            if !known.contains(&(name, class.value)) {
                errors.forbidden(
                    &Path::new("metadata.name"),
                    "priority class names with 'system-' prefix are reserved for system use only",
                );
            }
        } else if class.value > HIGHEST {
            let why = format!("maximum allowed value of a user defined priority is {HIGHEST}");
            errors.forbidden(&Path::new("value"), &why);
        }
        errors.optional_one_of(
            &Path::new("preemptionPolicy"),
            class.preemption_policy.as_deref(),
            &["Never", "PreemptLowerPriority"],
        );
        if let Operation::Update { old, .. } = op {
            metadata::same(
                &mut errors,
                &Path::new("value"),
                i64::from(class.value),
                old["value"].as_i64().unwrap_or(0),
            );
            let before = old["preemptionPolicy"].as_str().unwrap_or_default();
            metadata::same(
                &mut errors,
                &Path::new("preemptionPolicy"),
                class.preemption_policy.as_deref().unwrap_or_default(),
                before,
            );
        }
        errors.into_causes()
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let class = object.view::<PriorityClass>().unwrap_or_default();
        vec![
            table::name(object),
            class.value.into(),
            class.global_default.unwrap_or(false).into(),
            table::age(object, now),
            class.preemption_policy.clone().unwrap_or_default().into(),
        ]
    }
}
