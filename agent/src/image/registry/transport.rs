//! HTTP to registries: connections, TLS, the proxy of the environment. Knows nothing of images.
//!
//! One client per way to believe certificates, kept for the next request. `HTTPS_PROXY` and `NO_PROXY` hold for HTTPS;
//! plain HTTP is for mirrors nearby and goes straight.

use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tower::Service;

use super::hosts::{Tls, is_loopback};

const CONNECT: Duration = Duration::from_secs(30);
/// From the request to the head of the answer.
const ANSWER: Duration = Duration::from_secs(60);
/// Some registries refuse clients without a name.
pub(super) const USER_AGENT: &str = concat!("kobune/", env!("CARGO_PKG_VERSION"));

type HttpClient = Client<HttpsConnector<Dialer>, Full<Bytes>>;
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransportError {
    /// Ours to repair: a file that cannot be read.
    #[error("{0}")]
    Setup(String),
    #[error("{0}")]
    Failed(String),
    #[error("no answer within {} seconds", ANSWER.as_secs())]
    Timeout,
}

pub(super) struct Transport {
    clients: Mutex<HashMap<Tls, HttpClient>>,
    proxies: Arc<Matcher>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

impl Transport {
    pub(super) fn new() -> Self {
        Self { clients: Mutex::default(), proxies: Arc::new(Matcher::from_env()) }
    }

    /// One request, one answer; redirects are the caller's business.
    pub(super) async fn send(
        &self,
        tls: &Tls,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, TransportError> {
        let client = self.client(tls)?;
        match tokio::time::timeout(ANSWER, client.request(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(TransportError::Failed(innermost(&error))),
            Err(_elapsed) => Err(TransportError::Timeout),
        }
    }

    fn client(&self, tls: &Tls) -> Result<HttpClient, TransportError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(tls) {
            return Ok(client.clone());
        }
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT));
        http.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config(tls).map_err(TransportError::Setup)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(Dialer { http, proxies: Arc::clone(&self.proxies) });
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector);
        clients.insert(tls.clone(), client.clone());
        Ok(client)
    }
}

/// What people can act upon is at the end of the chain: `Connection refused`, `invalid peer certificate`.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Makes connections, through the proxy where the environment says so.
#[derive(Clone)]
struct Dialer {
    http: HttpConnector,
    proxies: Arc<Matcher>,
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Failure>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.http.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let direct = to.scheme_str() != Some("https") || to.host().is_some_and(is_loopback);
        let proxy = if direct { None } else { self.proxies.intercept(&to) };
        let mut http = self.http.clone();
        Box::pin(async move {
            let Some(proxy) = proxy else { return Ok(http.call(to).await?) };
            let mut tunnel = Tunnel::new(proxy.uri().clone(), http);
            if let Some(auth) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(auth.clone());
            }
            tunnel.call(to).await.map_err(|error| format!("by the proxy: {error}").into())
        })
    }
}

fn config(tls: &Tls) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if tls.skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
    } else {
        builder.with_root_certificates(roots(tls)?)
    };
    match &tls.client[..] {
        [] => Ok(builder.with_no_client_auth()),
        [(certificate, key)] => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| format!("read key {key:?}: {error}"))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("use client certificate {certificate:?}: {error}"))
        }
        _ => Err("more than one client certificate is not supported".into()),
    }
}

/// The host's authorities and those of the file.
fn roots(tls: &Tls) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::debug!(%error, "read the host's certificate authorities");
    }
    roots.add_parsable_certificates(native.certs);
    for path in &tls.ca {
        let (good, _bad) = roots.add_parsable_certificates(certificates(path)?);
        if good == 0 {
            return Err(format!("{path:?} holds no certificate"));
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bad = |error: rustls_pki_types::pem::Error| format!("read certificates {path:?}: {error}");
    CertificateDer::pem_file_iter(path).map_err(bad)?.collect::<Result<_, _>>().map_err(bad)
}

/// `skip_verify`: whoever answers is believed. Digests still hold what is pulled by digest.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
