//! Requests that a node answers: `log`, `exec`, `attach`, `portforward`. The server finds the Pod's node, repeats
//! the request there over TLS with its own client certificate, and passes bytes through; what they mean is
//! between the client and the node.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::body::{self, Body, BoxError};
use super::request::{Target, Verb};
use super::write::Place;
use super::{Api, errors};
use crate::reader::Reader;
use crate::status::ApiError;

/// To reach a node and shake hands.
const CONNECT: Duration = Duration::from_secs(10);
/// To get the head of a node's answer.
const ANSWER: Duration = Duration::from_secs(30);
/// Of an error text that a node sends.
const ERROR_LIMIT: usize = 64 << 10;

/// How this server speaks to nodes.
#[derive(Clone)]
pub struct NodeClient {
    tls: TlsConnector,
}

impl NodeClient {
    pub fn new(config: Arc<rustls::ClientConfig>) -> Self {
        Self { tls: config.into() }
    }

    async fn send(
        &self,
        node: &Endpoint,
        request: Request<Full<bytes::Bytes>>,
    ) -> Result<Response<hyper::body::Incoming>, ApiError> {
        let unreachable = |what: String| {
            let text = format!("error dialing backend: {what}");
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", text)
        };
        let address = (node.host.as_str(), node.port);
        let connect = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from(node.host.clone()).map_err(std::io::Error::other)?;
            self.tls.connect(name, stream).await
        };
        let stream = tokio::time::timeout(CONNECT, connect)
            .await
            .map_err(|_| unreachable(format!("connect to {}:{}: timeout", node.host, node.port)))?
            .map_err(|e| unreachable(format!("connect to {}:{}: {e}", node.host, node.port)))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| unreachable(e.to_string()))?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to node ended");
            }
        });
        tokio::time::timeout(ANSWER, sender.send_request(request))
            .await
            .map_err(|_| unreachable(format!("no answer from {}:{}", node.host, node.port)))?
            .map_err(|e| unreachable(e.to_string()))
    }
}

/// Where a node's agent listens.
#[derive(Debug, Clone, PartialEq)]
struct Endpoint {
    host: String,
    port: u16,
}

impl Api {
    pub(super) async fn connect(
        &self,
        target: &Target,
        parts: &mut Parts,
        _body: Body,
    ) -> Result<Response<Body>, ApiError> {
        let logs = target.subresource == "log";
        if target.name.is_empty() || !matches!(target.verb, Verb::Get | Verb::Create) {
            return Err(errors::method_not_allowed());
        }
        let (endpoint, path) = self.route(target, parts.uri.query())?;
        let client = self.nodes.as_ref().ok_or_else(|| {
            let text = "this server is not connected to nodes";
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", text)
        })?;
        let uri: Uri = path.parse().map_err(|e| errors::internal(format!("node path: {e}")))?;
        let mut request = Request::new(Full::default());
        *request.method_mut() = if logs { http::Method::GET } else { parts.method.clone() };
        *request.uri_mut() = uri;
        let host = format!("{}:{}", endpoint.host, endpoint.port);
        if !logs {
            check_upgrade(&parts.headers)?;
            *request.headers_mut() = forwarded(&parts.headers);
        }
        let host = host.parse().map_err(|e| errors::internal(format!("node name: {e}")))?;
        request.headers_mut().insert(header::HOST, host);
        let answer = client.send(&endpoint, request).await?;
        match answer.status() {
            StatusCode::SWITCHING_PROTOCOLS => splice(parts, answer),
            status if logs && status.is_success() => Ok(streamed(answer)),
            _ => Err(refusal(answer).await),
        }
    }

    /// The node and the path there of a request about a Pod.
    fn route(&self, target: &Target, query: Option<&str>) -> Result<(Endpoint, String), ApiError> {
        let (namespace, name) = (target.namespace.as_str(), target.name.as_str());
        let place = Place { kind: target.kind, namespace, name, subresource: "" };
        let pod = self.find(place)?.value();
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        if node.is_empty() {
            let text = format!("pod {name} does not have a host assigned");
            return Err(errors::bad_request(text));
        }
        let endpoint = self.endpoint(node)?;
        let (verb, container) = match target.subresource.as_str() {
            "portforward" => ("portForward", None),
            "log" => ("containerLogs", Some(container(&pod, target.query.text("container"))?)),
            other => (other, Some(container(&pod, target.query.text("container"))?)),
        };
        let mut path = format!("/{verb}/{namespace}/{name}");
        if let Some(container) = container {
            path = format!("{path}/{container}");
        }
        if let Some(query) = query.filter(|q| !q.is_empty()) {
            path = format!("{path}?{}", node_query(query));
        }
        Ok((endpoint, path))
    }

    fn endpoint(&self, node: &str) -> Result<Endpoint, ApiError> {
        let unknown = |what: &str| errors::internal(format!("node {node:?} {what}"));
        let found =
            self.store.get("nodes", "", node).ok_or_else(|| unknown("is not registered"))?;
        endpoint_of(&found.value()).ok_or_else(|| unknown("has no address or port to reach it by"))
    }
}

fn endpoint_of(node: &Value) -> Option<Endpoint> {
    let addresses = node["status"]["addresses"].as_array()?;
    let find = |kind: &str| addresses.iter().find(|a| a["type"] == kind)?["address"].as_str();
    let host = find("InternalIP").or_else(|| find("ExternalIP")).or_else(|| find("Hostname"))?;
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64()?;
    Some(Endpoint { host: host.into(), port: u16::try_from(port).ok()? })
}

