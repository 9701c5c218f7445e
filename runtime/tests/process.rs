//! What a process gets before its program: descriptors, limits, priorities, identity. Needs root and busybox-static.
//! `RUNTIME=/usr/sbin/runc` runs the same tests against another runtime, which is how they were proven.

mod common;

use std::fs;
use std::process::Command;

use common::bundle::{Bundle, is_peer, runtime};
use serde_json::json;

/// Runs a shell script in which `$RUNTIME`, `$STATE`, `$BUNDLE` and `$ID` have their values; returns what it prints.
fn host_script(bundle: &Bundle, script: &str) -> String {
    let out = Command::new("/bin/sh")
        .args(["-euc", script])
        .env("RUNTIME", runtime())
        .env("STATE", bundle.directory.path().join("state"))
        .env("BUNDLE", bundle.directory.path())
        .env("ID", &bundle.id)
        .output()
        .unwrap();
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

const RUN: &str = r#""$RUNTIME" --root "$STATE" run --bundle "$BUNDLE""#;

#[test]
fn preserved_descriptors_reach_the_program_and_no_other() {
    let script = "cat <&3; cat <&4; readlink /proc/self/fd/5 || echo closed";
    let bundle = Bundle::new("preserve", &["/bin/sh", "-c", script]);
    for name in ["a", "b", "c"] {
        fs::write(bundle.directory.path().join(name), format!("{name}\n")).unwrap();
    }
    let open = r#"exec 3<"$BUNDLE/a" 4<"$BUNDLE/b" 5<"$BUNDLE/c""#;
    let seen = host_script(&bundle, &format!("{open}; {RUN} --preserve-fds 2 $ID"));
    assert_eq!(seen, "a\nb\nclosed\n");
    if is_peer() {
        // runc's own descriptors take the closed numbers.
        return;
    }
    let seen = host_script(&bundle, &format!("{RUN} --preserve-fds 3 $ID 3</dev/null || true"));
    assert!(seen.contains("preserve"), "{seen}");
}

#[test]
fn socket_activation_reaches_the_program() {
    let script = "echo $LISTEN_FDS $LISTEN_PID $$; cat <&3; cat <&4";
    let bundle = Bundle::new("activation", &["/bin/sh", "-c", script]);
    for name in ["a", "b"] {
        fs::write(bundle.directory.path().join(name), format!("{name}\n")).unwrap();
    }
    let open = r#"exec 3<"$BUNDLE/a" 4<"$BUNDLE/b""#;
    let listen = "export LISTEN_FDS=1; export LISTEN_PID=$$";
    let seen = host_script(&bundle, &format!("{open}; {listen}; exec {RUN} --preserve-fds 1 $ID"));
    assert_eq!(seen, "1 1 1\na\nb\n");
}

#[test]
fn an_exec_preserves_descriptors() {
    let bundle = Bundle::new("preserve-exec", &["/bin/sleep", "1000"]);
    fs::write(bundle.directory.path().join("a"), "a\n").unwrap();
    bundle.good("run --detach --bundle BUNDLE ID");
    let exec = r#""$RUNTIME" --root "$STATE" exec --preserve-fds 1 $ID /bin/sh -c 'cat <&3; ls /proc/self/fd'"#;
    let seen = host_script(&bundle, &format!(r#"exec 3<"$BUNDLE/a"; {exec}"#));
    // The last one is the directory that `ls` reads.
    assert_eq!(seen, "a\n0\n1\n2\n3\n4\n");
}

#[test]
fn scheduler_and_io_priority_are_set() {
    if is_peer() {
        // runc 1.1 knows neither.
        return;
    }
    let bundle =
        Bundle::new("schedule", &["/bin/sh", "-c", "cat /proc/$$/stat; busybox ionice -p $$"]);
    bundle.configure(|config| {
        config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 3});
        config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
    });
    let seen = bundle.output();
    let stat: Vec<_> = seen.lines().next().unwrap_or_default().split(' ').collect();
    // proc_pid_stat(5): nice is field 19, policy is field 41; SCHED_BATCH is 3.
    assert_eq!((stat[18], stat[40]), ("3", "3"), "{seen}");
    assert!(seen.contains("best-effort: prio 6"), "{seen}");
    bundle.configure(|config| config["process"]["ioPriority"]["priority"] = 8.into());
    assert!(bundle.refused().contains("process.ioPriority.priority: "));
}

#[test]
fn a_limit_that_is_listed_twice_is_refused() {
    if is_peer() {
        // runc 1.1 takes the last one; the specification demands an error.
        return;
    }
    let bundle = Bundle::new("limits-twice", &["/bin/true"]);
    let limit = json!({"type": "RLIMIT_CORE", "soft": 0, "hard": 0});
    bundle.configure(|config| config["process"]["rlimits"] = json!([limit, limit]));
    assert!(bundle.refused().contains("process.rlimits[1].type: "));
}

#[test]
fn personality_is_set() {
    let bundle = Bundle::new("personality", &["/bin/sh", "-c", "busybox uname -m"]);
    if is_peer() {
        // runc 1.1 does not know it.
        return;
    }
    bundle.configure(|config| config["linux"]["personality"] = json!({"domain": "LINUX32"}));
    assert_ne!(bundle.output().trim(), std::env::consts::ARCH);
}

#[test]
fn an_unknown_capability_is_a_warning() {
    let bundle = Bundle::new("caps-unknown", &["/bin/grep", "CapEff", "/proc/self/status"]);
    bundle.configure(|config| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_KILL", "CAP_NO_SUCH"]);
        }
    });
    let output = bundle.runtime("run --bundle BUNDLE ID");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("CAP_NO_SUCH"), "{told}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "CapEff:\t0000000000000020\n", "{told}");
}

