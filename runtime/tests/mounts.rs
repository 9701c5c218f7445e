//! Every form of mount, through the command line. Needs root and busybox-static.
//!
//! Proven with `RUNTIME=/usr/sbin/runc` (1.1.5) and `RUNTIME=/usr/bin/crun` (1.8.1, below a pure cgroup v2): each test passes
//! with one of them, except that crun forgets the mode of what a tmpfs covers and runc prefers it to an explicit one,
//! that runc counts the cgroup mount among v1's, and that neither names an option that a filesystem does not know.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use common::bundle::Bundle;
use nix::mount::{MsFlags, mount, umount2};
use serde_json::{Value, json};

/// A bundle with these mounts beside the usual ones; sources are relative to the bundle.
fn bundle(name: &str, list: &[Value]) -> Bundle {
    let bundle = Bundle::new(name, &["/bin/true"]);
    bundle.configure(|config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        for entry in list {
            let mut entry = entry.clone();
            if let Some(source) = entry["source"].as_str().filter(|text| text.starts_with("./")) {
                entry["source"] = bundle.directory.path().join(&source[2..]).to_str().into();
            }
            mounts.push(entry);
        }
    });
    bundle
}

fn tmpfs(destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options})
}

fn bind(source: &str, destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}

fn volume(bundle: &Bundle) -> PathBuf {
    let volume = bundle.directory.path().join("volume");
    fs::create_dir_all(volume.join("below")).unwrap();
    fs::write(volume.join("file"), "text\n").unwrap();
    volume
}

/// The options that the kernel shows for the mount at `destination`.
fn shown(bundle: &Bundle, destination: &str) -> Vec<String> {
    let text = bundle.sh("cat /proc/self/mountinfo");
    let line = text.lines().rfind(|line| line.split(' ').nth(4) == Some(destination)).unwrap();
    let (mount, filesystem) = line.split_once(" - ").unwrap();
    let own = mount.split(' ').nth(5).unwrap().split(',');
    let of_filesystem = filesystem.split(' ').nth(2).unwrap().split(',');
    own.chain(of_filesystem).chain(mount.split(' ').skip(6)).map(str::to_owned).collect()
}

/// Runs `body` with a mount namespace of its own, which the programs it starts have, too.
fn with_own_mounts(body: impl FnOnce() + Send + 'static) {
    let run = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        body();
    });
    if let Err(panic) = run.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A tmpfs at `path` whose mounts are shared.
