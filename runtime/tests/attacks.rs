//! Attacks that hit other runtimes, against ours: each runs, each fails, and the file of the host that it went for is
//! byte-identical. Races are in `attacks_races.rs`. Needs root and busybox-static.
//!
//! Seen failing with protections taken out for a moment: `RESOLVE_IN_ROOT` (redirected /proc and /sys, the races),
//! `working_directory_is_inside` and `close_from` (leaks), `check_id`, the check of sysctl names. Do not do that to
//! the checks of state.json and of `cgroup::signal` outside of a virtual machine.

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::bundle::Bundle;
use serde_json::{Value, json};

/// For one command of the runtime on something hostile.
const SOON: Duration = Duration::from_secs(20);

/// A directory of the host with a file that somebody wants to change, beside the bundle.
struct Host {
    directory: tempfile::TempDir,
}

const SECRET: &[u8] = b"only the host writes here\n";

impl Host {
    fn new() -> Host {
        let directory = tempfile::Builder::new().prefix("kobune-host-").tempdir().unwrap();
        fs::write(directory.path().join("file"), SECRET).unwrap();
        Host { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn file(&self) -> PathBuf {
        self.path().join("file")
    }

    fn assert_untouched(&self) {
        assert_eq!(fs::read(self.file()).unwrap(), SECRET);
        let names: Vec<_> =
            fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["file"]);
    }
}

fn mounts(config: &mut Value) -> &mut Vec<Value> {
    config["mounts"].as_array_mut().unwrap()
}

/// The command's exit within [`SOON`], and what it said.
fn ended(mut command: Command, errors: &Path) -> (bool, String) {
    let stderr = fs::File::create(errors).unwrap();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
    let end = Instant::now() + SOON;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return (status.success(), fs::read_to_string(errors).unwrap());
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            panic!("not within {SOON:?}: {}", fs::read_to_string(errors).unwrap());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

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
        assert!(
            !output.stdout.windows(4).any(|text| text == b"only"),
            "{cwd}: read the host's file"
        );
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

/// CVE-2019-16884: a VOLUME over /proc takes the masks, and its links lead them to the host.
#[test]
fn masks_do_not_reach_the_host() {
    let host = Host::new();
    let bundle = Bundle::new("attack-mask", &["/bin/true"]);
    let volume = bundle.directory.path().join("rootfs/volume");
    fs::create_dir_all(volume.join("sys")).unwrap();
    symlink(host.file(), volume.join("kcore")).unwrap();
    symlink(format!("../../../../../..{}", host.file().display()), volume.join("keys")).unwrap();
    bundle.configure(|config| {
        mounts(config).push(json!({
            "destination": "/proc", "type": "bind", "source": volume, "options": ["bind"],
        }));
    });
    let output = bundle.runtime("run --bundle BUNDLE ID");
    // Refused or harmless: both will do.
    assert!(output.status.code().is_some());
    host.assert_untouched();
}

/// CVE-2025-31133: /dev/null of the rootfs is a link, and masking would bind what it leads to.
#[test]
fn a_false_null_device_masks_nothing() {
    let host = Host::new();
    let bundle =
        Bundle::new("attack-null", &["/bin/sh", "-c", "echo x > /proc/kcore; cat /proc/keys"]);
    let dev = bundle.directory.path().join("dev");
    fs::create_dir(&dev).unwrap();
    symlink(host.file(), dev.join("null")).unwrap();
    bundle.configure(|config| {
        let mounts = mounts(config);
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        mounts.push(
            json!({"destination": "/dev", "type": "bind", "source": dev, "options": ["bind"]}),
        );
    });
    let output = bundle.runtime("run --bundle BUNDLE ID");
    assert!(!output.stdout.windows(4).any(|text| text == b"only"));
    assert!(!output.status.success());
    host.assert_untouched();
}

/// CVE-2022-29162: inheritable capabilities of run and exec are what the config says, and that is nothing.
#[test]
fn nothing_is_inheritable() {
    let bundle = Bundle::new("attack-inh", &["/bin/grep", "CapInh", "/proc/self/status"]);
    assert_eq!(bundle.output(), "CapInh:\t0000000000000000\n");
    bundle.configure(|config| config["process"]["args"] = json!(["/bin/sleep", "1000"]));
    bundle.start();
    for more in ["", "--cap CAP_NET_RAW", "--user 7:7", "--tty --detach"] {
        if more.contains("tty") {
            continue;
        }
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

/// CVE-2022-0811 and its kind: settings of the host, or several in one.
#[test]
fn sysctls_of_the_host_are_refused() {
    let core_pattern = fs::read("/proc/sys/kernel/core_pattern").unwrap();
    let bundle = Bundle::new("attack-sysctl", &["/bin/true"]);
    for (key, value) in [
        ("kernel.core_pattern", "kobune-was-here"),
        ("kernel/core_pattern", "kobune-was-here"),
        ("net.ipv4.ip_forward", "1\nkernel.core_pattern=kobune-was-here"),
        ("net.../kernel/core_pattern", "kobune-was-here"),
        ("net/../kernel/core_pattern", "kobune-was-here"),
        ("net.ipv4.ip_forward=1+kernel.core_pattern", "kobune-was-here"),
        ("vm.panic_on_oom", "2"),
    ] {
        bundle.configure(|config| config["linux"]["sysctl"] = json!({ key: value }));
        let error = bundle.refused();
        assert!(error.contains("linux.sysctl["), "{key}: {error}");
    }
    bundle.configure(|config| {
        config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "network");
    });
    assert!(bundle.refused().contains("needs a network namespace"));
    assert_eq!(fs::read("/proc/sys/kernel/core_pattern").unwrap(), core_pattern);
}

/// CVE-2025-52881: what we write to procfs must not land elsewhere, whatever covers /proc in the container.
#[test]
fn writes_to_procfs_stay_there() {
    let host = Host::new();
    let bundle = Bundle::new("attack-procfs", &["/bin/true"]);
    let fake = bundle.directory.path().join("fake");
    for directory in ["self/attr", "thread-self/attr", "sys/net/ipv4", "1"] {
        fs::create_dir_all(fake.join(directory)).unwrap();
    }
    for name in [
        "self/oom_score_adj",
        "thread-self/oom_score_adj",
        "self/attr/exec",
        "self/attr/apparmor",
        "thread-self/attr/exec",
        "sys/net/ipv4/ip_forward",
        "self/timerslack_ns",
        "1/oom_score_adj",
    ] {
        symlink(host.file(), fake.join(name)).ok();
    }
    bundle.configure(|config| {
        config["process"]["oomScoreAdj"] = 777.into();
        config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        config["linux"]["readonlyPaths"] = json!([]);
        config["linux"]["maskedPaths"] = json!([]);
        mounts(config).push(json!({
            "destination": "/proc", "type": "bind", "source": fake, "options": ["bind"],
        }));
        config["process"]["args"] = json!(["/bin/sleep", "1000"]);
    });
    if bundle.runtime("create --bundle BUNDLE ID").status.success() {
        bundle.good("start ID");
        // Another process, into a container whose /proc is false.
        let mut process = common::process(&["/bin/true"]);
        process["oomScoreAdj"] = 555.into();
        let file = bundle.directory.path().join("process.json");
        fs::write(&file, process.to_string()).unwrap();
        let _ = bundle.runtime(&format!("exec --process {} ID", file.display()));
    }
    host.assert_untouched();
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
        let seen = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!seen.contains("only the host"), "{script}: {seen}");
        host.assert_untouched();
    }
}

/// Names that are paths.
#[test]
fn ids_are_no_paths() {
    let bundle = Bundle::new("attack-id", &["/bin/true"]);
    let precious = bundle.directory.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("state.json"), "{}").unwrap();
    let absolute = precious.to_str().unwrap();
    let long = "a".repeat(5000);
    for id in
        ["../precious", "..", ".", "", absolute, "a/b", "a\nb", "-x/../..", &long, "a\u{202e}b"]
    {
        for command in [
            &["create", "--bundle", "BUNDLE"][..],
            &["run", "--bundle", "BUNDLE"],
            &["start"],
            &["state"],
            &["kill"],
            &["delete"],
            &["delete", "--force"],
            &["exec"],
            &["pause"],
            &["resume"],
            &["ps"],
        ] {
            let mut words = command.to_vec();
            words.push(id);
            if command[0] == "exec" {
                words.push("/bin/true");
            }
            let output = bundle.run(&words);
            let forced = command == ["delete", "--force"];
            assert!(forced || !output.status.success(), "{words:?} succeeded");
        }
    }
    assert_eq!(fs::read(precious.join("state.json")).unwrap(), b"{}");
    let state = fs::read_dir(bundle.directory.path().join("state")).into_iter().flatten().count();
    assert_eq!(state, 0);
}

