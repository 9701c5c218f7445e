//! Cluster DNS as Pods see it: names of Services, of endpoints, of the world outside; and as a host
//! process sees it, over TCP.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use kobune_tests::harness::{Host, eventually};
use serde_json::json;

/// A change is seen within this time.
const SOON: Duration = Duration::from_secs(1);

const SERVICES: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: peers}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: web.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: ExternalName, externalName: somewhere.example}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, labels: {app: web}}
spec:
  hostname: first
  subdomain: peers
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: "myapp:1.0"}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: "busybox:1.35", command: [sleep, "3600"]}]
"#;

/// A host whose resolver says 203.0.113.7 to everything.
fn host_with_resolver(purpose: &str) -> Host {
    let mut host = Host::new(purpose);
    let file = host.dir.join("resolv.conf");
    fs::write(&file, "nameserver 192.0.2.10\nsearch corp.example\n").expect("write");
    host.tool("mount", &["--bind", &file.display().to_string(), "/etc/resolv.conf"]).ok();
    let socket = host.run(|| UdpSocket::bind("192.0.2.10:53")).expect("bind port 53");
    thread::spawn(move || {
        let mut packet = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            let question = question_end(&packet[..length]);
            // The id, "a response without error", one question, one answer that points to its name.
            let head = [packet[0], packet[1], 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
            let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 7];
            let answer = [&head, &packet[12..question], &record].concat();
            let _ = socket.send_to(&answer, from);
        }
    });
    host.import_images();
    host.up();
    host
}

fn question_end(packet: &[u8]) -> usize {
    let mut at = 12;
    while packet[at] != 0 {
        at += usize::from(packet[at]) + 1;
    }
    at + 5
}

/// What a Pod's `nslookup` says, both ways of failing included.
fn nslookup(host: &Host, kind: &str, name: &str) -> String {
    let kind = format!("-type={kind}");
    let outcome = host.kubectl(&["exec", "client", "--", "busybox", "nslookup", &kind, name]);
    format!("{}{}", outcome.stdout, outcome.stderr)
}

fn reversed(address: &str) -> String {
    let octets: Vec<&str> = address.rsplit('.').collect();
    format!("{}.in-addr.arpa", octets.join("."))
}

#[track_caller]
fn says(host: &Host, kind: &str, name: &str, expected: &str) {
    let text = nslookup(host, kind, name);
    assert!(text.contains(expected), "{kind} {name} does not say {expected:?}:\n{text}");
}

#[test]
fn names_of_the_cluster_and_of_the_world() {
    let host = host_with_resolver("dns");
    host.apply(SERVICES).ok();
    host.wait_for("pod/client", "condition=Ready");
    host.wait_for("pod/web-0", "condition=Ready");
    let conf = host.kubectl_ok(&["exec", "client", "--", "cat", "/etc/resolv.conf"]);
    let expected = "search default.svc.cluster.local svc.cluster.local cluster.local corp.example\n\
        nameserver 10.96.0.10\noptions ndots:5\n";
    assert_eq!(conf, expected);
    let vip = host.field("service/web", ".spec.clusterIP");
    let pod = host.field("pod/web-0", ".status.podIP");
    eventually("the endpoint has a name", SOON, || {
        let text = nslookup(&host, "a", "peers.default.svc.cluster.local");
        if text.contains(&pod) { Ok(()) } else { Err(text) }
    });

    says(&host, "a", "web", &vip);
    says(&host, "a", "alias", &vip);
    says(&host, "a", "peers", &pod);
    says(&host, "a", "web.default.svc.cluster.local", &vip);
    says(&host, "a", "WEB.Default.svc.cluster.local", &vip);
    says(&host, "srv", "_http._tcp.web.default.svc.cluster.local", "80 web.default");
    says(&host, "srv", "_http._tcp.peers.default.svc.cluster.local", "8080 first.peers.default");
    says(&host, "ptr", &reversed(&vip), "web.default.svc.cluster.local");
    says(&host, "ptr", &reversed(&pod), "first.peers.default.svc.cluster.local");
    says(&host, "a", "nobody.default.svc.cluster.local", "NXDOMAIN");
    says(&host, "txt", "dns-version.cluster.local", "1.1.0");
    says(&host, "cname", "outside.default.svc.cluster.local", "somewhere.example");
    says(&host, "a", "outside.default.svc.cluster.local", "203.0.113.7");
    says(&host, "a", "www.example.com", "203.0.113.7");
    let dashed = format!("{}.default.pod.cluster.local", pod.replace('.', "-"));
    says(&host, "a", &dashed, &pod);
}

