//! What a container sees, may, and cannot reach. Needs root and busybox-static.

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use common::{Pod, exec, namespace, process};
use serde_json::{Value, json};

/// A pinned network namespace, gone again when dropped.
struct Netns {
    path: PathBuf,
}

impl Netns {
    fn new(directory: &Path) -> Netns {
        use nix::mount::{MsFlags, mount};
        use nix::sched::{CloneFlags, unshare};
        let path = directory.join("netns");
        fs::write(&path, "").unwrap();
        let target = path.clone();
        // Its own thread: the namespace of the others must not change.
        let pin = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let source = "/proc/thread-self/ns/net";
            mount(Some(source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        });
        pin.join().unwrap();
        Netns { path }
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.path, nix::mount::MntFlags::MNT_DETACH);
    }
}

fn mounts(config: &mut Value) -> &mut Vec<Value> {
    config["mounts"].as_array_mut().unwrap()
}

#[test]
fn two_containers_in_one_network_namespace() {
    let pod = Pod::new();
    let netns = Netns::new(pod.directory.path());
    let join = |config: &mut Value| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "network", "path": netns.path}));
    };
    let first = pod.start("a", &["/bin/sleep", "1000"], join);
    let second = pod.start("b", &["/bin/sleep", "1000"], join);
    assert_eq!(namespace(first, "net"), namespace(second, "net"));
    assert_ne!(namespace(first, "net"), namespace(std::process::id() as i32, "net"));
    for kind in ["pid", "mnt"] {
        assert_ne!(namespace(first, kind), namespace(second, kind));
    }
    let (_, links, _) = exec(&pod, "a", process(&["ls", "/sys/class/net"])).unwrap();
    assert_eq!(links, "lo\n");
    drop(netns);
    pod.end();
}

#[test]
fn a_sysctl_of_the_network_namespace_is_set_for_the_pod() {
    let directory = tempfile::tempdir().unwrap();
    let netns = Netns::new(directory.path());
    let sysctls = [("net.ipv4.ip_unprivileged_port_start", "7")];
    let pod = Pod::with_sysctls(&sysctls, Some(netns.path.clone()));
    let lines = pod.sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start", |config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "network", "path": netns.path}));
    });
    assert_eq!(lines, ["7"]);
    pod.end();
}

#[test]
fn nothing_of_the_host_is_open_or_visible() {
    let pod = Pod::new();
    let script = "ls /proc/self/fd; readlink /proc/self/fd/0; ls /; cat /proc/mounts | wc -l; \
                  grep -c kobune /proc/mounts; ls /dev; ls /proc | grep -c '^[0-9]'";
    let lines = pod.sh(script, |_| {}).join(" ");
    // 3 is what ls opens itself; busybox holds its script in 10 only when it reads from a file.
    assert!(lines.starts_with("0 1 2 3 /dev/null bin dev etc proc sys tmp usr "), "{lines}");
    let devices = "core fd full mqueue null ptmx pts random stderr stdin stdout tty urandom zero";
    assert!(lines.contains(&devices.replace("core ", "")), "{lines}");
    let (_, fds, _) = {
        pod.start("b", &["/bin/sleep", "1000"], |_| {});
        exec(&pod, "b", process(&["ls", "/proc/self/fd"])).unwrap()
    };
    assert_eq!(fds, "0\n1\n2\n3\n");
    pod.end();
}

#[test]
fn capabilities_user_and_privileges_are_as_written() {
    let pod = Pod::new();
    let script = "grep -E '^(Cap|NoNewPrivs|Uid|Gid|Groups)' /proc/self/status; umask";
    let lines = pod.sh(script, |config| {
        let process = &mut config["process"];
        process["user"] = json!({
            "uid": 1000, "gid": 2000, "additionalGids": [7, 8], "umask": 0o027,
        });
        process["noNewPrivileges"] = true.into();
        process["capabilities"]["inheritable"] = json!(["CAP_CHOWN"]);
        process["capabilities"]["ambient"] = json!(["CAP_CHOWN"]);
    });
    let text = lines.join("\n").replace('\t', " ");
    for expected in [
        "Uid: 1000 1000 1000 1000",
        "Gid: 2000 2000 2000 2000",
        "Groups: 7 8",
        "CapInh: 0000000000000001",
        "CapEff: 0000000000000001",
        "CapBnd: 00000000000004e1",
        "CapAmb: 0000000000000001",
        "NoNewPrivs: 1",
        "0027",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in {text}");
    }
    pod.end();
}

