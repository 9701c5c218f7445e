//! Attacks that hit other runtimes, against ours: each runs, each fails, and the file of the host that it went for is
//! byte-identical. Here: what a container may get hold of. What lies in its /proc and /dev is in `attacks_proc.rs`, what
//! our own input says in `attacks_input.rs`, races in `attacks_races.rs`. Needs root and busybox-static.
//!
//! Each was seen failing, for its own reason, with protections taken out for a moment: our program (the shield; the look
//! at the image's program), leaks (`working_directory_is_inside`, `close_from`), redirected /proc and /sys
//! (`RESOLVE_IN_ROOT`), inheritable capabilities, the cgroup namespace together with our part of the host's tree, an exec
//! that stays in the host's tree, modes of sockets and an abstract one. Do that in a pid namespace of its own.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::time::{Duration, Instant};

use common::bundle::Bundle;
use common::host::{Host, SOON, ended, tells};
use serde_json::{Value, json};

/// CVE-2019-5736: a container gets hold of /proc/<pid>/exe of the runtime that enters it and writes to it when nobody
/// executes it any more. A copy of our program is at stake.
#[test]
fn our_program_is_not_overwritten() {
    let bundle = Bundle::new("attack-exe", &["/attack"]);
    let copy = bundle.directory.path().join("runtime");
    fs::copy(common::program(), &copy).unwrap();
    let before = fs::read(&copy).unwrap();
    let script = "#!/bin/sh\nwhile :; do for p in /proc/[0-9]*; do\n\
        case $p in /proc/1) continue;; esac\n\
        { n=0; while [ $n -lt 2000 ]; do n=$((n+1)); echo pwned >> /proc/self/fd/4; done; } 4< $p/exe\n\
        done; done 2>/dev/null\n";
    for (name, text) in [("attack", script), ("self", "#!/proc/self/exe\n")] {
        let path = bundle.rootfs().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    symlink("/proc/self/exe", bundle.rootfs().join("link")).unwrap();
    let run = |words: &[&str]| {
        let mut command = Command::new(&copy);
        command.arg("--root").arg(bundle.directory.path().join("state")).args(words);
        ended(command, &bundle.directory.path().join("errors"))
    };
    // Container `a`: nobody is there yet, so only its own program could be us.
    for program in ["/self", "/link", "/proc/self/exe"] {
        bundle.configure(|config| config["process"]["args"] = json!([program, "features"]));
        let (fine, error) =
            run(&["run", "--bundle", bundle.directory.path().to_str().unwrap(), "a"]);
        assert!(!fine && error.contains("text file busy"), "{program}: {error}");
    }
    bundle.configure(|config| config["process"]["args"] = json!(["/attack"]));
    let path = bundle.directory.path().to_str().unwrap();
    let (fine, error) = run(&["run", "--detach", "--bundle", path, &bundle.id]);
    assert!(fine, "{error}");
    let end = Instant::now() + Duration::from_secs(4);
    let mut rounds = 0;
    while rounds < 30 || Instant::now() < end && rounds < 200 {
        for program in ["/bin/true", "/self", "/link"] {
            run(&["exec", &bundle.id, program, "features"]);
        }
        rounds += 1;
        assert!(fs::read(&copy).unwrap() == before, "overwritten in round {rounds}");
    }
    let (fine, error) = run(&["delete", "--force", &bundle.id]);
    assert!(fine, "{error}");
    assert!(fs::read(&copy).unwrap() == before, "overwritten");
}

/// CVE-2016-9962, CVE-2024-21626: a descriptor or working directory of the host side that leaks.
#[test]
fn nothing_of_the_caller_leaks() {
    let host = Host::new();
    let bundle = Bundle::new("attack-leak", &["/bin/sleep", "1000"]);
    // Not close-on-exec, as careless callers have them.
    let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_DIRECTORY;
    let leaked = nix::fcntl::open(host.path(), flags, nix::sys::stat::Mode::empty()).unwrap();
    bundle.configure(|config| config["process"]["args"] = json!(["/bin/ls", "/proc/self/fd"]));
    // 3 is what ls opens.
    assert_eq!(bundle.output(), "0\n1\n2\n3\n");
    for number in 3..24 {
        let cwd = format!("/proc/self/fd/{number}");
        bundle.configure(|config| {
            config["process"]["args"] = json!(["/bin/sh", "-c", "cat file ../file ./file"]);
            config["process"]["cwd"] = cwd.clone().into();
        });
        let output = bundle.runtime("run --bundle BUNDLE ID");
        assert!(!tells(&output.stdout), "{cwd}: read the host's file");
        assert!(!output.status.success(), "{cwd}");
        let _ = bundle.runtime("delete --force ID");
    }
    bundle.configure(|config| {
        config["process"]["args"] = json!(["/bin/sleep", "1000"]);
        config["process"]["cwd"] = "/".into();
    });
    bundle.start();
    assert_eq!(bundle.good("exec ID /bin/ls /proc/self/fd"), "0\n1\n2\n3\n");
    for number in 3..24 {
        bundle.bad(&format!("exec --cwd /proc/self/fd/{number} ID /bin/true"));
    }
    drop(leaked);
    host.assert_untouched();
}

/// CVE-2019-19921, CVE-2023-27561, CVE-2023-28642: /proc or /sys of the rootfs is a link to somewhere else.
#[test]
fn proc_and_sys_are_not_redirected() {
    for name in ["proc", "sys"] {
        let bundle = Bundle::new(&format!("attack-{name}"), &["/bin/true"]);
        let _ = fs::remove_dir(bundle.rootfs().join(name));
        fs::create_dir(bundle.rootfs().join("elsewhere")).unwrap();
        symlink("elsewhere", bundle.rootfs().join(name)).unwrap();
        let error = bundle.refused();
        assert!(error.contains(&format!("on \"/{name}\"")), "{error}");
    }
}

/// CVE-2022-29162: inheritable capabilities of run and exec are what the config says, and that is nothing.
#[test]
fn nothing_is_inheritable() {
    let bundle = Bundle::new("attack-inh", &["/bin/grep", "CapInh", "/proc/self/status"]);
    assert_eq!(bundle.output(), "CapInh:\t0000000000000000\n");
    bundle.configure(|config| config["process"]["args"] = json!(["/bin/sleep", "1000"]));
    bundle.start();
    for more in ["", "--cap CAP_NET_RAW", "--user 7:7"] {
        let text = bundle.good(&format!("exec {more} ID /bin/grep CapInh /proc/self/status"));
        assert_eq!(text, "CapInh:\t0000000000000000\n", "{more}");
    }
}

/// CVE-2023-25809, CVE-2022-0492: no cgroup of others is in sight, and no version 1 hierarchy with its release agent.
#[test]
fn no_cgroup_but_its_own() {
    let bundle = Bundle::new("attack-cgroup", &["/bin/true"]);
    let script = "grep -c -E ' - cgroup ' /proc/self/mountinfo; \
        find /sys/fs/cgroup -name release_agent | wc -l; find /sys/fs/cgroup -type d | wc -l; \
        mkdir /sys/fs/cgroup/x 2>/dev/null && echo made; \
        (echo 1 > /sys/fs/cgroup/cgroup.freeze) 2>/dev/null && echo frozen; true";
    assert_eq!(bundle.sh(script), "0\n0\n1\n");
    // The same without a cgroup namespace: the mount must not show the host's tree.
    bundle.configure(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "cgroup");
    });
    assert_eq!(bundle.sh(script), "0\n0\n1\n");
}

