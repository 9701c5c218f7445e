//! apps/v1.

pub(super) mod deployment;
pub(super) mod replica_set;
