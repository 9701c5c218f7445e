//! Virtual addresses: balanced, refused, hidden; in one table. As root, on machines of their own.

mod host;

use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use host::{
    VIP, add, ask, ask_udp, config, connect, machine, run, silent, spread, table, three_pods, vip,
};
use kobune_netplugin::host as host_side;
use kobune_netplugin::nft::services::{Protocol, Services};
use kobune_netplugin::nft::{self, Rules};

fn rules() -> Rules {
    Rules::open(&config()).unwrap()
}

/// Runs `test` on two machines: without and with bridge netfilter, if the kernel has it.
fn both_bridges(test: fn()) {
    for value in ["0", "1"] {
        machine(move || {
            let _ = std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", value);
            test();
        });
    }
}

#[test]
fn a_vip_spreads_connections_of_host_and_pods() {
    both_bridges(|| {
        let pods = three_pods();
        let all: Vec<_> = pods.iter().collect();
        rules().sync(table(&all)).unwrap();
        let client = connect("client");
        for ask in [ask, ask_udp] {
            // 60 draws from three leave one out with a probability of 10^-10.
            let from_host = spread(60, || ask(VIP, 80));
            assert_eq!(from_host.len(), 3, "{from_host:?}");
            let from_pod = spread(60, || client.inside(|| ask(VIP, 80)));
            assert_eq!(from_pod.len(), 3, "{from_pod:?}");
        }
        let answer = client.inside(|| ask(VIP, 80)).unwrap();
        assert!(answer.ends_with(&client.address().to_string()), "source address kept: {answer}");
    });
}

#[test]
fn a_pod_reaches_itself_through_a_vip() {
    both_bridges(|| {
        let pods = three_pods();
        rules().sync(table(&[&pods[0]])).unwrap();
        assert_eq!(pods[0].inside(|| ask(VIP, 80)).unwrap(), "one 10.244.0.1");
        assert_eq!(pods[0].inside(|| ask_udp(VIP, 80)).unwrap(), "one 10.244.0.1");
    });
}

fn refused_quickly(ask: impl FnOnce() -> io::Result<String>) {
    let start = Instant::now();
    let error = ask().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
}

#[test]
fn without_endpoints_or_on_a_wrong_port_connections_are_refused() {
    both_bridges(|| {
        let [one, ..] = three_pods();
        let mut wanted = table(&[]);
        add(&mut wanted, vip(Protocol::Tcp, 443), vec![one.backend(8080)]);
        rules().sync(wanted.clone()).unwrap();
        for port in [80, 81] {
            refused_quickly(|| ask(VIP, port));
            // The sender's own kernel refuses to send, as it does upstream.
            let error = ask_udp(VIP, port).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
            refused_quickly(|| one.inside(|| ask(VIP, port)));
            refused_quickly(|| one.inside(|| ask_udp(VIP, port)));
        }
        assert!(ask(VIP, 443).is_ok());
        // An address that no Service has does not answer at all.
        let nobody = Ipv4Addr::new(10, 96, 7, 7);
        assert!(silent(nobody, 80) && one.inside(|| silent(nobody, 80)));
    });
}

#[test]
fn an_endpoint_comes_and_goes_while_the_others_serve() {
    machine(|| {
        let pods = three_pods();
        let all: Vec<_> = pods.iter().collect();
        let mut rules = rules();
        rules.sync(table(&all)).unwrap();
        for left in [&all[..2], &all[1..2], &all[..], &[], &all[2..]] {
            rules.sync(table(left)).unwrap();
            if left.is_empty() {
                refused_quickly(|| ask(VIP, 80));
                continue;
            }
            let seen = spread(60, || ask(VIP, 80));
            let names: Vec<_> = seen.keys().cloned().collect();
            let mut expected: Vec<_> = left.iter().map(|pod| pod.name.clone()).collect();
            expected.sort();
            assert_eq!(names, expected);
        }
        assert_eq!(rules.sync(table(&all[2..])).unwrap(), 0);
    });
}

#[test]
fn a_udp_client_moves_when_its_backend_goes() {
    machine(|| {
        let [one, two, _] = three_pods();
        let client = connect("client");
        let mut rules = rules();
        rules.sync(table(&[])).unwrap();
        // The same socket all the time: to the kernel it is one flow.
        let socket = client.inside(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:4000").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket
        });
        let ask = || {
            socket.send_to(b"?", (VIP, 80))?;
            let mut buffer = [0; 64];
            let (length, _) = socket.recv_from(&mut buffer)?;
            Ok::<_, io::Error>(String::from_utf8_lossy(&buffer[..length]).into_owned())
        };
        let _ = socket.send_to(b"?", (VIP, 80));
        for (pods, expected) in [(&one, "one"), (&two, "two"), (&one, "one")] {
            rules.sync(table(&[pods])).unwrap();
            let answer = ask().unwrap();
            assert!(answer.starts_with(expected), "{answer}");
        }
        rules.sync(Services::new()).unwrap();
        assert!(ask().is_err(), "nobody answers for a service that is gone");
    });
}

#[test]
fn connections_survive_a_new_owner_of_the_rules() {
    use std::io::{Read, Write};
    machine(|| {
        let pods = three_pods();
        let all: Vec<_> = pods.iter().collect();
        let echo = pods[0].inside(|| std::net::TcpListener::bind("0.0.0.0:7").unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = echo.accept().unwrap();
            let mut one = [0];
            while stream.read_exact(&mut one).is_ok() {
                stream.write_all(&one).unwrap();
            }
        });
        let mut wanted = table(&all);
        add(&mut wanted, vip(Protocol::Tcp, 7), vec![pods[0].backend(7)]);
        rules().sync(wanted.clone()).unwrap();
        let mut stream = std::net::TcpStream::connect((VIP, 7)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut check = || {
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut [0]).unwrap();
        };
        check();
        // A restarted agent sets the host up again, then knows what it wants.
        host_side::setup(&config()).unwrap();
        assert!(ask(VIP, 80).is_ok(), "the old rules hold until the new ones are there");
        check();
        rules().sync(wanted.clone()).unwrap();
        check();
        assert!(ask(VIP, 80).is_ok());
    });
}

