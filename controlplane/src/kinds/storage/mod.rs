//! storage.k8s.io/v1.

pub(super) mod class;
pub(super) mod csi;
