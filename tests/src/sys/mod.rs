//! The system calls that nix has no safe form of. All `unsafe` of the tests is here.

pub(crate) mod net;
