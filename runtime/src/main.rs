//! The OCI command line, and the supervisor's entry.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    if args.next_if(|word| word == "supervisor").is_some() {
        return kobune_runtime::supervisor::main(args);
    }
    kobune_runtime::cli::main(args)
}