fn shared_tmpfs(path: &Path) {
    fs::create_dir_all(path).unwrap();
    mount(Some("host"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    mount(None::<&str>, path, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
}

#[test]
fn each_option_is_seen() {
    let words =
        ["nosuid", "nodev", "noexec", "noatime", "nodiratime", "ro", "sync", "dirsync", "size=64k"];
    let bundle = bundle("options", &[tmpfs("/m", &words)]);
    let shown = shown(&bundle, "/m");
    for word in words {
        // A tmpfs shows that it is read-only, and is synchronous by nature.
        let expected = shown.iter().any(|option| option == word);
        assert!(expected, "{word} in {shown:?}");
    }
}

#[test]
fn later_options_win() {
    let list =
        [tmpfs("/m", &["ro", "rw", "nosuid", "suid", "noatime", "strictatime", "noexec", "exec"])];
    let bundle = bundle("later", &list);
    let shown = shown(&bundle, "/m");
    assert!(shown.contains(&"rw".into()), "{shown:?}");
    for word in ["ro", "nosuid", "noatime", "noexec", "relatime"] {
        assert!(!shown.contains(&word.into()), "{word} in {shown:?}");
    }
}

#[test]
fn files_and_directories_are_bound() {
    let list = [
        bind("./volume", "/made/for/it", &["bind"]),
        bind("./volume/file", "/also/made/file", &["bind", "ro"]),
        bind("./volume/file", "/etc/passwd", &["bind"]),
        bind("./link", "/linked", &["rbind"]),
    ];
    let bundle = bundle("bind", &list);
    let volume = volume(&bundle);
    symlink(&volume, bundle.directory.path().join("link")).unwrap();
    let output = bundle.sh("cat /made/for/it/file /also/made/file /etc/passwd /linked/file; \
        echo new > /also/made/file; echo more > /made/for/it/new");
    assert_eq!(output, "text\ntext\ntext\ntext\n");
    assert_eq!(fs::read_to_string(volume.join("file")).unwrap(), "text\n");
    assert_eq!(fs::read_to_string(volume.join("new")).unwrap(), "more\n");
    assert!(bundle.rootfs().join("also/made/file").is_file());
}

#[test]
fn a_missing_source_is_told() {
    let bundle = bundle("source", &[bind("/no/such", "/x", &["bind"])]);
    let error = bundle.refused();
    assert!(error.contains("/no/such") && error.contains("no such file"), "{error}");
}

#[test]
fn destinations_may_be_relative_and_links() {
    let list = [
        tmpfs("relative", &["size=64k"]),
        tmpfs("/link/sub", &["size=64k"]),
        tmpfs("/up/../../../../up", &["size=64k"]),
    ];
    let bundle = bundle("destinations", &list);
    let outside = bundle.directory.path().join("outside");
    fs::create_dir(&outside).unwrap();
    // It means the container's root, wherever it points on the host.
    symlink(&outside, bundle.rootfs().join("link")).unwrap();
    let output = bundle.sh("cat /proc/mounts");
    let inside = outside.strip_prefix("/").unwrap().display().to_string();
    for place in ["/relative".into(), "/up".into(), format!("/{inside}/sub")] {
        assert!(output.contains(&format!("tmpfs {place} tmpfs")), "{place} in {output}");
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn attributes_reach_what_is_mounted_below() {
    with_own_mounts(|| {
        let list = [
            bind("./volume", "/all", &["rbind", "rro", "rnosuid", "rnoexec", "rnodev"]),
            bind("./volume", "/top", &["rbind", "ro"]),
            bind("./volume", "/one", &["bind"]),
        ];
        let bundle = bundle("recursive", &list);
        let below = volume(&bundle).join("below");
        mount(Some("x"), &below, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        fs::write(below.join("deep"), "deep\n").unwrap();
        let output = bundle
            .sh("touch /all/x /all/below/x 2>&1; touch /top/below/x; touch /top/x 2>&1; \
            ls /one/below; grep ' /all/below ' /proc/mounts");
        let read_only = output.matches("Read-only file system").count();
        assert_eq!(read_only, 3, "{output}");
        assert!(output.contains("ro,nosuid,nodev,noexec"), "{output}");
        assert!(!output.contains("deep"), "{output}");
    });
}

#[test]
fn a_mount_is_given_other_attributes() {
    let list = [
        tmpfs("/m", &["nosuid", "size=64k"]),
        bind("/", "/m", &["bind", "remount", "ro", "noexec"]),
        tmpfs("/n", &["nosuid", "size=64k"]),
        json!({"destination": "/n", "type": "tmpfs", "source": "tmpfs", "options": ["remount", "size=128k", "nodev"]}),
    ];
    let bundle = bundle("remount", &list);
    let m = shown(&bundle, "/m");
    assert!(m.contains(&"ro".into()) && m.contains(&"noexec".into()), "{m:?}");
    assert!(!m.contains(&"nosuid".into()), "{m:?}");
    let n = shown(&bundle, "/n");
    assert!(n.contains(&"size=128k".into()) && n.contains(&"nodev".into()), "{n:?}");
}

#[test]
fn a_tmpfs_begins_with_what_it_covers() {
    let bundle = bundle("copyup", &[tmpfs("/data", &["tmpcopyup", "size=1m"])]);
    let data = bundle.rootfs().join("data");
    fs::create_dir_all(data.join("sub/empty")).unwrap();
    fs::write(data.join("sub/file"), "content\n").unwrap();
    fs::set_permissions(data.join("sub/file"), fs::Permissions::from_mode(0o4644)).unwrap();
    chown(data.join("sub/file"), Some(3), Some(4)).unwrap();
    fs::set_permissions(data.join("sub/file"), fs::Permissions::from_mode(0o4644)).unwrap();
    symlink("/etc/shadow", data.join("sub/link")).unwrap();
    fs::set_permissions(data.join("sub"), fs::Permissions::from_mode(0o500)).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o711)).unwrap();
    let output = bundle.sh("cat /data/sub/file; stat -c '%a %u %g' /data /data/sub /data/sub/file; \
        readlink /data/sub/link; ls /data/sub; echo new > /data/new; grep -c ' /data tmpfs' /proc/mounts");
    assert_eq!(output, "content\n711 0 0\n500 0 0\n4644 3 4\n/etc/shadow\nempty\nfile\nlink\n1\n");
    assert!(!data.join("new").exists());
}

#[test]
fn a_tmpfs_looks_like_the_directory_it_covers() {
    let bundle = bundle(
        "mode",
        &[tmpfs("/data", &["size=1m"]), tmpfs("/said", &["mode=1700"]), tmpfs("/new", &[])],
    );
    for name in ["data", "said"] {
        let directory = bundle.rootfs().join(name);
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o751)).unwrap();
    }
    assert_eq!(bundle.sh("stat -c %a /data /said /new"), "751\n1700\n1777\n");
}

#[test]
fn a_mount_on_the_root_itself() {
    let bundle = bundle("root", &[bind("./other", "/", &["rbind"])]);
    bundle.configure(|config| {
        // Before everything else, or it hides that.
        let mounts = config["mounts"].as_array_mut().unwrap();
        let last = mounts.pop().unwrap();
        mounts.insert(0, last);
    });
    let other = bundle.directory.path().join("other");
    common::make_rootfs(&other);
    fs::write(other.join("which"), "other\n").unwrap();
    assert_eq!(
        bundle.sh("cat /which; ls -d /proc/self /dev/null"),
        "other\n/dev/null\n/proc/self\n"
    );
}

#[test]
fn many_long_layers_are_an_overlay() {
    let name = "l".repeat(100);
    let bundle = Bundle::new("layers", &["/bin/true"]);
    let layers: Vec<_> =
        (0..8).map(|n| bundle.directory.path().join(format!("{name}{n}"))).collect();
    for (number, layer) in layers.iter().enumerate() {
        fs::create_dir(layer).unwrap();
        fs::write(layer.join(format!("file{number}")), "").unwrap();
    }
    let lower: Vec<_> = layers.iter().map(|layer| layer.display().to_string()).collect();
    bundle.configure(|config| {
        config["mounts"].as_array_mut().unwrap().push(json!({
            "destination": "/o", "type": "overlay", "source": "overlay",
            "options": ["ro", "nodev", format!("lowerdir={}", lower.join(":"))],
        }));
    });
    let output = bundle.sh("ls /o | wc -l; grep -c ' /o overlay ro,nodev' /proc/mounts");
    assert_eq!(output, "8\n1\n");
}

#[test]
fn an_option_that_the_filesystem_does_not_know_is_told() {
    let bundle = bundle("unknown", &[tmpfs("/m", &["nonsense=1"])]);
    let error = bundle.refused();
    assert!(error.contains("\"/m\"") || error.contains("/m"), "{error}");
    assert!(common::bundle::is_peer() || error.contains("nonsense"), "{error}");
}

#[test]
fn propagation_is_what_is_asked_for() {
    with_own_mounts(|| {
        let options = ["private", "slave", "shared", "unbindable"];
        let list: Vec<_> = options
            .map(|option| bind("./shared", &format!("/{option}"), &["rbind", "nosuid", option]))
            .into();
        let bundle = bundle("propagation", &list);
        shared_tmpfs(&bundle.directory.path().join("shared"));
        let text = bundle.sh("cat /proc/self/mountinfo");
        for option in options {
            let place = format!(" /{option} ");
            let line = text.lines().find(|line| line.contains(&place)).unwrap();
            let expected = match option {
                "private" => !line.contains("shared:") && !line.contains("master:"),
                "slave" => !line.contains("shared:") && line.contains("master:"),
                "shared" => line.contains("shared:"),
                _ => line.contains(" unbindable "),
            };
            assert!(expected && line.contains("nosuid"), "{line}");
        }
    });
}

/// Whether a mount that a container makes in a volume is seen on the host, and one of the host in the container.
fn seen(name: &str, root: &str, option: &str) -> (bool, bool) {
    let (send, receive) = std::sync::mpsc::channel();
    let (name, root, option) = (name.to_owned(), root.to_owned(), option.to_owned());
    with_own_mounts(move || {
        let bundle = bundle(&name, &[bind("./shared", "/volume", &["rbind", &option])]);
        let volume = bundle.directory.path().join("shared");
        shared_tmpfs(&volume);
        for directory in ["mine", "yours"] {
            fs::create_dir(volume.join(directory)).unwrap();
        }
        bundle.configure(|config| {
            config["linux"]["rootfsPropagation"] = root.into();
            config["process"]["args"] = json!(["/bin/sleep", "1000"]);
            for set in ["bounding", "effective", "permitted"] {
                config["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
            }
        });
        bundle.start();
        let mounted = bundle.run(&["exec", "ID", "/bin/mount", "-t", "tmpfs", "x", "/volume/mine"]);
        assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
        mount(Some("x"), &volume.join("yours"), Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .unwrap();
        let out =
            fs::read_to_string("/proc/thread-self/mountinfo").unwrap().contains("/shared/mine ");
        let inside = bundle.run(&["exec", "ID", "/bin/cat", "/proc/self/mountinfo"]);
        let inside = String::from_utf8(inside.stdout).unwrap().contains(" /volume/yours ");
        send.send((out, inside)).unwrap();
        drop(bundle);
        let _ = umount2(&volume, nix::mount::MntFlags::MNT_DETACH);
    });
    receive.recv().unwrap()
}

#[test]
fn mounts_cross_to_the_host_and_back_where_it_is_asked_for() {
    assert_eq!(seen("both", "shared", "rshared"), (true, true));
    assert_eq!(seen("in", "slave", "rslave"), (false, true));
    assert_eq!(seen("none", "private", "rprivate"), (false, false));
    // What is not asked for does not reach the host.
    assert!(!seen("half", "", "rshared").0);
}

#[test]
fn the_root_has_the_propagation_that_is_asked_for() {
    for (value, expected) in [("shared", "shared:"), ("unbindable", "unbindable"), ("private", "")]
    {
        let bundle = Bundle::new("rootfs", &["/bin/true"]);
        bundle.configure(|config| config["linux"]["rootfsPropagation"] = value.into());
        let text = bundle.sh("grep ' / / \\| /.*rootfs / ' /proc/self/mountinfo");
        let propagates =
            text.contains("shared:") || text.contains("master:") || text.contains("unbindable");
        assert!(text.contains(expected) && propagates != expected.is_empty(), "{value}: {text}");
    }
}

#[test]
fn a_shared_root_leaves_nothing_on_a_host_that_shares_all() {
    with_own_mounts(|| {
        // As on a host with systemd; in a tree of our own, which the real one does not hear of.
        let shared = MsFlags::MS_REC | MsFlags::MS_SHARED;
        mount(None::<&str>, "/", None::<&str>, shared, None::<&str>).unwrap();
        let mounts = || fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        for command in ["run --bundle BUNDLE ID", "create --bundle BUNDLE ID"] {
            let bundle = Bundle::new("shared-root", &["/bin/true"]);
            bundle.configure(|config| config["linux"]["rootfsPropagation"] = "shared".into());
            let before = mounts();
            bundle.good(command);
            assert_eq!(mounts(), before, "{command}");
        }
    });
}

#[test]
fn the_root_is_read_only_and_what_is_mounted_in_it_is_not() {
    let bundle = bundle("readonly", &[tmpfs("/m", &["size=64k"])]);
    bundle.configure(|config| config["root"]["readonly"] = true.into());
    assert_eq!(
        bundle.sh("touch /m/x; touch /x 2>&1 || echo no"),
        "touch: /x: Read-only file system\nno\n"
    );
}

#[test]
fn the_root_may_be_a_link_or_relative() {
    let bundle = Bundle::new("root-link", &["/bin/true"]);
    symlink("rootfs", bundle.directory.path().join("link")).unwrap();
    for path in [
        "rootfs".into(),
        "./rootfs/../rootfs".into(),
        bundle.rootfs().display().to_string(),
        "link".into(),
    ] {
        bundle.configure(|config| config["root"]["path"] = path.clone().into());
        assert_eq!(bundle.sh("echo fine"), "fine\n", "{path}");
    }
    assert_eq!(fs::metadata(bundle.rootfs()).unwrap().uid(), 0);
}

#[test]
fn the_cgroup_mount_is_the_containers_own() {
    let bundle = Bundle::new("cgroup", &["/bin/true"]);
    let output = bundle.sh("grep -c $$ /sys/fs/cgroup/cgroup.procs; cat /proc/self/cgroup | grep 0::; touch /sys/fs/cgroup/x 2>&1 || true");
    assert!(output.starts_with("1\n0::/\n") && output.contains("Read-only"), "{output}");
}

/// The mounts of this process' namespace below the bundle.
fn left(bundle: &Bundle) -> usize {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    mounts.matches(bundle.directory.path().to_str().unwrap()).count()
}

// runc and crun leave the mounts behind.
#[test]
fn without_a_mount_namespace_the_caller_has_the_mounts_until_delete() {
    with_own_mounts(|| {
        let bundle = bundle("no-mounts", &[tmpfs("/m", &["size=64k"])]);
        bundle.configure(|config| {
            let linux = config["linux"].as_object_mut().unwrap();
            linux.retain(|key, _| key == "namespaces");
            let namespaces = linux["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|item| item["type"] != "mount");
            config["process"]["args"] = json!(["/bin/sleep", "1000"]);
        });
        let pid = bundle.start();
        let own = fs::read_link("/proc/thread-self/ns/mnt").unwrap();
        assert_eq!(common::namespace(pid, "mnt"), own);
        fs::write(bundle.rootfs().join("which"), "container").unwrap();
        let output = bundle.run(&["exec", "ID", "/bin/cat", "/which"]);
        // runc and crun show the host to such a process.
        assert!(common::bundle::is_peer() || output.stdout == b"container", "{output:?}");
        assert!(common::bundle::is_peer() || left(&bundle) > 0);
        bundle.good("delete --force ID");
        assert_eq!(left(&bundle), 0);
        bundle.configure(|config| config["root"]["readonly"] = true.into());
        bundle.start();
        let output = bundle.run(&["exec", "ID", "/bin/sh", "-c", "echo > /new || cat /which"]);
        assert!(common::bundle::is_peer() || output.stdout == b"container", "{output:?}");
        bundle.good("delete --force ID");
        assert_eq!(left(&bundle), 0);
        fs::write(bundle.rootfs().join("which"), "writable again").unwrap();
        bundle.configure(|config| {
            config["root"]["readonly"] = false.into();
            config["process"]["args"] = json!(["/no/such"]);
        });
        bundle.refused();
        assert_eq!(left(&bundle), 0);
    });
}

#[test]
fn the_root_is_moved_where_it_cannot_be_pivoted() {
    let bundle = bundle("no-pivot", &[tmpfs("/m", &["size=64k"])]);
    let script = "ls -d /proc/self /m; cat /proc/mounts | wc -l; ls /; touch /sys/x 2>&1; pwd";
    bundle.configure(|config| config["process"]["args"] = json!(["/bin/sh", "-c", script]));
    let pivoted = bundle.output();
    assert_eq!(bundle.good("run --no-pivot --bundle BUNDLE ID"), pivoted);
}
