//! Every way in: node ports, external addresses, policies, affinity, source ranges, and repairs. As root, on machines
//! of their own, with a machine outside that is connected by a wire.

mod host;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use host::{
    TestPod, VIP, ask, ask_udp, config, connect, machine, run, silent, spread, table, three_pods,
    vip,
};
use kobune_netplugin::nft::services::{
    Backend, Door, Group, Otherwise, Place, Protocol, Service, Services, VipPort,
};
use kobune_netplugin::nft::{Rules, Watch};
use kobune_netplugin::{announce, host as host_side};

/// The node's address on the wire, the machine outside, and an address that only Services have.
const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 240);
const NODE_PORT: u16 = 30080;
/// The bridge's address: what Pods see of a stranger whose address is not kept.
const GATEWAY: &str = "10.244.0.1";

/// A machine at the other end of a wire; packets to [`EXTERNAL`] go through the node.
fn outside(like: &TestPod) -> TestPod {
    run("ip", &["netns", "add", "outside"]);
    run("ip", &["link", "add", "wire", "type", "veth", "peer", "wire", "netns", "outside"]);
    run("ip", &["addr", "add", "192.0.2.1/24", "dev", "wire"]);
    run("ip", &["link", "set", "wire", "up"]);
    run("ip", &["route", "add", "default", "via", "192.0.2.2"]);
    run("ip", &["-n", "outside", "addr", "add", "192.0.2.2/24", "dev", "wire"]);
    run("ip", &["-n", "outside", "link", "set", "wire", "up"]);
    run("ip", &["-n", "outside", "link", "set", "lo", "up"]);
    run("ip", &["-n", "outside", "route", "add", "192.0.2.240/32", "via", "192.0.2.1"]);
    let mut network = like.network.clone();
    network.netns_path = "/run/netns/outside".into();
    TestPod { name: "outside".into(), network }
}

fn places(protocol: Protocol) -> [Place; 3] {
    let external = VipPort { address: EXTERNAL, protocol, port: 80 };
    [
        Place::Address(vip(protocol, 80)),
        Place::Address(external),
        Place::Node { protocol, port: NODE_PORT },
    ]
}

/// A Service with a cluster address, an external one and a node port. With `local`, strangers are sent to these
/// backends only, and their address is kept.
fn service(backends: &[Backend], local: Option<&[Backend]>) -> Service {
    let mut service = Service { cluster_ips: [VIP].into(), ..Service::default() };
    service.local_pods = backends.iter().map(|one| one.address).collect();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let all = Group {
            doors: places(protocol).map(Door::for_all).into(),
            backends: backends.to_vec(),
            ..Group::default()
        };
        service.groups.insert(format!("{protocol}"), all);
        if let Some(local) = local {
            let kept = Group {
                doors: places(protocol)[1..].iter().copied().map(Door::from_outside).collect(),
                backends: local.to_vec(),
                keep_source: true,
                otherwise: Otherwise::Drop,
                ..Group::default()
            };
            service.groups.insert(format!("{protocol} local"), kept);
        }
    }
    service
}

fn all(service: Service) -> Services {
    [("default/web".to_owned(), service)].into()
}

fn backends(pods: &[TestPod]) -> Vec<Backend> {
    pods.iter().map(|pod| pod.backend(8080)).collect()
}

/// Every door of the Service but its cluster address, as (address, port).
const DOORS: [(Ipv4Addr, u16); 2] = [(EXTERNAL, 80), (NODE, NODE_PORT)];

