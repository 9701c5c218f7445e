//! Namespaces other than user: made, joined by path, and what is set up in them. Needs root and busybox-static.
//!
//! Proven with `RUNTIME=/usr/bin/crun` (1.8.1, below a pure cgroup v2), and with runc 1.1.5 but for time namespaces, which
//! it does not know. Both tests of errors are ours alone, and crun 1.8.1 fails at time namespaces on kernels of today.

mod common;

use std::fs;

use common::bundle::Bundle;
use common::namespace;
use serde_json::{Value, json};

fn namespaces(config: &mut Value) -> &mut Vec<Value> {
    config["linux"]["namespaces"].as_array_mut().unwrap()
}

/// A container that runs, and its first process.
fn running(name: &str, change: impl FnOnce(&mut Value)) -> (Bundle, i32) {
    let bundle = Bundle::new(name, &["/bin/sleep", "1000"]);
    bundle.configure(change);
    let pid = bundle.start();
    (bundle, pid)
}

/// Joins these namespaces of process `pid`.
fn join(config: &mut Value, pid: i32, kinds: &[(&str, &str)]) {
    for (kind, file) in kinds {
        let list = namespaces(config);
        list.retain(|item| item["type"] != *kind);
        list.push(json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}));
    }
}

fn uptime(text: &str) -> f64 {
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn clocks_have_offsets() {
    let time = |config: &mut Value| {
        namespaces(config).push(json!({"type": "time"}));
        config["linux"]["timeOffsets"] =
            json!({"boottime": {"secs": 1_000_000, "nanosecs": 5}, "monotonic": {"secs": 7}});
    };
    let (bundle, pid) = running("time", time);
    let own = namespace(std::process::id() as i32, "time");
    assert_ne!(namespace(pid, "time"), own);
    let host = || uptime(&fs::read_to_string("/proc/uptime").unwrap());
    let least = host();
    let inside = bundle.run(&["exec", "ID", "/bin/cat", "/proc/uptime"]);
    let inside = uptime(&String::from_utf8(inside.stdout).unwrap()) - 1_000_000.0;
    // In exec, too, and off by no more than what passed between.
    assert!(least - 0.1 <= inside && inside <= host() + 0.1, "{least} {inside}");
    let offsets = fs::read_to_string(format!("/proc/{pid}/timens_offsets")).unwrap();
    let words: Vec<_> = offsets.split_whitespace().collect();
    assert_eq!(words, ["monotonic", "7", "0", "boottime", "1000000", "5"]);

    let second = Bundle::new("time-join", &["/bin/cat", "/proc/uptime"]);
    second.configure(|config| join(config, pid, &[("time", "time")]));
    assert!(uptime(&second.output()) > 1_000_000.0);
}

#[test]
fn processes_of_another_container_are_seen_where_its_pid_namespace_is_joined() {
    let (_first, pid) = running("pid", |_| {});
    let second = Bundle::new("pid-join", &["/bin/true"]);
    second.configure(|config| join(config, pid, &[("pid", "pid")]));
    let output = second.sh("readlink /proc/self/ns/pid; cat /proc/1/comm; echo $$ > /tmp/pid");
    assert_eq!(output, format!("{}\nsleep\n", namespace(pid, "pid").display()));
    assert_ne!(fs::read_to_string(second.rootfs().join("tmp/pid")).unwrap().trim(), "1");
}

#[test]
fn all_namespaces_of_another_container_are_joined() {
    let (first, pid) = running("all", |_| {});
    let second = Bundle::new("all-join", &["/bin/true"]);
    second.configure(|config| {
        let kinds = [
            ("network", "net"),
            ("ipc", "ipc"),
            ("uts", "uts"),
            ("cgroup", "cgroup"),
            ("pid", "pid"),
        ];
        join(config, pid, &kinds);
        config["hostname"] = "other".into();
    });
    let output =
        second.sh("for kind in net ipc uts cgroup pid; do readlink /proc/self/ns/$kind; done");
    let expected: String = ["net", "ipc", "uts", "cgroup", "pid"]
        .map(|kind| format!("{}\n", namespace(pid, kind).display()))
        .concat();
    assert_eq!(output, expected);
    let name = first.run(&["exec", "ID", "/bin/hostname"]);
    assert_eq!(name.stdout, b"other\n");
}

#[test]
fn a_joined_namespace_of_the_wrong_kind_is_told() {
    let bundle = Bundle::new("kind", &["/bin/true"]);
    bundle.configure(|config| join(config, std::process::id() as i32, &[("ipc", "uts")]));
    let error = bundle.refused();
    assert!(error.contains("ns/uts"), "{error}");
    bundle.configure(|config| {
        namespaces(config).retain(|item| item["type"] != "ipc");
        namespaces(config).push(json!({"type": "ipc", "path": "/no/such"}));
    });
    let error = bundle.refused();
    assert!(error.contains("/no/such"), "{error}");
}

#[test]
fn the_loopback_interface_is_up() {
    let bundle = Bundle::new("lo", &["/bin/true"]);
    // Listening needs the address, connecting needs the interface.
    let script = "cat /sys/class/net/lo/operstate /sys/class/net/lo/flags; \
        nc -l -p 7 127.0.0.1 > /tmp/heard & \
        until grep -q ':0007 ' /proc/net/tcp; do true; done; \
        echo hello | nc 127.0.0.1 7; wait; cat /tmp/heard";
    assert_eq!(bundle.sh(script), "unknown\n0x9\nhello\n");
}

/// Runs `body` with a network namespace of its own, which the programs it starts have, too.
fn with_own_network(body: impl FnOnce() + Send + 'static) {
    let run = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        body();
    });
    if let Err(panic) = run.join() {
        std::panic::resume_unwind(panic);
    }
}

