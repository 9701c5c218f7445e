//! Limits through the command line, where cgroup version 2 has all controllers: ignored on other machines, run in the
//! virtual machine (`cargo xtask vm vm_cgroups`). Every test runs with crun and runc, too: that is how it is proven.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::bundle::{Bundle, runtime};
use serde_json::{Value, json};

/// Whose behaviour is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Ours,
    Runc,
    Crun,
}

impl Whose {
    fn bundle(self, name: &str, args: &[&str], resources: Value) -> Bundle {
        let mut bundle = Bundle::new(name, args);
        bundle.program = match self {
            Whose::Ours => runtime(),
            Whose::Runc => PathBuf::from("/usr/sbin/runc"),
            Whose::Crun => PathBuf::from("/usr/sbin/crun"),
        };
        assert!(bundle.program.exists(), "{:?} is missing: install its package", bundle.program);
        bundle.configure(|config| {
            if self != Whose::Ours {
                // Debian's crun knows no later one.
                config["ociVersion"] = "1.0.0".into();
            }
            config["linux"]["resources"] = resources;
            config["linux"]["cgroupsPath"] = format!("/kobune-limits/{}", bundle.id).into();
        });
        bundle
    }

    fn sleeper(self, name: &str, resources: Value) -> (Bundle, PathBuf) {
        let bundle = self.bundle(name, &["/bin/sleep", "1000"], resources);
        let cgroup = cgroup_of(bundle.start());
        (bundle, cgroup)
    }
}

macro_rules! each {
    ($($name:ident),* $(,)?) => {
        each!(ours Ours $($name)*);
        each!(runc Runc $($name)*);
        each!(crun Crun $($name)*);
    };
    ($module:ident $whose:ident $($name:ident)*) => {
        mod $module {
            $(#[test]
            #[ignore = "needs cgroup v2 controllers"]
            fn $name() {
                super::$name(super::Whose::$whose);
            })*
        }
    };
}

each!(
    limits_are_written,
    swap_is_counted_alone,
    devices_are_limited_each,
    huge_pages_are_limited,
    unified_files_are_written,
    limits_are_changed,
    changes_keep_what_is_not_given,
    changes_come_from_files,
    changes_keep_devices,
    too_much_memory_is_told,
    a_group_dies_together,
    processes_are_limited,
    time_is_limited,
    statistics_are_complete,
    a_limit_that_the_kernel_refuses_leaves_nothing,
    a_paused_cgroup_is_frozen,
);

fn cgroup_of(pid: i32) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    Path::new("/sys/fs/cgroup").join(path)
}

fn read(cgroup: &Path, file: &str) -> String {
    let text = fs::read_to_string(cgroup.join(file));
    text.unwrap_or_else(|error| panic!("{file}: {error}")).trim().to_owned()
}

#[track_caller]
fn assert_files(cgroup: &Path, files: &[(&str, &str)]) {
    for (file, value) in files {
        assert_eq!(read(cgroup, file), *value, "{file}");
    }
}

fn limits_are_written(whose: Whose) {
    let (_bundle, cgroup) = whose.sleeper(
        "written",
        json!({
            "cpu": {"shares": 1024, "quota": 50_000, "period": 200_000, "cpus": "0", "mems": "0"},
            "memory": {"limit": 64 << 20, "reservation": 32 << 20},
            "pids": {"limit": 50},
        }),
    );
    assert_files(
        &cgroup,
        &[
            ("cpu.max", "50000 200000"),
            ("cpuset.cpus", "0"),
            ("cpuset.mems", "0"),
            ("memory.max", "67108864"),
            ("memory.low", "33554432"),
            ("memory.swap.max", "max"),
            ("pids.max", "50"),
        ],
    );
    // Debian's crun and runc are older than the curve through 100.
    let weight = if whose == Whose::Ours { "100" } else { "39" };
    assert_files(&cgroup, &[("cpu.weight", weight)]);
}

