//! The project's own commands: `cargo xtask {test,lint,bench,vm,hot}`.
//!
//! Owns the order in which tools are called and the summary at the end. Never tests anything
//! itself: checks live in [`crate::tree`], suites under `tests/tests/`.

mod bench;
mod host;
mod lint;
mod steps;
mod test;
mod vm;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test [--no-lint] [--no-vm] [FILTER]  install what the tests need, then run all of them (root)
  lint                                 rustfmt, clippy, arrows, licences, file heads
  vm [NAME…]                           run the suites */tests/vm_*.rs in a virtual machine (root)
  bench [node|runtime]                 measure, and print the README's tables of figures (root)
  hot                                  list what the linker of kobune-runtime shall put together (root)
";

/// Runs one command. Exit status: 0 all well, 1 something failed, 2 wrong usage.
pub fn main(arguments: Vec<String>) -> ExitCode {
    let Some((command, rest)) = arguments.split_first() else { return usage() };
    let outcome = match command.as_str() {
        "test" => test::Options::parse(rest).map(|options| test::run(&options)),
        "lint" if rest.is_empty() => Ok(lint::run()),
        "vm" => Ok(vm::run(rest)),
        "bench" => bench::Subject::parse(rest).map(|subjects| bench::run(&subjects)),
        "hot" if rest.is_empty() => Ok(bench::hot()),
        _ => Err(()),
    };
    match outcome {
        Err(()) => usage(),
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(message)) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprint!("{USAGE}");
    ExitCode::from(2)
}