#[test]
fn nft_prints_our_table_and_foreign_tables_stay() {
    machine(|| {
        let foreign = "table inet theirs {\n\tset ours { type ipv4_addr; elements = { 10.0.0.1 } }\n\
                       \tchain c { type filter hook input priority 0; ip saddr @ours drop; }\n}\n\
                       table ip6 kobune { chain x { accept; }; }\n";
        std::fs::write("/run/foreign", foreign).unwrap();
        run("nft", &["-f", "/run/foreign"]);
        let before = run("nft", &["list", "ruleset"]);
        let pods = three_pods();
        let all: Vec<_> = pods.iter().collect();
        let mut rules = rules();
        rules.sync(table(&all)).unwrap();
        let text = run("nft", &["list", "ruleset"]);
        for part in [
            "ip daddr . meta l4proto . th dport map @service-ips",
            "vmap @classes",
            "numgen random mod 3 map @eps",
            // Three endpoints; ids 0 and 1 in the order of the ports.
            "10.96.0.10 . tcp . 80 : 0x00000030",
            "10.96.0.10 . udp . 80 : 0x00001030",
            "0x00000030 : goto lb-3",
            &format!("0x00001000 . 0x00000000 : {} . 8080", pods[0].address()),
            "reject with tcp reset",
            "masquerade fully-random",
            "comment \"rules ",
            "fib daddr type local",
            "oifname != \"kobune0\"",
            "comment \"no endpoints, or not a port of this service\"",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
        rules.sync(Services::new()).unwrap();
        host_side::teardown(&config()).unwrap();
        assert_eq!(run("nft", &["list", "ruleset"]), before);
        nft::teardown().unwrap();
    });
}

#[test]
fn a_damaged_or_flushed_table_comes_back_with_the_next_change() {
    machine(|| {
        let pods = three_pods();
        let mut rules = rules();
        rules.sync(table(&[&pods[0]])).unwrap();
        run("nft", &["flush", "map", "ip", "kobune", "eps"]);
        rules.sync(table(&[&pods[2]])).unwrap();
        assert_eq!(spread(1, || ask(VIP, 80)).len(), 1);
        run("nft", &["flush", "ruleset"]);
        rules.sync(table(&[&pods[0], &pods[1]])).unwrap();
        assert_eq!(spread(60, || ask(VIP, 80)).len(), 2);
    });
}

#[test]
fn pods_leave_the_cluster_under_the_hosts_address() {
    machine(|| {
        let [one, ..] = three_pods();
        // An outside machine at 192.0.2.2, which knows no way to Pods.
        run("ip", &["netns", "add", "outside"]);
        let wire = ["link", "add", "wire", "type", "veth", "peer", "wire", "netns", "outside"];
        run("ip", &wire);
        run("ip", &["addr", "add", "192.0.2.1/24", "dev", "wire"]);
        run("ip", &["link", "set", "wire", "up"]);
        run("ip", &["-n", "outside", "addr", "add", "192.0.2.2/24", "dev", "wire"]);
        run("ip", &["-n", "outside", "link", "set", "wire", "up"]);
        let mut network = one.network.clone();
        network.netns_path = "/run/netns/outside".into();
        let outside = host::TestPod { name: "outside".into(), network };
        outside.serve(8080);
        let there = Ipv4Addr::new(192, 0, 2, 2);
        assert_eq!(one.inside(|| ask(there, 8080)).unwrap(), "outside 192.0.2.1");
        // A backend outside the cluster, from a Pod and from the host.
        let mut wanted = Services::new();
        let backend = kobune_netplugin::nft::services::Backend { address: there, port: 8080 };
        add(&mut wanted, vip(Protocol::Tcp, 80), vec![backend]);
        rules().sync(wanted.clone()).unwrap();
        assert_eq!(one.inside(|| ask(VIP, 80)).unwrap(), "outside 192.0.2.1");
        assert_eq!(ask(VIP, 80).unwrap(), "outside 192.0.2.1");
    });
}

#[test]
fn a_backend_on_the_host_itself_is_reached() {
    machine(|| {
        let [one, ..] = three_pods();
        run("ip", &["link", "add", "uplink", "type", "veth", "peer", "other"]);
        run("ip", &["addr", "add", "192.0.2.1/24", "dev", "uplink"]);
        run("ip", &["link", "set", "uplink", "up"]);
        let server = std::net::TcpListener::bind("192.0.2.1:6443").unwrap();
        std::thread::spawn(move || {
            use std::io::Write;
            for stream in server.incoming() {
                let _ = stream.unwrap().write_all(b"api");
            }
        });
        let address = Ipv4Addr::new(192, 0, 2, 1);
        let backend = kobune_netplugin::nft::services::Backend { address, port: 6443 };
        let mut wanted = Services::new();
        add(&mut wanted, vip(Protocol::Tcp, 443), vec![backend]);
        rules().sync(wanted.clone()).unwrap();
        assert_eq!(one.inside(|| ask(VIP, 443)).unwrap(), "api");
        assert_eq!(ask(VIP, 443).unwrap(), "api");
    });
}
