//! The node's side: bridge, gateway address, route to the Services, forwarding, rules.
use crate::{Error, HostConfig};

/// Makes the host ready for Pods. Idempotent.
///
/// # Errors
/// The first thing that could not be made.
pub fn setup(_config: &HostConfig) -> Result<(), Error> {
    Err(unfinished())
}

/// Undoes [`setup`] and whatever Pods are left. Tolerates absence.
///
/// # Errors
/// Everything that could not be removed.
pub fn teardown(_config: &HostConfig) -> Result<(), Error> {
    Err(unfinished())
}

pub(crate) fn unfinished() -> Error {
    Error::Thread { what: "the network", source: std::io::ErrorKind::Unsupported.into() }
}
