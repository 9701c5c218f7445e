//! Where a container's cgroup is, and that nothing is left of it. Needs root, busybox-static and cgroup version 2,
//! with or without controllers. (Limits: `vm_cgroups.rs`.)

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::bundle::Bundle;
use kobune_runtime::cgroup;
use serde_json::json;

fn sleeper(name: &str) -> Bundle {
    Bundle::new(name, &["/bin/sleep", "1000"])
}

/// The version 2 cgroup of a process, as a directory.
fn cgroup_of(pid: i32) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    cgroup::detect().unwrap().path(path)
}

/// A path of this test alone.
fn unique(name: &str) -> String {
    format!("kobune-cgroups-{name}-{}", std::process::id())
}

fn place(bundle: &Bundle, path: &str) {
    bundle.configure(|config| config["linux"]["cgroupsPath"] = path.into());
}

#[test]
fn an_absolute_path_begins_at_the_top() {
    let bundle = sleeper("absolute");
    let name = unique("absolute");
    for path in [format!("/{name}/a"), format!("/../../{name}/b/./../a")] {
        place(&bundle, &path);
        let cgroup = cgroup_of(bundle.start());
        assert_eq!(cgroup, cgroup::detect().unwrap().path(format!("{name}/a")), "{path}");
        bundle.good("delete --force ID");
        assert!(!cgroup.exists());
    }
    fs::remove_dir(cgroup::detect().unwrap().path(name)).unwrap();
}

#[test]
fn a_relative_path_is_beside_ours() {
    let bundle = sleeper("relative");
    let name = unique("relative");
    place(&bundle, &format!("../{name}"));
    let cgroup = cgroup_of(bundle.start());
    let own = cgroup_of(std::process::id() as i32);
    let top = cgroup::detect().unwrap().mount;
    let beside = if own == top { &top } else { own.parent().unwrap() };
    assert_eq!(cgroup, beside.join(name));
}

#[test]
fn the_form_of_systemd_needs_its_manager() {
    let bundle = sleeper("systemd");
    place(&bundle, "system.slice:kobune:x");
    let error = bundle.refused();
    assert!(error.contains("linux.cgroupsPath: ") && error.contains("systemd"), "{error}");
}

#[test]
fn a_cgroup_has_one_container() {
    let (first, second) = (sleeper("first"), sleeper("second"));
    let path = format!("/{}", unique("shared"));
    place(&first, &path);
    place(&second, &path);
    let pid = first.start();
    let (_, error) = second.bad("create --bundle BUNDLE ID");
    assert!(error.contains("cgroup"), "{error}");
    second.bad("state ID");
    assert!(common::is_alive(pid), "the first one was not harmed");
    first.good("delete --force ID");
    // Empty it may be there already.
    let cgroup = cgroup::detect().unwrap().path(&path);
    fs::create_dir(&cgroup).unwrap();
    second.start();
    second.good("delete --force ID");
    assert!(!cgroup.exists());
}

/// What a container may do to its own cgroup when it is writable.
fn writable(bundle: &Bundle) {
    bundle.configure(|config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        let mount = mounts.iter_mut().find(|mount| mount["type"] == "cgroup").unwrap();
        mount["options"] = json!(["nosuid", "noexec", "nodev", "relatime", "rw"]);
    });
}

#[test]
fn cgroups_made_inside_are_removed() {
    // Deeper than a path can name: 40 names of 200 bytes.
    let script = "
        cd /sys/fs/cgroup; mkdir a a/b c; echo $$ > a/b/cgroup.procs; sleep 1000 &
        name=$(seq 1 100 | busybox tr -d '\\n' | head -c 190); i=0
        while [ $i -lt 40 ]; do mkdir $name && cd -P $name || exit 3; i=$((i+1)); done
        touch /tmp/made; sleep 1000";
    let bundle = Bundle::new("nested", &["/bin/sh", "-c", script]);
    writable(&bundle);
    place(&bundle, &format!("/{}", unique("nested")));
    bundle.start();
    let made = bundle.rootfs().join("tmp/made");
    common::wait_until("the container has made its cgroups", || made.exists());
    let cgroup = cgroup::detect().unwrap().path(unique("nested"));
    assert!(cgroup.join("a/b").exists());
    bundle.good("delete --force ID");
    assert!(!cgroup.exists());
    bundle.bad("state ID");
}

#[test]
fn a_divided_cgroup_can_be_entered() {
    // Who hands controllers down must not have processes itself: then an exec joins the first process.
    let script = "cd /sys/fs/cgroup; mkdir own; echo 1 > own/cgroup.procs;
        echo +hugetlb > cgroup.subtree_control && touch /tmp/made; sleep 1000";
    let bundle = Bundle::new("divided", &["/bin/sh", "-c", script]);
    writable(&bundle);
    place(&bundle, &format!("/{}", unique("divided")));
    bundle.configure(|config| {
        let limits = json!([{"pageSize": "2MB", "limit": 0}]);
        config["linux"]["resources"] = json!({"hugepageLimits": limits});
    });
    bundle.start();
    let made = bundle.rootfs().join("tmp/made");
    common::wait_until("the container has divided its cgroup", || made.exists());
    let inside = bundle.good("exec ID cat /proc/self/cgroup");
    assert!(inside.contains("0::/own\n"), "{inside}");
}