/// The container that is meant, which can be left out when there is only one.
fn container(pod: &Value, asked: Option<&str>) -> Result<String, ApiError> {
    let names = |field: &str| -> Vec<&str> {
        let list = pod["spec"][field].as_array().into_iter().flatten();
        list.filter_map(|c| c["name"].as_str()).collect()
    };
    let containers = names("containers");
    let init = names("initContainers");
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    match asked {
        Some(asked) => {
            let all = [containers, init, names("ephemeralContainers")].concat();
            match all.contains(&asked) {
                true => Ok(asked.to_owned()),
                false => Err(errors::bad_request(format!(
                    "container {asked} is not valid for pod {pod_name}"
                ))),
            }
        }
        None => match containers.as_slice() {
            [only] => Ok((*only).to_owned()),
            several => {
                let mut text = format!(
                    "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                    several.join(" ")
                );
                if !init.is_empty() {
                    text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                Err(errors::bad_request(text))
            }
        },
    }
}

/// Nodes know the streams of exec by their short names.
fn node_query(query: &str) -> String {
    let mut out = form_urlencoded::Serializer::new(String::new());
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let stream = matches!(&*key, "stdin" | "stdout" | "stderr");
        match (&*key, &*value) {
            ("container", _) => continue,
            ("stdin" | "stdout" | "stderr" | "tty", "true" | "1") => {
                out.append_pair(node_stream(&key), "1");
            }
            _ if stream => continue,
            _ => {
                out.append_pair(&key, &value);
            }
        }
    }
    out.finish()
}

fn node_stream(name: &str) -> &str {
    match name {
        "stdin" => "input",
        "stdout" => "output",
        "stderr" => "error",
        other => other,
    }
}

fn check_upgrade(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.contains_key(header::UPGRADE) {
        true => Ok(()),
        false => Err(errors::bad_request("Upgrade request required")),
    }
}

/// Everything but the caller's credentials goes on to the node.
fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    for name in [header::AUTHORIZATION, header::HOST, header::CONTENT_LENGTH, header::COOKIE] {
        headers.remove(name);
    }
    headers.remove(HeaderName::from_static("x-forwarded-for"));
    headers
}

/// Joins the two upgraded connections.
fn splice(
    parts: &mut Parts,
    mut answer: Response<hyper::body::Incoming>,
) -> Result<Response<Body>, ApiError> {
    let ours = parts
        .extensions
        .remove::<hyper::upgrade::OnUpgrade>()
        .ok_or_else(|| errors::bad_request("this connection cannot be upgraded; use HTTP/1.1"))?;
    let theirs = hyper::upgrade::on(&mut answer);
    tokio::spawn(async move {
        let (ours, theirs) = match tokio::try_join!(ours, theirs) {
            Ok(both) => both,
            Err(error) => return tracing::debug!(%error, "upgrade a connection to a node"),
        };
        let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
        let _ = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await;
    });
    let mut response = Response::new(Empty::new().map_err(|e| match e {}).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = answer.headers().clone();
    Ok(response)
}

fn streamed(answer: Response<hyper::body::Incoming>) -> Response<Body> {
    let kind = answer.headers().get(header::CONTENT_TYPE).cloned();
    let mut response = body::text(answer.status(), "");
    if let Some(kind) = kind {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    *response.body_mut() =
        answer.into_body().map_err(|e| -> BoxError { Box::new(e) }).boxed_unsync();
    response
}

/// What a node did not do, in its own words.
async fn refusal(answer: Response<hyper::body::Incoming>) -> ApiError {
    let status = answer.status();
    let limited = http_body_util::Limited::new(answer.into_body(), ERROR_LIMIT);
    let bytes = limited.collect().await.map(|c| c.to_bytes()).unwrap_or_default();
    let told = serde_json::from_slice::<Value>(&bytes).ok();
    let text = match told.as_ref().and_then(|v| v["message"].as_str()) {
        Some(message) => message.to_owned(),
        None => String::from_utf8_lossy(&bytes).trim().to_owned(),
    };
    match status {
        StatusCode::NOT_FOUND => ApiError::new(status, "NotFound", text),
        StatusCode::BAD_REQUEST => ApiError::new(status, "BadRequest", text),
        status if status.is_client_error() => ApiError::new(status, "BadRequest", text),
        _ => errors::internal(text),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn containers_may_be_left_out_when_there_is_one() {
        let pod = |names: &[&str]| {
            let list: Vec<_> = names.iter().map(|n| json!({"name": n})).collect();
            json!({"metadata": {"name": "p"}, "spec": {"containers": list}})
        };
        assert_eq!(container(&pod(&["a"]), None).unwrap(), "a");
        assert_eq!(container(&pod(&["a", "b"]), Some("b")).unwrap(), "b");
        let error = container(&pod(&["a", "b"]), None).unwrap_err();
        assert!(error.message.ends_with("choose one of: [a b]"));
        assert!(container(&pod(&["a"]), Some("c")).is_err());
    }

    #[test]
    fn nodes_are_found_by_their_internal_address() {
        let node = json!({"status": {
            "addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "10.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}});
        assert_eq!(endpoint_of(&node), Some(Endpoint { host: "10.0.0.1".into(), port: 10250 }));
        assert_eq!(endpoint_of(&json!({})), None);
    }

    #[test]
    fn stream_names_are_translated() {
        let query = "command=ls&command=-l&stdin=false&stdout=true&tty=true&container=c";
        assert_eq!(node_query(query), "command=ls&command=-l&output=1&tty=1");
        assert_eq!(node_query("follow=true&tailLines=5"), "follow=true&tailLines=5");
    }
}
