//! The loop against a server made of channels: lists once, then watches.

use std::sync::{Arc, Mutex};

use futures::stream;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kobune_netplugin::nft::services::Service as Rule;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;

type Lines = Arc<Mutex<Option<mpsc::UnboundedReceiver<Value>>>>;

/// A server with one Service and the slices that the test sends.
struct Server {
    slices: mpsc::UnboundedSender<Value>,
    client: Client,
    events: mpsc::UnboundedReceiver<Value>,
}

fn list(kind: &str, items: Value) -> Value {
    json!({"kind": kind, "metadata": {"resourceVersion": "1"}, "items": items})
}

fn server(service_type: &'static str) -> Server {
    let (slices, receiver) = mpsc::unbounded_channel();
    let (event_sender, events) = mpsc::unbounded_channel();
    let lines: Lines = Arc::new(Mutex::new(Some(receiver)));
    let service = tower::service_fn(move |request: Request<Body>| {
        let (lines, events) = (lines.clone(), event_sender.clone());
        async move {
            let uri = request.uri().to_string();
            let body = if request.method() == http::Method::POST {
                let bytes = request.into_body().collect().await.unwrap().to_bytes();
                events.send(serde_json::from_slice(&bytes).unwrap()).unwrap();
                whole(&serde_json::from_slice(&bytes).unwrap())
            } else if !uri.contains("watch=") {
                whole(&answer(&uri, service_type))
            } else if uri.contains("endpointslices") {
                let receiver = lines.lock().unwrap().take().expect("one watch");
                UnsyncBoxBody::new(StreamBody::new(stream::unfold(
                    receiver,
                    |mut receiver| async {
                        let line = receiver.recv().await?;
                        let bytes = bytes::Bytes::from(format!("{line}\n"));
                        Some((Ok::<_, std::io::Error>(hyper::body::Frame::data(bytes)), receiver))
                    },
                )))
            } else {
                UnsyncBoxBody::new(StreamBody::new(stream::pending::<
                    Result<hyper::body::Frame<bytes::Bytes>, std::io::Error>,
                >()))
            };
            Ok::<_, std::convert::Infallible>(Response::new(body))
        }
    });
    Server { slices, client: Client::new(service, "default"), events }
}

fn whole(value: &Value) -> UnsyncBoxBody<bytes::Bytes, std::io::Error> {
    Full::new(bytes::Bytes::from(value.to_string())).map_err(|never| match never {}).boxed_unsync()
}

fn answer(uri: &str, service_type: &str) -> Value {
    if uri.contains("endpointslices") {
        return list("EndpointSliceList", json!([slice(&[2])]));
    }
    if uri.contains("/nodes") {
        return list("NodeList", json!([]));
    }
    let service = json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "u"},
        "spec": {"type": service_type, "clusterIP": "10.96.0.5", "ports": [{"port": 80}]},
    });
    list("ServiceList", json!([service]))
}

