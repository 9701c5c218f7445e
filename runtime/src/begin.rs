//! The program from its first instruction: what std does before an ordinary `main`, as far as it is needed here.
//!
//! The rest of it, a look at /proc/self/maps to tell an overflow of the stack from other faults, was a fifth of the time
//! in which a command line is read and answered, and 100 KiB of peak memory.

use std::process::{ExitCode, exit};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};

use crate::sys::process as sys;

/// Runs what the arguments ask for, and ends.
pub fn program() -> ! {
    // Or the first files that we open would be taken for the streams of a starter that closed them.
    if sys::fill_standard_streams().is_err() {
        exit(1);
    }
    // A reader that has gone is an error of the write, not our end.
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    let _ = sys::set_action(Signal::SIGPIPE, &ignore);
    let mut args = std::env::args_os().skip(1).peekable();
    let code = if args.next_if(|word| word == "supervisor").is_some() {
        i32::from(crate::supervisor::main(args) != ExitCode::SUCCESS)
    } else {
        i32::from(crate::cli::main(args))
    };
    // Not a return: this writes what is left in buffers.
    exit(code)
}