#[test]
fn root_has_the_listed_capabilities_only() {
    let pod = Pod::new();
    let lines = pod.sh("grep ^Cap /proc/self/status", |_| {}).join("\n").replace('\t', " ");
    for expected in ["CapInh: 0000000000000000", "CapEff: 00000000000004e1"] {
        assert!(lines.contains(expected), "{expected:?} is not in {lines}");
    }
    pod.start("b", &["/bin/sleep", "1000"], |_| {});
    let (_, status, _) = exec(&pod, "b", process(&["grep", "^Cap", "/proc/self/status"])).unwrap();
    assert!(status.contains("CapInh:\t0000000000000000"), "{status}");
    assert!(status.contains("CapEff:\t00000000000004e1"), "{status}");
    pod.end();
}

#[test]
fn limits_are_set_as_far_as_the_host_allows() {
    let pod = Pod::new();
    let lines = pod.sh("ulimit -n; cat /proc/self/oom_score_adj", |config| {
        config["process"]["rlimits"] = json!([
            {"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88},
            // Above what this process has: needs CAP_SYS_RESOURCE, and is not an error without.
            {"type": "RLIMIT_MEMLOCK", "soft": u64::MAX, "hard": u64::MAX},
        ]);
        config["process"]["oomScoreAdj"] = 500.into();
    });
    assert_eq!(lines, ["77", "500"]);
    pod.end();
}

#[test]
fn masked_and_readonly_paths() {
    let pod = Pod::new();
    let script = "cat /proc/meminfo | wc -c; echo x > /proc/meminfo && echo swallowed; \
                  ls /proc/tty | wc -l; touch /proc/tty/x 2>/dev/null || echo refused; \
                  (echo 1 > /proc/sys/kernel/hostname) 2>/dev/null || echo refused; \
                  touch /sys/x 2>/dev/null || echo refused; \
                  mkdir /sys/fs/cgroup/x 2>/dev/null || echo refused; touch /here && echo written";
    let lines = pod.sh(&format!("({script}) 2>&1"), |config| {
        config["linux"]["maskedPaths"] = json!(["/proc/meminfo", "/proc/tty", "/proc/no/such"]);
    });
    let expected = ["0", "swallowed", "0", "refused", "refused", "refused", "refused", "written"];
    assert_eq!(lines, expected);
    let lines = pod.sh("touch /here 2>/dev/null || echo refused", |config| {
        config["root"]["readonly"] = true.into();
    });
    assert_eq!(lines, ["refused"]);
    pod.end();
}

#[test]
fn the_container_sees_its_own_cgroup() {
    let pod = Pod::new();
    let lines = pod.sh("cat /proc/self/cgroup | grep ^0; cat /sys/fs/cgroup/cgroup.procs", |_| {});
    assert_eq!(lines[0], "0::/");
    // Itself and its cat, in its own numbering.
    assert_eq!(lines[1], "1");
    // The same without a cgroup namespace.
    let lines = pod.sh("cat /sys/fs/cgroup/cgroup.procs | head -n 1", |config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "cgroup");
    });
    assert_eq!(lines, ["1"]);
    pod.end();
}