/// A state.json that somebody else wrote names what is to be killed and removed.
#[test]
fn a_hostile_state_changes_nothing() {
    let host = Host::new();
    let bundle = Bundle::new("attack-state", &["/bin/sleep", "1000"]);
    let directory = bundle.directory.path().join("state").join(&bundle.id);
    let path = directory.join("state.json");
    let empty = host.path().join("empty/below");
    let mut child = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
    bundle.good("create --bundle BUNDLE ID");
    let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    bundle.good("delete --force ID");
    let of = |key: &str, value: Value| {
        let mut state = good.clone();
        state[key] = value;
        state.to_string().into_bytes()
    };
    // The tree's top is left to a unit test that sends signal 0: here a failure would be the machine's end.
    let states = [
        b"".to_vec(),
        b"{}".to_vec(),
        b"null".to_vec(),
        b"[1]".to_vec(),
        vec![0xff; 100],
        "[".repeat(200_000).into_bytes(),
        vec![b' '; 3 << 20],
        of("cgroup", json!("/")),
        of("cgroup", json!(host.path().join("empty"))),
        of("cgroup", json!("../../..")),
        of("pid", json!(child.id())),
        of("pid", json!(1)),
        of("pid", json!(-1)),
        of("pid", json!(0)),
        of("id", json!("../x")),
        of("bundle", json!("/dev/zero")),
        of("startTime", json!(-5)),
    ];
    for state in &states {
        fs::create_dir_all(&empty).unwrap();
        fs::create_dir_all(&directory).unwrap();
        fs::write(&path, state).unwrap();
        for words in
            ["state ID", "kill ID KILL", "start ID", "exec ID /bin/true", "delete --force ID"]
        {
            let command = bundle.command(&words.split(' ').collect::<Vec<_>>());
            let _ = ended(command, &bundle.directory.path().join("errors"));
        }
        assert!(empty.exists(), "a directory of the host was removed");
        assert!(child.try_wait().unwrap().is_none(), "a stranger was killed");
        let _ = fs::remove_dir_all(&directory);
        fs::remove_dir_all(host.path().join("empty")).unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    host.assert_untouched();
}

/// Bundles that shall make the runtime wait, or eat memory.
#[test]
fn hostile_bundles_are_refused_soon() {
    let bundle = Bundle::new("attack-bundle", &["/bin/true"]);
    let path = bundle.directory.path().join("config.json");
    let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let attempt = |what: &str, expected: &str| {
        let command = bundle.command(&["run", "--bundle", "BUNDLE", "ID"]);
        let (fine, error) = ended(command, &bundle.directory.path().join("errors"));
        assert!(!fine && error.contains(expected), "{what}: {error}");
        assert!(error.len() < 20_000, "{what}: {} bytes of error", error.len());
    };
    let replace = |make: &dyn Fn()| {
        let _ = fs::remove_file(&path);
        make();
    };
    replace(&|| nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap());
    assert!(fs::metadata(&path).unwrap().file_type().is_fifo());
    attempt("a fifo", "not a regular file");
    replace(&|| symlink("/dev/zero", &path).unwrap());
    attempt("endless", "not a regular file");
    replace(&|| symlink("config.json", &path).unwrap());
    attempt("a link to itself", "config.json");
    replace(&|| fs::write(&path, vec![b' '; 9 << 20]).unwrap());
    attempt("too large", "larger than");
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(300_000), close.repeat(300_000));
        replace(&|| fs::write(&path, &deep).unwrap());
        attempt("too deep", if open == "[" { "parse" } else { "ociVersion" });
        // Where nothing is expected, so that it is skipped over.
        let skipped = format!("{{\"x\":{deep}}}");
        replace(&|| fs::write(&path, &skipped).unwrap());
        attempt("too deep to skip", "ociVersion");
    }
    let many = |change: &dyn Fn(&mut Value)| {
        let mut config = good.clone();
        change(&mut config);
        fs::write(&path, config.to_string()).unwrap();
    };
    replace(&|| {
        many(&|c| c["mounts"] = json!(vec![json!({"destination": "/x", "type": "tmpfs"}); 100_000]))
    });
    attempt("100,000 mounts", "mounts: 100000 entries");
    replace(&|| {
        many(&|c| {
            c["linux"]["devices"] =
                json!(vec![json!({"path": "/dev/x", "type": "c", "major": 1, "minor": 3}); 100_000])
        })
    });
    attempt("100,000 devices", "linux.devices: 100000 entries");
    replace(&|| many(&|c| c["linux"]["maskedPaths"] = json!(vec!["/proc/kcore"; 100_000])));
    attempt("100,000 masks", "linux.maskedPaths: 100000 entries");
    replace(&|| many(&|c| c["process"]["args"] = json!(vec!["x".repeat(20); 300_000])));
    // As many as the stack takes is not for us to refuse.
    let _ = ended(
        bundle.command(&["run", "--bundle", "BUNDLE", "ID"]),
        &bundle.directory.path().join("errors"),
    );
    replace(&|| {
        many(&|c| c["process"]["env"] = json!(vec![format!("A={}", "x".repeat(20)); 250_000]))
    });
    // As many as the stack takes is not for us to refuse.
    let _ = ended(
        bundle.command(&["run", "--bundle", "BUNDLE", "ID"]),
        &bundle.directory.path().join("errors"),
    );
    // The largest process of this program's so far, in KiB.
    let usage =
        nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN).unwrap();
    assert!(usage.max_rss() < 400 << 10, "{} KiB", usage.max_rss());
}

