//! The scheduler's mind: events in, decisions out. Pure; time is passed in.
//!
//! A decision takes effect here at once (the Pod is *assumed* on its node), so that the next Pod is decided
//! on the room that is left, before anything is written.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};
use tokio::time::Instant;

use super::filter;
use super::need::{Footprint, Need};
use super::nodes::{NodeInfo, Nodes};
use super::score;
use super::volumes::{self, Volumes};
use super::waiting::{Pending, Waiting};
use crate::controllers::look;
use crate::controllers::runner::Seen;
use crate::controllers::volumes::CLAIMS;
use crate::object::Object;
use crate::reader::Reader;
use crate::writer::Change;

pub(super) const NAME: &str = "default-scheduler";

/// What was decided about one Pod.
#[derive(Debug, Clone)]
pub(super) struct Decision {
    pub(super) pod: Arc<Object>,
    pub(super) verdict: Verdict,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    Bind {
        node: String,
    },
    /// The node is chosen; these writes bring the Pod's volumes there. It is bound when its claims are.
    Prepare {
        node: String,
        changes: Vec<Change>,
    },
    /// The condition's reason and message.
    Wait {
        reason: &'static str,
        message: String,
    },
}

struct Prepared {
    pod: Arc<Object>,
    claims: Vec<String>,
    node: String,
}

#[derive(Default)]
pub(super) struct Core {
    nodes: Nodes,
    waiting: Waiting,
    volumes: Volumes,
    /// Pods whose volumes are on their way, by uid.
    prepared: HashMap<String, Prepared>,
    /// Prepared Pods whose volumes are there.
    ready: VecDeque<Decision>,
    /// Where the next search starts, so that all nodes get their turn.
    start: usize,
}

impl Core {
    pub(super) fn observe(&mut self, seen: Seen<'_>, new: Option<&Arc<Object>>, now: Instant) {
        match seen.resource {
            "nodes" => self.observe_node(seen, now),
            "pods" => self.observe_pod(seen, new, now),
            resource if volumes::WATCHED.contains(&resource) => {
                self.volumes.observe(seen, new);
                self.review(now);
                self.waiting.stir(now);
            }
            _ => {}
        }
    }

    fn observe_node(&mut self, seen: Seen<'_>, now: Instant) {
        let helps = match seen.new {
            Some(object) => {
                let node: Result<Arc<Node>, _> = object.view();
                node.is_ok_and(|node| self.nodes.observe(&node))
            }
            None => {
                if let Some(old) = seen.old {
                    self.nodes.forget(&old.meta.name);
                    let name = &old.meta.name;
                    let there = self.prepared.iter().filter(|(_, prepared)| prepared.node == *name);
                    let stranded: Vec<String> = there.map(|(uid, _)| uid.clone()).collect();
                    stranded.iter().for_each(|uid| self.refused(uid, now));
                }
                // Not more room, but another reason to tell.
                true
            }
        };
        if helps {
            self.waiting.stir(now);
        }
    }

