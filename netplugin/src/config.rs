//! What the caller decides: which bridge, which ranges, which Pod. Values only, checked by nobody
//! but the functions that use them.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

/// How one node's network looks. "The host" is the network namespace of the calling thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostConfig {
    /// Name of the bridge that Pods are plugged into, e.g. `kobune0`.
    pub bridge: String,
    /// This node's Pod addresses; the first one belongs to the bridge (the Pods' gateway).
    pub node_cidr: Ipv4Net,
    /// All nodes' Pod addresses: traffic inside it is never masqueraded.
    pub cluster_cidr: Ipv4Net,
    /// Addresses of Services.
    pub service_cidr: Ipv4Net,
    /// Largest packet of the Pods' interfaces in bytes; the kernel's default (1500) if absent.
    pub mtu: Option<u32>,
    /// Directory for leases and saved sysctls; volatile, owned by this crate alone.
    pub state_dir: PathBuf,
}

impl HostConfig {
    /// The bridge's address: the first one of the node's range after the network address.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.node_cidr.network()).saturating_add(1))
    }
}

/// One Pod to be connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRequest {
    /// Whose the address is; also the key for finding it again.
    pub uid: String,
    /// Name of the network namespace under /run/netns; created if it does not exist.
    pub netns: String,
}

/// What a connected Pod has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNetwork {
    /// Where the namespace is pinned.
    pub netns_path: PathBuf,
    pub address: Ipv4Addr,
    pub gateway: Ipv4Addr,
    pub mac: [u8; 6],
    /// The host's end of the cable.
    pub host_interface: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateway_is_the_first_address() {
        let config = HostConfig {
            bridge: "kobune0".into(),
            node_cidr: "10.244.3.0/24".parse().unwrap(),
            cluster_cidr: "10.244.0.0/16".parse().unwrap(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            mtu: None,
            state_dir: "/nowhere".into(),
        };
        assert_eq!(config.gateway(), Ipv4Addr::new(10, 244, 3, 1));
    }
}
