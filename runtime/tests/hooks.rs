//! Hooks of every phase through the command line. Needs root and busybox-static. `RUNTIME=/usr/sbin/runc` runs the same
//! tests against another runtime, which is how they were proven.

mod common;

use std::fs;

use common::bundle::{Bundle, is_peer};
use serde_json::{Value, json};

const PHASES: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A bundle whose hooks each run a shell script; `$OUT` is a directory of the host, also inside at /out.
fn bundle(name: &str, args: &[&str], script: impl Fn(&str) -> Value) -> Bundle {
    let bundle = Bundle::new(name, args);
    let out = bundle.directory.path().join("out");
    fs::create_dir(&out).unwrap();
    bundle.configure(|config| {
        config["annotations"] = json!({"some": "note"});
        config["mounts"].as_array_mut().unwrap().push(json!({
            "destination": "/out", "type": "bind", "source": out, "options": ["bind"],
        }));
        for phase in PHASES {
            let place = if phase == "startContainer" { "/out" } else { out.to_str().unwrap() };
            let mut list = script(phase);
            for hook in list.as_array_mut().unwrap() {
                hook["env"] =
                    json!([format!("OUT={place}"), format!("PHASE={phase}"), "PATH=/bin:/usr/bin"]);
            }
            config["hooks"][phase] = list;
        }
    });
    bundle
}

fn shell(script: &str) -> Value {
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
}

fn out(bundle: &Bundle, name: &str) -> String {
    let path = bundle.directory.path().join("out").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

#[test]
fn every_phase_runs_in_order_and_place_with_the_state() {
    let script =
        "cat >$OUT/$PHASE; echo $PHASE >>$OUT/order; readlink /proc/self/ns/mnt >$OUT/$PHASE.mnt";
    let bundle =
        bundle("hooks", &["/bin/sh", "-c", "echo program >>/out/order"], |_| shell(script));
    bundle.good("create --bundle BUNDLE ID");
    let created = out(&bundle, "order");
    // runc (until 2026) runs poststart at its end of `create`.
    let created = created.replace("poststart\n", "");
    assert_eq!(created, "prestart\ncreateRuntime\ncreateContainer\n");
    bundle.good("start ID");
    while bundle.status() != "stopped" {
        std::thread::yield_now();
    }
    bundle.good("delete ID");
    let order = out(&bundle, "order");
    let position = |name: &str| order.lines().position(|line| line == name).unwrap();
    assert!(position("startContainer") < position("program"), "{order}");
    assert_eq!(order.lines().last(), Some("poststop"), "{order}");
    assert_eq!(order.lines().count(), 7, "{order}");
    let own = fs::read_link("/proc/self/ns/mnt").unwrap().display().to_string();
    for phase in PHASES {
        let state: Value = serde_json::from_str(&out(&bundle, phase)).unwrap();
        assert_eq!(state["id"], *bundle.id, "{phase}");
        assert_eq!(state["annotations"]["some"], "note", "{phase}");
        assert_eq!(state["bundle"], bundle.directory.path().to_str().unwrap(), "{phase}");
        let inside = matches!(phase, "createContainer" | "startContainer");
        let outside = out(&bundle, &format!("{phase}.mnt")).trim() == own;
        assert_eq!(outside, !inside, "{phase}");
        let status = match phase {
            "prestart" | "createRuntime" | "createContainer" => "creating",
            "startContainer" => "created",
            // runc tells what was before the phase.
            "poststart" if is_peer() => "created",
            "poststart" => "running",
            _ => "stopped",
        };
        assert_eq!(state["status"], status, "{phase}");
    }
}

#[test]
fn a_failing_hook_before_the_program_ends_the_container() {
    for phase in ["prestart", "createRuntime", "createContainer", "startContainer"] {
        let bundle = bundle("hooks-fail", &["/bin/sh", "-c", "touch /out/ran"], |own| match own {
            _ if own == phase => shell("echo because >&2; exit 7"),
            "poststop" => shell("touch $OUT/stopped"),
            _ => json!([]),
        });
        let (_, error) = bundle.bad("run --bundle BUNDLE ID");
        assert!(error.contains("because") && error.contains('7'), "{phase}: {error}");
        bundle.bad("state ID");
        assert!(!bundle.directory.path().join("out/ran").exists(), "{phase}");
        assert!(bundle.directory.path().join("out/stopped").exists(), "{phase}");
    }
}

#[test]
fn a_failing_hook_at_the_end_is_a_warning() {
    if is_peer() {
        // runc 1.1 fails.
        return;
    }
    let bundle = bundle("hooks-warn", &["/bin/sh", "-c", "exit 5"], |phase| match phase {
        "poststop" => json!([
            {"path": "/bin/sh", "args": ["sh", "-c", "exit 1"]},
            {"path": "/bin/sh", "args": ["sh", "-c", "touch $OUT/$PHASE"]},
        ]),
        _ => json!([]),
    });
    let output = bundle.runtime("run --bundle BUNDLE ID");
    assert_eq!(output.status.code(), Some(5));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("hooks.poststop[0]"), "{told}");
    assert_eq!(out(&bundle, "poststop"), "");
}

