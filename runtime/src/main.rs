//! The OCI command line, and the supervisor's entry.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(word) if word == "supervisor" => kobune_runtime::supervisor::main(args),
        _ => {
            eprintln!("usage: kobune-runtime supervisor …");
            ExitCode::FAILURE
        }
    }
}
