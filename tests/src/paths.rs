//! Where things are in a checkout: the root, the build outputs, the programs that tests start.
//!
//! Environment variables come first, so that a guest without a checkout can use the same harness.

use std::env;
use std::path::{Path, PathBuf};

/// The workspace's root directory. Known at build time; only of use where the checkout is.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent").to_path_buf()
}

/// Cargo's output directory.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The program under test: `$KOBUNE_BIN`, or the release build of this checkout.
pub fn kobune() -> PathBuf {
    let path = from_env("KOBUNE_BIN").unwrap_or_else(|| target().join("release/kobune"));
    assert!(path.exists(), "{} is not there: run `cargo build --release` first", path.display());
    path
}

/// The container runtime that is measured: `$KOBUNE_RUNTIME`, or the release build of this checkout.
pub fn runtime() -> PathBuf {
    let path =
        from_env("KOBUNE_RUNTIME").unwrap_or_else(|| target().join("release/kobune-runtime"));
    assert!(path.exists(), "{} is not there: run `cargo xtask bench runtime`", path.display());
    path
}

/// The program inside of test images: `$KOBUNE_TESTAPP`, or the build beside the running test.
pub fn testapp() -> PathBuf {
    from_env("KOBUNE_TESTAPP").unwrap_or_else(|| beside("kobune_testapp"))
}

/// `$KUBECTL`, or the one on PATH.
pub fn kubectl() -> Option<PathBuf> {
    from_env("KUBECTL").or_else(|| on_path("kubectl"))
}

/// A manifest under `examples/`: `$KOBUNE_EXAMPLES`, or the checkout's.
pub fn example(name: &str) -> PathBuf {
    from_env("KOBUNE_EXAMPLES").unwrap_or_else(|| root().join("examples")).join(name)
}

/// First executable of that name on PATH, and in the directories of administrators, which a plain
/// user's PATH lacks.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

/// A program of this package that cargo built into the same profile as the running one.
pub fn beside(name: &str) -> PathBuf {
    let own = env::current_exe().expect("/proc is mounted");
    let path = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file());
    path.unwrap_or_else(|| panic!("{name} was not built beside {}", own.display()))
}

fn from_env(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
