//! A room for a container engine: own network (nothing in it, no way out), own mounts with an empty /run, and own
//! cgroup version 2 as the whole tree, whatever the host's looks like. All that was started in it ends with it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use kobune_runtime::cgroup;
use serde_json::json;

use super::Pod;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The name of the image of [`Room::image`].
pub const IMAGE: &str = "docker.io/kobune/engine:test";

/// Cgroups that the room and the engines make for themselves and keep.
const ENGINES_OWN: &[&str] = &["", "commands", "libpod_parent", "libpod_parent/conmon", "default"];

/// Where runtimes remember containers, below /run. containerd tells the place.
const STATES: &[&str] = &["kobune-runtime", "runc", "crun", "containerd/runc/default"];

/// $1 is the room's cgroup.
const HOLD: &str = r#"set -e
echo $$ > "$1/cgroup.procs"
exec unshare --cgroup sh -ec '
umount --recursive --lazy /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/commands
echo $$ > /sys/fs/cgroup/commands/cgroup.procs
mount -t tmpfs run /run
echo ready
exec cat'"#;

/// $1 is where commands are at first, $2 the process that holds the room.
const ENTER: &str = r#"echo $$ > "$1/cgroup.procs" || exit 99
holder=$2; shift 2
exec nsenter --target "$holder" --mount --net --cgroup -- "$@""#;

/// Whether limits can be asked for at all.
pub fn has_controllers() -> bool {
    let host = cgroup::detect().unwrap();
    host.has("memory") && host.has("pids")
}

pub struct Room {
    pub directory: tempfile::TempDir,
    cgroup: PathBuf,
    /// Lives as long as its standard input is open.
    holder: Child,
}

impl Room {
    pub fn new() -> Room {
        Pod::demand_environment();
        // Short: names of sockets below it must fit into 108 bytes.
        let directory = tempfile::Builder::new().prefix("ke").tempdir_in("/tmp").unwrap();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("kobune-engine-{}-{number}", std::process::id());
        let cgroup = cgroup::detect().unwrap().path(name);
        delegate(cgroup.parent().unwrap());
        fs::create_dir(&cgroup).unwrap();
        let mut holder = Command::new("unshare")
            .args(["--mount", "--net", "--propagation", "private", "sh", "-c", HOLD, "hold"])
            .arg(&cgroup)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0u8; 6];
        holder.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        Room { directory, cgroup, holder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file of the room's cgroup.
    pub fn read(&self, name: &str) -> String {
        let path = self.cgroup.join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
    }

    /// What containers leave, if they leave anything: cgroups, processes, mounts, and what runtimes remember. Without
    /// what the engines themselves keep for the next one.
    pub fn inventory(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        walk(&self.cgroup, &mut |cgroup| {
            let name = cgroup.strip_prefix(&self.cgroup).unwrap().display().to_string();
            if !ENGINES_OWN.contains(&&*name) {
                found.insert(format!("cgroup {name}"));
            }
            let pids = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
            found.extend(pids.lines().map(|pid| {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                format!("process {pid} {}", name.trim())
            }));
        });
        let holder = PathBuf::from(format!("/proc/{}", self.holder.id()));
        let mounts = fs::read_to_string(holder.join("mountinfo")).unwrap();
        found.extend(mounts.lines().map(|line| format!("mount {line}")));
        for place in STATES {
            let place = holder.join("root/run").join(place);
            let entries = fs::read_dir(&place).into_iter().flatten().flatten();
            found.extend(entries.map(|entry| format!("state {}", entry.path().display())));
        }
        found
    }

    /// Waits until there is no more than there was: conmon and shims end after their last word.
    pub fn wait_until_back_at(&self, before: &BTreeSet<String>) {
        let started = Instant::now();
        loop {
            let now = self.inventory();
            let left: Vec<_> = now.difference(before).collect();
            if left.is_empty() {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "left: {left:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A command inside, not yet started.
    pub fn command(&self, program: &str) -> Command {
        let found =
            std::env::var("PATH").unwrap().split(':').any(|d| Path::new(d).join(program).exists());
        assert!(
            found,
            "{program} is missing: install the Debian package that has it (see cargo xtask test)"
        );
        let mut command = Command::new("sh");
        command.args(["-c", ENTER, "enter"]);
        command.arg(self.cgroup.join("commands")).arg(self.holder.id().to_string()).arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// An image of one layer, busybox and its names, as `docker save` would write it.
    pub fn image(&self) -> PathBuf {
        let archive = self.path("image.tar");
        if archive.exists() {
            return archive;
        }
        let parts = self.path("image");
        super::make_rootfs(&self.path("layer"));
        fs::create_dir(&parts).unwrap();
        let layer = parts.join("layer.tar");
        tar(&self.path("layer"), &layer);
        let digest = Command::new("sha256sum").arg(&layer).output().unwrap().stdout;
        let digest = String::from_utf8(digest).unwrap()[..64].to_owned();
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {"Env": ["PATH=/bin:/usr/bin"], "Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        });
        let manifest =
            json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
        fs::write(parts.join("config.json"), config.to_string()).unwrap();
        fs::write(parts.join("manifest.json"), manifest.to_string()).unwrap();
        tar(&parts, &archive);
        archive
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = cgroup::kill_pod(&self.cgroup);
        let _ = self.holder.wait();
    }
}

/// Gives what lies below a cgroup its controllers, as an init does. Those that cannot be given are not needed.
fn delegate(cgroup: &Path) {
    let names = fs::read_to_string(cgroup.join("cgroup.controllers")).unwrap();
    for name in names.split_whitespace() {
        let _ = fs::write(cgroup.join("cgroup.subtree_control"), format!("+{name}"));
    }
}

fn walk(cgroup: &Path, visit: &mut impl FnMut(&Path)) {
    visit(cgroup);
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            walk(&entry.path(), visit);
        }
    }
}

fn tar(directory: &Path, archive: &Path) {
    let done =
        Command::new("tar").arg("-C").arg(directory).arg("-cf").arg(archive).arg(".").status();
    assert!(done.unwrap().success());
}

/// How long an engine may take for one command on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Exit code, and both outputs after another. A command that hangs is killed and fails the test.
pub fn outcome(mut command: Command) -> (i32, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| fs::File::create(directory.path().join(name)).unwrap();
    // Through files: conmon and shims keep what they inherit.
    command.stdout(file("out")).stderr(file("err"));
    let line = format!("{command:?}");
    let mut child = command.spawn().unwrap();
    let started = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if started.elapsed() > PATIENCE => {
                let _ = child.kill();
                panic!("{line}: hangs");
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let read = |name: &str| fs::read(directory.path().join(name)).unwrap();
    let output = Output { status, stdout: read("out"), stderr: read("err") };
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}