#[test]
fn every_door_opens_for_strangers_the_host_and_pods() {
    machine(|| {
        let pods = three_pods();
        let (client, stranger) = (connect("client"), outside(&pods[0]));
        let mut rules = Rules::open(&config()).unwrap();
        rules.sync(all(service(&backends(&pods), None))).unwrap();
        let from_pod = client.address().to_string();
        for ask in [ask, ask_udp] {
            for (address, port) in DOORS {
                for (from, sees) in [(&stranger, GATEWAY), (&client, from_pod.as_str())] {
                    let seen = spread(60, || from.inside(|| ask(address, port)));
                    assert_eq!(seen.len(), 3, "{address}:{port} from {}: {seen:?}", from.name);
                    let answer = from.inside(|| ask(address, port)).unwrap();
                    assert!(answer.ends_with(&format!(" {sees}")), "{address}:{port}: {answer}");
                }
                let answer = ask(address, port).unwrap();
                assert!(answer.ends_with(&format!(" {GATEWAY}")), "the host: {answer}");
            }
            // All of the node's addresses but the loopback have node ports.
            assert!(client.inside(|| ask(Ipv4Addr::new(10, 244, 0, 1), NODE_PORT)).is_ok());
            assert!(ask(Ipv4Addr::LOCALHOST, NODE_PORT).is_err());
        }
        // A Pod reaches itself, by every door.
        rules.sync(all(service(&backends(&pods[..1]), None))).unwrap();
        for (address, port) in DOORS {
            let answer = pods[0].inside(|| ask(address, port)).unwrap();
            assert_eq!(answer, format!("one {GATEWAY}"), "{address}:{port}");
        }
        // Other ports are nobody's business.
        assert!(stranger.inside(|| silent(EXTERNAL, 81)));
    });
}

#[test]
fn without_endpoints_every_door_refuses() {
    machine(|| {
        let pods = three_pods();
        let (client, stranger) = (connect("client"), outside(&pods[0]));
        // Somebody listens on the port of the node: the Service goes first.
        let _listener = std::net::TcpListener::bind((NODE, NODE_PORT)).unwrap();
        let mut rules = Rules::open(&config()).unwrap();
        rules.sync(all(service(&[], None))).unwrap();
        for (address, port) in DOORS {
            for from in [&stranger, &client] {
                for ask in [ask, ask_udp] {
                    let start = Instant::now();
                    let error = from.inside(|| ask(address, port)).unwrap_err();
                    let kind = std::io::ErrorKind::ConnectionRefused;
                    assert_eq!(error.kind(), kind, "{address}:{port} from {}", from.name);
                    assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
                }
            }
            assert!(ask(address, port).is_err());
        }
        rules.sync(Services::new()).unwrap();
        assert!(stranger.inside(|| std::net::TcpStream::connect((NODE, NODE_PORT))).is_ok());
    });
}

#[test]
fn a_local_policy_keeps_the_strangers_address_and_drops_without_local_endpoints() {
    machine(|| {
        let pods = three_pods();
        let (client, stranger) = (connect("client"), outside(&pods[0]));
        let mut rules = Rules::open(&config()).unwrap();
        let every = backends(&pods);
        rules.sync(all(service(&every, Some(&every[..1])))).unwrap();
        let sees = OUTSIDE.to_string();
        for ask in [ask, ask_udp] {
            for (address, port) in DOORS {
                let seen = spread(30, || stranger.inside(|| ask(address, port)));
                assert_eq!(seen.keys().collect::<Vec<_>>(), ["one"], "{address}:{port}");
                let answer = stranger.inside(|| ask(address, port)).unwrap();
                assert_eq!(answer, format!("one {sees}"), "{address}:{port}");
                // Whoever is inside meets all of them.
                assert_eq!(spread(60, || client.inside(|| ask(address, port))).len(), 3);
                assert_eq!(spread(60, || ask(address, port)).len(), 3);
            }
        }
        rules.sync(all(service(&every, Some(&[])))).unwrap();
        for (address, port) in DOORS {
            assert!(stranger.inside(|| silent(address, port)), "{address}:{port}");
            assert!(client.inside(|| ask(address, port)).is_ok());
        }
    });
}

