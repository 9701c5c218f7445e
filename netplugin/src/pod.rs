//! One Pod's cable and address.
use crate::{Error, HostConfig, PodNetwork, PodRequest};

/// Connects a Pod: namespace, address, veth pair, routes. Idempotent for the same uid.
///
/// # Errors
/// The first step that failed; what this call made is gone again then.
pub fn setup(_config: &HostConfig, _request: &PodRequest) -> Result<PodNetwork, Error> {
    Err(crate::host::unfinished())
}

/// Undoes [`setup`], the namespace's pin included. Tolerates absence of any part.
///
/// # Errors
/// Everything that could not be removed.
pub fn teardown(_config: &HostConfig, _uid: &str, _netns: &str) -> Result<(), Error> {
    Err(crate::host::unfinished())
}
