//! What attacks are after: a file of the host beside the bundle, and a watch on how commands end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// For one command of the runtime on something hostile.
pub const SOON: Duration = Duration::from_secs(20);

/// A directory of the host with a file that somebody wants to change.
pub struct Host {
    directory: tempfile::TempDir,
}

pub const SECRET: &[u8] = b"only the host writes here\n";

impl Host {
    pub fn new() -> Host {
        let directory = tempfile::Builder::new().prefix("kobune-host-").tempdir().unwrap();
        fs::write(directory.path().join("file"), SECRET).unwrap();
        Host { directory }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn file(&self) -> PathBuf {
        self.path().join("file")
    }

    /// Shows the directory at /host in the container. What the runtime is led to in there it reaches; the program of a
    /// test leaves it alone.
    pub fn show(&self, config: &mut Value) {
        mounts(config).push(serde_json::json!({
            "destination": "/host", "type": "bind", "source": self.path(), "options": ["bind"],
        }));
    }

    pub fn assert_untouched(&self) {
        assert_eq!(fs::read(self.file()).unwrap(), SECRET);
        let names: Vec<_> =
            fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["file"]);
    }
}

pub fn mounts(config: &mut Value) -> &mut Vec<Value> {
    config["mounts"].as_array_mut().unwrap()
}

/// Whether a text holds a part of [`SECRET`].
pub fn tells(text: &[u8]) -> bool {
    text.windows(13).any(|part| part == &SECRET[..13])
}

/// The command's exit within [`SOON`], and what it said.
pub fn ended(mut command: Command, errors: &Path) -> (bool, String) {
    let stderr = fs::File::create(errors).unwrap();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
    let end = Instant::now() + SOON;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return (status.success(), fs::read_to_string(errors).unwrap());
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            panic!("not within {SOON:?}: {}", fs::read_to_string(errors).unwrap());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