#[test]
fn a_client_meets_the_same_backend_until_it_stays_away() {
    machine(|| {
        let pods = three_pods();
        let (client, stranger) = (connect("client"), outside(&pods[0]));
        let mut rules = Rules::open(&config()).unwrap();
        let mut wanted = service(&backends(&pods), None);
        wanted.groups.values_mut().for_each(|group| group.affinity = Some(2));
        rules.sync(all(wanted.clone())).unwrap();
        let mut met = Vec::new();
        for ask in [ask, ask_udp] {
            for from in [&client, &stranger] {
                let seen = spread(30, || from.inside(|| ask(EXTERNAL, 80)));
                assert_eq!(seen.len(), 1, "{seen:?}");
                // By another door it is the same Service.
                let other = spread(10, || from.inside(|| ask(NODE, NODE_PORT)));
                assert!(other.keys().eq(seen.keys()), "{seen:?} {other:?}");
                met.push(seen.keys().next().unwrap().clone());
            }
        }
        // Its backend goes: it moves once, and stays there though the old one comes back.
        let left: Vec<Backend> =
            pods.iter().filter(|pod| pod.name != met[0]).map(|pod| pod.backend(8080)).collect();
        let mut less = wanted.clone();
        less.groups.values_mut().for_each(|group| group.backends = left.clone());
        rules.sync(all(less)).unwrap();
        let moved = spread(30, || client.inside(|| ask(EXTERNAL, 80)));
        assert_eq!(moved.len(), 1, "{moved:?}");
        assert!(!moved.contains_key(&met[0]));
        // A new process with the same Services changes nothing of that.
        let text = run("nft", &["list", "ruleset"]);
        assert!(text.contains("update @affinity") && text.contains("timeout 2s"), "{text}");
        rules.sync(all(wanted.clone())).unwrap();
        let mut next = Rules::open(&config()).unwrap();
        assert_eq!(next.sync(all(wanted)).unwrap(), 0);
        let stays = spread(30, || client.inside(|| ask(EXTERNAL, 80)));
        assert!(stays.keys().eq(moved.keys()), "{moved:?} {stays:?}");
        // Forgotten after two seconds: with three backends, ten times the same is one in 20000.
        let deadline = Instant::now() + Duration::from_secs(60);
        let stranger_meets = || {
            std::thread::sleep(Duration::from_millis(2100));
            stranger.inside(|| ask(EXTERNAL, 80)).unwrap()
        };
        let first = stranger_meets();
        while stranger_meets() == first {
            assert!(Instant::now() < deadline, "never forgotten");
        }
    });
}

#[test]
fn only_allowed_sources_reach_a_guarded_address() {
    machine(|| {
        let pods = three_pods();
        let (client, stranger) = (connect("client"), outside(&pods[0]));
        let mut rules = Rules::open(&config()).unwrap();
        let mut wanted = service(&backends(&pods), None);
        let place = VipPort { address: EXTERNAL, protocol: Protocol::Tcp, port: 80 };
        let mut allow = |ranges: &[&str]| {
            let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
            wanted.allowed.insert(place, ranges);
            rules.sync(all(wanted.clone())).unwrap();
        };
        allow(&["198.51.100.0/24", "10.244.0.0/16", "10.244.0.0/24"]);
        assert!(stranger.inside(|| silent(EXTERNAL, 80)));
        assert!(client.inside(|| ask(EXTERNAL, 80)).is_ok());
        // The other ways in are not guarded.
        assert!(stranger.inside(|| ask(NODE, NODE_PORT)).is_ok());
        allow(&["192.0.2.2/32"]);
        assert!(stranger.inside(|| ask(EXTERNAL, 80)).is_ok());
        assert!(client.inside(|| silent(EXTERNAL, 80)));
        let text = run("nft", &["list", "ruleset"]);
        assert!(text.contains("192.0.2.240 . tcp . 80 . 192.0.2.2"), "{text}");
        wanted.allowed.clear();
        rules.sync(all(wanted)).unwrap();
        assert!(client.inside(|| ask(EXTERNAL, 80)).is_ok());
    });
}

#[test]
fn a_node_port_leads_to_a_backend_on_the_node_itself() {
    machine(|| {
        let pods = three_pods();
        let stranger = outside(&pods[0]);
        let server = std::net::TcpListener::bind((NODE, 8443)).unwrap();
        std::thread::spawn(move || {
            use std::io::Write;
            for stream in server.incoming() {
                let mut stream = stream.unwrap();
                let peer = stream.peer_addr().unwrap().ip();
                let _ = write!(stream, "node {peer}");
            }
        });
        let mut wanted = service(&[Backend { address: NODE, port: 8443 }], None);
        wanted.local_pods.clear();
        Rules::open(&config()).unwrap().sync(all(wanted)).unwrap();
        for (address, port) in DOORS {
            assert_eq!(stranger.inside(|| ask(address, port)).unwrap(), format!("node {OUTSIDE}"));
            assert_eq!(ask(address, port).unwrap(), format!("node {NODE}"));
        }
    });
}

