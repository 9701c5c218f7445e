//! LimitRange: defaults and bounds for what a Namespace's containers, Pods and claims ask for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
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
    kind: "LimitRange",
    plural: "limitranges",
    singular: "limitrange",
    resource: "limitranges",
    short_names: &["limits"],
    categories: &[],
    namespaced: true,
    subresources: &[],
    strategy: &LimitRanges,
};

struct LimitRanges;

impl Strategy for LimitRanges {
    typed!(LimitRange);

    fn default(&self, value: &mut Value) {
        let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) else { return };
        for item in edit::each(spec, "limits") {
            if item.get("type").and_then(Value::as_str) == Some("Container") {
                let of = |key: &str| item.get(key).and_then(Value::as_object).cloned();
                let (max, min) = (of("max").unwrap_or_default(), of("min").unwrap_or_default());
                let mut limits = of("default").unwrap_or_default();
                for (name, amount) in max {
                    limits.entry(name).or_insert(amount);
                }
                let mut requests = of("defaultRequest").unwrap_or_default();
                for (name, amount) in limits.iter().chain(&min) {
                    requests.entry(name.clone()).or_insert_with(|| amount.clone());
                }
                for (key, amounts) in [("default", limits), ("defaultRequest", requests)] {
                    if !amounts.is_empty() {
                        item.insert(key.into(), amounts.into());
                    }
                }
            }
        }
    }

    fn prepare(&self, value: &mut Value, _: Operation<'_>) {
        edit::no_generation(value);
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let mut errors = Errors::default();
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        let Some(range) = metadata::check::<LimitRange>(&mut errors, named, value, op) else {
            return errors.into_causes();
        };
        let items = range.spec.map(|spec| spec.limits).unwrap_or_default();
        let mut seen = std::collections::BTreeSet::new();
        for (index, item) in items.iter().enumerate() {
            let path = Path::new("spec.limits").index(index);
            errors.one_of(
                &path.child("type"),
                Some(&item.type_),
                &["Container", "PersistentVolumeClaim", "Pod"],
            );
            if !seen.insert(item.type_.as_str()) {
                errors.duplicate(&path.child("type"), &item.type_);
            }
            check(&mut errors, &path, item);
        }
        errors.into_causes()
    }

    fn columns(&self) -> &'static [Column] {
        CREATED
    }

    fn row(&self, object: &Object, _: i64) -> Vec<Value> {
        vec![table::name(object), object.meta.creation_timestamp.clone().into()]
    }
}

const CREATED: &[Column] = &[
    table::NAME,
    Column {
        name: "Created At",
        kind: "date",
        format: "",
        priority: 0,
        description: "CreationTimestamp is a timestamp representing the server time when this object was created.",
    },
];

type Amounts = Option<BTreeMap<String, Text>>;

fn check(errors: &mut Errors, path: &Path, item: &LimitRangeItem) {
    let lists = [
        ("max", &item.max),
        ("min", &item.min),
        ("default", &item.default),
        ("defaultRequest", &item.default_request),
        ("maxLimitRequestRatio", &item.max_limit_request_ratio),
    ];
    for (field, amounts) in lists {
        if item.type_ == "Pod" && matches!(field, "default" | "defaultRequest") && amounts.is_some()
        {
            errors.forbidden(&path.child(field), "may not be specified when `type` is 'Pod'");
        }
        for (name, amount) in amounts.iter().flatten() {
            if let Err(why) = Quantity::parse(&amount.0) {
                errors.invalid(&path.child(field).key(name), &amount.0, &why.to_string());
            }
        }
    }
    let ordered = [
        ("min", &item.min, "max", &item.max),
        ("min", &item.min, "defaultRequest", &item.default_request),
        ("defaultRequest", &item.default_request, "default", &item.default),
        ("default", &item.default, "max", &item.max),
    ];
    for (low_field, low, high_field, high) in ordered {
        for (name, small, large) in pairs(low, high) {
            if small > large {
                let why = format!("{low_field} value is greater than {high_field} value");
                errors.invalid(&path.child(low_field).key(name), name, &why);
            }
        }
    }
}

fn pairs<'a>(low: &'a Amounts, high: &'a Amounts) -> Vec<(&'a str, Quantity, Quantity)> {
    let both = |(name, small): (&'a String, &'a Text)| {
        let large = high.as_ref()?.get(name)?;
        let (small, large) = (Quantity::parse(&small.0).ok()?, Quantity::parse(&large.0).ok()?);
        Some((name.as_str(), small, large))
    };
    low.iter().flatten().filter_map(both).collect()
}
