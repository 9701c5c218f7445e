//! networking.k8s.io/v1: kinds that somebody else acts on, or nobody yet. Their writers are told.

pub(super) mod ingress;
pub(super) mod ingress_class;
pub(super) mod network_policy;

const GROUP: &str = "networking.k8s.io";