#[test]
fn foreign_marks_are_left_alone() {
    machine(|| {
        let pods = three_pods();
        let stranger = outside(&pods[0]);
        // Counts what has a mark of ours where nothing of ours was meant, and marks everything first.
        let foreign = "table ip theirs {
            chain before { type filter hook prerouting priority -150; meta mark set 0x6b6f6200; }
            chain in { type filter hook input priority 0; meta mark != 0x6b6f6200 counter drop; }
        }";
        std::fs::write("/run/foreign", foreign).unwrap();
        run("nft", &["-f", "/run/foreign"]);
        let mut rules = Rules::open(&config()).unwrap();
        rules.sync(all(service(&backends(&pods), None))).unwrap();
        let server = std::net::TcpListener::bind((NODE, 22)).unwrap();
        std::thread::spawn(move || {
            use std::io::Write;
            let _ = server.accept().unwrap().0.write_all(b"ssh");
        });
        assert_eq!(stranger.inside(|| ask(NODE, 22)).unwrap(), "ssh");
    });
}

#[test]
fn whoever_takes_over_changes_only_what_differs() {
    machine(|| {
        let pods = three_pods();
        let mut wanted = all(service(&backends(&pods), Some(&backends(&pods[..2]))));
        wanted.extend(table(&[&pods[0]]).into_values().map(|mut service| {
            service.groups.clear();
            ("default/none".to_owned(), service)
        }));
        let service = wanted.get_mut("default/web").unwrap();
        service.groups.get_mut("tcp").unwrap().affinity = Some(10);
        let place = VipPort { address: EXTERNAL, protocol: Protocol::Tcp, port: 80 };
        service.allowed.insert(place, vec!["192.0.0.0/8".parse().unwrap()]);
        Rules::open(&config()).unwrap().sync(wanted.clone()).unwrap();
        let before = run("nft", &["-a", "list", "ruleset"]);
        let mut next = Rules::open(&config()).unwrap();
        assert_eq!(next.sync(wanted.clone()).unwrap(), 0);
        assert_eq!(run("nft", &["-a", "list", "ruleset"]), before, "not even handles change");
        // While nobody looked, an endpoint came and another went, and somebody took elements away.
        run("nft", &["flush", "map", "ip", "kobune", "node-ports"]);
        run("nft", &["add", "element", "ip", "kobune", "cluster-ips", "{ 10.96.9.9 }"]);
        let service = wanted.get_mut("default/web").unwrap();
        service.groups.get_mut("udp").unwrap().backends.remove(0);
        let changed = Rules::open(&config()).unwrap().sync(wanted.clone()).unwrap();
        assert!((1..15).contains(&changed), "{changed}");
        let text = run("nft", &["list", "ruleset"]);
        assert!(!text.contains("10.96.9.9") && text.contains("tcp . 30080"), "{text}");
        // Rules of another configuration are replaced as a whole.
        let mut other = config();
        other.cluster_cidr = "10.240.0.0/12".parse().unwrap();
        let mut next = Rules::open(&other).unwrap();
        assert!(next.sync(wanted).unwrap() > 20);
        assert!(run("nft", &["list", "ruleset"]).contains("10.240.0.0/12"));
        assert_eq!(next.repair().unwrap(), 0);
    });
}

