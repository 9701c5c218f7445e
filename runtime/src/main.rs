//! The OCI command line, and the supervisor's entry. Without std's own beginning, see `begin`.
#![no_main]

use std::ffi::{c_char, c_int};

/// What libc calls. The name is the C standard's, so nobody else has it; the arguments are taken from std, which libc has
/// told them before.
#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    kobune_runtime::program()
}
