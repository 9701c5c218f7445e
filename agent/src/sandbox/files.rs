//! /etc/hosts, /etc/hostname and /etc/resolv.conf of a Pod: their text (pure) and the writing of it.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{HostAlias, Pod};

use super::dirs::DirsError;
use crate::dns::{HOST_FILE, resolv};

/// The longest name that the kernel takes.
const MAX_HOSTNAME: usize = 63;

/// A Pod's host name, as upstream: `spec.hostname`, else its name, cut to what the kernel takes.
pub fn hostname(pod: &Pod, node_name: &str) -> String {
    let spec = pod.spec.as_ref();
    if spec.and_then(|spec| spec.host_network).unwrap_or(false) {
        return node_name.into();
    }
    let given = spec.and_then(|spec| spec.hostname.clone()).filter(|name| !name.is_empty());
    let name = given.or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    let cut: String = name.chars().take(MAX_HOSTNAME).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// `<hostname>.<subdomain>.<namespace>.svc.<cluster domain>` for Pods with a subdomain.
fn full_name(pod: &Pod, hostname: &str) -> Option<String> {
    let subdomain =
        pod.spec.as_ref()?.subdomain.as_deref().filter(|subdomain| !subdomain.is_empty())?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    Some(format!("{hostname}.{subdomain}.{namespace}.svc.cluster.local"))
}

pub fn hosts(pod: &Pod, hostname: &str, address: Option<Ipv4Addr>) -> String {
    let mut text = String::from(
        "# Managed by kobune.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
         fe00::\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    if let Some(address) = address {
        let names = full_name(pod, hostname)
            .map_or(hostname.to_owned(), |full| format!("{full}\t{hostname}"));
        text += &format!("{address}\t{names}\n");
    }
    text + &aliases(pod)
}

/// The host's own file for Pods in its network, with the Pod's aliases after it.
fn host_network_hosts(pod: &Pod, host_file: &str) -> String {
    format!("# Managed by kobune (host network).\n{}\n{}", host_file.trim_end(), aliases(pod))
}

fn aliases(pod: &Pod) -> String {
    let list: &[HostAlias] =
        pod.spec.as_ref().and_then(|spec| spec.host_aliases.as_deref()).unwrap_or_default();
    let line = |alias: &HostAlias| {
        format!(
            "{}\t{}\n",
            alias.ip,
            alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t")
        )
    };
    list.iter().map(line).collect()
}

/// The files' places below the Pod's data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    pub hosts: PathBuf,
    pub hostname: PathBuf,
    pub resolv_conf: PathBuf,
}

impl Files {
    pub fn below(data: &Path) -> Self {
        let etc = data.join("etc");
        Self {
            hosts: etc.join("hosts"),
            hostname: etc.join("hostname"),
            resolv_conf: etc.join("resolv.conf"),
        }
    }

    /// `dns` is the address of cluster DNS.
    pub fn write(
        &self,
        pod: &Pod,
        hostname: &str,
        address: Option<Ipv4Addr>,
        dns: Ipv4Addr,
    ) -> Result<(), DirsError> {
        if let Some(directory) = self.hosts.parent() {
            fs::create_dir_all(directory).map_err(|source| DirsError::Io {
                verb: "make directory",
                path: directory.into(),
                source,
            })?;
        }
        let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
        let hosts = if host_network {
            host_network_hosts(pod, &fs::read_to_string("/etc/hosts").unwrap_or_default())
        } else {
            hosts(pod, hostname, address)
        };
        put(&self.hosts, &hosts)?;
        put(&self.hostname, &format!("{hostname}\n"))?;
        let host = fs::read_to_string(HOST_FILE).unwrap_or_default();
        let (resolv, dropped) = resolv::of_pod(pod, &host, dns);
        if !dropped.is_empty() {
            tracing::warn!(?dropped, pod = ?pod.metadata.name, "more for resolv.conf than it may have");
        }
        put(&self.resolv_conf, &resolv.to_string())
    }
}

fn put(path: &Path, text: &str) -> Result<(), DirsError> {
    fs::write(path, text).map_err(|source| DirsError::Io {
        verb: "write",
        path: path.into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: &str) -> Pod {
        let text = format!(r#"{{"metadata":{{"name":"web-0","namespace":"ns"}},"spec":{spec}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn names() {
        assert_eq!(hostname(&pod(r#"{"containers":[]}"#), "node"), "web-0");
        assert_eq!(hostname(&pod(r#"{"containers":[],"hostname":"other"}"#), "node"), "other");
        assert_eq!(hostname(&pod(r#"{"containers":[],"hostNetwork":true}"#), "node"), "node");
        let long = pod(&format!(r#"{{"containers":[],"hostname":"{}-x"}}"#, "a".repeat(62)));
        assert_eq!(hostname(&long, "node"), "a".repeat(62));
    }

    #[test]
    fn hosts_file() {
        let pod = pod(
            r#"{"containers":[],"subdomain":"sub","hostAliases":[{"ip":"1.2.3.4","hostnames":["a","b"]}]}"#,
        );
        let text = hosts(&pod, "web-0", Some(Ipv4Addr::new(10, 244, 0, 5)));
        assert!(text.contains("\n127.0.0.1\tlocalhost\n") || text.starts_with("# Managed"));
        assert!(text.contains("\n10.244.0.5\tweb-0.sub.ns.svc.cluster.local\tweb-0\n"), "{text}");
        assert!(text.ends_with("1.2.3.4\ta\tb\n"), "{text}");
    }
}
