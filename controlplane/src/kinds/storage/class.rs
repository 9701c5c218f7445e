//! StorageClass.

use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::Value;

use crate::kinds::field::{Errors, Path};
use crate::kinds::{Column, Kind, Operation, Strategy, edit, metadata, names, table, typed};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const KIND: Kind = Kind {
    group: "storage.k8s.io",
    version: "v1",
    kind: "StorageClass",
    plural: "storageclasses",
    singular: "storageclass",
    resource: "storageclasses.storage.k8s.io",
    short_names: &["sc"],
    categories: &[],
    namespaced: false,
    subresources: &[],
    strategy: &Classes,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::text("Provisioner", "provisioner indicates the type of the provisioner."),
    table::text("ReclaimPolicy", "reclaimPolicy of dynamically provisioned volumes of this class."),
    table::text("VolumeBindingMode", "How claims should be provisioned and bound."),
    Column {
        name: "AllowVolumeExpansion",
        kind: "boolean",
        format: "",
        priority: 0,
        description: "Whether the storage class allows volume expand.",
    },
    table::AGE,
];

const IS_DEFAULT: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
const PARAMETERS: usize = 512;
const PARAMETERS_SIZE: usize = 256 * 1024;

struct Classes;

impl Strategy for Classes {
    typed!(StorageClass);

    fn default(&self, value: &mut Value) {
        if let Some(class) = value.as_object_mut() {
            edit::default_to(class, "reclaimPolicy", "Delete");
            edit::default_to(class, "volumeBindingMode", "Immediate");
        }
    }

    fn prepare(&self, value: &mut Value, _: Operation<'_>) {
        edit::no_generation(value);
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        metadata::validated::<StorageClass>(named, value, op, |errors, class| {
            check(errors, class);
            if let Operation::Update { old, .. } = op {
                frozen(errors, value, old);
            }
        })
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let class = object.view::<StorageClass>().unwrap_or_default();
        let notes = class.metadata.annotations.clone().unwrap_or_default();
        let is_default = IS_DEFAULT.iter().any(|key| notes.get(*key).is_some_and(|v| v == "true"));
        let name = &object.meta.name;
        vec![
            if is_default { format!("{name} (default)").into() } else { table::name(object) },
            class.provisioner.clone().into(),
            class.reclaim_policy.clone().unwrap_or_default().into(),
            class.volume_binding_mode.clone().unwrap_or_default().into(),
            class.allow_volume_expansion.unwrap_or(false).into(),
            table::age(object, now),
        ]
    }
}

fn check(errors: &mut Errors, class: &StorageClass) {
    let at = Path::new("provisioner");
    match class.provisioner.as_str() {
        "" => errors.required(&at, ""),
        name => errors.all_invalid(&at, name, names::qualified_name(&name.to_lowercase())),
    }
    let parameters = class.parameters.clone().unwrap_or_default();
    let at = Path::new("parameters");
    if parameters.len() > PARAMETERS {
        errors.too_many(&at, parameters.len(), PARAMETERS);
    }
    if parameters.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() > PARAMETERS_SIZE {
        errors.too_long(&at, PARAMETERS_SIZE);
    }
    if parameters.contains_key("") {
        errors.invalid(&at, "", "field can not be empty.");
    }
    let policy = class.reclaim_policy.as_deref();
    errors.one_of(&Path::new("reclaimPolicy"), policy, &["Delete", "Retain"]);
    let mode = class.volume_binding_mode.as_deref();
    errors.one_of(&Path::new("volumeBindingMode"), mode, &["Immediate", "WaitForFirstConsumer"]);
    for (index, term) in class.allowed_topologies.iter().flatten().enumerate() {
        let list = Path::new("allowedTopologies").index(index).child("matchLabelExpressions");
        for (index, need) in term.match_label_expressions.iter().flatten().enumerate() {
            let at = list.index(index);
            errors.all_invalid(&at.child("key"), &need.key, names::qualified_name(&need.key));
            if need.values.is_empty() {
                errors.required(&at.child("values"), "");
            }
        }
    }
}

/// Volumes that exist were made by these.
fn frozen(errors: &mut Errors, value: &Value, old: &Value) {
    for field in ["parameters", "provisioner", "reclaimPolicy"] {
        if value[field] != old[field] {
            errors.forbidden(&Path::new(field), &format!("updates to {field} are forbidden."));
        }
    }
    if value["volumeBindingMode"] != old["volumeBindingMode"] {
        let given = value["volumeBindingMode"].as_str().unwrap_or_default();
        errors.invalid(&Path::new("volumeBindingMode"), given, "field is immutable");
    }
}
