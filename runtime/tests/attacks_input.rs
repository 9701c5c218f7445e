//! Attacks through what the runtime reads: names, state.json, bundles, roots, and what hooks print. See `attacks.rs`.
//!
//! Seen failing: without the checks of names, of the fields of state.json, of the start time, of what a cgroup is (below
//! /tmp only: without them a state may name every process and directory of the machine, so never try that elsewhere, nor
//! outside of a pid namespace); without those of regular files, sizes and counts; without `RESOLVE_IN_ROOT`; with
//! messages put into the log as they are; with descriptors of the caller open in a hook.

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::process::{Child, Command};

use common::bundle::Bundle;
use common::host::{Host, ended, mounts};
use serde_json::{Value, json};

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

/// A process that no state means: it was started in another clock tick than the one of `start_time`.
fn stranger(start_time: u64) -> Child {
    loop {
        let mut child = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let rest = stat.rsplit_once(')').unwrap().1;
        if rest.split_whitespace().nth(19) != Some(&start_time.to_string()) {
            return child;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// A state.json that somebody else wrote names what is to be killed and removed.
#[test]
fn a_hostile_state_changes_nothing() {
    let host = Host::new();
    let bundle = Bundle::new("attack-state", &["/bin/sleep", "1000"]);
    let directory = bundle.directory.path().join("state").join(&bundle.id);
    let path = directory.join("state.json");
    let empty = host.path().join("empty/below");
    bundle.good("create --bundle BUNDLE ID");
    let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    bundle.good("delete --force ID");
    let mut child = stranger(good["startTime"].as_u64().unwrap());
    let of = |key: &str, value: Value| {
        let mut state = good.clone();
        state[key] = value;
        state.to_string().into_bytes()
    };
    // What `state` says; nothing where only what is done with it can be wrong. The tree's top is left to a unit test that
    // sends signal 0: here a failure would be the machine's end.
    let states = [
        (b"".to_vec(), "EOF"),
        (b"{}".to_vec(), "missing field"),
        (b"null".to_vec(), "invalid type"),
        (b"[1]".to_vec(), "invalid"),
        (vec![0xff; 100], "expected value"),
        ("[".repeat(200_000).into_bytes(), "invalid type"),
        (vec![b' '; 3 << 20], "larger than"),
        (of("cgroup", json!("/")), ""),
        (of("cgroup", json!(host.path().join("empty"))), ""),
        (of("cgroup", json!(empty)), ""),
        (of("cgroup", json!("../../..")), "cgroup: must be an absolute path"),
        (of("cgroup", json!(empty.join("../../empty"))), "cgroup: must be an absolute path"),
        (of("pid", json!(child.id())), ""),
        (of("pid", json!(1)), ""),
        (of("pid", json!(-1)), "pid: must be positive"),
        (of("pid", json!(0)), "pid: must be positive"),
        (of("pid", json!(1u64 << 40)), "pid: invalid value"),
        (of("id", json!("../x")), "id: is not the name"),
        (of("bundle", json!("/dev/zero")), ""),
        (of("bundle", json!("../b")), "bundle: must be an absolute path"),
        (of("startTime", json!(-5)), "startTime: invalid value"),
    ];
    let run = |words: &str| {
        let command = bundle.command(&words.split(' ').collect::<Vec<_>>());
        ended(command, &bundle.directory.path().join("errors"))
    };
    for (state, expected) in &states {
        fs::create_dir_all(&empty).unwrap();
        fs::create_dir_all(&directory).unwrap();
        fs::write(&path, state).unwrap();
        let (fine, error) = run("state ID");
        assert!(fine == expected.is_empty() && error.contains(expected), "{expected:?}: {error}");
        for words in ["kill ID KILL", "start ID", "exec ID /bin/true", "delete --force ID"] {
            let _ = run(words);
        }
        assert!(empty.exists(), "{expected:?}: a directory of the host was removed");
        assert!(child.try_wait().unwrap().is_none(), "{expected:?}: a stranger was killed");
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

/// A root whose directories are links to the host's: what is made in them is made in the root, or nowhere.
#[test]
fn a_root_of_links_leads_nowhere() {
    let host = Host::new();
    let bundle = Bundle::new("attack-links", &["/bin/true"]);
    let root = bundle.rootfs();
    let up = format!("../../../../../..{}", host.path().display());
    for (name, target) in [("dev", &*host.path().to_string_lossy()), ("srv", &up), ("run", &up)] {
        symlink(target, root.join(name)).unwrap();
    }
    symlink(host.file(), root.join("etc/hosts")).unwrap();
    let hosts = bundle.directory.path().join("hosts");
    fs::write(&hosts, "pwned").unwrap();
    bundle.configure(|config| {
        mounts(config).retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        mounts(config).extend([
            json!({"destination": "/run/made/deep", "type": "tmpfs", "source": "t"}),
            json!({"destination": "/etc/hosts", "type": "bind", "source": hosts, "options": ["bind"]}),
        ]);
        config["process"]["cwd"] = "/srv/cwd".into();
        config["linux"]["devices"] =
            json!([{"path": "/run/device", "type": "c", "major": 1, "minor": 3}]);
        // There is no null device to hide anything under.
        config["linux"]["maskedPaths"] = json!([]);
    });
    let output = bundle.runtime("run --bundle BUNDLE ID");
    host.assert_untouched();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(root.join(host.path().strip_prefix("/").unwrap()).join("device").exists());
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

/// What hooks print: a quote, whole records, and what steers terminals. And which descriptors they have.
const HOOK: &str = r#"ls /proc/self/fd >FDS
printf '%s\n' 'x"' '{"level":"error","msg":"forged","time":"now"}' 'level=error msg=forged'
printf '\033[2J\r\n\0' >&2; exit 3"#;

/// What a hook prints is told when it fails, as one record; and it gets no descriptor of ours or of our caller.
#[test]
fn a_hook_forges_no_record_and_gets_nothing_of_ours() {
    // Not close-on-exec, as careless callers have them.
    let (flags, mode) = (nix::fcntl::OFlag::O_RDONLY, nix::sys::stat::Mode::empty());
    let _leaked = nix::fcntl::open("/", flags, mode).unwrap();
    for phase in
        ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    {
        let bundle = Bundle::new(&format!("attack-hook-{phase}"), &["/bin/true"]);
        // The last phase but two has the container's root already.
        let fds = bundle.rootfs().join("tmp/fds");
        let place = if phase == "startContainer" { "/tmp/fds" } else { fds.to_str().unwrap() };
        let script = HOOK.replace("FDS", place);
        bundle.configure(|config| {
            config["hooks"][phase] = json!([{
                "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"],
            }]);
        });
        for format in ["json", "text"] {
            let log = bundle.directory.path().join(format);
            let before = ["--log", log.to_str().unwrap(), "--log-format", format];
            let output = bundle.run(&[&before[..], &["run", "--bundle", "BUNDLE", "ID"]].concat());
            assert_eq!(output.status.success(), phase == "poststop", "{phase}");
            // 3 is what ls opens.
            assert_eq!(fs::read_to_string(&fds).unwrap(), "0\n1\n2\n3\n", "{phase}");
            assert_one_record(&fs::read_to_string(&log).unwrap(), format, phase);
            let told = String::from_utf8(output.stderr).unwrap();
            assert!(!told.contains(|c: char| c.is_control() && c != '\n'), "{phase}: {told:?}");
            assert!(told.lines().all(|line| line.starts_with("kobune-runtime: ")), "{told}");
        }
    }
}

fn assert_one_record(text: &str, format: &str, phase: &str) {
    assert_eq!(text.lines().count(), 1, "{phase}: {text}");
    assert!(!text.trim_end().contains(|c: char| c.is_control()), "{phase}: {text:?}");
    let message = match format {
        "json" => {
            let record: Value = serde_json::from_str(text).unwrap();
            record["msg"].as_str().unwrap().to_owned()
        }
        _ => {
            assert!(text.starts_with("time="), "{text}");
            text.to_owned()
        }
    };
    let named = message.contains(&format!("hooks.{phase}[0]")) && message.contains("forged");
    assert!(named, "{phase}: {text}");
}
