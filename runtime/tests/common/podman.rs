//! podman with a storage, a configuration and an image of its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::bundle::runtime;
use super::engine::{IMAGE, Room, has_controllers, outcome};

pub struct Podman {
    pub room: Room,
    before: BTreeSet<String>,
}

impl Podman {
    pub fn new() -> Podman {
        Podman::over(&runtime())
    }

    /// podman with one image, over this runtime.
    pub fn over(runtime: &Path) -> Podman {
        let room = Room::new();
        // podman asks of a runtime what it is by its name.
        let link = room.path("kobune-runtime");
        std::os::unix::fs::symlink(runtime, &link).unwrap();
        let config = format!(
            "[engine]\n\
             runtime_supports_json = [\"kobune-runtime\"]\n\
             runtime_supports_nocgroup = [\"kobune-runtime\"]\n\
             [engine.runtimes]\n\
             kobune-runtime = [{link:?}]\n"
        );
        fs::write(room.path("containers.conf"), config).unwrap();
        let policy = room.path("policy.json");
        fs::write(&policy, r#"{"default": [{"type": "insecureAcceptAnything"}]}"#).unwrap();
        let mut podman = Podman { room, before: BTreeSet::new() };
        let image = podman.room.image();
        let (policy, image) = (policy.to_str().unwrap(), image.to_str().unwrap());
        let (code, text) = podman.call(&["load", "--signature-policy", policy, "--input", image]);
        assert_eq!(code, 0, "{text}");
        podman.before = podman.room.inventory();
        podman
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.room.command("podman");
        command.env("CONTAINERS_CONF", self.room.path("containers.conf"));
        command.env("TMPDIR", self.room.directory.path());
        for (flag, name) in [("--root", "st"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(flag).arg(self.room.path(name));
        }
        command.args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs"]);
        command.args(["--events-backend=none", "--runtime=kobune-runtime"]);
        command.args(words);
        command
    }

    pub fn call(&self, words: &[&str]) -> (i32, String) {
        outcome(self.command(words))
    }

    /// The words of `podman run` or `create`, with what this host needs: it may have no pids controller, and may
    /// not let us raise limits (podman asks for both by default).
    pub fn run(&self, flags: &[&str], command: &[&str]) -> (i32, String) {
        let limits = [
            "--network=none",
            "--ulimit=nofile=1024:1024",
            "--ulimit=nproc=1024:1024",
            "--log-driver=k8s-file",
        ];
        let pids = if has_controllers() { "--pids-limit=100" } else { "--pids-limit=0" };
        let mut words = vec!["run", pids];
        words.extend(limits.iter().chain(flags));
        words.push(IMAGE);
        words.extend(command);
        self.call(&words)
    }

    pub fn good(&self, words: &[&str]) -> String {
        let (code, text) = self.call(words);
        assert_eq!(code, 0, "podman {words:?}: {text}");
        text
    }

    /// No container is there, and nothing of one.
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.good(&["ps", "--all", "--quiet"]), "");
        self.room.wait_until_back_at(&self.before);
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.call(&["rm", "--all", "--force", "--time=0"]);
    }
}
