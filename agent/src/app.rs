//! Puts the program together: config → build → spawn → wait → drain.
//!
//! The only place that knows that node and control plane may be one process.

mod address;
pub(crate) mod down;
mod join;
pub(crate) mod lock;
mod node;
mod notify;
mod plane;
mod stop;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::cli::Failure;
use crate::config::Config;
use crate::demo::{self, Progress};
use crate::image::{self, Image, ImageStore};
pub(crate) use join::Token;
use lock::{Holder, Lock};
use node::RunningNode;
use plane::Plane;

/// What `kobune up` is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Be a node until told to stop; containers go on running afterwards.
    Node,
    /// Show what Kobune does, then take everything down; `exit`: without waiting to be told.
    Demo { exit: bool },
}

/// How long the demo's Pods get to end; they ask for five seconds.
const DEMO_END: Duration = Duration::from_secs(30);

/// Node and control plane in one process.
pub(crate) fn up(config: Config, mode: Mode) -> Result<ExitCode, Failure> {
    let start = Instant::now();
    let mut lock = begin(&config, if mode == Mode::Node { "info" } else { "warn" })?;
    let code = run(async {
        match mode {
            Mode::Node => serve_node(&config).await.map(|()| ExitCode::SUCCESS),
            Mode::Demo { exit } => run_demo(&config, exit, start).await,
        }
    })?;
    if mode != Mode::Node {
        lock.write(None)?;
    }
    Ok(code)
}

/// A control plane alone.
pub(crate) fn server(config: Config) -> Result<ExitCode, Failure> {
    let _lock = begin(&config, "info")?;
    run(async {
        let stop = stop::signals()?;
        let plane = Plane::start(&config).await?;
        tracing::info!("the API is at {}, kubeconfig {:?}", plane.url(), config.kubeconfig);
        notify::notify("READY=1");
        stop.cancelled().await;
        notify::notify("STOPPING=1");
        plane.shutdown().await;
        Ok(ExitCode::SUCCESS)
    })
}

/// A node of another machine's control plane.
pub(crate) fn agent(
    config: Config,
    server: &str,
    token: Option<&Token>,
) -> Result<ExitCode, Failure> {
    let _lock = begin(&config, "info")?;
    run(async {
        let stop = stop::signals()?;
        let (data_dir, node) = (config.data_dir.as_path(), config.node_name.as_str());
        let joined = join::Way { server, token, data_dir, node }.join().await?;
        joined.keep_fresh(stop.clone());
        let serving =
            crate::kubelet::self_signed(&config.node_name, node::address(&config).into())?;
        let identity = node::Identity { client: joined.client, client_ca: joined.ca_pem, serving };
        let node = RunningNode::start(&config, identity).await?;
        tracing::info!("node {:?} works for {server}", config.node_name);
        notify::notify("READY=1");
        let result = until_stopped(&stop, &node).await;
        node.shutdown().await;
        result.map(|()| ExitCode::SUCCESS)
    })
}

async fn serve_node(config: &Config) -> Result<(), Failure> {
    let stop = stop::signals()?;
    let plane = Plane::start(config).await?;
    let node = match RunningNode::start(config, plane.identity(config)?).await {
        Ok(node) => node,
        Err(e) => {
            plane.shutdown().await;
            return Err(e);
        }
    };
    tracing::info!("node {:?}, API at {}", config.node_name, plane.url());
    tracing::info!("export KUBECONFIG={}", config.kubeconfig.display());
    notify::notify("READY=1");
    let result = until_stopped(&stop, &node).await;
    node.shutdown().await;
    plane.shutdown().await;
    result
}

/// Until a signal (good) or until something that must not end has ended.
async fn until_stopped(stop: &CancellationToken, node: &RunningNode) -> Result<(), Failure> {
    let result = tokio::select! {
        () = stop.cancelled() => Ok(()),
        failure = node.failed() => Err(failure),
    };
    notify::notify("STOPPING=1");
    result
}

