//! A Pod to try things on: a supervisor of the real binary, a busybox root, and a check that nothing is left of it.

// Each test program uses a part of it.
#![allow(dead_code, unreachable_pub)]

pub mod bundle;
pub mod containerd;
pub mod engine;
pub mod fault;
pub mod host;
pub mod podman;
pub mod users;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use kobune_runtime::cgroup;
use kobune_runtime::supervisor::{SpawnOptions, spawn};
use kobune_runtime::wire::{
    Client, ClientError, ContainerPhase, ContainerRecord, CreateRequest, Event, LogConfig, Request,
    Response, Rootfs, listen,
};
use serde_json::{Value, json};

static NEXT: AtomicU32 = AtomicU32::new(0);

pub struct Pod {
    pub directory: tempfile::TempDir,
    pub cgroup: PathBuf,
    pub supervisor: i32,
}

/// The binary under test, beside the directory of this test program. (Not by cargo's variable: its name has a
/// hyphen, which the linker wrapper's shell does not pass on.)
pub fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("kobune-runtime")
}

impl Pod {
    /// Fails with a message that says what to do, where the machine cannot run these tests.
    pub fn demand_environment() {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests make namespaces and mounts: run them as root"
        );
        assert!(
            Path::new("/bin/busybox").exists(),
            "/bin/busybox is missing: install the Debian package busybox-static"
        );
    }

    pub fn new() -> Pod {
        Pod::with_sysctls(&[], None)
    }

    pub fn with_sysctls(sysctls: &[(&str, &str)], netns: Option<PathBuf>) -> Pod {
        let (directory, options) = Pod::prepare(sysctls, netns);
        let supervisor = spawn(&options).unwrap().pid;
        Pod { directory, cgroup: options.cgroup, supervisor }
    }

    /// Everything but the supervisor.
    pub fn prepare(
        sysctls: &[(&str, &str)],
        netns: Option<PathBuf>,
    ) -> (tempfile::TempDir, SpawnOptions) {
        Pod::demand_environment();
        let directory = tempfile::Builder::new().prefix("kobune-rt-").tempdir().unwrap();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("kobune-rt-test-{}-{number}", std::process::id());
        let cgroup = cgroup::detect().unwrap().path(&name);
        make_rootfs(&directory.path().join("layer"));
        let pod_dir = directory.path().join("pod");
        fs::create_dir_all(&pod_dir).unwrap();
        let options = SpawnOptions {
            exe: program(),
            listener: listen(&pod_dir.join("supervisor.sock")).unwrap(),
            pod_dir,
            hostname: "testpod".into(),
            title: "test/testpod".into(),
            cgroup,
            resources: None,
            sysctls: sysctls
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect::<BTreeMap<_, _>>(),
            netns,
        };
        (directory, options)
    }

    pub fn pod_dir(&self) -> PathBuf {
        self.directory.path().join("pod")
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.pod_dir().join("supervisor.sock")).unwrap()
    }

    pub fn log_path(&self, container: &str) -> PathBuf {
        self.directory.path().join("logs").join(container).join("0.log")
    }

    /// A container's log without the times.
    pub fn log(&self, container: &str) -> Vec<String> {
        let text = fs::read_to_string(self.log_path(container)).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    /// A request for a container over an overlay root, whose config is [`config`] changed by `change`.
    pub fn request(
        &self,
        container: &str,
        args: &[&str],
        change: impl FnOnce(&mut Value),
    ) -> Request {
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        let base = self.directory.path().join(format!("{container}-{unique}"));
        let bundle = base.join("bundle");
        fs::create_dir_all(&bundle).unwrap();
        let mut config = config(args, self.supervisor);
        change(&mut config);
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        Request::Create(Box::new(CreateRequest {
            container: container.into(),
            id: format!("{unique:064x}"),
            attempt: 0,
            bundle,
            rootfs: Rootfs::Overlay {
                lower: vec![self.directory.path().join("layer")],
                upper: base.join("upper"),
                work: base.join("work"),
            },
            log: Some(LogConfig { path: self.log_path(container), max_size: 0, max_files: 1 }),
        }))
    }

    /// Creates and starts a container; returns the pid of its first process.
    pub fn start(&self, container: &str, args: &[&str], change: impl FnOnce(&mut Value)) -> i32 {
        let mut client = self.client();
        let created = client.call(&self.request(container, args, change)).unwrap();
        let Response::Created { pid } = created else { panic!("{created:?}") };
        let started = client.call(&Request::Start { container: container.into() }).unwrap();
        assert!(matches!(started, Response::Started { .. }), "{started:?}");
        pid
    }

    /// Waits for the container's end.
    pub fn wait(&self, container: &str) -> ContainerRecord {
        let mut client = self.client();
        assert_eq!(client.call(&Request::Subscribe).unwrap(), Response::Ok);
        loop {
            if let Event::Container(record) = client.next_event().unwrap()
                && record.container == container
                && record.phase == ContainerPhase::Exited
            {
                return record;
            }
        }
    }

    /// Runs to the end and returns the record and the log.
    pub fn run(
        &self,
        args: &[&str],
        change: impl FnOnce(&mut Value),
    ) -> (ContainerRecord, Vec<String>) {
        let _ = fs::remove_file(self.log_path("app"));
        self.start("app", args, change);
        let record = self.wait("app");
        let log = self.log("app");
        (record, log)
    }

    /// What a shell script in a container prints.
    pub fn sh(&self, script: &str, change: impl FnOnce(&mut Value)) -> Vec<String> {
        let (record, log) = self.run(&["/bin/sh", "-c", script], change);
        assert_eq!(record.exit_code, Some(0), "{record:?} {log:?}");
        log.iter().map(|line| line.strip_prefix("stdout F ").unwrap_or(line).to_owned()).collect()
    }

    /// Ends the Pod and checks that nothing is left of it.
    pub fn end(self) {
        let mut client = self.client();
        assert_eq!(client.call(&Request::Shutdown).unwrap(), Response::Ok);
        // The supervisor closes the connection by ending.
        assert!(matches!(
            client.call(&Request::State),
            Err(ClientError::Closed | ClientError::Io { .. })
        ));
        self.assert_nothing_left();
    }

    pub fn assert_nothing_left(&self) {
        assert!(!self.cgroup.exists(), "cgroup {:?} is left", self.cgroup);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ours = self.directory.path().to_str().unwrap();
        assert!(!mounts.contains(ours), "a mount is left below {ours}: {mounts}");
    }
}

