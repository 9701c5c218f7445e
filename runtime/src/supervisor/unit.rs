//! A container as the loop holds it: its first process, the channel to it while it is being born, the pipes that it
//! writes to. Performs single things; what to do when is the core's business.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::log::LogFile;
use super::split::{Splitter, Stream};
use super::time;
use crate::cgroup;
use crate::create::{self, Birth, Bond, Channel};
use crate::lsm::Labels;
use crate::oci;
use crate::plan::{self, Confinement};
use crate::wire::{CreateRequest, ErrorKind};

/// Read at a time from a pipe: what a pipe holds.
const CHUNK: usize = 64 * 1024;

/// After the first process has ended, no more than this is read of what it left in a pipe.
const MAX_LEFT: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Unit {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) cgroup: PathBuf,
    /// Gone once it has ended, or is known to end without having run.
    pub(super) init: Option<Init>,
    pub(super) sources: Vec<Source>,
    log: Option<LogFile>,
    /// Of its later processes, too.
    pub(super) confinement: Confinement,
    pub(super) labels: Labels,
}

#[derive(Debug)]
pub(super) struct Init {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    /// Until the program is executed.
    pub(super) channel: Option<Channel>,
    pub(super) ready: bool,
}

/// One stream that the container writes to.
#[derive(Debug)]
pub(super) struct Source {
    file: File,
    splitter: Splitter,
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Why a container could not be made.
#[derive(Debug)]
pub(super) struct MakeError {
    pub(super) kind: ErrorKind,
    pub(super) message: String,
}

fn internal(verb: &'static str) -> impl FnOnce(io::Error) -> MakeError {
    move |error| MakeError {
        kind: ErrorKind::Internal,
        message: format!("{verb}: {}", crate::sys::process::reason(&error)),
    }
}

impl From<oci::ConfigError> for MakeError {
    fn from(error: oci::ConfigError) -> MakeError {
        MakeError { kind: ErrorKind::Invalid, message: error.to_string() }
    }
}

impl From<cgroup::CgroupError> for MakeError {
    fn from(error: cgroup::CgroupError) -> MakeError {
        let kind = match error {
            cgroup::CgroupError::Resources(_) => ErrorKind::Invalid,
            _ => ErrorKind::Internal,
        };
        MakeError { kind, message: error.to_string() }
    }
}

impl From<create::LaunchError> for MakeError {
    fn from(error: create::LaunchError) -> MakeError {
        let kind = match error {
            create::LaunchError::Config(_) => ErrorKind::Invalid,
            create::LaunchError::Io { .. } => ErrorKind::Internal,
        };
        MakeError { kind, message: error.to_string() }
    }
}

impl Unit {
    /// Begins a container below the Pod's cgroup. Whatever fails, no process and no cgroup is left.
    pub(super) fn make(
        request: &CreateRequest,
        pod_cgroup: &Path,
        null: BorrowedFd<'_>,
    ) -> Result<Unit, MakeError> {
        let spec = oci::load(&request.bundle)?;
        oci::check_supervised(&spec)?;
        let mut plan = plan::plan(&spec, &request.rootfs, &request.bundle)?;
        // The agent asks for what is good, and tells what the host lacks (`features`).
        plan.process.lenient_limits = true;
        plan.process.keyring = create::session_keyring(&request.id);
        let cgroup = pod_cgroup.join(&request.container);
        // What a former container of the name left. If that lives on, nothing can be made yet.
        cgroup::kill_and_remove(&cgroup, super::dying::AT_ONCE)?;
        let made = Self::begin(request, &spec, &plan, cgroup.clone(), null);
        if made.is_err() {
            // The first error is the one to tell.
            let _ = cgroup::kill_and_remove(&cgroup, super::dying::AT_ONCE);
        }
        made
    }

