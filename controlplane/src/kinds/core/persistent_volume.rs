//! PersistentVolume, and what claims share with it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeSpec};
use k8s_openapi::apimachinery::pkg::api::resource;
use serde_json::{Value, json};

use super::persistent_volume_claim::positive;
use super::pod::check::scheduling;
use crate::kinds::field::{Errors, Path};
use crate::kinds::{Column, Kind, Operation, Strategy, edit, metadata, names, table, typed};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "PersistentVolume",
    plural: "persistentvolumes",
    singular: "persistentvolume",
    resource: "persistentvolumes",
    short_names: &["pv"],
    categories: &[],
    namespaced: false,
    subresources: &["status"],
    strategy: &Volumes,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::text("Capacity", "capacity is the description of the persistent volume's resources."),
    table::text("Access Modes", "accessModes contains all ways the volume can be mounted."),
    table::text("Reclaim Policy", "What happens to the volume when released from its claim."),
    table::text(
        "Status",
        "phase indicates if a volume is available, bound to a claim, or released.",
    ),
    table::text("Claim", "The claim that the volume is bound to."),
    table::text("StorageClass", "Name of StorageClass to which this persistent volume belongs."),
    table::text("VolumeAttributesClass", "Name of the VolumeAttributesClass of this volume."),
    table::text("Reason", "Why the volume is in its state."),
    table::AGE,
    table::wide("VolumeMode", "Whether the volume is a filesystem or a raw block device."),
];

/// All other fields of the spec are sources.
const NO_SOURCE: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];
/// Sources that the node agent can put into a Pod.
const MOUNTED: [&str; 2] = ["hostPath", "local"];

struct Volumes;

impl Strategy for Volumes {
    typed!(PersistentVolume);

    fn default(&self, value: &mut Value) {
        let Some(volume) = value.as_object_mut() else { return };
        let spec = edit::make(volume, "spec");
        edit::default_to(spec, "persistentVolumeReclaimPolicy", "Retain");
        edit::default_to(spec, "volumeMode", "Filesystem");
        if let Some(host) = edit::child(spec, "hostPath")
            && !host.contains_key("type")
        {
            host.insert("type".into(), "".into());
        }
    }

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        edit::guard_status(value, op);
        edit::no_generation(value);
        if let (Operation::Create, Some(volume)) = (op, value.as_object_mut()) {
            volume.insert("status".into(), json!({"phase": "Pending"}));
        }
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        metadata::validated::<PersistentVolume>(named, value, op, |errors, volume| {
            let Some(spec) = &volume.spec else { return errors.required(&Path::new("spec"), "") };
            check(errors, value, spec);
            if let Operation::Update { old, .. } = op {
                frozen(errors, value, old);
            }
        })
    }

    fn warn(&self, value: &Value, op: Operation<'_>) -> Vec<String> {
        if !matches!(op, Operation::Create) {
            return Vec::new();
        }
        let others =
            sources(value).into_iter().filter(|source| !MOUNTED.contains(&source.as_str()));
        others.map(|source| format!("spec.{source}: nothing on this cluster's nodes mounts it unless a driver is installed")).collect()
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let volume = object.view::<PersistentVolume>().unwrap_or_default();
        let spec = volume.spec.clone().unwrap_or_default();
        let status = volume.status.clone().unwrap_or_default();
        let claim = spec.claim_ref.map(|claim| {
            let text = |t: Option<String>| t.unwrap_or_default();
            format!("{}/{}", text(claim.namespace), text(claim.name))
        });
        let phase = match object.meta.deletion_timestamp {
            Some(_) => "Terminating".into(),
            None => status.phase.unwrap_or_default(),
        };
        let unset = || "<unset>".to_owned();
        vec![
            table::name(object),
            storage_cell(spec.capacity.as_ref()).into(),
            modes_cell(spec.access_modes.as_deref()).into(),
            spec.persistent_volume_reclaim_policy.unwrap_or_default().into(),
            phase.into(),
            claim.unwrap_or_default().into(),
            spec.storage_class_name.unwrap_or_default().into(),
            spec.volume_attributes_class_name.unwrap_or_else(unset).into(),
            status.reason.unwrap_or_default().into(),
            table::age(object, now),
            spec.volume_mode.unwrap_or_else(unset).into(),
        ]
    }
}

fn sources(value: &Value) -> Vec<String> {
    let fields = value["spec"].as_object().into_iter().flat_map(|spec| spec.keys());
    fields.filter(|field| !NO_SOURCE.contains(&field.as_str())).cloned().collect()
}

