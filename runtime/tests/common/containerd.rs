//! containerd, its shim and its client `ctr`, with a state of its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::bundle::runtime;
use super::engine::{IMAGE, Room, has_controllers, outcome};

pub struct Containerd {
    pub room: Room,
    daemon: Child,
    /// The runtime that its shim calls.
    runtime: PathBuf,
    before: BTreeSet<String>,
}

impl Containerd {
    pub fn new() -> Containerd {
        Containerd::over(&runtime())
    }

    /// containerd with one image; its containers are this runtime's.
    pub fn over(runtime: &Path) -> Containerd {
        let room = Room::new();
        let at = |name: &str| room.path(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            at("root"),
            at("state"),
            at("sock"),
            at("ttrpc"),
        );
        fs::write(room.path("config.toml"), config).unwrap();
        let log = fs::File::create(room.path("log")).unwrap();
        let mut daemon = room.command("containerd");
        daemon.arg("--config").arg(room.path("config.toml"));
        daemon.stdout(Stdio::null()).stderr(log);
        let daemon = daemon.spawn().unwrap();
        let before = BTreeSet::new();
        let mut containerd = Containerd { room, daemon, runtime: runtime.into(), before };
        containerd.wait_for("containerd to answer", || containerd.call(&["version"]).0 == 0);
        let image = containerd.room.image();
        let (code, text) = containerd.call(&["images", "import", image.to_str().unwrap()]);
        assert_eq!(code, 0, "{text}");
        containerd.before = containerd.room.inventory();
        containerd
    }

    /// Asks again until it is so; each question is a process of its own.
    pub fn wait_for(&self, what: &str, mut done: impl FnMut() -> bool) {
        let started = Instant::now();
        while !done() {
            let log = || fs::read_to_string(self.room.path("log")).unwrap();
            assert!(started.elapsed() < Duration::from_secs(30), "no {what}: {}", log());
        }
    }

    pub fn call(&self, words: &[&str]) -> (i32, String) {
        let mut command = self.room.command("ctr");
        command.arg("--address").arg(self.room.path("sock")).args(words);
        outcome(command)
    }

    /// ctr wants a terminal for one.
    pub fn call_with_terminal(&self, words: &[&str]) -> (i32, String) {
        let line =
            format!("ctr --address {} {}", self.room.path("sock").display(), words.join(" "));
        let mut command = self.room.command("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        outcome(command)
    }

    pub fn run_words<'a>(
        &'a self,
        id: &'a str,
        flags: &[&'a str],
        command: &[&'a str],
    ) -> Vec<&'a str> {
        let binary = self.runtime.to_str().unwrap();
        let mut words = vec!["run", "--runtime=io.containerd.runc.v2", "--runc-binary", binary];
        if !has_controllers() {
            // A weight is asked for by default.
            words.push("--cpu-shares=0");
        }
        words.extend(flags);
        words.extend([IMAGE, id]);
        words.extend(command);
        words
    }

    pub fn run(&self, id: &str, flags: &[&str], command: &[&str]) -> (i32, String) {
        self.call(&self.run_words(id, flags, command))
    }

    pub fn good(&self, words: &[&str]) -> String {
        let (code, text) = self.call(words);
        assert_eq!(code, 0, "ctr {words:?}: {text}");
        text
    }

    pub fn status(&self, id: &str) -> String {
        let list = self.good(&["tasks", "list"]);
        let line = list.lines().find(|line| line.starts_with(id)).unwrap_or_default();
        line.split_whitespace().nth(2).unwrap_or_default().to_owned()
    }

    /// Hears every event from now on.
    pub fn listen(&self) -> Listener {
        let heard = self.room.path("events");
        let mut command = self.room.command("ctr");
        command.arg("--address").arg(self.room.path("sock")).arg("events");
        let client = command.stdout(fs::File::create(&heard).unwrap()).spawn().unwrap();
        let listener = Listener { client, heard };
        self.wait_for("first event", || {
            self.good(&["images", "label", IMAGE, "heard=no"]);
            !listener.text().is_empty()
        });
        listener
    }

    /// No container is there, and nothing of one.
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.good(&["containers", "list", "--quiet"]), "");
        self.room.wait_until_back_at(&self.before);
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// A client that prints events, one line each.
pub struct Listener {
    client: Child,
    heard: PathBuf,
}

impl Listener {
    pub fn text(&self) -> String {
        fs::read_to_string(&self.heard).unwrap()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}
