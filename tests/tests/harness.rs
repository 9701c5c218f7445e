//! The harness itself: a private host is private, sees what changes, and goes away whole.

use std::process::{Command, Stdio};
use std::time::Duration;

use kobune_tests::harness::{Host, eventually, http};
use kobune_tests::paths;

#[test]
fn a_host_is_private_and_its_snapshots_see_changes() {
    let host = Host::new("private");
    let before = host.snapshot();
    assert_eq!(host.snapshot().difference(&before), Vec::<String>::new());
    host.tool("ip", &["netns", "add", "left"]).ok();
    host.tool("ip", &["link", "add", "br9", "type", "bridge"]).ok();
    host.tool("nft", &["add", "table", "ip", "left"]).ok();
    let found = host.snapshot().difference(&before).join("\n");
    for category in
        ["network namespaces: + left", "links: + ", "nf_tables: + table ip left", "mounts: + "]
    {
        assert!(found.contains(category), "{category} is not in:\n{found}");
    }
    assert!(!std::fs::exists("/run/netns/left").expect("look"), "it shows on the machine");
}

#[test]
fn a_dropped_host_leaves_no_process_and_no_file() {
    let host = Host::new("dropped");
    let (dir, entry) = (host.dir.clone(), host.entry());
    let mut sleeper = Command::new("sleep");
    let mut child = entry.run(|| sleeper.arg("600").stdin(Stdio::null()).spawn()).expect("sleep");
    let pid = i32::try_from(child.id()).expect("a pid");
    assert!(entry.holds(pid));
    drop(host);
    assert!(!child.wait().expect("wait").success(), "the sleeper was not killed");
    assert!(!dir.exists());
}

#[test]
fn the_test_program_answers_and_fails_when_told() {
    let host = Host::new("testapp");
    let mut app = Command::new(paths::testapp());
    app.args(["serve", "--port", "8080", "--version", "1.0"]).stdout(Stdio::null());
    let mut child = host.run(|| app.spawn()).expect("start the test program");
    let to = "127.0.0.1:8080".parse().expect("an address");
    let get = |path: &str| host.run(|| http::get(to, path, Duration::from_secs(2)));
    let hello = eventually("it answers", Duration::from_secs(5), || get("/"));
    assert!(hello.body.ends_with(" 1.0\n"), "{}", hello.body);
    assert_eq!(get("/readyz").expect("answer").status, 200);
    assert_eq!(get("/fail/readyz").expect("answer").status, 200);
    assert_eq!(get("/readyz").expect("answer").status, 500);
    assert_eq!(get("/healthz").expect("answer").status, 200);
    assert_eq!(get("/fetch/127.0.0.1:8080/").expect("answer").body, hello.body);
    let _ = get("/exit/3");
    assert_eq!(child.wait().expect("wait").code(), Some(3));
}

#[test]
fn test_images_are_what_the_store_accepts() {
    let host = Host::new("images");
    host.import_images();
    let mut list = Command::new(paths::kobune());
    list.args(["image", "ls", "--data-dir"]).arg(host.dir.join("data"));
    let listed = host.command(list, "").ok();
    for (name, tag) in [("myapp", "1.0"), ("myapp", "1.1"), ("busybox", "1.35")] {
        assert!(
            listed.lines().any(|l| l.contains(name) && l.contains(tag)),
            "{name}:{tag}: {listed}"
        );
    }
}
