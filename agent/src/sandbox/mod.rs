//! A Pod's sandbox: network namespace, supervisor, cgroup, shared files. Made in one go, torn down in reverse, found
//! again after a restart. Blocking; called from the blocking pool.
//!
//! Every [`setup`] first writes the Pod's record, so that what a crash leaves behind can be taken down by [`teardown`]
//! without asking anybody.

pub mod client;
pub mod dirs;
pub mod files;

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use kobune_netplugin::{HostConfig, PodRequest, netns};
use kobune_runtime::cgroup::{self, CgroupHost};
use kobune_runtime::supervisor::{SpawnOptions, spawn};
use kobune_runtime::wire::{self, Client, ContainerRecord, Request, Response};

use self::dirs::{DirsError, PodDirs, PodRecord, Roots};
use self::files::Files;
use crate::container::PodNamespaces;
use crate::container::resources;
use crate::dns;
use crate::volume::VolumeError;
use crate::volume::mount;

/// What upstream gives a Pod as /dev/shm.
const SHM_BYTES: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error(transparent)]
    Dirs(#[from] DirsError),
    #[error("set up the network: {0}")]
    Network(#[from] kobune_netplugin::Error),
    #[error(transparent)]
    Spawn(#[from] kobune_runtime::supervisor::SpawnError),
    #[error(transparent)]
    Cgroup(#[from] cgroup::CgroupError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error("find a name for the network namespace of pod {0}: all candidates are taken")]
    NoName(String),
    #[error("listen at {path:?}: {source}")]
    Listen { path: PathBuf, source: std::io::Error },
    #[error("{verb}: {source}")]
    Thread { verb: &'static str, source: std::io::Error },
}

/// What is the same for all Pods of a node.
#[derive(Debug, Clone)]
pub struct Settings {
    pub roots: Roots,
    pub cgroups: CgroupHost,
    /// Below the cgroup mount.
    pub cgroup_root: String,
    pub network: HostConfig,
    pub boot_id: String,
    /// The program that becomes a supervisor.
    pub exe: PathBuf,
    pub node_name: String,
    pub pids_per_pod: Option<i64>,
}

/// A sandbox that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub record: PodRecord,
    pub dirs: PodDirs,
}

impl Standing {
    pub fn netns_path(&self) -> Option<PathBuf> {
        self.record.netns.as_deref().map(netns::path)
    }

    pub fn namespaces(&self) -> PodNamespaces {
        let of_supervisor =
            |kind: &str| PathBuf::from(format!("/proc/{}/ns/{kind}", self.record.supervisor_pid));
        PodNamespaces {
            net: self.netns_path(),
            ipc: of_supervisor("ipc"),
            uts: of_supervisor("uts"),
        }
    }
}

/// `<cgroup mount>/<root>/pod<uid>`.
pub fn pod_cgroup(settings: &Settings, uid: &str) -> PathBuf {
    settings.cgroups.path(&settings.cgroup_root).join(format!("pod{uid}"))
}

/// Makes everything. On failure nothing is left.
pub fn setup(settings: &Settings, pod: &Pod) -> Result<Standing, SandboxError> {
    let dirs = PodDirs::of(&settings.roots, pod)?;
    let made = make(settings, pod, &dirs);
    if made.is_err() {
        for error in teardown(settings, &dirs) {
            tracing::warn!(%error, pod = ?pod.metadata.name, "undo a sandbox that failed");
        }
    }
    made
}

fn make(settings: &Settings, pod: &Pod, dirs: &PodDirs) -> Result<Standing, SandboxError> {
    make_directory(&dirs.run)?;
    make_directory(&dirs.data)?;
    let mut record = new_record(settings, pod);
    record.write(&dirs.record())?;
    if !is_host_network(pod) {
        claim_netns(&mut record, &dirs.record())?;
    }
    // The network is the slow half; the supervisor does not need the address.
    let (network, supervisor) = std::thread::scope(|scope| {
        let network = scope.spawn(|| connect(settings, &record));
        let supervisor = start_supervisor(settings, pod, dirs, &record);
        (network.join(), supervisor)
    });
    record.address = match network {
        Ok(result) => result?,
        Err(_panic) => {
            let source = std::io::Error::other("the thread panicked");
            return Err(SandboxError::Thread { verb: "set up the network", source });
        }
    };
    record.supervisor_pid = supervisor?;
    let dns = dns::cluster_address(&settings.network.service_cidr);
    Files::below(&dirs.data).write(pod, &record.hostname, record.address, dns)?;
    mount::memory(&dirs.shm(), Some(SHM_BYTES), 0o1777)?;
    record.write(&dirs.record())?;
    Ok(Standing { record, dirs: dirs.clone() })
}

fn make_directory(path: &Path) -> Result<(), DirsError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o750).create(path);
    made.map_err(|source| DirsError::Io { verb: "make directory", path: path.into(), source })
}

fn new_record(settings: &Settings, pod: &Pod) -> PodRecord {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    PodRecord {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        boot_id: settings.boot_id.clone(),
        hostname: files::hostname(pod, &settings.node_name),
        netns: None,
        address: None,
        cgroup: pod_cgroup(settings, &uid),
        supervisor_pid: 0,
        uid,
    }
}

pub fn is_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

/// The Pod's name if it is free, so that `ip netns` shows it as people know it; making the namespace is the claim. The
/// record says so before: a crash in between must not leave a namespace that nobody knows.
fn claim_netns(record: &mut PodRecord, path: &Path) -> Result<(), SandboxError> {
    let longer = format!("{}_{}", record.namespace, record.name);
    let longest = format!("{longer}_{}", record.uid);
    for name in [record.name.clone(), longer, longest] {
        if netns::exists(&name) {
            continue;
        }
        record.netns = Some(name.clone());
        record.write(path)?;
        match netns::create(&name) {
            Ok(_) => return Ok(()),
            // Somebody was faster: it is not ours, and the record must not say so.
            Err(_) if netns::exists(&name) => {
                record.netns = None;
                record.write(path)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(SandboxError::NoName(format!("{}/{}", record.namespace, record.name)))
}

fn connect(settings: &Settings, record: &PodRecord) -> Result<Option<Ipv4Addr>, SandboxError> {
    let Some(netns) = record.netns.clone() else { return Ok(None) };
    let request = PodRequest { uid: record.uid.clone(), netns };
    Ok(Some(kobune_netplugin::pod::setup(&settings.network, &request)?.address))
}

fn start_supervisor(
    settings: &Settings,
    pod: &Pod,
    dirs: &PodDirs,
    record: &PodRecord,
) -> Result<i32, SandboxError> {
    // A cgroup of this name can only be what an earlier sandbox left.
    cgroup::kill_pod(&record.cgroup)?;
    let path = dirs.socket();
    let listener = wire::listen(&path).map_err(|source| SandboxError::Listen { path, source })?;
    let sysctls = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref())
        .and_then(|it| it.sysctls.as_ref());
    let options = SpawnOptions {
        exe: settings.exe.clone(),
        pod_dir: dirs.run.clone(),
        listener,
        hostname: record.hostname.clone(),
        title: format!("{}/{}", record.namespace, record.name),
        cgroup: record.cgroup.clone(),
        resources: Some(resources::pod(pod, settings.pids_per_pod)),
        sysctls: sysctls
            .into_iter()
            .flatten()
            .map(|one| (one.name.clone(), one.value.clone()))
            .collect(),
        netns: record.netns.as_deref().map(netns::path),
    };
    Ok(spawn(&options)?.pid)
}

/// Takes everything down that [`setup`] makes, whatever of it exists. Volumes on disk, writable layers and logs stay
/// (see [`clean`]).
pub fn teardown(settings: &Settings, dirs: &PodDirs) -> Vec<SandboxError> {
    let mut errors = Vec::new();
    let record = match PodRecord::read(&dirs.record()) {
        Ok(record) => record,
        Err(error) => {
            errors.push(error.into());
            None
        }
    };
    let uid = dirs.run.file_name().and_then(|uid| uid.to_str()).unwrap_or_default().to_owned();
    // A supervisor that still answers ends in order; then the kernel ends whatever is left.
    if let Ok(mut client) = Client::connect(&dirs.socket()) {
        let _ = client.call(&Request::Shutdown);
    }
    let cgroup =
        record.as_ref().map_or_else(|| pod_cgroup(settings, &uid), |record| record.cgroup.clone());
    errors.extend(cgroup::kill_pod(&cgroup).err().map(Into::into));
    if let Some(netns) = record.as_ref().and_then(|record| record.netns.as_deref()) {
        errors.extend(
            kobune_netplugin::pod::teardown(&settings.network, &uid, netns).err().map(Into::into),
        );
    }
    // The record goes last, and only when there is nothing left that it would be needed for.
    if errors.is_empty() {
        errors.extend(mount::remove_tree(&dirs.run).into_iter().map(Into::into));
    } else {
        errors.extend(mount::unmount_below(&dirs.run).into_iter().map(Into::into));
    }
    errors
}

/// Removes what outlives the sandbox: volumes, writable layers, logs.
pub fn clean(dirs: &PodDirs) -> Vec<VolumeError> {
    let mut errors = mount::remove_tree(&dirs.data);
    errors.extend(mount::remove_tree(&dirs.logs));
    errors
}

/// What an earlier agent left of a Pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Remains {
    pub record: PodRecord,
    pub dirs: PodDirs,
}

/// All Pods that have a record in the run directory. Unreadable ones are reported, not returned.
pub fn scan(settings: &Settings) -> Vec<Remains> {
    let directory = settings.roots.run.join("pods");
    let Ok(entries) = fs::read_dir(&directory) else { return Vec::new() };
    let remains = |path: PathBuf| match PodRecord::read(&path.join("pod.json")) {
        Ok(Some(record)) => {
            let dirs =
                PodDirs::new(&settings.roots, &record.namespace, &record.name, &record.uid).ok()?;
            (dirs.run == path).then_some(Remains { record, dirs })
        }
        Ok(None) => None,
        Err(error) => {
            tracing::warn!(%error, "read the record of a pod");
            None
        }
    };
    entries.flatten().filter_map(|entry| remains(entry.path())).collect()
}

/// Pods that have something in the data directory and are not `known`: deleted while this node was down.
pub fn unknown(settings: &Settings, known: impl Fn(&str) -> bool) -> Vec<String> {
    let all = list(&settings.roots.data.join("pods"));
    all.map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|uid| !known(uid))
        .collect()
}

/// Removes volumes and logs of these Pods.
pub fn sweep(settings: &Settings, uids: &[String]) -> Vec<VolumeError> {
    let mut errors = Vec::new();
    for uid in uids {
        // Other nodes may log to the same place: only what belongs to this very Pod goes.
        let logs = list(&settings.roots.logs).map(|entry| entry.path());
        let own = logs.filter(|path| path.to_string_lossy().ends_with(&format!("_{uid}")));
        errors.extend(own.flat_map(|path| mount::remove_tree(&path)));
        errors.extend(mount::remove_tree(&settings.roots.data.join("pods").join(uid)));
    }
    errors
}

fn list(directory: &Path) -> impl Iterator<Item = fs::DirEntry> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten()
}

