//! CSIDriver, CSINode, VolumeAttachment: what drivers and their attachers tell each other. Stored for them; nothing
//! here mounts by a driver, and whoever writes one is told.

use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, VolumeAttachment};
use serde_json::{Value, json};

use crate::kinds::field::{Errors, Path};
use crate::kinds::{Column, Kind, Operation, Strategy, edit, metadata, names, table, typed};
use crate::object::Object;
use crate::status::Cause;

const GROUP: &str = "storage.k8s.io";
const NOBODY: &str = "this cluster's nodes mount nothing by CSI drivers yet";

const fn kind(
    names: [&'static str; 4],
    subresources: &'static [&'static str],
    strategy: &'static dyn Strategy,
) -> Kind {
    let [kind, plural, singular, resource] = names;
    Kind {
        group: GROUP,
        version: "v1",
        kind,
        plural,
        singular,
        resource,
        short_names: &[],
        categories: &[],
        namespaced: false,
        subresources,
        strategy,
    }
}

pub(in crate::kinds) const DRIVER: Kind =
    kind(["CSIDriver", "csidrivers", "csidriver", "csidrivers.storage.k8s.io"], &[], &Drivers);
pub(in crate::kinds) const NODE: Kind =
    kind(["CSINode", "csinodes", "csinode", "csinodes.storage.k8s.io"], &[], &Nodes);
pub(in crate::kinds) const ATTACHMENT: Kind = kind(
    [
        "VolumeAttachment",
        "volumeattachments",
        "volumeattachment",
        "volumeattachments.storage.k8s.io",
    ],
    &["status"],
    &Attachments,
);

const DRIVER_COLUMNS: &[Column] = &[
    table::NAME,
    boolean("AttachRequired", "Whether volumes need to be attached to a node."),
    boolean("PodInfoOnMount", "Whether the driver is told of the pod that mounts."),
    boolean("StorageCapacity", "Whether capacity is considered when scheduling."),
    table::text("TokenRequests", "Audiences of the tokens that the driver gets."),
    boolean("RequiresRepublish", "Whether volumes are republished periodically."),
    table::text("Modes", "The volume modes that the driver supports."),
    table::AGE,
];
const NODE_COLUMNS: &[Column] = &[
    table::NAME,
    table::integer("Drivers", "Drivers indicates the number of CSI drivers registered on the node"),
    table::AGE,
];
const ATTACHMENT_COLUMNS: &[Column] = &[
    table::NAME,
    table::text("Attacher", "The name of the driver that must handle this request."),
    table::text("PV", "The volume to attach."),
    table::text("Node", "The node that the volume should be attached to."),
    boolean("Attached", "Whether the volume is attached."),
    table::AGE,
];

const fn boolean(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "boolean", format: "", priority: 0, description }
}

fn told(op: Operation<'_>) -> Vec<String> {
    if matches!(op, Operation::Create) { vec![NOBODY.into()] } else { Vec::new() }
}

fn driver_name(errors: &mut Errors, path: &Path, name: &str) {
    if name.is_empty() {
        errors.required(path, "");
    } else if name.len() > 63 {
        errors.too_long(path, 63);
    } else {
        errors.all_invalid(path, name, names::dns_subdomain(&name.to_lowercase()));
    }
}

struct Drivers;

impl Strategy for Drivers {
    typed!(CSIDriver);

    fn default(&self, value: &mut Value) {
        let Some(driver) = value.as_object_mut() else { return };
        let spec = edit::make(driver, "spec");
        edit::default_to(spec, "attachRequired", true);
        edit::default_to(spec, "podInfoOnMount", false);
        edit::default_to(spec, "storageCapacity", false);
        edit::default_to(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        edit::default_to(spec, "requiresRepublish", false);
        edit::default_to(spec, "seLinuxMount", false);
        if spec.get("volumeLifecycleModes").is_none_or(Value::is_null) {
            spec.insert("volumeLifecycleModes".into(), json!(["Persistent"]));
        }
    }

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        edit::count_generation(value, op);
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let named = (&DRIVER, names::dns_subdomain as fn(&str) -> Vec<String>);
        metadata::validated::<CSIDriver>(named, value, op, |errors, driver| {
            let name = driver.metadata.name.as_deref().unwrap_or_default();
            driver_name(errors, &Path::new("metadata.name"), name);
            let path = Path::new("spec");
            for mode in driver.spec.volume_lifecycle_modes.iter().flatten() {
                let known = &["Ephemeral", "Persistent"];
                errors.one_of(&path.child("volumeLifecycleModes"), Some(mode), known);
            }
            let policy = driver.spec.fs_group_policy.as_deref();
            let known = &["File", "None", "ReadWriteOnceWithFSType"];
            errors.optional_one_of(&path.child("fsGroupPolicy"), policy, known);
        })
    }