fn swap_is_counted_alone(whose: Whose) {
    for (memory, max, swap) in [
        (json!({"limit": 33_554_432, "swap": 50_331_648}), "33554432", "16777216"),
        (json!({"limit": 33_554_432, "swap": 33_554_432}), "33554432", "0"),
        (json!({"limit": 33_554_432, "swap": -1}), "33554432", "max"),
        (json!({"limit": -1, "swap": -1}), "max", "max"),
    ] {
        let (_bundle, cgroup) = whose.sleeper("swap", json!({"memory": memory}));
        assert_files(&cgroup, &[("memory.max", max), ("memory.swap.max", swap)]);
    }
    let bundle = whose.bundle(
        "swap",
        &["/bin/true"],
        json!({"memory": {"limit": 33_554_432, "swap": 16_777_216}}),
    );
    bundle.refused();
}

/// The disk of the virtual machine.
fn disk() -> (u64, u64) {
    let text = fs::read_to_string("/sys/block/vda/dev").unwrap();
    let (major, minor) = text.trim().split_once(':').unwrap();
    (major.parse().unwrap(), minor.parse().unwrap())
}

fn devices_are_limited_each(whose: Whose) {
    let (major, minor) = disk();
    let rate = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
    let (bundle, cgroup) = whose.sleeper(
        "io",
        json!({"blockIO": {
            "throttleReadBpsDevice": rate(1 << 20), "throttleWriteBpsDevice": rate(2 << 20),
            "throttleReadIOPSDevice": rate(100), "throttleWriteIOPSDevice": rate(200),
        }}),
    );
    let limits = "rbps=1048576 wbps=2097152 riops=100 wiops=200";
    assert_files(&cgroup, &[("io.max", &format!("{major}:{minor} {limits}"))]);
    bundle.good("delete --force ID");
    let (_bundle, cgroup) = whose.sleeper("io", json!({"blockIO": {"weight": 500}}));
    let file = if cgroup.join("io.bfq.weight").exists() { "io.bfq.weight" } else { "io.weight" };
    let value = if file == "io.weight" { "default 4950" } else { "default 500" };
    assert_files(&cgroup, &[(file, value)]);
}

fn huge_pages_are_limited(whose: Whose) {
    let limits = json!([{"pageSize": "2MB", "limit": 4 << 20}]);
    let (_bundle, cgroup) = whose.sleeper("hugetlb", json!({"hugepageLimits": limits}));
    assert_files(&cgroup, &[("hugetlb.2MB.max", "4194304")]);
    if whose == Whose::Ours {
        assert_files(&cgroup, &[("hugetlb.2MB.rsvd.max", "4194304")]);
    }
}

fn unified_files_are_written(whose: Whose) {
    let (bundle, cgroup) = whose.sleeper(
        "unified",
        json!({"unified": {
            "memory.high": "50331648", "memory.oom.group": "1", "pids.max": "77", "cpu.weight": "42",
        }}),
    );
    assert_files(
        &cgroup,
        &[
            ("memory.high", "50331648"),
            ("memory.oom.group", "1"),
            ("pids.max", "77"),
            ("cpu.weight", "42"),
        ],
    );
    bundle.good("delete --force ID");
    for (key, told) in [("../memory.max", "memory.max"), ("nosuch.max", "nosuch")] {
        let bundle = whose.bundle("unified", &["/bin/true"], json!({"unified": {key: "1"}}));
        let error = bundle.refused();
        assert!(error.contains(told), "{error}");
    }
}

