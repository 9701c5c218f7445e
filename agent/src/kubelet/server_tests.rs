//! The server as its clients see it: real TLS, real HTTP, and a supervisor made of a few lines.

use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use kobune_runtime::wire::{self, ContainerPhase, ContainerRecord, Event, Request as Asked};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use super::super::{Containers, Target, tls};
use super::*;

/// A cluster's authority, and who it vouches for.
struct Authority {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let cert = params.self_signed(&key).unwrap();
        Self { pem: cert.pem(), der: cert.der().clone(), issuer: Issuer::new(params, key) }
    }

    fn sign(&self, group: &str) -> (CertificateDer<'static>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, group);
        (params.signed_by(&key, &self.issuer).unwrap().der().clone(), key)
    }
}

/// One Pod `ns/pod` with one container `c`.
#[derive(Clone)]
struct OnePod(Target);

impl Containers for OnePod {
    async fn container(&self, _: &str, pod: &str, _: Option<&str>) -> Result<Target, Denial> {
        match pod {
            "pod" => Ok(self.0.clone()),
            other => Err(Denial::NotFound(format!("no pod {other}"))),
        }
    }

    async fn network(&self, _: &str, _: &str) -> Result<Option<PathBuf>, Denial> {
        Ok(None)
    }

    async fn pods(&self) -> Vec<k8s_openapi::api::core::v1::Pod> {
        Vec::new()
    }
}

struct Fixture {
    authority: Authority,
    address: SocketAddr,
    dir: tempfile::TempDir,
    shutdown: CancellationToken,
}

impl Fixture {
    async fn new() -> Self {
        let authority = Authority::new();
        let dir = tempfile::tempdir().unwrap();
        let target = Target {
            container: "c".into(),
            supervisor: dir.path().join("supervisor.sock"),
            running: true,
            attempt: Some(1),
            log_dir: dir.path().into(),
            process: Some(oci_spec::runtime::Process::default()),
        };
        let (cert, key) = tls::self_signed("n", [127, 0, 0, 1].into()).unwrap();
        let config = tls::config(&cert, &key, &authority.pem).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(accept(listener, acceptor, OnePod(target), shutdown.clone()));
        Self { authority, address, dir, shutdown }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("supervisor.sock")
    }

