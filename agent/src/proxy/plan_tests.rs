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

fn run(services: &[Service], slices: &[EndpointSlice]) -> Planned {
    let host = HostConfig {
        bridge: "kobune0".into(),
        node_cidr: "10.244.1.0/24".parse().unwrap(),
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        mtu: None,
        state_dir: "/nowhere".into(),
    };
    plan(services.iter(), slices.iter(), &host)
}

/// The table as text: "<vip> = <backend> <backend>".
fn text(planned: &Planned) -> Vec<String> {
    let line = |(vip, backends): (&VipPort, &Vec<Backend>)| {
        let list: Vec<_> =
            backends.iter().map(|one| format!("{}:{}", one.address, one.port)).collect();
        format!("{vip} = {}", list.join(" "))
    };
    planned.table.ports.iter().map(line).collect()
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
        slice(
            "other",
            json!([{"name": "http", "port": 1}]),
            json!([{"addresses": ["10.244.1.9"]}]),
        ),
    ];
    let planned = run(&[web], &slices);
    assert_eq!(
        text(&planned),
        [
            "10.96.0.5:80/tcp = 10.244.1.2:8080 10.244.2.4:8080 10.244.2.9:9090",
            "10.96.0.5:53/udp = 10.244.1.2:5353 10.244.2.4:5353",
        ]
    );
    let local: Vec<_> = planned.table.local_pods.iter().map(ToString::to_string).collect();
    assert_eq!(local, ["10.244.1.2"]);
    assert!(planned.warnings.is_empty());
}

#[test]
fn a_service_without_ready_endpoints_stays_to_refuse() {
    let web = service("web", json!({"clusterIP": "10.96.0.5", "ports": [{"port": 80}]}));
    assert_eq!(text(&run(&[web], &[])), ["10.96.0.5:80/tcp = "]);
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
    let planned = run(&[service("web", spec)], &[slice]);
    assert_eq!(text(&planned), ["10.96.0.5:80/tcp = 10.244.1.3:80"]);
}

#[test]
fn an_api_server_on_the_loopback_is_reached_at_the_bridge() {
    let api = service("web", json!({"clusterIP": "10.96.0.1", "ports": [{"port": 443}]}));
    let slice = slice("web", json!([{"port": 6443}]), json!([{"addresses": ["127.0.0.1"]}]));
    let planned = run(&[api], &[slice]);
    assert_eq!(text(&planned), ["10.96.0.1:443/tcp = 10.244.1.1:6443"]);
    assert!(planned.table.local_pods.is_empty(), "the bridge is no pod");
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
    assert_eq!(run(&services, &[]), Planned::default());
}

#[test]
fn what_is_not_done_is_named() {
    let spec = json!({
        "type": "NodePort", "clusterIP": "10.96.0.5", "sessionAffinity": "ClientIP",
        "ports": [{"port": 80}, {"port": 81, "protocol": "SCTP"}],
    });
    let six = json!({"clusterIP": "fd00::1", "ports": [{"port": 80}]});
    let planned = run(&[service("np", spec), service("six", six)], &[]);
    assert_eq!(text(&planned), ["10.96.0.5:80/tcp = "], "the cluster address works");
    let warnings: Vec<_> = planned.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "service default/np: spec.ports[1].protocol: SCTP is not balanced",
            "service default/np: spec.sessionAffinity: ClientIP is not implemented; \
             every connection picks an endpoint anew",
            "service default/np: spec.type: NodePort is not implemented; \
             only the cluster address works",
            "service default/six: spec.clusterIP: only IPv4 addresses are balanced",
        ]
    );
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
        let planned = run(&[web], &slices);
        let mut expected: Vec<_> = endpoints
            .iter()
            .filter(|(_, ready, _)| *ready)
            .map(|(last, ..)| Backend { address: Ipv4Addr::new(10, 244, 1, *last), port: 80 })
            .collect();
        expected.sort_unstable();
        expected.dedup();
        let vip = VipPort { address: Ipv4Addr::new(10, 96, 0, 5), protocol: Protocol::Tcp, port: 80 };
        prop_assert_eq!(&planned.table.ports[&vip], &expected);
    }
}
