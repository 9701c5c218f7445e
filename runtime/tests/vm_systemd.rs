//! The cgroup manager systemd, with a real one: Debian's, as the first process of a pid namespace in the virtual machine
//! (`cargo xtask vm vm_systemd`). Over a bus, and over systemd's own socket. Where runc does the same, it proves the test.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use common::bundle::{Bundle, runtime};
use serde_json::{Value, json};

const SLICE: &str = "/sys/fs/cgroup/kobune.slice/kobune-test.slice";

/// How a runtime reaches systemd.
#[derive(Debug, Clone, Copy)]
enum Way {
    Bus,
    Private,
    /// runc, over the bus.
    Runc,
}

/// Starts systemd once, and says which process it is.
fn systemd() -> u32 {
    static SYSTEMD: OnceLock<u32> = OnceLock::new();
    *SYSTEMD.get_or_init(|| {
        let script = "mount -t proc proc /proc && mount -t tmpfs tmpfs /run && \
                      exec env container=kobune /usr/sbin/systemd --log-level=warning";
        let unshare = ["unshare", "--pid", "--fork", "--mount", "/bin/sh", "-c", script];
        let outside = Command::new("/bin/busybox")
            .args(unshare)
            .stdin(Stdio::null())
            .spawn()
            .expect("run busybox unshare")
            .id();
        let first = format!("/proc/{outside}/task/{outside}/children");
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let first = fs::read_to_string(&first).unwrap_or_default();
            let first = first.trim().parse().unwrap_or_default();
            if first != 0 && inside(first, &["systemctl", "is-active", "dbus.service"]).0 {
                return first;
            }
            let said = || fs::read_to_string("/tmp/bus.log").unwrap_or_default();
            assert!(Instant::now() < deadline, "systemd or its bus does not start: {}", said());
            std::thread::sleep(Duration::from_millis(200));
        }
    })
}

/// Runs a program beside systemd. Whether it ended well, and what it said.
fn inside(systemd: u32, command: &[&str]) -> (bool, String) {
    let mut nsenter = Command::new("/bin/busybox");
    nsenter.args(["nsenter", "-t", &systemd.to_string(), "-m", "-p"]).args(command);
    let output = nsenter.output().expect("run busybox nsenter");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn systemctl(words: &[&str]) -> String {
    let (well, said) = inside(systemd(), &[&["systemctl"], words].concat());
    assert!(well, "systemctl {words:?}: {said}");
    said.trim().to_owned()
}

fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", "--value", "--property", name, unit])
}

struct Scoped {
    bundle: Bundle,
    unit: String,
    cgroup: PathBuf,
}

impl Way {
    fn bundle(self, name: &str, args: &[&str], resources: Value) -> Scoped {
        let mut bundle = Bundle::new(name, args);
        let (program, address) = match self {
            Way::Bus => (runtime(), ""),
            Way::Private => (runtime(), "DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nowhere"),
            Way::Runc => (PathBuf::from("/usr/sbin/runc"), ""),
        };
        let script = format!(
            "#!/bin/sh\nexec busybox nsenter -t {} -m -p env {address} {} --systemd-cgroup \"$@\"\n",
            systemd(),
            program.display()
        );
        bundle.program = bundle.directory.path().join("runtime");
        fs::write(&bundle.program, script).unwrap();
        fs::set_permissions(&bundle.program, fs::Permissions::from_mode(0o755)).unwrap();
        bundle.configure(|config| {
            if matches!(self, Way::Runc) {
                config["ociVersion"] = "1.0.0".into();
            }
            config["linux"]["resources"] = resources;
            config["linux"]["cgroupsPath"] = format!("kobune-test.slice:box:{}", bundle.id).into();
        });
        let unit = format!("box-{}.scope", bundle.id);
        let cgroup = Path::new(SLICE).join(&unit);
        Scoped { bundle, unit, cgroup }
    }
}

impl Scoped {
    #[track_caller]
    fn assert_files(&self, files: &[(&str, &str)]) {
        for (file, value) in files {
            let text = fs::read_to_string(self.cgroup.join(file));
            let text = text.unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(text.trim(), *value, "{file}");
        }
    }

    /// Of the processes in the cgroup.
    fn names(&self) -> Vec<String> {
        let procs = fs::read_to_string(self.cgroup.join("cgroup.procs")).unwrap();
        let name = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        procs.lines().map(|pid| name(pid).trim().to_owned()).collect()
    }
}

macro_rules! each {
    ($($name:ident),*) => {
        each!(bus Bus $($name)*);
        each!(private Private $($name)*);
        each!(runc Runc $($name)*);
    };
    ($module:ident $way:ident $($name:ident)*) => {
        mod $module {
            $(#[test]
            #[ignore = "needs systemd as cgroup manager"]
            fn $name() {
                super::$name(super::Way::$way);
            })*
        }
    };
}

