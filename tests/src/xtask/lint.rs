//! `cargo xtask lint`: what needs no root and no build of the programs.

use super::steps::{Steps, call, cargo};
use crate::tree::Workspace;

/// All lints; prints a summary.
pub(super) fn run() -> Result<(), String> {
    let mut steps = Steps::default();
    add(&mut steps);
    steps.finish()
}

/// The same as part of a longer run.
pub(super) fn add(steps: &mut Steps) {
    steps.run("tree: arrows, licences, heads, unsafe", tree);
    steps.run("rustfmt", || call(&mut cargo(&["fmt", "--all", "--check"])));
    steps.run("clippy", || {
        let arguments = ["clippy", "--workspace", "--all-targets", "--locked"];
        call(cargo(&arguments).args(["--", "-D", "warnings"]))
    });
}

fn tree() -> Result<(), String> {
    let offences = Workspace::read()?.offences();
    for offence in &offences {
        eprintln!("{offence}");
    }
    if offences.is_empty() { Ok(()) } else { Err(format!("{} offences", offences.len())) }
}
