//! All unsafe code of the runtime, one file per kernel facility; everything that leaves this module is safe to
//! call. Never decides anything: callers say what they want, these files say it to the kernel.

pub(crate) mod bpf;
pub(crate) mod clone;
pub(crate) mod creds;
pub(crate) mod fdpass;
pub(crate) mod keyring;
pub(crate) mod mount;
pub(crate) mod net;
pub(crate) mod numa;
pub(crate) mod pidfd;
pub(crate) mod process;
pub(crate) mod schedule;
pub(crate) mod seccomp;
pub(crate) mod tty;
