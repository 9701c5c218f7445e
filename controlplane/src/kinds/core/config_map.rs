//! ConfigMap.

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::Value;

use crate::kinds::field::{Errors, Path};
use crate::kinds::{Column, Kind, Operation, Strategy, edit, metadata, names, table, typed};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    resource: "configmaps",
    short_names: &["cm"],
    categories: &[],
    namespaced: true,
    subresources: &[],
    strategy: &ConfigMaps,
};

const COLUMNS: &[Column] =
    &[table::NAME, table::text("Data", "Data contains the configuration data."), table::AGE];
/// Bytes of all values together.
pub(super) const MAX_SIZE: usize = 1024 * 1024;
pub(super) const IMMUTABLE: &str = "field is immutable when `immutable` is set";

struct ConfigMaps;

impl Strategy for ConfigMaps {
    typed!(ConfigMap);

    fn prepare(&self, value: &mut Value, _: Operation<'_>) {
        edit::no_generation(value);
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let mut errors = Errors::default();
        let Some(map) =
            metadata::check::<ConfigMap>(&mut errors, (&KIND, names::dns_subdomain), value, op)
        else {
            return errors.into_causes();
        };
        check(&mut errors, &map);
        if let Operation::Update { old, .. } = op {
            frozen(&mut errors, value, old, &["data", "binaryData"]);
        }
        errors.into_causes()
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let count = object.view::<ConfigMap>().map_or(0, |map| {
            map.data.as_ref().map_or(0, |d| d.len())
                + map.binary_data.as_ref().map_or(0, |d| d.len())
        });
        vec![table::name(object), count.into(), table::age(object, now)]
    }
}

fn check(errors: &mut Errors, map: &ConfigMap) {
    let (data, binary) = (map.data.iter().flatten(), map.binary_data.iter().flatten());
    let mut size = 0;
    for (key, text) in data {
        let path = Path::new("data").key(key);
        errors.all_invalid(&path, key, names::config_key(key));
        if map.binary_data.as_ref().is_some_and(|b| b.contains_key(key)) {
            errors.invalid(&path, key, "duplicate of key present in binaryData");
        }
        size += text.len();
    }
    for (key, bytes) in binary {
        errors.all_invalid(&Path::new("binaryData").key(key), key, names::config_key(key));
        size += bytes.0.len();
    }
    if size > MAX_SIZE {
        errors.too_long(&Path::new(""), MAX_SIZE);
    }
}

/// Nothing of `fields` changes once `immutable` is set, and it stays set.
pub(super) fn frozen(errors: &mut Errors, value: &Value, old: &Value, fields: &[&str]) {
    if old["immutable"] != true {
        return;
    }
    if value["immutable"] != true {
        errors.forbidden(&Path::new("immutable"), IMMUTABLE);
    }
    for field in fields {
        if value.get(field) != old.get(field) {
            errors.forbidden(&Path::new(field), IMMUTABLE);
        }
    }
}
