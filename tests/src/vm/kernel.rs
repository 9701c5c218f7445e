//! Fetches Debian's cloud kernel without installing it: the .deb is downloaded and unpacked into a cache
//! under target/. Builds the initramfs from it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cpio::Archive;
use super::modules::{WANTED, load_order};
use super::{io, prepare};
use crate::paths;

/// The package that always names the newest one.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// An unpacked kernel package.
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    /// `lib/modules/VERSION`, with modules.dep.
    modules: PathBuf,
}

/// The newest kernel of the distribution, from the cache when it is there. Without package lists or
/// network, any cached one.
pub(super) fn fetch(cache: &Path) -> Result<Kernel, String> {
    let package = match newest() {
        Ok(package) => package,
        Err(error) => return cached(cache).ok_or(error),
    };
    let dir = cache.join(&package);
    if !dir.join("complete").exists() {
        unpack(&package, &dir)?;
    }
    kernel_in(&dir)
}

/// What the meta package depends on.
fn newest() -> Result<String, String> {
    let lookup = || {
        let text = prepare(Command::new("apt-cache").args(["depends", META_PACKAGE]))?;
        let name = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        name.map(str::to_owned).ok_or_else(|| format!("no dependency of {META_PACKAGE} is known"))
    };
    lookup().or_else(|_| {
        prepare(Command::new("apt-get").args(["update", "-q"]))?;
        lookup()
    })
}

fn unpack(package: &str, dir: &Path) -> Result<(), String> {
    eprintln!("fetching {package}");
    if dir.exists() {
        io("remove", dir, fs::remove_dir_all(dir))?;
    }
    io("make directory", dir, fs::create_dir_all(dir))?;
    prepare(Command::new("apt-get").args(["download", "-q", package]).current_dir(dir))?;
    let deb = find(dir, |name| name.ends_with(".deb"))?;
    prepare(Command::new("dpkg").arg("-x").arg(&deb).arg(dir))?;
    io("remove", &deb, fs::remove_file(&deb))?;
    let version = package.trim_start_matches("linux-image-");
    let depmod = paths::on_path("depmod").ok_or("no depmod (package kmod)")?;
    prepare(Command::new(depmod).arg("-b").arg(dir).arg(version))?;
    let mark = dir.join("complete");
    io("write", &mark, fs::write(&mark, ""))
}

fn cached(cache: &Path) -> Option<Kernel> {
    let mut dirs: Vec<_> = fs::read_dir(cache).ok()?.flatten().map(|entry| entry.path()).collect();
    dirs.sort();
    let dir = dirs.iter().rev().find(|dir| dir.join("complete").exists())?;
    kernel_in(dir).ok()
}

fn kernel_in(dir: &Path) -> Result<Kernel, String> {
    let image = find(&dir.join("boot"), |name| name.starts_with("vmlinuz-"))?;
    let modules = find(&dir.join("lib/modules"), |_| true)?;
    Ok(Kernel { image, modules })
}

fn find(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf, String> {
    let entries = io("list", dir, fs::read_dir(dir))?;
    let found = entries.flatten().find(|entry| entry.file_name().to_str().is_some_and(&wanted));
    found.map(|entry| entry.path()).ok_or_else(|| format!("{}: not as expected", dir.display()))
}

impl Kernel {
    /// Our init as `/init`, and the modules as `/modules/NNN.ko`: the number is the load order.
    pub(super) fn initramfs(&self) -> Result<Vec<u8>, String> {
        let mut archive = Archive::default();
        for dir in ["dev", "proc", "sys", "newroot", "modules"] {
            archive.directory(dir);
        }
        let init = paths::beside("kobune_vminit");
        archive.file("init", 0o755, &io("read", &init, fs::read(&init))?);
        let table = self.modules.join("modules.dep");
        let table = io("read", &table, fs::read_to_string(&table))?;
        for (at, path) in load_order(&table, WANTED).iter().enumerate() {
            let file = self.modules.join(path);
            let content = io("read", &file, fs::read(&file))?;
            archive.file(&format!("modules/{at:03}.ko"), 0o644, &content);
        }
        Ok(archive.finish())
    }
}