/// runtime.md#lifecycle, step 9, since 1.2.
#[test]
fn a_failing_hook_after_the_program_ends_the_container() {
    if is_peer() {
        // runc leaves a stopped container, and runs poststart hooks in `create` until 2026.
        return;
    }
    for commands in [
        &["create --bundle BUNDLE ID", "start ID"][..],
        &["run --bundle BUNDLE ID"],
        &["run --detach --bundle BUNDLE ID"],
    ] {
        let bundle = bundle("hooks-after", &["/bin/sleep", "1000"], |phase| match phase {
            "poststart" => json!([
                {"path": "/bin/sh", "args": ["sh", "-c", "echo because >&2; exit 1"]},
                {"path": "/bin/sh", "args": ["sh", "-c", "touch $OUT/second"]},
            ]),
            "poststop" => shell("echo stopped >>$OUT/stopped"),
            _ => json!([]),
        });
        let (last, before) = commands.split_last().unwrap();
        before.iter().for_each(|command| drop(bundle.good(command)));
        let (_, error) = bundle.bad(last);
        assert!(error.contains("hooks.poststart[0]") && error.contains("because"), "{error}");
        bundle.bad("state ID");
        assert_eq!(out(&bundle, "stopped"), "stopped\n", "{last}");
        assert!(!bundle.directory.path().join("out/second").exists());
    }
}

#[test]
fn the_last_hooks_run_once() {
    let bundle = bundle("hooks-once", &["/bin/true"], |phase| match phase {
        "poststop" => shell("echo stopped >>$OUT/stopped"),
        _ => json!([]),
    });
    // What fails comes after the container exists.
    bundle.bad("run --pid-file /no/such/directory/pid --bundle BUNDLE ID");
    assert_eq!(out(&bundle, "stopped"), "stopped\n");
    bundle.bad("state ID");
}

#[test]
fn a_hook_that_takes_too_long_is_killed() {
    let bundle = bundle("hooks-slow", &["/bin/true"], |phase| match phase {
        "createRuntime" => json!([{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]),
        _ => json!([]),
    });
    bundle.bad("run --bundle BUNDLE ID");
    bundle.bad("state ID");
}

#[test]
fn a_changed_config_changes_no_hook() {
    let bundle = bundle("hooks-changed", &["/bin/true"], |phase| match phase {
        "poststop" => shell("touch $OUT/stopped"),
        _ => json!([]),
    });
    bundle.good("create --bundle BUNDLE ID");
    bundle.configure(|config| config["hooks"] = json!({}));
    bundle.good("delete --force ID");
    assert_eq!(out(&bundle, "stopped"), "");
}

#[test]
fn a_hook_without_a_list_has_the_environment_of_the_runtime() {
    let bundle = Bundle::new("hook-env", &["/bin/true"]);
    let seen = bundle.directory.path().join("seen");
    let hook = |env: Value| {
        let script = format!("env | grep ^PATH= >>{} || echo none >>{0}", seen.display());
        let mut hook = json!({"path": "/bin/busybox", "args": ["sh", "-c", script]});
        if !env.is_null() {
            hook["env"] = env;
        }
        hook
    };
    bundle.configure(|config| {
        config["hooks"]["createRuntime"] = json!([hook(Value::Null), hook(json!(["PATH=/own"]))]);
    });
    bundle.good("run --bundle BUNDLE ID");
    let ours = std::env::var("PATH").unwrap();
    assert_eq!(fs::read_to_string(&seen).unwrap(), format!("PATH={ours}\nPATH=/own\n"));
}
