//! From "start this container" to a running process: image, environment, volumes, bundle, supervisor.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Service};
use kobune_runtime::wire::{CreateRequest, ErrorKind, LogConfig, Request, Response, Rootfs};
use nix::sys::signal::Signal;
use oci_spec::runtime::LinuxSeccomp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::clock::from_nanos;
use super::plan::find_container;
use super::sources;
use super::state::{Event, StartFailure, Termination};
use super::worker::Msg;
use crate::container::env::{self, Sources};
use crate::container::mounts::{self, PodFiles, VolumeBind};
use crate::container::seccomp::{self, Choice};
use crate::container::{ConfigError, Input, security, spec, user};
use crate::image::{Image, ImageStore};
use crate::node::context::Context;
use crate::node::pods::config_path;
use crate::sandbox::Standing;
use crate::sandbox::client::{self, SupervisorError};
use crate::sandbox::files::Files;
use crate::volume;

/// Seccomp profiles that Pods may name, below the data directory.
const PROFILES: &str = "seccomp";

/// One container to start.
pub(super) struct Order {
    pub(super) context: Arc<Context>,
    pub(super) pod: Arc<Pod>,
    pub(super) standing: Standing,
    pub(super) index: usize,
    pub(super) name: String,
    pub(super) attempt: u32,
    /// The back-off of a pull that failed is over.
    pub(super) may_pull: bool,
    /// Cancelled when the Pod is to stop: nobody needs the container any more.
    pub(super) stopped: CancellationToken,
    pub(super) outbox: mpsc::UnboundedSender<Msg>,
}

/// Why it did not start.
enum Failure {
    Config(ConfigError),
    /// The program could not be executed.
    CannotRun {
        id: String,
        error: SupervisorError,
    },
    Supervisor(SupervisorError),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::Config(error)
    }
}

pub(super) async fn start(order: Order) -> Event {
    let (index, attempt) = (order.index, order.attempt);
    let failed = |failure| Event::StartFailed { index, attempt, failure };
    let not_made =
        |reason: &str, message: String| StartFailure::NotMade { reason: reason.into(), message };
    match try_start(&order).await {
        Ok((id, started_at)) => Event::Started { index, attempt, id, started_at },
        Err(Failure::Config(error)) => failed(not_made(error.reason(), error.to_string())),
        Err(Failure::Supervisor(error)) => {
            failed(not_made("CreateContainerError", error.to_string()))
        }
        Err(Failure::CannotRun { id, error }) => {
            failed(StartFailure::Ended(cannot_run(id, &error.to_string())))
        }
    }
}

/// As shells have it: 127 for what is not there, 126 for what cannot be executed.
fn cannot_run(id: String, message: &str) -> Termination {
    let missing = message.to_lowercase().contains("no such file");
    let now = Timestamp::now();
    Termination {
        id,
        exit_code: if missing { 127 } else { 126 },
        signal: None,
        reason: "ContainerCannotRun".into(),
        message: Some(message.into()),
        started_at: Some(now),
        finished_at: now,
    }
}

async fn try_start(order: &Order) -> Result<(String, Timestamp), Failure> {
    let gone =
        || ConfigError::Create(format!("container \"{}\" is not in the Pod's spec", order.name));
    let container = find_container(&order.pod, &order.name).ok_or_else(gone)?.clone();
    let image = super::image::find(order, &container).await?;
    let namespace = order.pod.metadata.namespace.clone().unwrap_or_default();
    let sources = sources::fetch(&order.context.client, &namespace, &env::needs(&container)).await;
    let sources = sources.map_err(|error| ConfigError::Config(error.to_string()))?;
    let services: Vec<Service> =
        order.context.services.state().iter().map(|service| (**service).clone()).collect();
    let request = blocking({
        let (context, pod, standing) =
            (Arc::clone(&order.context), Arc::clone(&order.pod), order.standing.clone());
        let attempt = order.attempt;
        move || {
            prepare(
                &Job {
                    context: &context,
                    pod: &pod,
                    standing: &standing,
                    container: &container,
                    attempt,
                },
                &image,
                &sources,
                &services,
            )
        }
    })
    .await?;
    run(order, request).await
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ConfigError> + Send + 'static,
) -> Result<T, ConfigError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|error| Err(ConfigError::Create(error.to_string())))
}

