//! What a Pod is made of, as the kernel has it at this moment: processes, namespaces, cgroups, mounts, the cable and
//! the routes. The model, and whose a namespace is (pure). [`observe`] reads it, [`draw`] shows it; nothing changes anything.

pub mod draw;
pub mod observe;

use std::collections::BTreeMap;
use std::path::PathBuf;

use kobune_netplugin::inspect::{Interface, Route};
use kobune_netplugin::nft::Way;
use kobune_runtime::wire::ContainerPhase;
use serde::Serialize;

/// Kind (`net`, `mnt`, `pid` … as in `/proc/<pid>/ns`) to inode number, which is the namespace's identity.
pub type Namespaces = BTreeMap<String, u64>;

/// One Pod.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Picture {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub hostname: String,
    /// Those of the node's own process: what a container has in common with them it does not have for itself.
    pub host: Namespaces,
    /// Holds the Pod's namespaces for as long as the Pod lives; absent when it is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supervisor: Option<Process>,
    pub cgroup: Cgroup,
    pub containers: Vec<Container>,
    /// Absent for a Pod in the host's network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// In the host's pid namespace.
    pub pid: i32,
    /// Its arguments, with spaces between.
    pub command: String,
    pub namespaces: Namespaces,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    pub name: String,
    pub id: String,
    /// The Pod status' restartCount.
    pub restarts: u32,
    pub phase: ContainerPhase,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The first process is first. Empty once it has ended.
    pub processes: Vec<Process>,
    pub cgroup: Cgroup,
    pub mounts: Vec<Mount>,
}

/// A cgroup v2 directory. What the host has no controller for is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cgroup {
    pub path: PathBuf,
    /// As in the files: bytes, `max`, `<quota> <period>` in microseconds.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<&'static str, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Inside of the container.
    pub target: PathBuf,
    pub kind: String,
    /// What of the file system is seen there; `/` is all of it.
    pub root: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// What `ip netns` calls it.
    pub name: String,
    pub inode: u64,
    pub interfaces: Vec<Interface>,
    pub routes: Vec<Route>,
    /// The host's ends of the cables, and the bridges that they are ports of.
    pub host_interfaces: Vec<Interface>,
    /// The elements of the host's nf_tables through which Services lead here.
    pub ways: Vec<Way>,
}

/// Whom a namespace belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Owner {
    /// Shared by everything in the Pod.
    Pod,
    Container,
    /// The Pod has none of its own.
    Host,
}

impl Picture {
    /// Whom the namespace `kind` of a container's first process belongs to.
    pub fn owner(&self, kind: &str, inode: u64) -> Owner {
        let same = |namespaces: &Namespaces| namespaces.get(kind) == Some(&inode);
        if same(&self.host) {
            return Owner::Host;
        }
        let firsts = self.containers.iter().filter_map(|container| container.processes.first());
        let members = firsts.filter(|process| same(&process.namespaces)).count();
        let held = self.supervisor.as_ref().is_some_and(|process| same(&process.namespaces));
        let pinned =
            kind == "net" && self.network.as_ref().is_some_and(|network| network.inode == inode);
        if held || pinned || members > 1 { Owner::Pod } else { Owner::Container }
    }
}

#[cfg(test)]
mod tests;
