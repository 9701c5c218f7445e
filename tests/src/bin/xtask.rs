//! `cargo xtask …`: see [`kobune_tests::xtask`].

use std::process::ExitCode;

fn main() -> ExitCode {
    kobune_tests::xtask::main(std::env::args().skip(1).collect())
}
