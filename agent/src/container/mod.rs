//! A Pod's container as an OCI runtime specification. Pure: Pod + image configuration + facts in, [`Spec`] out.
//!
//! Nothing here looks at the machine or the API; what has to be read (ConfigMaps, the image's
//! `/etc/passwd`, device nodes) is read by the caller and given as a value.

pub mod env;
pub mod field;
pub mod mounts;
pub mod resources;
pub mod seccomp;
pub mod security;
pub mod user;

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, Pod};
use oci_spec::image::Config as ImageConfig;
use oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxDevice, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType,
    LinuxSeccomp, Mount, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder,
};

use self::user::Identity;

/// Why a container cannot be made as it is described. The waiting state's reason is [`ConfigError::reason`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{0}")]
    Config(String),
    /// The image store has no such image, or cannot be read.
    #[error("{message}")]
    Image { reason: &'static str, message: String },
    #[error("{0}")]
    Create(String),
}

impl ConfigError {
    pub fn reason(&self) -> &'static str {
        match self {
            ConfigError::Config(_) => "CreateContainerConfigError",
            ConfigError::Create(_) => "CreateContainerError",
            ConfigError::Image { reason, .. } => reason,
        }
    }
}

/// Namespaces of the Pod that its containers join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNamespaces {
    /// None: the host's.
    pub net: Option<PathBuf>,
    pub ipc: PathBuf,
    pub uts: PathBuf,
}

/// All that [`spec`] needs.
#[derive(Debug)]
pub struct Input<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub image: &'a ImageConfig,
    /// The whole environment, in order; see [`env`].
    pub env: &'a [(String, String)],
    pub identity: &'a Identity,
    pub namespaces: &'a PodNamespaces,
    /// From [`mounts::all`].
    pub mounts: Vec<Mount>,
    /// Device nodes of the host, for privileged containers.
    pub devices: Vec<LinuxDevice>,
    /// Relative to the top of the cgroup tree, with a leading `/`.
    pub cgroup: PathBuf,
    /// None: every system call.
    pub seccomp: Option<LinuxSeccomp>,
    pub host: resources::HostSize,
}

pub fn spec(input: Input<'_>) -> Result<Spec, ConfigError> {
    let fail = |error: oci_spec::OciSpecError| {
        ConfigError::Create(format!("build the runtime spec: {error}"))
    };
    let security = input.container.security_context.as_ref();
    let read_only = security.and_then(|context| context.read_only_root_filesystem).unwrap_or(false);
    let root = RootBuilder::default().path("rootfs").readonly(read_only).build().map_err(fail)?;
    let process = process(&input)?;
    let linux = linux(&input)?;
    let mut spec = SpecBuilder::default()
        .version("1.2.0")
        .root(root)
        .mounts(input.mounts)
        .process(process)
        .linux(linux)
        .build()
        .map_err(fail)?;
    // The crate's defaults say things of their own; the Pod's name is set in its uts namespace already.
    spec.set_hostname(None).set_annotations(None);
    Ok(spec)
}

fn process(input: &Input<'_>) -> Result<Process, ConfigError> {
    let fail =
        |error: oci_spec::OciSpecError| ConfigError::Create(format!("build the process: {error}"));
    let env: Vec<String> =
        input.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let cwd = non_empty(&input.container.working_dir)
        .or_else(|| non_empty(input.image.working_dir()))
        .unwrap_or_else(|| "/".into());
    ProcessBuilder::default()
        .terminal(false)
        .user(input.identity.oci_user()?)
        .args(arguments(input.container, input.image, input.env)?)
        .env(env)
        .cwd(cwd)
        .capabilities(security::capabilities(input.container)?)
        .no_new_privileges(security::no_new_privileges(input.container))
        // The crate's default would cut the number of open files.
        .rlimits(Vec::new())
        .oom_score_adj(resources::oom_score_adj(input.pod, input.container, input.host))
        .build()
        .map_err(fail)
}

/// `command` replaces the image's ENTRYPOINT and its CMD; `args` replaces CMD only.
fn arguments(
    container: &Container,
    image: &ImageConfig,
    env: &[(String, String)],
) -> Result<Vec<String>, ConfigError> {
    let lookup =
        |name: &str| env.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let expand = |words: &[String]| -> Vec<String> {
        words.iter().map(|word| env::expand(word, lookup)).collect()
    };
    let given = |words: &Option<Vec<String>>| words.clone().filter(|words| !words.is_empty());
    let command = given(&container.command);
    let args = given(&container.args);
    let own_command = command.is_some();
    let mut out = match command {
        Some(command) => expand(&command),
        None => image.entrypoint().clone().unwrap_or_default(),
    };
    match args {
        Some(args) => out.extend(expand(&args)),
        None if !own_command => out.extend(image.cmd().clone().unwrap_or_default()),
        None => {}
    }
    if out.is_empty() {
        let message = "no command specified: neither the container nor its image says what to run";
        return Err(ConfigError::Create(message.into()));
    }
    Ok(out)
}

fn linux(input: &Input<'_>) -> Result<Linux, ConfigError> {
    let fail = |error: oci_spec::OciSpecError| {
        ConfigError::Create(format!("build the linux section: {error}"))
    };
    let privileged = security::is_privileged(input.container);
    let mut builder = LinuxBuilder::default()
        .namespaces(namespaces(input.namespaces)?)
        .cgroups_path(input.cgroup.clone())
        .resources(resources::container(input.container, privileged))
        .rootfs_propagation("rprivate");
    if privileged {
        // The crate's defaults hide paths; a privileged container is to see everything.
        builder = builder
            .devices(input.devices.clone())
            .masked_paths(Vec::<String>::new())
            .readonly_paths(Vec::<String>::new());
    } else {
        builder = builder
            .masked_paths(security::masked_paths())
            .readonly_paths(security::readonly_paths());
    }
    if let Some(profile) = &input.seccomp {
        builder = builder.seccomp(profile.clone());
    }
    builder.build().map_err(fail)
}

/// Each container has its own pid, mount and cgroup namespace, and joins the Pod's others.
fn namespaces(pod: &PodNamespaces) -> Result<Vec<LinuxNamespace>, ConfigError> {
    let mut list = vec![
        (LinuxNamespaceType::Pid, None),
        (LinuxNamespaceType::Mount, None),
        (LinuxNamespaceType::Cgroup, None),
        (LinuxNamespaceType::Ipc, Some(&pod.ipc)),
        (LinuxNamespaceType::Uts, Some(&pod.uts)),
    ];
    if let Some(net) = &pod.net {
        list.push((LinuxNamespaceType::Network, Some(net)));
    }
    let namespace = |(typ, path): (LinuxNamespaceType, Option<&PathBuf>)| {
        let mut builder = LinuxNamespaceBuilder::default().typ(typ);
        if let Some(path) = path {
            builder = builder.path(path.clone());
        }
        builder
            .build()
            .map_err(|error| ConfigError::Create(format!("build the namespaces: {error}")))
    };
    list.into_iter().map(namespace).collect()
}

fn non_empty(text: &Option<String>) -> Option<String> {
    text.clone().filter(|text| !text.is_empty())
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