async fn run_demo(config: &Config, exit: bool, start: Instant) -> Result<ExitCode, Failure> {
    let stop = stop::signals()?;
    let mut progress = Progress::new(start);
    progress.say(concat!(
        "Kobune ",
        env!("CARGO_PKG_VERSION"),
        ": one program, one node, three Pods"
    ));
    progress.say("");
    let result = demo_on_node(config, exit, &stop, &mut progress).await;
    progress.clear();
    println!("\nTaking everything down.");
    let left = node::teardown(config).await;
    for trouble in &left {
        eprintln!("kobune: {trouble}");
    }
    result?;
    match left.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => Err("not everything could be taken down".into()),
    }
}

async fn demo_on_node(
    config: &Config,
    exit: bool,
    stop: &CancellationToken,
    progress: &mut Progress,
) -> Result<(), Failure> {
    progress.waiting("starting the control plane");
    // The image is made while everything else starts.
    let image = tokio::task::spawn_blocking({
        let root = config.data_dir.join("images");
        move || {
            let exe = Path::new("/proc/self/exe");
            ImageStore::open(&root)?.import_program(exe, demo::IMAGE, demo::image_config())
        }
    });
    let plane = Plane::start(config).await?;
    progress.done("the API answers");
    let result = async {
        progress.waiting("starting the node");
        let node = RunningNode::start(config, plane.identity(config)?).await?;
        let result = tokio::select! {
            result = demo_with_pods(config, exit, &plane, &node, image, stop, progress) => result,
            // Told to stop before it was over: that is no failure.
            () = stop.cancelled() => Ok(()),
        };
        progress.waiting("deleting the Pods");
        let removed = demo::remove(&plane.client(), DEMO_END).await;
        node.shutdown().await;
        result.and(removed)
    }
    .await;
    plane.shutdown().await;
    result
}

async fn demo_with_pods(
    config: &Config,
    exit: bool,
    plane: &Plane,
    node: &RunningNode,
    image: JoinHandle<Result<Image, image::Error>>,
    stop: &CancellationToken,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let client = plane.client();
    demo::node_ready(&client, &config.node_name, progress).await?;
    progress.waiting("making an image of this program");
    image.await??;
    progress.done("an image of this program is made");
    demo::show(&client, progress).await?;
    if exit {
        return Ok(());
    }
    println!("\nLook around, for instance in another terminal:\n");
    println!("  export KUBECONFIG={}", config.kubeconfig.display());
    println!("  kubectl -n demo get pods -o wide      (or: kobune get -n demo pods -o wide)");
    println!("  ip netns                              (every Pod is one)");
    println!("\nCtrl-C takes everything down.");
    notify::notify("READY=1");
    until_stopped(stop, node).await
}

/// Keeps everybody else out of a data directory, which is made where it is missing.
pub(crate) fn lock_data(data_dir: &Path) -> Result<lock::Lock, Failure> {
    Ok(Lock::take(data_dir)?)
}

/// What every long-running command begins with.
fn begin(config: &Config, default_level: &str) -> Result<Lock, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err("run a node: this needs root (namespaces, cgroups, routes); try sudo".into());
    }
    log_to_stderr(config.log_level.as_deref().unwrap_or(default_level))?;
    let mut lock = Lock::take(&config.data_dir)?;
    let pid = i32::try_from(std::process::id()).unwrap_or_default();
    lock.write(Some(&Holder { pid, settings: config.settings() }))?;
    // Every Pod costs descriptors; the usual 1024 would end at a few hundred.
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Err(e) = setrlimit(Resource::RLIMIT_NOFILE, most, most)
    {
        tracing::warn!("raise the limit of open files: {e}");
    }
    Ok(lock)
}

fn log_to_stderr(level: &str) -> Result<(), Failure> {
    let filter =
        EnvFilter::try_new(level).map_err(|e| format!("check log-level: {level:?}: {e}"))?;
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .init();
    Ok(())
}

fn run<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("kobune")
        .build()
        .map_err(|e| format!("start threads: {e}"))?;
    let result = runtime.block_on(work);
    // Whatever still blocks (a read of a stuck file system) must not keep the program.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}
