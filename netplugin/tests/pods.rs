//! Pods on a host: connected, reachable, gone without a trace. As root, on machines of their own.

mod host;

use std::fs;
use std::time::{Duration, Instant};

use host::{
    ask, config, connect, eventually, eventually_as, machine, run, state_of_the_machine, three_pods,
};
use kobune_netplugin::{Error, PodRequest, host as host_side, netns, pod};

#[test]
fn host_and_pods_reach_each_other() {
    machine(|| {
        let [one, two, _] = three_pods();
        assert_eq!(ask(one.address(), 8080).unwrap(), "one 10.244.0.1");
        let answer = one.inside(|| ask(two.address(), 8080)).unwrap();
        assert_eq!(answer, format!("two {}", one.address()), "source address kept");
        let listener = std::net::TcpListener::bind("10.244.0.1:9000").unwrap();
        one.inside(|| std::net::TcpStream::connect("10.244.0.1:9000")).unwrap();
        drop(listener);
    });
}

#[test]
fn what_people_see_inside_a_pod() {
    machine(|| {
        host_side::setup(&config()).unwrap();
        let pod = connect("web-1");
        assert!(run("ip", &["netns"]).starts_with("web-1"));
        let inside = |arguments: &[&str]| {
            let all = [&["netns", "exec", "web-1", "ip"], arguments].concat();
            run("ip", &all)
        };
        let links = inside(&["-o", "link"]);
        assert_eq!(links.lines().count(), 2, "{links}");
        assert!(links.contains("lo: <LOOPBACK,UP"), "{links}");
        assert!(links.contains("eth0@") && links.contains("state UP"), "{links}");
        assert!(inside(&["-4", "-o", "addr"]).contains(&format!("{}/32", pod.address())));
        let route = inside(&["route"]);
        assert!(route.starts_with("default via 10.244.0.1 dev eth0") && route.contains("onlink"));
        let port = run("ip", &["-d", "link", "show", &pod.network.host_interface]);
        assert!(port.contains("master kobune0") && port.contains("hairpin on"), "{port}");
        let redirects = pod.inside(|| {
            ["all", "eth0"].map(|scope| {
                let file = format!("/proc/sys/net/ipv4/conf/{scope}/accept_redirects");
                fs::read_to_string(file).unwrap()
            })
        });
        assert_eq!(redirects, ["0\n", "0\n"]);
    });
}

#[test]
fn a_second_setup_changes_nothing() {
    machine(|| {
        let [one, ..] = three_pods();
        let before = state_of_the_machine();
        host_side::setup(&config()).unwrap();
        let again = connect("one");
        assert_eq!(again.network, one.network);
        eventually_as(&before);
        assert_eq!(ask(one.address(), 8080).unwrap(), "one 10.244.0.1");
    });
}

#[test]
fn teardown_leaves_nothing() {
    machine(|| {
        let untouched = state_of_the_machine();
        host_side::setup(&config()).unwrap();
        let bare = state_of_the_machine();
        assert_ne!(bare, untouched);
        for round in 0..3 {
            let pods = ["a", "b", "c"].map(connect);
            assert!(netns::exists("a"), "round {round}");
            pods.iter().for_each(|pod| pod.teardown());
            pods.iter().for_each(|pod| pod.teardown());
            assert!(!netns::exists("a"));
        }
        eventually("the cables are gone", || !run("ip", &["-o", "link"]).contains("kb0a"));
        // Pods that nobody tore down go with the host.
        connect("left");
        host_side::teardown(&config()).unwrap();
        host_side::teardown(&config()).unwrap();
        fs::remove_dir("/run/kobune").unwrap();
        eventually_as(&untouched);
    });
}

#[test]
fn many_pods_come_and_go_at_once() {
    machine(|| {
        host_side::setup(&config()).unwrap();
        let at_once = |work: fn(usize)| {
            std::thread::scope(|scope| {
                (0..24).for_each(|n| drop(scope.spawn(move || work(n))));
            });
        };
        for _ in 0..2 {
            at_once(|n| {
                let pod = connect(&format!("p{n}"));
                pod.serve(8080);
                let start = Instant::now();
                assert_eq!(ask(pod.address(), 8080).unwrap(), format!("p{n} 10.244.0.1"));
                // A lost first packet would be sent again after a second.
                assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
            });
            let names = run("ip", &["netns"]);
            assert_eq!(names.lines().count(), 24);
            at_once(|n| {
                let name = format!("p{n}");
                pod::teardown(&config(), &format!("uid-of-{name}"), &name).unwrap();
            });
            assert_eq!(run("ip", &["netns"]), "");
            let left = fs::read_dir(format!("{}/leases", host::STATE)).unwrap().count();
            assert_eq!(left, 0);
        }
    });
}

