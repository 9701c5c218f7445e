//! StatefulSet.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, PodTemplateSpec, Volume};
use serde_json::{Value, json};

use super::deployment::rolling_value;
use crate::kinds::core::persistent_volume_claim as claim;
use crate::kinds::field::{Errors, Path};
use crate::kinds::{
    Column, Kind, Operation, Strategy, edit, metadata, names, table, template, typed,
};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "StatefulSet",
    plural: "statefulsets",
    singular: "statefulset",
    resource: "statefulsets.apps",
    short_names: &["sts"],
    categories: &["all"],
    namespaced: true,
    subresources: &["scale", "status"],
    strategy: &StatefulSets,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::text("Ready", "Number of the pod with ready state"),
    table::AGE,
    table::wide("Containers", "Names of each container in the template."),
    table::wide("Images", "Images referenced by each container in the template."),
];

/// What may change in a set that exists.
const MUTABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];
const FROZEN: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

struct StatefulSets;

impl Strategy for StatefulSets {
    typed!(StatefulSet);

    fn default(&self, value: &mut Value) {
        let Some(set) = value.as_object_mut() else { return };
        let spec = edit::make(set, "spec");
        edit::default_to(spec, "podManagementPolicy", "OrderedReady");
        edit::default_to(spec, "replicas", 1);
        edit::default_to(spec, "revisionHistoryLimit", 10);
        let strategy = edit::make(spec, "updateStrategy");
        edit::default_to(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            edit::default_to(edit::make(strategy, "rollingUpdate"), "partition", 0);
        }
        let retention = edit::make(spec, "persistentVolumeClaimRetentionPolicy");
        edit::default_to(retention, "whenDeleted", "Retain");
        edit::default_to(retention, "whenScaled", "Retain");
        for one in edit::each(spec, "volumeClaimTemplates") {
            edit::default_to(one, "apiVersion", "v1");
            edit::default_to(one, "kind", "PersistentVolumeClaim");
            claim::default(one);
            edit::default_to(edit::make(one, "status"), "phase", "Pending");
        }
        template::default(spec);
    }

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        edit::guard_status(value, op);
        edit::count_generation(value, op);
        if let (Operation::Create, Some(set)) = (op, value.as_object_mut()) {
            set.insert("status".into(), json!({"replicas": 0, "availableReplicas": 0}));
        }
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        metadata::validated::<StatefulSet>(named, value, op, |errors, set| match &set.spec {
            None => errors.required(&Path::new("spec"), ""),
            Some(spec) => check(errors, value, spec, op),
        })
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let set = object.view::<StatefulSet>().unwrap_or_default();
        let empty = StatefulSetSpec::default();
        let spec = set.spec.as_ref().unwrap_or(&empty);
        let ready = set.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
        let [containers, images] = table::containers(Some(&spec.template));
        vec![
            table::name(object),
            format!("{ready}/{}", spec.replicas.unwrap_or(0)).into(),
            table::age(object, now),
            containers,
            images,
        ]
    }
}

fn check(errors: &mut Errors, value: &Value, spec: &StatefulSetSpec, op: Operation<'_>) {
    let path = Path::new("spec");
    for (name, number) in [
        ("replicas", spec.replicas),
        ("minReadySeconds", spec.min_ready_seconds),
        ("revisionHistoryLimit", spec.revision_history_limit),
    ] {
        errors.not_negative(&path.child(name), number.map(i64::from));
    }
    let start = spec.ordinals.as_ref().and_then(|o| o.start).map(i64::from);
    errors.not_negative(&path.child("ordinals").child("start"), start);
    let at = path.child("podManagementPolicy");
    match spec.pod_management_policy.as_deref().unwrap_or_default() {
        "" => errors.required(&at, ""),
        "OrderedReady" | "Parallel" => {}
        other => errors.invalid(&at, other, "must be 'OrderedReady' or 'Parallel'"),
    }
    if let Some(update) = &spec.update_strategy {
        strategy(errors, &path.child("updateStrategy"), update);
    }
    retention(errors, &path.child("persistentVolumeClaimRetentionPolicy"), spec);
    for (index, one) in spec.volume_claim_templates.iter().flatten().enumerate() {
        claim_template(errors, &path.child("volumeClaimTemplates").index(index), one);
    }
    let template = with_claims(spec);
    let workload = template::Workload { value, selector: &spec.selector, template: &template };
    // That the selector stays is said with the other fields.
    template::check(errors, &path, workload, Operation::Create);
    if let Operation::Update { old, .. } = op
        && rest(value) != rest(old)
    {
        errors.forbidden(&path, FROZEN);
    }
}

/// The template with the volumes that its Pods will have.
fn with_claims(spec: &StatefulSetSpec) -> PodTemplateSpec {
    let mut template = spec.template.clone();
    let Some(pod) = &mut template.spec else { return template };
    let volumes = pod.volumes.get_or_insert_default();
    for claim in spec.volume_claim_templates.iter().flatten() {
        let name = claim.metadata.name.clone().unwrap_or_default();
        volumes.retain(|volume| volume.name != name);
        let source =
            PersistentVolumeClaimVolumeSource { claim_name: name.clone(), read_only: None };
        let persistent_volume_claim = Some(source);
        volumes.push(Volume { name, persistent_volume_claim, ..Volume::default() });
    }
    template
}

fn rest(value: &Value) -> Value {
    let mut spec = value["spec"].clone();
    if let Some(spec) = spec.as_object_mut() {
        spec.retain(|field, _| !MUTABLE.contains(&field.as_str()));
    }
    spec
}

fn strategy(errors: &mut Errors, path: &Path, strategy: &StatefulSetUpdateStrategy) {
    let rolling = path.child("rollingUpdate");
    match (strategy.type_.as_deref().unwrap_or_default(), &strategy.rolling_update) {
        ("", _) => errors.required(path, ""),
        ("OnDelete", Some(_)) => {
            errors.invalid(&rolling, "", "only allowed for updateStrategy 'RollingUpdate'");
        }
        ("OnDelete", None) | ("RollingUpdate", None) => {}
        ("RollingUpdate", Some(update)) => {
            let partition = update.partition.map(i64::from);
            errors.not_negative(&rolling.child("partition"), partition);
            let at = rolling.child("maxUnavailable");
            if rolling_value(errors, &at, &update.max_unavailable, true) == Some(0) {
                errors.invalid(&at, 0, "cannot be 0");
            }
        }
        (other, _) => errors.invalid(path, other, "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

fn retention(errors: &mut Errors, path: &Path, spec: &StatefulSetSpec) {
    let Some(policy) = &spec.persistent_volume_claim_retention_policy else { return };
    for (name, value) in
        [("whenDeleted", &policy.when_deleted), ("whenScaled", &policy.when_scaled)]
    {
        errors.optional_one_of(&path.child(name), value.as_deref(), &["Delete", "Retain"]);
    }
}

/// Upstream leaves this to the claims that are made from it; nobody reads why those are refused.
fn claim_template(
    errors: &mut Errors,
    path: &Path,
    template: &k8s_openapi::api::core::v1::PersistentVolumeClaim,
) {
    let name = template.metadata.name.as_deref().unwrap_or_default();
    match name {
        "" => errors.required(&path.child("metadata").child("name"), ""),
        name => {
            let at = path.child("metadata").child("name");
            errors.all_invalid(&at, name, names::dns_label(name));
        }
    }
    if let Some(spec) = &template.spec {
        claim::check(errors, &path.child("spec"), spec);
    }
}
