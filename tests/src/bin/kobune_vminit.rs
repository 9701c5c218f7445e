//! Process 1 of the test machine: from the initramfs to the suite, and off.
//!
//! ```text
//! mount proc, sys, dev -> load /modules/NNN.ko in order -> mount /dev/vda on /newroot
//!   -> move the mounts there, make it the root (pivot_root needs a root that is no initramfs)
//!   -> cgroup2, tmpfs on /run and /tmp, loopback up -> run the suite, reap orphans
//!   -> say "exit N" on the second serial port -> power off
//! ```
//!
//! It never decides about tests: their exit code goes out as it came.

use std::error::Error;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use kobune_tests::harness::namespaces::loopback_up;
use kobune_tests::vm::guest::{EXIT, RESULT_PORT, parameter};
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, chroot, sethostname};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() {
    let code = match boot().and_then(|()| run_suite()) {
        Ok(code) => code,
        Err(error) => {
            println!("vminit: {error}");
            255
        }
    };
    let _ = fs::write(RESULT_PORT, format!("{EXIT} {code}\n"));
    nix::unistd::sync();
    let _ = reboot(RebootMode::RB_POWER_OFF);
}

fn boot() -> Outcome<()> {
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        mount_at(kind, kind, at)?;
    }
    load_modules()?;
    wait_for(Path::new("/dev/vda"))?;
    mount_at("/dev/vda", "ext4", "/newroot")?;
    for dir in ["proc", "sys", "dev"] {
        let (from, to) = (format!("/{dir}"), format!("/newroot/{dir}"));
        mount(Some(from.as_str()), to.as_str(), None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .map_err(|error| format!("move {from} to {to}: {error}"))?;
    }
    chdir("/newroot")?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    chroot(".")?;
    chdir("/")?;
    // As systemd does: what one mounts later is seen by namespaces made earlier.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>)?;
    for (kind, at) in [("cgroup2", "/sys/fs/cgroup"), ("tmpfs", "/run"), ("tmpfs", "/tmp")] {
        mount_at(kind, kind, at)?;
    }
    for (kind, at) in [("devpts", "/dev/pts"), ("tmpfs", "/dev/shm")] {
        fs::create_dir_all(at)?;
        mount_at(kind, kind, at)?;
    }
    sethostname("vm")?;
    loopback_up()?;
    Ok(())
}

fn mount_at(source: &str, kind: &str, at: &str) -> Outcome<()> {
    mount(Some(source), at, Some(kind), MsFlags::empty(), None::<&str>)
        .map_err(|error| format!("mount {kind} on {at}: {error}").into())
}

/// The file names sort in load order.
fn load_modules() -> Outcome<()> {
    let mut files: Vec<_> = fs::read_dir("/modules")?.flatten().map(|e| e.path()).collect();
    files.sort();
    for path in files {
        let file = File::open(&path)?;
        finit_module(file, c"", ModuleInitFlags::empty())
            .map_err(|error| format!("load {}: {error}", path.display()))?;
    }
    Ok(())
}

/// virtio devices are found in the background.
fn wait_for(device: &Path) -> Outcome<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !device.exists() {
        if Instant::now() > deadline {
            return Err(format!("no {}", device.display()).into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Runs /kobune/deps/suite to its end while reaping everybody's orphans.
fn run_suite() -> Outcome<i32> {
    let name = parameter("kobune.suite").ok_or("no kobune.suite on the command line")?;
    println!("vminit: {name}, boot {}", parameter("kobune.boot").unwrap_or_default());
    let child = Command::new("/kobune/deps/suite")
        // A suite that measures prints its tables.
        .args(["--include-ignored", "--test-threads=1", "--nocapture"])
        .env_clear()
        .env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin")
        .env("HOME", "/root")
        .env("KOBUNE_BIN", "/kobune/kobune")
        .env("KOBUNE_RUNTIME", "/kobune/kobune-runtime")
        .env("KOBUNE_TESTAPP", "/kobune/testapp")
        .env("KOBUNE_EXAMPLES", "/kobune/examples")
        .env("KOBUNE_TEST_IMAGES", "/kobune")
        .env("KUBECTL", "/kobune/kubectl")
        .env("KOBUNE_PATIENCE", "10")
        .spawn()
        .map_err(|error| format!("run /kobune/deps/suite: {error}"))?;
    let suite = Pid::from_raw(i32::try_from(child.id())?);
    loop {
        let status = match waitpid(None, None)? {
            WaitStatus::Exited(pid, code) if pid == suite => code,
            WaitStatus::Signaled(pid, signal, _) if pid == suite => {
                let status = ExitStatus::from_raw(signal as i32);
                println!("vminit: the suite died: {status}");
                128 + signal as i32
            }
            _ => continue,
        };
        return Ok(status);
    }
}