fn limits_are_changed(whose: Whose) {
    let (bundle, cgroup) =
        whose.sleeper("update", json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 20}}));
    let flags = "--memory 50331648 --memory-reservation 16777216 --pids-limit 30 --cpu-quota 20000 \
                 --cpu-period 100000 --cpuset-cpus 0";
    bundle.good(&format!("update {flags} ID"));
    assert_files(
        &cgroup,
        &[
            ("memory.max", "50331648"),
            ("memory.low", "16777216"),
            ("pids.max", "30"),
            ("cpu.max", "20000 100000"),
            ("cpuset.cpus", "0"),
        ],
    );
    bundle.good("update --memory -1 --memory-swap -1 --pids-limit -1 ID");
    assert_files(
        &cgroup,
        &[("memory.max", "max"), ("memory.swap.max", "max"), ("pids.max", "max")],
    );
    if whose == Whose::Ours {
        bundle.good("update --memory 48M ID");
        assert_files(&cgroup, &[("memory.max", "50331648")]);
        bundle.good("update --cpu-idle 1 ID");
        assert_files(&cgroup, &[("cpu.idle", "1")]);
        bundle.good("update --cpu-idle 0 ID");
        bundle.good("update --cpu-quota 50000 --cpu-burst 40000 ID");
        bundle.good("update --cpu-quota 30000 --cpu-burst 10000 ID");
        bundle.good("update --cpu-share 2048 ID");
        assert_files(
            &cgroup,
            &[("cpu.max", "30000 100000"), ("cpu.max.burst", "10000"), ("cpu.weight", "174")],
        );
    }
}

fn changes_keep_what_is_not_given(whose: Whose) {
    let limits = json!({
        "memory": {"limit": 64 << 20, "swap": 96 << 20}, "pids": {"limit": 20},
        "cpu": {"quota": 30_000, "period": 60_000},
    });
    let (bundle, cgroup) = whose.sleeper("keep", limits);
    bundle.good("update --pids-limit 21 ID");
    let kept =
        [("memory.max", "67108864"), ("memory.swap.max", "33554432"), ("cpu.max", "30000 60000")];
    assert_files(&cgroup, &kept);
    assert_files(&cgroup, &[("pids.max", "21")]);
    if whose == Whose::Crun {
        // It sees each value alone.
        return;
    }
    if whose == Whose::Ours {
        // As runc since 1.2; Debian's forgets the period here.
        bundle.good("update --cpu-quota 40000 ID");
        assert_files(&cgroup, &[("cpu.max", "40000 60000")]);
    }
    bundle.good("update --cpu-quota 40000 --cpu-period 60000 ID");
    if whose == Whose::Ours {
        bundle.good("update --cpu-period 80000 ID");
        assert_files(&cgroup, &[("cpu.max", "40000 80000")]);
    }
    if whose == Whose::Runc {
        // Debian's wants the limit of memory again.
        return;
    }
    bundle.good("update --memory-swap 128M ID");
    assert_files(&cgroup, &[("memory.max", "67108864"), ("memory.swap.max", "67108864")]);
    bundle.good("update --memory 96M ID");
    assert_files(&cgroup, &[("memory.max", "100663296"), ("memory.swap.max", "33554432")]);
    bundle.bad("update --memory 256M ID");
    if whose == Whose::Ours {
        // Whatever of it was written is taken back.
        bundle.bad("update --pids-limit 5 --cpu-quota 50000 --cpuset-cpus 1000 ID");
        assert_files(&cgroup, &[("pids.max", "21"), ("cpu.max", "40000 80000")]);
    }
}