#[test]
fn whoever_flushes_our_table_is_undone_within_a_second() {
    machine(|| {
        let pods = three_pods();
        let stranger = outside(&pods[0]);
        let mut rules = Rules::open(&config()).unwrap();
        let mut watch = Watch::open(&rules).unwrap();
        rules.sync(all(service(&backends(&pods), None))).unwrap();
        let (sender, touched) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            while let Ok(disturbed) = watch.wait() {
                if disturbed && sender.send(()).is_err() {
                    return;
                }
            }
        });
        run("nft", &["add", "table", "ip", "theirs"]);
        run("nft", &["add", "chain", "ip", "theirs", "c"]);
        let foreign = run("nft", &["list", "table", "ip", "theirs"]);
        let whole = run("nft", &["list", "table", "ip", "kobune"]);
        for damage in [
            &["flush", "map", "ip", "kobune", "eps"][..],
            &["flush", "chain", "ip", "kobune", "balance"],
            &["delete", "element", "ip", "kobune", "service-ips", "{ 192.0.2.240 . tcp . 80 }"],
            &["add", "rule", "ip", "kobune", "services", "drop"],
            &["add", "chain", "ip", "kobune", "intruder"],
            &["delete", "table", "ip", "kobune"],
        ] {
            run("nft", damage);
            touched.recv_timeout(Duration::from_secs(1)).expect("noticed within a second");
            rules.repair().unwrap();
            assert_eq!(run("nft", &["list", "table", "ip", "kobune"]), whole, "{damage:?}");
            assert!(stranger.inside(|| ask(EXTERNAL, 80)).is_ok(), "{damage:?}");
            assert_eq!(run("nft", &["list", "table", "ip", "theirs"]), foreign);
        }
        // Changes of other tables, and our own, are no disturbance.
        run("nft", &["add", "chain", "ip", "theirs", "d"]);
        rules.sync(all(service(&backends(&pods[..1]), None))).unwrap();
        assert!(touched.recv_timeout(Duration::from_millis(300)).is_err());
        run("nft", &["flush", "ruleset"]);
        touched.recv_timeout(Duration::from_secs(1)).expect("noticed within a second");
        rules.repair().unwrap();
        assert_eq!(spread(20, || stranger.inside(|| ask(EXTERNAL, 80))).len(), 1);
    });
}

#[test]
fn an_announced_address_is_heard_of_at_once_and_moves() {
    machine(|| {
        let pods = three_pods();
        let stranger = outside(&pods[0]);
        let before = run("ip", &["-4", "-o", "addr"]);
        // Now it is on the wire: nobody is told a way.
        run("ip", &["-n", "outside", "route", "del", "192.0.2.240/32"]);
        Rules::open(&config()).unwrap().sync(all(service(&backends(&pods), None))).unwrap();
        assert!(stranger.inside(|| silent(EXTERNAL, 80)), "nobody answers for it");
        let wanted = [EXTERNAL].into();
        assert_eq!(announce::hold(&config(), NODE, &wanted).unwrap(), wanted);
        assert!(announce::hold(&config(), NODE, &wanted).unwrap().is_empty(), "held already");
        assert!(stranger.inside(|| ask(EXTERNAL, 80)).is_ok());
        // Somebody else had it before, and the stranger believes so still: for a long time, if nobody tells.
        let remembers = || run("ip", &["-n", "outside", "neigh", "show", "192.0.2.240"]);
        let other = "02:00:00:00:00:99";
        let neighbour = ["neigh", "replace", "192.0.2.240", "lladdr", other, "dev", "wire"];
        let all = [&["-n", "outside"][..], &neighbour, &["nud", "reachable"]].concat();
        run("ip", &all);
        assert!(remembers().contains(other));
        announce::announce(&config(), &wanted).unwrap();
        host::eventually("told of the new holder", || !remembers().contains(other));
        let start = Instant::now();
        assert!(stranger.inside(|| ask(EXTERNAL, 80)).is_ok());
        assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
        // Given up, it is nobody's; an address of the host's own is left alone.
        assert!(announce::hold(&config(), NODE, &[NODE].into()).unwrap().is_empty());
        assert_eq!(run("ip", &["-4", "-o", "addr"]), before);
        announce::hold(&config(), NODE, &wanted).unwrap();
        host_side::teardown(&config()).unwrap();
        assert!(!run("ip", &["-4", "-o", "addr"]).contains("192.0.2.240"));
    });
}