#[test]
fn bind_mounts_of_directories_and_files() {
    let pod = Pod::new();
    let volume = pod.directory.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("file"), "content").unwrap();
    let script = "cat /data/file /etc/deep/hosts; echo x > /data/new && echo written; \
                  touch /ro/y 2>/dev/null || echo refused; touch /etc/deep/hosts 2>/dev/null || echo refused";
    let lines = pod.sh(script, |config| {
        mounts(config).extend([
            json!({"destination": "/data", "type": "bind", "source": volume, "options": ["rbind", "rprivate"]}),
            json!({"destination": "/ro", "type": "bind", "source": volume, "options": ["rbind", "ro"]}),
            json!({"destination": "/etc/deep/hosts", "source": volume.join("file"), "options": ["bind", "ro"]}),
        ]);
    });
    assert_eq!(lines, ["contentcontentwritten", "refused", "refused"]);
    assert_eq!(fs::read_to_string(volume.join("new")).unwrap(), "x\n");
    // The image's layer is untouched: mount points were made in the upper layer.
    assert!(!pod.directory.path().join("layer/data").exists());
    pod.end();
}

#[test]
fn links_of_the_image_do_not_lead_mounts_to_the_host() {
    let pod = Pod::new();
    let base = pod.directory.path();
    for directory in ["volume", "host"] {
        fs::create_dir(base.join(directory)).unwrap();
    }
    // /data and the parent of /a/b point to a directory of the host, absolutely and upwards.
    symlink(base.join("host"), base.join("layer/data")).unwrap();
    symlink(format!("../../../../../../..{}", base.join("host").display()), base.join("layer/a"))
        .unwrap();
    let script = format!("touch /data/x /a/b/y; ls {}", base.join("host").display());
    let lines = pod.sh(&script, |config| {
        let volume = base.join("volume");
        mounts(config).extend([
            json!({"destination": "/data", "source": volume, "options": ["bind"]}),
            json!({"destination": "/a/b", "source": volume, "options": ["bind"]}),
        ]);
    });
    // The path exists inside the container, under the same name.
    assert_eq!(lines, ["b", "x", "y"]);
    assert_eq!(fs::read_dir(base.join("host")).unwrap().count(), 0);
    pod.end();
}

#[test]
fn a_rootfs_that_redirects_proc_is_refused() {
    let pod = Pod::new();
    fs::create_dir(pod.directory.path().join("layer/fake")).unwrap();
    symlink("fake", pod.directory.path().join("layer/proc")).unwrap();
    let mut client = pod.client();
    let error = client.call(&pod.request("app", &["/bin/true"], |_| {})).unwrap_err();
    assert!(error.to_string().starts_with("mount proc on \"/proc\": "), "{error}");
    pod.end();
}

#[test]
fn a_null_device_that_is_none_masks_nothing() {
    let pod = Pod::new();
    let victim = pod.directory.path().join("victim");
    fs::write(&victim, "secret").unwrap();
    let mut client = pod.client();
    // A volume over /dev, whose null is a link to a file.
    let dev = pod.directory.path().join("dev");
    fs::create_dir(&dev).unwrap();
    symlink("/etc/passwd", dev.join("null")).unwrap();
    let request = pod.request("app", &["/bin/true"], |config| {
        let mounts = mounts(config);
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        mounts.push(json!({"destination": "/dev", "source": dev, "options": ["bind"]}));
    });
    let error = client.call(&request).unwrap_err();
    assert!(error.to_string().starts_with("mask \"/proc/"), "{error}");
    pod.end();
}

#[test]
fn a_working_directory_outside_is_refused() {
    let pod = Pod::new();
    for number in 3..12 {
        let mut client = pod.client();
        let request = pod.request("app", &["/bin/true"], |config| {
            config["process"]["cwd"] = format!("/proc/self/fd/{number}").into();
        });
        let refused = client.call(&request).is_err()
            || client
                .call(&kobune_runtime::wire::Request::Start { container: "app".into() })
                .is_err();
        assert!(refused, "descriptor {number} leads somewhere");
    }
    pod.end();
}

