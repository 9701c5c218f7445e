//! Where a Pod may run: tolerations, affinity, spreading.

use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodSpec, Toleration,
};

use crate::kinds::field::{Errors, Path};
use crate::kinds::{names, template};

pub(super) fn check(errors: &mut Errors, path: &Path, spec: &PodSpec) {
    for (index, one) in spec.tolerations.iter().flatten().enumerate() {
        toleration(errors, &path.child("tolerations").index(index), one);
    }
    affinity(errors, &path.child("affinity"), spec);
    let spread = spec.topology_spread_constraints.iter().flatten();
    for (index, one) in spread.enumerate() {
        let at = path.child("topologySpreadConstraints").index(index);
        if one.max_skew <= 0 {
            errors.invalid(&at.child("maxSkew"), one.max_skew, "must be greater than zero");
        }
        if one.topology_key.is_empty() {
            errors.required(&at.child("topologyKey"), "can not be empty");
        } else {
            let wrong = names::qualified_name(&one.topology_key);
            errors.all_invalid(&at.child("topologyKey"), &one.topology_key, wrong);
        }
        const ACTIONS: &[&str] = &["DoNotSchedule", "ScheduleAnyway"];
        errors.one_of(&at.child("whenUnsatisfiable"), Some(&one.when_unsatisfiable), ACTIONS);
        if let Some(selector) = &one.label_selector {
            template::label_selector(errors, &at.child("labelSelector"), selector);
        }
    }
}

fn toleration(errors: &mut Errors, path: &Path, one: &Toleration) {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let (key, operator, effect) = (text(&one.key), text(&one.operator), text(&one.effect));
    let value = text(&one.value);
    if key.is_empty() {
        if operator != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(&path.child("operator"), &operator, why);
        }
    } else {
        errors.all_invalid(&path.child("key"), &key, names::qualified_name(&key));
    }
    if one.toleration_seconds.is_some() && effect != "NoExecute" {
        let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.invalid(&path.child("effect"), &effect, why);
    }
    match operator.as_str() {
        "" | "Equal" => {
            errors.all_invalid(&path.child("operator"), &value, names::label_value(&value));
        }
        "Exists" if !value.is_empty() => {
            let why = "value must be empty when `operator` is 'Exists'";
            errors.invalid(&path.child("operator"), "Exists", why);
        }
        "Exists" => {}
        other => errors.not_supported(&path.child("operator"), other, &["Equal", "Exists"]),
    }
    const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "PreferNoSchedule"];
    errors.optional_one_of(&path.child("effect"), Some(&effect), EFFECTS);
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn affinity(errors: &mut Errors, path: &Path, spec: &PodSpec) {
    let Some(affinity) = &spec.affinity else { return };
    if let Some(node) = &affinity.node_affinity {
        let at = path.child("nodeAffinity");
        if let Some(required) = &node.required_during_scheduling_ignored_during_execution {
            node_selector(errors, &at.child(REQUIRED), required);
        }
        let preferred = node.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        for (index, one) in preferred.enumerate() {
            let at = at.child(PREFERRED).index(index);
            weight(errors, &at, one.weight);
            node_term(errors, &at.child("preference"), &one.preference);
        }
    }
    let (with, against) = (&affinity.pod_affinity, &affinity.pod_anti_affinity);
    if let Some(pod) = with {
        let at = path.child("podAffinity");
        let required = pod.required_during_scheduling_ignored_during_execution.as_deref();
        pod_terms(errors, &at, required);
        let preferred = pod.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        for (index, one) in preferred.enumerate() {
            let at = at.child(PREFERRED).index(index);
            weight(errors, &at, one.weight);
            pod_term(errors, &at.child("podAffinityTerm"), &one.pod_affinity_term);
        }
    }
    if let Some(pod) = against {
        let at = path.child("podAntiAffinity");
        let required = pod.required_during_scheduling_ignored_during_execution.as_deref();
        pod_terms(errors, &at, required);
        let preferred = pod.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        for (index, one) in preferred.enumerate() {
            let at = at.child(PREFERRED).index(index);
            weight(errors, &at, one.weight);
            pod_term(errors, &at.child("podAffinityTerm"), &one.pod_affinity_term);
        }
    }
}

pub(in crate::kinds::core) fn node_selector(
    errors: &mut Errors,
    path: &Path,
    selector: &NodeSelector,
) {
    let at = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        errors.required(&at, "must have at least one node selector term");
    }
    for (index, one) in selector.node_selector_terms.iter().enumerate() {
        node_term(errors, &at.index(index), one);
    }
}

fn weight(errors: &mut Errors, path: &Path, weight: i32) {
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), weight, "must be in the range 1-100");
    }
}

fn node_term(errors: &mut Errors, path: &Path, term: &NodeSelectorTerm) {
    for (field, list) in
        [("matchExpressions", &term.match_expressions), ("matchFields", &term.match_fields)]
    {
        for (index, one) in list.iter().flatten().enumerate() {
            requirement(errors, &path.child(field).index(index), one);
        }
    }
}

fn requirement(errors: &mut Errors, path: &Path, one: &NodeSelectorRequirement) {
    let count = one.values.as_ref().map_or(0, |v| v.len());
    let values = path.child("values");
    match one.operator.as_str() {
        "In" | "NotIn" if count == 0 => {
            errors.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if count > 0 => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.forbidden(&values, why);
        }
        "Gt" | "Lt" if count != 1 => {
            let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.required(&values, why);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    errors.all_invalid(&path.child("key"), &one.key, names::qualified_name(&one.key));
}

fn pod_terms(errors: &mut Errors, path: &Path, terms: Option<&[PodAffinityTerm]>) {
    for (index, one) in terms.unwrap_or_default().iter().enumerate() {
        pod_term(errors, &path.child(REQUIRED).index(index), one);
    }
}

fn pod_term(errors: &mut Errors, path: &Path, term: &PodAffinityTerm) {
    for (field, selector) in
        [("labelSelector", &term.label_selector), ("namespaceSelector", &term.namespace_selector)]
    {
        if let Some(selector) = selector {
            template::label_selector(errors, &path.child(field), selector);
        }
    }
    let at = path.child("topologyKey");
    if term.topology_key.is_empty() {
        errors.required(&at, "can not be empty");
    } else {
        errors.all_invalid(&at, &term.topology_key, names::qualified_name(&term.topology_key));
    }
}
