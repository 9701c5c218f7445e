//! Node IPAM: each Node gets a range of its own out of the cluster's. A range is free again when its Node is
//! gone; there is no other record of it than the Nodes' `spec.podCIDR`.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use super::look;
use super::outcome::{Note, Outcome};
use super::runner::{Controller, Seen};
use crate::object::{Key, Object, Resource};
use crate::reader::Reader;

pub struct NodeIpam {
    cluster: Ipv4Net,
    mask: u8,
}

impl NodeIpam {
    pub fn new(cluster: Ipv4Net, mask: u8) -> Self {
        Self { cluster, mask }
    }
}

impl Controller for NodeIpam {
    fn name(&self) -> &'static str {
        "system:serviceaccount:kube-system:node-ipam-controller"
    }

    fn watches(&self) -> Vec<Resource> {
        vec!["nodes"]
    }

    /// One key for all Nodes: two may not be given the same range at the same time.
    fn keys(&self, _world: &dyn Reader, seen: Seen<'_>) -> Vec<Key> {
        let has_range = seen.new.is_some_and(|node| range_of(node).is_some());
        if has_range { Vec::new() } else { vec![Key::new("nodes", "", "")] }
    }

    fn reconcile(&self, world: &dyn Reader, _key: &Key, _now: Timestamp) -> Outcome {
        let nodes = world.list("nodes", None);
        let taken = nodes.iter().filter_map(|node| range_of(node)).collect();
        let mut free = free_ranges(self.cluster, self.mask, taken);
        let mut outcome = Outcome::idle();
        let mut acts = Vec::new();
        for node in nodes.iter().filter(|node| range_of(node).is_none()) {
            match free.next() {
                Some(range) => acts.push(
                    look::edited(node, |value| {
                        value["spec"]["podCIDR"] = json!(range);
                        value["spec"]["podCIDRs"] = json!([range]);
                    })
                    .into(),
                ),
                None => outcome.notes.push(Note::warning(
                    node,
                    "CIDRNotAvailable",
                    format!("Node {} status is now: CIDRNotAvailable", node.meta.name),
                )),
            }
        }
        outcome.together(acts);
        outcome
    }
}

fn range_of(node: &Object) -> Option<Ipv4Net> {
    let node: std::sync::Arc<Node> = node.view().ok()?;
    node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()
}

fn free_ranges(
    cluster: Ipv4Net,
    mask: u8,
    taken: BTreeSet<Ipv4Net>,
) -> impl Iterator<Item = Ipv4Net> {
    let ranges = cluster.subnets(mask).into_iter().flatten();
    ranges.filter(move |range| {
        !taken.contains(range)
            && !taken.iter().any(|other| other.contains(range) || range.contains(other))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::world::{World, node};

    fn ipam(cluster: &str) -> NodeIpam {
        NodeIpam::new(cluster.parse().expect("a range"), 24)
    }

    fn settle(world: &mut World, ipam: &NodeIpam) {
        let outcome = ipam.reconcile(world, &Key::new("nodes", "", ""), world.now);
        for act in outcome.batches.into_iter().flatten() {
            world.apply(act.change).expect("apply");
        }
        let again = ipam.reconcile(world, &Key::new("nodes", "", ""), world.now);
        assert_eq!(again.batches, Vec::<Vec<_>>::new(), "idle afterwards");
    }

    fn range(world: &World, name: &str) -> String {
        world.value("nodes", "", name)["spec"]["podCIDR"].as_str().unwrap_or_default().to_owned()
    }

    #[test]
    fn nodes_get_ranges_of_their_own_and_a_gone_nodes_range_is_used_again() {
        let ipam = ipam("10.244.0.0/16");
        let mut world = World::with([node("a"), node("b")]);
        settle(&mut world, &ipam);
        assert_eq!(
            (range(&world, "a"), range(&world, "b")),
            ("10.244.0.0/24".into(), "10.244.1.0/24".into())
        );
        world.remove("nodes", "", "a");
        world.add("nodes", node("c").1);
        world.add("nodes", node("d").1);
        settle(&mut world, &ipam);
        assert_eq!(
            (range(&world, "c"), range(&world, "d")),
            ("10.244.0.0/24".into(), "10.244.2.0/24".into())
        );
    }

    #[test]
    fn a_full_cluster_says_so() {
        let ipam = ipam("10.244.0.0/23");
        let mut world = World::with([node("a"), node("b"), node("c")]);
        settle(&mut world, &ipam);
        assert_eq!(range(&world, "c"), "");
        let outcome = ipam.reconcile(&world, &Key::new("nodes", "", ""), world.now);
        assert_eq!(outcome.notes[0].reason, "CIDRNotAvailable");
    }
}