#[test]
fn a_process_file_may_name_unknown_capabilities() {
    if is_peer() {
        // runc 1.1 fails.
        return;
    }
    let bundle = Bundle::new("caps-exec", &["/bin/sleep", "1000"]);
    bundle.good("run --detach --bundle BUNDLE ID");
    let file = bundle.directory.path().join("process.json");
    let process = json!({"cwd": "/", "args": ["/bin/grep", "CapEff", "/proc/self/status"], "capabilities": {
        "bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL", "CAP_NO_SUCH"]}});
    fs::write(&file, process.to_string()).unwrap();
    let output = bundle.runtime(&format!("exec --process {} ID", file.display()));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("process.capabilities.effective") && told.contains("CAP_NO_SUCH"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "CapEff:\t0000000000000020\n", "{told}");
}

/// util-linux' setpriv takes the capability away, if it is there at all.
const WITHOUT_RESOURCE: &str = "setpriv --bounding-set=-sys_resource --inh-caps=-sys_resource";

#[test]
fn a_limit_that_may_not_be_raised_is_an_error_that_names_it() {
    let bundle = Bundle::new("limits-raise", &["/bin/sh", "-c", "ulimit -n"]);
    bundle.configure(|config| {
        let limit = json!({"type": "RLIMIT_NOFILE", "soft": 4096, "hard": 1 << 20});
        config["process"]["rlimits"] = json!([limit]);
    });
    let script = format!("ulimit -Sn 1024; ulimit -Hn 8192; {WITHOUT_RESOURCE} {RUN} $ID || true");
    let seen = host_script(&bundle, &script);
    assert!(seen.contains("setrlimit") || is_peer(), "{seen}");
    assert!(seen.contains("RLIMIT_NOFILE") || is_peer() && seen.contains("rlimit"), "{seen}");
    assert!(!seen.contains("4096"), "{seen}");
}

#[test]
fn a_capability_that_we_lack_is_a_warning() {
    let bundle = Bundle::new("caps-lacking", &["/bin/grep", "CapEff", "/proc/self/status"]);
    bundle.configure(|config| {
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_KILL", "CAP_SYS_RESOURCE"]);
        }
    });
    let seen = host_script(&bundle, &format!("{WITHOUT_RESOURCE} {RUN} $ID"));
    assert!(seen.contains("CapEff:\t0000000000000020\n"), "{seen}");
    assert!(seen.contains("CAP_SYS_RESOURCE") || is_peer(), "{seen}");
}

#[test]
fn one_more_process_is_of_the_config_at_creation() {
    let bundle = Bundle::new("exec-changed", &["/bin/sleep", "1000"]);
    bundle.configure(|config| {
        config["process"]["env"] = json!(["PATH=/bin", "WHICH=first"]);
        config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]});
    });
    bundle.good("run --detach --bundle BUNDLE ID");
    bundle.configure(|config| {
        config["process"]["env"] = json!(["PATH=/bin", "WHICH=second"]);
        config["linux"]["seccomp"] = json!(null);
    });
    assert_eq!(
        bundle.good("exec ID /bin/sh -c env").lines().filter(|l| *l == "WHICH=first").count(),
        1
    );
    assert!(bundle.bad("exec ID /bin/mkdir /tmp/a").1.contains("No space left on device"));
}

