//! What tests ask about a host again and again: objects as JSON, addresses, the processes of a container.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use super::http::{self, Response};
use super::snapshot::cgroup_mount;
use super::{Host, eventually};

/// A connection or an answer that takes longer than this has failed.
const HTTP_TIMEOUT: Duration = Duration::from_secs(3);

/// One minute: for what takes the node as long as it takes.
pub(super) const MINUTE: Duration = Duration::from_secs(60);

impl Host {
    /// `kubectl get ARGUMENTS -o json`.
    #[track_caller]
    pub fn get(&self, arguments: &[&str]) -> Value {
        let mut line = vec!["get"];
        line.extend(arguments);
        line.extend(["-o", "json"]);
        serde_json::from_str(&self.kubectl_ok(&line)).expect("kubectl prints JSON")
    }

    /// The Pods with a label.
    #[track_caller]
    pub fn pods(&self, selector: &str) -> Vec<Value> {
        self.get(&["pods", "-l", selector])["items"].as_array().cloned().unwrap_or_default()
    }

    /// Field of an object as text; empty when it is not there.
    #[track_caller]
    pub fn field(&self, object: &str, path: &str) -> String {
        self.kubectl_ok(&["get", object, "-o", &format!("jsonpath={{{path}}}")])
    }

    /// Waits until a field has a value.
    #[track_caller]
    pub fn until_field(&self, object: &str, path: &str, value: &str) {
        eventually(&format!("{object} has {path} = {value}"), MINUTE, || {
            let path = format!("jsonpath={{{path}}}");
            match self.kubectl(&["get", object, "-o", &path]).result()? {
                found if found == value => Ok(()),
                found => Err(format!("it is {found:?}")),
            }
        });
    }

    /// The address of a Pod, with a port.
    #[track_caller]
    pub fn pod_address(&self, name: &str, port: u16) -> SocketAddr {
        let ip = self.field(&format!("pod/{name}"), ".status.podIP");
        SocketAddr::new(ip.parse().unwrap_or_else(|_| panic!("pod {name} has IP {ip:?}")), port)
    }

    /// The address of a Service, with a port.
    #[track_caller]
    pub fn service_address(&self, name: &str, port: u16) -> SocketAddr {
        let ip = self.field(&format!("service/{name}"), ".spec.clusterIP");
        SocketAddr::new(ip.parse().unwrap_or_else(|_| panic!("service {name}: {ip:?}")), port)
    }

    /// One HTTP request from the host.
    pub fn http(&self, to: SocketAddr, path: &str) -> std::io::Result<Response> {
        self.run(|| http::get(to, path, HTTP_TIMEOUT))
    }

    /// The first word of each of `count` answers: who gave it.
    pub fn who_answers(&self, to: SocketAddr, path: &str, count: usize) -> BTreeSet<String> {
        self.run(|| {
            (0..count)
                .map(|_| {
                    let answer = http::get(to, path, HTTP_TIMEOUT)
                        .unwrap_or_else(|error| panic!("GET {to}{path}: {error}"));
                    assert_eq!(answer.status, 200, "GET {to}{path}: {}", answer.body);
                    answer.body.split(' ').next().unwrap_or_default().to_owned()
                })
                .collect()
        })
    }

    /// Process ids (of the machine) in a container, from its cgroup.
    #[track_caller]
    pub fn pids(&self, pod: &str, container: &str) -> Vec<i32> {
        let uid = self.field(&format!("pod/{pod}"), ".metadata.uid");
        let group = cgroup_mount().join(&self.name).join(format!("pod{uid}")).join(container);
        let list = group.join("cgroup.procs");
        let text = fs::read_to_string(&list)
            .unwrap_or_else(|error| panic!("read {}: {error}", list.display()));
        text.lines().map(|line| line.parse().expect("a pid")).collect()
    }
}

/// When a process was started, in clock ticks since boot; None when it is gone.
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything; field 3 follows the last parenthesis.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

/// Runs of white space as one blank: to compare columns that kubectl aligns.
pub fn squeeze(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
