//! The node as a whole: registered with the API, its network set up, its Pods run by workers, its Lease renewed.
//!
//! ```text
//! register → wait for podCIDR → host network → watch Services → { pods, lease, status, proxy, dns } until shutdown
//! ```
//! A node that shuts down leaves its Pods running; [`teardown_all`] is for `kobune down`.

pub mod context;
pub mod facts;
mod images;
pub mod options;
pub mod pods;
mod report;
pub mod status;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Service;
use kobune_netplugin::HostConfig;
use kobune_runtime::cgroup;
use kube::Client;
use kube::api::Api;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::context::Context;
pub use self::options::NodeOptions;
pub use self::pods::{ContainerTarget, Pods, TargetError};
use crate::dns::{self, SharedZone};
use crate::events::Recorder;
use crate::image::{ImageStore, Puller, Registry};
use crate::pod::clock::Clock;
use crate::pod::manager;
use crate::proxy::{self, ProxyOptions};
use crate::sandbox::dirs::Roots;
use crate::sandbox::{self, SandboxError, Settings};
use crate::volume::mount;

/// Between the end of a proxy that failed and the next one.
const PROXY_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("make directory {path:?}: {source}")]
    Directory { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Cgroup(#[from] cgroup::CgroupError),
    #[error("the node's podCIDR {value:?} is not an IPv4 range")]
    PodCidr { value: String },
    #[error("set up the host's network: {0}")]
    Network(#[from] kobune_netplugin::Error),
    #[error("the node was told to stop while it started")]
    Stopped,
    #[error("start the node: a task panicked")]
    Panicked,
}

/// A node that runs.
pub struct Node {
    context: Arc<Context>,
    tasks: JoinSet<()>,
}

impl Node {
    /// Starts everything; returns when Pods can come. All of it ends when `shutdown` is cancelled.
    pub async fn start(
        options: NodeOptions,
        client: Client,
        images: Arc<ImageStore>,
        shutdown: CancellationToken,
    ) -> Result<Node, NodeError> {
        tokio::select! {
            () = shutdown.cancelled() => Err(NodeError::Stopped),
            node = Box::pin(start(options, client, images, shutdown.clone())) => node,
        }
    }

    /// What runs here.
    pub fn pods(&self) -> Pods {
        self.context.pods.clone()
    }

    /// The node's network, for the proxy and for whoever shows it.
    pub fn network(&self) -> &HostConfig {
        &self.context.sandbox.network
    }

    /// Waits until everything has ended (after the shutdown was asked for).
    pub async fn stopped(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a task of the node ended unexpectedly");
            }
        }
    }
}

async fn start(
    options: NodeOptions,
    client: Client,
    images: Arc<ImageStore>,
    shutdown: CancellationToken,
) -> Result<Node, NodeError> {
    let roots = roots(&options);
    for directory in [roots.data.join("pods"), roots.run.join("pods"), roots.logs.clone()] {
        std::fs::create_dir_all(&directory)
            .map_err(|source| NodeError::Directory { path: directory, source })?;
    }
    let facts = facts::read(&options.data_dir);
    let cgroups = blocking(cgroup::detect).await??;
    let node = report::register(&client, &options, &facts, &cgroups.controllers).await;
    let value = report::pod_cidr(&client, &options.node_name).await;
    let node_cidr: Ipv4Net = value.parse().map_err(|_| NodeError::PodCidr { value })?;
    let network = host_config(&options, node_cidr);
    let copy = network.clone();
    blocking(move || kobune_netplugin::host::setup(&copy)).await??;

    let mut tasks = JoinSet::new();
    let services = watch_services(&client, &mut tasks, shutdown.clone()).await;
    let recorder = Recorder::start(client.clone(), "kubelet", &options.node_name);
    report::announce(&recorder, &node, &status::missing(&cgroups.controllers));
    let sandbox = Settings {
        roots,
        cgroups,
        cgroup_root: options.cgroup_root.clone(),
        network,
        boot_id: facts.boot_id.clone(),
        exe: options.exe.clone(),
        node_name: options.node_name.clone(),
        pids_per_pod: options.pids_per_pod,
    };
    let settings = &options.images;
    let registry = Registry::new(&settings.hosts_dir, &settings.auth_file);
    let puller = Puller::new(Arc::clone(&images), registry, settings.max_parallel_pulls);
    let context = Arc::new(Context {
        puller,
        options,
        sandbox,
        client,
        images,
        recorder,
        clock: Clock::start(),
        host: facts.size,
        services,
        pods: Pods::default(),
    });
    tasks.spawn(report::keep_lease(Arc::clone(&context), shutdown.clone()));
    tasks.spawn(images::keep_room(Arc::clone(&context), shutdown.clone()));
    tasks.spawn(report::keep_status(Arc::clone(&context), facts, shutdown.clone()));
    let zone = SharedZone::default();
    tasks.spawn(dns::run(context.sandbox.network.clone(), Arc::clone(&zone), shutdown.clone()));
    tasks.spawn(keep_proxy(Arc::clone(&context), zone, shutdown.clone()));
    tasks.spawn(manager::run(Arc::clone(&context), shutdown));
    Ok(Node { context, tasks })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NodeError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| NodeError::Panicked)
}