    fn begin(
        request: &CreateRequest,
        spec: &oci_spec::runtime::Spec,
        plan: &plan::Plan,
        cgroup: PathBuf,
        null: BorrowedFd<'_>,
    ) -> Result<Unit, MakeError> {
        let fault = |point| crate::fault::point(point).map_err(internal(point));
        fault("make the cgroup")?;
        let fresh = cgroup::create(&cgroup)?;
        fault("write the limits")?;
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let furnished = cgroup::furnish(&cgroup, resources, fresh)?;
        super::serve::report_ignored(&request.container, &furnished);
        fault("open the log")?;
        let log = request.log.clone().map(LogFile::open).transpose();
        let log = log.map_err(internal("open the container's log"))?;
        let directory = File::open(&cgroup).map_err(internal("open the container's cgroup"))?;
        fault("begin the first process")?;
        let mut sources = Vec::new();
        let piped = log.is_some() && plan.process.terminal.is_none();
        let birth = if piped {
            let out = pipe(Stream::Stdout, &mut sources)?;
            let err = pipe(Stream::Stderr, &mut sources)?;
            create::launch(
                plan,
                Bond::Mortal,
                Some(directory.as_fd()),
                [null, out.as_fd(), err.as_fd()],
            )?
        } else {
            create::launch(plan, Bond::Mortal, Some(directory.as_fd()), [null; 3])?
        };
        fault("take the first process")?;
        let Birth { child, channel } = birth;
        let init =
            Init { pid: child.pid, pidfd: child.pidfd, channel: Some(channel), ready: false };
        let (name, id) = (request.container.clone(), request.id.clone());
        let (confinement, labels) = (plan.process.confinement.clone(), plan.process.labels.clone());
        Ok(Unit { name, id, cgroup, init: Some(init), sources, log, confinement, labels })
    }

    /// The container has a terminal: what its master shows goes into the log as stdout.
    pub(super) fn take_terminal(&mut self, master: OwnedFd) {
        let file = File::from(master);
        if set_nonblocking(&file).is_ok() {
            self.sources.push(Source { file, splitter: Splitter::new(Stream::Stdout) });
        }
    }

    /// Moves what can be read now from one stream into the log; false at its end.
    pub(super) fn pump(&mut self, index: usize, buffer: &mut Vec<u8>) -> bool {
        let Some(source) = self.sources.get_mut(index) else { return false };
        let mut records = Vec::new();
        let more = match source.read(buffer) {
            Reading::Bytes(length) => {
                source.splitter.push(&buffer[..length], time::now(), &mut records);
                true
            }
            Reading::Nothing => true,
            Reading::End => {
                source.splitter.finish(time::now(), &mut records);
                false
            }
        };
        if let Some(log) = &mut self.log {
            log.append(&records);
        }
        more
    }

    /// Reads what is left in every stream and closes them.
    pub(super) fn drain(&mut self, buffer: &mut Vec<u8>) {
        for mut source in std::mem::take(&mut self.sources) {
            let mut left = MAX_LEFT;
            while let Reading::Bytes(length) = source.read(buffer) {
                let mut records = Vec::new();
                source.splitter.push(&buffer[..length], time::now(), &mut records);
                if let Some(log) = &mut self.log {
                    log.append(&records);
                }
                left = left.saturating_sub(length);
                if left == 0 {
                    break;
                }
            }
            let mut records = Vec::new();
            source.splitter.finish(time::now(), &mut records);
            if let Some(log) = &mut self.log {
                log.append(&records);
            }
        }
    }
}

enum Reading {
    Bytes(usize),
    Nothing,
    End,
}

impl Source {
    fn read(&mut self, buffer: &mut Vec<u8>) -> Reading {
        buffer.resize(CHUNK, 0);
        loop {
            return match self.file.read(buffer) {
                Ok(0) => Reading::End,
                Ok(length) => Reading::Bytes(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Reading::Nothing,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // A terminal whose last user is gone says EIO.
                Err(_) => Reading::End,
            };
        }
    }
}

/// A pipe whose reading end is kept, without blocking, as a new source.
fn pipe(stream: Stream, sources: &mut Vec<Source>) -> Result<OwnedFd, MakeError> {
    let (reader, writer) = io::pipe().map_err(internal("make a pipe"))?;
    let file = File::from(OwnedFd::from(reader));
    set_nonblocking(&file).map_err(internal("set up a pipe"))?;
    sources.push(Source { file, splitter: Splitter::new(stream) });
    Ok(writer.into())
}

fn set_nonblocking(file: &File) -> io::Result<()> {
    fcntl(file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}
