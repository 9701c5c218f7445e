//! DaemonSet.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec};
use serde_json::{Value, json};

use super::deployment::rolling_value;
use crate::kinds::field::{Errors, Path};
use crate::kinds::{
    Column, Kind, Operation, Strategy, edit, metadata, names, table, template, typed,
};
use crate::object::Object;
use crate::status::Cause;

pub(in crate::kinds) const KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "DaemonSet",
    plural: "daemonsets",
    singular: "daemonset",
    resource: "daemonsets.apps",
    short_names: &["ds"],
    categories: &["all"],
    namespaced: true,
    subresources: &["status"],
    strategy: &DaemonSets,
};

const COLUMNS: &[Column] = &[
    table::NAME,
    table::integer(
        "Desired",
        "The total number of nodes that should be running the daemon pod (including nodes correctly running the daemon pod).",
    ),
    table::integer(
        "Current",
        "The number of nodes that are running at least 1 daemon pod and are supposed to run the daemon pod.",
    ),
    table::integer(
        "Ready",
        "The number of nodes that should be running the daemon pod and have one or more of the daemon pod running with a Ready Condition.",
    ),
    table::integer("Up-to-date", "The total number of nodes that are running updated daemon pod"),
    table::integer(
        "Available",
        "The number of nodes that should be running the daemon pod and have one or more of the daemon pod running and available",
    ),
    table::text(
        "Node Selector",
        "NodeSelector is a selector which must be true for the pod to fit on a node.",
    ),
    table::AGE,
    table::wide("Containers", "Names of each container in the template."),
    table::wide("Images", "Images referenced by each container in the template."),
    table::wide("Selector", "Label selector for pods."),
];

struct DaemonSets;

impl Strategy for DaemonSets {
    typed!(DaemonSet);

    fn default(&self, value: &mut Value) {
        let Some(set) = value.as_object_mut() else { return };
        let spec = edit::make(set, "spec");
        edit::default_to(spec, "revisionHistoryLimit", 10);
        let strategy = edit::make(spec, "updateStrategy");
        edit::default_to(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate" {
            let rolling = edit::make(strategy, "rollingUpdate");
            edit::default_to(rolling, "maxUnavailable", 1);
            edit::default_to(rolling, "maxSurge", 0);
        }
        template::default(spec);
    }

    fn prepare(&self, value: &mut Value, op: Operation<'_>) {
        edit::guard_status(value, op);
        edit::count_generation(value, op);
        if let (Operation::Create, Some(set)) = (op, value.as_object_mut()) {
            let zero = json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0});
            set.insert("status".into(), zero);
        }
    }

    fn validate(&self, value: &Value, op: Operation<'_>) -> Vec<Cause> {
        let named = (&KIND, names::dns_subdomain as fn(&str) -> Vec<String>);
        metadata::validated::<DaemonSet>(named, value, op, |errors, set| match &set.spec {
            None => errors.required(&Path::new("spec"), ""),
            Some(spec) => check(errors, value, spec, op),
        })
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, object: &Object, now: i64) -> Vec<Value> {
        let set = object.view::<DaemonSet>().unwrap_or_default();
        let empty = DaemonSetSpec::default();
        let spec = set.spec.as_ref().unwrap_or(&empty);
        let status = set.status.clone().unwrap_or_default();
        let [containers, images] = table::containers(Some(&spec.template));
        vec![
            table::name(object),
            status.desired_number_scheduled.into(),
            status.current_number_scheduled.into(),
            status.number_ready.into(),
            status.updated_number_scheduled.unwrap_or(0).into(),
            status.number_available.unwrap_or(0).into(),
            node_selector(spec),
            table::age(object, now),
            containers,
            images,
            template::selector_cell(&spec.selector),
        ]
    }
}

fn node_selector(spec: &DaemonSetSpec) -> Value {
    let labels = spec.template.spec.as_ref().and_then(|s| s.node_selector.as_ref());
    let pairs: Vec<String> =
        labels.into_iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
    table::or_none(&pairs.join(","))
}

fn check(errors: &mut Errors, value: &Value, spec: &DaemonSetSpec, op: Operation<'_>) {
    let path = Path::new("spec");
    errors.not_negative(&path.child("minReadySeconds"), spec.min_ready_seconds.map(i64::from));
    let limit = spec.revision_history_limit.map(i64::from);
    errors.not_negative(&path.child("revisionHistoryLimit"), limit);
    let workload = template::Workload { value, selector: &spec.selector, template: &spec.template };
    template::check(errors, &path, workload, op);
    strategy(errors, &path.child("updateStrategy"), spec);
}

fn strategy(errors: &mut Errors, path: &Path, spec: &DaemonSetSpec) {
    let Some(strategy) = &spec.update_strategy else { return };
    let rolling = path.child("rollingUpdate");
    match strategy.type_.as_deref().unwrap_or_default() {
        "OnDelete" => {}
        "RollingUpdate" => {
            let Some(update) = &strategy.rolling_update else {
                errors.required(&rolling, "");
                return;
            };
            let (at, surge_at) = (rolling.child("maxUnavailable"), rolling.child("maxSurge"));
            let unavailable = rolling_value(errors, &at, &update.max_unavailable, true);
            let surge = rolling_value(errors, &surge_at, &update.max_surge, true);
            match (unavailable.unwrap_or(0), surge.unwrap_or(0)) {
                (0, 0) => errors.required(&at, "cannot be 0 when maxSurge is 0"),
                (1.., 1..) => {
                    let given = update.max_surge.clone().unwrap_or_default();
                    errors.invalid(
                        &surge_at,
                        given,
                        "may not be set when maxUnavailable is non-zero",
                    );
                }
                _ => {}
            }
        }
        other => errors.not_supported(&path.child("type"), other, &["OnDelete", "RollingUpdate"]),
    }
}