/// Roots that are none.
#[test]
fn hostile_roots_are_refused() {
    let bundle = Bundle::new("attack-rootfs", &["/bin/true"]);
    let base = bundle.directory.path();
    symlink("loop", base.join("loop")).unwrap();
    nix::unistd::mkfifo(&base.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (path, expected) in [
        ("loop", "loop"),
        ("fifo", "not a directory"),
        ("config.json", "not a directory"),
        ("missing", "no such file"),
        ("/dev/null", "not a directory"),
    ] {
        bundle.configure(|config| config["root"]["path"] = path.into());
        let command = bundle.command(&["run", "--bundle", "BUNDLE", "ID"]);
        let (fine, error) = ended(command, &base.join("errors"));
        assert!(!fine && error.contains(expected), "{path}: {error}");
    }
}

/// Line breaks and control characters in what we log forge no records.
#[test]
fn a_log_line_is_one_record() {
    let evil = "/no\n{\"level\":\"error\",\"msg\":\"forged\",\"time\":\"now\"}\n\u{1b}[2Jx\"\\";
    let bundle = Bundle::new("attack-log", &[evil]);
    for format in ["json", "text"] {
        let log = bundle.directory.path().join(format!("log.{format}"));
        let log_path = log.to_str().unwrap();
        let words = ["--log", log_path, "--log-format", format, "run", "--bundle", "BUNDLE"];
        for id in ["ID", "a\nlevel=error forged", "b\u{7}"] {
            let mut words = words.to_vec();
            words.push(id);
            assert!(!bundle.run(&words).status.success());
        }
        let text = fs::read_to_string(&log).unwrap();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        for line in text.lines() {
            assert!(!line.starts_with("{\"level\":\"error\",\"msg\":\"forged\""), "{line}");
            if format == "json" {
                let record: Value = serde_json::from_str(line).unwrap();
                assert!(record["msg"].as_str().unwrap().len() > 5, "{line}");
            }
        }
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
