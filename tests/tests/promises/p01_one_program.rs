//! Promise 1: one static program, no tool of the host, and the demo shows how Pods work.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use kobune_tests::harness::{Host, process};
use kobune_tests::paths;

#[test]
fn the_program_is_static() {
    let mut command = Command::new("ldd");
    command.arg(paths::kobune());
    let outcome = process::run(command, "");
    let said = outcome.stdout + &outcome.stderr;
    let fine = said.contains("statically linked") || said.contains("not a dynamic executable");
    assert!(fine, "ldd says: {said}");
    // The program headers of a 64-bit ELF file: none names an interpreter.
    let program = fs::read(paths::kobune()).expect("read the program");
    let number = |at: usize| usize::from(u16::from_le_bytes([program[at], program[at + 1]]));
    let (first, size, count) = (64, number(54), number(56));
    let kinds: Vec<usize> = (0..count).map(|nth| number(first + nth * size)).collect();
    assert!(kinds.contains(&1), "no PT_LOAD among {kinds:?}: not the headers");
    assert!(!kinds.contains(&3), "a PT_INTERP among {kinds:?}");
}

/// The harness starts every node with an empty PATH; here the whole demo runs so.
#[test]
fn the_demo_works_without_any_tool_on_path() {
    let host = Host::new("demo");
    let before = host.snapshot();
    let outcome = host.kobune(&["up"], &["--demo", "--exit"]);
    let shown = outcome.clone().ok();
    let shows = ["The node", "The Pods", "10.244.0.", "10.96.", "12 requests", "How long it took"];
    for words in shows {
        assert!(shown.contains(words), "{words:?} is not in:\n{shown}\n{}", outcome.stderr);
    }
    assert_eq!(shown.lines().filter(|line| line.contains("Running, Ready")).count(), 3, "{shown}");
    let answers: Vec<u32> = shown
        .lines()
        .filter_map(|line| {
            let line = line.trim();
            let counted = line.strip_suffix(" answers").or_else(|| line.strip_suffix(" answer"))?;
            counted.rsplit(' ').next()?.parse().ok()
        })
        .collect();
    assert_eq!((answers.len(), answers.iter().sum::<u32>()), (3, 12), "{shown}");
    assert_eq!(host.snapshot().difference(&before), Vec::<String>::new());
}

#[test]
fn the_kubeconfig_is_for_its_owner_only() {
    let host = Host::with_node("kubeconfig");
    let mode = fs::metadata(host.kubeconfig()).expect("kubeconfig is written").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn version_is_told_by_program_and_api() {
    let host = Host::with_node("version");
    let mut command = Command::new(paths::kobune());
    command.arg("version");
    assert!(process::run(command, "").ok().contains(env!("CARGO_PKG_VERSION")));
    let version = host.kubectl_ok(&["version", "-o", "json"]);
    assert!(version.contains("v1.33"), "{version}");
}
