//! Promise 3: what the containers of one Pod share, and what they do not.

use std::fs;

use kobune_tests::harness::Host;

fn namespace(pid: i32, kind: &str) -> String {
    let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("the process lives");
    link.display().to_string()
}

#[test]
fn containers_share_the_network_and_keep_their_processes_and_files() {
    let host = Host::with_node("sidecar");
    host.apply_example("sidecar.yaml").ok();
    host.wait_for("pod/sidecar", "condition=Ready");
    let (app, side) = (host.pids("sidecar", "app")[0], host.pids("sidecar", "side")[0]);

    let own = i32::try_from(std::process::id()).expect("a pid");
    for kind in ["net", "ipc", "uts"] {
        assert_eq!(namespace(app, kind), namespace(side, kind), "{kind} is the Pod's");
        assert_ne!(namespace(app, kind), namespace(own, kind), "{kind} is not the machine's");
    }
    for kind in ["mnt", "pid"] {
        assert_ne!(namespace(app, kind), namespace(side, kind), "{kind} is the container's");
    }

    let exec = |words: &[&str]| {
        let mut line = vec!["exec", "sidecar", "-c", "side", "--"];
        line.extend(words);
        host.kubectl(&line)
    };
    let answer = exec(&["testapp", "get", "127.0.0.1:8080", "/"]).ok();
    assert!(answer.starts_with("sidecar "), "localhost answers {answer:?}");
    let refusal = exec(&["testapp", "bind", "8080"]).err();
    assert!(refusal.contains("in use"), "{refusal}");
    assert_eq!(exec(&["cat", "/shared/hello"]).ok(), "from-side\n");
    assert_eq!(fs::read(format!("/proc/{app}/root/shared/hello")).expect("shared"), b"from-side\n");
    assert!(
        !fs::exists(format!("/proc/{app}/root/bin/busybox")).expect("look into the other root")
    );
}

#[test]
fn ip_netns_shows_the_pod_under_its_name() {
    let host = Host::with_node("netns");
    host.apply_example("sidecar.yaml").ok();
    host.wait_for("pod/sidecar", "condition=Ready");
    let address = host.pod_address("sidecar", 0).ip().to_string();
    let listed = host.tool("ip", &["netns", "list"]).ok();
    assert!(listed.lines().any(|line| line.split(' ').next() == Some("sidecar")), "{listed}");
    let inside = host.tool("ip", &["-n", "sidecar", "-o", "address"]).ok();
    assert!(inside.contains(&address), "{address} is not in: {inside}");
}
