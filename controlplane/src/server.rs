//! Listen, serve, drain: HTTPS connections in front of the API. Never looks at what a request means.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::body::{self, Body, BoxError};
use crate::api::{Api, UserInfo, unauthorized};
use crate::auth::{Authenticator, certificate_user};

/// For TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// For the head of a request on HTTP/1.
const HEAD: Duration = Duration::from_secs(30);
/// For requests that are under way when the server stops.
const DRAIN: Duration = Duration::from_secs(5);
/// After a failed `accept` (out of descriptors, mostly).
const BACK_OFF: Duration = Duration::from_millis(100);
const CONNECTIONS: usize = 4096;
/// All watches of a client share one connection.
const STREAMS: u32 = 2000;
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);

pub(crate) struct Server {
    pub(crate) api: Arc<Api>,
    pub(crate) auth: Authenticator,
    pub(crate) tls: TlsAcceptor,
    pub(crate) shutdown: CancellationToken,
}

impl Server {
    /// Serves until shutdown, then until the last connection has drained.
    pub(crate) async fn run(self, listener: TcpListener) {
        let server = Arc::new(self);
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener, &slots) => accepted,
                () = server.shutdown.cancelled() => break,
            };
            let Some((stream, peer, slot)) = accepted else { continue };
            let server = server.clone();
            connections.spawn(async move {
                server.connection(stream, peer).await;
                drop(slot);
            });
        }
        drop(listener);
        connections.close();
        connections.wait().await;
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let _ = stream.set_nodelay(true);
        let handshake = tokio::time::timeout(HANDSHAKE, self.tls.accept(stream));
        let stream = match handshake.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => return tracing::debug!(%peer, "TLS handshake timed out"),
        };
        let certificates = stream.get_ref().1.peer_certificates();
        let user = certificates.and_then(|c| c.first()).and_then(certificate_user);
        let server = self.clone();
        let service = service_fn(move |request| {
            let (server, user) = (server.clone(), user.clone());
            async move { Ok::<_, std::convert::Infallible>(server.answer(user, request).await) }
        });
        let builder = builder();
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                match tokio::time::timeout(DRAIN, connection).await {
                    Ok(ended) => ended,
                    Err(_) => return tracing::debug!(%peer, "connection did not drain in time"),
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "connection ended");
        }
    }

    async fn answer(
        &self,
        certificate: Option<UserInfo>,
        request: Request<Incoming>,
    ) -> Response<Body> {
        match self.auth.user(certificate.as_ref(), request.headers()) {
            Ok(user) => {
                let request =
                    request.map(|b| b.map_err(|e| -> BoxError { Box::new(e) }).boxed_unsync());
                self.api.serve(&user, request).await
            }
            Err(_) => body::error(&unauthorized()),
        }
    }
}

type Slot = tokio::sync::OwnedSemaphorePermit;

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, Slot)> {
    let slot = slots.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, slot)),
        Err(error) => {
            tracing::warn!(%error, "accept a connection");
            tokio::time::sleep(BACK_OFF).await;
            None
        }
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG);
    builder
}
