//! The asking end of a supervisor's socket, blocking. Owns the framing on that side; never interprets answers
//! beyond telling refusals from results.
//!
//! A tokio program does the short handshakes in `spawn_blocking` and then takes the stream
//! ([`Client::into_stream`], [`ExecSession::stream`]): nothing is ever buffered behind the caller's back, so
//! the next byte on the stream is the first of the next line.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ErrorKind, Event, ExecRequest, Request, Response};
use crate::sys::fdpass;

/// The longest line that either end accepts: a config with a long environment fits, a runaway peer does not.
pub const MAX_LINE: usize = 4 << 20;

/// The longest path that fits into a socket address, its final NUL included.
const SUN_PATH: usize = 108;

/// Why a conversation with a supervisor failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("connect to the supervisor at {path:?}: {error}")]
    Connect { path: PathBuf, error: io::Error },
    #[error("{verb} the supervisor: {error}")]
    Io { verb: &'static str, error: io::Error },
    #[error("the supervisor closed the connection")]
    Closed,
    #[error("the supervisor sent a line longer than {MAX_LINE} bytes")]
    TooLong,
    #[error("decode the supervisor's answer: {0}")]
    Decode(serde_json::Error),
    #[error("{message}")]
    Refused { kind: ErrorKind, message: String },
    #[error("the supervisor gave an answer that does not belong to the request: {0:?}")]
    Unexpected(Box<Response>),
}

impl ClientError {
    /// Which kind of refusal it was; `None` when the conversation itself failed.
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            ClientError::Refused { kind, .. } => Some(*kind),
            _ => None,
        }
    }
}

/// One conversation with a supervisor.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

/// A process that runs in a container on behalf of this connection.
#[derive(Debug)]
pub struct ExecSession {
    /// In the host's pid namespace.
    pub pid: i32,
    /// The pty's master side when the process asked for a terminal.
    pub terminal: Option<OwnedFd>,
    /// Carries one more line, [`Response::ExecExited`]. Dropping it does not kill the process.
    pub stream: UnixStream,
}

impl Client {
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        connect(path)
            .map(Client::from_stream)
            .map_err(|error| ClientError::Connect { path: path.to_owned(), error })
    }

    pub fn from_stream(stream: UnixStream) -> Client {
        Client { stream }
    }

    /// The connection itself, for a caller that reads the rest in its own way.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Asks and waits for the answer; [`Response::Error`] becomes [`ClientError::Refused`].
    pub fn call(&mut self, request: &Request) -> Result<Response, ClientError> {
        send_line(&self.stream, request, &[])?;
        refuse(receive_line(&self.stream, &mut Vec::new())?)
    }

    /// Events from now on, one per call; the first ones describe what exists. Before the first call
    /// send [`Request::Subscribe`] with [`Client::call`].
    pub fn next_event(&mut self) -> Result<Event, ClientError> {
        receive_line(&self.stream, &mut Vec::new())
    }

    /// Starts one more process in a container with these standard streams: stdin, stdout, stderr.
    /// With `process.terminal` they are not used (the supervisor still receives them).
    pub fn exec(
        self,
        request: ExecRequest,
        streams: [BorrowedFd<'_>; 3],
    ) -> Result<ExecSession, ClientError> {
        send_line(&self.stream, &Request::Exec(Box::new(request)), &streams)?;
        let mut fds = Vec::new();
        match refuse(receive_line(&self.stream, &mut fds)?)? {
            Response::ExecStarted { pid } => {
                Ok(ExecSession { pid, terminal: fds.pop(), stream: self.stream })
            }
            other => Err(ClientError::Unexpected(Box::new(other))),
        }
    }
}

impl ExecSession {
    /// Waits for the end of the process and returns its exit code (128 + signal for a signal).
    pub fn wait(self) -> Result<i32, ClientError> {
        match refuse(receive_line(&self.stream, &mut Vec::new())?)? {
            Response::ExecExited { exit_code } => Ok(exit_code),
            other => Err(ClientError::Unexpected(Box::new(other))),
        }
    }
}

/// Encodes `message` as the line that travels.
pub fn encode(message: &impl Serialize) -> Vec<u8> {
    // Our messages have string keys only and no fallible Serialize, so this cannot fail.
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Decodes one line (its newline may be missing).
pub fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(line)
}

