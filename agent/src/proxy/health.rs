//! Answers balancers outside on healthCheckNodePorts: does this node have endpoints of the Service?
//!
//! One listener per port, which comes and goes with its Service. 200 with endpoints, 503 without, as upstream.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::mirror::Key;
use super::plan::Health;

/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between an attempt to listen that failed and the next one.
const AGAIN: Duration = Duration::from_secs(1);

/// The listeners that are there.
#[derive(Debug, Default)]
pub(super) struct Checks {
    ports: BTreeMap<u16, Check>,
}

#[derive(Debug)]
struct Check {
    state: watch::Sender<State>,
    task: AbortHandle,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    service: Key,
    local_endpoints: usize,
}

impl Drop for Check {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Checks {
    /// Listens for exactly `wanted`. Must be called within a runtime.
    pub(super) fn keep(&mut self, wanted: &BTreeMap<Key, Health>) {
        let mut states: BTreeMap<u16, State> = BTreeMap::new();
        for (service, health) in wanted {
            let local_endpoints = health.local_endpoints;
            states
                .entry(health.port)
                .or_insert(State { service: service.clone(), local_endpoints });
        }
        self.ports.retain(|port, _| states.contains_key(port));
        for (port, state) in states {
            match self.ports.get(&port) {
                Some(check) => drop(check.state.send_replace(state)),
                None => drop(self.ports.insert(port, check(port, state))),
            }
        }
    }
}

fn check(port: u16, state: State) -> Check {
    let (sender, receiver) = watch::channel(state);
    let task = tokio::spawn(listen(port, receiver)).abort_handle();
    Check { state: sender, task }
}

async fn listen(port: u16, state: watch::Receiver<State>) {
    loop {
        match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await {
            Ok(listener) => serve(listener, &state).await,
            Err(error) => tracing::error!(%error, port, "listen on a healthCheckNodePort"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn serve(listener: TcpListener, state: &watch::Receiver<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        tokio::spawn(async move {
            let respond = service_fn(|_: Request<Incoming>| {
                let response = answer(&state.borrow());
                std::future::ready(Ok::<_, Infallible>(response))
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
            // A client that goes away half-way is nobody's business.
            let _ = builder.serve_connection(TokioIo::new(stream), respond).await;
        });
    }
}

fn answer(state: &State) -> Response<Full<Bytes>> {
    let (namespace, name) = &state.service;
    let status = match state.local_endpoints {
        0 => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    };
    let body = json!({
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": state.local_endpoints,
        "serviceProxyHealthy": true,
    });
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert("Content-Type", http::HeaderValue::from_static("application/json"));
    headers.insert("X-Content-Type-Options", http::HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn get(port: u16) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    }

    async fn eventually(port: u16, wanted: impl Fn(Option<&str>) -> bool) {
        let asking = async {
            while !wanted(get(port).await.as_deref()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), asking).await.expect("in time");
    }

    #[tokio::test]
    async fn a_port_says_whether_there_are_endpoints_and_goes_with_its_service() {
        // A port that is free now; nobody else in this process takes one by number.
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let key = ("team".to_owned(), "web".to_owned());
        let health =
            |local_endpoints| BTreeMap::from([(key.clone(), Health { port, local_endpoints })]);
        let mut checks = Checks::default();
        checks.keep(&health(2));
        let good = |text: Option<&str>| {
            text.is_some_and(|text| {
                text.starts_with("HTTP/1.1 200") && text.contains(r#""localEndpoints":2"#)
            })
        };
        eventually(port, good).await;
        checks.keep(&health(0));
        eventually(port, |text| text.is_some_and(|t| t.starts_with("HTTP/1.1 503"))).await;
        checks.keep(&BTreeMap::new());
        eventually(port, |text| text.is_none()).await;
    }
}
