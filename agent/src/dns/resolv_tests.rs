//! Each policy, `dnsConfig`, and what is cut.

use serde_json::{Value, json};

use super::*;

const HOST: &str = "# made by somebody\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n\
    search one.example\nsearch two.example. .\noptions timeout:1\n";

fn text(spec: Value) -> String {
    let mut spec = spec;
    spec["containers"] = json!([]);
    let pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec});
    let pod = serde_json::from_value(pod).unwrap();
    of_pod(&pod, HOST, Ipv4Addr::new(10, 96, 0, 10)).0.to_string()
}

const CLUSTER: &str = "search ns.svc.cluster.local svc.cluster.local cluster.local two.example .\n\
    nameserver 10.96.0.10\noptions ndots:5\n";
const OF_HOST: &str =
    "search two.example .\nnameserver 192.0.2.1\nnameserver 192.0.2.2\noptions timeout:1\n";

#[test]
fn each_policy() {
    assert_eq!(text(json!({})), CLUSTER);
    assert_eq!(text(json!({"dnsPolicy": "ClusterFirst"})), CLUSTER);
    assert_eq!(text(json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true})), OF_HOST);
    let with = json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true});
    assert_eq!(text(with), CLUSTER);
    assert_eq!(text(json!({"dnsPolicy": "Default"})), OF_HOST);
    assert_eq!(text(json!({"dnsPolicy": "None"})), "");
}

#[test]
fn the_pods_own_words_are_added_and_its_options_win() {
    let config = json!({
        "nameservers": ["192.0.2.9", "10.96.0.10"], "searches": ["cluster.local", "x.example"],
        "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
    });
    assert_eq!(
        text(json!({"dnsConfig": config})),
        "search ns.svc.cluster.local svc.cluster.local cluster.local two.example . x.example\n\
         nameserver 10.96.0.10\nnameserver 192.0.2.9\noptions ndots:2 edns0\n"
    );
    assert_eq!(
        text(json!({"dnsPolicy": "None", "dnsConfig": config})),
        "search cluster.local x.example\nnameserver 192.0.2.9\nnameserver 10.96.0.10\noptions ndots:2 edns0\n"
    );
}

#[test]
fn too_much_is_cut_and_told() {
    let servers: Vec<_> = (1..=4).map(|n| format!("192.0.2.{n}")).collect();
    let searches: Vec<_> = (0..40).map(|n| format!("s{n}")).collect();
    let config =
        PodDNSConfig { nameservers: Some(servers), searches: Some(searches), options: None };
    let mut resolv = Resolv::default();
    add(&mut resolv, &config);
    assert_eq!(fit(&mut resolv).len(), 1 + 8);
    assert_eq!((resolv.servers.len(), resolv.searches.len()), (3, 32));
    resolv.searches = (0..20).map(|n| format!("{n:0>127}")).collect();
    assert_eq!(fit(&mut resolv).len(), 4, "16 names and 15 spaces between are 2047 bytes");
}
