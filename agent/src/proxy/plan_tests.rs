//! From API objects to the table.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn service(name: &str, spec: Value) -> Service {
    let metadata = json!({"name": name, "namespace": "default", "uid": format!("uid-{name}")});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

fn slice(service: &str, ports: Value, endpoints: Value) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {
            "name": format!("{service}-x"), "namespace": "default",
            "labels": {SERVICE_NAME: service},
        },
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    }))
    .unwrap()
}

fn run(service: &Service, slices: &[EndpointSlice]) -> Planned {
    let host = HostConfig {
        bridge: "kobune0".into(),
        node_cidr: "10.244.1.0/24".parse().unwrap(),
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        mtu: None,
        state_dir: "/nowhere".into(),
    };
    let here = Here { host, node_name: "here".into() };
    plan(service, &slices.iter().collect::<Vec<_>>(), &here)
}

/// The groups as text: "<door> <door> = <backend> <backend>", and what else is to say.
fn text(planned: &Planned) -> Vec<String> {
    let line = |group: &Group| {
        let doors: Vec<_> = group.doors.iter().map(ToString::to_string).collect();
        let list: Vec<_> =
            group.backends.iter().map(|one| format!("{}:{}", one.address, one.port)).collect();
        let mut line = format!("{} = {}", doors.join(", "), list.join(" "));
        if let Some(seconds) = group.affinity {
            line += &format!(" for {seconds}s");
        }
        if group.keep_source {
            line += " kept";
        }
        if group.otherwise == Otherwise::Drop {
            line += " or drop";
        }
        line
    };
    planned.service.iter().flat_map(|service| service.groups.values()).map(line).collect()
}

#[test]
fn ports_are_matched_by_name_and_only_ready_endpoints_serve() {
    let web = service(
        "web",
        json!({"clusterIP": "10.96.0.5", "ports": [
            {"name": "http", "port": 80, "targetPort": "web"},
            {"name": "dns", "port": 53, "protocol": "UDP"},
        ]}),
    );
    let slices = [
        slice(
            "web",
            json!([{"name": "http", "port": 8080, "protocol": "TCP"},
                   {"name": "dns", "port": 5353, "protocol": "UDP"}]),
            json!([
                {"addresses": ["10.244.1.2"], "conditions": {"ready": true}},
                {"addresses": ["10.244.1.3"], "conditions": {"ready": false}},
                {"addresses": ["10.244.2.4"]},
            ]),
        ),
        // The same named port has another number in other Pods.
        slice(
            "web",
            json!([{"name": "http", "port": 9090}]),
            json!([{"addresses": ["10.244.2.9"], "conditions": {"ready": true}}]),
        ),
    ];
    let planned = run(&web, &slices);
    assert_eq!(
        text(&planned),
        [
            "10.96.0.5:53/udp = 10.244.1.2:5353 10.244.2.4:5353",
            "10.96.0.5:80/tcp = 10.244.1.2:8080 10.244.2.4:8080 10.244.2.9:9090",
        ]
    );
    let local: Vec<_> =
        planned.service.as_ref().unwrap().local_pods.iter().map(ToString::to_string).collect();
    assert_eq!(local, ["10.244.1.2"]);
    assert!(planned.warnings.is_empty());
}

#[test]
fn a_service_without_ready_endpoints_stays_to_refuse() {
    let web = service("web", json!({"clusterIP": "10.96.0.5", "ports": [{"port": 80}]}));
    assert_eq!(text(&run(&web, &[])), ["10.96.0.5:80/tcp = "]);
}

#[test]
fn not_ready_addresses_are_published_on_demand() {
    let spec = json!({
        "clusterIP": "10.96.0.5", "ports": [{"port": 80}], "publishNotReadyAddresses": true,
    });
    let slice = slice(
        "web",
        json!([{"name": "", "port": 80}]),
        json!([{"addresses": ["10.244.1.3"], "conditions": {"ready": false}}]),
    );
    let planned = run(&service("web", spec), &[slice]);
    assert_eq!(text(&planned), ["10.96.0.5:80/tcp = 10.244.1.3:80"]);
}

