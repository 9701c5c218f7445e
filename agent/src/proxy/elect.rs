//! Which node answers on the wire for a LoadBalancer address (pure): the one with the highest draw for that address
//! among those that can. All nodes come to the same answer by themselves, and a node that comes or goes moves only
//! the addresses that it wins or had.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Node;

/// Nodes with it take no part.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// The elected one of `candidates`.
pub(super) fn elect<'a>(
    address: Ipv4Addr,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates.max_by_key(|name| (draw(address, name), *name))
}

/// Whether addresses may go to it.
pub(super) fn can_announce(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True");
    let labels = node.metadata.labels.as_ref();
    ready
        && node.metadata.deletion_timestamp.is_none()
        && labels.is_none_or(|labels| !labels.contains_key(EXCLUDED))
}

/// FNV-1a, stirred: every node must come to the same number, in every build.
fn draw(address: Ipv4Addr, name: &str) -> u64 {
    let bytes = address.octets().into_iter().chain(name.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_spread_and_only_those_of_a_lost_node_move() {
        let all = ["node-1", "node-2", "node-3"];
        let address = |n: u8| Ipv4Addr::new(192, 0, 2, n);
        let mut counts = [0; 3];
        for n in 0..=255 {
            let winner = elect(address(n), all.into_iter()).unwrap();
            counts[all.iter().position(|name| *name == winner).unwrap()] += 1;
            let without = all.into_iter().filter(|name| *name != "node-2");
            let next = elect(address(n), without).unwrap();
            assert!(next == winner || winner == "node-2");
        }
        assert!(counts.iter().all(|count| (50..120).contains(count)), "{counts:?}");
        assert_eq!(elect(address(1), std::iter::empty()), None);
    }

    #[test]
    fn only_ready_nodes_that_take_part_count() {
        let node = |ready: &str, label: &str| -> Node {
            serde_json::from_value(serde_json::json!({
                "metadata": {"labels": {label: ""}},
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            }))
            .unwrap()
        };
        assert!(can_announce(&node("True", "x")));
        assert!(!can_announce(&node("Unknown", "x")));
        assert!(!can_announce(&node("True", EXCLUDED)));
        assert!(!can_announce(&Node::default()));
    }
}
