//! Which Services are planned anew, after which events.

use kobune_netplugin::HostConfig;
use serde_json::{Value, json};

use super::*;

fn here() -> Here {
    let host = HostConfig {
        bridge: "kobune0".into(),
        node_cidr: "10.244.1.0/24".parse().unwrap(),
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        mtu: None,
        state_dir: "/nowhere".into(),
    };
    Here { host, node_name: "here".into() }
}

fn service(name: &str, address: u8) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "team"},
        "spec": {"clusterIP": format!("10.96.0.{address}"), "ports": [{"port": 80}]},
    }))
    .unwrap()
}

fn slice(name: &str, service: &str, addresses: &[u8]) -> EndpointSlice {
    let endpoints: Vec<Value> =
        addresses.iter().map(|n| json!({"addresses": [format!("10.244.1.{n}")]})).collect();
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "team", "labels": {plan::SERVICE_NAME: service}},
        "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": endpoints,
    }))
    .unwrap()
}

fn slices(world: &mut World, events: impl IntoIterator<Item = Event<EndpointSlice>>) {
    events.into_iter().for_each(|event| world.handle(Change::Slice(Box::new(event))));
}

fn services(world: &mut World, events: impl IntoIterator<Item = Event<Service>>) {
    events.into_iter().for_each(|event| world.handle(Change::Service(Box::new(event))));
}

/// Names of what changed, each with the last octets of its backends.
fn planned(world: &mut World) -> Vec<(String, Option<Vec<u8>>)> {
    let backends = |one: services::Service| {
        let all = one.groups.into_values().flat_map(|group| group.backends);
        all.map(|backend| backend.address.octets()[3]).collect()
    };
    match world.plan(&here()) {
        None => Vec::new(),
        Some(Work::Replace(all)) => {
            all.into_iter().map(|(name, one)| (name, Some(backends(one)))).collect()
        }
        Some(Work::Update(some)) => {
            some.into_iter().map(|(name, one)| (name, one.map(backends))).collect()
        }
        Some(Work::Repair) => panic!("nobody asked for it"),
    }
}

fn known() -> World {
    let mut world = World::default();
    let all = [("a", 5), ("b", 6)].map(|(name, n)| Event::InitApply(service(name, n)));
    services(&mut world, [Event::Init].into_iter().chain(all).chain([Event::InitDone]));
    assert_eq!(world.plan(&here()), None, "slices are not known yet");
    let one = Event::InitApply(slice("a-1", "a", &[1]));
    slices(&mut world, [Event::Init, one, Event::InitDone]);
    world
}

fn named(list: &[(&str, Option<&[u8]>)]) -> Vec<(String, Option<Vec<u8>>)> {
    list.iter().map(|(name, all)| (format!("team/{name}"), all.map(<[u8]>::to_vec))).collect()
}

#[test]
fn only_the_services_of_changed_objects_are_planned() {
    let mut world = known();
    assert_eq!(planned(&mut world), named(&[("a", Some(&[1])), ("b", Some(&[]))]));
    assert_eq!(planned(&mut world), []);
    slices(
        &mut world,
        [Event::Apply(slice("b-1", "b", &[2])), Event::Apply(slice("b-2", "b", &[3]))],
    );
    assert_eq!(planned(&mut world), named(&[("b", Some(&[2, 3]))]));
    slices(&mut world, [Event::Delete(slice("b-1", "b", &[2]))]);
    assert_eq!(planned(&mut world), named(&[("b", Some(&[3]))]));
    // A slice that changes sides concerns both.
    slices(&mut world, [Event::Apply(slice("b-2", "a", &[3]))]);
    assert_eq!(planned(&mut world), named(&[("a", Some(&[1, 3])), ("b", Some(&[]))]));
    services(&mut world, [Event::Delete(service("a", 5))]);
    assert_eq!(planned(&mut world), named(&[("a", None)]));
}

#[test]
fn a_new_list_is_all_there_is() {
    let mut world = known();
    planned(&mut world);
    let one = Event::InitApply(slice("b-9", "b", &[9]));
    slices(&mut world, [Event::Init, one, Event::InitDone]);
    assert_eq!(planned(&mut world), named(&[("a", Some(&[])), ("b", Some(&[9]))]));
    let one = Event::InitApply(service("b", 6));
    services(&mut world, [Event::Init, one, Event::InitDone]);
    assert_eq!(planned(&mut world), named(&[("b", Some(&[9]))]));
}

#[test]
fn one_node_that_can_answers_for_an_address() {
    let node = |name: &str, ready: &str| -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    };
    let balancer = |policy: &str| -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "a", "namespace": "team"},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.5", "ports": [{"port": 80}],
                     "externalTrafficPolicy": policy},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.240"}]}},
        }))
        .unwrap()
    };
    let mut world = known();
    let event = |world: &mut World, event| world.handle(Change::Node(Box::new(event)));
    services(&mut world, [Event::Apply(balancer("Cluster"))]);
    planned(&mut world);
    assert_eq!(world.elected("here"), None, "nodes are not known yet");
    event(&mut world, Event::Init);
    event(&mut world, Event::InitApply(node("here", "True")));
    event(&mut world, Event::InitApply(node("there", "True")));
    event(&mut world, Event::InitDone);
    let holders = |world: &World| ["here", "there"].map(|name| world.elected(name).unwrap().len());
    assert_eq!(holders(&world).iter().sum::<usize>(), 1, "one of them");
    event(&mut world, Event::Apply(node("there", "Unknown")));
    assert_eq!(holders(&world), [1, 0]);
    event(&mut world, Event::Apply(node("there", "True")));
    event(&mut world, Event::Apply(node("here", "False")));
    assert_eq!(holders(&world), [0, 1]);
    // Its endpoints are on no node that is known: nobody could deliver.
    services(&mut world, [Event::Apply(balancer("Local"))]);
    planned(&mut world);
    assert_eq!(holders(&world), [0, 0]);
    services(&mut world, [Event::Delete(balancer("Local"))]);
    planned(&mut world);
    assert_eq!(holders(&world), [0, 0]);
}
