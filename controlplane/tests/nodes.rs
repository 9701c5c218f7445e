//! Requests that a node answers, against a node made up here.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncBufReadExt, TryStreamExt};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kobune_controlplane::{ControlPlane, Options, UserInfo};
use kube::Client;
use kube::api::{Api, LogParams, Patch, PatchParams, PostParams};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A request as the node got it.
#[derive(Debug)]
struct Seen {
    path: String,
    headers: HeaderMap,
    /// The common name is not looked at: a certificate was shown at all.
    certified: bool,
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn authority(control_plane: &ControlPlane) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(control_plane.ca_pem().as_bytes()).unwrap();
    roots.add(authority).unwrap();
    roots
}

/// A node that logs two lines a moment apart, echoes upgraded connections, and tells what it was asked.
async fn node(control_plane: &ControlPlane) -> (SocketAddr, mpsc::UnboundedReceiver<Seen>) {
    let (certificate, key) = control_plane.kubelet_serving_cert("n", &[LOCALHOST]).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        authority(control_plane).into(),
        provider(),
    );
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, tell) = (acceptor.clone(), tell.clone());
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let certified = stream.get_ref().1.peer_certificates().is_some();
                let service = service_fn(move |request| {
                    let tell = tell.clone();
                    async move { Ok::<_, Infallible>(answer(request, certified, &tell)) }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades()
                    .await;
            });
        }
    });
    (address, told)
}

fn answer(
    mut request: Request<Incoming>,
    certified: bool,
    tell: &mpsc::UnboundedSender<Seen>,
) -> Response<Body> {
    let path = request.uri().path_and_query().unwrap().to_string();
    let headers = request.headers().clone();
    let logs = path.starts_with("/containerLogs/");
    let upgrade = headers.get("upgrade").cloned();
    let missing = path.contains("/missing");
    tell.send(Seen { path, headers, certified }).unwrap();
    if missing {
        let mut response =
            Response::new(Full::new("container is waiting to start".into()).boxed_unsync());
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    }
    if logs {
        let lines = ["one\n", "two\n"].map(|line| Ok(Frame::data(Bytes::from(line))));
        let lines = futures::stream::iter(lines);
        return Response::new(StreamBody::new(lines).boxed_unsync());
    }
    let protocol = upgrade.expect("an upgrade");
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut io = TokioIo::new(upgraded.await.unwrap());
        let mut bytes = [0; 4];
        io.read_exact(&mut bytes).await.unwrap();
        bytes.reverse();
        io.write_all(&bytes).await.unwrap();
        io.shutdown().await.unwrap();
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "Upgrade")
        .header("upgrade", protocol)
        .body(Full::default().boxed_unsync())
        .unwrap()
}

async fn start(dir: &tempfile::TempDir) -> ControlPlane {
    let options = Options {
        data_dir: dir.path().into(),
        bind_address: LOCALHOST,
        advertise_address: LOCALHOST,
        secure_port: 0,
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        node_cidr_mask: 24,
        load_balancer_pool: Default::default(),
        extra_sans: Vec::new(),
        etcd: None,
    };
    ControlPlane::start(options).await.unwrap()
}

/// The node registered, and a Pod bound to it.
async fn furnish(client: &Client, address: SocketAddr) {
    let parameters = PostParams::default();
    let nodes = Api::<Node>::all(client.clone());
    let node = json!({"metadata": {"name": "n"}});
    nodes.create(&parameters, &serde_json::from_value(node).unwrap()).await.unwrap();
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": address.ip()}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": address.port()}},
    }});
    let patch = Patch::Merge(&status);
    nodes.patch_status("n", &PatchParams::default(), &patch).await.unwrap();
    let pods = Api::<Pod>::default_namespaced(client.clone());
    for (name, node) in [("p", Some("n")), ("missing", Some("n")), ("unbound", None)] {
        let pod = json!({"metadata": {"name": name},
            "spec": {"nodeName": node, "schedulerName": "nobody", "containers": [{"name": "c", "image": "i"}]}});
        pods.create(&parameters, &serde_json::from_value(pod).unwrap()).await.unwrap();
    }
}

/// A token of an account that may do everything.
async fn token(client: &Client) -> String {
    let parameters = PostParams::default();
    let accounts = Api::<ServiceAccount>::default_namespaced(client.clone());
    let account = json!({"metadata": {"name": "operator"}});
    accounts.create(&parameters, &serde_json::from_value(account).unwrap()).await.unwrap();
    let binding = json!({"metadata": {"name": "operator"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": "default"}]});
    let bindings = Api::<ClusterRoleBinding>::all(client.clone());
    bindings.create(&parameters, &serde_json::from_value(binding).unwrap()).await.unwrap();
    let asked = TokenRequest::default();
    let answer = accounts.create_token_request("operator", &parameters, &asked).await;
    answer.unwrap().status.unwrap().token
}

#[tokio::test]
async fn logs_stream_from_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = start(&dir).await;
    let (address, mut seen) = node(&control_plane).await;
    let client = Client::new(control_plane.handler(UserInfo::admin()), "default");
    furnish(&client, address).await;
    let pods = Api::<Pod>::default_namespaced(client);
    let parameters = LogParams { follow: true, tail_lines: Some(5), ..LogParams::default() };
    let mut lines = pods.log_stream("p", &parameters).await.unwrap().lines();
    assert_eq!(lines.try_next().await.unwrap().as_deref(), Some("one"));
    assert_eq!(lines.try_next().await.unwrap().as_deref(), Some("two"));
    assert_eq!(lines.try_next().await.unwrap(), None);
    let request = seen.recv().await.unwrap();
    assert!(request.path.starts_with("/containerLogs/default/p/c?"), "{}", request.path);
    assert!(request.path.contains("follow=true") && request.path.contains("tailLines=5"));
    assert!(request.certified, "the API server shows nodes a certificate");
    let refused = pods.logs("missing", &LogParams::default()).await.unwrap_err().to_string();
    assert!(refused.contains("container is waiting to start"), "{refused}");
    let refused = pods.logs("unbound", &LogParams::default()).await.unwrap_err().to_string();
    assert!(refused.contains("does not have a host assigned"), "{refused}");
    control_plane.shutdown().await;
}

#[tokio::test]
async fn upgraded_connections_are_joined() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = start(&dir).await;
    let (address, mut seen) = node(&control_plane).await;
    let client = Client::new(control_plane.handler(UserInfo::admin()), "default");
    furnish(&client, address).await;
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(authority(&control_plane))
        .with_no_client_auth();
    let stream = TcpStream::connect(control_plane.address()).await.unwrap();
    let name = ServerName::from(LOCALHOST);
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let head = format!(
        "GET /api/v1/namespaces/default/pods/p/exec?command=ls&stdout=true HTTP/1.1\r\nHost: x\r\n\
         Authorization: Bearer {}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
        token(&client).await
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    stream.write_all(b"ping").await.unwrap();
    let mut echoed = Vec::new();
    stream.read_to_end(&mut echoed).await.unwrap();
    assert_eq!(echoed, b"gnip");
    let request = seen.recv().await.unwrap();
    assert_eq!(request.path, "/exec/default/p/c?command=ls&output=1");
    assert!(!request.headers.contains_key("authorization"), "credentials stay here");
    let stopped = tokio::time::timeout(Duration::from_secs(8), control_plane.shutdown()).await;
    assert!(stopped.is_ok());
}
