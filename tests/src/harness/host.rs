//! One private host with at most one node on it. Owns its directories, namespaces and processes, and
//! takes all of them away when dropped: its own, nobody else's.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::image;
use super::namespaces::Namespaces;
use super::process::{self, Outcome};
use super::{api::Api, snapshot::Snapshot, wait::eventually};
use crate::paths;

/// How long a node may take to answer and be Ready. Generous: bounds are asserted by tests, not here.
const READY: Duration = Duration::from_secs(30);

/// How long `kobune down`, or a node asked to end, may take.
const DOWN: Duration = Duration::from_secs(60);

/// A private host.
pub struct Host {
    /// Unique on the machine; also the name of its node and of its cgroup.
    pub name: String,
    /// Its directory: `data`, `log`, `kubeconfig.yaml`, `kobune.log`.
    pub dir: PathBuf,
    /// Its run directory, on the machine's volatile file system as in life.
    pub run_dir: PathBuf,
    namespaces: Arc<Namespaces>,
    node: Option<Child>,
}

impl Host {
    /// Namespaces and directories; no node yet.
    ///
    /// # Panics
    /// Without root, or where namespaces cannot be made.
    pub fn new(purpose: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{purpose}-{}-{count}", std::process::id());
        let dir = std::env::temp_dir().join(format!("kt-{}-{count}", std::process::id()));
        Self::in_directory(&name, dir)
    }

    /// A host of a given name whose directory may be there already: after a reboot.
    pub fn in_directory(name: &str, dir: PathBuf) -> Self {
        fs::create_dir_all(&dir).expect("make the host's directory");
        fs::write(dir.join("config.yaml"), "{}\n").expect("write an empty configuration");
        let namespaces = Arc::new(Namespaces::new().unwrap_or_else(|error| panic!("{error}")));
        // Short: paths of unix sockets end after 107 bytes.
        let run_dir = Path::new("/run").join(name);
        let host = Self { name: name.to_owned(), dir, run_dir, namespaces, node: None };
        host.wire_up();
        host
    }

    /// A host with a Ready node and the test images.
    pub fn with_node(purpose: &str) -> Self {
        let mut host = Self::new(purpose);
        host.import_images();
        host.up();
        host
    }

    /// `eth0` with an address and no way out: every real host has an interface.
    fn wire_up(&self) {
        self.run(|| {
            // No duplicate address detection: its flags would come and go between two snapshots.
            let path = "/proc/sys/net/ipv6/conf/default/accept_dad";
            if Path::new(path).exists() {
                fs::write(path, "0").expect("turn duplicate address detection off");
            }
        });
        for line in [
            "link add eth0 type veth peer name wire",
            "address add 192.0.2.10/24 dev eth0",
            // No link-local addresses, which come when they like.
            "link set eth0 addrgenmode none",
            "link set wire addrgenmode none",
            "link set eth0 up",
            "link set wire up",
        ] {
            self.tool("ip", &line.split(' ').collect::<Vec<_>>()).ok();
        }
        eventually("the wire is up", READY, || {
            match self.tool("ip", &["-o", "link"]).ok().matches("state UP").count() {
                2 => Ok(()),
                count => Err(format!("{count} links are up")),
            }
        });
    }