fn status_of(text: &str, field: &str) -> String {
    let mut lines = text.lines();
    let found = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    found.unwrap_or_else(|| panic!("no {field} in {text}")).trim().to_owned()
}

#[test]
fn one_more_process_runs_where_it_is_told() {
    if is_peer() {
        // runc 1.1 does not know it.
        return;
    }
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = status_of(&own, "Cpus_allowed_list");
    let last = own.rsplit(['-', ',']).next().unwrap().to_owned();
    let bundle = Bundle::new("affinity", &["/bin/sh", "-c", "cat /proc/$$/status; sleep 1000"]);
    bundle.configure(|config| {
        config["process"]["execCPUAffinity"] = json!({"initial": "0", "final": last});
    });
    bundle.good("run --detach --bundle BUNDLE ID");
    let seen = |command: &str| status_of(&bundle.good(command), "Cpus_allowed_list");
    assert_eq!(seen("exec ID /bin/cat /proc/1/status"), own);
    assert_eq!(seen("exec ID /bin/cat /proc/self/status"), last);
    let file = bundle.directory.path().join("process.json");
    let process = |affinity| {
        let args = ["/bin/cat", "/proc/self/status"];
        let process = json!({"cwd": "/", "args": args, "execCPUAffinity": affinity});
        fs::write(&file, process.to_string()).unwrap();
        format!("exec --process {} ID", file.display())
    };
    assert_eq!(seen(&process(json!({"initial": "0"}))), "0");
    assert_eq!(seen(&process(json!(null))), last);
    for (wrong, field) in
        [(json!({"final": "4000"}), "final"), (json!({"initial": "9-1"}), "initial")]
    {
        let (_, error) = bundle.bad(&process(wrong));
        assert!(error.contains(&format!("process.execCPUAffinity.{field}: ")), "{error}");
    }
    let (_, error) = bundle.bad(&process(json!({"initial": "1023"})));
    assert!(error.contains("process.execCPUAffinity.initial"), "{error}");
}

#[test]
fn memory_comes_from_the_nodes_of_the_policy() {
    if is_peer() {
        // runc 1.1 does not know it.
        return;
    }
    let bundle = Bundle::new("memory-policy", &["/bin/sleep", "1000"]);
    bundle.configure(|config| {
        config["linux"]["memoryPolicy"] =
            json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
    });
    bundle.good("run --detach --bundle BUNDLE ID");
    for process in ["1", "self"] {
        let maps = bundle.good(&format!("exec ID /bin/cat /proc/{process}/numa_maps"));
        let first = maps.lines().next().unwrap_or_default();
        assert!(first.contains(" bind=static:0"), "{process}: {maps}");
    }
    let wrong = Bundle::new("memory-policy-wrong", &["/bin/true"]);
    wrong.configure(|config| {
        config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_LOCAL", "nodes": "0"});
    });
    assert!(wrong.refused().contains("linux.memoryPolicy.nodes: "));
    wrong.configure(|config| config["linux"]["memoryPolicy"]["mode"] = "MPOL_BIND".into());
    wrong.configure(|config| config["linux"]["memoryPolicy"]["nodes"] = "1000".into());
    assert!(wrong.refused().contains("linux.memoryPolicy: invalid argument"));
}

#[test]
fn a_label_that_the_host_cannot_give_is_an_error() {
    let bundle = Bundle::new("labels", &["/bin/true"]);
    let features: serde_json::Value = match is_peer() {
        true => json!({}),
        false => serde_json::from_str(&bundle.good("features")).unwrap(),
    };
    for (section, field, module) in [
        ("process", "apparmorProfile", "apparmor"),
        ("process", "selinuxLabel", "selinux"),
        ("linux", "mountLabel", "selinux"),
    ] {
        if features["linux"][module]["enabled"] == true || is_peer() && field == "mountLabel" {
            continue;
        }
        bundle.configure(|config| config[section][field] = "no-such-label".into());
        let error = bundle.refused();
        assert!(error.contains(module), "{error}");
        assert!(error.contains(&format!("{section}.{field}: ")) || is_peer(), "{error}");
        bundle.configure(|config| config[section][field] = json!(null));
    }
}
