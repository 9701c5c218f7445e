//! The specification's cases through packets, as a client sends and reads them.

use std::collections::BTreeMap;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

fn service(name: &str, spec: Value) -> Service {
    let spec = if spec.is_null() { json!({}) } else { spec };
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "ns"}, "spec": spec,
    }))
    .unwrap()
}

fn slice(service: &str, endpoints: Value) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {
            "name": format!("{service}-x"), "namespace": "ns",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080}, {"port": 9}],
    }))
    .unwrap()
}

fn ports() -> Value {
    json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}])
}

fn zone() -> Zone {
    let services = [
        service(
            "web",
            json!({"clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1", "fd00::1"], "ports": ports()}),
        ),
        service("db", json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]})),
        service("none", json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]})),
        service(
            "early",
            json!({"clusterIP": "None", "publishNotReadyAddresses": true, "ports": ports()}),
        ),
        service("out", json!({"type": "ExternalName", "externalName": "example.com"})),
        service("in", json!({"type": "ExternalName", "externalName": "web.ns.svc.cluster.local"})),
        service(
            "circle",
            json!({"type": "ExternalName", "externalName": "circle.ns.svc.cluster.local"}),
        ),
    ];
    let slices = [
        slice(
            "db",
            json!([
                {"addresses": ["10.244.0.5"], "hostname": "db-0"},
                {"addresses": ["10.244.0.6"], "conditions": {"ready": true}},
                {"addresses": ["10.244.0.7"], "conditions": {"ready": false}, "hostname": "db-2"},
            ]),
        ),
        slice("early", json!([{"addresses": ["10.244.0.8"], "conditions": {"ready": false}}])),
        slice("web", json!([{"addresses": ["10.244.0.9"]}])),
    ];
    let mut zone = Zone::default();
    zone.replace_services(services.iter());
    zone.replace_slices(slices.iter());
    zone
}

