//! From a freshly executed program to a supervisor: its own session, cgroup and namespaces, nothing inherited that it
//! does not need.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};

use super::record;
use super::spawn::Settings;
use crate::cgroup;
use crate::fault;
use crate::sys::process as sys;

/// The supervisor's own leaf in the Pod's cgroup. No container has such a name.
pub(super) const OWN_CGROUP: &str = "_supervisor";

/// Shown by `ps` beside the arguments (15 bytes at most).
const NAME: &std::ffi::CStr = c"kobune-pod";

/// What the loop works with.
pub(super) struct Ends {
    pub(super) listener: UnixListener,
    pub(super) signals: SignalFd,
    pub(super) null: OwnedFd,
}

/// Says on the starter's pipe how it went.
pub(super) struct Ready {
    pipe: File,
}

impl Ready {
    pub(super) fn say(mut self, text: &str) {
        // The starter may be gone; the Pod is not.
        let _ = io::Write::write_all(&mut self.pipe, text.as_bytes());
    }
}

/// Moves the standard streams out of the way: stdin is the listening socket, stdout the starter's pipe.
pub(super) fn take_streams() -> io::Result<(UnixListener, Ready, OwnedFd)> {
    sys::close_from(3)?;
    let listener = UnixListener::from(sys::duplicate_above(0, 3)?);
    let ready = Ready { pipe: File::from(sys::duplicate_above(1, 3)?) };
    let null: OwnedFd = File::options().read(true).write(true).open("/dev/null")?.into();
    sys::duplicate_to(null.as_raw_fd(), 0)?;
    sys::duplicate_to(null.as_raw_fd(), 1)?;
    listener.set_nonblocking(true)?;
    Ok((listener, ready, null))
}

/// Everything else. The error says which part failed.
pub(super) fn prepare(settings: &Settings) -> Result<SignalFd, String> {
    let named =
        |verb: &'static str| move |error: io::Error| format!("{verb}: {}", sys::reason(&error));
    let number = |verb| move |errno: nix::errno::Errno| named(verb)(errno.into());
    umask(Mode::from_bits_truncate(0o022));
    prctl::set_name(NAME).map_err(number("set the process name"))?;
    // Nobody reads the memory of, or reopens the program of, a child that is not yet its own.
    prctl::set_dumpable(false).map_err(number("protect the process"))?;
    prctl::set_child_subreaper(true).map_err(number("become a subreaper"))?;
    let signals = signals().map_err(named("set up signals"))?;
    std::fs::create_dir_all(record::directory(&settings.pod_dir))
        .map_err(named("make the directory of records"))?;
    let fault = |point| fault::point(point).map_err(named(point));
    fault("join the pod's cgroup")?;
    join_cgroup(settings).map_err(|error| error.to_string())?;
    fault("make the pod's namespaces")?;
    unshare(CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS)
        .map_err(number("make the pod's ipc and uts namespaces"))?;
    nix::unistd::sethostname(&settings.hostname).map_err(number("set the hostname"))?;
    fault("set the pod's sysctls")?;
    set_sysctls(settings)?;
    fault("say that it is ready")?;
    Ok(signals)
}

fn join_cgroup(settings: &Settings) -> Result<(), cgroup::CgroupError> {
    cgroup::create(&settings.cgroup)?;
    if let Some(resources) = &settings.resources {
        cgroup::apply(&settings.cgroup, resources)?;
    }
    let own = settings.cgroup.join(OWN_CGROUP);
    cgroup::create(&own)?;
    cgroup::add_process(&own, nix::unistd::getpid().as_raw())
}

/// SIGCHLD tells about containers; SIGTERM and SIGINT ask for the end of the Pod. A lost terminal or
/// reader means nothing to us.
fn signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_set_mask()?;
    // SIGCHLD may have been inherited as ignored, and then nothing would ever have to be reaped.
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    sys::set_action(Signal::SIGCHLD, &default)?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// Those of the ipc namespace here, those of the network namespace from inside it.
fn set_sysctls(settings: &Settings) -> Result<(), String> {
    let home = File::open("/proc/self/ns/net").map_err(|error| error.to_string())?;
    for (key, value) in &settings.sysctls {
        let failed = |why: String| format!("set sysctl {key:?}: {why}");
        let path = crate::oci::sysctl_path(key).map_err(|why| failed(why.into()))?;
        let is_net = path.starts_with("net/");
        if !is_net && !is_ipc(&path) {
            return Err(failed("it is neither of the ipc nor of the network namespace".into()));
        }
        if is_net {
            let netns = settings.netns.as_deref();
            let netns =
                netns.ok_or_else(|| failed("the pod's network namespace is not given".into()))?;
            enter_network(netns).map_err(|error| failed(sys::reason(&error)))?;
        }
        let written = std::fs::write(Path::new("/proc/sys").join(&path), value);
        if is_net {
            setns(home.as_fd(), CloneFlags::CLONE_NEWNET)
                .map_err(|errno| failed(errno.to_string()))?;
        }
        written.map_err(|error| failed(sys::reason(&error)))?;
    }
    Ok(())
}

fn is_ipc(path: &str) -> bool {
    path.starts_with("kernel/shm")
        || path.starts_with("kernel/msg")
        || path == "kernel/sem"
        || path.starts_with("fs/mqueue/")
}

fn enter_network(netns: &Path) -> io::Result<()> {
    let file = File::open(netns)?;
    setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
    Ok(())
}
