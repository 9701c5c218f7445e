//! The node as a part of this process: Pods and the node's own server, started and drained together.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{address, plane};
use crate::cli::Failure;
use crate::config::Config;
use crate::image::ImageStore;
use crate::kubelet::{self, Containers, Denial, Target};
use crate::node::{self, Node, NodeOptions, Pods, TargetError};

const BRIDGE: &str = "kobune0";

/// Who the node is to the API, and how it knows the API.
pub(super) struct Identity {
    pub(super) client: Client,
    /// PEM; clients of the node's server have certificates of it.
    pub(super) client_ca: String,
    /// Certificate and key of the node's server, PEM.
    pub(super) serving: (String, String),
}

pub(super) struct RunningNode {
    node: Node,
    shutdown: CancellationToken,
    server: Mutex<JoinHandle<()>>,
}

impl RunningNode {
    pub(super) async fn start(config: &Config, identity: Identity) -> Result<Self, Failure> {
        let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), config.kubelet_port);
        let listener = TcpListener::bind(address)
            .await
            .map_err(|e| format!("listen on {address} for the node's server: {e}"))?;
        let root = config.data_dir.join("images");
        let images = tokio::task::spawn_blocking(move || ImageStore::open(&root)).await??;
        let images = Arc::new(images);
        let shutdown = CancellationToken::new();
        let options = options(config);
        let client = identity.client.clone();
        let node = Node::start(options, client.clone(), images, shutdown.clone()).await?;
        let containers = OnNode { pods: node.pods(), client, node: config.node_name.clone() };
        let (certificate, key) = identity.serving;
        let listen = kubelet::Options { listener, certificate, key, client_ca: identity.client_ca };
        let server = match kubelet::serve(listen, containers, shutdown.clone()) {
            Ok(server) => server,
            Err(e) => {
                shutdown.cancel();
                node.stopped().await;
                return Err(e);
            }
        };
        Ok(Self { node, shutdown, server: Mutex::new(server) })
    }

    /// Resolves when a part has ended that must not.
    pub(super) async fn failed(&self) -> Failure {
        match (&mut *self.server.lock().await).await {
            Ok(()) => "the node's server ended".into(),
            Err(e) => e.into(),
        }
    }

    /// Stop acting; Pods go on.
    pub(super) async fn shutdown(self) {
        self.shutdown.cancel();
        self.node.stopped().await;
        let server = self.server.into_inner();
        if !server.is_finished() {
            let _ = server.await;
        }
    }
}

/// The node's address: as given, or found.
pub(super) fn address(config: &Config) -> Ipv4Addr {
    config.node_ip.unwrap_or_else(|| address::find(BRIDGE))
}

fn options(config: &Config) -> NodeOptions {
    NodeOptions {
        data_dir: config.data_dir.clone(),
        run_dir: config.run_dir.clone(),
        log_dir: config.log_dir.clone(),
        cgroup_root: config.cgroup_root.display().to_string(),
        cluster_cidr: config.cluster_cidr,
        service_cidr: config.service_cidr,
        bridge: BRIDGE.into(),
        kubelet_port: config.kubelet_port,
        images: config.images.clone(),
        ..NodeOptions::new(config.node_name.clone(), address(config).into())
    }
}

/// Remove everything that a node of this configuration has made; what could not be removed is told.
pub(super) async fn teardown(config: &Config) -> Vec<String> {
    let (options, config) = (options(config), config.clone());
    let work = move || {
        let mut left: Vec<String> =
            node::teardown_all(&options).iter().map(|e| crate::cli::chain(e)).collect();
        let mut note = |what: &Path, result: io::Result<()>| match result {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                left.push(format!("remove {what:?}: {e}"));
            }
            _ => {}
        };
        note(&config.run_dir, std::fs::remove_dir_all(&config.run_dir));
        note(&config.kubeconfig, plane::remove_kubeconfig(&config));
        left
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| vec![e.to_string()])
}

/// What the node's server may ask about Pods.
#[derive(Clone)]
struct OnNode {
    pods: Pods,
    client: Client,
    node: String,
}

impl Containers for OnNode {
    async fn container(
        &self,
        namespace: &str,
        pod: &str,
        container: Option<&str>,
    ) -> Result<Target, Denial> {
        let found = self.pods.container(namespace, pod, container).map_err(|e| match e {
            TargetError::Ambiguous { .. } => Denial::BadRequest(e.to_string()),
            _ => Denial::NotFound(e.to_string()),
        })?;
        Ok(Target {
            container: found.container,
            supervisor: found.supervisor_socket,
            running: found.running,
            // A container that never was made has no id.
            attempt: (!found.id.is_empty()).then_some(found.restart_count),
            log_dir: found.log_dir,
            process: found.process,
        })
    }

    async fn network(&self, namespace: &str, pod: &str) -> Result<Option<PathBuf>, Denial> {
        let view = self.pods.pod(namespace, pod);
        let view = view.ok_or_else(|| {
            Denial::NotFound(format!("pod \"{namespace}/{pod}\" is not on this node"))
        })?;
        // Without its own network a Pod must not be taken for one in the host's.
        match view.netns {
            None if !view.host_network => {
                Err(Denial::BadRequest(format!("pod \"{namespace}/{pod}\" is not running")))
            }
            netns => Ok(netns),
        }
    }

    async fn pods(&self) -> Vec<Pod> {
        let mine = ListParams::default().fields(&format!("spec.nodeName={}", self.node));
        let pods: Api<Pod> = Api::all(self.client.clone());
        match pods.list(&mine).await {
            Ok(list) => list.items,
            Err(e) => {
                tracing::warn!("list the node's Pods: {e}");
                Vec::new()
            }
        }
    }
}