    /// Runs `work` inside of the host's namespaces.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespaces.run(work)
    }

    /// A handle of the namespaces for threads that work while the node is killed and started.
    pub fn entry(&self) -> Arc<Namespaces> {
        Arc::clone(&self.namespaces)
    }

    /// Runs a program of the machine inside of the host.
    pub fn tool(&self, program: &str, arguments: &[&str]) -> Outcome {
        let path = paths::on_path(program).unwrap_or_else(|| panic!("no {program} on PATH"));
        let mut command = Command::new(path);
        command.args(arguments);
        self.command(command, "")
    }

    /// Runs any command inside of the host to its end.
    pub fn command(&self, command: Command, input: &str) -> Outcome {
        self.run(|| process::run(command, input))
    }

    /// The flags that keep a node within this host's directories.
    pub fn flags(&self) -> Vec<String> {
        let path = |name: &str| self.dir.join(name).display().to_string();
        [
            ("--data-dir", path("data")),
            ("--run-dir", self.run_dir.display().to_string()),
            ("--log-dir", path("log")),
            ("--config", path("config.yaml")),
            ("--write-kubeconfig", path("kubeconfig.yaml")),
            ("--cgroup-root", self.name.clone()),
            ("--node-name", self.name.clone()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
    }

    /// A command line of the program under test, with the host's directories in place.
    fn kobune_command(&self, verb: &[&str], arguments: &[&str]) -> Command {
        let mut command = Command::new(paths::kobune());
        command.args(verb).args(self.flags()).args(arguments);
        command.env("HOME", &self.dir).env("KUBECONFIG", self.kubeconfig());
        // Nothing of the machine is needed: promise 1.
        command.env("PATH", "/nonexistent");
        command
    }

    /// `kobune VERB… FLAGS ARGUMENTS…` to its end.
    pub fn kobune(&self, verb: &[&str], arguments: &[&str]) -> Outcome {
        self.command(self.kobune_command(verb, arguments), "")
    }

    /// `kobune WORDS…`, one of the commands for people without kubectl, with the kubeconfig in place.
    pub fn client(&self, words: &[&str]) -> Outcome {
        let mut command = Command::new(paths::kobune());
        command.args(words).env("HOME", &self.dir).env("KUBECONFIG", self.kubeconfig());
        self.command(command, "")
    }

    /// `kobune image import` of an archive; needs no running node.
    pub fn import(&self, archive: &Path, tag: Option<&str>) -> Outcome {
        let archive = archive.display().to_string();
        let mut arguments = vec!["image", "import", archive.as_str()];
        arguments.extend(tag.into_iter().flat_map(|tag| ["--tag", tag]));
        let mut command = Command::new(paths::kobune());
        command.args(arguments).arg("--data-dir").arg(self.dir.join("data"));
        self.command(command, "")
    }

    /// myapp:1.0, myapp:1.1 (the test program) and busybox:1.35.
    pub fn import_images(&self) {
        for archive in image::standard().expect("make the test images") {
            self.import(&archive, None).ok();
        }
    }

    /// Starts `kobune up` and waits until the node is Ready.
    pub fn up(&mut self) {
        self.start();
        self.wait_ready();
    }

    /// Starts `kobune up` and returns at once.
    pub fn start(&mut self) {
        self.start_with("up", &[]);
    }

    /// Starts a verb that stays (`up`, `server`) with further arguments.
    pub fn start_with(&mut self, verb: &str, arguments: &[&str]) {
        assert!(self.node.is_none(), "the node is running already");
        let log = File::options().create(true).append(true).open(self.dir.join("kobune.log"));
        let log = log.expect("open kobune.log");
        let mut command = self.kobune_command(&[verb], arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("dup")).stderr(log);
        self.node = Some(self.run(|| command.spawn()).expect("start kobune up"));
    }

    /// Until the API answers and the node is Ready; panics with the log if the program ends instead.
    pub fn wait_ready(&mut self) {
        let log = self.dir.join("kobune.log");
        let mut node = self.node.take().expect("started before");
        let name = self.name.clone();
        eventually("the node is Ready", READY, || {
            if let Some(status) = node.try_wait().expect("wait for kobune") {
                panic!("kobune up ended with {status}:\n{}", tail(&log));
            }
            let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
            match self.kubectl(&["get", "node", &name, "-o", path]).result() {
                Ok(status) if status == "True" => Ok(()),
                Ok(status) => Err(format!("Ready is {status:?}")),
                Err(error) => Err(error),
            }
        });
        self.node = Some(node);
    }

    /// The process id of `kobune up`.
    pub fn pid(&self) -> i32 {
        let node = self.node.as_ref().expect("the node is running");
        i32::try_from(node.id()).expect("a pid fits")
    }

    /// `kill -9` of the node's process, and nothing else.
    pub fn kill_node(&mut self) {
        let mut node = self.node.take().expect("the node is running");
        node.kill().expect("kill kobune");
        let status = node.wait().expect("wait for kobune");
        assert_eq!(status.signal(), Some(9), "kobune had ended before: {status}");
    }

    /// Sends a signal to the node's process and waits for its end; returns the exit code.
    pub fn end_node(&mut self, signal: Signal) -> Option<i32> {
        let pid = self.pid();
        let mut node = self.node.take().expect("the node is running");
        kill(Pid::from_raw(pid), signal).expect("signal kobune");
        let status = eventually("kobune ends", DOWN, || {
            node.try_wait().expect("wait for kobune").ok_or("still running")
        });
        status.code()
    }

    /// `kobune down`; the process of `kobune up`, if any, must have ended with it.
    pub fn down(&mut self) {
        self.kobune(&["down"], &[]).ok();
        if let Some(mut node) = self.node.take() {
            eventually("kobune up ends after down", DOWN, || {
                node.try_wait().expect("wait for kobune").ok_or("still running")
            });
        }
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig.yaml")
    }

    /// A value of the kubeconfig, which is one `key: value` a line.
    pub fn kubeconfig_value(&self, key: &str) -> String {
        let text = fs::read_to_string(self.kubeconfig()).expect("read the kubeconfig");
        let value = text.lines().find_map(|line| {
            let (name, value) = line.trim().trim_start_matches("- ").split_once(": ")?;
            (name == key).then(|| value.trim_matches('"').to_owned())
        });
        value.unwrap_or_else(|| panic!("no {key} in the kubeconfig"))
    }

    /// What the node has printed so far.
    pub fn node_log(&self) -> String {
        fs::read_to_string(self.dir.join("kobune.log")).unwrap_or_default()
    }

    /// A kubectl command line for this host's API.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command =
            Command::new(paths::kubectl().expect("kubectl is on PATH or in $KUBECTL"));
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(arguments);
        command.env("HOME", &self.dir).env_remove("KUBECONFIG");
        command
    }

    /// kubectl to its end.
    pub fn kubectl(&self, arguments: &[&str]) -> Outcome {
        self.command(self.kubectl_command(arguments), "")
    }

    /// kubectl that must succeed; its standard output.
    #[track_caller]
    pub fn kubectl_ok(&self, arguments: &[&str]) -> String {
        self.kubectl(arguments).ok()
    }

    /// `kubectl apply -f -`.
    pub fn apply(&self, manifest: &str) -> Outcome {
        self.command(self.kubectl_command(&["apply", "-f", "-"]), manifest)
    }

    /// `kubectl apply -f examples/NAME`.
    pub fn apply_example(&self, name: &str) -> Outcome {
        let path = paths::example(name).display().to_string();
        self.kubectl(&["apply", "-f", &path])
    }

    /// `kubectl wait` for a condition of an object, one minute at most.
    #[track_caller]
    pub fn wait_for(&self, object: &str, condition: &str) {
        let seconds = super::patience(Duration::from_secs(60)).as_secs();
        let timeout = format!("--timeout={seconds}s");
        self.kubectl_ok(&["wait", object, &format!("--for={condition}"), &timeout]);
    }

    /// Plain HTTP to the API.
    pub fn api(&self) -> Api<'_> {
        Api::start(self)
    }

    /// Everything that a node could leave behind, now.
    pub fn snapshot(&self) -> Snapshot {
        let (mounts, processes) = (self.namespaces.mounts(), self.processes());
        self.run(|| Snapshot::take(&self.name, &self.run_dir, mounts, processes))
    }

    /// The Pods' supervisors: the program's hidden command of that name. (Their /proc/PID/exe lies on a
    /// mount of its own and has no path.)
    pub fn supervisors(&self) -> Vec<i32> {
        let second_word = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).nth(1).is_some_and(|word| word == b"supervisor")
        };
        self.processes().into_iter().map(|(pid, _)| pid).filter(second_word).collect()
    }

    /// Process ids and names of all that live in the host's mount namespace.
    fn processes(&self) -> Vec<(i32, String)> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
            .filter(|pid| self.namespaces.holds(*pid))
            .map(|pid| {
                let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                (pid, comm.trim().to_owned())
            })
            .collect()
    }
}

/// The last part of a log.
fn tail(path: &Path) -> String {
    let mut text = String::new();
    let _ = File::open(path).and_then(|mut file| file.read_to_string(&mut text));
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- {}: end of kobune.log ---\n{}",
                self.name,
                tail(&self.dir.join("kobune.log"))
            );
        }
        if let Some(mut node) = self.node.take() {
            let _ = node.kill();
            let _ = node.wait();
        }
        super::snapshot::remove_cgroups(&self.name);
        for (pid, _) in self.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        super::snapshot::remove_cgroups(&self.name);
        let _ = fs::remove_dir_all(&self.dir);
    }
}
