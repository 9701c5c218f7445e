//! `kobune exec`: a command in a container, with our terminal if both sides want one.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::Api;
use kube::api::{AttachParams, AttachedProcess, TerminalSize};
use nix::sys::termios::{self, SetArg, Termios};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::signal::unix::{SignalKind, signal};

use super::Failure;
use super::client::{Access, explain, stdio};

#[derive(Debug, Args)]
pub(super) struct Exec {
    #[command(flatten)]
    access: Access,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the command a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// Which container, if the Pod has several
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    pod: String,
    /// The command, after --
    #[arg(last = true, required = true)]
    pub(super) command: Vec<String>,
}

impl Exec {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let (client, namespace) = self.access.open().await?;
        let pods: Api<Pod> = Api::namespaced(client, &namespace);
        let params = AttachParams {
            container: self.container.clone(),
            stdin: self.stdin,
            stdout: true,
            // A terminal has one stream for both.
            stderr: !self.tty,
            tty: self.tty,
            ..AttachParams::default()
        };
        let name = self.pod.strip_prefix("pod/").unwrap_or(&self.pod);
        let mut process = pods.exec(name, &self.command, &params).await.map_err(explain)?;
        let raw = (self.tty && self.stdin).then(RawTerminal::enter).flatten();
        let code = converse(&mut process, self.tty).await;
        drop(raw);
        code
    }
}

async fn converse(process: &mut AttachedProcess, tty: bool) -> Result<ExitCode, Failure> {
    let status = process.take_status();
    if let Some(stdin) = process.stdin() {
        tokio::spawn(copy(stdio(std::io::stdin())?, stdin));
    }
    let (stdout, stderr) = (stdio(std::io::stdout())?, stdio(std::io::stderr())?);
    let out = process.stdout().map(|from| tokio::spawn(copy(from, stdout)));
    let err = process.stderr().map(|from| tokio::spawn(copy(from, stderr)));
    if tty && let Some(sizes) = process.terminal_size() {
        tokio::spawn(follow_size(sizes));
    }
    for task in [out, err].into_iter().flatten() {
        let _ = task.await;
    }
    let status = match status {
        Some(status) => status.await,
        None => None,
    };
    exit_code(status.ok_or("the connection ended before the command did")?)
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    // Either side may leave at any time; the status says how the command ended.
    let _ = tokio::io::copy(&mut from, &mut to).await;
    let _ = tokio::io::AsyncWriteExt::shutdown(&mut to).await;
}

async fn follow_size(mut sizes: futures::channel::mpsc::Sender<TerminalSize>) {
    use futures::SinkExt;
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    loop {
        if let Ok(size) = rustix::termios::tcgetwinsize(std::io::stdout()) {
            let size = TerminalSize { width: size.ws_col, height: size.ws_row };
            if sizes.send(size).await.is_err() {
                return;
            }
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

/// The command's own exit code, as the API tells it: `details.causes[reason=ExitCode]`.
fn exit_code(status: Status) -> Result<ExitCode, Failure> {
    if status.status.as_deref() == Some("Success") {
        return Ok(ExitCode::SUCCESS);
    }
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    let code = causes.iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    match code.and_then(|cause| cause.message.as_ref()?.parse::<u8>().ok()) {
        Some(code) => Ok(ExitCode::from(code)),
        None => Err(status.message.unwrap_or_else(|| "the command failed".into()).into()),
    }
}

/// Our terminal passes everything on as typed, until this is dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = termios::tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(&stdin, SetArg::TCSADRAIN, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(text: &str) -> Status {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_commands_exit_code_is_ours() {
        let three = r#"{"status":"Failure","reason":"NonZeroExitCode",
            "details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        assert_eq!(exit_code(status(three)).unwrap(), ExitCode::from(3));
        assert_eq!(exit_code(status(r#"{"status":"Success"}"#)).unwrap(), ExitCode::SUCCESS);
        let error = exit_code(status(r#"{"status":"Failure","message":"no such file"}"#));
        assert_eq!(error.unwrap_err().to_string(), "no such file");
    }
}
