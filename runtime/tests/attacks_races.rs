//! Attacks that need a race: a directory of a shared volume and a link to the host change places as fast as they can,
//! while containers mount below it. Bounded by rounds and by time. Needs root and busybox-static.
//!
//! Seen failing with RESOLVE_IN_ROOT taken out of `create/inside.rs`: directories and devices appeared on the host in the
//! first rounds. The console's with its place opened by name, the null device's without a look at what it is.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::bundle::Bundle;
use serde_json::{Value, json};

const ROUNDS: u32 = 120;
const TIME: Duration = Duration::from_secs(8);

/// Exchanges two names until dropped.
struct Swapper {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Swapper {
    fn new(one: &Path, other: &Path) -> Swapper {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (one, other) = (one.to_owned(), other.to_owned());
        let (over, done) = (stop.clone(), count.clone());
        let thread = std::thread::spawn(move || {
            use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
            while !over.load(Ordering::Relaxed) {
                let flags = RenameFlags::RENAME_EXCHANGE;
                renameat2(AT_FDCWD, &one, AT_FDCWD, &other, flags).unwrap();
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
        Swapper { stop, count, thread: Some(thread) }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
            assert!(self.count.load(Ordering::Relaxed) > 100, "hardly any race");
        }
    }
}

/// A host directory that nobody may write to, and a volume in which `x` is now a directory, now a link to it.
struct Arena {
    directory: tempfile::TempDir,
}

impl Arena {
    fn new() -> Arena {
        let directory = tempfile::Builder::new().prefix("kobune-race-").tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["host/inner", "volume/x/inner"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        fs::write(at("host/file"), "the host's").unwrap();
        fs::write(at("volume/x/file"), "the volume's").unwrap();
        // As seen from the host's root, and from wherever the volume is.
        let up = format!("../../../../../../../..{}", at("host").display());
        symlink(up, at("volume/link")).unwrap();
        Arena { directory }
    }

    fn volume(&self) -> std::path::PathBuf {
        self.directory.path().join("volume")
    }

    fn race(&self) -> Swapper {
        Swapper::new(&self.volume().join("x"), &self.volume().join("link"))
    }

    fn assert_host_untouched(&self) {
        let host = self.directory.path().join("host");
        let mut names: Vec<_> =
            fs::read_dir(&host).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["file", "inner"], "something was made on the host");
        assert_eq!(fs::read_dir(host.join("inner")).unwrap().count(), 0);
        assert_eq!(fs::read(host.join("file")).unwrap(), b"the host's");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.directory.path().to_str().unwrap()), "mounted on the host");
    }
}

fn mounts(config: &mut Value) -> &mut Vec<Value> {
    config["mounts"].as_array_mut().unwrap()
}

/// Runs the bundle again and again, as long as the race is on; returns how often it ran well.
fn run_often(bundle: &Bundle, mut check: impl FnMut(&str)) -> u32 {
    let end = Instant::now() + TIME;
    let mut fine = 0;
    for _ in 0..ROUNDS {
        let output = bundle.runtime("run --bundle BUNDLE ID");
        if output.status.success() {
            fine += 1;
            check(&String::from_utf8_lossy(&output.stdout));
        }
        if Instant::now() > end {
            break;
        }
    }
    fine
}

/// CVE-2021-30465: the place of a mount becomes a link to the host. CVE-2024-45310: so do the parents of what is made for
/// it.
#[test]
fn mounts_below_a_shared_volume() {
    let arena = Arena::new();
    let bundle = Bundle::new("race-mount", &["/bin/cat", "/proc/self/mountinfo"]);
    bundle.configure(|config| {
        let volume = arena.volume();
        mounts(config).extend([
            json!({"destination": "/vol", "type": "bind", "source": volume, "options": ["rbind"]}),
            json!({"destination": "/vol/x/inner", "type": "tmpfs", "source": "raced"}),
            json!({"destination": "/vol/x/made/deep", "type": "tmpfs", "source": "raced"}),
            json!({"destination": "/vol/x/bound", "type": "bind", "source": volume.join("x/file"),
                   "options": ["bind"]}),
        ]);
        config["process"]["cwd"] = "/vol/x/cwd".into();
    });
    let race = arena.race();
    let fine = run_often(&bundle, |mountinfo| {
        for line in mountinfo.lines().filter(|line| line.contains(" raced ")) {
            let point = line.split(' ').nth(4).unwrap();
            let host = arena.directory.path().join("host");
            let inside = point.starts_with("/vol/") || point.starts_with(host.to_str().unwrap());
            assert!(inside, "mounted on {point}");
        }
    });
    drop(race);
    assert!(fine > 0, "it never ran");
    arena.assert_host_untouched();
}

/// CVE-2025-52565: the place of /dev/console, swapped while the terminal is set up.
#[test]
fn the_console() {
    let arena = Arena::new();
    let dev = arena.volume().join("x");
    let bundle = Bundle::new("race-console", &["/bin/true"]);
    let (real, link) = (dev.join("console"), dev.join("link"));
    fs::write(&real, "").unwrap();
    symlink(arena.directory.path().join("host/file"), &link).unwrap();
    bundle.configure(|config| {
        mount_dev(config, &dev);
        config["process"]["terminal"] = true.into();
        // There is no null device to hide anything under.
        config["linux"]["maskedPaths"] = json!([]);
    });
    let race = Swapper::new(&real, &link);
    assert!(with_terminals(&bundle) > 0, "it never ran");
    drop(race);
    fs::remove_file(&real).unwrap();
    fs::remove_file(&link).unwrap();
    arena.assert_host_untouched();
}

/// The same one directory higher: /dev of a root that somebody else has, too, becomes a link to the host's directory.
#[test]
fn the_directory_of_devices() {
    let arena = Arena::new();
    let bundle = Bundle::new("race-dev", &["/bin/true"]);
    let (real, link) = (bundle.rootfs().join("dev"), bundle.rootfs().join("link"));
    fs::create_dir_all(real.join("pts")).unwrap();
    symlink(format!("../../../..{}", arena.directory.path().join("host").display()), &link)
        .unwrap();
    bundle.configure(|config| {
        mounts(config).retain(|mount| {
            let place = mount["destination"].as_str().unwrap();
            !place.starts_with("/dev") || place == "/dev/pts"
        });
        config["process"]["terminal"] = true.into();
        config["linux"]["maskedPaths"] = json!([]);
    });
    let race = Swapper::new(&real, &link);
    with_terminals(&bundle);
    drop(race);
    arena.assert_host_untouched();
}

fn mount_dev(config: &mut Value, dev: &Path) {
    let mounts = mounts(config);
    mounts.retain(|mount| mount["destination"] != "/dev");
    mounts.insert(
        1,
        json!({"destination": "/dev", "type": "bind", "source": dev, "options": ["bind"]}),
    );
}

/// Runs the bundle, which has a terminal, as long as the race is on; returns how often it ran.
fn with_terminals(bundle: &Bundle) -> u32 {
    let console = bundle.directory.path().join("console.sock");
    let listener = std::os::unix::net::UnixListener::bind(&console).unwrap();
    listener.set_nonblocking(true).unwrap();
    let words = format!("run --detach --console-socket {} --bundle BUNDLE ID", console.display());
    let end = Instant::now() + TIME / 2;
    let mut fine = 0;
    for _ in 0..ROUNDS / 2 {
        fine += u32::from(bundle.runtime(&words).status.success());
        while listener.accept().is_ok() {}
        bundle.good("delete --force ID");
        if Instant::now() > end {
            break;
        }
    }
    fine
}

/// CVE-2025-31133 with a racing /dev/null: what hides a masked path is the null device or nothing.
#[test]
fn the_null_device() {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let arena = Arena::new();
    let dev = arena.volume().join("x");
    let bundle = Bundle::new("race-null", &["/bin/sh", "-c", "echo pwned > /proc/version"]);
    let (real, link) = (dev.join("null"), dev.join("link"));
    mknod(&real, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).unwrap();
    symlink("/host/file", &link).unwrap();
    bundle.configure(|config| {
        mount_dev(config, &dev);
        config["linux"]["maskedPaths"] = json!(["/proc/version"]);
        let host = arena.directory.path().join("host");
        mounts(config).push(
            json!({"destination": "/host", "type": "bind", "source": host, "options": ["bind"]}),
        );
    });
    let race = Swapper::new(&real, &link);
    let fine = run_often(&bundle, |_| {});
    drop(race);
    assert!(fine > 0, "it never ran");
    arena.assert_host_untouched();
}

/// Devices and links that are made in a directory that becomes a link to the host's.
#[test]
fn devices_in_a_shared_volume() {
    let arena = Arena::new();
    let bundle = Bundle::new("race-device", &["/bin/true"]);
    bundle.configure(|config| {
        mounts(config).push(json!({
            "destination": "/vol", "type": "bind", "source": arena.volume(), "options": ["rbind"],
        }));
        config["linux"]["devices"] = json!([
            {"path": "/vol/x/device", "type": "c", "major": 1, "minor": 3},
            {"path": "/vol/x/made/fifo", "type": "p", "major": 0, "minor": 0},
        ]);
        config["linux"]["maskedPaths"] = json!(["/vol/x/file", "/vol/x/inner"]);
        config["linux"]["readonlyPaths"] = json!(["/vol/x/made"]);
    });
    let race = arena.race();
    run_often(&bundle, |_| {});
    drop(race);
    arena.assert_host_untouched();
}
