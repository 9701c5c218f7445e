//! `cargo xtask bench`: builds the release programs and runs the suites that measure; they print their tables.
//!
//! They are tests like the others, so that they cannot rot; here each runs alone and in full.

use super::steps::{call, cargo};
use super::{host, test, vm};
use crate::paths;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// A node: the README's table.
    Node,
    /// The container runtime beside its peers, on the host and in the virtual machine.
    Runtime,
}

impl Subject {
    /// None named: all of them.
    pub(super) fn parse(arguments: &[String]) -> Result<Vec<Subject>, ()> {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match words[..] {
            [] => Ok(vec![Subject::Node, Subject::Runtime]),
            ["node"] => Ok(vec![Subject::Node]),
            ["runtime"] => Ok(vec![Subject::Runtime]),
            _ => Err(()),
        }
    }
}

pub(super) fn run(subjects: &[Subject]) -> Result<(), String> {
    host::check()?;
    host::install()?;
    subjects.iter().try_for_each(|subject| match subject {
        Subject::Node => node(),
        Subject::Runtime => runtime(),
    })
}

fn node() -> Result<(), String> {
    host::need_kubectl()?;
    test::release_build()?;
    let mut command = suite("bench");
    call(command.env("KOBUNE_BIN", paths::kobune()))
}

/// Writes `.cargo/hot-functions`, for the next build.
pub(super) fn hot() -> Result<(), String> {
    host::check()?;
    host::install_peers()?;
    build_runtime()?;
    call(suite("bench_runtime").arg("hot_functions_are_listed"))
}

fn build_runtime() -> Result<(), String> {
    call(&mut cargo(&["build", "--release", "--locked", "--package", "kobune-runtime"]))
}

fn runtime() -> Result<(), String> {
    host::install_peers()?;
    build_runtime()?;
    call(suite("bench_runtime").arg("the_runtime_beside_its_peers"))?;
    vm::run(&["vm_bench_runtime".to_owned()])
}

fn suite(name: &str) -> std::process::Command {
    let arguments = ["test", "--quiet", "--package", "kobune-tests", "--test", name, "--"];
    let mut command = cargo(&arguments);
    command.args(["--ignored", "--nocapture", "--test-threads=1"]);
    command
}
