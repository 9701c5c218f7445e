//! What a node is told: its name, its places, its ranges, its limits.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::config::ImageSettings;
use crate::pod::backoff::BackoffOptions;

#[derive(Debug, Clone)]
pub struct NodeOptions {
    pub node_name: String,
    /// The node's InternalIP.
    pub node_ip: IpAddr,
    pub data_dir: PathBuf,
    pub run_dir: PathBuf,
    /// Usually /var/log/pods.
    pub log_dir: PathBuf,
    /// Below the cgroup mount; several nodes on one machine need different ones.
    pub cgroup_root: String,
    pub cluster_cidr: Ipv4Net,
    pub service_cidr: Ipv4Net,
    pub bridge: String,
    pub mtu: Option<u32>,
    /// Where the node's own HTTPS API listens.
    pub kubelet_port: u16,
    pub max_pods: u32,
    /// The program that becomes a Pod's supervisor: /proc/self/exe or the program's path.
    pub exe: PathBuf,
    pub backoff: BackoffOptions,
    /// Processes of one Pod; None for no limit.
    pub pids_per_pod: Option<i64>,
    /// Bytes of one container log file before it is rotated.
    pub log_max_size: u64,
    pub log_max_files: u32,
    pub lease_interval: Duration,
    pub images: ImageSettings,
}

impl NodeOptions {
    pub fn new(node_name: impl Into<String>, node_ip: IpAddr) -> Self {
        Self {
            node_name: node_name.into(),
            node_ip,
            data_dir: "/var/lib/kobune".into(),
            run_dir: "/run/kobune".into(),
            log_dir: "/var/log/pods".into(),
            cgroup_root: "kobune".into(),
            cluster_cidr: Ipv4Net::new_assert([10, 244, 0, 0].into(), 16),
            service_cidr: Ipv4Net::new_assert([10, 96, 0, 0].into(), 16),
            bridge: "kobune0".into(),
            mtu: None,
            kubelet_port: 10250,
            max_pods: 110,
            exe: "/proc/self/exe".into(),
            backoff: BackoffOptions::default(),
            pids_per_pod: Some(4096),
            log_max_size: 10 << 20,
            log_max_files: 5,
            lease_interval: Duration::from_secs(10),
            images: ImageSettings::default(),
        }
    }
}