/// `ip` of busybox here.
fn ip(words: &str) -> String {
    let mut command = std::process::Command::new("/bin/busybox");
    let output = command.arg("ip").args(words.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

// Neither peer of Debian 12 knows network devices (specification 1.3).
#[test]
fn network_devices_are_given_to_the_container() {
    with_own_network(|| {
        ip("link add kobune-a type veth");
        ip("link add kobune-b type veth");
        ip("link set kobune-a mtu 1400");
        ip("addr add 10.98.7.6/24 dev kobune-a");
        ip("addr add 10.98.8.6/24 scope link dev kobune-a");
        ip("-6 addr add fd00:98::6/64 dev kobune-a");
        let bundle = Bundle::new("netdev", &["/bin/true"]);
        bundle.configure(|config| {
            config["linux"]["netDevices"] =
                json!({"kobune-a": {"name": "inner"}, "kobune-b": {"name": "dev%d"}});
        });
        let output = bundle.sh("/bin/busybox ip addr");
        for wanted in
            [" inner@", "mtu 1400", "10.98.7.6/24", "fd00:98::6/64", " dev0@", "MULTICAST,UP"]
        {
            assert!(output.contains(wanted), "{wanted} in {output}");
        }
        assert!(!output.contains("10.98.8.6"), "{output}");
        assert!(!ip("link").contains("kobune-"));
    });
}

#[test]
fn network_devices_that_cannot_be_given_are_told_and_stay() {
    with_own_network(|| {
        ip("link add kobune-a type veth");
        let refused = |devices: Value| {
            let bundle = Bundle::new("netdev-bad", &["/bin/true"]);
            bundle.configure(|config| config["linux"]["netDevices"] = devices);
            bundle.refused()
        };
        let error = refused(json!({"kobune-x": {}}));
        assert!(error.contains("linux.netDevices[\"kobune-x\"]: no such device"), "{error}");
        let error = refused(json!({"kobune-a": {"name": "lo"}}));
        assert!(error.contains("linux.netDevices[\"kobune-a\"]: the container has"), "{error}");
        assert!(ip("link").contains("kobune-a"));
    });
}
