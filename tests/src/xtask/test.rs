//! `cargo xtask test`: everything, in the order that finds mistakes soonest. Two cores, under half an
//! hour from a clean checkout: unit tests use the dev profile, black boxes the one release build.

use super::steps::{Steps, call, cargo};
use super::{host, lint, vm};
use crate::paths;

/// Tests at one time. Those that start nodes mostly wait, but some measure seconds: a little
/// more than the cores of a small machine, no more.
const THREADS: &str = "3";

/// What to leave out.
#[derive(Default)]
pub(super) struct Options {
    no_lint: bool,
    no_vm: bool,
    filter: Option<String>,
}

impl Options {
    pub(super) fn parse(arguments: &[String]) -> Result<Self, ()> {
        let mut options = Self::default();
        for argument in arguments {
            match argument.as_str() {
                "--no-lint" => options.no_lint = true,
                "--no-vm" => options.no_vm = true,
                word if !word.starts_with('-') && options.filter.is_none() => {
                    options.filter = Some(word.to_owned());
                }
                _ => return Err(()),
            }
        }
        Ok(options)
    }
}

pub(super) fn run(options: &Options) -> Result<(), String> {
    let mut steps = Steps::default();
    let ready = steps.run("the machine: root, namespaces, cgroup2", host::check)
        && steps.run("the tools", || host::install().and_then(|()| host::need_kubectl()));
    if !ready {
        return steps.finish();
    }
    if !options.no_lint {
        lint::add(&mut steps);
    }
    if steps.run("release build", release_build) {
        steps.run("cargo test", || cargo_test(options.filter.as_deref()));
        if !options.no_vm {
            steps.run("virtual machine", || vm::run(&[]));
        }
    }
    steps.finish()
}

/// The program that users get; nothing to do when `$KOBUNE_BIN` names one.
pub(super) fn release_build() -> Result<(), String> {
    if std::env::var_os("KOBUNE_BIN").is_some() {
        return Ok(());
    }
    call(&mut cargo(&["build", "--release", "--locked"]))
}

fn cargo_test(filter: Option<&str>) -> Result<(), String> {
    let mut command = cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]);
    command.args(filter);
    command.env("KOBUNE_BIN", paths::kobune());
    command.env("RUST_TEST_THREADS", THREADS);
    call(&mut command)
}
