//! One try of a probe or of a lifecycle hook: HTTP, TCP, or a process in the container.
//!
//! Messages are upstream's, for people grep for them. Answers are read to a bound; a redirect counts as success and
//! is not followed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{
    Container, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kobune_runtime::wire::ExecRequest;
use oci_spec::runtime::Process;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Outcome;
use crate::sandbox::client::{self, ExecEnd};

/// Bytes of a body or of a command's output that are read.
const MAX_OUTPUT: usize = 10 << 10;

/// What a try needs to know of the running container.
#[derive(Debug, Clone)]
pub struct Target {
    /// The Pod's address, or the node's for a Pod in its network.
    pub address: Option<String>,
    pub socket: PathBuf,
    pub container: Container,
    /// As in config.json; its `args` are replaced.
    pub process: Option<Process>,
}

pub async fn probe(target: &Target, probe: &Probe, limit: Duration) -> Outcome {
    if let Some(exec) = &probe.exec {
        return command(target, exec.command.as_deref().unwrap_or_default(), limit).await;
    }
    if let Some(get) = &probe.http_get {
        return http_get(target, get, limit).await;
    }
    if let Some(socket) = &probe.tcp_socket {
        return tcp_connect(target, socket, limit).await;
    }
    Outcome::Error("missing probe handler".into())
}

/// Carries out a preStop hook. Takes at most `limit`.
pub async fn hook(target: &Target, hook: &LifecycleHandler, limit: Duration) -> Result<(), String> {
    let outcome = if let Some(exec) = &hook.exec {
        command(target, exec.command.as_deref().unwrap_or_default(), limit).await
    } else if let Some(get) = &hook.http_get {
        http_get(target, get, limit).await
    } else if let Some(sleep) = &hook.sleep {
        let wish = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
        tokio::time::sleep(wish.min(limit)).await;
        Outcome::Success
    } else {
        Outcome::Error("invalid handler".into())
    };
    match outcome {
        Outcome::Success => Ok(()),
        Outcome::Failure(message) | Outcome::Error(message) => Err(message),
    }
}

async fn command(target: &Target, args: &[String], limit: Duration) -> Outcome {
    let Some(mut process) = target.process.clone() else {
        return Outcome::Error("the container's configuration is not there".into());
    };
    process.set_args(Some(args.to_vec())).set_terminal(Some(false));
    let request = ExecRequest { container: target.container.name.clone(), process };
    match client::exec(&target.socket, request, limit, MAX_OUTPUT).await {
        Ok(ExecEnd::Exited { code: 0, .. }) => Outcome::Success,
        Ok(ExecEnd::Exited { output, .. }) => Outcome::Failure(output),
        Ok(ExecEnd::TimedOut { .. }) => {
            Outcome::Failure(format!("command {:?} timed out", args.join(" ")))
        }
        Err(error) => Outcome::Error(error.to_string()),
    }
}

async fn http_get(target: &Target, get: &HTTPGetAction, limit: Duration) -> Outcome {
    let (host, port) = match destination(target, get.host.as_deref(), &get.port) {
        Ok(destination) => destination,
        Err(message) => return Outcome::Error(message),
    };
    let path = get.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let url = format!("http://{host}:{port}{slash}{path}");
    match timeout(limit, request(&host, port, &format!("{slash}{path}"), get)).await {
        Err(_elapsed) => Outcome::Failure(format!(
            "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
        Ok(Err(message)) => Outcome::Failure(format!("Get \"{url}\": {message}")),
        Ok(Ok(200..=399)) => Outcome::Success,
        Ok(Ok(status)) => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
    }
}

async fn request(host: &str, port: u16, path: &str, get: &HTTPGetAction) -> Result<u16, String> {
    let stream = connect(host, port).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let request = build_request(host, port, path, get)?;
    let exchange = async {
        let mut response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let mut read = 0;
        while let Some(Ok(frame)) = response.body_mut().frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > MAX_OUTPUT {
                break;
            }
        }
        Ok(status)
    };
    // The connection is driven beside the exchange; what ends it is told by the exchange.
    let drive = async {
        let _ = connection.await;
        std::future::pending::<std::convert::Infallible>().await
    };
    tokio::select! {
        status = exchange => status,
        never = drive => match never {},
    }
}

fn build_request(
    host: &str,
    port: u16,
    path: &str,
    get: &HTTPGetAction,
) -> Result<http::Request<Empty<Bytes>>, String> {
    let mut builder = http::Request::get(path);
    let mut has = (false, false, false);
    for header in get.http_headers.iter().flatten() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        has = (has.0 || is("host"), has.1 || is("user-agent"), has.2 || is("accept"));
        builder = builder.header(&header.name, &header.value);
    }
    if !has.0 {
        builder = builder.header(http::header::HOST, format!("{host}:{port}"));
    }
    if !has.1 {
        builder = builder.header(http::header::USER_AGENT, "kube-probe/1.33");
    }
    if !has.2 {
        builder = builder.header(http::header::ACCEPT, "*/*");
    }
    builder = builder.header(http::header::CONNECTION, "close");
    builder.body(Empty::new()).map_err(|error| error.to_string())
}

async fn tcp_connect(target: &Target, socket: &TCPSocketAction, limit: Duration) -> Outcome {
    let (host, port) = match destination(target, socket.host.as_deref(), &socket.port) {
        Ok(destination) => destination,
        Err(message) => return Outcome::Error(message),
    };
    match timeout(limit, connect(&host, port)).await {
        Ok(Ok(_stream)) => Outcome::Success,
        Ok(Err(message)) => Outcome::Failure(message),
        Err(_elapsed) => Outcome::Failure(format!("dial tcp {host}:{port}: i/o timeout")),
    }
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let failed =
        |error: std::io::Error| format!("dial tcp {host}:{port}: connect: {}", plain(&error));
    match host.parse() {
        Ok(ip) => TcpStream::connect(SocketAddr::new(ip, port)).await.map_err(failed),
        Err(_) => TcpStream::connect((host, port)).await.map_err(failed),
    }
}

/// The system's words without Rust's addition.
fn plain(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_lowercase(),
        None => error.to_string(),
    }
}

fn destination(
    target: &Target,
    host: Option<&str>,
    port: &IntOrString,
) -> Result<(String, u16), String> {
    let host =
        host.filter(|host| !host.is_empty()).map(str::to_owned).or_else(|| target.address.clone());
    let host = host.ok_or("the pod has no address")?;
    Ok((host, port_number(&target.container, port)?))
}

fn port_number(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let ports = || container.ports.iter().flatten();
            let named = ports()
                .find(|port| port.name.as_deref() == Some(name))
                .map(|port| port.container_port);
            named.or_else(|| name.parse().ok())
        }
    };
    let valid = number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
    valid.ok_or_else(|| match port {
        IntOrString::Int(number) => format!("invalid port number: {number}"),
        IntOrString::String(name) => format!("couldn't find port: {name:?}"),
    })
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