#[test]
fn an_api_server_on_the_loopback_is_reached_at_the_bridge() {
    let api = service("web", json!({"clusterIP": "10.96.0.1", "ports": [{"port": 443}]}));
    let slice = slice("web", json!([{"port": 6443}]), json!([{"addresses": ["127.0.0.1"]}]));
    let planned = run(&api, &[slice]);
    assert_eq!(text(&planned), ["10.96.0.1:443/tcp = 10.244.1.1:6443"]);
    assert!(planned.service.as_ref().unwrap().local_pods.is_empty(), "the bridge is no pod");
}

#[test]
fn nothing_is_balanced_for_headless_external_and_foreign_services() {
    let mut foreign = service("d", json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}));
    foreign.metadata.labels = Some([(NOT_OURS[0].to_owned(), "x".to_owned())].into());
    let services = [
        service("a", json!({"clusterIP": "None", "ports": [{"port": 80}]})),
        service("b", json!({"type": "ExternalName", "externalName": "example.org"})),
        service("c", json!({"ports": [{"port": 80}]})),
        foreign,
    ];
    for service in &services {
        assert_eq!(run(service, &[]), Planned::default());
    }
}

#[test]
fn what_is_not_done_is_named() {
    let spec = json!({
        "type": "LoadBalancer", "clusterIP": "10.96.0.5", "ports": [{"port": 80}],
        "externalIPs": ["2001:db8::1"], "loadBalancerSourceRanges": ["x", "2001:db8::/64"],
    });
    let six = json!({"clusterIP": "fd00::1", "ports": [{"port": 80}]});
    let planned = [run(&service("lb", spec), &[]), run(&service("six", six), &[])];
    assert_eq!(text(&planned[0]), ["10.96.0.5:80/tcp = "], "the cluster address works");
    let warnings: Vec<_> =
        planned.iter().flat_map(|one| &one.warnings).map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "service default/lb: spec.externalIPs[0]: \"2001:db8::1\": only IPv4 addresses are balanced",
            "service default/lb: spec.loadBalancerSourceRanges[0]: \"x\" is not a range, and lets nobody in",
            "service default/six: spec.clusterIP: only IPv4 addresses are balanced",
        ]
    );
}

fn endpoint(address: &str, node: &str, ready: bool, serving: bool, terminating: bool) -> Value {
    json!({"addresses": [address], "nodeName": node,
           "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
}

/// A Service with every door, one endpoint here and one elsewhere, and what the test adds.
fn every_door(more: Value, endpoints: Value) -> Planned {
    let mut spec = json!({
        "type": "LoadBalancer", "clusterIP": "10.96.0.5", "externalIPs": ["192.0.2.9"],
        "ports": [{"port": 80, "nodePort": 30080}],
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut web = service("web", spec);
    web.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [
        {"ip": "192.0.2.240", "ipMode": "VIP"}, {"ip": "192.0.2.241", "ipMode": "Proxy"},
    ]}}))
    .unwrap();
    run(&web, &[slice("web", json!([{"port": 8080}]), endpoints)])
}

fn here_and_there() -> Value {
    json!([
        endpoint("10.244.1.2", "here", true, true, false),
        endpoint("10.244.2.2", "there", true, true, false),
    ])
}

#[test]
fn all_doors_lead_to_all_endpoints() {
    let planned = every_door(json!({}), here_and_there());
    let doors = "10.96.0.5:80/tcp, 192.0.2.9:80/tcp, 192.0.2.240:80/tcp, node:30080/tcp";
    assert_eq!(text(&planned), [format!("{doors} = 10.244.1.2:8080 10.244.2.2:8080")]);
    assert_eq!(planned.health, None);
}

#[test]
fn a_local_policy_outside_is_for_strangers() {
    let more = json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 31000});
    let planned = every_door(more.clone(), here_and_there());
    let outside = "192.0.2.9:80/tcp from outside, 192.0.2.240:80/tcp from outside, \
                   node:30080/tcp from outside";
    assert_eq!(
        text(&planned),
        [
            "10.96.0.5:80/tcp, 192.0.2.9:80/tcp, 192.0.2.240:80/tcp, node:30080/tcp \
             = 10.244.1.2:8080 10.244.2.2:8080",
            &format!("{outside} = 10.244.1.2:8080 kept or drop"),
        ]
    );
    assert_eq!(planned.health, Some(Health { port: 31000, local_endpoints: 1 }));
    let none = every_door(more, json!([endpoint("10.244.2.2", "there", true, true, false)]));
    assert_eq!(text(&none)[1], format!("{outside} =  kept or drop"));
    assert_eq!(none.health, Some(Health { port: 31000, local_endpoints: 0 }));
}