fn check(errors: &mut Errors, value: &Value, spec: &PersistentVolumeSpec) {
    let path = Path::new("spec");
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if modes.is_empty() {
        errors.required(&path.child("accessModes"), "");
    }
    access_modes(errors, &path.child("accessModes"), modes);
    capacity(errors, &path.child("capacity"), spec);
    let policy = spec.persistent_volume_reclaim_policy.as_deref();
    let at = path.child("persistentVolumeReclaimPolicy");
    // Recycling is deprecated for long, and would run a Pod of its own.
    errors.optional_one_of(&at, policy, &["Delete", "Retain"]);
    let modes = &["Block", "Filesystem"];
    errors.optional_one_of(&path.child("volumeMode"), spec.volume_mode.as_deref(), modes);
    let class = spec.storage_class_name.as_deref().unwrap_or_default();
    if !class.is_empty() {
        errors.all_invalid(&path.child("storageClassName"), class, names::dns_subdomain(class));
    }
    affinity(errors, &path.child("nodeAffinity"), spec);
    source(errors, &path, value, spec);
}

fn capacity(errors: &mut Errors, path: &Path, spec: &PersistentVolumeSpec) {
    let capacity = spec.capacity.clone().unwrap_or_default();
    if capacity.is_empty() {
        errors.required(path, "");
    }
    for (name, amount) in &capacity {
        if name == "storage" {
            positive(errors, &path.key(name), &amount.0);
        } else {
            errors.not_supported(path, name, &["storage"]);
        }
    }
}

fn affinity(errors: &mut Errors, path: &Path, spec: &PersistentVolumeSpec) {
    let Some(affinity) = &spec.node_affinity else { return };
    let at = path.child("required");
    match &affinity.required {
        None => errors.required(&at, "must specify required node constraints"),
        Some(required) => scheduling::node_selector(errors, &at, required),
    }
}

fn source(errors: &mut Errors, path: &Path, value: &Value, spec: &PersistentVolumeSpec) {
    match sources(value).as_slice() {
        [] => errors.required(path, "must specify a volume type"),
        [_] => {}
        [_, more @ ..] => {
            for field in more {
                errors.forbidden(&path.child(field), "may not specify more than 1 volume type");
            }
        }
    }
    let places = [
        ("hostPath", spec.host_path.as_ref().map(|host| &host.path)),
        ("local", spec.local.as_ref().map(|local| &local.path)),
    ];
    for (name, place) in places {
        let Some(place) = place else { continue };
        let at = path.child(name).child("path");
        if place.is_empty() {
            errors.required(&at, "");
        } else if place.split('/').any(|part| part == "..") {
            errors.invalid(&at, place, "must not contain '..'");
        }
    }
    if spec.local.is_some() && spec.node_affinity.is_none() {
        errors.required(&path.child("nodeAffinity"), "Local volume requires node affinity");
    }
}

fn frozen(errors: &mut Errors, value: &Value, old: &Value) {
    let place = |value: &Value| -> BTreeMap<String, Value> {
        sources(value).into_iter().map(|name| (name.clone(), value["spec"][name].clone())).collect()
    };
    if place(value) != place(old) {
        let at = Path::new("spec").child("persistentvolumesource");
        errors.forbidden(&at, "spec.persistentvolumesource is immutable after creation");
    }
    for field in ["volumeMode", "nodeAffinity"] {
        let (new, old) = (&value["spec"][field], &old["spec"][field]);
        if !old.is_null() && new != old {
            errors.invalid(&Path::new("spec").child(field), new.to_string(), "field is immutable");
        }
    }
}

pub(super) fn access_modes(errors: &mut Errors, path: &Path, modes: &[String]) {
    const KNOWN: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    for mode in modes.iter().filter(|mode| !KNOWN.contains(&mode.as_str())) {
        errors.not_supported(path, mode, KNOWN);
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        errors.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

/// `RWO,ROX`
pub(super) fn modes_cell(modes: Option<&[String]>) -> String {
    let given: BTreeSet<&str> = modes.unwrap_or_default().iter().map(String::as_str).collect();
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let shown: Vec<&str> =
        short.iter().filter(|(mode, _)| given.contains(mode)).map(|(_, short)| *short).collect();
    shown.join(",")
}

pub(super) fn storage_cell(amounts: Option<&BTreeMap<String, resource::Quantity>>) -> String {
    amounts.and_then(|a| a.get("storage")).map(|amount| amount.0.clone()).unwrap_or_default()
}
