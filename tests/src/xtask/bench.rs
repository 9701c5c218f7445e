//! `cargo xtask bench`: builds the release program and runs the bench suite, which prints its table.

use super::steps::{call, cargo};
use super::{host, test};
use crate::paths;

pub(super) fn run() -> Result<(), String> {
    host::check()?;
    host::install()?;
    host::need_kubectl()?;
    test::release_build()?;
    // The suite is a test like the others, so that it cannot rot; here it runs alone and in full.
    let arguments = ["test", "--quiet", "--package", "kobune-tests", "--test", "bench", "--"];
    let mut command = cargo(&arguments);
    command.args(["--ignored", "--nocapture", "--test-threads=1"]);
    command.env("KOBUNE_BIN", paths::kobune());
    call(&mut command)
}
