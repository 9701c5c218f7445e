//! What every part of the node shares. Made once, never changed.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Client;
use kube::runtime::reflector::Store;

use super::options::NodeOptions;
use super::pods::Pods;
use crate::container::field::PodFacts;
use crate::container::resources::HostSize;
use crate::events::Recorder;
use crate::image::{ImageStore, Puller};
use crate::pod::clock::Clock;
use crate::sandbox::{self, files};

pub struct Context {
    pub options: NodeOptions,
    pub sandbox: sandbox::Settings,
    pub client: Client,
    pub images: Arc<ImageStore>,
    pub puller: Puller,
    pub recorder: Recorder,
    pub clock: Clock,
    pub host: HostSize,
    /// All Services, for the variables that tell a container of them.
    pub services: Store<Service>,
    pub pods: Pods,
}

impl Context {
    /// What the downward API can tell of `pod`.
    pub fn facts<'a>(&self, pod: &'a Pod, pod_ip: Option<String>) -> PodFacts<'a> {
        let host_ip = self.options.node_ip.to_string();
        let pod_ip = if sandbox::is_host_network(pod) { Some(host_ip.clone()) } else { pod_ip };
        let hostname = files::hostname(pod, &self.options.node_name);
        PodFacts { pod, pod_ip, host_ip, hostname, host: self.host }
    }
}