#[test]
fn a_local_policy_inside_is_for_the_cluster_address() {
    let planned = every_door(json!({"internalTrafficPolicy": "Local"}), here_and_there());
    assert_eq!(
        text(&planned),
        [
            "192.0.2.9:80/tcp, 192.0.2.240:80/tcp, node:30080/tcp = 10.244.1.2:8080 10.244.2.2:8080",
            "10.96.0.5:80/tcp = 10.244.1.2:8080 or drop",
        ]
    );
}

#[test]
fn endpoints_that_leave_serve_when_there_are_no_others() {
    let leaving = endpoint("10.244.1.3", "here", false, true, true);
    let dead = endpoint("10.244.1.4", "here", false, false, true);
    let spec = || service("web", json!({"clusterIP": "10.96.0.5", "ports": [{"port": 80}]}));
    let of = |endpoints| text(&run(&spec(), &[slice("web", json!([{"port": 8080}]), endpoints)]));
    let ready = endpoint("10.244.1.2", "here", true, true, false);
    assert_eq!(of(json!([ready, leaving, dead])), ["10.96.0.5:80/tcp = 10.244.1.2:8080"]);
    assert_eq!(of(json!([leaving, dead])), ["10.96.0.5:80/tcp = 10.244.1.3:8080"]);
    assert_eq!(of(json!([dead])), ["10.96.0.5:80/tcp = "]);
}

#[test]
fn clients_are_remembered_for_as_long_as_it_says() {
    let of = |more: Value| text(&every_door(more, json!([])));
    assert!(of(json!({"sessionAffinity": "ClientIP"}))[0].ends_with(" for 10800s"));
    let config = json!({"clientIP": {"timeoutSeconds": 5}});
    let more = json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config});
    assert!(of(more)[0].ends_with(" for 5s"));
}

#[test]
fn the_nearest_endpoints_are_preferred_on_demand() {
    let spec = json!({
        "clusterIP": "10.96.0.5", "ports": [{"port": 80, "protocol": "SCTP"}],
        "trafficDistribution": "PreferSameNode",
    });
    let ports = json!([{"port": 8080, "protocol": "SCTP"}]);
    let planned = run(&service("web", spec), &[slice("web", ports, here_and_there())]);
    assert_eq!(text(&planned), ["10.96.0.5:80/sctp = 10.244.1.2:8080"]);
}

#[test]
fn source_ranges_guard_the_balancers_addresses() {
    let ranges = json!({"loadBalancerSourceRanges": ["198.51.100.7/24", "10.0.0.0/8"]});
    let planned = every_door(ranges, here_and_there());
    let allowed = planned.service.unwrap().allowed;
    let all: Vec<_> = allowed.iter().map(|(place, ranges)| format!("{place} {ranges:?}")).collect();
    assert_eq!(all, ["192.0.2.240:80/tcp [198.51.100.0/24, 10.0.0.0/8]"]);
}

proptest! {
    /// However endpoints are distributed over slices, the port has exactly the ready ones.
    #[test]
    fn slices_add_up(endpoints in proptest::collection::vec((2u8..200, any::<bool>(), 0usize..4), 0..30)) {
        let web = service("web", json!({"clusterIP": "10.96.0.5", "ports": [{"port": 80}]}));
        let slices: Vec<_> = (0..4)
            .map(|n| {
                let own: Vec<_> = endpoints
                    .iter()
                    .filter(|(_, _, at)| *at == n)
                    .map(|(last, ready, _)| json!({
                        "addresses": [format!("10.244.1.{last}")],
                        "conditions": {"ready": ready},
                    }))
                    .collect();
                slice("web", json!([{"port": 80}]), json!(own))
            })
            .collect();
        let planned = run(&web, &slices);
        let mut expected: Vec<_> = endpoints
            .iter()
            .filter(|(_, ready, _)| *ready)
            .map(|(last, ..)| Backend { address: Ipv4Addr::new(10, 244, 1, *last), port: 80 })
            .collect();
        expected.sort_unstable();
        expected.dedup();
        prop_assert_eq!(&planned.service.unwrap().groups["80/TCP"].backends, &expected);
    }
}
