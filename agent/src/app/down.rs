//! `kobune down`: stop what runs, then remove what it made.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::lock::{self, Lock, LockError};
use crate::cli::{Failure, facts};
use crate::config::{DEFAULT_DATA_DIR, Settings};

/// How long a stopping `kobune` may drain.
const PATIENCE: Duration = Duration::from_secs(60);

/// Stop the process that holds the data directory and tear its node down. Settings that are not given are those
/// that the process had.
pub(crate) fn run(given: Settings) -> Result<ExitCode, Failure> {
    let data_dir = given.data_dir.clone().unwrap_or_else(|| DEFAULT_DATA_DIR.into());
    let last = lock::holder(&data_dir).map(|holder| holder.settings);
    if last.is_none() && given.run_dir.is_none() && data_dir != Path::new(DEFAULT_DATA_DIR) {
        // The default run directory may well be another node's.
        println!("nothing runs or ran on data directory {data_dir:?}");
        return Ok(ExitCode::SUCCESS);
    }
    let config = given.or(last.unwrap_or_default()).check(&facts()?)?;
    let mut lock = stop(&data_dir)?;
    let left = super::run(async { Ok(super::node::teardown(&config).await) })?;
    if left.is_empty() {
        lock.write(None)?;
        return Ok(ExitCode::SUCCESS);
    }
    for trouble in &left {
        eprintln!("kobune: {trouble}");
    }
    Err("not everything could be taken down".into())
}

/// Ask the holder to end, wait until it has, and take its place.
fn stop(data_dir: &Path) -> Result<Lock, Failure> {
    let deadline = Instant::now() + PATIENCE;
    let pid = match Lock::take(data_dir) {
        Ok(lock) => return Ok(lock),
        Err(LockError::Held { .. }) => lock::holder(data_dir).map(|holder| holder.pid),
        Err(e) => return Err(e.into()),
    };
    let pid =
        pid.and_then(Pid::from_raw).ok_or("find the process that holds the data directory")?;
    let number = pid.as_raw_nonzero();
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .map_err(|e| format!("open process {number}: {e}"))?;
    // The lock is still held: the process behind the descriptor is its holder, not a later one of that number.
    let held = match Lock::take(data_dir) {
        Ok(lock) => return Ok(lock),
        Err(held) => held,
    };
    println!("stopping process {number}");
    rustix::process::pidfd_send_signal(&process, Signal::TERM)
        .map_err(|e| format!("stop process {number}: {e}"))?;
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    let ended =
        poll(&mut [PollFd::new(std::os::fd::AsFd::as_fd(&process), PollFlags::POLLIN)], timeout)
            .map_err(|e| format!("wait for process {number}: {e}"))?;
    if ended == 0 {
        return Err(format!("{held}, and it has not ended after {PATIENCE:?}").into());
    }
    Ok(Lock::take(data_dir)?)
}
