//! The programs that are measured and that measure. On a host the two of C are compiled when they are needed; in the
//! virtual machine everything lies where the disk's maker put it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::paths;

/// Where the virtual machine has them.
pub(crate) const IN_GUEST: &str = "/kobune/bench";

/// The measuring programs, by the name of their source.
pub(crate) const OF_C: [&str; 2] = ["floor", "clock"];

#[derive(Debug)]
pub(super) struct Programs {
    pub(super) floor: PathBuf,
    pub(super) clock: PathBuf,
    pub(super) ours: PathBuf,
    pub(super) crun: PathBuf,
    pub(super) runc: PathBuf,
    pub(super) busybox: PathBuf,
}

impl Programs {
    pub(super) fn find() -> Programs {
        let guest = Path::new(IN_GUEST);
        let need = |name: &str| {
            paths::on_path(name).unwrap_or_else(|| panic!("no {name} (see `cargo xtask bench`)"))
        };
        let [floor, clock] = OF_C.map(|name| match guest.join(name) {
            built if built.is_file() => built,
            _ => compile(name).unwrap_or_else(|error| panic!("{error}")),
        });
        Programs {
            floor,
            clock,
            ours: paths::runtime(),
            crun: need("crun"),
            runc: need("runc"),
            busybox: need("busybox"),
        }
    }
}

/// Compiles `tests/bench/NAME.c`; says where the program is.
pub(crate) fn compile(name: &str) -> Result<PathBuf, String> {
    let directory = paths::target().join("bench");
    std::fs::create_dir_all(&directory)
        .map_err(|error| format!("make directory {}: {error}", directory.display()))?;
    let program = directory.join(name);
    let source = paths::root().join("tests/bench").join(name).with_extension("c");
    let mut command = Command::new("cc");
    command.args(["-O2", "-static", "-o"]).arg(&program).arg(&source);
    match command.status() {
        Ok(status) if status.success() => Ok(program),
        Ok(status) => Err(format!("cc {}: {status}", source.display())),
        Err(error) => Err(format!("run cc: {error}")),
    }
}