fn dns_of(zone: Zone) -> Dns {
    let host = HostConfig {
        bridge: "kobune0".into(),
        node_cidr: "10.244.0.0/24".parse().unwrap(),
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        mtu: None,
        state_dir: "/nowhere".into(),
    };
    Dns { forwarder: Forwarder::new(Vec::new), ..Dns::new(&host, Arc::new(RwLock::new(zone))) }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn exchange(dns: &Dns, message: &Message, transport: Transport) -> Option<Message> {
    match dns.step(&message.to_vec().unwrap(), transport) {
        Step::Reply(reply) => Some(Message::from_vec(&reply).unwrap()),
        Step::Forward(_) | Step::Silence => None,
    }
}

/// `code data data…`, sorted; a negative answer must carry the SOA.
fn ask(dns: &Dns, name: &str, kind: RecordType) -> String {
    let Some(reply) = exchange(dns, &question(name, kind), Transport::Udp) else {
        return "forward".into();
    };
    let code = match reply.metadata.response_code {
        ResponseCode::NoError if reply.answers.is_empty() => "nodata",
        ResponseCode::NoError => "ok",
        ResponseCode::NXDomain => "nxdomain",
        ResponseCode::ServFail => "servfail",
        other => panic!("{other}"),
    };
    if matches!(code, "nodata" | "nxdomain") {
        assert!(matches!(reply.authorities[0].data, RData::SOA(_)), "{name}");
    }
    let mut all: Vec<String> = reply.answers.iter().map(|one| one.data.to_string()).collect();
    all.sort();
    [vec![code.to_owned()], all].concat().join(" ")
}

#[test]
fn the_cases_of_the_specification() {
    use RecordType::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
    let dns = dns_of(zone());
    let cases = [
        (TXT, "dns-version.cluster.local.", "ok 1.1.0"),
        (A, "dns-version.cluster.local.", "nodata"),
        (A, "web.ns.svc.cluster.local.", "ok 10.96.1.1"),
        (A, "WEB.ns.Svc.cluster.LOCAL.", "ok 10.96.1.1"),
        (AAAA, "web.ns.svc.cluster.local.", "ok fd00::1"),
        (TXT, "web.ns.svc.cluster.local.", "nodata"),
        (A, "no.ns.svc.cluster.local.", "nxdomain"),
        (A, "web.other.svc.cluster.local.", "nxdomain"),
        (SRV, "_http._tcp.web.ns.svc.cluster.local.", "ok 0 100 80 web.ns.svc.cluster.local."),
        (SRV, "_dns._udp.web.ns.svc.cluster.local.", "ok 0 100 53 web.ns.svc.cluster.local."),
        (SRV, "_dns._tcp.web.ns.svc.cluster.local.", "nxdomain"),
        (A, "_dns._udp.web.ns.svc.cluster.local.", "nodata"),
        (A, "_udp.web.ns.svc.cluster.local.", "nodata"),
        (A, "_sctp.web.ns.svc.cluster.local.", "nxdomain"),
        (SRV, "http.tcp.web.ns.svc.cluster.local.", "nxdomain"),
        (PTR, "1.1.96.10.in-addr.arpa.", "ok web.ns.svc.cluster.local."),
        (A, "1.1.96.10.in-addr.arpa.", "nodata"),
        (PTR, "2.1.96.10.in-addr.arpa.", "nxdomain"),
        (PTR, "5.0.244.10.in-addr.arpa.", "ok db-0.db.ns.svc.cluster.local."),
        (PTR, "7.0.244.10.in-addr.arpa.", "nxdomain"),
        (PTR, "9.0.244.10.in-addr.arpa.", "ok 10-244-0-9.web.ns.svc.cluster.local."),
        (
            PTR,
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.",
            "ok web.ns.svc.cluster.local.",
        ),
        (PTR, "1.2.0.192.in-addr.arpa.", "forward"),
        (A, "db.ns.svc.cluster.local.", "ok 10.244.0.5 10.244.0.6"),
        (AAAA, "db.ns.svc.cluster.local.", "nodata"),
        (A, "db-0.db.ns.svc.cluster.local.", "ok 10.244.0.5"),
        (A, "db-2.db.ns.svc.cluster.local.", "nxdomain"),
        (A, "10-244-0-6.db.ns.svc.cluster.local.", "ok 10.244.0.6"),
        (A, "10-244-0-5.db.ns.svc.cluster.local.", "nxdomain"),
        (
            SRV,
            "_http._tcp.db.ns.svc.cluster.local.",
            "ok 0 50 8080 10-244-0-6.db.ns.svc.cluster.local. 0 50 8080 db-0.db.ns.svc.cluster.local.",
        ),
        (A, "none.ns.svc.cluster.local.", "nxdomain"),
        (SRV, "_http._tcp.none.ns.svc.cluster.local.", "nxdomain"),
        (A, "early.ns.svc.cluster.local.", "ok 10.244.0.8"),
        (CNAME, "out.ns.svc.cluster.local.", "ok example.com."),
        (A, "out.ns.svc.cluster.local.", "forward"),
        (A, "in.ns.svc.cluster.local.", "ok 10.96.1.1 web.ns.svc.cluster.local."),
        (A, "1-2-3-4.ns.pod.cluster.local.", "ok 1.2.3.4"),
        (AAAA, "fd00--5.ns.pod.cluster.local.", "ok fd00::5"),
        (AAAA, "1-2-3-4.ns.pod.cluster.local.", "nodata"),
        (A, "1-2-3.ns.pod.cluster.local.", "nxdomain"),
        (A, "ns.svc.cluster.local.", "nodata"),
        (A, "svc.cluster.local.", "nodata"),
        (A, "cluster.local.", "nodata"),
        (NS, "cluster.local.", "ok ns.dns.cluster.local."),
        (A, "ns.dns.cluster.local.", "ok 10.96.0.10"),
        (A, "a.b.c.web.ns.svc.cluster.local.", "nxdomain"),
        (A, "web.ns.svc.cluster.local.example.com.", "forward"),
        (A, "local.", "forward"),
        (RecordType::ANY, "web.ns.svc.cluster.local.", "ok RFC8482 "),
        (RecordType::ANY, "example.com.", "ok RFC8482 "),
    ];
    for (kind, name, expected) in cases {
        assert_eq!(ask(&dns, name, kind), expected, "{kind} {name}");
    }
    assert!(ask(&dns, "cluster.local.", SOA).starts_with("ok ns.dns.cluster.local."));
    let circle = exchange(&dns, &question("circle.ns.svc.cluster.local.", A), Transport::Udp);
    assert_eq!(circle.unwrap().answers.len(), 8, "a circle ends");
}

#[test]
fn an_answer_says_what_it_is() {
    let dns = dns_of(zone());
    let reply =
        exchange(&dns, &question("Web.ns.svc.cluster.local.", RecordType::A), Transport::Udp);
    let reply = reply.unwrap();
    let metadata = &reply.metadata;
    assert!(metadata.authoritative && metadata.recursion_available && metadata.recursion_desired);
    assert_eq!((metadata.id, reply.answers[0].ttl), (77, 5));
    assert_eq!(reply.answers[0].name.to_string(), "Web.ns.svc.cluster.local.", "as asked");
    assert!(reply.edns.is_none());
    let srv = question("_http._tcp.db.ns.svc.cluster.local.", RecordType::SRV);
    let srv = exchange(&dns, &srv, Transport::Udp).unwrap();
    assert_eq!(srv.additionals.len(), 2, "the targets' addresses");
}

#[test]
fn what_is_not_a_question_of_ours_is_refused() {
    let dns = dns_of(zone());
    let code = |change: &dyn Fn(&mut Message)| {
        let mut message = question("web.ns.svc.cluster.local.", RecordType::A);
        change(&mut message);
        exchange(&dns, &message, Transport::Udp).map(|reply| reply.metadata.response_code)
    };
    assert_eq!(code(&|m| m.queries.clear()), Some(ResponseCode::FormErr));
    assert_eq!(code(&|m| m.metadata.op_code = OpCode::Status), Some(ResponseCode::NotImp));
    let chaos = |m: &mut Message| {
        m.queries[0].set_query_class(DNSClass::CH);
    };
    assert_eq!(code(&chaos), Some(ResponseCode::Refused));
    let transfer = |m: &mut Message| {
        m.queries[0].set_query_type(RecordType::AXFR);
    };
    assert_eq!(code(&transfer), Some(ResponseCode::Refused));
    assert_eq!(code(&|m| m.metadata.message_type = MessageType::Response), None);
    let newer = |m: &mut Message| {
        let mut edns = Edns::new();
        edns.set_version(1);
        m.edns = Some(edns);
    };
    // The number is the same: 16.
    assert_eq!(code(&newer), Some(ResponseCode::BADSIG));
}

#[test]
fn nothing_is_denied_before_everything_is_known() {
    let mut zone = Zone::default();
    zone.replace_services(std::iter::empty());
    let dns = dns_of(zone);
    assert_eq!(ask(&dns, "web.ns.svc.cluster.local.", RecordType::A), "servfail");
    assert_eq!(ask(&dns, "1.1.96.10.in-addr.arpa.", RecordType::PTR), "servfail");
    assert_eq!(ask(&dns, "example.com.", RecordType::A), "forward");
}

fn many(count: u8) -> Dns {
    let mut zone = zone();
    let all: Vec<_> =
        (1..=count).map(|n| json!({"addresses": [format!("10.244.1.{n}")]})).collect();
    zone.apply_slice(&slice("db", json!(all)));
    dns_of(zone)
}

#[test]
fn what_does_not_fit_is_marked_and_comes_whole_over_tcp() {
    let dns = many(200);
    let mut message = question("db.ns.svc.cluster.local.", RecordType::A);
    let size = |message: &Message, transport| {
        let Step::Reply(bytes) = dns.step(&message.to_vec().unwrap(), transport) else { panic!() };
        let reply = Message::from_vec(&bytes).unwrap();
        (bytes.len(), reply.metadata.truncation, reply.answers.len())
    };
    let (bytes, truncated, answers) = size(&message, Transport::Udp);
    assert!(bytes <= 512 && truncated && answers > 20, "{bytes} {answers}");
    let mut edns = Edns::new();
    edns.set_max_payload(65000);
    message.edns = Some(edns);
    let (bytes, truncated, answers) = size(&message, Transport::Udp);
    assert!(bytes > 1000 && bytes <= 1232 && truncated && answers > 60, "{bytes} {answers}");
    let (_, truncated, answers) = size(&message, Transport::Tcp);
    assert_eq!((truncated, answers), (false, 200));
}

#[test]
fn everyone_gets_another_first_address() {
    let dns = many(3);
    let first = |id: u16| {
        let mut message = question("db.ns.svc.cluster.local.", RecordType::A);
        message.metadata.id = id;
        exchange(&dns, &message, Transport::Udp).unwrap().answers[0].data.to_string()
    };
    let all: std::collections::BTreeSet<_> = (0..3).map(first).collect();
    assert_eq!(all.len(), 3);
}

#[test]
fn changes_leave_nothing_behind() {
    let mut zone = zone();
    let mut moved = slice("db", json!([{"addresses": ["10.244.0.5"]}]));
    moved.metadata.labels =
        Some([("kubernetes.io/service-name".to_owned(), "none".to_owned())].into());
    zone.apply_slice(&moved);
    let dns = dns_of(zone);
    assert_eq!(ask(&dns, "db.ns.svc.cluster.local.", RecordType::A), "nxdomain");
    assert_eq!(ask(&dns, "none.ns.svc.cluster.local.", RecordType::A), "ok 10.244.0.5");
    {
        let mut zone = dns.zone.write().unwrap();
        zone.delete_slice(&moved);
        zone.delete_service(&service("web", Value::Null));
    }
    assert_eq!(ask(&dns, "5.0.244.10.in-addr.arpa.", RecordType::PTR), "nxdomain");
    assert_eq!(ask(&dns, "1.1.96.10.in-addr.arpa.", RecordType::PTR), "nxdomain");
    {
        let mut zone = dns.zone.write().unwrap();
        zone.replace_services(std::iter::empty());
        zone.replace_slices(std::iter::empty());
        assert_eq!(format!("{zone:?}").matches("10.").count(), 0, "{zone:?}");
    }
    assert_eq!(ask(&dns, "ns.svc.cluster.local.", RecordType::A), "nxdomain");
}

proptest! {
    #[test]
    fn no_packet_is_too_strange(mut packet in prop::collection::vec(any::<u8>(), 0..80)) {
        let dns = dns_of(zone());
        drop(dns.step(&packet, Transport::Udp));
        // The same with a header that promises one question.
        let head = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        packet.splice(..packet.len().min(12), head);
        if let Step::Reply(reply) = dns.step(&packet, Transport::Udp) {
            prop_assert!(reply.len() <= 1232);
            prop_assert_eq!(&reply[..2], &[0, 7]);
            prop_assert!(Message::from_vec(&reply).is_ok());
        }
    }

    #[test]
    fn a_real_question_with_any_byte_changed_is_survived(at in 0usize..42, byte in any::<u8>()) {
        let dns = dns_of(zone());
        let mut packet = question("web.ns.svc.cluster.local.", RecordType::A).to_vec().unwrap();
        let at = at % packet.len();
        packet[at] = byte;
        drop(dns.step(&packet, Transport::Tcp));
    }

    /// However the zone came about, it says the same as one made of the last state alone.
    #[test]
    fn the_way_does_not_matter(steps in prop::collection::vec((0u8..4, 0u8..4, any::<bool>()), 0..40)) {
        let mut walked = Zone::default();
        let (mut services, mut slices) = (BTreeMap::new(), BTreeMap::new());
        for (which, what, there) in steps {
            let name = format!("s{which}");
            if what == 0 {
                let address = format!("10.96.2.{which}");
                let one = service(&name, json!({"clusterIP": address, "ports": ports()}));
                if there { walked.apply_service(&one) } else { walked.delete_service(&one) }
                if there { services.insert(name, one) } else { services.remove(&name) };
            } else {
                let all: Vec<_> = (0..what)
                    .map(|n| json!({"addresses": [format!("10.244.{which}.{n}")]})).collect();
                let one = slice(&name, json!(all));
                if there { walked.apply_slice(&one) } else { walked.delete_slice(&one) }
                if there { slices.insert(name, one) } else { slices.remove(&name) };
            }
        }
        let mut straight = Zone::default();
        for one in services.values() { straight.apply_service(one) }
        for one in slices.values() { straight.apply_slice(one) }
        prop_assert_eq!(walked, straight);
    }
}

#[tokio::test]
async fn both_sockets_answer() {
    let dns = Arc::new(dns_of(zone()));
    let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = sockets.address();
    let server = tokio::spawn(sockets.serve(dns));
    let packet = question("web.ns.svc.cluster.local.", RecordType::A).to_vec().unwrap();

    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(address).await.unwrap();
    // Nothing, noise, and then a question.
    for datagram in [&[][..], &[0xff; 30], &packet] {
        socket.send(datagram).await.unwrap();
    }
    let mut buffer = [0; 1500];
    let length = socket.recv(&mut buffer).await.unwrap();
    assert_eq!(Message::from_vec(&buffer[..length]).unwrap().answers.len(), 1);

    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    for _ in 0..2 {
        stream.write_u16(u16::try_from(packet.len()).unwrap()).await.unwrap();
        stream.write_all(&packet).await.unwrap();
        let mut reply = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut reply).await.unwrap();
        assert_eq!(Message::from_vec(&reply).unwrap().answers.len(), 1);
    }
    // A name of somebody else's, and no resolver to ask.
    let packet = question("example.com.", RecordType::A).to_vec().unwrap();
    socket.send(&packet).await.unwrap();
    let length = socket.recv(&mut buffer).await.unwrap();
    let reply = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    server.abort();
}

