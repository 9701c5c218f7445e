//! `kobune inspect pod`: what it says is what `/proc`, `ip` and the cgroup files say.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use kobune_tests::harness::{Host, eventually};
use serde_json::Value;

fn inspect(host: &Host, pod: &str, more: &[&str]) -> String {
    let data = host.dir.join("data").display().to_string();
    let mut line = vec!["inspect", "pod", pod, "--data-dir", &data];
    line.extend(more);
    host.client(&line).ok()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn inode(pid: i32, kind: &str) -> u64 {
    fs::metadata(format!("/proc/{pid}/ns/{kind}")).expect("the process lives").ino()
}

#[test]
fn the_picture_of_a_pod_is_true() {
    let host = Host::with_node("inspect");
    host.apply_example("sidecar.yaml").ok();
    host.wait_for("pod/sidecar", "condition=Ready");
    let picture = json(&inspect(&host, "sidecar", &["-o", "json"]));
    for (index, name) in ["app", "side"].into_iter().enumerate() {
        let pid = host.pids("sidecar", name)[0];
        let shown = &picture["containers"][index];
        assert_eq!(shown["name"], name);
        assert_eq!(shown["phase"], "running");
        let first = &shown["processes"][0];
        assert_eq!(first["pid"], pid);
        for kind in ["net", "ipc", "uts", "mnt", "pid", "cgroup", "user"] {
            assert_eq!(first["namespaces"][kind], inode(pid, kind), "{kind} of {name}");
        }
        let member = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the process lives");
        let path = shown["cgroup"]["path"].as_str().expect("a path");
        assert!(
            member
                .lines()
                .any(|line| line.strip_prefix("0::").is_some_and(|at| path.ends_with(at))),
            "{path} is not in {member}"
        );
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("mountinfo");
        let listed = shown["mounts"].as_array().expect("mounts");
        assert_eq!(listed.len(), mounts.lines().count());
        assert!(listed.iter().any(|m| m["target"] == "/shared" && m["readOnly"] == false));
    }
    let host_net = fs::metadata("/proc/self/ns/net").expect("proc").ino();
    assert_ne!(picture["host"]["net"], host_net, "the test is not on the node's host");

    let network = &picture["network"];
    assert_eq!(network["name"], "sidecar");
    let link = json(&host.tool("ip", &["-n", "sidecar", "-j", "address", "show", "eth0"]).ok());
    let eth0 = network["interfaces"].as_array().expect("interfaces");
    let eth0 = eth0.iter().find(|interface| interface["name"] == "eth0").expect("eth0");
    assert_eq!(eth0["mac"], link[0]["address"]);
    assert_eq!(eth0["mtu"], link[0]["mtu"]);
    assert_eq!(eth0["peer"], link[0]["link_index"]);
    let address = host.pod_address("sidecar", 0).ip().to_string();
    let listed = eth0["addresses"].as_array().expect("addresses");
    assert!(listed.iter().any(|a| a.as_str().is_some_and(|a| a.starts_with(&address))), "{eth0}");
    let end = json(&host.tool("ip", &["-j", "link"]).ok());
    let end = end.as_array().expect("links").iter().find(|l| l["ifindex"] == eth0["peer"]);
    assert_eq!(network["hostInterfaces"][0]["name"], end.expect("the other end")["ifname"]);
    let routes = json(&host.tool("ip", &["-n", "sidecar", "-j", "route"]).ok());
    let default = network["routes"].as_array().expect("routes").iter();
    let default = default.clone().find(|r| r["destination"] == "0.0.0.0/0").expect("a default");
    assert_eq!(default["gateway"], routes[0]["gateway"]);
}

#[test]
fn the_ways_in_are_the_services() {
    let host = Host::with_node("ways");
    host.apply_example("myapp.yaml").ok();
    host.apply_example("myapp-service.yaml").ok();
    host.kubectl_ok(&["rollout", "status", "deployment/myapp", "--timeout=60s"]);
    let vip = host.service_address("myapp", 80);
    let pod = host.kubectl_ok(&["get", "pods", "-o", "jsonpath={.items[0].metadata.name}"]);
    eventually("the rules lead to the Pod", Duration::from_secs(10), || {
        let picture = json(&inspect(&host, &pod, &["-o", "json"]));
        let ways = picture["network"]["ways"].as_array().cloned().unwrap_or_default();
        let found = ways.iter().any(|way| {
            way["door"] == format!("{vip}/tcp") && way["port"] == 8080 && way["backends"] == 3
        });
        if found { Ok(()) } else { Err(format!("{ways:?}")) }
    });
}

#[test]
fn the_drawing_names_what_is_shared_and_what_is_not() {
    let host = Host::with_node("drawn");
    host.apply_example("sidecar.yaml").ok();
    host.wait_for("pod/sidecar", "condition=Ready");
    let text = inspect(&host, "pod/sidecar", &[]);
    let pid = host.pids("sidecar", "app")[0];
    let line = |start: &str, part: &str| {
        let found = text.lines().any(|line| {
            line.trim_start_matches(['│', '├', '└', '─', ' ']).starts_with(start)
                && line.contains(part)
        });
        assert!(found, "no line {start:?} … {part:?} in\n{text}");
    };
    line("Pod default/sidecar", "uid");
    line("net", &inode(pid, "net").to_string());
    line("container app", "running");
    line("process", &format!("pid {pid}"));
    line("its own", &format!("mnt {}", inode(pid, "mnt")));
    line("the Pod's", "ipc   net   uts");
    line("eth0", &host.pod_address("sidecar", 0).ip().to_string());
    line("route default", "via");

    let said = host.client(&[
        "inspect",
        "pod",
        "nobody",
        "--data-dir",
        &host.dir.join("data").display().to_string(),
    ]);
    assert!(said.err().contains("find pod \"default/nobody\": not on this node"));
}
