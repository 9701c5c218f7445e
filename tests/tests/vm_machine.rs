//! The test machine itself: what the other suites rely on is really there, and a hard reset is one.
//! Runs inside (`cargo xtask vm vm_machine`).

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use kobune_tests::vm::guest;

const CGROUP: &str = "/sys/fs/cgroup";

#[test]
#[ignore = "runs in the virtual machine"]
fn a_unified_hierarchy_has_all_controllers() {
    let controllers = fs::read_to_string(format!("{CGROUP}/cgroup.controllers")).expect("read");
    for name in ["cpu", "cpuset", "io", "memory", "pids"] {
        assert!(controllers.split_whitespace().any(|c| c == name), "{name} in {controllers}");
    }
    fs::write(format!("{CGROUP}/cgroup.subtree_control"), "+memory +pids +cpu").expect("enable");
    let group = Path::new(CGROUP).join("probe");
    fs::create_dir(&group).expect("make a cgroup");
    fs::write(group.join("memory.max"), "67108864").expect("limit memory");
    assert_eq!(fs::read_to_string(group.join("memory.max")).expect("read").trim(), "67108864");
    fs::remove_dir(&group).expect("remove the cgroup");
}

#[test]
#[ignore = "runs in the virtual machine"]
fn file_systems_and_tools_are_there() {
    let filesystems = fs::read_to_string("/proc/filesystems").expect("read");
    assert!(filesystems.contains("overlay"), "{filesystems}");
    for line in ["link add eth0 type veth peer name wire", "link del eth0"] {
        let status = Command::new("ip").args(line.split(' ')).status().expect("run ip");
        assert!(status.success(), "ip {line}");
    }
    let rules = "add table ip probe; delete table ip probe";
    assert!(Command::new("nft").arg(rules).status().expect("run nft").success());
}

#[test]
#[ignore = "runs in the virtual machine"]
fn a_hard_reset_keeps_what_was_synced() {
    let file = Path::new("/var/lib/probe");
    if guest::boot() == 1 {
        let mut synced = File::create(file).expect("create");
        synced.write_all(b"here").expect("write");
        synced.sync_all().expect("sync");
        File::open("/var/lib").and_then(|dir| dir.sync_all()).expect("sync the directory");
        guest::hard_reset();
    }
    assert_eq!(guest::boot(), 2);
    assert_eq!(fs::read(file).expect("the file survived"), b"here");
}
