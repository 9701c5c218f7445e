//! Mounts that the parent opens for its child, detached: what a process in a user namespace may not reach on the host,
//! and what only the host may show with other owners.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::{LaunchError, failed, layers, mounts, prepared, root, users};
use crate::plan::{IdMapped, MountKind, MountPlan, Plan, Root, Step};
use crate::sys::mount::{self as kernel, MountAttr};

/// In the order in which the child looks for them.
#[derive(Debug, Default)]
pub(super) struct Sources {
    list: Vec<Source>,
}

#[derive(Debug)]
struct Source {
    place: Place,
    mount: OwnedFd,
    /// Waits for the container's user namespace.
    waiting: Option<bool>,
}

/// What a mount is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Root,
    /// Of a filesystem with the device nodes that the parent makes.
    Nodes,
    /// `mounts[n]` of config.json.
    Mount(usize),
}

impl Sources {
    /// Opens what the child of this plan cannot. Nothing for most containers.
    pub(super) fn open(plan: &Plan) -> Result<Sources, LaunchError> {
        // In a mount namespace that is joined the child finds its own way.
        let distant = plan.has_users() && !plan.joins(libc::CLONE_NEWNS);
        let mut sources = Sources::default();
        let mut propagation = 0;
        for step in &plan.steps {
            match step {
                Step::Propagation(flags) => propagation = flags & !libc::MS_REC,
                Step::Root(wanted) if distant => {
                    let mount = open_root(plan, wanted).map_err(failed(step.to_string()))?;
                    sources.list.push(Source { place: Place::Root, mount, waiting: None });
                }
                Step::Mount(mount) if distant || mount.idmap.is_some() => {
                    sources.list.extend(open_bind(plan, mount)?);
                }
                _ => {}
            }
        }
        if let Some((maps, nodes)) = plan.nodes_of_parent() {
            let made = prepared::make(maps, &nodes).map_err(failed("make linux.devices"))?;
            let source = |mount| Source { place: Place::Nodes, mount, waiting: None };
            sources.list.extend(made.map(source));
        }
        // What the child does to its whole tree: mounts that it makes below these must not reach the host.
        let attr = MountAttr { propagation, ..MountAttr::default() };
        for source in &sources.list {
            kernel::mount_setattr(source.mount.as_fd(), &attr, true)
                .map_err(failed("set the propagation of a mount"))?;
        }
        Ok(sources)
    }

    /// Finishes the mounts that take their ids from the container's user namespace.
    pub(super) fn map_ids(&mut self, users: BorrowedFd<'_>) -> Result<(), LaunchError> {
        for source in &mut self.list {
            if let Some(recursive) = source.waiting.take() {
                let mapped = kernel::map_ids(source.mount.as_fd(), users, recursive);
                mapped.map_err(cannot_map(source.place))?;
            }
        }
        Ok(())
    }

    pub(super) fn wait_for_users(&self) -> bool {
        self.list.iter().any(|source| source.waiting.is_some())
    }

    pub(super) fn numbers(&self) -> Vec<(Place, RawFd)> {
        self.list.iter().map(|source| (source.place, source.mount.as_raw_fd())).collect()
    }
}

fn open_root(plan: &Plan, wanted: &Root) -> io::Result<OwnedFd> {
    if !matches!(wanted, Root::Overlay { .. }) {
        // Whoever made the directory has chosen the owners.
        return root::detached(wanted);
    }
    let joined = plan.join.iter().find(|join| join.kind == libc::CLONE_NEWUSER);
    let users = match (&plan.users, joined) {
        (Some(maps), _) => users::make(maps)?,
        (None, Some(join)) => File::open(&join.path)?.into(),
        (None, None) => return root::detached(wanted),
    };
    layers::overlay(wanted, users.as_fd())
}

fn open_bind(plan: &Plan, mount: &MountPlan) -> Result<Option<Source>, LaunchError> {
    let MountKind::Bind { source, recursive } = &mount.kind else { return Ok(None) };
    let place = Place::Mount(mount.index);
    let opened = mounts::open_source(source, *recursive).map_err(failed(mount.to_string()))?;
    let mut source = Source { place, mount: opened, waiting: None };
    let Some(IdMapped { maps, recursive }) = &mount.idmap else { return Ok(Some(source)) };
    match maps {
        Some(maps) if Some(maps) != plan.users.as_ref() => {
            let users = users::make(maps).map_err(failed(format!(
                "make a user namespace for mounts[{}].uidMappings",
                mount.index
            )))?;
            kernel::map_ids(source.mount.as_fd(), users.as_fd(), *recursive)
                .map_err(cannot_map(place))?;
        }
        _ => source.waiting = Some(*recursive),
    }
    Ok(Some(source))
}

fn cannot_map(place: Place) -> impl FnOnce(io::Error) -> LaunchError {
    move |error| {
        let Place::Mount(index) = place else { return failed("map the ids of the root")(error) };
        let why = match error.raw_os_error() {
            Some(libc::EINVAL | libc::EOPNOTSUPP) => {
                ": the kernel cannot do that for this filesystem"
            }
            _ => "",
        };
        failed(format!("mounts[{index}].uidMappings: map the ids of the mount{why}"))(error)
    }
}

/// The user namespace that the container joins.
pub(super) fn joined_users(plan: &Plan) -> Result<Option<OwnedFd>, LaunchError> {
    let Some(join) = plan.join.iter().find(|join| join.kind == libc::CLONE_NEWUSER) else {
        return Ok(None);
    };
    let file = File::open(&join.path).map_err(failed(format!("open namespace {:?}", join.path)))?;
    Ok(Some(file.into()))
}