#[test]
fn a_namespace_directory_that_others_use_stays() {
    machine(|| {
        host_side::setup(&config()).unwrap();
        connect("ours");
        run("ip", &["netns", "add", "theirs"]);
        host_side::teardown(&config()).unwrap();
        assert_eq!(run("ip", &["netns"]).trim(), "theirs");
        // Theirs works still, and the last to leave puts out the light.
        run("ip", &["netns", "exec", "theirs", "true"]);
        run("ip", &["netns", "delete", "theirs"]);
        host_side::teardown(&config()).unwrap();
        assert!(!fs::exists(netns::DIRECTORY).unwrap());
    });
}

#[test]
fn a_failed_setup_leaves_nothing() {
    machine(|| {
        // No host setup, hence no bridge: everything before that step must be undone.
        fs::create_dir_all(host::STATE).unwrap();
        let error = pod::setup(&config(), &PodRequest { uid: "u".into(), netns: "p".into() });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("kobune0") && error.contains("does not exist"), "{error}");
        assert!(!netns::exists("p"));
        let left: Vec<_> = ["leases", "pods"]
            .iter()
            .flat_map(|name| fs::read_dir(format!("{}/{name}", host::STATE)).unwrap())
            .collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn a_namespace_with_a_foreign_interface_is_refused_and_left_alone() {
    machine(|| {
        host_side::setup(&config()).unwrap();
        run("ip", &["netns", "add", "theirs"]);
        run("ip", &["-n", "theirs", "link", "add", "eth0", "type", "bridge"]);
        let request = PodRequest { uid: "u".into(), netns: "theirs".into() };
        let error = pod::setup(&config(), &request).unwrap_err();
        assert!(matches!(error, Error::BadName { .. }), "{error}");
        assert!(run("ip", &["-n", "theirs", "-o", "link"]).contains("eth0"));
        assert!(!run("ip", &["-o", "link"]).contains("kb0a"));
    });
}

#[test]
fn a_setup_that_was_killed_half_way_is_taken_up_again() {
    machine(|| {
        host_side::setup(&config()).unwrap();
        // Killed before the namespace was pinned.
        run("ip", &["netns", "add", "makes-the-directory"]);
        fs::write("/run/netns/early", "").unwrap();
        let early = connect("early");
        early.serve(8080);
        assert!(ask(early.address(), 8080).is_ok());
        // Killed after the cable was made, before the Pod had its address.
        let late = connect("late");
        run("ip", &["-n", "late", "addr", "flush", "dev", "eth0"]);
        run("ip", &["-n", "late", "link", "set", "eth0", "down"]);
        assert_eq!(connect("late").network, late.network);
        late.serve(8080);
        assert!(ask(late.address(), 8080).is_ok());
        // A teardown that was killed half-way, in any order.
        run("ip", &["netns", "delete", "late"]);
        late.teardown();
        fs::remove_dir_all(host::STATE).unwrap();
        early.teardown();
        assert!(!netns::exists("early"));
    });
}

#[test]
fn an_address_is_free_at_once_though_somebody_stays_in_the_namespace() {
    machine(|| {
        let mut config = config();
        config.node_cidr = "10.244.0.0/30".parse().unwrap();
        host_side::setup(&config).unwrap();
        let request = |name: &str| PodRequest { uid: name.into(), netns: format!("ns-{name}") };
        let first = pod::setup(&config, &request("a")).unwrap();
        let held = fs::File::open(&first.netns_path).unwrap();
        pod::teardown(&config, "a", "ns-a").unwrap();
        let second = pod::setup(&config, &request("b")).unwrap();
        assert_eq!(first.address, second.address, "the range has one address only");
        let name = "b".to_string();
        let pod = host::TestPod { name, network: second };
        pod.serve(8080);
        assert_eq!(ask(pod.address(), 8080).unwrap(), "b 10.244.0.1");
        drop(held);
    });
}

#[test]
fn forwarding_is_restored_and_a_foreign_bridge_is_refused() {
    machine(|| {
        let forward = || fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        fs::write("/proc/sys/net/ipv4/conf/all/accept_redirects", "0").unwrap();
        let before = state_of_the_machine();
        host_side::setup(&config()).unwrap();
        host_side::setup(&config()).unwrap();
        assert_eq!(forward(), "1\n");
        host_side::teardown(&config()).unwrap();
        assert_eq!(forward(), "0\n");
        fs::remove_dir("/run/kobune").unwrap();
        assert_eq!(state_of_the_machine(), before);
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        host_side::setup(&config()).unwrap();
        host_side::teardown(&config()).unwrap();
        assert_eq!(forward(), "1\n");
        run("ip", &["link", "add", "kobune0", "type", "veth", "peer", "other"]);
        let error = host_side::setup(&config()).unwrap_err().to_string();
        assert!(error.contains("no bridge"), "{error}");
    });
}