#[test]
fn the_hosts_resolvers_are_read_without_ourselves() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text =
        "nameserver 10.96.0.10\nnameserver 192.0.2.1\nnameserver ::1\nnameserver fe80::1%eth0\n";
    std::fs::write(file.path(), text).unwrap();
    let own = ["10.96.0.10".parse().unwrap()];
    let found = upstreams(file.path(), &own);
    assert_eq!(found, ["192.0.2.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
    assert!(upstreams(Path::new("/nonexistent"), &own).is_empty());
}

/// `cargo test --release -p kobune-agent --lib dns -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn ten_thousand_services() {
    let named = |n: usize| {
        let address = format!("10.96.{}.{}", n / 250, n % 250 + 1);
        service(&format!("service-{n}"), json!({"clusterIP": address, "ports": ports()}))
    };
    let slice_of = |n: usize, first: usize| {
        let all: Vec<_> = (first..first + 10)
            .map(|e| json!({"addresses": [format!("10.{}.{}.{e}", 100 + n / 250, n % 250)]}))
            .collect();
        slice(&format!("service-{n}"), json!(all))
    };
    let services: Vec<_> = (0..10_000).map(named).collect();
    let slices: Vec<_> = (0..10_000).map(|n| slice_of(n, 1)).collect();
    let mut zone = Zone::default();
    let start = std::time::Instant::now();
    zone.replace_services(services.iter());
    zone.replace_slices(slices.iter());
    println!("whole zone: {:?}", start.elapsed());
    let changes: Vec<_> = (0..1000).map(|n| slice_of(n, 2)).collect();
    let start = std::time::Instant::now();
    changes.iter().for_each(|one| zone.apply_slice(one));
    println!("one change of 10 endpoints: {:?}", start.elapsed() / 1000);
    let dns = dns_of(zone);
    let packets: Vec<_> = (0..10_000)
        .map(|n| question(&format!("service-{n}.ns.svc.cluster.local."), RecordType::A))
        .map(|message| message.to_vec().unwrap())
        .collect();
    let start = std::time::Instant::now();
    for packet in packets.iter().cycle().take(200_000) {
        assert!(matches!(dns.step(packet, Transport::Udp), Step::Reply(_)));
    }
    println!("one answer without sockets: {:?}", start.elapsed() / 200_000);
}