fn slice(ready: &[u8]) -> Value {
    let endpoints: Vec<_> =
        ready.iter().map(|last| json!({"addresses": [format!("10.244.0.{last}")]})).collect();
    json!({
        "metadata": {
            "name": "web-1", "namespace": "default", "resourceVersion": "2",
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": endpoints,
    })
}

fn modified(ready: &[u8]) -> Value {
    json!({"type": "MODIFIED", "object": slice(ready)})
}

fn options() -> ProxyOptions {
    let host = HostConfig {
        bridge: "kobune0".into(),
        node_cidr: "10.244.0.0/24".parse().unwrap(),
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        mtu: None,
        state_dir: "/nowhere".into(),
    };
    ProxyOptions {
        host,
        node_name: "node".into(),
        node_ip: Ipv4Addr::LOCALHOST,
        zone: SharedZone::default(),
    }
}

/// Last octets of the backends that are written.
fn octets(work: Work) -> Vec<u8> {
    let of = |one: Rule| one.groups.into_values().flat_map(|group| group.backends);
    let backends: Vec<_> = match work {
        Work::Replace(all) => all.into_values().flat_map(of).collect(),
        Work::Update(some) => some.into_values().flatten().flat_map(of).collect(),
        Work::Repair => panic!("nobody touched anything"),
    };
    backends.iter().map(|backend| backend.address.octets()[3]).collect()
}

fn nobody() -> watch::Sender<Option<BTreeSet<Ipv4Addr>>> {
    watch::channel(None).0
}

fn quiet() -> stream::Pending<()> {
    stream::pending()
}

#[tokio::test]
async fn rules_follow_the_slices_and_a_burst_is_one_change() {
    let server = server("ClusterIP");
    let shutdown = CancellationToken::new();
    let (written, mut tables) = mpsc::unbounded_channel();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let sync = move |work| {
        written.send(octets(work)).unwrap();
        gate.recv().map_err(|error| error.to_string())?;
        Ok(Written::default())
    };
    let task =
        tokio::spawn(drive(server.client, options(), shutdown.clone(), nobody(), quiet(), sync));
    assert_eq!(tables.recv().await.unwrap(), [2], "first when all is known");
    // Busy writing: everything that comes meanwhile is one round.
    for last in 3..50 {
        server.slices.send(modified(&[2, last])).unwrap();
    }
    server.slices.send(modified(&[7])).unwrap();
    go.send(()).unwrap();
    let mut rounds = 0;
    loop {
        let table = tables.recv().await.unwrap();
        go.send(()).unwrap();
        rounds += 1;
        if table == [7] {
            break;
        }
    }
    assert!(rounds < 10, "{rounds} rounds");
    server.slices.send(modified(&[])).unwrap();
    assert!(tables.recv().await.unwrap().is_empty());
    go.send(()).unwrap();
    shutdown.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_refused_change_is_tried_again() {
    let server = server("ClusterIP");
    let shutdown = CancellationToken::new();
    let (written, mut works) = mpsc::unbounded_channel();
    let mut refusals = 2;
    let sync = move |work| {
        written.send(work).unwrap();
        if refusals > 0 {
            refusals -= 1;
            return Err("no".to_owned());
        }
        Ok(Written::default())
    };
    let task =
        tokio::spawn(drive(server.client, options(), shutdown.clone(), nobody(), quiet(), sync));
    assert_eq!(octets(works.recv().await.unwrap()), [2]);
    // The rules know what was wanted.
    for _ in 0..2 {
        assert_eq!(works.recv().await.unwrap(), Work::Update(BTreeMap::new()));
    }
    shutdown.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn whoever_touches_the_table_is_undone() {
    let server = server("ClusterIP");
    let shutdown = CancellationToken::new();
    let (written, mut works) = mpsc::unbounded_channel();
    let (touch, touches) = mpsc::unbounded_channel::<()>();
    let touches = stream::unfold(touches, |mut all| async { Some((all.recv().await?, all)) });
    let sync = move |work| {
        written.send(work).unwrap();
        Ok(Written::default())
    };
    let drive = drive(server.client, options(), shutdown.clone(), nobody(), touches.boxed(), sync);
    let task = tokio::spawn(drive);
    assert_eq!(octets(works.recv().await.unwrap()), [2]);
    touch.send(()).unwrap();
    assert_eq!(works.recv().await.unwrap(), Work::Repair);
    shutdown.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_not_done_becomes_an_event() {
    let mut server = server("ClusterIP");
    let shutdown = CancellationToken::new();
    let conflict = ("10.1.1.1:80/tcp", "default/web", "default/other");
    let conflict = (conflict.0.to_owned(), conflict.1.to_owned(), conflict.2.to_owned());
    let sync = move |_| Ok(Written { elements: 1, conflicts: vec![conflict.clone()] });
    let task =
        tokio::spawn(drive(server.client, options(), shutdown.clone(), nobody(), quiet(), sync));
    let event = server.events.recv().await.unwrap();
    assert_eq!(event["involvedObject"]["name"], "web");
    assert_eq!(event["involvedObject"]["uid"], "u");
    assert_eq!(event["type"], "Warning");
    let expected = "spec: 10.1.1.1:80/tcp belongs to service default/other already";
    assert_eq!(event["message"], expected);
    shutdown.cancel();
    task.await.unwrap().unwrap();
}
