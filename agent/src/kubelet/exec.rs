//! `/exec/…`: one process in a container, its streams over WebSocket or SPDY.
//!
//! The supervisor starts the process with our pipes (or makes a terminal) and tells its exit code. The directions run
//! side by side: a process that does not read its stdin must not keep us from reading its stdout.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use kobune_runtime::wire::{self, Client, ExecRequest};
use oci_spec::runtime::Process;
use rustix::termios::Winsize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;

use super::channels::{self, Input, STDERR, STDOUT, V4, V5};
use super::client::{self, Sink, Source, Wanted};
use super::route::{ExecOptions, Place};
use super::server::{Answer, denied, text};
use super::upgrade::{self, Agreed, Io};
use super::{Containers, Target};

/// How long output is awaited after the process has ended; others may hold its pipes for ever.
const DRAIN: Duration = Duration::from_secs(2);
const CHUNK: usize = 32 << 10;

pub(super) async fn answer<C: Containers>(
    containers: &C,
    place: &Place,
    options: ExecOptions,
    request: Request<Incoming>,
) -> Result<Answer, Answer> {
    let found = containers.container(&place.namespace, &place.pod, Some(&place.container)).await;
    let target = found.map_err(|denial| denied(&denial))?;
    if !target.running {
        let message = format!("container not found ({:?})", place.container);
        return Err(text(StatusCode::NOT_FOUND, &message));
    }
    let agreed = upgrade::agree(request.headers(), &[V5, V4], &[V4])?;
    let (upgrade, answer) = upgrade::switch(request, &agreed)?;
    tokio::spawn(async move {
        let talked = match upgrade.await {
            Ok(upgraded) => converse(TokioIo::new(upgraded), agreed, target, options).await,
            Err(e) => Err(io::Error::other(e)),
        };
        if let Err(e) = talked {
            tracing::debug!("serve an exec connection: {e}");
        }
    });
    Ok(answer)
}

/// A process that runs, with our ends of its streams.
struct Running {
    stdin: Option<pipe::Sender>,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
    terminal: Option<OwnedFd>,
    /// Tells the exit code.
    session: UnixStream,
}

async fn converse(io: Io, agreed: Agreed, target: Target, options: ExecOptions) -> io::Result<()> {
    let ExecOptions { stdin, stdout, stderr, tty, .. } = options;
    let wanted = Wanted { stdin, stdout, stderr, tty };
    let (mut source, sink) = client::open(io, agreed, wanted).await?;
    let last = match start(target, options).await {
        Ok(running) => match run(running, &sink, &mut source).await {
            Some(Ok(code)) => channels::exited(code),
            Some(Err(e)) => channels::failed(&e.to_string()),
            None => return Ok(()),
        },
        Err(message) => channels::failed(&message),
    };
    sink.end(source, &last).await;
    Ok(())
}

/// Move bytes until the process has ended; none: the client left first.
async fn run(running: Running, sink: &Sink, source: &mut Source) -> Option<io::Result<i32>> {
    let Running { stdin, stdout, stderr, terminal, session } = running;
    let work = async {
        let outputs = async {
            tokio::join!(copy(stdout, STDOUT, sink), copy(stderr, STDERR, sink));
        };
        tokio::pin!(outputs);
        let exit = exit_code(session);
        tokio::pin!(exit);
        tokio::select! {
            code = &mut exit => {
                let _ = tokio::time::timeout(DRAIN, outputs).await;
                code
            }
            () = &mut outputs => exit.await,
        }
    };
    tokio::select! {
        code = work => Some(code),
        () = listen(source, stdin, terminal) => None,
    }
}

/// What the client says, until it leaves.
async fn listen(source: &mut Source, mut stdin: Option<pipe::Sender>, terminal: Option<OwnedFd>) {
    while let Some(input) = source.next().await {
        match input {
            Input::Stdin(data) => {
                if let Some(pipe) = &mut stdin
                    && pipe.write_all(&data).await.is_err()
                {
                    // The process does not read any more; it may still write.
                    stdin = None;
                }
            }
            Input::CloseStdin => stdin = None,
            Input::Resize { width, height } => {
                if let Some(terminal) = &terminal {
                    let size =
                        Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
                    let _ = rustix::termios::tcsetwinsize(terminal, size);
                }
            }
            Input::Nothing => {}
        }
    }
}