    /// A connection as somebody of `group`, or as nobody.
    async fn connect(&self, group: Option<&str>) -> TlsStream<TcpStream> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone));
        let config = match group.map(|group| self.authority.sign(group)) {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                let chain = vec![cert, self.authority.der.clone()];
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    async fn get(&self, group: Option<&str>, path: &str) -> (u16, String) {
        let io = TokioIo::new(self.connect(group).await);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(path).header("host", "n").body(Full::<Bytes>::default());
        let answer = sender.send_request(request.unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// Everything that an exec says: channel and text, the close code last.
    async fn exec(&self) -> (Vec<(u8, String)>, Option<CloseCode>) {
        let uri = format!("wss://{}/exec/ns/pod/c?command=x&stdout=1&stderr=1", self.address);
        let mut request = uri.into_client_request().unwrap();
        let protocol = "v5.channel.k8s.io".parse().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", protocol);
        let stream = self.connect(Some("system:masters")).await;
        let (mut socket, answer) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        assert_eq!(answer.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
        let (mut said, mut code) = (Vec::new(), None);
        while let Some(Ok(message)) = socket.next().await {
            match message {
                Message::Binary(bytes) => {
                    said.push((bytes[0], String::from_utf8_lossy(&bytes[1..]).into_owned()));
                }
                Message::Close(frame) => code = frame.map(|frame| frame.code),
                _ => {}
            }
        }
        (said, code)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A supervisor for one conversation: reads one line, gives these answers.
fn supervisor(socket: &Path, answers: Vec<Vec<u8>>) -> std::thread::JoinHandle<Asked> {
    use std::io::{BufRead, BufReader, Write};
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        answers.iter().for_each(|answer| stream.write_all(answer).unwrap());
        wire::decode(line.as_bytes()).unwrap()
    })
}

#[derive(Debug)]
struct Anyone;

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        let provider = rustls::crypto::ring::default_provider();
        provider.signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn only_masters_get_past_the_health_check() {
    let server = Fixture::new().await;
    assert_eq!(server.get(None, "/healthz").await, (200, "ok\n".into()));
    for group in [None, Some("system:nodes"), Some("system:authenticated")] {
        for path in ["/pods", "/containerLogs/ns/pod/c", "/exec/ns/pod/c?command=x&stdout=1", "/x"]
        {
            assert_eq!(server.get(group, path).await.0, 401, "{group:?} {path}");
        }
    }
    let (status, pods) = server.get(Some("system:masters"), "/pods").await;
    assert!(status == 200 && pods.contains("PodList"), "{status} {pods}");
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_nobodys() {
    let mut server = Fixture::new().await;
    server.authority = Authority::new();
    let io = TokioIo::new(server.connect(Some("system:masters")).await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/healthz").header("host", "n").body(Full::<Bytes>::default());
    assert!(sender.send_request(request.unwrap()).await.is_err(), "the handshake must fail");
}

#[tokio::test]
async fn logs_are_those_of_the_run_that_is_asked_for() {
    let server = Fixture::new().await;
    std::fs::write(server.dir.path().join("0.log"), "t stdout F before\n").unwrap();
    std::fs::write(server.dir.path().join("1.log"), "t stdout F one\nt stderr F two\n").unwrap();
    let masters = Some("system:masters");
    let logs = "/containerLogs/ns/pod/c";
    assert_eq!(server.get(masters, logs).await, (200, "one\ntwo\n".into()));
    let tail = format!("{logs}?tailLines=1");
    assert_eq!(server.get(masters, &tail).await, (200, "two\n".into()));
    let previous = format!("{logs}?previous=true");
    assert_eq!(server.get(masters, &previous).await, (200, "before\n".into()));
    assert_eq!(server.get(masters, "/containerLogs/ns/other/c").await.0, 404);
    assert_eq!(server.get(masters, &format!("{logs}?tailLines=x")).await.0, 400);
    assert_eq!(server.get(masters, "/run/ns/pod/c").await.0, 501);
    assert_eq!(server.get(masters, "/attach/ns/pod/c?stdout=1").await.0, 400);
}

#[tokio::test]
async fn following_ends_with_the_run() {
    let server = Fixture::new().await;
    std::fs::write(server.dir.path().join("1.log"), "t stdout F last\n").unwrap();
    let exited = Event::Container(ContainerRecord {
        container: "c".into(),
        id: String::new(),
        attempt: 1,
        phase: ContainerPhase::Exited,
        pid: 1,
        created_at: 0,
        started_at: None,
        finished_at: None,
        exit_code: Some(0),
        signal: None,
        oom_killed: false,
        message: None,
    });
    let answers = vec![wire::encode(&wire::Response::Ok), wire::encode(&exited)];
    let supervisor = supervisor(&server.socket(), answers);
    let answer = server.get(Some("system:masters"), "/containerLogs/ns/pod/c?follow=true").await;
    assert_eq!(answer, (200, "last\n".into()));
    assert_eq!(supervisor.join().unwrap(), Asked::Subscribe);
}

#[tokio::test]
async fn exec_ends_with_a_status_and_a_proper_close() {
    let server = Fixture::new().await;
    let answers =
        [wire::Response::ExecStarted { pid: 7 }, wire::Response::ExecExited { exit_code: 3 }];
    let supervisor = supervisor(&server.socket(), answers.iter().map(wire::encode).collect());
    let (said, code) = server.exec().await;
    assert_eq!(code, Some(CloseCode::Normal));
    let (channel, status) = said.last().unwrap();
    assert!(*channel == 3 && status.contains("NonZeroExitCode"), "{said:?}");
    let Asked::Exec(request) = supervisor.join().unwrap() else { panic!("not exec") };
    assert_eq!(request.process.args().as_deref(), Some(&["x".to_owned()][..]));
}

#[tokio::test]
async fn exec_that_cannot_start_says_why() {
    let server = Fixture::new().await;
    let refusal = wire::Response::Error {
        kind: wire::ErrorKind::CannotRun,
        message: "no such program".into(),
    };
    let supervisor = supervisor(&server.socket(), vec![wire::encode(&refusal)]);
    let (said, code) = server.exec().await;
    assert!(said.len() == 1 && said[0].1.contains("no such program"), "{said:?}");
    assert_eq!(code, Some(CloseCode::Normal));
    supervisor.join().unwrap();
}
