//! One container through the command line of an OCI runtime. `RUNTIME=/usr/sbin/runc` runs the same tests against
//! another one, which is how they are proven.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::Pod;

/// The runtime under test.
pub fn runtime() -> PathBuf {
    std::env::var_os("RUNTIME").map_or_else(super::program, PathBuf::from)
}

/// Whether another runtime than ours is under test.
pub fn is_peer() -> bool {
    std::env::var_os("RUNTIME").is_some()
}

/// A bundle, and containers of one test.
pub struct Bundle {
    pub directory: tempfile::TempDir,
    pub id: String,
    /// The runtime under test.
    pub program: PathBuf,
}

impl Bundle {
    pub fn new(name: &str, args: &[&str]) -> Bundle {
        Pod::demand_environment();
        let directory = tempfile::Builder::new().prefix("kobune-cli-").tempdir().unwrap();
        super::make_rootfs(&directory.path().join("rootfs"));
        let mut config = super::config(args, 0);
        config["hostname"] = "box".into();
        if is_peer() {
            // Debian's crun knows no later one.
            config["ociVersion"] = "1.0.0".into();
        }
        config["linux"]["namespaces"] = json!([
            {"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"},
            {"type": "network"}, {"type": "cgroup"},
        ]);
        let id = format!("kobune-{name}-{}", std::process::id());
        let bundle = Bundle { directory, id, program: runtime() };
        bundle.configure(|value| *value = config);
        bundle
    }

    pub fn configure(&self, change: impl FnOnce(&mut Value)) {
        let path = self.directory.path().join("config.json");
        let mut config =
            fs::read(&path).map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap());
        change(&mut config);
        fs::write(path, config.to_string()).unwrap();
    }

    /// Runs the runtime; `ID` and `BUNDLE` are replaced. Its output goes through files: a pipe would be held open
    /// by containers that stay.
    pub fn runtime(&self, words: &str) -> Output {
        self.run(&words.split_whitespace().collect::<Vec<_>>())
    }

    /// [`Bundle::runtime`] with arguments that may hold spaces.
    pub fn run(&self, words: &[&str]) -> Output {
        let file = |name: &str| self.directory.path().join(name);
        let mut output = self
            .command(words)
            .stdin(Stdio::null())
            .stdout(fs::File::create(file("stdout")).unwrap())
            .stderr(fs::File::create(file("stderr")).unwrap())
            .output()
            .unwrap();
        output.stdout = fs::read(file("stdout")).unwrap();
        output.stderr = fs::read(file("stderr")).unwrap();
        output
    }

    /// The runtime with its state below the bundle, not yet started.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.directory.path().join("state"));
        command.args(words.iter().map(|word| match *word {
            "ID" => self.id.clone(),
            "BUNDLE" => self.directory.path().display().to_string(),
            other => other.to_owned(),
        }));
        command
    }

    /// What a container with this config prints; it must end well.
    pub fn output(&self) -> String {
        self.good("run --bundle BUNDLE ID")
    }

    /// What `script` prints in a container with this config.
    pub fn sh(&self, script: &str) -> String {
        self.configure(|config| config["process"]["args"] = json!(["/bin/sh", "-c", script]));
        self.output()
    }

    /// Why a container with this config cannot be.
    pub fn refused(&self) -> String {
        self.bad("run --bundle BUNDLE ID").1
    }

    pub fn rootfs(&self) -> PathBuf {
        self.directory.path().join("rootfs")
    }

    /// Creates and starts; returns the pid of the first process.
    pub fn start(&self) -> i32 {
        self.good("create --bundle BUNDLE ID");
        self.good("start ID");
        self.state()["pid"].as_i64().unwrap() as i32
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&self.good("state ID")).unwrap()
    }

    pub fn good(&self, words: &str) -> String {
        let output = self.runtime(words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn bad(&self, words: &str) -> (i32, String) {
        let output = self.runtime(words);
        assert!(!output.status.success(), "{words} succeeded");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    pub fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.runtime("delete --force ID");
    }
}
