//! What scripts rely on: words, exit codes, files and formats of the command line. Needs root and busybox-static.
//! `RUNTIME=/usr/sbin/runc` runs the same tests against another runtime, which is how they were proven.

mod common;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use common::bundle::{Bundle, is_peer};
use serde_json::{Value, json};

fn sleeper(name: &str) -> Bundle {
    Bundle::new(name, &["/bin/sleep", "1000"])
}

/// Exit code, standard output, standard error.
fn outcome(bundle: &Bundle, words: &[&str]) -> (i32, String, String) {
    let output = bundle.run(words);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn exec(bundle: &Bundle, flags: &[&str], script: &str) -> (i32, String, String) {
    let words: Vec<_> =
        ["exec"].iter().chain(flags).chain(&["ID", "/bin/sh", "-c", script]).copied().collect();
    outcome(bundle, &words)
}

#[test]
fn the_words_that_scripts_look_for() {
    let bundle = sleeper("words");
    for command in ["state", "start", "kill", "delete", "ps"] {
        let (code, error) = bundle.bad(&format!("{command} ID"));
        assert!(code == 1 && error.contains("container does not exist"), "{command}: {error}");
    }
    let (code, error) = bundle.bad("exec ID /bin/true");
    assert!(code == 255 && error.contains("container does not exist"), "{code} {error}");
    let pid = bundle.start();
    let cases = [
        ("create --bundle BUNDLE ID", 1, "container with given ID already exists"),
        ("start ID", 1, "cannot start an already running container"),
        ("delete ID", 1, "that is not stopped: running"),
        ("kill ID NOPE", 1, "unknown signal \"NOPE\""),
        ("exec ID /no/such", 255, "no such file or directory"),
        ("exec ID nosuch", 255, "executable file not found in $PATH"),
        ("exec ID /etc/passwd", 255, "permission denied"),
        ("exec --user root ID /bin/true", 255, "root"),
        ("exec --cwd tmp ID /bin/true", 255, "absolute path"),
        ("exec --env FOO ID /bin/true", 255, "env"),
        ("exec ID", 255, "args"),
        ("list --format xml", 1, "invalid format option"),
        ("ps --format xml ID", 1, "invalid format option"),
        ("create", 1, "exactly 1 argument(s)"),
        ("nope", 3, "nope"),
        ("--log-format xml state ID", 1, "invalid log-format"),
    ];
    for (words, expected, text) in cases {
        let (code, error) = bundle.bad(words);
        assert_eq!(code, expected, "{words}: {error}");
        assert!(error.replace("\\\"", "\"").contains(text), "{words}: {error}");
    }
    bundle.good("kill ID KILL");
    common::wait_until("the end", || !common::is_alive(pid));
    let cases = [
        ("start ID", 1, "cannot start a container that has stopped"),
        ("exec ID /bin/true", 255, "cannot exec in a stopped container"),
        ("kill ID TERM", 1, "container not running"),
    ];
    for (words, expected, text) in cases {
        let (code, error) = bundle.bad(words);
        assert!(code == expected && error.contains(text), "{words}: {code} {error}");
    }
    bundle.good("kill --all ID TERM");
    bundle.good("delete ID");
}

#[test]
fn a_bundle_that_cannot_be_used_is_told() {
    let bundle = sleeper("bundles");
    let (code, error) = bundle.bad("create --bundle /no/such ID");
    assert!(code == 1 && error.contains("/no/such") && error.contains("no such file"), "{error}");
    fs::remove_file(bundle.directory.path().join("config.json")).unwrap();
    let (code, error) = bundle.bad("run --bundle BUNDLE ID");
    assert!(code == 1 && error.contains("config.json"), "{error}");
}

#[test]
fn exec_obeys_its_flags() {
    let bundle = sleeper("execs");
    bundle.configure(|config| {
        config["process"]["user"] = json!({"uid": 0, "gid": 3, "additionalGids": [4]});
        config["process"]["env"] = json!(["PATH=/bin", "A=own", "HOME=/"]);
    });
    bundle.start();
    let good = |flags: &[&str], script: &str| {
        let (code, out, error) = exec(&bundle, flags, script);
        assert_eq!(code, 0, "{flags:?}: {error}");
        out
    };
    assert_eq!(good(&[], "id -u; id -g; pwd; echo $A"), "0\n3\n/\nown\n");
    assert_eq!(good(&["--user", "5"], "id -u; id -g"), "5\n3\n");
    assert_eq!(good(&["-u", "5:6", "--cwd", "/tmp"], "id -u; id -g; pwd"), "5\n6\n/tmp\n");
    assert_eq!(good(&["-g", "7", "-g", "8"], "id -G"), "3 4 7 8\n");
    assert_eq!(good(&["-e", "A=b c", "-e", "B=d"], "echo $A$B"), "b cd\n");
    let status = |field: &str| format!("grep {field} /proc/self/status");
    assert_eq!(good(&[], &status("NoNewPrivs")), "NoNewPrivs:\t0\n");
    assert_eq!(good(&["--no-new-privs"], &status("NoNewPrivs")), "NoNewPrivs:\t1\n");
    let bits =
        |text: String| u64::from_str_radix(text.split_whitespace().nth(1).unwrap(), 16).unwrap();
    let before = bits(good(&[], &status("CapEff")));
    let after = bits(good(&["-c", "CAP_SYS_NICE"], &status("CapEff")));
    assert_eq!(after, before | 1 << 23);
    assert_eq!(bits(good(&["-c", "CAP_SYS_NICE"], &status("CapInh"))), 0);
    assert_eq!(exec(&bundle, &[], "exit 9").0, 9);
    assert_eq!(exec(&bundle, &[], "kill -TERM $$").0, 128 + 15);
}

#[test]
fn exec_takes_a_process_from_a_file() {
    let bundle = sleeper("process");
    bundle.start();
    let path = bundle.directory.path().join("process.json");
    let process = json!({
        "user": {"uid": 5, "gid": 6}, "cwd": "/tmp", "env": ["PATH=/bin"],
        "args": ["/bin/sh", "-c", "id -u; pwd; exit 4"],
    });
    fs::write(&path, process.to_string()).unwrap();
    let words = ["exec", "--process", path.to_str().unwrap(), "ID"];
    let (code, out, error) = outcome(&bundle, &words);
    assert_eq!((code, &*out), (4, "5\n/tmp\n"), "{error}");
    fs::write(&path, r#"{"user": {"uid": "x"}}"#).unwrap();
    let (code, _, error) = outcome(&bundle, &words);
    assert_eq!(code, 255, "{error}");
    assert!(is_peer() || error.contains("user.uid"), "{error}");
}

#[test]
fn a_detached_exec_is_found_by_its_pid_file() {
    let bundle = sleeper("detach");
    bundle.start();
    let path = bundle.directory.path().join("pid");
    let words =
        ["exec", "--detach", "--pid-file", path.to_str().unwrap(), "ID", "/bin/sleep", "999"];
    let (code, _, error) = outcome(&bundle, &words);
    assert_eq!(code, 0, "{error}");
    let pid: i32 = fs::read_to_string(path).unwrap().parse().unwrap();
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(line, "/bin/sleep\0999\0");
    let pids: Vec<i32> = serde_json::from_str(&bundle.good("ps --format json ID")).unwrap();
    assert!(pids.contains(&pid) && pids.len() == 2, "{pids:?}");
    let table = bundle.good("ps ID");
    assert!(table.starts_with("UID") && table.contains("sleep 999"), "{table}");
    assert_eq!(table.lines().count(), 3);
    assert!(bundle.good("ps ID -o pid,args").contains(&format!("{pid} /bin/sleep 999")));
    bundle.good("kill --all ID KILL");
    common::wait_until("the end of all", || !common::is_alive(pid));
}

#[test]
fn lists_show_what_is_there() {
    let bundle = sleeper("list");
    assert_eq!(bundle.good("list --quiet"), "");
    bundle.configure(|config| config["annotations"] = json!({"a.b": "c"}));
    let pid = bundle.start();
    let table = bundle.good("list");
    let lines: Vec<_> = table.lines().collect();
    let words: Vec<_> = lines[0].split_whitespace().collect();
    assert_eq!(words, ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]);
    let words: Vec<_> = lines[1].split_whitespace().collect();
    let place = bundle.directory.path().display().to_string();
    assert_eq!(words[..4], [&*bundle.id, &pid.to_string(), "running", &place]);
    assert_eq!((words[5], lines.len()), ("root", 2));
    assert_eq!(bundle.good("list -q"), format!("{}\n", bundle.id));
    let states: Vec<Value> = serde_json::from_str(&bundle.good("list -f json")).unwrap();
    let mut state = bundle.state();
    // runc tells the owner in lists only.
    state["owner"] = states[0]["owner"].clone();
    assert_eq!(states, [state.clone()]);
    assert_eq!(state["annotations"], json!({"a.b": "c"}));
    assert_eq!(state["rootfs"], format!("{place}/rootfs"));
    assert!(state["created"].as_str().unwrap().ends_with('Z'));
    bundle.good("kill ID KILL");
    common::wait_until("the end", || !common::is_alive(pid));
    assert_eq!((bundle.state()["pid"].clone(), &*bundle.status()), (json!(0), "stopped"));
}

#[test]
fn signals_by_name_and_number() {
    let script = "for s in HUP USR1 TERM; do trap \"echo $s >> /tmp/got\" $s; done; touch /tmp/ready; \
        while :; do sleep 0.05; done";
    let bundle = Bundle::new("signals", &["/bin/sh", "-c", script]);
    let pid = bundle.start();
    let tmp = bundle.rootfs().join("tmp");
    common::wait_until("traps", || tmp.join("ready").exists());
    let mut expected = String::new();
    for (signal, name) in
        [("1", "HUP"), ("USR1", "USR1"), ("SIGUSR1", "USR1"), ("sigterm", "TERM"), ("", "TERM")]
    {
        bundle.good(&format!("kill ID {signal}"));
        expected += &format!("{name}\n");
        common::wait_until(signal, || {
            fs::read_to_string(tmp.join("got")).is_ok_and(|got| got == expected)
        });
    }
    bundle.good("kill ID 0");
    bundle.good("kill ID 9");
    common::wait_until("the end", || !common::is_alive(pid));
}

#[test]
fn run_can_leave_it_or_keep_it() {
    let bundle = sleeper("keep");
    bundle.good("run --detach --bundle BUNDLE ID");
    assert_eq!(bundle.status(), "running");
    bundle.good("delete --force ID");
    bundle.bad("state ID");
    bundle.configure(|config| config["process"]["args"] = json!(["/bin/sh", "-c", "exit 3"]));
    assert_eq!(bundle.bad("run --keep --bundle BUNDLE ID").0, 3);
    assert_eq!(bundle.status(), "stopped");
    bundle.good("delete ID");
    assert_eq!(bundle.bad("run --bundle BUNDLE ID").0, 3);
    bundle.bad("state ID");
}

#[test]
fn signals_to_a_foreground_run_reach_the_container() {
    let script = "trap 'exit 8' TERM; touch /tmp/ready; while :; do sleep 0.05; done";
    let bundle = Bundle::new("forward", &["/bin/sh", "-c", script]);
    let mut runtime =
        bundle.command(&["run", "--bundle", "BUNDLE", "ID"]).stdin(Stdio::null()).spawn().unwrap();
    common::wait_until("the trap", || bundle.rootfs().join("tmp/ready").exists());
    let pid = nix::unistd::Pid::from_raw(runtime.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(runtime.wait().unwrap().code(), Some(8));
}

/// The lines of the log, each of which must be one JSON object.
fn log_lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_log_is_one_object_per_line() {
    let bundle = sleeper("log");
    let log = bundle.directory.path().join("log.json");
    let flags = ["--log", log.to_str().unwrap(), "--log-format", "json"];
    let forged = "x\n{\"level\":\"info\",\"msg\":\"all is well\"}\r\u{1b}[2J";
    for words in [vec!["state", "ID"], vec!["state", forged], vec!["exec", forged, "true"]] {
        let words: Vec<_> = flags.iter().copied().chain(words).collect();
        let (code, out, error) = outcome(&bundle, &words);
        assert!(code != 0 && out.is_empty());
        // And what people see is one line as well.
        assert!(is_peer() || error.lines().count() == 1, "{error:?}");
        assert!(is_peer() || !error.contains('\u{1b}'), "{error:?}");
    }
    let lines = log_lines(&log);
    assert_eq!(lines.len(), 3);
    for line in &lines {
        assert_eq!(line["level"], "error");
        assert!(!line["msg"].as_str().unwrap().is_empty());
        assert!(line["time"].as_str().unwrap().starts_with("20"));
    }
    assert!(lines[0]["msg"].as_str().unwrap().contains("does not exist"));
}

#[test]
fn a_log_that_cannot_be_written_is_an_error() {
    let bundle = sleeper("nolog");
    let (code, _, error) = outcome(&bundle, &["--log", "/no/such/directory/log", "list"]);
    assert!(code != 0 && error.contains("/no/such/directory/log"), "{error}");
}

#[test]
fn debug_tells_each_step() {
    if is_peer() {
        return;
    }
    let bundle = Bundle::new("debug", &["/bin/true"]);
    let log = bundle.directory.path().join("log.json");
    let path = log.to_str().unwrap();
    let words =
        ["--debug", "--log", path, "--log-format", "json", "run", "--bundle", "BUNDLE", "ID"];
    assert_eq!(outcome(&bundle, &words).0, 0);
    let lines = log_lines(&log);
    let told = |text: &str| {
        lines
            .iter()
            .any(|line| line["level"] == "debug" && line["msg"].as_str().unwrap().contains(text))
    };
    for text in ["mount", "hostname", "pivot", "/dev/null"] {
        assert!(told(text), "{text}: {lines:?}");
    }
}

#[test]
fn ids_do_not_leave_the_root() {
    let bundle = sleeper("hostile");
    let victim = bundle.directory.path().join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("state.json"), "{}").unwrap();
    let long = "a".repeat(2000);
    for id in ["../victim", "/tmp", "a/../../victim", ".", "..", "", "a b", "a\nb", &long] {
        for words in [
            vec!["create", "--bundle", "BUNDLE", id],
            vec!["run", "--bundle", "BUNDLE", id],
            vec!["state", id],
            vec!["start", id],
            vec!["kill", id, "KILL"],
            vec!["delete", id],
            vec!["exec", id, "/bin/true"],
            vec!["ps", id],
        ] {
            let (code, _, _) = outcome(&bundle, &words);
            assert_ne!(code, 0, "{words:?}");
        }
        outcome(&bundle, &["delete", "--force", id]);
    }
    assert_eq!(fs::read_to_string(victim.join("state.json")).unwrap(), "{}");
    assert!(bundle.rootfs().exists());
}

#[test]
fn a_damaged_state_names_file_and_field() {
    if is_peer() {
        return;
    }
    let bundle = sleeper("damaged");
    bundle.start();
    let path = bundle.directory.path().join("state").join(&bundle.id).join("state.json");
    let whole: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut more = whole.clone();
    more["fromTheFuture"] = json!([1]);
    fs::write(&path, more.to_string()).unwrap();
    assert_eq!(bundle.status(), "running");
    for (field, value) in
        [("pid", json!("x")), ("cgroup", json!("/../etc")), ("id", json!("other"))]
    {
        let mut bad = whole.clone();
        bad[field] = value;
        fs::write(&path, bad.to_string()).unwrap();
        for words in ["state ID", "kill ID KILL", "delete ID", "exec ID /bin/true"] {
            let (_, error) = bundle.bad(words);
            assert!(error.contains("state.json") && error.contains(field), "{words}: {error}");
        }
        let (code, out, error) = outcome(&bundle, &["list", "--quiet"]);
        assert!(code == 0 && out.is_empty() && error.contains("state.json"), "{error}");
    }
    let pid = whole["pid"].as_i64().unwrap() as i32;
    bundle.good("delete --force ID");
    common::wait_until("the end", || !common::is_alive(pid));
    assert!(!path.exists());
}

#[test]
fn of_many_at_once_one_wins() {
    if is_peer() {
        // runc has no lock: its losers can take the winner's state with them.
        return;
    }
    let bundle = sleeper("race");
    let race = |words: &[&str]| {
        let command = |index: usize| {
            let mut command = bundle.command(words);
            let log = bundle.directory.path().join(format!("race{index}"));
            let file = || Stdio::from(fs::File::create(&log).unwrap());
            command.stdin(Stdio::null()).stdout(file()).stderr(file()).spawn().unwrap()
        };
        let all: Vec<_> = (0..8).map(command).collect();
        all.into_iter()
            .map(|mut child| child.wait().unwrap())
            .filter(|status| status.success())
            .count()
    };
    for _ in 0..3 {
        assert_eq!(race(&["create", "--bundle", "BUNDLE", "ID"]), 1);
        assert_eq!(bundle.status(), "created");
        assert_eq!(race(&["start", "ID"]), 1);
        let pid = bundle.state()["pid"].as_i64().unwrap() as i32;
        assert_eq!(bundle.status(), "running");
        assert_eq!(race(&["delete", "--force", "ID"]), 8);
        common::wait_until("the end", || !common::is_alive(pid));
        bundle.bad("state ID");
    }
}

#[test]
fn what_is_not_there_says_so() {
    if is_peer() {
        return;
    }
    let bundle = sleeper("unsupported");
    for words in ["checkpoint ID", "restore ID"] {
        let (code, error) = bundle.bad(words);
        assert!(code == 1 && error.contains("not supported"), "{error}");
    }
}

#[test]
fn the_version_reads_as_programs_expect() {
    let bundle = sleeper("version");
    let text = bundle.good("--version");
    let mut lines = text.lines();
    assert!(lines.next().unwrap().contains(" version "), "{text}");
    assert!(lines.any(|line| line.starts_with("spec: 1.")), "{text}");
    assert!(bundle.good("--help").contains("checkpoint"));
    assert!(bundle.good("exec --help").contains("--console-socket"));
}

/// The session keyring that a process of the container is in: serial number and name.
fn keyrings(listing: &str) -> Vec<(String, String)> {
    let lines = listing.lines().filter(|line| line.contains("keyring") && line.contains("_ses"));
    let parse = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        (words[0].to_owned(), words[8].trim_end_matches(':').to_owned())
    };
    lines.map(parse).collect()
}

