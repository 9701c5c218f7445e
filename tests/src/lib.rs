//! The outside view of Kobune: what is needed to hold its promises up against real binaries.
//!
//! - [`harness`]: a private "host" (network and mount namespace, directories) with a node in it, and
//!   the people who talk to it: kubectl, an HTTP client, a recorder of watches, before/after snapshots;
//! - [`vm`]: a Debian kernel under qemu for what the machine at hand cannot show (limits, hard reset);
//! - [`bench`]: container runtimes measured beside each other;
//! - [`tree`]: what must hold in the source tree itself (arrows, licences, file heads);
//! - [`xtask`]: the project's own commands, `cargo xtask …`.
//!
//! It never links the programs under test: they are black boxes, started as processes.

pub mod bench;
pub mod harness;
pub mod paths;

mod sys;
pub mod tree;
pub mod vm;
pub mod xtask;
