//! Every way into a Service, on a node with a pool of addresses: node port, LoadBalancer address, health check port;
//! and a table that mends itself. The traffic matrix itself is in `netplugin/tests/doors.rs`.

use std::net::SocketAddr;
use std::time::Duration;

use kobune_tests::harness::{Host, eventually};

/// A change is seen within this time.
const SOON: Duration = Duration::from_secs(10);
/// A mended table, with time for the request itself.
const MENDED: Duration = Duration::from_secs(2);

const SERVICES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: 31000
  selector: {app: myapp}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: v1
kind: Service
metadata: {name: astray}
spec: {type: LoadBalancer, loadBalancerIP: 203.0.113.1, selector: {app: myapp}, ports: [{port: 80}]}
"#;

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn answers(host: &Host, to: SocketAddr, within: Duration) {
    eventually(&format!("{to} answers"), within, || {
        host.http(to, "/").map(drop).map_err(|error| error.to_string())
    });
}

#[test]
fn node_ports_and_load_balancer_addresses_open_and_close() {
    let mut host = Host::new("services");
    host.import_images();
    host.start_with("up", &["--load-balancer-pool", "192.0.2.240-192.0.2.241"]);
    host.wait_ready();
    host.apply_example("myapp.yaml").ok();
    host.apply(SERVICES).ok();
    host.kubectl_ok(&["rollout", "status", "deployment/myapp", "--timeout=60s"]);
    host.until_field("service/web", ".status.loadBalancer.ingress[0].ip", "192.0.2.240");
    let doors = [at("192.0.2.240:80"), at("192.0.2.10:30080")];
    for door in doors {
        answers(&host, door, SOON);
        eventually("all three Pods answer", SOON, || match host.who_answers(door, "/", 60).len() {
            3 => Ok(()),
            count => Err(format!("{door}: {count} of them")),
        });
    }
    let health =
        || host.http(at("192.0.2.10:31000"), "/healthz").expect("the health check answers");
    assert_eq!(health().status, 200);
    assert!(health().body.contains(r#""localEndpoints":3"#), "{}", health().body);
    host.kubectl_ok(&["scale", "deployment/myapp", "--replicas=0"]);
    eventually("no endpoints, no health", SOON, || match health().status {
        503 => Ok(()),
        other => Err(format!("{other}")),
    });
    host.kubectl_ok(&["scale", "deployment/myapp", "--replicas=3"]);
    answers(&host, doors[0], SOON);

    // Whoever flushes the rules is undone.
    host.tool("nft", &["flush", "ruleset"]).ok();
    doors.into_iter().for_each(|door| answers(&host, door, MENDED));
    host.tool("nft", &["delete", "table", "ip", "kobune"]).ok();
    doors.into_iter().for_each(|door| answers(&host, door, MENDED));

    // An address that cannot be had is not given, and it is said why.
    let line = host.kubectl_ok(&["get", "service", "astray", "--no-headers"]);
    assert!(line.contains("<pending>"), "{line}");
    let events = host.kubectl_ok(&["get", "events", "--field-selector=reason=AllocationFailed"]);
    assert!(events.contains("spec.loadBalancerIP: 203.0.113.1 is not in the pool"), "{events}");

    host.kubectl_ok(&["delete", "service", "web"]);
    eventually("the address is given back", SOON, || {
        match host.tool("ip", &["-4", "-o", "addr"]).ok().contains("192.0.2.240") {
            false => Ok(()),
            true => Err("still there".to_owned()),
        }
    });
    host.down();
}
