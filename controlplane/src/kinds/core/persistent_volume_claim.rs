//! PersistentVolumeClaim.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec};
use serde_json::{Value, json};

use super::persistent_volume::{access_modes, modes_cell, storage_cell};
use crate::kinds::field::{Errors, Path};
use crate::kinds::{
    Column, Kind, Operation, Quantity, Strategy, edit, metadata, names, table, template, typed,
};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "PersistentVolumeClaim",
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    resource: "persistentvolumeclaims",
    short_names: &["pvc"],
    categories: &[],
    namespaced: true,
    subresources: &["status"],
    strategy: &Claims,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::text("Status", "phase represents the current phase of PersistentVolumeClaim."),
    table::text(
        "Volume",
        "volumeName is the binding reference to the PersistentVolume backing this claim.",
    ),
    table::text("Capacity", "capacity represents the actual resources of the underlying volume."),
    table::text("Access Modes", "accessModes contains the desired access modes of the volume."),
    table::text("StorageClass", "Name of the StorageClass required by the claim."),
    table::text("VolumeAttributesClass", "Name of the VolumeAttributesClass used by this claim."),
    table::AGE,
    table::wide("VolumeMode", "volumeMode defines what type of volume is required by the claim."),
];

/// What a claim named its class by before there was a field.
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const UNSUPPORTED: &str = "not supported by this control plane";

struct Claims;

impl Strategy for Claims {
    typed!(PersistentVolumeClaim);

    fn default(&self, value: &mut Value) {
        if let Some(claim) = value.as_object_mut() {
            default(claim);
        }
    }

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        edit::guard_status(value, op);
        edit::no_generation(value);
        if let (Operation::Create, Some(claim)) = (op, value.as_object_mut()) {
            claim.insert("status".into(), json!({"phase": "Pending"}));
        }
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        metadata::validated::<PersistentVolumeClaim>(named, value, op, |errors, claim| {
            let Some(spec) = &claim.spec else { return errors.required(&Path::new("spec"), "") };
            check(errors, &Path::new("spec"), spec);
            if let Operation::Update { old, .. } = op {
                frozen(errors, value, old);
            }
        })
    }

    fn warn(&self, value: &Value, op: Operation<'_>) -> Vec<String> {
        let alone = json!("ReadWriteOncePod");
        let asked = value["spec"]["accessModes"].as_array().is_some_and(|m| m.contains(&alone));
        if asked && matches!(op, Operation::Create) {
            return vec!["spec.accessModes: ReadWriteOncePod is not enforced: several Pods of one node may use the claim".into()];
        }
        Vec::new()
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let claim = object.view::<PersistentVolumeClaim>().unwrap_or_default();
        let spec = claim.spec.clone().unwrap_or_default();
        let status = claim.status.clone().unwrap_or_default();
        let volume = spec.volume_name.unwrap_or_default();
        let (capacity, modes) = match volume.is_empty() {
            true => (String::new(), String::new()),
            false => {
                (storage_cell(status.capacity.as_ref()), modes_cell(status.access_modes.as_deref()))
            }
        };
        let phase = match object.meta.deletion_timestamp {
            Some(_) => "Terminating".into(),
            None => status.phase.unwrap_or_default(),
        };
        let class = claim.metadata.annotations.as_ref().and_then(|a| a.get(BETA_CLASS).cloned());
        let attributes = spec.volume_attributes_class_name.unwrap_or_else(|| "<unset>".into());
        vec![
            table::name(object),
            phase.into(),
            volume.into(),
            capacity.into(),
            modes.into(),
            class.or(spec.storage_class_name).unwrap_or_default().into(),
            attributes.into(),
            table::age(object, now),
            spec.volume_mode.unwrap_or_else(|| "<unset>".into()).into(),
        ]
    }
}

/// Of a claim, or of a template for claims.
pub(in crate::kinds) fn default(claim: &mut edit::Object) {
    edit::default_to(edit::make(claim, "spec"), "volumeMode", "Filesystem");
}

pub(in crate::kinds) fn check(errors: &mut Errors, path: &Path, spec: &PersistentVolumeClaimSpec) {
    if let Some(selector) = &spec.selector {
        template::label_selector(errors, &path.child("selector"), selector);
    }
    let at = path.child("accessModes");
    if spec.access_modes.as_deref().unwrap_or_default().is_empty() {
        errors.required(&at, "at least one access mode is required");
    }
    access_modes(errors, &at, spec.access_modes.as_deref().unwrap_or_default());
    size(errors, &path.child("resources"), spec);
    let class = spec.storage_class_name.as_deref().unwrap_or_default();
    if !class.is_empty() {
        errors.all_invalid(&path.child("storageClassName"), class, names::dns_subdomain(class));
    }
    let modes = &["Block", "Filesystem"];
    errors.optional_one_of(&path.child("volumeMode"), spec.volume_mode.as_deref(), modes);
    for (name, is_set) in [
        ("dataSource", spec.data_source.is_some()),
        ("dataSourceRef", spec.data_source_ref.is_some()),
        ("volumeAttributesClassName", spec.volume_attributes_class_name.is_some()),
    ] {
        if is_set {
            errors.forbidden(&path.child(name), UNSUPPORTED);
        }
    }
}

fn size(errors: &mut Errors, path: &Path, spec: &PersistentVolumeClaimSpec) {
    let requests = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    let at = path.child("requests").key("storage");
    let Some(asked) = requests.and_then(|r| r.get("storage")) else {
        return errors.required(&at, "");
    };
    positive(errors, &at, &asked.0);
}

pub(super) fn positive(errors: &mut Errors, path: &Path, amount: &str) {
    let parsed = Quantity::parse(amount);
    if parsed.map_or(true, |amount| amount.is_negative() || amount.is_zero()) {
        errors.invalid(path, amount, "must be greater than zero");
    }
}

/// A claim is a contract; only what was left open may be filled in.
fn frozen(errors: &mut Errors, value: &Value, old: &Value) {
    let open = |spec: &mut Value, field: &str, empty: &dyn Fn(&Value) -> bool| {
        if empty(&old["spec"][field])
            && let Some(spec) = spec.as_object_mut()
        {
            spec.remove(field);
        }
    };
    let mut new = value["spec"].clone();
    open(&mut new, "volumeName", &|v| v.as_str().unwrap_or_default().is_empty());
    open(&mut new, "storageClassName", &Value::is_null);
    let mut before = old["spec"].clone();
    open(&mut before, "volumeName", &|v| v.as_str().unwrap_or_default().is_empty());
    let asked = |spec: &Value| spec["resources"]["requests"]["storage"].clone();
    let (now, then) = (asked(&new), asked(&before));
    for spec in [&mut new, &mut before] {
        if let Some(requests) =
            spec.pointer_mut("/resources/requests").and_then(Value::as_object_mut)
        {
            requests.remove("storage");
        }
    }
    let path = Path::new("spec");
    if new != before {
        errors.forbidden(&path, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n");
    } else if now != then {
        grown(
            errors,
            &path.child("resources").child("requests").child("storage"),
            old,
            (&now, &then),
        );
    }
}

fn grown(errors: &mut Errors, path: &Path, old: &Value, (now, then): (&Value, &Value)) {
    let amount =
        |v: &Value| Quantity::parse(v.as_str().unwrap_or_default()).unwrap_or(Quantity::ZERO);
    if old["status"]["phase"] != "Bound" {
        errors.forbidden(&Path::new("spec"), "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n");
    } else if amount(now) < amount(then) {
        errors.forbidden(path, "field can not be less than status.capacity");
    }
}
