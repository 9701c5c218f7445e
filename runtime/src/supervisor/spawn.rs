//! Starting a supervisor, and the command line between the two ends. Never waits for containers.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use oci_spec::runtime::LinuxResources;

/// What a supervisor needs to know about its Pod.
#[derive(Debug)]
pub struct SpawnOptions {
    /// The program to start; it must branch to [`super::main`] when its first argument is `supervisor`.
    pub exe: PathBuf,
    /// The Pod's run directory; `containers/` is made in it.
    pub pod_dir: PathBuf,
    /// Where requests come in; listening already (see [`crate::wire::listen`]).
    pub listener: UnixListener,
    /// Set in the Pod's UTS namespace.
    pub hostname: String,
    /// For people who look at `ps`: `namespace/name`.
    pub title: String,
    /// The Pod's cgroup, an absolute directory in the cgroup2 tree. Made if absent.
    pub cgroup: PathBuf,
    /// Limits of the whole Pod.
    pub resources: Option<LinuxResources>,
    /// Set once for the Pod: those of the ipc namespace, and `net.*` when `netns` is given.
    pub sysctls: BTreeMap<String, String>,
    /// The Pod's network namespace, for `net.*` sysctls only: containers join it by their config.json.
    pub netns: Option<PathBuf>,
}

/// A supervisor that is ready for requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spawned {
    /// Not a child of this process: nobody here has to reap it.
    pub pid: i32,
}

#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("start supervisor {exe:?}: {error}")]
    Start { exe: PathBuf, error: io::Error },
    #[error("{verb} supervisor of pod {title:?}: {error}")]
    Io { verb: &'static str, title: String, error: io::Error },
    #[error("supervisor of pod {title:?}: {message}")]
    Failed { title: String, message: String },
}

/// Starts a supervisor and waits until it is ready. It is nobody's child afterwards and survives this process.
pub fn spawn(options: &SpawnOptions) -> Result<Spawned, SpawnError> {
    let io = |verb| move |error| SpawnError::Io { verb, title: options.title.clone(), error };
    let log = File::options()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(options.pod_dir.join("supervisor.log"))
        .map_err(io("open the log of"))?;
    let listener = options.listener.try_clone().map_err(io("hand the socket to"))?;
    let (ready, reply) = io::pipe().map_err(io("make a pipe to"))?;
    // Where we may not make mounts it is started by its path.
    let sealed = crate::shield::read_only(&options.exe).ok();
    let program = match &sealed {
        Some(file) => PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())),
        None => options.exe.clone(),
    };
    let mut command = Command::new(program);
    command.arg0(shown_name(&options.exe));
    command.args(arguments(options)).env_clear().current_dir("/");
    command.stdin(OwnedFd::from(listener)).stdout(reply).stderr(log);
    let child = command.spawn();
    // The command keeps our copy of the pipe's writing end; reading needs it gone.
    drop(command);
    let exe = || options.exe.clone();
    let mut child = child.map_err(|error| SpawnError::Start { exe: exe(), error })?;
    let answer = read_answer(ready);
    // What we started only forks off the supervisor and ends.
    child.wait().map_err(io("wait for"))?;
    parse_answer(&answer.map_err(io("hear from"))?)
        .map_err(|message| SpawnError::Failed { title: options.title.clone(), message })
}

/// What `ps` shows: the program's own name also when it is given as `/proc/self/exe`.
fn shown_name(exe: &Path) -> OsString {
    let target = std::fs::read_link(exe);
    let name = target.as_deref().unwrap_or(exe).file_name().unwrap_or("kobune".as_ref());
    // Replaced by a newer version meanwhile.
    let name = name.to_string_lossy();
    name.strip_suffix(" (deleted)").unwrap_or(&name).into()
}

fn read_answer(mut ready: io::PipeReader) -> io::Result<String> {
    let mut answer = String::new();
    ready.read_to_string(&mut answer)?;
    Ok(answer)
}

/// What the supervisor says on its stdout: its pid, or why it cannot be.
fn parse_answer(answer: &str) -> Result<Spawned, String> {
    let answer = answer.trim_end();
    match answer.strip_prefix("ready ").and_then(|pid| pid.parse().ok()) {
        Some(pid) => Ok(Spawned { pid }),
        None if answer.is_empty() => {
            Err("ended before it was ready; see its supervisor.log".into())
        }
        None => Err(answer.strip_prefix("failed ").unwrap_or(answer).to_owned()),
    }
}

