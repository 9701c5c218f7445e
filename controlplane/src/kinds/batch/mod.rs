//! batch/v1.

pub(super) mod job;
