//! Reads a Pod from its record, `/proc`, its cgroups and netlink. A process that ends meanwhile is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kobune_netplugin::inspect::{self, View};
use kobune_netplugin::{netns, nft};
use kobune_runtime::cgroup;
use kobune_runtime::wire::{self, ContainerRecord, Request, Response};
use procfs::process;

use super::{Cgroup, Container, Mount, Namespaces, Network, Picture, Process};
use crate::sandbox::dirs::{DirsError, PodRecord};

/// What is shown of a cgroup: its limits, and what is used of them.
const SETTINGS: [&str; 8] = [
    "cgroup.freeze",
    "cpu.max",
    "cpu.weight",
    "memory.current",
    "memory.max",
    "memory.min",
    "pids.current",
    "pids.max",
];

#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error("find pod \"{namespace}/{name}\": not on this node (no record of it below {pods:?})")]
    NoPod { namespace: String, name: String, pods: PathBuf },
    #[error("list {path:?}: {source}")]
    List { path: PathBuf, source: io::Error },
    #[error(
        "find pod \"{namespace}/{name}\": its record is of an earlier boot; nothing of it lives"
    )]
    EarlierBoot { namespace: String, name: String },
    #[error(transparent)]
    Record(#[from] DirsError),
    #[error("look at the network of pod \"{namespace}/{name}\": {source}")]
    Network { namespace: String, name: String, source: kobune_netplugin::Error },
    #[error("read the namespaces of process {pid}: {source}")]
    Host { pid: i32, source: procfs::ProcError },
}

/// One Pod of the node with `run_dir` that runs as process `node`. If that one is gone, the host is what we are in.
pub fn pod(
    run_dir: &Path,
    node: Option<i32>,
    namespace: &str,
    name: &str,
) -> Result<Picture, InspectError> {
    let (record, directory) = find(run_dir, namespace, name)?;
    let node = node.filter(|pid| is_ours(*pid)).unwrap_or(std::process::id().cast_signed());
    let host = namespaces_of(node).map_err(|source| InspectError::Host { pid: node, source })?;
    let mut containers: Vec<_> =
        records(&record, &directory)?.into_iter().map(|held| container(&record, held)).collect();
    containers.sort_by(|one, other| one.name.cmp(&other.name));
    let network = record.netns.as_deref().map(|netns| network(netns, &record, node)).transpose();
    let network = network.map_err(|source| InspectError::Network {
        namespace: namespace.into(),
        name: name.into(),
        source,
    })?;
    Ok(Picture {
        supervisor: process(record.supervisor_pid),
        cgroup: cgroup_at(&record.cgroup),
        namespace: record.namespace,
        name: record.name,
        uid: record.uid,
        hostname: record.hostname,
        host,
        containers,
        network,
    })
}

/// Its number may have gone to somebody else since it was written down.
fn is_ours(pid: i32) -> bool {
    let stat = process::Process::new(pid).and_then(|found| found.stat());
    stat.is_ok_and(|stat| stat.comm.starts_with("kobune"))
}

