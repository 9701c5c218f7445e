//! Who a process is, where it is at home, and what it finds in its environment. Needs root and busybox-static.
//! `RUNTIME=/usr/sbin/runc` runs the same tests against another runtime, which is how they were proven.

mod common;

use std::fs;

use common::bundle::{Bundle, is_peer};
use serde_json::{Value, json};

const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nother:x:1000:1000::/srv/other:/bin/sh\n";

fn bundle(name: &str, env: &[&str]) -> Bundle {
    let bundle = Bundle::new(name, &["/bin/true"]);
    fs::create_dir_all(bundle.rootfs().join("etc")).unwrap();
    fs::write(bundle.rootfs().join("etc/passwd"), USERS).unwrap();
    bundle.configure(|config| config["process"]["env"] = json!(env));
    bundle
}

fn home(bundle: &Bundle, uid: u32) -> String {
    bundle.configure(|config| config["process"]["user"] = json!({"uid": uid, "gid": uid}));
    bundle.sh("echo $HOME").trim_end().to_owned()
}

#[test]
fn without_a_home_it_is_the_users() {
    let bundle = bundle("home", &["PATH=/bin"]);
    assert_eq!(home(&bundle, 0), "/root");
    assert_eq!(home(&bundle, 1000), "/srv/other");
    assert_eq!(home(&bundle, 77), "/");
    fs::remove_file(bundle.rootfs().join("etc/passwd")).unwrap();
    assert_eq!(home(&bundle, 1000), "/");
}

#[test]
fn a_given_home_stays_and_an_empty_one_is_none() {
    assert_eq!(home(&bundle("home-given", &["HOME=/given"]), 1000), "/given");
    assert_eq!(home(&bundle("home-empty", &["HOME="]), 1000), "/srv/other");
}

#[test]
fn users_that_are_a_pipe_hold_nobody_up() {
    if is_peer() {
        // runc 1.1 waits for a writer, for ever.
        return;
    }
    let bundle = bundle("home-pipe", &[]);
    let users = bundle.rootfs().join("etc/passwd");
    fs::remove_file(&users).unwrap();
    nix::unistd::mkfifo(&users, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert_eq!(home(&bundle, 1000), "/");
}

#[test]
fn an_exec_has_the_home_of_its_user() {
    let bundle = bundle("home-exec", &[]);
    bundle.configure(|config| config["process"]["args"] = json!(["/bin/sleep", "1000"]));
    bundle.start();
    let exec = |flags: &[&str]| {
        let words = [&["exec"], flags, &["ID", "/bin/sh", "-c", "echo $HOME $A"]].concat();
        String::from_utf8(bundle.run(&words).stdout).unwrap()
    };
    assert_eq!(exec(&[]), "/root\n");
    assert_eq!(exec(&["--user", "1000"]), "/srv/other\n");
    assert_eq!(exec(&["--env", "HOME=/x"]), "/x\n");
    bundle.good("delete --force ID");
}

#[test]
fn the_last_value_of_a_name_counts() {
    let bundle = bundle("override", &["A=1", "B=2", "A=3"]);
    bundle.configure(|config| config["process"]["args"] = json!(["/bin/busybox", "env"]));
    let text = bundle.output();
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with("A=")).collect();
    assert_eq!(lines, ["A=3"], "{text}");
    bundle.configure(|config| config["process"]["args"] = json!(["/bin/sleep", "1000"]));
    bundle.start();
    let text = bundle.good("exec --env B=4 ID /bin/busybox env");
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with("B=")).collect();
    assert_eq!(lines, ["B=4"], "{text}");
    bundle.good("delete --force ID");
}

#[test]
fn a_group_is_set_once() {
    let bundle = bundle("groups", &[]);
    let user = json!({"uid": 0, "gid": 0, "additionalGids": [7, 9, 7]});
    bundle.configure(|config| config["process"]["user"] = user);
    let groups = bundle.sh("grep Groups /proc/self/status");
    assert_eq!(groups.split_whitespace().collect::<Vec<_>>(), ["Groups:", "7", "9"]);
}

#[test]
fn a_process_from_a_file_is_roots_by_default() {
    let bundle = bundle("process-user", &[]);
    bundle.configure(|config| config["process"]["args"] = json!(["/bin/sleep", "1000"]));
    bundle.start();
    let file = bundle.directory.path().join("process.json");
    fs::write(&file, json!({"args": ["/bin/id", "-u"], "cwd": "/"}).to_string()).unwrap();
    let out = bundle.run(&["exec", "--process", &file.display().to_string(), "ID"]);
    assert_eq!(String::from_utf8_lossy(&out.stdout), "0\n", "{out:?}");
    bundle.good("delete --force ID");
}

#[test]
fn a_cwd_that_is_not_there_is_named() {
    let bundle = bundle("cwd", &[]);
    bundle.configure(|config| config["process"]["args"] = json!(["/bin/sleep", "1000"]));
    bundle.start();
    let (_, text) = bundle.bad("exec --cwd /not/there ID /bin/true");
    assert!(text.contains("chdir to cwd") && text.contains("/not/there"), "{text}");
    bundle.good("delete --force ID");
}

#[test]
fn a_list_has_its_keys_in_the_order_that_scripts_cut_it_by() {
    let bundle = bundle("order", &[]);
    bundle.configure(|config| config["process"]["args"] = json!(["/bin/sleep", "1000"]));
    bundle.start();
    for text in [bundle.good("list --format json"), bundle.good("state ID")] {
        let keys = ["ociVersion", "id", "pid", "status", "bundle", "rootfs", "created"];
        let places: Vec<_> = keys.map(|key| text.find(&format!("\"{key}\":"))).to_vec();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{text}");
        assert!(serde_json::from_str::<Value>(&text).is_ok(), "{text}");
    }
    bundle.good("delete --force ID");
}
