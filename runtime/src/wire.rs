//! What the agent and a Pod's supervisor say to each other: the messages, and nothing of how they travel.
//!
//! One message is one line of JSON on a unix stream socket. A connection is one conversation: requests are
//! answered in order. After [`Request::Subscribe`] the supervisor also writes [`Event`] lines
//! (told apart from answers by their tag `event`), beginning with one for each container that it holds, so
//! that nobody has to ask "what did I miss".
//!
//! [`Request::Exec`] carries its standard streams as file descriptors (SCM_RIGHTS, sent with the first byte
//! of the line): stdin, stdout, stderr in this order; with `tty` only the pty's replica side is
//! created inside the container and its master is sent back with the [`Response::ExecStarted`] line.
//! The connection then ends with [`Response::ExecExited`]; the peer closing it early does not
//! kill the process.
//!
//! Times are nanoseconds since the Unix epoch (UTC).

mod client;

pub use client::{
    Client, ClientError, ExecSession, MAX_LINE, decode, encode, listen, receive_line, send_line,
};

use std::path::PathBuf;

use oci_spec::runtime::Process;
use serde::{Deserialize, Serialize};

/// What the agent asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "camelCase")]
pub enum Request {
    /// Everything that the supervisor holds.
    State,
    /// [`Event`] lines from now on, the present state first.
    Subscribe,
    /// Make a container up to the point before its program is executed.
    Create(Box<CreateRequest>),
    /// Execute the program of a created container.
    Start { container: String },
    /// Send a signal to the container's first process.
    Kill { container: String, signal: i32 },
    /// Run one more process in a running container.
    Exec(Box<ExecRequest>),
    /// Forget an exited container: its cgroup, its record; its bundle and log stay.
    Remove { container: String },
    /// Kill what still runs, remove every container and the Pod's cgroup, then end.
    Shutdown,
}

/// One container to make. `container` names it within the Pod; a restarted container has the same
/// name, a new `id` and the next `attempt`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateRequest {
    pub container: String,
    /// 64 hexadecimal digits.
    pub id: String,
    /// 0 for the first start, then 1, 2, … (the Pod status' restartCount).
    pub attempt: u32,
    /// Directory that holds config.json.
    pub bundle: PathBuf,
    pub rootfs: Rootfs,
    /// Where stdout and stderr go, in the CRI line format. Without it they go to /dev/null.
    pub log: Option<LogConfig>,
}

/// Where a container's root comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Rootfs {
    /// `root.path` of config.json.
    Bundle,
    /// An overlayfs that exists in the container's own mount namespace only, so that nothing is left to
    /// unmount on the host. `lower` is ordered from the topmost layer down.
    Overlay { lower: Vec<PathBuf>, upper: PathBuf, work: PathBuf },
}

/// A container's log file and when it is rotated (`<n>.log` → `<n>.log.<UTC time>`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogConfig {
    pub path: PathBuf,
    /// Bytes; 0 means never rotate.
    pub max_size: u64,
    /// Files kept, the live one included.
    pub max_files: u32,
}

/// One more process in a running container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecRequest {
    pub container: String,
    /// As in config.json: args, env, cwd, user, capabilities, terminal …
    pub process: Process,
}

/// What the supervisor answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "camelCase")]
pub enum Response {
    State(SupervisorState),
    Created { pid: i32 },
    Started { started_at: i64 },
    ExecStarted { pid: i32 },
    ExecExited { exit_code: i32 },
    Ok,
    Error { kind: ErrorKind, message: String },
}

/// Why a request failed, as far as the agent acts differently on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ErrorKind {
    /// No container of that name, or not in the phase that the request needs.
    NotFound,
    WrongPhase,
    /// The program cannot be executed (missing, no permission, missing interpreter): the container
    /// state's reason is `ContainerCannotRun`, exit code 127 or 126.
    CannotRun,
    /// The request or config.json is wrong; trying again does not help.
    Invalid,
    /// Anything else: a system call failed.
    Internal,
}

/// Everything that a supervisor holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SupervisorState {
    /// The supervisor's own process.
    pub pid: i32,
    pub containers: Vec<ContainerRecord>,
}

/// One container as the supervisor knows it. Also written to `<pod dir>/containers/<name>.json` (atomically)
/// when it changes, so that an exit is known even when the supervisor is gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerRecord {
    pub container: String,
    pub id: String,
    pub attempt: u32,
    pub phase: ContainerPhase,
    /// In the host's pid namespace; 0 when it never started.
    pub pid: i32,
    pub created_at: i64,
    pub started_at: Option<i64>,
    pub finished_at: Option<i64>,
    /// 128 + signal when a signal ended it.
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    /// The kernel killed it (or a process of it) for want of memory.
    pub oom_killed: bool,
    /// Why it could not be created or started.
    pub message: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ContainerPhase {
    Created,
    Running,
    Exited,
}

/// Something changed. Carries the whole record: a listener needs no memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase")]
pub enum Event {
    Container(ContainerRecord),
    Removed { container: String },
}