/// Writes one message; `fds` travel with its first byte.
pub fn send_line(
    stream: &UnixStream,
    message: &impl Serialize,
    fds: &[BorrowedFd<'_>],
) -> Result<(), ClientError> {
    fdpass::send_all(stream, &encode(message), fds)
        .map_err(|error| ClientError::Io { verb: "write to", error })
}

/// Reads exactly one line and not a byte more; descriptors that came with it are appended to `fds`.
pub fn receive_line<T: DeserializeOwned>(
    stream: &UnixStream,
    fds: &mut Vec<OwnedFd>,
) -> Result<T, ClientError> {
    let line = read_line(stream, fds)?;
    decode(&line).map_err(ClientError::Decode)
}

fn read_line(stream: &UnixStream, fds: &mut Vec<OwnedFd>) -> Result<Vec<u8>, ClientError> {
    let failed = |error| ClientError::Io { verb: "read from", error };
    let mut line = Vec::new();
    let mut chunk = [0u8; 4096];
    loop {
        // Look first, then take up to the newline only: the stream may be handed on after this line.
        let seen = peek(stream, &mut chunk).map_err(failed)?;
        let end = chunk[..seen].iter().position(|byte| *byte == b'\n');
        let want = end.map_or(seen, |at| at + 1);
        if want == 0 {
            return Err(ClientError::Closed);
        }
        let got = fdpass::receive(stream.as_fd(), &mut chunk[..want], fds).map_err(failed)?;
        line.extend_from_slice(&chunk[..got]);
        if line.last() == Some(&b'\n') {
            return Ok(line);
        }
        if line.len() > MAX_LINE {
            return Err(ClientError::TooLong);
        }
    }
}

fn peek(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<usize> {
    use nix::sys::socket::{MsgFlags, recv};
    loop {
        match recv(stream.as_raw_fd(), buffer, MsgFlags::MSG_PEEK) {
            Err(nix::errno::Errno::EINTR) => {}
            other => return other.map_err(Into::into),
        }
    }
}

fn refuse(response: Response) -> Result<Response, ClientError> {
    match response {
        Response::Error { kind, message } => Err(ClientError::Refused { kind, message }),
        other => Ok(other),
    }
}

/// A connection to the socket at `path`, of any length: what does not fit into a socket address is reached
/// through a descriptor of its directory.
fn connect(path: &Path) -> io::Result<UnixStream> {
    if path.as_os_str().len() < SUN_PATH {
        return UnixStream::connect(path);
    }
    let (directory, name) = split(path)?;
    let directory = open_directory(directory)?;
    UnixStream::connect(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

/// Listens at `path`, of any length; an old socket of that name is replaced. Mode 0600.
pub fn listen(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (directory, name) = split(path)?;
    let directory = open_directory(directory)?;
    let short = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
    let listener = std::os::unix::net::UnixListener::bind(&short)?;
    std::fs::set_permissions(&short, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

fn split(path: &Path) -> io::Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str());
    match (path.parent(), name) {
        (Some(directory), Some(name)) => Ok((directory, name)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a path of a socket")),
    }
}

fn open_directory(path: &Path) -> io::Result<File> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_without_touching_the_next() {
        let (left, right) = UnixStream::pair().unwrap();
        send_line(&left, &Response::Ok, &[]).unwrap();
        send_line(&left, &Response::ExecExited { exit_code: 3 }, &[]).unwrap();
        let first: Response = receive_line(&right, &mut Vec::new()).unwrap();
        assert_eq!(first, Response::Ok);
        let session = ExecSession { pid: 1, terminal: None, stream: right };
        assert_eq!(session.wait().unwrap(), 3);
    }

    #[test]
    fn a_socket_in_a_deep_directory_is_reached() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("d".repeat(90)).join("e".repeat(90));
        std::fs::create_dir_all(&deep).unwrap();
        let path = deep.join("supervisor.sock");
        let listener = listen(&path).unwrap();
        let _client = Client::connect(&path).unwrap();
        listener.accept().unwrap();
    }

    #[test]
    fn the_end_of_the_stream_is_told_from_an_answer() {
        let (left, right) = UnixStream::pair().unwrap();
        drop(left);
        let mut client = Client::from_stream(right);
        assert!(matches!(
            client.call(&Request::State),
            Err(ClientError::Closed | ClientError::Io { .. })
        ));
    }
}
