//! A virtual machine for what the machine at hand may not have: a full cgroup v2 hierarchy, and a
//! power switch.
//!
//! ```text
//!   Debian's cloud kernel (a .deb, unpacked under target/)
//!   initramfs: kobune_vminit + modules in load order          -- leaves after mounting the disk
//!   disk (ext4, made by mke2fs -d): root file system, programs, data     -- outlives hard resets
//!   serial 0: console, shown as it comes     serial 1: one word about how it ended
//! ```
//!
//! A suite is a test file `PACKAGE/tests/vm_*.rs`, linked statically, whose tests are `#[ignore]`d on the
//! host and run inside as root by process 1. [`guest`] is what such a test may ask of its machine.

pub mod cpio;
mod disk;
pub mod guest;
mod kernel;
mod machine;
pub mod modules;
mod systemd;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::paths;

/// A machine that locked up gets another life.
const LIVES: u32 = 2;

/// Most boots of one suite; each but the last ends in a hard reset that the suite asked for.
const MOST_BOOTS: u32 = 5;

/// Runs a command that prepares the machine, its output kept for the error.
fn prepare(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("run {name}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name}: {}: {}", output.status, stderr.trim()))
}

fn io<T>(what: &str, path: &Path, result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{what} {}: {error}", path.display()))
}

/// Suites of this name measure: they run when they are named, with what they measure on the disk.
pub const BENCH: &str = "vm_bench_";

/// One suite to run inside.
pub struct Suite {
    /// Name of the test file without `.rs`.
    pub name: String,
    /// Its statically linked program.
    pub program: PathBuf,
}

impl Suite {
    pub fn measures(&self) -> bool {
        self.name.starts_with(BENCH)
    }
}

/// Boots the suite's machine as often as it wants; an error unless all its tests passed.
pub fn run(suite: &Suite) -> Result<(), String> {
    let dir = paths::target().join("vm");
    let work = dir.join(&suite.name);
    io("make directory", &work, fs::create_dir_all(&work))?;
    let kernel = kernel::fetch(&dir)?;
    let initramfs = work.join("initramfs.cpio");
    io("write", &initramfs, fs::write(&initramfs, kernel.initramfs()?))?;
    let disk = work.join("disk.img");
    for life in 1..=LIVES {
        disk::make(&work, &disk, suite)?;
        let machine =
            machine::Machine { kernel: &kernel.image, initramfs: &initramfs, disk: &disk };
        match live(&machine, &work, suite)? {
            machine::End::Exit(0) => return Ok(()),
            machine::End::LockedUp if life < LIVES => {
                eprintln!(
                    "==> {}: THE MACHINE LOCKED UP; once more from the beginning",
                    suite.name
                );
            }
            machine::End::LockedUp => break,
            end => return Err(format!("{}: {end}", suite.name)),
        }
    }
    Err(format!("{}: the machine locked up {LIVES} times", suite.name))
}

/// Boots until it is over in one way or another.
fn live(
    machine: &machine::Machine<'_>,
    work: &Path,
    suite: &Suite,
) -> Result<machine::End, String> {
    for boot in 1..=MOST_BOOTS {
        match machine.boot(work, &suite.name, boot)? {
            machine::End::Reset => eprintln!("==> {}: hard reset, next boot", suite.name),
            end => return Ok(end),
        }
    }
    Err(format!("{}: still resetting after {MOST_BOOTS} boots", suite.name))
}
