//! The connection to one of etcd's members at a time; when it breaks, the next call tries the next member.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tonic::client::Grpc;
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;

use super::wire::{
    CompactionRequest, CompactionResponse, LeaseGrantRequest, LeaseGrantResponse,
    LeaseRevokeRequest, LeaseRevokeResponse, RangeRequest, RangeResponse, TxnRequest, TxnResponse,
    WatchRequest, WatchResponse,
};
use super::{Options, OptionsError};

/// For a member to take a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// For an answer. etcd itself gives up on a write after 5 s or so.
const ANSWER: Duration = Duration::from_secs(10);
/// A member that is gone without a word is noticed after the two together.
const PING: Duration = Duration::from_secs(3);
const PONG: Duration = Duration::from_secs(2);
/// Objects are at most 3 MiB, pages of them may be more.
const MESSAGE: usize = 256 << 20;

pub(super) struct Link {
    /// `host:port`
    members: Vec<String>,
    tls: Option<TlsConnector>,
    /// Which member is next.
    turn: AtomicUsize,
    current: Mutex<Option<SendRequest<tonic::body::Body>>>,
}

impl Link {
    pub(super) fn new(options: &Options) -> Result<Self, OptionsError> {
        let tls = options.tls.as_ref().map(connector).transpose()?;
        let (turn, current) = (AtomicUsize::new(0), Mutex::default());
        Ok(Self { members: options.members.clone(), tls, turn, current })
    }

    pub(super) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        self.call("/etcdserverpb.KV/Range", request).await
    }

    pub(super) async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        self.call("/etcdserverpb.KV/Txn", request).await
    }

    pub(super) async fn compact(&self, revision: i64) -> Result<(), Status> {
        let request = CompactionRequest { revision };
        let _: CompactionResponse = self.call("/etcdserverpb.KV/Compact", request).await?;
        Ok(())
    }

    /// A lease of etcd's own, over in so many seconds; keys put with it go with it.
    pub(super) async fn grant(&self, seconds: i64) -> Result<i64, Status> {
        let request = LeaseGrantRequest { ttl: seconds };
        let granted: LeaseGrantResponse =
            self.call("/etcdserverpb.Lease/LeaseGrant", request).await?;
        Ok(granted.id)
    }

    pub(super) async fn revoke(&self, id: i64) -> Result<(), Status> {
        let request = LeaseRevokeRequest { id };
        let _: LeaseRevokeResponse = self.call("/etcdserverpb.Lease/LeaseRevoke", request).await?;
        Ok(())
    }

    /// The stream lives as long as both the answer and etcd do.
    pub(super) async fn watch(
        &self,
        request: WatchRequest,
    ) -> Result<Streaming<WatchResponse>, Status> {
        use futures::{StreamExt, stream};
        let mut grpc = self.open().await?;
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        // Our half stays open: its end would be the watch's.
        let requests = stream::iter([request]).chain(stream::pending());
        let codec = ProstCodec::<WatchRequest, WatchResponse>::default();
        let answer = grpc.streaming(tonic::Request::new(requests), path, codec);
        let answer = tokio::time::timeout(ANSWER, answer);
        self.judge(answer.await.unwrap_or_else(|_| Err(slow())))
            .await
            .map(tonic::Response::into_inner)
    }

    async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + Clone + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = self.open().await?;
        let path = PathAndQuery::from_static(path);
        let answer = grpc.unary(tonic::Request::new(request), path, ProstCodec::<Q, A>::default());
        let answer = tokio::time::timeout(ANSWER, answer);
        self.judge(answer.await.unwrap_or_else(|_| Err(slow())))
            .await
            .map(tonic::Response::into_inner)
    }

    /// After what may be the member's fault, the next call goes to the next one.
    async fn judge<T>(&self, answer: Result<T, Status>) -> Result<T, Status> {
        if let Err(status) = &answer
            && !matches!(
                status.code(),
                Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition
            )
        {
            *self.current.lock().await = None;
        }
        answer
    }

    async fn open(&self) -> Result<Grpc<Channel>, Status> {
        let mut current = self.current.lock().await;
        let sender = match current.as_ref().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender.clone(),
            None => {
                let sender = self.connect().await?;
                current.insert(sender).clone()
            }
        };
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let origin = format!("{scheme}://{}", self.members[0]).parse().unwrap_or_default();
        Ok(Grpc::with_origin(Channel(sender), origin).max_decoding_message_size(MESSAGE))
    }

    async fn connect(&self) -> Result<SendRequest<tonic::body::Body>, Status> {
        let mut last = String::new();
        for _ in &self.members {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let member = &self.members[turn % self.members.len()];
            match tokio::time::timeout(CONNECT, self.connect_to(member)).await {
                Ok(Ok(sender)) => return Ok(sender),
                Ok(Err(error)) => last = format!("connect to etcd {member:?}: {error}"),
                Err(_) => last = format!("connect to etcd {member:?}: no answer"),
            }
        }
        Err(Status::unavailable(last))
    }

    async fn connect_to(
        &self,
        member: &str,
    ) -> Result<SendRequest<tonic::body::Body>, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(member).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return handshake(stream).await };
        let host = member.rsplit_once(':').map_or(member, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        handshake(tls.connect(ServerName::try_from(host)?, stream).await?).await
    }
}

fn slow() -> Status {
    Status::deadline_exceeded("etcd does not answer")
}

async fn handshake<S>(
    stream: S,
) -> Result<SendRequest<tonic::body::Body>, Box<dyn std::error::Error + Send + Sync>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PONG);
    builder.keep_alive_while_idle(true).adaptive_window(true);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

fn connector(tls: &super::Tls) -> Result<TlsConnector, OptionsError> {
    let wrong = |path: &std::path::Path, why: String| OptionsError::Tls { path: path.into(), why };
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(&tls.ca);
    for certificate in certificates.map_err(|e| wrong(&tls.ca, e.to_string()))? {
        let certificate = certificate.map_err(|e| wrong(&tls.ca, e.to_string()))?;
        roots.add(certificate).map_err(|e| wrong(&tls.ca, e.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong(&tls.ca, e.to_string()))?
        .with_root_certificates(roots);
    let mut config = match &tls.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_file_iter(certificate)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|e| wrong(certificate, e.to_string()))?;
            let secret = PrivateKeyDer::from_pem_file(key);
            let secret = secret.map_err(|e| wrong(key, e.to_string()))?;
            let with = builder.with_client_auth_cert(chain, secret);
            with.map_err(|e| wrong(certificate, e.to_string()))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config).into())
}

/// One HTTP/2 connection as a `tower::Service`.
struct Channel(SendRequest<tonic::body::Body>);

impl tower::Service<http::Request<tonic::body::Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future =
        Pin<Box<dyn Future<Output = Result<http::Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
