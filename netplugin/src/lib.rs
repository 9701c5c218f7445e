//! A cable, an address, a rule; and all three gone again.
//!
//! Speaks CNI and netlink (links and nf_tables); never knows Kubernetes or containers.