/// The container's own session keyring, as one more process of it sees it.
fn own_keyring(bundle: &Bundle) -> Option<(String, String)> {
    let (code, out, error) = exec(bundle, &[], "cat /proc/keys");
    assert_eq!(code, 0, "{error}");
    let name = format!("_ses.{}", bundle.id);
    keyrings(&out).into_iter().find(|(_, found)| *found == name)
}

#[test]
fn a_container_has_its_own_session_keyring() {
    let bundle = sleeper("keyring");
    bundle.configure(|config| config["linux"]["maskedPaths"] = json!([]));
    bundle.start();
    let first = own_keyring(&bundle);
    assert!(first.is_some());
    assert_eq!(own_keyring(&bundle), first, "each process has another one");
}

#[test]
fn a_container_can_keep_its_creators_keyring() {
    let bundle = sleeper("nokeyring");
    bundle.configure(|config| config["linux"]["maskedPaths"] = json!([]));
    bundle.good("create --no-new-keyring --bundle BUNDLE ID");
    bundle.good("start ID");
    if is_peer() {
        // runc's exec makes one all the same.
        return;
    }
    assert_eq!(own_keyring(&bundle), None);
}

#[test]
fn a_root_that_cannot_be_pivoted_is_moved() {
    let bundle = Bundle::new("nopivot", &["/bin/true"]);
    let script = "ls / | grep -c bin; cut -d' ' -f5 /proc/self/mountinfo | head -n1; ls /proc/self/root/bin/busybox";
    std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin/cut")).unwrap();
    bundle.configure(|config| config["process"]["args"] = json!(["/bin/sh", "-c", script]));
    let words = ["run", "--no-pivot", "--bundle", "BUNDLE", "ID"];
    let (code, out, error) = outcome(&bundle, &words);
    assert_eq!((code, &*out), (0, "1\n/\n/proc/self/root/bin/busybox\n"), "{error}");
    let moved = outcome(&bundle, &["--debug", "run", "--no-pivot", "--bundle", "BUNDLE", "ID"]).2;
    assert!(is_peer() || moved.contains("move the new root over"), "{moved}");
}

