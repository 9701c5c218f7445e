//! The namespaces of a [`super::Host`]: made once, entered by threads. No command is needed for either.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

pub use crate::sys::net::loopback_up;

/// Open namespaces; they live as long as this value or a process in them.
pub struct Namespaces {
    net: OwnedFd,
    mnt: OwnedFd,
    /// Inode number of the mount namespace: which processes are inside.
    mnt_inode: u64,
    /// The mounts that were there at the beginning: the machine's. They may go at any time, with
    /// whoever made them.
    inherited: BTreeSet<String>,
}

impl Namespaces {
    /// New namespaces: loopback up, mounts private, an empty `/run`.
    pub fn new() -> Result<Self, String> {
        thread::spawn(Self::make).join().map_err(|_| "making namespaces panicked".to_owned())?
    }

    /// Runs in a thread of its own, which ends with it: namespaces belong to threads.
    fn make() -> Result<Self, String> {
        let flags = CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
        unshare(flags).map_err(|error| format!("make namespaces (root is needed): {error}"))?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
            .map_err(|error| format!("make mounts private: {error}"))?;
        mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .map_err(|error| format!("mount tmpfs on /run: {error}"))?;
        loopback_up().map_err(|error| format!("bring lo up: {error}"))?;
        let open = |kind: &str| {
            File::open(format!("/proc/thread-self/ns/{kind}"))
                .map_err(|error| format!("open the {kind} namespace: {error}"))
        };
        let mnt = open("mnt")?;
        let mnt_inode = mnt.metadata().map_err(|error| error.to_string())?.ino();
        let inherited = mounts().iter().map(|line| identity(line)).collect();
        Ok(Self { net: open("net")?.into(), mnt: mnt.into(), mnt_inode, inherited })
    }

    /// Runs `work` in a thread that has entered the namespaces. What it starts is inside, too.
    ///
    /// # Panics
    /// If `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(self.net.as_fd(), CloneFlags::CLONE_NEWNET).expect("enter the network");
            unshare(CloneFlags::CLONE_FS).expect("leave the shared working directory");
            setns(self.mnt.as_fd(), CloneFlags::CLONE_NEWNS).expect("enter the mounts");
            work()
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// What was mounted inside since the beginning, as lines of mountinfo.
    pub fn mounts(&self) -> BTreeSet<String> {
        let mounts = self.run(mounts);
        mounts.into_iter().filter(|line| !self.inherited.contains(&identity(line))).collect()
    }

    /// Whether the process (or thread) with that id lives in our mount namespace.
    pub fn holds(&self, pid: i32) -> bool {
        std::fs::metadata(format!("/proc/{pid}/ns/mnt"))
            .is_ok_and(|namespace| namespace.ino() == self.mnt_inode)
    }
}

/// The mounts that the calling thread sees (`/proc/self` would be the whole process').
fn mounts() -> BTreeSet<String> {
    let text = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("read mountinfo");
    text.lines().map(str::to_owned).collect()
}

/// Number and place of a mount: what stays when somebody changes its flags.
fn identity(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    format!("{} {}", words.first().unwrap_or(&""), words.get(4).unwrap_or(&""))
}