/// What the supervisor is told on its command line.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Settings {
    pub(super) pod_dir: PathBuf,
    pub(super) hostname: String,
    pub(super) title: String,
    pub(super) cgroup: PathBuf,
    pub(super) resources: Option<LinuxResources>,
    pub(super) sysctls: BTreeMap<String, String>,
    pub(super) netns: Option<PathBuf>,
}

fn arguments(options: &SpawnOptions) -> Vec<OsString> {
    let mut list: Vec<OsString> = vec!["supervisor".into()];
    let mut add = |key: &str, value: OsString| list.extend([key.into(), value]);
    // The title comes first: `ps` cuts long lines.
    add("--title", options.title.clone().into());
    add("--pod-dir", options.pod_dir.clone().into());
    add("--hostname", options.hostname.clone().into());
    add("--cgroup", options.cgroup.clone().into());
    if let Some(resources) = &options.resources {
        add("--resources", serde_json::to_string(resources).unwrap_or_default().into());
    }
    for (key, value) in &options.sysctls {
        add("--sysctl", format!("{key}={value}").into());
    }
    if let Some(netns) = &options.netns {
        add("--netns", netns.clone().into());
    }
    list
}

/// Reads what [`spawn`] wrote, without the leading `supervisor`.
pub(super) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Settings, String> {
    let mut arguments = arguments;
    let mut settings = Settings::default();
    while let Some(key) = arguments.next() {
        let key = key.to_string_lossy().into_owned();
        let value = arguments.next().ok_or_else(|| format!("{key}: value missing"))?;
        let text = || value.to_str().map(str::to_owned).ok_or_else(|| format!("{key}: not UTF-8"));
        match key.as_str() {
            "--title" => settings.title = text()?,
            "--pod-dir" => settings.pod_dir = value.into(),
            "--hostname" => settings.hostname = text()?,
            "--cgroup" => settings.cgroup = value.into(),
            "--netns" => settings.netns = Some(value.into()),
            "--resources" => {
                let resources = serde_json::from_str(&text()?);
                settings.resources = Some(resources.map_err(|error| format!("{key}: {error}"))?);
            }
            "--sysctl" => {
                let text = text()?;
                let pair = text.split_once('=').ok_or_else(|| format!("{key}: not key=value"))?;
                settings.sysctls.insert(pair.0.to_owned(), pair.1.to_owned());
            }
            _ => return Err(format!("unknown argument {key:?}")),
        }
    }
    if settings.pod_dir.as_os_str().is_empty() || settings.cgroup.as_os_str().is_empty() {
        return Err("--pod-dir and --cgroup are needed; this command is started by kobune".into());
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_supervisor_reads_what_spawn_writes() {
        let directory = tempfile::tempdir().unwrap();
        let listener = crate::wire::listen(&directory.path().join("s")).unwrap();
        let resources = r#"{"memory":{"limit":1048576}}"#;
        let options = SpawnOptions {
            exe: "/bin/kobune".into(),
            pod_dir: "/run/kobune/pods/u".into(),
            listener,
            hostname: "myapp-0".into(),
            title: "default/myapp-0".into(),
            cgroup: "/sys/fs/cgroup/kobune/podu".into(),
            resources: serde_json::from_str(resources).unwrap(),
            sysctls: BTreeMap::from([("kernel.sem".into(), "1 2=3".into())]),
            netns: Some("/run/netns/myapp-0".into()),
        };
        let settings = parse(arguments(&options).into_iter().skip(1)).unwrap();
        assert_eq!(settings.title, options.title);
        assert_eq!(settings.pod_dir, options.pod_dir);
        assert_eq!(settings.hostname, options.hostname);
        assert_eq!(settings.cgroup, options.cgroup);
        assert_eq!(settings.resources, options.resources);
        assert_eq!(settings.sysctls, options.sysctls);
        assert_eq!(settings.netns, options.netns);
    }

    #[test]
    fn answers_are_told_apart() {
        assert_eq!(parse_answer("ready 42\n"), Ok(Spawned { pid: 42 }));
        assert_eq!(parse_answer("failed set hostname\n"), Err("set hostname".into()));
        assert!(parse_answer("").unwrap_err().contains("supervisor.log"));
    }
}
