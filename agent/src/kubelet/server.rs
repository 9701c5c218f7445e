//! Listens, tells who asks, and hands requests to those who answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::route::{self, Refusal, Route};
use super::{Containers, Denial, attach, exec, forward, logs, tls};
use crate::cli::Failure;

const HANDSHAKE: Duration = Duration::from_secs(10);
/// What open connections get when the server ends.
const DRAIN: Duration = Duration::from_secs(2);

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;
pub(super) type Answer = Response<Body>;

/// What the server needs to begin.
pub(crate) struct Options {
    /// Bound before the node starts: who cannot be asked should not run Pods.
    pub(crate) listener: TcpListener,
    /// PEM.
    pub(crate) certificate: String,
    pub(crate) key: String,
    /// PEM; clients must have a certificate of it.
    pub(crate) client_ca: String,
}

/// Serve until `shutdown`, in a task of its own.
pub(crate) fn serve<C: Containers>(
    options: Options,
    containers: C,
    shutdown: CancellationToken,
) -> Result<tokio::task::JoinHandle<()>, Failure> {
    let config = tls::config(&options.certificate, &options.key, &options.client_ca)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Ok(tokio::spawn(accept(options.listener, acceptor, containers, shutdown)))
}

async fn accept<C: Containers>(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    containers: C,
    shutdown: CancellationToken,
) {
    let connections = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(e) => {
                    // Out of descriptors, mostly: the next ones may be luckier.
                    tracing::warn!("accept a connection to the node's API: {e}");
                    tokio::task::yield_now().await;
                    continue;
                }
            },
            () = shutdown.cancelled() => break,
        };
        let serving = connection(stream, acceptor.clone(), containers.clone(), shutdown.clone());
        connections.spawn(serving);
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn connection<C: Containers>(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    containers: C,
    shutdown: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    // Clients that do not get through the handshake are their own trouble.
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else {
        return;
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let allowed = certificates.and_then(|chain| chain.first()).is_some_and(tls::is_master);
    let ending = shutdown.clone();
    let service = hyper::service::service_fn(move |request| {
        let (containers, shutdown) = (containers.clone(), shutdown.clone());
        async move { Ok::<_, Infallible>(answer(request, allowed, &containers, shutdown).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    tokio::select! {
        _ = serving.as_mut() => {}
        () = ending.cancelled() => {
            serving.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(DRAIN, serving).await;
        }
    }
}

async fn answer<C: Containers>(
    request: Request<Incoming>,
    allowed: bool,
    containers: &C,
    shutdown: CancellationToken,
) -> Answer {
    let uri = request.uri();
    let parsed = route::parse(uri.path(), uri.query().unwrap_or_default(), jiff::Timestamp::now());
    let result = match parsed {
        Ok(Route::Healthz) => return text(StatusCode::OK, "ok"),
        _ if !allowed => return text(StatusCode::UNAUTHORIZED, "Unauthorized"),
        Ok(Route::Pods) => Ok(pods(containers).await),
        Ok(Route::Logs { .. }) if request.method() != Method::GET => Err(method()),
        Ok(Route::Logs { place, previous, options }) => {
            logs::answer(containers, &place, previous, options, shutdown).await
        }
        Ok(Route::Exec { place, exec }) => exec::answer(containers, &place, exec, request).await,
        Ok(Route::Attach { place, streams }) => {
            attach::answer(containers, &place, streams, request).await
        }
        Ok(Route::PortForward { namespace, pod }) => {
            forward::answer(containers, (&namespace, &pod), request).await
        }
        Ok(Route::Later(what)) => {
            let message = format!("{what} is not supported by this node yet");
            Err(text(StatusCode::NOT_IMPLEMENTED, &message))
        }
        Err(Refusal::NotFound) => Err(text(StatusCode::NOT_FOUND, "404 page not found")),
        Err(Refusal::BadRequest(message)) => Err(text(StatusCode::BAD_REQUEST, &message)),
    };
    result.unwrap_or_else(|refused| refused)
}

fn method() -> Answer {
    text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
}

async fn pods<C: Containers>(containers: &C) -> Answer {
    let list = serde_json::json!({
        "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": containers.pods().await,
    });
    let mut answer = text(StatusCode::OK, &list.to_string());
    let json = http::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, json);
    answer
}

/// A short answer.
pub(super) fn text(status: StatusCode, text: &str) -> Answer {
    let body = Full::new(Bytes::from(format!("{text}\n"))).boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    answer
}

/// The answer when there is no container to ask for.
pub(super) fn denied(denial: &Denial) -> Answer {
    let status = match denial {
        Denial::NotFound(_) => StatusCode::NOT_FOUND,
        Denial::BadRequest(_) => StatusCode::BAD_REQUEST,
    };
    text(status, &denial.to_string())
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
