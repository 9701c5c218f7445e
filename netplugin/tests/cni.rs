//! The plugin binary as a container runtime sees it. As root, on machines of their own.

mod host;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use host::{machine, run};
use serde_json::{Value, json};

/// Beside the tests' directory. Not by `env!`: the shell that wraps the compiler drops variables
/// with a hyphen in their name.
fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(|deps| deps.parent()).unwrap().join("kobune-netplugin")
}

fn config() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "net", "type": "kobune-netplugin", "bridge": "cbr0",
        "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
        "ipam": {"type": "host-local", "subnet": "10.88.0.0/24", "dataDir": "/run/leases"},
    })
}

fn spawn(command: &str, container: &str, config: &Value) -> Child {
    let mut child = Command::new(binary())
        .env_clear()
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", container)
        .env("CNI_NETNS", format!("/run/netns/{container}"))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/nowhere")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // One that is killed at once reads nothing.
    let _ = child.stdin.take().unwrap().write_all(config.to_string().as_bytes());
    child
}

/// Success, and what was printed.
fn finish(child: Child) -> (bool, Value) {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.success(), serde_json::from_str(&text).unwrap_or(Value::Null))
}

fn plugin(command: &str, container: &str, config: &Value) -> (bool, Value) {
    finish(spawn(command, container, config))
}

fn good(command: &str, container: &str, config: &Value) -> Value {
    let (success, answer) = plugin(command, container, config);
    assert!(success, "{command} {container}: {answer}");
    answer
}

fn code(command: &str, container: &str, config: &Value) -> u64 {
    let (success, answer) = plugin(command, container, config);
    assert!(!success, "{command} {container}: {answer}");
    answer["code"].as_u64().unwrap()
}

fn with(mut config: Value, key: &str, value: Value) -> Value {
    config[key] = value;
    config
}

fn leases() -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir("/run/leases/net") else { return BTreeSet::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.parse::<std::net::Ipv4Addr>().is_ok()).collect()
}

fn cables() -> usize {
    run("ip", &["-o", "link", "show", "master", "cbr0"]).lines().count()
}

/// Whether the host of that address answers, if only that nobody listens there.
fn reaches(netns: &str, address: &str) -> bool {
    let namespace = std::fs::File::open(format!("/run/netns/{netns}")).unwrap();
    let address = address.parse().unwrap();
    let asking = move || {
        nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        !host::silent(address, 9)
    };
    std::thread::spawn(asking).join().unwrap()
}

fn address(result: &Value) -> String {
    result["ips"][0]["address"].as_str().unwrap().to_owned()
}

#[test]
fn a_container_is_connected_checked_and_forgotten() {
    machine(|| {
        run("ip", &["netns", "add", "one"]);
        run("ip", &["netns", "add", "two"]);
        let result = good("ADD", "one", &config());
        assert_eq!(result["cniVersion"], "1.1.0");
        assert_eq!(address(&result), "10.88.0.2/24");
        assert_eq!(result["ips"][0]["gateway"], "10.88.0.1");
        assert_eq!(result["interfaces"][2]["name"], "eth0");
        assert_eq!(result["interfaces"][2]["sandbox"], "/run/netns/one");
        assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "gw": "10.88.0.1"}]));
        let inside = |arguments: &[&str]| run("ip", &[&["-n", "one"], arguments].concat());
        assert!(inside(&["-4", "-o", "addr"]).contains("10.88.0.2/24"));
        assert!(inside(&["route"]).contains("default via 10.88.0.1 dev eth0"));
        let mac = result["interfaces"][2]["mac"].as_str().unwrap();
        assert!(inside(&["link", "show", "eth0"]).contains(mac));
        // Neighbours reach each other, and the host.
        good("ADD", "two", &config());
        assert!(reaches("two", "10.88.0.2"));
        assert!(reaches("two", "10.88.0.1"));
        let rules = run("nft", &["list", "table", "ip", "kobune-cni"]);
        assert!(
            rules.contains("10.88.0.2 . 10.88.0.0/24") && rules.contains("masquerade"),
            "{rules}"
        );
        // Again is an error, and changes nothing.
        assert_eq!(code("ADD", "one", &config()), 100);
        let checked = with(config(), "prevResult", result.clone());
        good("CHECK", "one", &checked);
        assert_eq!(code("CHECK", "one", &config()), 7, "without the former result");
        run("ip", &["-n", "one", "addr", "flush", "dev", "eth0"]);
        assert_eq!(code("CHECK", "one", &checked), 100);
        for _ in 0..2 {
            good("DEL", "one", &checked);
        }
        assert_eq!((leases().len(), cables()), (1, 1));
        assert!(!run("nft", &["list", "table", "ip", "kobune-cni"]).contains("10.88.0.2"));
        // The namespace went before.
        run("ip", &["netns", "del", "two"]);
        good("DEL", "two", &config());
        assert_eq!(leases().len(), 0);
    });
}

