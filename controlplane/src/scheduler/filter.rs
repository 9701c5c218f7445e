//! Where a Pod may go, and the reason where it may not. Pure.
//!
//! A node is refused by the first filter that objects, as people know it from upstream: unschedulable,
//! taints, affinity, ports, resources.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

use super::need::Need;
use super::nodes::NodeInfo;

const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Why a node is not for this Pod; empty when it is.
pub(super) fn objections(need: &Need, node: &NodeInfo) -> Vec<String> {
    if node.unschedulable && !tolerates_unschedulable(need) {
        return vec!["node(s) were unschedulable".into()];
    }
    if let Some(taint) = untolerated(need, node) {
        let value = taint.value.as_deref().unwrap_or_default();
        return vec![format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)];
    }
    if !is_selected(need, node) {
        return vec!["node(s) didn't match Pod's node affinity/selector".into()];
    }
    if need.footprint.ports.iter().any(|port| node.ports.iter().any(|taken| taken.conflicts(port)))
    {
        return vec!["node(s) didn't have free ports for the requested pod ports".into()];
    }
    shortages(need, node)
}

/// The same answer as [`objections`] without making words.
pub(super) fn fits(need: &Need, node: &NodeInfo) -> bool {
    (!node.unschedulable || tolerates_unschedulable(need))
        && untolerated(need, node).is_none()
        && has_room(need, node)
        && is_selected(need, node)
        && !need.footprint.ports.iter().any(|port| node.ports.iter().any(|t| t.conflicts(port)))
}

/// Whether a node is for Pods of `spec`, room aside: `(may start, may stay)`. For controllers that choose
/// nodes themselves.
pub(crate) fn suits(spec: &PodSpec, node: &Node) -> (bool, bool) {
    let (need, node) = (Need::read(spec, None), NodeInfo::read(node));
    let elsewhere = spec.node_name.as_ref().is_some_and(|n| !n.is_empty() && *n != node.name);
    if elsewhere || !is_selected(&need, &node) {
        return (false, false);
    }
    let refused = |effects: &[&str]| {
        let mut taints = node.taints.iter().filter(|t| effects.contains(&t.effect.as_str()));
        taints.any(|taint| !need.tolerations.iter().any(|t| tolerates(t, taint)))
    };
    (!refused(&["NoSchedule", "NoExecute"]), !refused(&["NoExecute"]))
}

fn tolerates_unschedulable(need: &Need) -> bool {
    let taint =
        Taint { key: UNSCHEDULABLE.into(), effect: "NoSchedule".into(), ..Taint::default() };
    need.tolerations.iter().any(|toleration| tolerates(toleration, &taint))
}

fn untolerated<'a>(need: &Need, node: &'a NodeInfo) -> Option<&'a Taint> {
    node.taints.iter().find(|taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            && !need.tolerations.iter().any(|toleration| tolerates(toleration, taint))
    })
}

pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.clone().unwrap_or_default();
    let effect = given(&toleration.effect);
    let key = given(&toleration.key);
    if !(effect.is_empty() || effect == taint.effect) || !(key.is_empty() || key == taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "" | "Equal" => !key.is_empty() && given(&toleration.value) == given(&taint.value),
        _ => false,
    }
}

fn is_selected(need: &Need, node: &NodeInfo) -> bool {
    if !need.selector.iter().all(|(key, value)| node.labels.get(key) == Some(value)) {
        return false;
    }
    let affinity = need.affinity.as_ref();
    match affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()) {
        None => true,
        Some(required) => required.node_selector_terms.iter().any(|term| matches(term, node)),
    }
}

/// All requirements of a term; a term without any matches nothing.
pub(super) fn matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let by_field = |need: &NodeSelectorRequirement| {
        need.key == "metadata.name" && meets(need, Some(&node.name))
    };
    expressions.len() + fields.len() > 0
        && expressions.iter().all(|need| meets(need, node.labels.get(&need.key)))
        && fields.iter().all(by_field)
}

fn meets(need: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = need.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.contains(value));
    let compared = || {
        let limit: i64 = values.first()?.parse().ok()?;
        Some((value?.parse::<i64>().ok()?).cmp(&limit))
    };
    match need.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared().is_some_and(std::cmp::Ordering::is_gt),
        "Lt" => compared().is_some_and(std::cmp::Ordering::is_lt),
        _ => false,
    }
}

fn short(asked: i64, allocatable: i64, used: i64) -> bool {
    asked > 0 && asked > allocatable.saturating_sub(used)
}

fn has_room(need: &Need, node: &NodeInfo) -> bool {
    let (ask, all, used) = (&need.footprint.request, &node.allocatable, &node.used);
    !short(ask.pods, all.pods, used.pods)
        && !short(ask.milli_cpu, all.milli_cpu, used.milli_cpu)
        && !short(ask.memory, all.memory, used.memory)
        && !short(ask.ephemeral, all.ephemeral, used.ephemeral)
        && ask.other.iter().all(|(name, amount)| {
            !short(*amount, amount_of(&all.other, name), amount_of(&used.other, name))
        })
}

fn shortages(need: &Need, node: &NodeInfo) -> Vec<String> {
    let (ask, all, used) = (&need.footprint.request, &node.allocatable, &node.used);
    let mut reasons = Vec::new();
    if short(ask.pods, all.pods, used.pods) {
        reasons.push("Too many pods".into());
    }
    for (name, ask, all, used) in [
        ("cpu", ask.milli_cpu, all.milli_cpu, used.milli_cpu),
        ("memory", ask.memory, all.memory, used.memory),
        ("ephemeral-storage", ask.ephemeral, all.ephemeral, used.ephemeral),
    ] {
        if short(ask, all, used) {
            reasons.push(format!("Insufficient {name}"));
        }
    }
    for (name, amount) in &ask.other {
        if short(*amount, amount_of(&all.other, name), amount_of(&used.other, name)) {
            reasons.push(format!("Insufficient {name}"));
        }
    }
    reasons
}

fn amount_of(amounts: &BTreeMap<String, i64>, name: &str) -> i64 {
    amounts.get(name).copied().unwrap_or(0)
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
/// `also` objects to nodes that have passed everything else.
pub(super) fn message(
    need: &Need,
    nodes: &[NodeInfo],
    also: impl Fn(&NodeInfo) -> Option<&'static str>,
) -> String {
    if nodes.is_empty() {
        return "no nodes available to schedule pods".into();
    }
    let mut counts: HashMap<String, usize> = HashMap::new();
    let reasons = |node| match objections(need, node) {
        none if none.is_empty() => also(node).map(str::to_owned).into_iter().collect(),
        some => some,
    };
    for reason in nodes.iter().flat_map(reasons) {
        *counts.entry(reason).or_default() += 1;
    }
    let mut reasons: Vec<String> = counts.iter().map(|(why, n)| format!("{n} {why}")).collect();
    reasons.sort();
    format!("0/{} nodes are available: {}.", nodes.len(), reasons.join(", "))
}
