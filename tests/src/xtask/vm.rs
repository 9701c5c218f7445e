//! `cargo xtask vm`: builds what the machine needs, then boots it once per suite.

use std::iter;
use std::process::Stdio;

use serde_json::Value;

use super::steps::{Steps, call, cargo, display};
use super::{host, test};
use crate::{paths, vm};

/// Runs the named suites, or all that test.
pub(super) fn run(names: &[String]) -> Result<(), String> {
    host::check()?;
    host::install()?;
    let mut suites = if !names.is_empty() && names.iter().all(|name| name.starts_with(vm::BENCH)) {
        build(&["--package", "kobune-tests", "--test", "vm_bench_*"])?
    } else {
        test::release_build()?;
        let programs = ["build", "--quiet", "--locked", "--bins"];
        call(cargo(&programs).args(["--package", "kobune-tests", "--package", "kobune-runtime"]))?;
        let all = ["vm_*".to_owned()];
        let wanted = if names.is_empty() { &all } else { names };
        let wanted = wanted.iter().flat_map(|name| ["--test", name]);
        build(&iter::once("--workspace").chain(wanted).collect::<Vec<_>>())?
    };
    let tests = |suite: &vm::Suite| names.is_empty() && !suite.measures();
    suites.retain(|suite| tests(suite) || names.contains(&suite.name));
    let mut steps = Steps::default();
    for suite in &suites {
        steps.run(&format!("in the virtual machine: {}", suite.name), || vm::run(suite));
    }
    steps.finish()
}

/// Builds the wanted test programs; cargo says where they are, and which there are when it does not know a name.
fn build(wanted: &[&str]) -> Result<Vec<vm::Suite>, String> {
    let mut command = cargo(&["test", "--no-run", "--quiet", "--locked"]);
    command.args(wanted).arg("--message-format=json");
    command.stderr(Stdio::inherit()).current_dir(paths::root());
    let output = command.output().map_err(|error| format!("{}: {error}", display(&command)))?;
    if !output.status.success() {
        return Err(format!("{}: {}", display(&command), output.status));
    }
    Ok(suites(&String::from_utf8_lossy(&output.stdout)))
}

/// The executables in cargo's messages.
fn suites(messages: &str) -> Vec<vm::Suite> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter_map(|message| {
            let name = message["target"]["name"].as_str()?.to_owned();
            let program = message["executable"].as_str()?.into();
            name.starts_with("vm_").then_some(vm::Suite { name, program })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_executables_of_vm_suites_count() {
        let messages = r#"
{"reason":"compiler-artifact","target":{"name":"kobune_tests"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"vm_limits"},"executable":"/t/vm_limits-1"}
{"reason":"compiler-artifact","target":{"name":"layering"},"executable":"/t/layering-1"}
{"reason":"build-finished","success":true}"#;
        let found = super::suites(messages);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].program.to_str(), Some("/t/vm_limits-1"));
    }
}
