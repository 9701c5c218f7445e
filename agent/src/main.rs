//! `kobune`: the one program.
//!
//! Branches before any thread exists: a Pod's supervisor and the demo's server are this same binary, and
//! neither may start tokio.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(name) if name == "supervisor" => kobune_agent::supervisor(args),
        Some(name) if name == "demo-server" => kobune_agent::demo::server::main(args),
        _ => kobune_agent::cli::main(),
    }
}
