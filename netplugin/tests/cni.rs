//! The plugin binary as a container runtime sees it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Beside the tests' directory. Not by `env!`: the shell that wraps the compiler drops variables
/// with a hyphen in their name.
fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(|deps| deps.parent()).unwrap().join("kobune-netplugin")
}

fn plugin(command: &str) -> (bool, String) {
    let output =
        Command::new(binary()).env("CNI_COMMAND", command).stdin(Stdio::null()).output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn version_succeeds_and_other_commands_fail_in_json() {
    let (success, text) = plugin("VERSION");
    assert!(success && text.contains("supportedVersions"), "{text}");
    let (success, text) = plugin("ADD");
    assert!(!success && text.contains(r#""code":100"#), "{text}");
}
