//! Which of the nodes that fit is best. Pure.

use super::filter::{matches, tolerates};
use super::need::Need;
use super::nodes::NodeInfo;

/// The best of `candidates` (indices into `nodes`); among equals the first.
pub(super) fn best(need: &Need, nodes: &[NodeInfo], candidates: &[usize]) -> Option<usize> {
    if let [only] = candidates {
        return Some(*only);
    }
    let raw: Vec<Raw> = candidates.iter().map(|&index| Raw::of(need, &nodes[index])).collect();
    let top = Raw {
        preference: raw.iter().map(|r| r.preference).max().unwrap_or(0),
        avoided: raw.iter().map(|r| r.avoided).max().unwrap_or(0),
        kin: raw.iter().map(|r| r.kin).max().unwrap_or(0),
        room: 0,
    };
    let mut best: Option<(i64, usize)> = None;
    for (raw, &index) in raw.iter().zip(candidates) {
        let score = raw.weigh(&top);
        if best.is_none_or(|(highest, _)| score > highest) {
            best = Some((score, index));
        }
    }
    best.map(|(_, index)| index)
}

struct Raw {
    /// Least allocated plus balanced, 0 … 200.
    room: i64,
    /// Sum of the weights of preferred node affinity terms that match.
    preference: i64,
    /// PreferNoSchedule taints that are not tolerated.
    avoided: i64,
    /// Pods of the same controller already there.
    kin: i64,
}

impl Raw {
    fn of(need: &Need, node: &NodeInfo) -> Self {
        let owner = need.footprint.owner.as_ref();
        Self {
            room: room(need, node),
            preference: preference(need, node),
            avoided: avoided(need, node),
            kin: owner.and_then(|owner| node.owners.get(owner)).copied().unwrap_or(0),
        }
    }

    fn weigh(&self, top: &Self) -> i64 {
        let share = |value: i64, most: i64| if most == 0 { 0 } else { value * 100 / most };
        let rest = |value: i64, most: i64| 100 - share(value, most);
        self.room
            + 2 * share(self.preference, top.preference)
            + 3 * rest(self.avoided, top.avoided)
            + 2 * rest(self.kin, top.kin)
    }
}

/// Both in hundredths of what the node has, with the Pod on it.
fn room(need: &Need, node: &NodeInfo) -> i64 {
    let used = |taken: i64, more: i64, all: i64| {
        if all <= 0 {
            100
        } else {
            ((taken.saturating_add(more)).saturating_mul(100) / all).clamp(0, 100)
        }
    };
    let cpu = used(node.weight_cpu, need.footprint.weight_cpu, node.allocatable.milli_cpu);
    let memory = used(node.weight_memory, need.footprint.weight_memory, node.allocatable.memory);
    let least_allocated = (200 - cpu - memory) / 2;
    let balanced = 100 - (cpu - memory).abs() / 2;
    least_allocated + balanced
}

fn preference(need: &Need, node: &NodeInfo) -> i64 {
    let affinity = need.affinity.as_ref();
    let terms =
        affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let wanted = terms.into_iter().flatten().filter(|term| matches(&term.preference, node));
    wanted.map(|term| i64::from(term.weight)).sum()
}

fn avoided(need: &Need, node: &NodeInfo) -> i64 {
    let soft = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
    let hated = soft.filter(|taint| !need.tolerations.iter().any(|t| tolerates(t, taint)));
    i64::try_from(hated.count()).unwrap_or(i64::MAX)
}

/// How many nodes that fit are enough to choose among: all of a hundred, a tenth of thousands.
pub(super) fn enough(nodes: usize) -> usize {
    const FEW: usize = 100;
    if nodes <= FEW {
        return nodes;
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(FEW)
}