#[test]
fn a_change_is_seen_within_a_second_and_a_killed_agent_answers_again() {
    let mut host = host_with_resolver("dnschange");
    host.apply(SERVICES).ok();
    host.wait_for("pod/client", "condition=Ready");
    let (name, server) = ("new.default.svc.cluster.local", "10.96.0.10:53");
    assert_eq!(ask_over_tcp(&host, server, name), (3, 0), "NXDOMAIN");
    host.kubectl_ok(&["create", "service", "clusterip", "new", "--tcp=80"]);
    eventually("a new Service has a name", SOON, || match ask_over_tcp(&host, server, name) {
        (0, 1) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    host.kubectl_ok(&["delete", "service", "new"]);
    eventually("a deleted one has none", SOON, || match ask_over_tcp(&host, server, name) {
        (3, 0) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    host.kill_node();
    host.up();
    eventually("the next agent answers", Duration::from_secs(5), || {
        let text = nslookup(&host, "a", "web.default.svc.cluster.local");
        if text.contains("10.96.") && !text.contains("can't") { Ok(()) } else { Err(text) }
    });
}

/// Response code and number of answers, from a process of the host. No answer is (255, 0).
fn ask_over_tcp(host: &Host, server: &str, name: &str) -> (u8, u16) {
    let mut packet = vec![0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).expect("a short label"));
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    let length = u16::try_from(packet.len()).expect("a short packet");
    let server: SocketAddr = server.parse().expect("an address");
    let reply = host.run(|| {
        let mut stream = TcpStream::connect_timeout(&server, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(&[&length.to_be_bytes(), packet.as_slice()].concat())?;
        let mut head = [0; 14];
        stream.read_exact(&mut head).map(|()| head)
    });
    reply.map_or((255, 0), |head| (head[5] & 15, u16::from_be_bytes([head[8], head[9]])))
}

#[test]
fn each_policy_has_its_resolv_conf() {
    let host = host_with_resolver("dnspolicy");
    let pods = [
        ("default", json!({"dnsPolicy": "Default"})),
        ("hostnet", json!({"hostNetwork": true})),
        ("longer", json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"})),
        (
            "none",
            json!({"dnsPolicy": "None", "dnsConfig": {
                "nameservers": ["192.0.2.53"], "searches": ["own.example"],
                "options": [{"name": "ndots", "value": "2"}],
            }}),
        ),
    ];
    for (name, spec) in &pods {
        let mut spec = spec.clone();
        spec["terminationGracePeriodSeconds"] = 1.into();
        spec["containers"] =
            json!([{"name": "app", "image": "busybox:1.35", "command": ["sleep", "3600"]}]);
        let pod =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        host.apply(&pod.to_string()).ok();
    }
    let conf = |pod: &str| {
        host.wait_for(&format!("pod/{pod}"), "condition=Ready");
        host.kubectl_ok(&["exec", pod, "--", "cat", "/etc/resolv.conf"])
    };
    let of_host = "search corp.example\nnameserver 192.0.2.10\n";
    assert_eq!(conf("default"), of_host);
    assert_eq!(conf("hostnet"), of_host);
    assert!(conf("longer").contains("nameserver 10.96.0.10\noptions ndots:5\n"));
    assert_eq!(conf("none"), "search own.example\nnameserver 192.0.2.53\noptions ndots:2\n");
}
