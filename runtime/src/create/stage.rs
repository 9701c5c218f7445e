//! A container that enters namespaces and has a user namespace: the host's namespaces can only be entered before the
//! user namespace, new ones must be made after it, and none of both can the parent do to itself. A process between
//! the two does it, has the container's first process as its sibling, and ends.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;

use super::child::{self, Inherited};
use super::sources::Place;
use super::{LaunchError, enter, failed, mounts, users};
use crate::fault;
use crate::plan::{Plan, Step};
use crate::sys::clone::{self, Child};
use crate::sys::fdpass;

/// Longer than any reason.
const MAX_ANSWER: usize = 1024;

/// Begins the container's first process, which must not join anything any more.
pub(super) fn spawn(
    plan: &Plan,
    cgroup: Option<BorrowedFd<'_>>,
    inherited: &Inherited,
) -> Result<Child, LaunchError> {
    let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
    let (ours, theirs) = pair.map_err(io::Error::from).map_err(failed("make a socket pair"))?;
    let between = clone::spawn(0, cgroup, || {
        fault::in_stage();
        let begotten = beget(plan, inherited).and_then(|child| {
            // The first process is there, and nobody but us knows of it.
            at("hand over the first process")?;
            Ok(child)
        });
        let answer = match begotten {
            Ok(child) => {
                fdpass::send_all(&theirs, &child.pid.to_ne_bytes(), &[child.pidfd.as_fd()])
            }
            Err(failure) => fdpass::send_all(&theirs, failure.as_bytes(), &[]),
        };
        i32::from(answer.is_err())
    });
    let between = between.map_err(failed("clone the process that enters namespaces"))?;
    drop(theirs);
    let answer = hear(&ours);
    users::wait(Pid::from_raw(between.pid)).map_err(failed("wait for a process of ours"))?;
    answer
        .map_err(|error| LaunchError::Io { verb: "enter the container's namespaces".into(), error })
}

fn hear(channel: &OwnedFd) -> io::Result<Child> {
    let (mut buffer, mut fds) = ([0u8; MAX_ANSWER], Vec::new());
    let length = fdpass::receive(channel.as_fd(), &mut buffer, &mut fds)?;
    match (fds.pop(), buffer[..length].try_into()) {
        (Some(pidfd), Ok(pid)) => Ok(Child { pid: i32::from_ne_bytes(pid), pidfd }),
        _ if length == 0 => Err(io::Error::other("the process ended")),
        _ => Err(io::Error::other(String::from_utf8_lossy(&buffer[..length]).into_owned())),
    }
}

fn beget(plan: &Plan, inherited: &Inherited) -> Result<Child, String> {
    let reason = |verb: String| {
        move |error: io::Error| format!("{verb}: {}", crate::sys::process::reason(&error))
    };
    at("enter the namespaces")?;
    let mut files = Vec::with_capacity(plan.join.len());
    for join in &plan.join {
        files.push(File::open(&join.path).map_err(reason(format!("open {:?}", join.path)))?);
    }
    let (mut made, mut inherited) = (Vec::new(), inherited.clone());
    for (join, file) in plan.join.iter().zip(&files) {
        if join.kind == libc::CLONE_NEWUSER {
            made = make_mounts(plan)?;
        }
        setns(file, CloneFlags::from_bits_retain(join.kind))
            .map_err(io::Error::from)
            .map_err(reason(format!("join {:?}", join.path)))?;
    }
    if plan.joins(libc::CLONE_NEWUSER) {
        enter::become_root().map_err(reason("become root of the user namespace".into()))?;
    }
    drop(files);
    if !plan.joins(libc::CLONE_NEWUSER) {
        made = make_mounts(plan)?;
    }
    at("begin the first process")?;
    inherited.sources.extend(made.iter().map(|(place, mount)| (*place, mount.as_raw_fd())));
    clone::spawn_sibling(plan.unshare, || child::container(plan, &inherited))
        .map_err(reason("clone the container's first process".into()))
}

fn at(point: &str) -> Result<(), String> {
    fault::point(point).map_err(|error| error.to_string())
}

/// Mounts that show a namespace that we have joined; the host's root may make them, the container's may not.
fn make_mounts(plan: &Plan) -> Result<Vec<(Place, OwnedFd)>, String> {
    let mut made = Vec::new();
    for step in &plan.steps {
        let Step::Mount(mount) = step else { continue };
        let opened = mounts::made_on_the_way(mount)
            .map_err(|error| format!("{step}: {}", crate::sys::process::reason(&error)))?;
        made.extend(opened.map(|opened| (Place::Mount(mount.index), opened)));
    }
    Ok(made)
}
