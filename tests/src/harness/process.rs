//! Commands and their outcome, for tests: output as text, failures that say everything.

use std::fmt;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait::patience;

/// No command of a test takes longer; one that does hangs, and is killed.
const DEADLINE: Duration = Duration::from_secs(180);

/// How a command ended and what it printed.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub line: String,
    /// None when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Standard output of a command that must succeed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.code == Some(0), "{self}");
        self.stdout
    }

    /// Standard error of a command that must fail.
    #[track_caller]
    pub fn err(self) -> String {
        assert!(self.code != Some(0), "this should have failed: {self}");
        self.stderr
    }

    /// For questions that may be answered "not yet".
    pub fn result(self) -> Result<String, String> {
        if self.code == Some(0) { Ok(self.stdout) } else { Err(self.to_string()) }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.map_or_else(|| "a signal".to_owned(), |code| code.to_string());
        let (stdout, stderr) = (self.stdout.trim_end(), self.stderr.trim_end());
        write!(f, "`{}` ended with {code}\nstdout: {stdout}\nstderr: {stderr}", self.line)
    }
}

/// Runs to the end, with `input` on standard input; kills what does not end.
///
/// # Panics
/// If the program cannot be started.
#[track_caller]
pub fn run(mut command: Command, input: &str) -> Outcome {
    let line = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("run `{line}`: {error}"));
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid fits"));
    let output = thread::scope(|scope| {
        let (_ended, end) = channel::<()>();
        scope.spawn(move || {
            if end.recv_timeout(patience(DEADLINE)) == Err(RecvTimeoutError::Timeout) {
                // Not reaped yet: `wait_with_output` below has not returned, so the pid is our child's.
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        scope.spawn(move || {
            // A program that does not read its input is fine.
            let _ = stdin.write_all(input.as_bytes());
        });
        child.wait_with_output()
    });
    let output = output.unwrap_or_else(|error| panic!("wait for `{line}`: {error}"));
    Outcome {
        line,
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