    fn observe_pod(&mut self, seen: Seen<'_>, new: Option<&Arc<Object>>, now: Instant) {
        let view = new.and_then(|object| Some((object, object.view::<Pod>().ok()?)));
        let Some((object, pod)) = view else {
            return seen.old.into_iter().for_each(|old| self.leave(&old.meta.uid, now));
        };
        if let Some(old) = seen.old.filter(|old| old.meta.uid != object.meta.uid) {
            self.leave(&old.meta.uid, now);
        }
        let Some(spec) = &pod.spec else { return };
        let uid = object.meta.uid.as_str();
        let owner = look::controller_of(&object.meta).map(|owner| owner.uid.as_str());
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            self.leave(uid, now);
        } else if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
            self.waiting.remove(uid);
            self.nodes.place(uid, node, Footprint::read(spec, owner), false);
        } else {
            self.wait(object, spec, owner);
        }
    }

    fn wait(&mut self, object: &Arc<Object>, spec: &PodSpec, owner: Option<&str>) {
        let uid = object.meta.uid.as_str();
        let ours = spec.scheduler_name.as_deref().is_none_or(|name| name == NAME);
        if !ours || look::is_deleting(&object.meta) {
            return self.waiting.remove(uid);
        }
        if self.nodes.is_assumed(uid) {
            return self.waiting.refresh(object);
        }
        let need = Need::read(spec, owner);
        if self.waiting.need(uid) == Some(&need) {
            return self.waiting.refresh(object);
        }
        self.waiting.add(object.clone(), need, spec.priority.unwrap_or(0));
    }

    /// A Pod takes no room and waits for none.
    fn leave(&mut self, uid: &str, now: Instant) {
        self.waiting.remove(uid);
        self.prepared.remove(uid);
        if self.nodes.remove(uid) {
            self.waiting.stir(now);
        }
    }

    /// Looks after Pods whose volumes are on their way: they are there, or they will never be on that node.
    fn review(&mut self, now: Instant) {
        let mut lost = Vec::new();
        let mut arrived = Vec::new();
        for (uid, prepared) in &self.prepared {
            let node = self.nodes.all().iter().find(|node| node.name == prepared.node);
            let wishes = self.volumes.wishes(&prepared.pod.meta.namespace, &prepared.claims);
            match (node, wishes) {
                (Some(node), Ok(wishes)) if self.volumes.objection(&wishes, node).is_none() => {
                    if self.volumes.preparation(&wishes, node).is_none() {
                        arrived.push(uid.clone());
                    }
                }
                // One reference of the bond is written, the other follows.
                (Some(_), Err(_)) if self.is_binding(prepared) => {}
                _ => lost.push(uid.clone()),
            }
        }
        for uid in arrived {
            if let Some(Prepared { pod, node, .. }) = self.prepared.remove(&uid) {
                self.ready.push_back(Decision { pod, verdict: Verdict::Bind { node } });
            }
        }
        lost.iter().for_each(|uid| self.refused(uid, now));
    }

    fn is_binding(&self, prepared: &Prepared) -> bool {
        let namespace = &prepared.pod.meta.namespace;
        let there = |name: &String| {
            self.volumes.get(CLAIMS, namespace, name).is_some_and(|c| !look::is_deleting(&c.meta))
        };
        prepared.claims.iter().all(there)
    }

    /// Decides about the next Pod in line.
    pub(super) fn next(&mut self, now: Instant) -> Option<Decision> {
        if let Some(decision) = self.ready.pop_front() {
            return Some(decision);
        }
        let Pending { object, need, .. } = self.waiting.take(now)?;
        let uid = object.meta.uid.clone();
        let verdict = self.decide(&object.meta.namespace, &need);
        match &verdict {
            Verdict::Prepare { node, .. } => {
                self.nodes.place(&uid, node, need.footprint.clone(), true);
                let (pod, claims, node) = (object.clone(), need.claims.clone(), node.clone());
                self.prepared.insert(uid, Prepared { pod, claims, node });
            }
            Verdict::Bind { node } => {
                self.nodes.place(&uid, node, need.footprint.clone(), true);
            }
            Verdict::Wait { .. } => self.waiting.refuse(&uid, now),
        }
        Some(Decision { pod: object, verdict })
    }

    fn decide(&mut self, namespace: &str, need: &Need) -> Verdict {
        if need.gated {
            let message = "Scheduling is blocked due to non-empty scheduling gates".into();
            return Verdict::Wait { reason: "SchedulingGated", message };
        }
        let nodes = self.nodes.all();
        if let Some(field) = &need.unsupported {
            let message =
                format!("0/{} nodes are available: {field} is not supported.", nodes.len());
            return Verdict::Wait { reason: "Unschedulable", message };
        }
        let wishes = match self.volumes.wishes(namespace, &need.claims) {
            Ok(wishes) => wishes,
            Err(why) => {
                let message = format!("0/{} nodes are available: {why}.", nodes.len());
                return Verdict::Wait { reason: "Unschedulable", message };
            }
        };
        let refusal = |node: &NodeInfo| self.volumes.objection(&wishes, node);
        let wanted = score::enough(nodes.len());
        let order = (0..nodes.len()).map(|step| (self.start + step) % nodes.len());
        let mut tried = 0;
        let candidates: Vec<usize> = order
            .inspect(|_| tried += 1)
            .filter(|&index| filter::fits(need, &nodes[index]) && refusal(&nodes[index]).is_none())
            .take(wanted)
            .collect();
        let verdict = match score::best(need, nodes, &candidates) {
            Some(best) => {
                let node = nodes[best].name.clone();
                match self.volumes.preparation(&wishes, &nodes[best]) {
                    None => Verdict::Bind { node },
                    Some(changes) => Verdict::Prepare { node, changes },
                }
            }
            None => {
                let message = filter::message(need, nodes, refusal);
                Verdict::Wait { reason: "Unschedulable", message }
            }
        };
        self.start = (self.start + tried) % nodes.len().max(1);
        verdict
    }

    /// The binding was refused: the room is free again, and the Pod is tried again if it still exists.
    pub(super) fn refused(&mut self, uid: &str, now: Instant) {
        self.prepared.remove(uid);
        if self.nodes.is_assumed(uid) {
            self.nodes.remove(uid);
            self.waiting.retry(uid, now);
            self.waiting.stir(now);
        }
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.next_due()
    }
}