/// Hands the bundle to the supervisor. A run of the same name that ended is forgotten first.
async fn run(order: &Order, request: CreateRequest) -> Result<(String, Timestamp), Failure> {
    let socket = order.standing.dirs.socket();
    let id = request.id.clone();
    let container = request.container.clone();
    let refuse = |error: SupervisorError| match error.refused() {
        Some(ErrorKind::CannotRun) => Failure::CannotRun { id: id.clone(), error },
        _ => Failure::Supervisor(error),
    };
    match client::call(&socket, Request::Remove { container: container.clone() }).await {
        Err(error) if error.refused() != Some(ErrorKind::NotFound) => {
            return Err(Failure::Supervisor(error));
        }
        _ => {}
    }
    client::call(&socket, Request::Create(Box::new(request))).await.map_err(refuse)?;
    match client::call(&socket, Request::Start { container }).await.map_err(refuse)? {
        Response::Started { started_at } => Ok((id.clone(), from_nanos(started_at))),
        other => Err(Failure::Supervisor(SupervisorError::Protocol(format!(
            "unexpected answer {other:?}"
        )))),
    }
}

/// What [`prepare`] works on.
struct Job<'a> {
    context: &'a Context,
    pod: &'a Pod,
    standing: &'a Standing,
    container: &'a Container,
    attempt: u32,
}

/// Writes the bundle and everything around it.
fn prepare(
    job: &Job<'_>,
    image: &Image,
    sources: &Sources,
    services: &[Service],
) -> Result<CreateRequest, ConfigError> {
    let (dirs, container, attempt) = (&job.standing.dirs, job.container, job.attempt);
    let name = &container.name;
    let facts =
        job.context.facts(job.pod, job.standing.record.address.map(|address| address.to_string()));
    let image_env = image.config.env().clone().unwrap_or_default();
    let env = env::build(container, &image_env, &facts, sources, services)?;
    let accounts = super::rootfs::accounts(&image.layers);
    let identity = user::identity(job.pod, container, image.config.user().as_deref(), &accounts)?;
    make_layer(job)?;
    let files = Files::below(&dirs.data);
    let pod_files = PodFiles {
        hosts: files.hosts,
        hostname: files.hostname,
        resolv_conf: files.resolv_conf,
        shm: dirs.shm(),
        termination_log: dirs.termination_log(name, attempt),
    };
    let volumes = binds(job)?;
    let privileged = security::is_privileged(container);
    let oci = spec(Input {
        pod: job.pod,
        container,
        image: &image.config,
        env: &env,
        identity: &identity,
        namespaces: &job.standing.namespaces(),
        mounts: mounts::all(container, &pod_files, volumes),
        devices: if privileged { super::rootfs::host_devices() } else { Vec::new() },
        cgroup: cgroup_path(job),
        seccomp: seccomp_profile(job)?,
        host: job.context.host,
    })?;
    let bundle = dirs.bundle(name, attempt);
    make_directory(&bundle)?;
    let config = config_path(&bundle);
    let bytes = serde_json::to_vec(&oci)
        .map_err(|error| ConfigError::Create(format!("encode {config:?}: {error}")))?;
    fs::write(&config, bytes)
        .map_err(|error| ConfigError::Create(format!("write {config:?}: {error}")))?;
    make_directory(&dirs.container_logs(name))?;
    Ok(create_request(job, image, bundle))
}

fn seccomp_profile(job: &Job<'_>) -> Result<Option<LinuxSeccomp>, ConfigError> {
    match seccomp::choice(job.pod, job.container)? {
        Choice::Unconfined => Ok(None),
        Choice::RuntimeDefault => {
            seccomp::runtime_default(&security::capabilities(job.container)?).map(Some)
        }
        Choice::Localhost(name) => {
            let path = job.context.sandbox.roots.data.join(PROFILES).join(name);
            let text = fs::read(&path).map_err(|error| {
                ConfigError::Create(format!("read seccomp profile {path:?}: {error}"))
            })?;
            seccomp::parse(&path, &text).map(Some)
        }
    }
}

fn create_request(job: &Job<'_>, image: &Image, bundle: std::path::PathBuf) -> CreateRequest {
    let (dirs, name) = (&job.standing.dirs, &job.container.name);
    let layer = dirs.layer(name, job.attempt);
    let options = &job.context.options;
    CreateRequest {
        container: name.clone(),
        id: new_id(),
        attempt: job.attempt,
        bundle,
        rootfs: Rootfs::Overlay {
            lower: image.layers.clone(),
            upper: layer.join("upper"),
            work: layer.join("work"),
        },
        log: Some(LogConfig {
            path: dirs.log(name, job.attempt),
            max_size: options.log_max_size,
            max_files: options.log_max_files,
        }),
    }
}

