//! The first byte of an input picks the reader, so that one job exercises all of them:
//!
//! | byte | the rest is |
//! |---|---|
//! | `c` | a config.json |
//! | `m` | changes to a config.json that uses every field (see [`shape`]) |
//! | `s` | a state.json |
//! | `r` | a request to a supervisor |
//!
//! Nothing may panic, and every error of a config begins with the JSON path of a field.
#![no_main]

mod shape;

use kobune_runtime::fuzz;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((reader, rest)) = bytes.split_first() else { return };
    match reader {
        b'c' => expect_field(fuzz::config(rest)),
        b'm' => expect_field(fuzz::config(shape::change(rest).to_string().as_bytes())),
        b's' => drop(fuzz::state(rest)),
        b'r' => drop(fuzz::request(rest)),
        _ => {}
    }
});

/// `field: why`, or `parse "config.json": field: why`.
fn expect_field(read: Result<usize, String>) {
    let Err(error) = read else { return };
    let error = error.strip_prefix("parse \"config.json\": ").unwrap_or(&error);
    let field = error.split_once(": ").map(|(field, _)| field).unwrap_or_default();
    let first = field.split(['.', '[']).next().unwrap_or_default();
    let known = first.is_empty() && field == "."
        || first == "?"
        || shape::base().get(first).is_some()
        // An unknown or misspelt key of the top level.
        || error.contains("at line");
    assert!(known, "no field in {error:?}");
}
