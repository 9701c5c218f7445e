//! `/portForward/…`: TCP connections into a Pod, for `kubectl port-forward`.
//!
//! The client speaks SPDY/3.1, inside of a WebSocket or plain. For each connection that it takes it opens two streams with the
//! same `requestid`: `error`, on which we say what went wrong, then `data`, which carries the bytes. Sockets are
//! made in the Pod's network namespace and meet its ports on the loopback interface.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use bytes::Bytes;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use super::Containers;
use super::server::{Answer, denied};
use super::spdy::{Connection, Stream};
use super::upgrade::{self, Agreed, Io};

const TUNNELED: &str = "SPDY/3.1+portforward.k8s.io";
const PLAIN: &str = "portforward.k8s.io";
const CHUNK: usize = 32 << 10;
/// Streams whose other half has not come.
const MAX_HALVES: usize = 100;

/// The Pod whose ports are asked for.
#[derive(Debug, Clone)]
struct Pod {
    name: String,
    /// None: the host's.
    netns: Option<PathBuf>,
}

pub(super) async fn answer<C: Containers>(
    containers: &C,
    (namespace, pod): (&str, &str),
    request: Request<Incoming>,
) -> Result<Answer, Answer> {
    let netns = containers.network(namespace, pod).await.map_err(|denial| denied(&denial))?;
    let pod = Pod { name: format!("{namespace}/{pod}"), netns };
    let agreed = upgrade::agree(request.headers(), &[TUNNELED], &[PLAIN])?;
    let (upgrade, answer) = upgrade::switch(request, &agreed)?;
    tokio::spawn(async move {
        let served = match upgrade.await {
            Ok(upgraded) => serve(TokioIo::new(upgraded), agreed, pod).await,
            Err(e) => Err(io::Error::other(e)),
        };
        if let Err(e) = served {
            tracing::debug!("forward ports: {e}");
        }
    });
    Ok(answer)
}

async fn serve(io: Io, agreed: Agreed, pod: Pod) -> io::Result<()> {
    let connection = match agreed {
        Agreed::WebSocket { .. } => {
            Connection::open(upgrade::tunnel(upgrade::websocket(io).await))?
        }
        Agreed::Spdy { .. } => Connection::open(io)?,
    };
    forward_all(connection, pod).await;
    Ok(())
}

/// Pair streams and serve each pair, until the client leaves.
async fn forward_all(mut connection: Connection, pod: Pod) {
    let mut halves: BTreeMap<String, Stream> = BTreeMap::new();
    let mut pairs = JoinSet::new();
    loop {
        let stream = tokio::select! {
            stream = connection.accept() => stream,
            Some(_) = pairs.join_next() => continue,
        };
        let Some(stream) = stream else { break };
        let id = stream.header("requestid").unwrap_or_default().to_owned();
        let is_error = match stream.header("streamtype") {
            Some("error") => true,
            Some("data") => false,
            _ => {
                stream.output.reset().await;
                continue;
            }
        };
        let (error, data) = match (is_error, halves.remove(&id)) {
            (true, Some(data)) => (stream, data),
            (false, Some(error)) => (error, stream),
            (_, None) => {
                if halves.len() < MAX_HALVES {
                    halves.insert(id, stream);
                } else {
                    stream.output.reset().await;
                }
                continue;
            }
        };
        pairs.spawn(pair(pod.clone(), error, data));
    }
    pairs.shutdown().await;
    connection.close().await;
}

/// One connection, from the client's two streams to a port of the Pod.
async fn pair(pod: Pod, error: Stream, mut data: Stream) {
    let result = match data.header("port").and_then(|port| port.parse().ok()) {
        None | Some(0) => Err("the stream's port is not a number from 1 to 65535".to_owned()),
        Some(port) => match dial(&pod, port).await {
            Ok(socket) => {
                copy(socket, &mut data).await;
                Ok(())
            }
            Err(e) => {
                let pod = &pod.name;
                Err(format!("error forwarding port {port} to pod {pod}: {e}"))
            }
        },
    };
    if let Err(message) = result {
        let _ = error.output.write(Bytes::from(message)).await;
    }
    data.output.finish().await;
    error.output.finish().await;
}

/// A connection to a port as the Pod's own processes would make one.
async fn dial(pod: &Pod, port: u16) -> io::Result<TcpStream> {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    let refused = match connect(pod, v4).await {
        Ok(stream) => return Ok(stream),
        Err(e) => e,
    };
    // The first refusal is the one that people expect to read.
    connect(pod, v6).await.map_err(|_| io::Error::other(format!("connect to {v4}: {refused}")))
}

async fn connect(pod: &Pod, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = match pod.netns.clone() {
        None if to.is_ipv4() => TcpSocket::new_v4()?,
        None => TcpSocket::new_v6()?,
        Some(netns) => {
            let make = move || kobune_netplugin::netns::tcp_socket(&netns, to.is_ipv6());
            let socket = tokio::task::spawn_blocking(make).await?.map_err(io::Error::other)?;
            TcpSocket::from_std_stream(socket.into())
        }
    };
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Both directions until the Pod's side has said everything, or the client does not listen any more.
async fn copy(mut socket: TcpStream, data: &mut Stream) {
    let (mut read, mut write) = socket.split();
    let Stream { input, output, .. } = data;
    let to_pod = async {
        while let Some(bytes) = input.recv().await {
            if write.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = write.shutdown().await;
        std::future::pending::<()>().await;
    };
    let to_client = async {
        let mut buffer = vec![0; CHUNK];
        while let Ok(n @ 1..) = read.read(&mut buffer).await {
            if output.write(Bytes::copy_from_slice(&buffer[..n])).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = to_pod => {}
        () = to_client => {}
        () = output.gone() => {}
    }
}
