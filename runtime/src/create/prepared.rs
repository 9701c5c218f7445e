//! Device nodes for a container that is root of a user namespace alone and may make none: the parent makes them on a
//! filesystem that nobody sees, with the owners that they have inside, and the child puts each into its place.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, mknodat};
use nix::unistd::{Gid, Uid, fchownat};

use super::{nodes, root};
use crate::plan::{Device, IdMaps, Plan};
use crate::sys::mount::{self as kernel, Filesystem};

/// One node, as a mount that is not attached.
#[derive(Debug)]
pub(super) struct Prepared {
    /// Its place in the container.
    pub(super) path: PathBuf,
    pub(super) mount: OwnedFd,
}

/// A filesystem with these nodes, named by their number in the list. `None` if we may not make them either.
pub(super) fn make(maps: &IdMaps, devices: &[&Device]) -> io::Result<Option<OwnedFd>> {
    let filesystem = Filesystem::open("tmpfs")?;
    // The container's root is a stranger to it, and has to find the nodes.
    filesystem.set("mode", Some("711"))?;
    let mount = filesystem.mount(kernel::ATTR_NOSUID | kernel::ATTR_NOEXEC)?;
    for (index, device) in devices.iter().enumerate() {
        let name = index.to_string();
        let (kind, number) = nodes::identity(device);
        let mode = Mode::from_bits_truncate(device.mode);
        match mknodat(&mount, &*name, kind, mode, number) {
            Err(Errno::EPERM) => return Ok(None),
            other => other?,
        }
        let owner = maps.outside_uid(device.uid).map(Uid::from_raw);
        let group = maps.outside_gid(device.gid).map(Gid::from_raw);
        fchownat(&mount, &*name, owner, group, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        // Whatever our umask is.
        fchmodat(&mount, &*name, mode, FchmodatFlags::FollowSymlink)?;
    }
    Ok(Some(mount))
}

/// The nodes of that filesystem, one by one. Only of what is attached somewhere does the kernel make other mounts
/// (before Linux 6.15), so it is for a moment, where nobody sees it.
pub(super) fn take_apart(plan: &Plan, filesystem: OwnedFd) -> io::Result<Vec<Prepared>> {
    let Some((_, devices)) = plan.nodes_of_parent() else { return Ok(Vec::new()) };
    kernel::attach(filesystem.as_fd(), root::secluded_place()?.as_fd())?;
    let one = |(index, device): (usize, &&Device)| {
        let name = CString::new(index.to_string())?;
        let mount = kernel::open_tree_clone(filesystem.as_fd(), &name, false)?;
        Ok(Prepared { path: device.path.clone(), mount })
    };
    let nodes = devices.iter().enumerate().map(one).collect();
    umount2(root::SECLUDED, MntFlags::MNT_DETACH)?;
    nodes
}