async fn copy(from: Option<pipe::Receiver>, channel: u8, sink: &Sink) {
    let Some(mut from) = from else { return };
    let mut buf = vec![0; CHUNK];
    // A terminal ends with an error (EIO) when its last process has left.
    while let Ok(n @ 1..) = from.read(&mut buf).await {
        if sink.write(channel, &buf[..n]).await.is_err() {
            return;
        }
    }
}

async fn exit_code(session: UnixStream) -> io::Result<i32> {
    session.set_nonblocking(true)?;
    let mut line = String::new();
    BufReader::new(tokio::net::UnixStream::from_std(session)?).read_line(&mut line).await?;
    match wire::decode(line.as_bytes()) {
        Ok(wire::Response::ExecExited { exit_code }) => Ok(exit_code),
        Ok(wire::Response::Error { message, .. }) => Err(io::Error::other(message)),
        _ => Err(io::Error::other("the Pod's supervisor ended before the process did")),
    }
}

async fn start(target: Target, options: ExecOptions) -> Result<Running, String> {
    let failed = |e: io::Error| format!("make pipes: {e}");
    let process = process(&target, &options)?;
    let (stdin, child_in) = match options.stdin && !options.tty {
        true => pipe::pipe()
            .and_then(|(ours, theirs)| Ok((Some(ours), theirs.into_blocking_fd()?)))
            .map_err(failed)?,
        false => (None, null().map_err(failed)?),
    };
    let (stdout, child_out) = output(options.stdout && !options.tty).map_err(failed)?;
    let (stderr, child_err) = output(options.stderr && !options.tty).map_err(failed)?;
    let request = ExecRequest { container: target.container, process };
    let session = tokio::task::spawn_blocking(move || {
        let streams = [child_in.as_fd(), child_out.as_fd(), child_err.as_fd()];
        Client::connect(&target.supervisor)?.exec(request, streams)
    });
    let session = session.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    let running =
        Running { stdin, stdout, stderr, terminal: session.terminal, session: session.stream };
    if options.tty { running.through_terminal(&options).map_err(failed) } else { Ok(running) }
}

impl Running {
    /// Both directions go through the terminal's master side, each with a descriptor of its own.
    fn through_terminal(mut self, options: &ExecOptions) -> io::Result<Self> {
        let master = self
            .terminal
            .as_ref()
            .ok_or_else(|| io::Error::other("the Pod's supervisor gave no terminal"))?;
        rustix::io::ioctl_fionbio(master, true)?;
        if options.stdin {
            self.stdin = Some(pipe::Sender::from_owned_fd_unchecked(master.try_clone()?)?);
        }
        if options.stdout {
            self.stdout = Some(pipe::Receiver::from_owned_fd_unchecked(master.try_clone()?)?);
        }
        Ok(self)
    }
}

fn output(wanted: bool) -> io::Result<(Option<pipe::Receiver>, OwnedFd)> {
    if !wanted {
        return Ok((None, null()?));
    }
    let (theirs, ours) = pipe::pipe()?;
    Ok((Some(ours), theirs.into_blocking_fd()?))
}

fn null() -> io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open("/dev/null")?.into())
}

/// The container's own process with other arguments.
fn process(target: &Target, options: &ExecOptions) -> Result<Process, String> {
    let mut process =
        target.process.clone().ok_or("the container's configuration is not known any more")?;
    process.set_args(Some(options.command.clone()));
    process.set_terminal(Some(options.tty));
    let mut env = process.env().clone().unwrap_or_default();
    if options.tty && !env.iter().any(|var| var.starts_with("TERM=")) {
        env.push("TERM=xterm".into());
    }
    process.set_env(Some(env));
    Ok(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_a_type_unless_it_has_one() {
        let mut base = Process::default();
        base.set_env(Some(vec!["A=1".into()]));
        let mut target = Target {
            container: "c".into(),
            supervisor: "/s".into(),
            running: true,
            attempt: Some(0),
            log_dir: "/l".into(),
            process: Some(base),
        };
        let options =
            ExecOptions { command: vec!["sh".into()], tty: true, ..ExecOptions::default() };
        let made = process(&target, &options).unwrap();
        assert_eq!(made.env().as_ref().unwrap(), &["A=1", "TERM=xterm"]);
        assert_eq!(made.args().as_ref().unwrap(), &["sh"]);
        target.process = None;
        assert!(process(&target, &options).is_err());
    }
}