/// All Services, kept fresh; waits for the first list, so that no container misses its variables.
async fn watch_services(
    client: &Client,
    tasks: &mut JoinSet<()>,
    shutdown: CancellationToken,
) -> Store<Service> {
    let (store, writer) = reflector::store();
    let events = watcher(Api::<Service>::all(client.clone()), watcher::Config::default());
    let stream = reflector::reflector(writer, events.default_backoff());
    tasks.spawn(async move {
        let mut stream = std::pin::pin!(stream);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                event = stream.next() => match event {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => tracing::warn!(%error, "watch services"),
                    None => return,
                },
            }
        }
    });
    // The writer lives as long as the task, which ends with the node.
    let _ = store.wait_until_ready().await;
    store
}

/// Runs the Service proxy; should it fail, it begins anew: Services are nothing a node can do without.
async fn keep_proxy(context: Arc<Context>, zone: SharedZone, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        let options = ProxyOptions {
            host: context.sandbox.network.clone(),
            node_name: context.options.node_name.clone(),
            node_ip: match context.options.node_ip {
                IpAddr::V4(address) => address,
                IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
            },
            zone: Arc::clone(&zone),
        };
        let client = context.client.clone();
        if let Err(error) = proxy::run(client, options, shutdown.clone()).await {
            tracing::error!(%error, "balance services");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PROXY_AGAIN) => {}
        }
    }
}

fn roots(options: &NodeOptions) -> Roots {
    Roots {
        data: options.data_dir.clone(),
        run: options.run_dir.clone(),
        logs: options.log_dir.clone(),
    }
}

fn host_config(options: &NodeOptions, node_cidr: Ipv4Net) -> HostConfig {
    HostConfig {
        bridge: options.bridge.clone(),
        node_cidr,
        cluster_cidr: options.cluster_cidr,
        service_cidr: options.service_cidr,
        mtu: options.mtu,
        state_dir: options.run_dir.join("net"),
    }
}

/// Takes down all that the node made, the Pods' writable layers and logs included. Blocking; for `kobune down`, when no node
/// runs. Says everything that could not be removed.
pub fn teardown_all(options: &NodeOptions) -> Vec<SandboxError> {
    let cgroups = match cgroup::detect() {
        Ok(cgroups) => cgroups,
        Err(error) => return vec![error.into()],
    };
    // The node's own range is not known without the API, and is not needed to remove things.
    let settings = Settings {
        roots: roots(options),
        cgroups,
        cgroup_root: options.cgroup_root.clone(),
        network: host_config(options, options.cluster_cidr),
        boot_id: String::new(),
        exe: options.exe.clone(),
        node_name: options.node_name.clone(),
        pids_per_pod: None,
    };
    let mut errors = Vec::new();
    for remains in sandbox::scan(&settings) {
        errors.extend(sandbox::teardown(&settings, &remains.dirs));
        errors.extend(sandbox::clean(&remains.dirs).into_iter().map(Into::into));
    }
    errors.extend(kobune_netplugin::host::teardown(&settings.network).err().map(Into::into));
    errors.extend(
        cgroup::kill_pod(&settings.cgroups.path(&options.cgroup_root)).err().map(Into::into),
    );
    let rest =
        [options.run_dir.join("pods"), options.run_dir.join("net"), options.data_dir.join("pods")];
    errors.extend(rest.iter().flat_map(|path| mount::remove_tree(path)).map(SandboxError::from));
    remove_if_empty(&options.run_dir);
    errors
}

fn remove_if_empty(directory: &Path) {
    // Others may keep things there; then it stays.
    let _ = std::fs::remove_dir(directory);
}
