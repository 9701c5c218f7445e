//! Named network namespaces, pinned under /run/netns as `ip netns` does.
use std::path::{Path, PathBuf};

use crate::Error;

/// Where `ip netns` looks for namespaces.
pub const DIRECTORY: &str = "/run/netns";

/// Path of the namespace called `name`.
pub fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Whether a namespace (or something else) has this name already.
pub fn exists(name: &str) -> bool {
    path(name).symlink_metadata().is_ok()
}

/// Makes and pins a namespace. An existing one of that name is an error.
///
/// # Errors
/// If the name is taken or unusable, or the kernel refuses.
pub fn create(_name: &str) -> Result<PathBuf, Error> {
    Err(crate::host::unfinished())
}

/// Drops the pin; the namespace lives as long as a process is in it. Tolerates absence.
///
/// # Errors
/// If the pin cannot be removed.
pub fn delete(_name: &str) -> Result<(), Error> {
    Err(crate::host::unfinished())
}