each!(
    a_container_is_a_scope_with_its_limits,
    one_process_is_enough,
    changes_are_kept,
    a_run_leaves_nothing
);

fn a_container_is_a_scope_with_its_limits(way: Way) {
    let scope = way.bundle(
        "scope",
        &["/bin/sleep", "1000"],
        json!({
            "cpu": {"shares": 1024, "quota": 50_000, "period": 200_000, "cpus": "0", "mems": "0"},
            "memory": {"limit": 64 << 20, "reservation": 32 << 20, "swap": 96 << 20},
            "pids": {"limit": 50},
        }),
    );
    scope.bundle.start();
    let files = [
        ("cpu.max", "50000 200000"),
        ("cpuset.cpus", "0"),
        ("cpuset.mems", "0"),
        ("memory.max", "67108864"),
        ("memory.low", "33554432"),
        ("memory.swap.max", "33554432"),
        ("pids.max", "50"),
    ];
    scope.assert_files(&files);
    assert_eq!(scope.names(), ["sleep"]);
    for (name, value) in [
        ("Slice", "kobune-test.slice"),
        ("Delegate", "yes"),
        ("ActiveState", "active"),
        ("MemoryMax", "67108864"),
        ("TasksMax", "50"),
        ("CPUQuotaPerSecUSec", "250ms"),
    ] {
        assert_eq!(property(&scope.unit, name), value, "{name}");
    }
    // It writes its files anew.
    systemctl(&["daemon-reload"]);
    scope.assert_files(&files);
    scope.bundle.good("delete --force ID");
    assert!(!scope.cgroup.exists());
    assert_eq!(property(&scope.unit, "LoadState"), "not-found");
}

fn one_process_is_enough(way: Way) {
    let scope = way.bundle("one", &["/bin/sleep", "1000"], json!({"pids": {"limit": 1}}));
    scope.bundle.start();
    scope.assert_files(&[("pids.max", "1")]);
    assert_eq!(property(&scope.unit, "TasksMax"), "1");
}

fn changes_are_kept(way: Way) {
    let resources =
        json!({"cpu": {"quota": 50_000, "period": 200_000}, "memory": {"limit": 64 << 20}});
    let scope = way.bundle("change", &["/bin/sleep", "1000"], resources);
    scope.bundle.start();
    scope.bundle.good("update --memory 33554432 --pids-limit 7 --cpu-quota 100000 ID");
    let files = [("memory.max", "33554432"), ("pids.max", "7"), ("cpu.max", "100000 200000")];
    scope.assert_files(&files);
    systemctl(&["daemon-reload"]);
    scope.assert_files(&files);
    assert_eq!(property(&scope.unit, "MemoryMax"), "33554432");
}

fn a_run_leaves_nothing(way: Way) {
    let scope = way.bundle("run", &["/bin/cat", "/proc/self/cgroup"], json!({}));
    assert_eq!(scope.bundle.output().trim(), "0::/");
    assert!(!scope.cgroup.exists());
    assert_eq!(property(&scope.unit, "LoadState"), "not-found");
    // Its name is free again.
    scope.bundle.output();
}

#[test]
#[ignore = "needs systemd as cgroup manager"]
fn failures_leave_nothing_and_a_unit_of_others_stays() {
    let scope = Way::Bus.bundle("taken", &["/bin/sleep", "1000"], json!({}));
    scope.bundle.configure(|config| config["process"]["args"] = json!(["/no/such/program"]));
    let (_, error) = scope.bundle.bad("run --bundle BUNDLE ID");
    assert!(error.contains("no such file"), "{error}");
    assert!(!scope.cgroup.exists());
    let other = Way::Bus.bundle("other", &["/bin/sleep", "1000"], json!({}));
    other.bundle.configure(|config| {
        config["linux"]["cgroupsPath"] =
            format!("kobune-test.slice:box:{}", scope.bundle.id).into();
    });
    other.bundle.start();
    scope.bundle.configure(|config| config["process"]["args"] = json!(["/bin/true"]));
    let (_, error) = scope.bundle.bad("run --bundle BUNDLE ID");
    assert!(error.contains("StartTransientUnit") && error.contains(&scope.unit), "{error}");
    scope.bundle.good("delete --force ID");
    assert_eq!(scope.names(), ["sleep"]);
}

#[test]
#[ignore = "needs systemd as cgroup manager"]
fn a_path_of_the_other_manager_is_refused() {
    let scope = Way::Bus.bundle("path", &["/bin/true"], json!({}));
    scope.bundle.configure(|config| config["linux"]["cgroupsPath"] = "/a/b".into());
    let (_, error) = scope.bundle.bad("run --bundle BUNDLE ID");
    assert!(error.contains("linux.cgroupsPath") && error.contains("slice:prefix:name"), "{error}");
}