#[test]
fn what_cannot_be_done_is_said_in_codes() {
    machine(|| {
        run("ip", &["netns", "add", "one"]);
        assert_eq!(code("ADD", "nowhere", &config()), 3);
        assert_eq!(code("ADD", "one", &with(config(), "vlan", json!(7))), 2);
        assert_eq!(code("ADD", "one", &with(config(), "cniVersion", json!("0.2.0"))), 1);
        let ipam =
            json!({"type": "host-local", "subnet": "10.88.0.0/30", "dataDir": "/run/leases"});
        let small = with(config(), "ipam", ipam);
        good("STATUS", "", &small);
        good("ADD", "one", &small);
        assert_eq!(code("STATUS", "", &small), 50);
        run("ip", &["netns", "add", "two"]);
        assert_eq!(code("ADD", "two", &small), 101);
        assert_eq!(cables(), 1, "nothing is left of the refused one");
        let old = with(config(), "cniVersion", json!("0.4.0"));
        run("ip", &["netns", "add", "three"]);
        assert_eq!(good("ADD", "three", &old)["ips"][0]["version"], "4");
        run("ip", &["link", "add", "notabridge", "type", "veth", "peer", "other"]);
        let wrong = with(config(), "bridge", json!("notabridge"));
        assert_eq!(code("ADD", "two", &wrong), 7);
        assert_eq!(leases().len(), 2, "a refused one has no address");
    });
}

#[test]
fn fifty_at_once_have_fifty_addresses() {
    machine(|| {
        let names: Vec<String> = (0..50).map(|n| format!("c{n}")).collect();
        names.iter().for_each(|name| drop(run("ip", &["netns", "add", name])));
        let all: Vec<Child> = names.iter().map(|name| spawn("ADD", name, &config())).collect();
        let mut addresses = BTreeSet::new();
        for child in all {
            let (success, answer) = finish(child);
            assert!(success, "{answer}");
            assert!(addresses.insert(address(&answer)), "twice: {answer}");
        }
        assert_eq!((leases().len(), cables()), (50, 50));
        assert!(reaches("c49", "10.88.0.1"));
        let all: Vec<Child> = names.iter().map(|name| spawn("DEL", name, &config())).collect();
        for child in all {
            let (success, answer) = finish(child);
            assert!(success, "{answer}");
        }
        assert_eq!((leases().len(), cables()), (0, 0));
    });
}

#[test]
fn killed_at_any_moment_nothing_is_given_twice_and_gc_finds_the_rest() {
    machine(|| {
        // A plain generator: the moments differ from one to the next, and are the same in every run.
        let mut state = 7u32;
        let mut moment = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            std::time::Duration::from_micros(u64::from(state >> 16) % 20_000)
        };
        let mut alive = Vec::new();
        let mut addresses = BTreeSet::new();
        for round in 0..60 {
            let name = format!("c{round}");
            run("ip", &["netns", "add", &name]);
            let mut child = spawn("ADD", &name, &config());
            std::thread::sleep(moment());
            // Over already, or dead now.
            let _ = child.kill();
            let (success, answer) = finish(child);
            if success {
                assert!(addresses.insert(address(&answer)), "twice: {answer}");
                alive.push(name);
            } else if round % 2 == 0 {
                good("DEL", &name, &config());
            }
        }
        assert!(!alive.is_empty() && alive.len() < 60, "{} were not killed", alive.len());
        let kept: Vec<Value> =
            alive.iter().map(|name| json!({"containerID": name, "ifname": "eth0"})).collect();
        good("GC", "", &with(config(), "cni.dev/valid-attachments", json!(kept)));
        assert_eq!((leases().len(), cables()), (alive.len(), alive.len()));
        for name in &alive {
            assert!(reaches(name, "10.88.0.1"));
        }
        // Whoever was killed can be had again.
        let again = (0..60).map(|n| format!("c{n}")).find(|name| !alive.contains(name)).unwrap();
        good("DEL", &again, &config());
        let answer = good("ADD", &again, &config());
        assert!(addresses.insert(address(&answer)), "twice: {answer}");
        good("GC", "", &with(config(), "cni.dev/valid-attachments", json!([])));
        assert_eq!((leases().len(), cables()), (0, 0));
    });
}

#[test]
fn version_needs_nothing() {
    let output = Command::new(binary()).env("CNI_COMMAND", "VERSION").stdin(Stdio::null()).output();
    let output = output.unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().contains("supportedVersions"));
}
