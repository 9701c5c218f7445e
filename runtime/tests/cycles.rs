//! Many containers: one after the other without anything growing, and many at once. Needs root and busybox-static.
//!
//! `KOBUNE_CYCLES=10000 cargo test -p kobune-runtime --test cycles -- --nocapture` prints the figures of a long run.

mod common;

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use common::Pod;
use common::bundle::Bundle;
use kobune_runtime::wire::Request;

fn cycles(default: u32) -> u32 {
    std::env::var("KOBUNE_CYCLES").map_or(default, |text| text.parse().expect("a number"))
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Memory of its own in KiB; the program's pages are anybody's.
fn memory(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let lines = text.lines().filter(|line| line.starts_with("Private_Dirty:"));
    lines.map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum()
}

/// What a container leaves when something is wrong, and only ours: other tests run beside.
fn left_of(bundle: &Bundle) -> (usize, usize, usize) {
    let top = kobune_runtime::cgroup::detect().unwrap().path("/");
    let named = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().contains(&bundle.id);
    let cgroups = fs::read_dir(top).unwrap().flatten().filter(named).count();
    let path = bundle.directory.path().to_str().unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = mounts.lines().filter(|line| line.contains(path)).count();
    let states = fs::read_dir(bundle.directory.path().join("state")).map_or(0, Iterator::count);
    (cgroups, mounts, states)
}

/// Objects of kinds that a namespace or a mount has one of; the whole machine's.
fn kernel_objects() -> Vec<(String, i64)> {
    let kinds =
        ["net_namespace", "pid_namespace", "uts_namespace", "mnt_cache", "nsproxy", "cgroup"];
    let text = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    let rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() > 2 && kinds.contains(&row[0]))
        .map(|row| (row[0].to_owned(), row[1].parse().unwrap_or(0)))
        .collect()
}

#[test]
fn one_after_the_other() {
    let bundle = Bundle::new("cycles", &["/bin/true"]);
    let count = cycles(100);
    let before = kernel_objects();
    let start = std::time::Instant::now();
    for cycle in 0..count {
        bundle.good("create --bundle BUNDLE ID");
        if cycle.is_multiple_of(2) {
            bundle.good("start ID");
        }
        bundle.good("delete --force ID");
        if cycle.is_multiple_of(100) {
            assert_eq!(left_of(&bundle), (0, 0, 0), "after {cycle} cycles");
        }
    }
    assert_eq!(left_of(&bundle), (0, 0, 0));
    println!("{count} cycles in {:?}", start.elapsed());
    println!("kernel objects before {before:?}");
    println!("kernel objects after  {:?}", kernel_objects());
}

#[test]
fn a_supervisor_does_not_grow() {
    let pod = Pod::new();
    let supervisor = pod.supervisor as u32;
    let cycle = |number: u32| {
        pod.run(&["/bin/echo", "line"], |_| {});
        if number.is_multiple_of(10) {
            pod.client().call(&Request::Remove { container: "app".into() }).unwrap();
        }
        // Every cycle leaves its bundle, which is the caller's to remove.
        for entry in fs::read_dir(pod.directory.path()).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("app-") {
                fs::remove_dir_all(entry.path()).unwrap();
            }
        }
    };
    (0..20).for_each(cycle);
    let (fds, kib) = (descriptors(supervisor), memory(supervisor));
    let count = cycles(200);
    (0..count).for_each(cycle);
    // The last connection's end may be on its way.
    common::wait_until("descriptors are closed", || descriptors(supervisor) <= fds);
    // After a quiet second it gives back what it does not need.
    let busy = memory(supervisor);
    let start = std::time::Instant::now();
    while memory(supervisor) > kib + 300 && start.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let now = memory(supervisor);
    println!("{busy} KiB at work");
    println!("{count} containers: {fds} descriptors, {kib} KiB before, {now} KiB after");
    assert!(now <= kib + 300, "{kib} KiB before, {now} KiB after");
    pod.end();
}

/// CVE-2022-1708 and its kind: what a container prints passes through without piling up.
#[test]
fn a_flood_does_not_grow_a_supervisor() {
    let pod = Pod::new();
    let supervisor = pod.supervisor as u32;
    pod.run(&["/bin/true"], |_| {});
    let before = memory(supervisor);
    let _ = fs::remove_file(pod.log_path("app"));
    let Request::Create(mut request) = pod.request(
        "app",
        &["/bin/sh", "-c", "dd if=/dev/zero bs=65536 count=4096; seq 1 1000000"],
        |_| {},
    ) else {
        unreachable!()
    };
    let log = request.log.as_mut().unwrap();
    (log.max_size, log.max_files) = (1 << 20, 2);
    let mut client = pod.client();
    client.call(&Request::Create(request)).unwrap();
    client.call(&Request::Start { container: "app".into() }).unwrap();
    pod.wait("app");
    let after = memory(supervisor);
    println!("256 MiB of one line and a million lines: {before} KiB before, {after} KiB after");
    assert!(after <= before + 1024, "{before} KiB before, {after} KiB after");
    let logs = fs::read_dir(pod.log_path("app").parent().unwrap()).unwrap().flatten();
    let total: u64 = logs.map(|entry| entry.metadata().unwrap().len()).sum();
    assert!(total < 3 << 20, "{total} bytes of log");
    pod.end();
}

#[test]
fn fifty_at_once() {
    let bundle = Bundle::new("fifty", &["/bin/sleep", "1000"]);
    let id = |number: usize| format!("{}-{number}", bundle.id);
    let all = |command: &[&str]| {
        let children: Vec<_> = (0..50)
            .map(|number| {
                let id = id(number);
                let mut words = command.to_vec();
                words.push(&id);
                // Containers would hold a pipe open.
                let log = bundle.directory.path().join(format!("errors-{number}"));
                let log = fs::File::create(log).unwrap();
                let mut command = bundle.command(&words);
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
            })
            .collect();
        for (number, mut child) in children.into_iter().enumerate() {
            let status = child.wait().unwrap();
            let log = bundle.directory.path().join(format!("errors-{number}"));
            assert!(status.success(), "{command:?}: {}", fs::read_to_string(log).unwrap());
        }
    };
    all(&["run", "--detach", "--bundle", "BUNDLE"]);
    for number in 0..50 {
        let state = bundle.good(&format!("state {}", id(number)));
        assert!(state.contains("\"running\""), "{state}");
    }
    all(&["delete", "--force"]);
    assert_eq!(left_of(&bundle), (0, 0, 0));
}
