//! A process that cannot be ended does not hold its Pod up. Needs root, busybox-static and fuse in the kernel: a request
//! that its server has read and not answered keeps a process in uninterruptible sleep, however often it is killed.

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use common::Pod;
use kobune_runtime::wire::{Request, Response};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

// Operations and errors of linux/fuse.h.
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const ENOENT: i32 = 2;
const ENOSYS: i32 = 38;

/// A file system with an empty root; looking a name up waits until it is told to go on.
struct Stuck {
    device: File,
    /// The unanswered requests.
    asked: Receiver<u64>,
    at: std::path::PathBuf,
}

fn reply(mut device: &File, unique: u64, error: i32, body: &[u8]) {
    let length = 16 + body.len() as u32;
    let parts = [&length.to_ne_bytes()[..], &(-error).to_ne_bytes(), &unique.to_ne_bytes(), body];
    // The other side may have gone away.
    let _ = device.write(&parts.concat());
}

/// `struct fuse_init_out` of protocol 7.31.
fn init_out() -> Vec<u8> {
    let mut out = vec![0u8; 64];
    out[0..4].copy_from_slice(&7u32.to_ne_bytes());
    out[4..8].copy_from_slice(&31u32.to_ne_bytes());
    out[20..24].copy_from_slice(&4096u32.to_ne_bytes());
    out
}

/// `struct fuse_attr_out` of a directory that everybody may enter.
fn root_attributes() -> Vec<u8> {
    let mut out = vec![0u8; 104];
    out[16..24].copy_from_slice(&1u64.to_ne_bytes());
    out[76..80].copy_from_slice(&0o40755u32.to_ne_bytes());
    out[80..84].copy_from_slice(&2u32.to_ne_bytes());
    out
}

impl Stuck {
    fn mount(at: &Path) -> Stuck {
        fs::create_dir_all(at).unwrap();
        let device = File::options().read(true).write(true).open("/dev/fuse");
        let device = device.expect("/dev/fuse: these tests need fuse in the kernel");
        let fd = device.as_raw_fd();
        let options = format!("fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other");
        mount(Some("stuck"), at, Some("fuse"), MsFlags::empty(), Some(options.as_str())).unwrap();
        let (ask, asked) = channel();
        let mut server = device.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut buffer = vec![0u8; 64 * 1024];
            // Until it is unmounted.
            while let Ok(length) = server.read(&mut buffer) {
                assert!(length >= 40);
                let operation = u32::from_ne_bytes(buffer[4..8].try_into().unwrap());
                let unique = u64::from_ne_bytes(buffer[8..16].try_into().unwrap());
                match operation {
                    INIT => reply(&server, unique, 0, &init_out()),
                    GETATTR => reply(&server, unique, 0, &root_attributes()),
                    LOOKUP => ask.send(unique).unwrap_or(()),
                    FORGET | INTERRUPT => {}
                    _ => reply(&server, unique, ENOSYS, &[]),
                }
            }
        });
        Stuck { device, asked, at: at.to_owned() }
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        for unique in self.asked.try_iter() {
            reply(&self.device, unique, ENOENT, &[]);
        }
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_process_that_cannot_end_does_not_hold_the_pod_up() {
    let pod = Pod::new();
    let stuck = Stuck::mount(&pod.directory.path().join("stuck"));
    let source = stuck.at.clone();
    let script = "cat /stuck/file & until [ -e /go ]; do sleep 0.05; done";
    pod.start("app", &["/bin/sh", "-c", script], |config| {
        // With a pid namespace the first process would not end before the last.
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
        config["mounts"].as_array_mut().unwrap().push(json!({
            "destination": "/stuck", "type": "bind", "source": source, "options": ["bind"],
        }));
    });
    let unique = stuck.asked.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
    let mut client = pod.client();
    let kill = Request::Kill { container: "app".into(), signal: libc::SIGKILL };
    assert_eq!(client.call(&kill).unwrap(), Response::Ok);
    pod.wait("app");
    let removed = client.call(&Request::Remove { container: "app".into() }).unwrap();
    assert_eq!(removed, Response::Ok);
    let cgroup = pod.cgroup.join("app");
    assert!(cgroup.exists(), "somebody lives there");
    // Others come and go meanwhile.
    pod.start("other", &["/bin/true"], |_| {});
    pod.wait("other");
    assert!(cgroup.exists());
    // The kernel gets its answer, the process ends, the cgroup goes: nobody asked for it again.
    reply(&stuck.device, unique, ENOENT, &[]);
    common::wait_until("the cgroup is removed", || !cgroup.exists());
    drop(stuck);
    pod.end();
}
