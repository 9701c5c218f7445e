//! The agent's side of a supervisor's socket: short requests, the event stream, and processes for probes and hooks.
//!
//! A handshake blocks for as long as the supervisor needs for one request, so it runs on the blocking pool; what
//! waits for longer (events, the end of a process) waits in tokio.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kobune_runtime::wire::{
    self, Client, ClientError, ErrorKind, Event, ExecRequest, Request, Response,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{verb}: {source}")]
    Io { verb: &'static str, source: std::io::Error },
    #[error("the task that talks to the supervisor was cancelled")]
    Cancelled,
    #[error("{0}")]
    Protocol(String),
}

impl SupervisorError {
    /// What the supervisor refused, if it was not the conversation that failed.
    pub fn refused(&self) -> Option<ErrorKind> {
        match self {
            SupervisorError::Client(error) => error.kind(),
            _ => None,
        }
    }
}

/// One request, one answer, on a connection of its own.
pub async fn call(socket: &Path, request: Request) -> Result<Response, SupervisorError> {
    let socket = socket.to_owned();
    blocking(move || Ok(Client::connect(&socket)?.call(&request)?)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SupervisorError> + Send + 'static,
) -> Result<T, SupervisorError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| SupervisorError::Cancelled)?
}

/// The supervisor's events, the present state first. Ends with None when the supervisor is gone.
#[derive(Debug)]
pub struct Events {
    lines: tokio::io::Lines<BufReader<UnixStream>>,
}

impl Events {
    pub async fn subscribe(socket: &Path) -> Result<Self, SupervisorError> {
        let socket = socket.to_owned();
        let stream = blocking(move || {
            let mut client = Client::connect(&socket)?;
            client.call(&Request::Subscribe)?;
            Ok(client.into_stream())
        })
        .await?;
        let stream = into_tokio(stream)?;
        Ok(Self { lines: BufReader::new(stream).lines() })
    }

    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let line = self.lines.next_line().await.ok().flatten()?;
            match wire::decode(line.as_bytes()) {
                Ok(event) => return Some(event),
                Err(error) => tracing::warn!(%error, "decode an event of a supervisor"),
            }
        }
    }
}

fn into_tokio(stream: std::os::unix::net::UnixStream) -> Result<UnixStream, SupervisorError> {
    let failed =
        |source| SupervisorError::Io { verb: "take over the supervisor's connection", source };
    stream.set_nonblocking(true).map_err(failed)?;
    UnixStream::from_std(stream).map_err(failed)
}

/// How a process in a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEnd {
    Exited {
        code: i32,
        output: String,
    },
    /// It took too long and was killed.
    TimedOut {
        output: String,
    },
}

/// Runs a process in a container to its end. At most `max_output` bytes of what it writes are kept.
pub async fn exec(
    socket: &Path,
    request: ExecRequest,
    limit: Duration,
    max_output: usize,
) -> Result<ExecEnd, SupervisorError> {
    let failed = |verb| move |source| SupervisorError::Io { verb, source };
    let (reader, writer) = std::io::pipe().map_err(failed("make a pipe"))?;
    let session = start(socket.to_owned(), request, writer.into()).await?;
    let pid = session.pid;
    let mut lines = BufReader::new(into_tokio(session.stream)?).lines();
    let mut output = pipe::Receiver::from_owned_fd(reader.into()).map_err(failed("read a pipe"))?;
    let mut kept = Vec::new();
    let end = tokio::time::timeout(limit, async {
        tokio::select! {
            line = lines.next_line() => line,
            never = drain(&mut output, &mut kept, max_output) => match never {},
        }
    })
    .await;
    keep_rest(&output, &mut kept, max_output);
    let text = |kept: &[u8]| String::from_utf8_lossy(kept).trim_end().to_owned();
    match end {
        Err(_elapsed) => {
            // The supervisor reaps it; until it says so the number is still that process'.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            Ok(ExecEnd::TimedOut { output: text(&kept) })
        }
        Ok(line) => {
            let line = line.map_err(failed("read from the supervisor"))?;
            let line = line.ok_or(ClientError::Closed)?;
            match wire::decode(line.as_bytes()) {
                Ok(Response::ExecExited { exit_code }) => {
                    Ok(ExecEnd::Exited { code: exit_code, output: text(&kept) })
                }
                Ok(other) => Err(SupervisorError::Protocol(format!("unexpected answer {other:?}"))),
                Err(error) => Err(SupervisorError::Protocol(format!("decode the answer: {error}"))),
            }
        }
    }
}

async fn start(
    socket: PathBuf,
    request: ExecRequest,
    output: OwnedFd,
) -> Result<wire::ExecSession, SupervisorError> {
    blocking(move || {
        let open = File::open("/dev/null");
        let null = open.map_err(|source| SupervisorError::Io { verb: "open /dev/null", source })?;
        let streams = [null.as_fd(), output.as_fd(), output.as_fd()];
        Ok(Client::connect(&socket)?.exec(request, streams)?)
    })
    .await
}

/// Reads for ever, keeping only the beginning.
async fn drain(
    output: &mut pipe::Receiver,
    kept: &mut Vec<u8>,
    max: usize,
) -> std::convert::Infallible {
    let mut chunk = [0u8; 4096];
    while let Ok(count @ 1..) = output.read(&mut chunk).await {
        keep(&chunk[..count], kept, max);
    }
    std::future::pending().await
}

/// What the process left in the pipe. Somebody else may hold the writing end: nobody waits for its end.
fn keep_rest(output: &pipe::Receiver, kept: &mut Vec<u8>, max: usize) {
    let mut chunk = [0u8; 4096];
    while kept.len() < max {
        match output.try_read(&mut chunk) {
            Ok(count @ 1..) => keep(&chunk[..count], kept, max),
            _ => return,
        }
    }
}

fn keep(bytes: &[u8], kept: &mut Vec<u8>, max: usize) {
    let room = max.saturating_sub(kept.len());
    kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
}