fn changes_come_from_files(whose: Whose) {
    let (bundle, cgroup) = whose.sleeper("file", json!({"pids": {"limit": 20}}));
    let path = bundle.directory.path().join("resources");
    let resources = json!({"memory": {"limit": 40 << 20}, "pids": {"limit": 33}});
    fs::write(&path, resources.to_string()).unwrap();
    bundle.good(&format!("update --resources {} ID", path.display()));
    assert_files(&cgroup, &[("memory.max", "41943040"), ("pids.max", "33")]);
    if whose != Whose::Crun {
        // crun opens /dev/stdin, which this machine does not have.
        let file = fs::File::open(&path).unwrap();
        let status = bundle.command(&["update", "-r", "-", "ID"]).stdin(file).status().unwrap();
        assert!(status.success());
    }
    if whose != Whose::Crun {
        // Debian's crun takes a number for an object without memory limits.
        fs::write(&path, "{\"memory\": 5}").unwrap();
        bundle.bad(&format!("update --resources {} ID", path.display()));
    }
    let used: u64 = read(&cgroup, "memory.current").parse().unwrap();
    let low =
        json!({"memory": {"limit": used / 2, "checkBeforeUpdate": true}, "pids": {"limit": 33}});
    fs::write(&path, low.to_string()).unwrap();
    // Debian's crun and runc do not have the check yet.
    if whose == Whose::Ours {
        bundle.bad(&format!("update --resources {} ID", path.display()));
        assert_files(&cgroup, &[("memory.max", "41943040")]);
    }
}

fn changes_keep_devices(whose: Whose) {
    let deny = json!([{"allow": false, "access": "rwm"}]);
    let bundle = whose.bundle("devices", &["/bin/sleep", "1000"], json!({"devices": deny}));
    let log = json!({"path": "/dev/log", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666});
    bundle.configure(|config| config["linux"]["devices"] = json!([log]));
    bundle.start();
    let opens = || bundle.run(&["exec", "ID", "/bin/sh", "-c", ": > /dev/log"]).status.success();
    assert!(!opens());
    bundle.good("update --pids-limit 50 ID");
    assert!(!opens());
}

/// A shell that waits for two others, of which one takes all memory.
const HUNGRY: &str = "sleep 1000 & echo $! > /tmp/other; until [ -e /tmp/go ]; do sleep 0.05; done; \
                      dd if=/dev/zero of=/dev/null bs=100M; echo $? > /tmp/code; sleep 1000";