#[test]
fn a_working_directory_is_made() {
    let pod = Pod::new();
    let lines = pod.sh("pwd", |config| config["process"]["cwd"] = "/srv/new".into());
    assert_eq!(lines, ["/srv/new"]);
    pod.end();
}

#[test]
fn a_program_of_the_runtime_cannot_be_overwritten() {
    let pod = Pod::new();
    let program = fs::metadata(common::program()).unwrap();
    // The image asks us to execute ourselves; the result may be anything but a writable file.
    let (_, log) = pod.run(&["/proc/self/exe", "x"], |_| {});
    assert!(!log.is_empty());
    let script = "for i in /proc/[0-9]*/exe; do (echo x > $i) 2>/dev/null; done; true";
    pod.sh(script, |_| {});
    let exe = format!("/proc/{}/exe", pod.supervisor);
    // Not only busy now: reachable through a read-only mount only.
    let flags = nix::sys::statvfs::statvfs(exe.as_str()).unwrap().flags();
    assert!(flags.contains(nix::sys::statvfs::FsFlags::ST_RDONLY));
    assert!(fs::File::options().write(true).open(exe).is_err());
    let after = fs::metadata(common::program()).unwrap();
    assert_eq!((program.len(), program.mtime_nsec()), (after.len(), after.mtime_nsec()));
    pod.end();
}

#[test]
fn many_layers_and_long_paths() {
    let pod = Pod::new();
    let base = pod.directory.path().join("x".repeat(200)).join("y".repeat(200));
    let mut lower: Vec<PathBuf> = Vec::new();
    for number in 0..120 {
        let layer = base.join(format!("layer-{number}"));
        fs::create_dir_all(&layer).unwrap();
        fs::write(layer.join("top"), number.to_string()).unwrap();
        lower.push(layer);
    }
    lower.push(pod.directory.path().join("layer"));
    let mut request = pod.request("app", &["/bin/cat", "/top"], |_| {});
    let kobune_runtime::wire::Request::Create(create) = &mut request else { panic!() };
    let kobune_runtime::wire::Rootfs::Overlay { lower: wanted, .. } = &mut create.rootfs else {
        panic!()
    };
    *wanted = lower;
    let mut client = pod.client();
    client.call(&request).unwrap();
    client.call(&kobune_runtime::wire::Request::Start { container: "app".into() }).unwrap();
    assert_eq!(pod.wait("app").exit_code, Some(0));
    assert_eq!(pod.log("app"), ["stdout F 0"]);
    pod.end();
}

#[test]
fn devices_of_the_host_can_be_made_but_not_used() {
    let pod = Pod::new();
    // Some device that root may open on this host, and no container by default.
    let candidates = ["/dev/fuse", "/dev/loop0", "/dev/vda", "/dev/sda", "/dev/vcs", "/dev/rtc0"];
    let device = candidates.iter().find(|path| fs::File::open(path).is_ok());
    let metadata = fs::metadata(device.expect("this test needs a device that can be opened"));
    let metadata = metadata.unwrap();
    let (major, minor) = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
    let kind = if metadata.file_type().is_block_device() { 'b' } else { 'c' };
    let script = format!(
        "mknod /tmp/device {kind} {major} {minor} && echo made; \
         (: < /tmp/device) 2>&1 | grep -c 'not permitted'; \
         mknod /tmp/zero c 1 5; head -c 3 /tmp/zero | wc -c"
    );
    let allow_mknod = |config: &mut Value| {
        for set in ["bounding", "effective", "permitted"] {
            let set = &mut config["process"]["capabilities"][set];
            set.as_array_mut().unwrap().push("CAP_MKNOD".into());
        }
    };
    assert_eq!(pod.sh(&script, allow_mknod), ["made", "1", "3"]);
    let lines = pod.sh(&script, |config| {
        allow_mknod(config);
        config["linux"]["resources"] = json!({"devices": [{"allow": true, "access": "rwm"}]});
    });
    assert_eq!(lines, ["made", "0", "3"]);
    pod.end();
}
