//! One boot under qemu: from the command line to the word on the second serial port.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::guest::{EXIT, RESET};
use super::io;

/// Software emulation on a busy machine is slow; beyond this the guest hangs.
const DEADLINE: Duration = Duration::from_secs(900);

/// The files of one machine.
pub(super) struct Machine<'a> {
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    pub(super) disk: &'a Path,
}

/// How a boot ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The suite's exit code.
    Exit(i32),
    /// Hard reset on the suite's own wish.
    Reset,
    /// Both processors of the guest stand still in its kernel. That is the emulation's doing (rare, and seen when the
    /// host is busy): no program of ours can do it, and the same suite passes when it is run again.
    LockedUp,
}

/// What the guest's kernel says before `softlockup_panic` ends it.
const LOCKED_UP: &str = "BUG: soft lockup";

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Exit(code) => write!(f, "exit code {code}"),
            End::Reset => write!(f, "hard reset"),
            End::LockedUp => write!(f, "the machine locked up"),
        }
    }
}

impl Machine<'_> {
    /// Boots, shows the console, waits for the end.
    pub(super) fn boot(&self, work: &Path, suite: &str, boot: u32) -> Result<End, String> {
        let result = work.join("result");
        io("write", &result, fs::write(&result, ""))?;
        let log = work.join(format!("console.{boot}.log"));
        let mut child = self
            .command(&result, &log, suite, boot)
            .spawn()
            .map_err(|error| format!("run qemu: {error}"))?;
        let in_time = wait(&mut child)?;
        let word = io("read", &result, fs::read_to_string(&result))?;
        if !in_time {
            return Err(format!("{suite}: no end within {DEADLINE:?}; console: {}", log.display()));
        }
        let console = io("read", &log, fs::read(&log))?;
        let silent = || match String::from_utf8_lossy(&console).contains(LOCKED_UP) {
            true => Ok(End::LockedUp),
            false => {
                Err(format!("{suite}: the guest died without a word; console: {}", log.display()))
            }
        };
        parse(&word).map_or_else(silent, Ok)
    }

    fn command(&self, result: &Path, log: &Path, suite: &str, boot: u32) -> Command {
        let mut command = Command::new("qemu-system-x86_64");
        let words = format!(
            "console=ttyS0 quiet panic=-1 kobune.suite={suite} kobune.boot={boot} \
             random.trust_cpu=1 tsc=unstable softlockup_panic=1 no_timer_check"
        );
        command
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args(["-machine", "q35", "-smp", "2", "-m", "2048", "-nic", "none"])
            // Software emulation is the same everywhere. "max" has RDRAND: entropy from the start.
            .args(["-accel", "tcg,thread=multi", "-cpu", "max"])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", &words, "-drive"])
            .arg(format!("if=virtio,format=raw,file={}", self.disk.display()))
            .arg("-chardev")
            .arg(format!("stdio,id=console,signal=off,logfile={}", log.display()))
            .arg("-chardev")
            .arg(format!("file,id=result,path={}", result.display()))
            .args(["-serial", "chardev:console", "-serial", "chardev:result"])
            .stdin(Stdio::null());
        command
    }
}

/// Waits for the end of our child; false if it had to be killed at the deadline.
fn wait(child: &mut Child) -> Result<bool, String> {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid fits"));
    let (ended, watch) = channel::<()>();
    std::thread::scope(|scope| {
        let guard = scope.spawn(move || {
            let late = watch.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout);
            if late {
                // Still our unreaped child: `wait` below has not returned, so the pid is its.
                let _ = kill(pid, Signal::SIGKILL);
            }
            !late
        });
        child.wait().map_err(|error| format!("wait for qemu: {error}"))?;
        drop(ended);
        Ok(guard.join().unwrap_or(false))
    })
}

/// The last word that the guest said.
fn parse(text: &str) -> Option<End> {
    let mut words = text.lines().last()?.split_whitespace();
    match words.next()? {
        RESET => Some(End::Reset),
        EXIT => words.next()?.parse().ok().map(End::Exit),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_not_success() {
        assert_eq!(parse(""), None);
        assert_eq!(parse("exit\n"), None);
        assert_eq!(parse("exit 0\r\n"), Some(End::Exit(0)));
        assert_eq!(parse("exit 101\n"), Some(End::Exit(101)));
        assert_eq!(parse("reset\r\n"), Some(End::Reset));
    }
}