/// 64 hexadecimal digits.
fn new_id() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}

/// Relative to the top of the cgroup tree.
fn cgroup_path(job: &Job<'_>) -> std::path::PathBuf {
    let settings = &job.context.sandbox;
    let pod = &job.standing.record.cgroup;
    let below = pod.strip_prefix(&settings.cgroups.mount).unwrap_or(pod);
    Path::new("/").join(below).join(&job.container.name)
}

/// A fresh writable layer; those of earlier runs are gone, and their logs but the latest.
fn make_layer(job: &Job<'_>) -> Result<(), ConfigError> {
    let (dirs, name) = (&job.standing.dirs, &job.container.name);
    let layers = dirs.layers(name);
    for error in volume::mount::remove_tree(&layers) {
        tracing::warn!(%error, "remove the writable layer of an earlier run");
    }
    let layer = dirs.layer(name, job.attempt);
    make_directory(&layer.join("upper"))?;
    make_directory(&layer.join("work"))?;
    let message = dirs.termination_log(name, job.attempt);
    fs::write(&message, "")
        .map_err(|error| ConfigError::Create(format!("create {message:?}: {error}")))?;
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    fs::set_permissions(&message, everybody)
        .map_err(|error| ConfigError::Create(format!("change the mode of {message:?}: {error}")))?;
    super::rootfs::forget_old(&dirs.container_logs(name), job.attempt);
    super::rootfs::forget_old(&dirs.run.join("bundles").join(name), job.attempt);
    Ok(())
}

fn binds(job: &Job<'_>) -> Result<Vec<VolumeBind>, ConfigError> {
    let fail = |error: volume::VolumeError| ConfigError::Config(error.to_string());
    let dirs = &job.standing.dirs;
    let mut out = Vec::new();
    for (number, mounted) in volume::mounted(job.pod, job.container, &dirs.places())
        .map_err(fail)?
        .into_iter()
        .enumerate()
    {
        let mut bind = mounted.bind;
        if let Some(sub_path) = &mounted.sub_path {
            let target =
                dirs.run.join("subpaths").join(&job.container.name).join(number.to_string());
            volume::mount::sub_path(&mounted.volume.name, &bind.source, sub_path, &target)
                .map_err(fail)?;
            bind.source = target;
        }
        out.push(bind);
    }
    Ok(out)
}

fn make_directory(path: &Path) -> Result<(), ConfigError> {
    fs::create_dir_all(path)
        .map_err(|error| ConfigError::Create(format!("make directory {path:?}: {error}")))
}

/// The image's STOPSIGNAL, SIGTERM without one.
pub(super) fn stop_signal(images: &ImageStore, reference: &str) -> i32 {
    let image = images.resolve(reference).ok().flatten();
    let wish = image.and_then(|image| image.config.stop_signal().clone());
    wish.as_deref().and_then(parse_signal).unwrap_or(Signal::SIGTERM as i32)
}

/// `SIGQUIT`, `QUIT`, `3`, `SIGRTMIN+3`.
fn parse_signal(text: &str) -> Option<i32> {
    const FIRST_REALTIME: i32 = 34;
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = bare.strip_prefix("RTMIN") {
        let offset: i32 =
            if offset.is_empty() { 0 } else { offset.strip_prefix('+')?.parse().ok()? };
        return (0..=30).contains(&offset).then_some(FIRST_REALTIME + offset);
    }
    format!("SIG{bare}").parse::<Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals() {
        let table = [
            ("SIGQUIT", Some(3)),
            ("QUIT", Some(3)),
            ("sigterm", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMIN", Some(34)),
            ("0", None),
            ("65", None),
            ("SIGNOTHING", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_signal(text), expected, "{text}");
        }
    }

    #[test]
    fn exit_codes_of_programs_that_cannot_run() {
        assert_eq!(cannot_run("i".into(), "exec \"/x\": No such file or directory").exit_code, 127);
        assert_eq!(cannot_run("i".into(), "exec \"/x\": permission denied").exit_code, 126);
        assert_eq!(new_id().len(), 64);
    }
}