impl Drop for Pod {
    /// A failed test must not leave processes either.
    fn drop(&mut self) {
        let _ = cgroup::kill_pod(&self.cgroup);
    }
}

/// A shell and its tools.
pub fn make_rootfs(layer: &Path) {
    for directory in ["bin", "etc", "tmp", "usr/bin"] {
        fs::create_dir_all(layer.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", layer.join("bin/busybox")).unwrap();
    let tools = [
        "sh", "cat", "echo", "sleep", "id", "ls", "hostname", "mount", "true", "stat", "head",
        "dd", "tty", "touch", "mkdir", "readlink", "nc", "ulimit", "mknod", "wc", "seq", "grep",
    ];
    for tool in tools {
        std::os::unix::fs::symlink("busybox", layer.join("bin").join(tool)).unwrap();
    }
    fs::write(layer.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
}

/// What the agent writes for a Pod's container, more or less.
pub fn config(args: &[&str], supervisor: i32) -> Value {
    let capabilities =
        ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETUID", "CAP_SETGID"];
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/bin:/usr/bin", "HOME=/"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "namespaces": [
                {"type": "mount"}, {"type": "pid"}, {"type": "cgroup"},
                {"type": "ipc", "path": format!("/proc/{supervisor}/ns/ipc")},
                {"type": "uts", "path": format!("/proc/{supervisor}/ns/uts")},
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys", "/proc/bus"],
        },
    })
}

/// Namespace identity of a process.
pub fn namespace(pid: i32, kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap()
}

/// Starts a process in a container and waits for it: exit code, stdout, stderr.
pub fn exec(
    pod: &Pod,
    container: &str,
    process: Value,
) -> Result<(i32, String, String), ClientError> {
    use std::io::Read;
    use std::os::fd::AsFd;
    let (mut out, out_write) = std::io::pipe().unwrap();
    let (mut err, err_write) = std::io::pipe().unwrap();
    let null = fs::File::open("/dev/null").unwrap();
    let request = kobune_runtime::wire::ExecRequest {
        container: container.into(),
        process: serde_json::from_value(process).unwrap(),
    };
    let streams = [null.as_fd(), out_write.as_fd(), err_write.as_fd()];
    let session = pod.client().exec(request, streams)?;
    drop((out_write, err_write));
    let (mut stdout, mut stderr) = (String::new(), String::new());
    out.read_to_string(&mut stdout).unwrap();
    err.read_to_string(&mut stderr).unwrap();
    Ok((session.wait()?, stdout, stderr))
}

/// A process like the container's own.
pub fn process(args: &[&str]) -> Value {
    config(args, 0)["process"].clone()
}

/// Does the process exist (a zombie does not count)?
pub fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim().starts_with('Z'))
}

/// Waits for what only the file system tells; fails after a while.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !done() {
        assert!(std::time::Instant::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
    }
}

/// Waits until the other end of `stream` is closed.
pub fn wait_closed(stream: &UnixStream) {
    use std::io::Read;
    let _ = (&*stream).read(&mut [0u8; 1]);
}