    fn warn(&self, _: &Value, op: Operation<'_>) -> Vec<String> {
        told(op)
    }

    fn columns(&self) -> &'static [Column] {
        DRIVER_COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let driver = object.view::<CSIDriver>().unwrap_or_default();
        let spec = &driver.spec;
        let tokens = spec.token_requests.iter().flatten().map(|t| t.audience.clone());
        let unset =
            |text: String| if text.is_empty() { "<unset>".into() } else { Value::from(text) };
        vec![
            table::name(object),
            spec.attach_required.unwrap_or(true).into(),
            spec.pod_info_on_mount.unwrap_or(false).into(),
            spec.storage_capacity.unwrap_or(false).into(),
            unset(tokens.collect::<Vec<_>>().join(",")),
            spec.requires_republish.unwrap_or(false).into(),
            spec.volume_lifecycle_modes.clone().unwrap_or_default().join(",").into(),
            table::age(object, now),
        ]
    }
}

struct Nodes;

impl Strategy for Nodes {
    typed!(CSINode);

    fn prepare(&self, value: &mut Value, _: Operation<'_>) {
        edit::no_generation(value);
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let named = (&NODE, names::dns_subdomain as fn(&str) -> Vec<String>);
        metadata::validated::<CSINode>(named, value, op, |errors, node| {
            for (index, driver) in node.spec.drivers.iter().enumerate() {
                let at = Path::new("spec").child("drivers").index(index);
                driver_name(errors, &at.child("name"), &driver.name);
                if driver.node_id.is_empty() {
                    errors.required(&at.child("nodeID"), "");
                }
            }
        })
    }

    fn warn(&self, _: &Value, op: Operation<'_>) -> Vec<String> {
        told(op)
    }

    fn columns(&self) -> &'static [Column] {
        NODE_COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let count = object.view::<CSINode>().map_or(0, |node| node.spec.drivers.len());
        vec![table::name(object), count.into(), table::age(object, now)]
    }
}

struct Attachments;

impl Strategy for Attachments {
    typed!(VolumeAttachment);

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        edit::guard_status(value, op);
        edit::no_generation(value);
        if let Operation::Create = op {
            value["status"] = json!({"attached": false});
        }
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let named = (&ATTACHMENT, names::dns_subdomain as fn(&str) -> Vec<String>);
        metadata::validated::<VolumeAttachment>(named, value, op, |errors, attachment| {
            let path = Path::new("spec");
            driver_name(errors, &path.child("attacher"), &attachment.spec.attacher);
            if attachment.spec.node_name.is_empty() {
                errors.required(&path.child("nodeName"), "");
            }
            let source = &attachment.spec.source;
            let at = path.child("source");
            match (&source.persistent_volume_name, &source.inline_volume_spec) {
                (None, None) => errors.required(
                    &at,
                    "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
                ),
                (Some(_), Some(_)) => errors.forbidden(
                    &at,
                    "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
                ),
                _ => {}
            }
            if let Operation::Update { old, .. } = op
                && old["spec"] != value["spec"]
            {
                errors.invalid(&path, "", "field is immutable");
            }
        })
    }

    fn warn(&self, _: &Value, op: Operation<'_>) -> Vec<String> {
        told(op)
    }

    fn columns(&self) -> &'static [Column] {
        ATTACHMENT_COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let attachment = object.view::<VolumeAttachment>().unwrap_or_default();
        let spec = &attachment.spec;
        vec![
            table::name(object),
            spec.attacher.as_str().into(),
            spec.source.persistent_volume_name.clone().unwrap_or_default().into(),
            spec.node_name.as_str().into(),
            attachment.status.as_ref().is_some_and(|status| status.attached).into(),
            table::age(object, now),
        ]
    }
}
