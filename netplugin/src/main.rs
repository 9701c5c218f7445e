//! The CNI plugin binary: reads what a container runtime asks, prints the answer.

use std::io::{Read, Write};
use std::process::ExitCode;

use kobune_netplugin::cni::{Answer, Environment, answer};

/// More than any network configuration; nobody may fill our memory.
const LARGEST_INPUT: u64 = 1024 * 1024;

fn main() -> ExitCode {
    let mut input = Vec::new();
    // A configuration that cannot be read is as good as none; the command decides if that matters.
    let _ = std::io::stdin().lock().take(LARGEST_INPUT).read_to_end(&mut input);
    let answer = answer(&Environment::read(), &input);
    if answer == Answer::Nothing {
        return ExitCode::SUCCESS;
    }
    let text = serde_json::to_string(&answer).unwrap_or_default();
    let printed = writeln!(std::io::stdout().lock(), "{text}");
    match answer {
        Answer::Error { .. } => ExitCode::FAILURE,
        _ if printed.is_ok() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