fn find(run_dir: &Path, namespace: &str, name: &str) -> Result<(PodRecord, PathBuf), InspectError> {
    let pods = run_dir.join("pods");
    let listed = match fs::read_dir(&pods) {
        Ok(entries) => entries.collect::<Result<Vec<_>, _>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let listed = listed.map_err(|source| InspectError::List { path: pods.clone(), source })?;
    let boot_id = procfs::sys::kernel::random::boot_id().unwrap_or_default();
    for directory in listed.into_iter().map(|entry| entry.path()) {
        let Some(record) = PodRecord::read(&directory.join("pod.json"))? else { continue };
        if record.namespace != namespace || record.name != name {
            continue;
        }
        if record.boot_id != boot_id {
            return Err(InspectError::EarlierBoot {
                namespace: namespace.into(),
                name: name.into(),
            });
        }
        return Ok((record, directory));
    }
    Err(InspectError::NoPod { namespace: namespace.into(), name: name.into(), pods })
}

/// What the supervisor holds; if it is gone, what it wrote down last.
fn records(record: &PodRecord, directory: &Path) -> Result<Vec<ContainerRecord>, InspectError> {
    let asked = wire::Client::connect(&directory.join("supervisor.sock"))
        .and_then(|mut client| client.call(&Request::State));
    if let Ok(Response::State(state)) = asked {
        return Ok(state.containers);
    }
    tracing::debug!(pod = record.name, "the supervisor does not answer");
    let path = directory.join("containers");
    let Ok(entries) = fs::read_dir(&path) else { return Ok(Vec::new()) };
    let texts = entries.flatten().filter_map(|entry| fs::read(entry.path()).ok());
    Ok(texts.filter_map(|text| serde_json::from_slice(&text).ok()).collect())
}

fn container(pod: &PodRecord, held: ContainerRecord) -> Container {
    let directory = pod.cgroup.join(&held.container);
    let mut pids = cgroup::all_processes(&directory).unwrap_or_default();
    // The first process is first; its descendants as they came.
    pids.sort_by_key(|pid| (*pid != held.pid, *pid));
    Container {
        processes: pids.into_iter().filter_map(process).collect(),
        mounts: mounts(held.pid),
        cgroup: cgroup_at(&directory),
        name: held.container,
        id: held.id,
        restarts: held.attempt,
        phase: held.phase,
        exit_code: held.exit_code,
    }
}

fn process(pid: i32) -> Option<Process> {
    if pid == 0 {
        return None;
    }
    let command = process::Process::new(pid).and_then(|found| found.cmdline()).ok()?.join(" ");
    Some(Process { pid, command, namespaces: namespaces_of(pid).ok()? })
}

fn namespaces_of(pid: i32) -> Result<Namespaces, procfs::ProcError> {
    let found = process::Process::new(pid)?.namespaces()?;
    let of_children = |kind: &str| kind.ends_with("_for_children");
    let pairs = found
        .0
        .into_iter()
        .map(|(kind, found)| (kind.to_string_lossy().into_owned(), found.identifier));
    Ok(pairs.filter(|(kind, _)| !of_children(kind)).collect())
}

fn cgroup_at(path: &Path) -> Cgroup {
    let read = |file: &'static str| {
        let text = fs::read_to_string(path.join(file)).ok()?;
        Some((file, text.trim_end().to_owned()))
    };
    let settings: BTreeMap<_, _> = SETTINGS.into_iter().filter_map(read).collect();
    Cgroup { path: path.to_owned(), settings }
}

fn mounts(pid: i32) -> Vec<Mount> {
    if pid == 0 {
        return Vec::new();
    }
    let found = process::Process::new(pid).and_then(|found| found.mountinfo());
    let Ok(found) = found else { return Vec::new() };
    let shown = found.0.into_iter().map(|mount| Mount {
        read_only: mount.mount_options.contains_key("ro"),
        target: mount.mount_point,
        kind: mount.fs_type,
        root: mount.root,
        source: mount.mount_source,
    });
    shown.collect()
}

fn network(name: &str, record: &PodRecord, node: i32) -> Result<Network, kobune_netplugin::Error> {
    let path = netns::path(name);
    let View { interfaces, routes } = inspect::at(&path)?;
    let of_host = PathBuf::from(format!("/proc/{node}/ns/net"));
    let host = inspect::at(&of_host)?;
    let ways = record.address.map(|address| nft::ways_to(&of_host, address)).transpose()?;
    let ends: Vec<_> =
        interfaces.iter().filter_map(|inside| host.interface(inside.peer?)).cloned().collect();
    let bridges: BTreeSet<u32> = ends.iter().filter_map(|end| end.controller).collect();
    let bridges = bridges.into_iter().filter_map(|index| host.interface(index)).cloned();
    let inode = fs::metadata(&path).map_or(0, |meta| meta.ino());
    let host_interfaces = ends.iter().cloned().chain(bridges).collect();
    let (name, ways) = (name.to_owned(), ways.unwrap_or_default());
    Ok(Network { name, inode, interfaces, routes, host_interfaces, ways })
}
