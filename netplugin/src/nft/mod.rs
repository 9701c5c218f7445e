//! The table `ip kobune`.
pub mod services;

use crate::{Error, HostConfig};
use services::ServiceTable;

/// The rules in the kernel, and what this process knows of them.
#[derive(Debug)]
pub struct Rules {}

impl Rules {
    /// Prepares to own the table of this host; changes nothing yet.
    ///
    /// # Errors
    /// If netlink cannot be opened.
    pub fn open(_config: &HostConfig) -> Result<Rules, Error> {
        Err(crate::host::unfinished())
    }

    /// Makes the kernel balance exactly `wanted`, in one transaction; returns how many elements
    /// changed.
    ///
    /// # Errors
    /// If the kernel refuses; nothing has changed then.
    pub fn sync(&mut self, _wanted: &ServiceTable) -> Result<usize, Error> {
        Err(crate::host::unfinished())
    }
}

/// Removes the table. Tolerates absence.
///
/// # Errors
/// If the kernel refuses.
pub fn teardown() -> Result<(), Error> {
    Err(crate::host::unfinished())
}