/// A container that has changed its own root, or hidden it, before somebody enters it.
#[test]
fn exec_into_a_container_that_changed_its_root() {
    let host = Host::new();
    for script in [
        // Another root in its mount namespace.
        "mount -t tmpfs x /tmp && mkdir /tmp/old /tmp/bin /tmp/proc && cp /bin/busybox /tmp/bin/sh && \
         cp /bin/busybox /tmp/bin/cat && cp /bin/busybox /tmp/bin/sleep && \
         /bin/busybox pivot_root /tmp /tmp/old && exec /bin/sleep 1000",
        // Nothing at all on top of everything.
        "mount -t tmpfs x / ; exec /bin/sleep 1000",
        // A false /proc.
        "mkdir /p && mount -t tmpfs x /p && mkdir /p/self && /bin/busybox ln -s / /p/self/root && \
         mount -t tmpfs y /proc && exec /bin/sleep 1000",
        // Its own processes in a smaller root.
        "mkdir -p /jail/bin && cp /bin/busybox /jail/bin/sleep && exec chroot /jail /bin/sleep 1000",
    ] {
        let bundle = Bundle::new("attack-root", &["/bin/sh", "-c", script]);
        for tool in ["cp", "chroot", "ln"] {
            symlink("busybox", bundle.rootfs().join("bin").join(tool)).unwrap();
        }
        bundle.configure(|config| {
            for set in ["bounding", "effective", "permitted"] {
                let set = config["process"]["capabilities"][set].as_array_mut().unwrap();
                set.extend(["CAP_SYS_ADMIN", "CAP_SYS_CHROOT"].map(Value::from));
            }
        });
        let pid = bundle.start();
        let end = Instant::now() + SOON;
        while !fs::read(format!("/proc/{pid}/cmdline"))
            .unwrap_or_default()
            .starts_with(b"/bin/sleep")
        {
            assert!(Instant::now() < end && common::is_alive(pid), "{script}: it ended");
            std::thread::sleep(Duration::from_millis(2));
        }
        let look = format!("cat {0} /proc/1/root{0} ../../../..{0}", host.file().display());
        let output = bundle.run(&["exec", "ID", "/bin/sh", "-c", &look]);
        assert!(!tells(&output.stdout), "{script}: read the host's file");
        host.assert_untouched();
    }
}

/// CVE-2020-15257: an abstract socket can be reached from every container on the host's network.
#[test]
fn our_sockets_are_files_of_root() {
    let bundle = Bundle::new("attack-socket", &["/bin/sleep", "1000"]);
    bundle.good("create --bundle BUNDLE ID");
    let state = bundle.directory.path().join("state").join(&bundle.id);
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
    let pod = common::Pod::new();
    let socket = fs::metadata(pod.pod_dir().join("supervisor.sock")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    // Every socket that one of ours listens at has a path: abstract names are shown with an @.
    let table = fs::read_to_string("/proc/net/unix").unwrap();
    let ours: Vec<_> = table
        .lines()
        .filter(|line| {
            line.contains("@") && (line.contains("kobune") || line.contains("start.sock"))
        })
        .collect();
    assert!(ours.is_empty(), "{ours:?}");
    pod.end();
}
