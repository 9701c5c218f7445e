//! How long things take. Prints figures, and fails where the growth is wrong:
//! `cargo test --release -p kobune-netplugin --test figures -- --ignored --nocapture`.

mod host;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use host::{config, machine};
use kobune_netplugin::nft::Rules;
use kobune_netplugin::nft::services::{
    Backend, Door, Group, Place, Protocol, Service, Services, VipPort,
};
use kobune_netplugin::{PodRequest, host as host_side, pod};

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let value = work();
    (start.elapsed(), value)
}

fn show(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)];
    println!("{what}: p50 {:?} p99 {:?} (n={})", at(50), at(99), times.len());
    at(50)
}

#[test]
#[ignore = "prints figures"]
fn pods() {
    machine(|| {
        println!("host setup: {:?}", timed(|| host_side::setup(&config()).unwrap()).0);
        let request = |n: usize| PodRequest { uid: format!("u{n}"), netns: format!("p{n}") };
        let setups: Vec<_> =
            (0..200).map(|n| timed(|| pod::setup(&config(), &request(n)).unwrap()).0).collect();
        show("pod setup, namespace included", setups);
        let again: Vec<_> =
            (0..200).map(|n| timed(|| pod::setup(&config(), &request(n)).unwrap()).0).collect();
        show("pod setup, nothing to do", again);
        let teardowns: Vec<_> = (0..150)
            .map(|n| {
                let PodRequest { uid, netns } = request(n);
                timed(|| pod::teardown(&config(), &uid, &netns).unwrap()).0
            })
            .collect();
        show("pod teardown", teardowns);
        let (time, ()) = timed(|| host_side::teardown(&config()).unwrap());
        println!("host teardown with 50 pods left: {time:?}");
    });
}

fn services(count: u16) -> Services {
    let one = |n: u16| {
        let [high, low] = n.to_be_bytes();
        let address = Ipv4Addr::new(10, 96, high, low);
        let backends = (0..10)
            .map(|m| Backend { address: Ipv4Addr::new(10, 200 + m, high, low), port: 8080 })
            .collect();
        let place = Place::Address(VipPort { address, protocol: Protocol::Tcp, port: 80 });
        let doors = [Door::for_all(place)].into();
        let group = Group { doors, backends, ..Group::default() };
        let groups = [("80".to_owned(), group)].into();
        let service = Service { groups, cluster_ips: [address].into(), ..Service::default() };
        (format!("default/s{n}"), service)
    };
    (0..count).map(one).collect()
}

#[test]
#[ignore = "prints figures"]
fn rules() {
    let mut medians = Vec::new();
    for count in [100, 1000, 10_000, 30_000] {
        let (sender, receiver) = std::sync::mpsc::channel();
        machine(move || {
            host_side::setup(&config()).unwrap();
            let table = services(count);
            let mut one = table["default/s0"].clone();
            let mut rules = Rules::open(&config()).unwrap();
            let again = table.clone();
            let (load, changes) = timed(|| rules.sync(table).unwrap());
            println!("{count} services x 10: load {load:?}, {changes} elements");
            let mut times = Vec::new();
            for n in 0..200 {
                let backends = &mut one.groups.get_mut("80").unwrap().backends;
                match n % 2 {
                    0 => drop(backends.remove(3)),
                    _ => backends.push(Backend { address: Ipv4Addr::new(10, 9, 9, 9), port: 1 }),
                }
                let changed = [("default/s0".to_owned(), Some(one.clone()))].into();
                times.push(timed(|| rules.update(changed).unwrap()).0);
            }
            let median = show(&format!("{count} services: one endpoint changed"), times);
            sender.send(median).unwrap();
            let mut next = Rules::open(&config()).unwrap();
            let (time, changes) = timed(|| next.sync(again).unwrap());
            println!("{count} services: taken over in {time:?}, {changes} elements");
            let (time, changes) = timed(|| next.repair().unwrap());
            println!("{count} services: compared in {time:?}, {changes} elements");
        });
        medians.push(receiver.recv().unwrap());
    }
    println!("{medians:?}");
}