#[test]
fn a_limit_that_cannot_be_kept_is_named() {
    let bundle = sleeper("limits");
    let has = |name: &str| cgroup::detect().unwrap().has(name);
    for (controller, field, resources) in [
        ("memory", "memory.limit", json!({"memory": {"limit": 64 << 20}})),
        ("pids", "pids.limit", json!({"pids": {"limit": 10}})),
        ("cpu", "cpu.quota", json!({"cpu": {"quota": 5000}})),
        ("cpuset", "cpu.cpus", json!({"cpu": {"cpus": "0"}})),
        ("nosuch", "unified[\"nosuch.max\"]", json!({"unified": {"nosuch.max": "1"}})),
    ] {
        if has(controller) {
            continue;
        }
        bundle.configure(|config| config["linux"]["resources"] = resources);
        let error = bundle.refused();
        let wanted = format!("linux.resources.{field}: this host has no {controller} controller");
        assert!(error.contains(&wanted), "{error}");
        bundle.bad("state ID");
    }
    // Not to be limited needs no controller.
    let none = json!({"pids": {"limit": -1}, "memory": {"limit": -1}, "cpu": {"quota": -1, "shares": 1024}});
    bundle.configure(|config| config["linux"]["resources"] = none);
    let pid = bundle.start();
    let cgroup = cgroup_of(pid);
    bundle.good("delete --force ID");
    assert!(!cgroup.exists());
}

#[test]
fn wrong_limits_are_named_and_leave_nothing() {
    let bundle = sleeper("wrong");
    for (field, resources) in [
        ("memory.swap", json!({"memory": {"limit": 100, "swap": 50}})),
        ("unified[\"../memory.max\"]", json!({"unified": {"../memory.max": "1"}})),
        ("blockIO.weight", json!({"blockIO": {"weight": 5}})),
        ("hugepageLimits[0].pageSize", json!({"hugepageLimits": [{"pageSize": "x", "limit": 1}]})),
        ("devices[0].access", json!({"devices": [{"allow": true, "access": "x"}]})),
    ] {
        bundle.configure(|config| config["linux"]["resources"] = resources);
        let error = bundle.refused();
        assert!(error.contains(&format!("linux.resources.{field}: ")), "{error}");
    }
    let left = cgroup::detect().unwrap().path(format!("kobune-runtime-{}", bundle.id));
    assert!(!Path::new(&left).exists());
}

/// May the container open `/dev/log` (which is kmsg) for writing?
fn opens_log(bundle: &Bundle, rules: serde_json::Value) -> bool {
    bundle.configure(|config| {
        config["process"]["args"] = json!(["/bin/sh", "-c", "head -c 1 /dev/zero; : > /dev/log"]);
        config["linux"]["devices"] =
            json!([{"path": "/dev/log", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666}]);
        config["linux"]["resources"] = json!({"devices": rules});
    });
    let output = bundle.runtime("run --bundle BUNDLE ID");
    assert_eq!(output.stdout, b"\0", "the usual devices are usable");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.success(), !error.contains("Operation not permitted"), "{error}");
    output.status.success()
}

#[test]
fn devices_are_usable_as_the_rules_say() {
    let bundle = Bundle::new("devices", &[]);
    let nothing = json!({"allow": false, "access": "rwm"});
    let log = |allow: bool, access: &str| json!({"allow": allow, "type": "c", "major": 1, "minor": 11, "access": access});
    let all = json!({"allow": true, "access": "rwm"});
    let any_minor = json!({"allow": true, "type": "c", "major": 1, "access": "w"});
    for (rules, usable) in [
        (json!([nothing]), false),
        (json!([]), false),
        (json!([nothing, log(true, "rw")]), true),
        (json!([nothing, log(true, "r")]), false),
        (json!([nothing, any_minor]), true),
        (json!([nothing, any_minor, log(false, "w")]), false),
        (json!([log(true, "rwm"), nothing]), false),
        (json!([all]), true),
        (json!([nothing, all]), true),
        (json!([all, log(false, "w")]), false),
    ] {
        assert_eq!(opens_log(&bundle, rules.clone()), usable, "{rules}");
    }
}

#[test]
fn the_devices_of_a_former_container_are_forgotten() {
    let (first, second) = (sleeper("former"), sleeper("latter"));
    let path = format!("/{}", unique("former"));
    place(&first, &path);
    place(&second, &path);
    first.configure(|config| {
        config["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    });
    let pid = first.start();
    first.good("kill ID KILL");
    common::wait_until("it has ended", || !common::is_alive(pid));
    assert!(opens_log(&second, json!([{"allow": true, "access": "rwm"}])));
}
