//! The guest's disk: a raw ext4 image made from a directory, without mounting anything on the host.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Suite, io, prepare, systemd};
use crate::bench::programs;
use crate::harness::image;
use crate::paths;

/// Sparse; what is not written costs nothing.
const SIZE: &str = "2G";

/// Where programs lie inside.
const PROGRAMS: &str = "kobune";

const DIRECTORIES: &[&str] = &[
    "bin",
    "dev",
    "etc",
    "kobune/deps",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr/bin",
    "usr/sbin",
    "var/lib",
    "var/log",
    "sbin",
];

/// The suite of the container engines, and what it starts: they weigh much, so no other machine has them. Those
/// that busybox has, too, are here for their options.
const ENGINES: &str = "vm_engines";
const ENGINES_NEED: &[&str] = &[
    "podman",
    "conmon",
    "dash",
    "containerd",
    "ctr",
    "containerd-shim-runc-v2",
    "unshare",
    "nsenter",
    "mount",
    "umount",
    "mkdir",
    "tar",
    "sha256sum",
];

/// Fills `work/root` and makes the image from it, replacing an older one.
pub(super) fn make(work: &Path, image: &Path, suite: &Suite) -> Result<(), String> {
    let root = work.join("root");
    if root.exists() {
        io("remove", &root, fs::remove_dir_all(&root))?;
    }
    for dir in DIRECTORIES {
        let dir = root.join(dir);
        io("make directory", &dir, fs::create_dir_all(&dir))?;
    }
    fill(&root, suite)?;
    if image.exists() {
        io("remove", image, fs::remove_file(image))?;
    }
    let mke2fs = paths::on_path("mke2fs").ok_or("no mke2fs (package e2fsprogs)")?;
    let options = ["-q", "-t", "ext4", "-O", "^metadata_csum", "-E", "lazy_itable_init=1", "-d"];
    prepare(Command::new(mke2fs).args(options).arg(&root).arg(image).arg(SIZE))?;
    io("remove", &root, fs::remove_dir_all(&root))
}

fn fill(root: &Path, suite: &Suite) -> Result<(), String> {
    // As cargo lays them out: a suite finds the programs of its package one directory above.
    copy(&suite.program, &root.join(PROGRAMS).join("deps/suite"))?;
    let busybox = paths::on_path("busybox").ok_or("no busybox (package busybox-static)")?;
    copy(&busybox, &root.join("bin/busybox"))?;
    for name in ["sh", "ls", "cat", "ps", "dmesg"] {
        let link = root.join("bin").join(name);
        io("link", &link, symlink("busybox", &link))?;
    }
    let etc = root.join("etc");
    io("write", &etc, fs::write(etc.join("hosts"), "127.0.0.1 localhost\n"))?;
    io("write", &etc, fs::write(etc.join("hostname"), "vm\n"))?;
    io("write", &etc, fs::write(etc.join("passwd"), "root:x:0:0:root:/root:/bin/sh\n"))?;
    if suite.name == systemd::SUITE {
        systemd::fill(root)?;
    }
    if suite.measures() { fill_for_bench(root) } else { fill_for_tests(root, suite) }
}

/// The runtimes to measure, ours as it is shipped, and what measures them.
fn fill_for_bench(root: &Path) -> Result<(), String> {
    let programs = root.join(PROGRAMS);
    copy(&paths::runtime(), &programs.join("kobune-runtime"))?;
    let bench = root.join(programs::IN_GUEST.trim_start_matches('/'));
    io("make directory", &bench, fs::create_dir_all(&bench))?;
    for name in programs::OF_C {
        copy(&programs::compile(name)?, &bench.join(name))?;
    }
    ["crun", "runc"].iter().try_for_each(|name| copy_with_libraries(Path::new(name), root))
}

fn fill_for_tests(root: &Path, suite: &Suite) -> Result<(), String> {
    let programs = root.join(PROGRAMS);
    copy(&paths::beside("kobune-runtime"), &programs.join("kobune-runtime"))?;
    copy(&paths::kobune(), &programs.join("kobune"))?;
    copy(&paths::testapp(), &programs.join("testapp"))?;
    if let Some(kubectl) = paths::kubectl() {
        copy(&real_kubectl(&kubectl), &programs.join("kubectl"))?;
    }
    for name in ["ip", "nft", "crun", "runc", "apparmor_parser"] {
        copy_with_libraries(Path::new(name), root)?;
    }
    if suite.name == ENGINES {
        fill_for_engines(root)?;
    }
    let examples = root.join("kobune/examples");
    io("make directory", &examples, fs::create_dir_all(&examples))?;
    let source = paths::root().join("examples");
    for entry in io("list", &source, fs::read_dir(&source))?.flatten() {
        if entry.path().is_file() {
            let to = examples.join(entry.file_name());
            io("copy", &to, fs::copy(entry.path(), &to))?;
        }
    }
    let images = image::standard().map_err(|error| format!("make the test images: {error}"))?;
    for archive in images {
        let name = archive.file_name().unwrap_or_default();
        copy(&archive, &programs.join(name))?;
    }
    Ok(())
}

fn fill_for_engines(root: &Path) -> Result<(), String> {
    ENGINES_NEED.iter().try_for_each(|name| copy_with_libraries(Path::new(name), root))?;
    // busybox' shell prefers what is built into it to what is on PATH.
    let shell = root.join("bin/sh");
    io("remove", &shell, fs::remove_file(&shell))?;
    io("link", &shell, symlink("/usr/sbin/dash", &shell))
}

/// Google's SDK installs a dispatcher that looks for its versions beside itself: take the newest of those that
/// the API server's version asks for.
fn real_kubectl(kubectl: &Path) -> PathBuf {
    let path = kubectl.canonicalize().unwrap_or_else(|_| kubectl.to_path_buf());
    let version = path.with_file_name("kubectl.1.33");
    if version.is_file() { version } else { path }
}

/// A dynamically linked program of the host, by name or path, with everything that ldd names, at the same places.
pub(super) fn copy_with_libraries(name: &Path, root: &Path) -> Result<(), String> {
    let program = match name.is_absolute() {
        true => name.to_owned(),
        false => paths::on_path(&name.to_string_lossy())
            .ok_or_else(|| format!("no {} on PATH", name.display()))?,
    };
    let libraries = prepare(Command::new("ldd").arg(&program))?;
    let paths = libraries.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new);
    for path in paths {
        let to = root.join(path.strip_prefix("/").unwrap_or(path));
        let dir = to.parent().unwrap_or(root);
        io("make directory", dir, fs::create_dir_all(dir))?;
        copy(path, &to)?;
    }
    copy(&program, &root.join("usr/sbin").join(program.file_name().unwrap_or_default()))
}

pub(super) fn copy(from: &Path, to: &Path) -> Result<(), String> {
    io("copy", from, fs::copy(from, to))?;
    io("chmod", to, fs::set_permissions(to, fs::Permissions::from_mode(0o755)))
}
