//! Runs commands one after another, remembers how each ended and how long it took, and sums up.

use std::ffi::OsStr;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::paths;

/// How one step ended.
struct Step {
    name: String,
    took: Duration,
    failure: Option<String>,
}

/// The steps so far. A failed step does not stop the later ones, unless the caller asks.
#[derive(Default)]
pub(super) struct Steps(Vec<Step>);

impl Steps {
    /// Runs `work` as the step `name`; says whether it went well.
    pub(super) fn run(&mut self, name: &str, work: impl FnOnce() -> Result<(), String>) -> bool {
        eprintln!("\n==> {name}");
        let started = Instant::now();
        let failure = work().err();
        if let Some(message) = &failure {
            eprintln!("==> {name} FAILED: {message}");
        }
        let well = failure.is_none();
        self.0.push(Step { name: name.to_owned(), took: started.elapsed(), failure });
        well
    }

    /// Prints one line per step; an error if any failed.
    pub(super) fn finish(self) -> Result<(), String> {
        println!("\nsummary");
        for step in &self.0 {
            let verdict = if step.failure.is_some() { "FAILED" } else { "ok" };
            println!("  {verdict:6} {:7.1} s  {}", step.took.as_secs_f64(), step.name);
        }
        let failed: Vec<_> =
            self.0.iter().filter(|s| s.failure.is_some()).map(|s| s.name.as_str()).collect();
        if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", "))) }
    }
}

/// `cargo ARGUMENTS…` at the root of the checkout, with the same cargo that started us.
pub(super) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(paths::root());
    command
}

/// Runs a command to its end with our own output; its failure as a message.
pub(super) fn call(command: &mut Command) -> Result<(), String> {
    let line = display(command);
    let status = command.status().map_err(|error| format!("run {line}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{line}: {status}")) }
}

/// The command as one would type it.
pub(super) fn display(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