fn too_much_memory_is_told(whose: Whose) {
    let memory = json!({"memory": {"limit": 24 << 20, "swap": 24 << 20}});
    let bundle = whose.bundle("oom", &["/bin/sh", "-c", HUNGRY], memory);
    if whose == Whose::Crun {
        // It has no `events`.
        return;
    }
    let pid = bundle.start();
    let mut events = bundle
        .command(&["events", "--interval", "1h", "ID"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let inotify_ready = || watches(events.id());
    common::wait_until("events watches", inotify_ready);
    fs::write(bundle.rootfs().join("tmp/go"), "").unwrap();
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(event, json!({"type": "oom", "id": bundle.id}));
    // One process was killed, no other.
    let code = bundle.rootfs().join("tmp/code");
    common::wait_until("dd has ended", || code.metadata().is_ok_and(|file| file.len() > 0));
    assert_eq!(fs::read_to_string(code).unwrap(), "137\n");
    assert!(common::is_alive(pid));
    bundle.good("delete --force ID");
    assert!(lines.next().is_none_or(|line| line.unwrap().contains("oom")));
    events.wait().unwrap();
}

/// Has the process what it will wait for?
fn watches(pid: u32) -> bool {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets: Vec<_> = files.filter_map(|file| fs::read_link(file.path()).ok()).collect();
    let is = |wanted: &str| targets.iter().any(|path| path.to_string_lossy().ends_with(wanted));
    is("inotify") || is("/memory.events")
}

fn a_group_dies_together(whose: Whose) {
    let limits = json!({
        "memory": {"limit": 24 << 20, "swap": 24 << 20}, "unified": {"memory.oom.group": "1"},
    });
    let bundle = whose.bundle("group", &["/bin/sh", "-c", HUNGRY], limits);
    let pid = bundle.start();
    fs::write(bundle.rootfs().join("tmp/go"), "").unwrap();
    common::wait_until("all have ended", || !common::is_alive(pid));
    assert!(!bundle.rootfs().join("tmp/code").exists());
    common::wait_until("it is told", || bundle.status() == "stopped");
}

fn processes_are_limited(whose: Whose) {
    let script = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 100 & done; echo made";
    // runc's own threads count until its init has executed the program.
    let bundle = whose.bundle("pids", &["/bin/sh", "-c", script], json!({"pids": {"limit": 9}}));
    let output = bundle.runtime("run --bundle BUNDLE ID");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("can't fork"), "{error}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("made"));
}

fn time_is_limited(whose: Whose) {
    let script = "while true; do true; done";
    let limits = json!({"cpu": {"quota": 5000, "period": 50_000}});
    let bundle = whose.bundle("cpu", &["/bin/sh", "-c", script], limits);
    let cgroup = cgroup_of(bundle.start());
    let throttled = || {
        let stat = read(&cgroup, "cpu.stat");
        stat.lines().any(|line| line.starts_with("nr_throttled ") && !line.ends_with(" 0"))
    };
    common::wait_until("it is throttled", throttled);
    if whose != Whose::Crun {
        let event: Value = serde_json::from_str(&bundle.good("events --stats ID")).unwrap();
        let throttling = &event["data"]["cpu"]["throttling"];
        assert!(throttling["throttledPeriods"].as_u64().unwrap() > 0, "{event}");
        assert!(throttling["throttledTime"].as_u64().unwrap() > 1_000_000, "{event}");
    }
}

fn statistics_are_complete(whose: Whose) {
    if whose == Whose::Crun {
        return;
    }
    let limits = json!({
        "memory": {"limit": 64 << 20, "swap": 96 << 20}, "pids": {"limit": 20},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
    });
    let (bundle, _) = whose.sleeper("stats", limits);
    let event: Value = serde_json::from_str(&bundle.good("events --stats ID")).unwrap();
    let data = &event["data"];
    let number = |pointer: &str| data.pointer(pointer).and_then(Value::as_u64);
    assert_eq!(number("/memory/usage/limit"), Some(64 << 20), "{data}");
    assert_eq!(number("/memory/swap/limit"), Some(96 << 20));
    assert_eq!((number("/pids/current"), number("/pids/limit")), (Some(1), Some(20)));
    for positive in
        ["/cpu/usage/total", "/memory/usage/usage", "/memory/raw/anon", "/memory/raw/pgfault"]
    {
        assert!(number(positive).is_some_and(|value| value > 0), "{positive}: {data}");
    }
    assert!(data["hugetlb"]["2MB"].is_object(), "{data}");
    if whose == Whose::Ours {
        assert!(number("/memory/usage/max").is_some_and(|value| value > 0), "{data}");
        if Path::new("/proc/pressure/cpu").exists() {
            for part in ["cpu", "memory", "blkio"] {
                assert!(data[part]["psi"]["some"]["avg10"].is_number(), "{data}");
            }
        }
    }
}

fn a_limit_that_the_kernel_refuses_leaves_nothing(whose: Whose) {
    let bundle = whose.bundle("refused", &["/bin/true"], json!({"cpu": {"cpus": "1000"}}));
    let error = bundle.refused();
    assert!(error.contains("cpuset.cpus"), "{error}");
    bundle.bad("state ID");
    let left = Path::new("/sys/fs/cgroup/kobune-limits").join(&bundle.id).exists();
    assert!(!left || whose == Whose::Crun, "Debian's crun leaves its cgroup");
    if whose == Whose::Ours {
        assert!(error.contains("linux.resources.cpu.cpus: "), "{error}");
    }
}

fn a_paused_cgroup_is_frozen(whose: Whose) {
    let (bundle, cgroup) = whose.sleeper("freeze", json!({}));
    bundle.good("pause ID");
    assert!(read(&cgroup, "cgroup.events").contains("frozen 1"));
    assert_eq!(bundle.status(), "paused");
    bundle.good("resume ID");
    common::wait_until("it goes on", || read(&cgroup, "cgroup.events").contains("frozen 0"));
    bundle.good("pause ID");
    bundle.good("delete --force ID");
    assert!(!cgroup.exists());
}
