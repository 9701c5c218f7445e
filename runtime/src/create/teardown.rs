//! Mounts of a container without a mount namespace: they are in its creator's, and stay when it ends.

use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, umount2};

use super::inside;
use super::root::open_directory;

/// Unmounts what is mounted at these places inside the root, later ones first. An absent mount is no error.
pub(crate) fn unmount(rootfs: &Path, destinations: &[PathBuf]) {
    let Ok(root) = open_directory(rootfs) else { return };
    for destination in destinations.iter().rev() {
        if let Ok(found) = inside::open(root.as_fd(), destination, OFlag::O_PATH) {
            // Through the descriptor: a link in the rootfs leads nowhere else. What is no mount refuses.
            let place = format!("/proc/self/fd/{}", found.as_raw_fd());
            let _ = umount2(&*place, MntFlags::MNT_DETACH);
        }
    }
}