#[test]
fn without_a_cgroup_manager_the_creators_cgroup_holds() {
    if is_peer() {
        // crun only.
        return;
    }
    let bundle = sleeper("nomanager");
    let own = |pid: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        text.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned()
    };
    bundle.configure(|config| config["linux"]["cgroupsPath"] = "/kobune-elsewhere".into());
    bundle.good("--cgroup-manager disabled run --detach --bundle BUNDLE ID");
    let pid = bundle.state()["pid"].to_string();
    let (ours, its) = (own("self"), own(&pid));
    assert!(its.starts_with(&ours) && its.ends_with(&bundle.id), "{its} is not below {ours}");
    let place = kobune_runtime::cgroup::detect().unwrap().path(&its);
    assert!(place.exists());
    bundle.good("delete --force ID");
    assert!(!place.exists());
    let (code, error) = bundle.bad("--cgroup-manager systemd create --bundle BUNDLE ID");
    assert!(code == 1 && error.contains("systemd"), "{error}");
    let (code, error) = bundle.bad("--cgroup-manager x create --bundle BUNDLE ID");
    assert!(code == 1 && error.contains("cgroup-manager"), "{error}");
}

#[test]
fn what_ends_just_now_can_be_deleted() {
    let bundle = Bundle::new("moment", &["/bin/sleep", "0.03"]);
    bundle.start();
    bundle.good("delete ID");
    bundle.configure(|config| config["process"]["args"] = json!(["/bin/sleep", "1000"]));
    bundle.start();
    let (_, text) = bundle.bad("delete ID");
    assert!(text.contains("not stopped: running"), "{text}");
    bundle.good("kill ID KILL");
    bundle.good("delete ID");
}