/// The record of one Pod, if there is a readable one.
pub fn find(dirs: &PodDirs) -> Option<Remains> {
    let record = PodRecord::read(&dirs.record()).ok().flatten()?;
    Some(Remains { record, dirs: dirs.clone() })
}

/// Asks the supervisor of `remains` what it holds; falls back on its records if it is dead.
pub fn examine(settings: &Settings, remains: &Remains) -> (bool, Vec<ContainerRecord>) {
    if remains.record.boot_id != settings.boot_id {
        return (false, Vec::new());
    }
    let answer =
        Client::connect(&remains.dirs.socket()).and_then(|mut client| client.call(&Request::State));
    match answer {
        Ok(Response::State(state)) => (true, state.containers),
        _ => (false, read_records(&remains.dirs)),
    }
}

fn read_records(dirs: &PodDirs) -> Vec<ContainerRecord> {
    let Ok(entries) = fs::read_dir(dirs.run.join("containers")) else { return Vec::new() };
    let is_record = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
    let paths = entries.flatten().map(|entry| entry.path()).filter(is_record);
    paths.filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unknown_pods_are_swept_away() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let settings = Settings {
            roots: Roots { data: at("data"), run: at("run"), logs: at("logs") },
            cgroups: CgroupHost { mount: at("cgroup"), controllers: Default::default() },
            cgroup_root: "kobune".into(),
            network: HostConfig {
                bridge: "kobune0".into(),
                node_cidr: "10.244.0.0/24".parse().unwrap(),
                cluster_cidr: "10.244.0.0/16".parse().unwrap(),
                service_cidr: "10.96.0.0/16".parse().unwrap(),
                mtu: None,
                state_dir: at("net"),
            },
            boot_id: String::new(),
            exe: at("exe"),
            node_name: "node".into(),
            pids_per_pod: None,
        };
        for path in
            ["data/pods/a/x", "data/pods/b", "logs/ns_p_a", "logs/ns_p_b", "logs/ns_q_other"]
        {
            fs::create_dir_all(at(path)).unwrap();
        }
        let unknown = unknown(&settings, |uid| uid == "b");
        assert_eq!(unknown, ["a"]);
        assert!(sweep(&settings, &unknown).is_empty());
        let there = |path: &str| at(path).exists();
        assert!(!there("data/pods/a") && !there("logs/ns_p_a"));
        assert!(there("data/pods/b") && there("logs/ns_p_b") && there("logs/ns_q_other"));
    }
}
