//! From an HTTP request to a connection in another protocol: WebSocket or SPDY/3.1.

use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use futures::{SinkExt, StreamExt};

use super::server::{Answer, text};

/// In which SPDY clients offer protocols.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// Read at a time from a connection.
const CHUNK: usize = 32 << 10;

pub(super) type Io = TokioIo<Upgraded>;
pub(super) type Socket = WebSocketStream<Io>;

/// What both sides speak after the upgrade.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Agreed {
    WebSocket { key: String, protocol: &'static str },
    Spdy { protocol: &'static str },
}

/// The newest protocol (ours are given newest first) that the client offers and we speak.
#[allow(clippy::result_large_err, reason = "the error is the answer")]
pub(super) fn agree(
    headers: &HeaderMap,
    websocket: &[&'static str],
    spdy: &[&'static str],
) -> Result<Agreed, Answer> {
    let value = |name| headers.get(name).and_then(|v: &http::HeaderValue| v.to_str().ok());
    let upgrade = value(UPGRADE).unwrap_or_default();
    if upgrade.eq_ignore_ascii_case("SPDY/3.1") {
        let protocol = choose(headers, &STREAM_PROTOCOL, spdy)?;
        return Ok(Agreed::Spdy { protocol });
    }
    let key = value(SEC_WEBSOCKET_KEY);
    match (upgrade.eq_ignore_ascii_case("websocket"), key) {
        (true, Some(key)) => {
            let protocol = choose(headers, &SEC_WEBSOCKET_PROTOCOL, websocket)?;
            Ok(Agreed::WebSocket { key: key.to_owned(), protocol })
        }
        _ => {
            let message = "an upgrade to WebSocket or SPDY/3.1 is needed";
            Err(text(StatusCode::BAD_REQUEST, message))
        }
    }
}

#[allow(clippy::result_large_err, reason = "the error is the answer")]
fn choose(
    headers: &HeaderMap,
    name: &HeaderName,
    ours: &[&'static str],
) -> Result<&'static str, Answer> {
    let offers = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let offered: Vec<&str> = offers.flat_map(|list| list.split(',')).map(str::trim).collect();
    ours.iter().copied().find(|ours| offered.contains(ours)).ok_or_else(|| {
        let message = format!("no protocol in {name} is spoken here, only {}", ours.join(", "));
        text(StatusCode::FORBIDDEN, &message)
    })
}

/// The answer that switches, and the connection that there will be once it is sent.
#[allow(clippy::result_large_err, reason = "the error is the answer")]
pub(super) fn switch(
    request: Request<Incoming>,
    agreed: &Agreed,
) -> Result<(OnUpgrade, Answer), Answer> {
    let answer =
        Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).header(CONNECTION, "Upgrade");
    let answer = match agreed {
        Agreed::WebSocket { key, protocol } => answer
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()))
            .header(SEC_WEBSOCKET_PROTOCOL, *protocol),
        Agreed::Spdy { protocol } => {
            answer.header(UPGRADE, "SPDY/3.1").header(STREAM_PROTOCOL, *protocol)
        }
    };
    let answer = answer
        .body(Empty::new().boxed_unsync())
        .map_err(|e| text(StatusCode::BAD_REQUEST, &e.to_string()))?;
    Ok((hyper::upgrade::on(request), answer))
}

/// A connection that speaks WebSocket from now on.
pub(super) async fn websocket(io: Io) -> Socket {
    WebSocketStream::from_raw_socket(io, Role::Server, None).await
}

/// A proper end; clients take a Close without a code for a broken connection.
pub(super) fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() }))
}

/// The bytes inside a WebSocket's messages, as one stream in each direction.
pub(super) fn tunnel(socket: Socket) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(CHUNK);
    tokio::spawn(async move {
        let (mut out, mut inp) = socket.split();
        let (mut read, mut write) = tokio::io::split(theirs);
        let receive = async {
            while let Some(Ok(message)) = inp.next().await {
                if let Message::Binary(data) = message
                    && write.write_all(&data).await.is_err()
                {
                    break;
                }
            }
            let _ = write.shutdown().await;
        };
        let send = async {
            let mut buffer = vec![0; CHUNK];
            while let Ok(n @ 1..) = read.read(&mut buffer).await {
                let message = Message::Binary(buffer[..n].to_vec().into());
                if out.send(message).await.is_err() {
                    break;
                }
            }
            let _ = out.send(goodbye()).await;
        };
        tokio::join!(receive, send);
    });
    ours
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let parse = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), http::HeaderValue::from_static(value))
        };
        pairs.iter().map(parse).collect()
    }

    #[test]
    fn the_newest_common_protocol_is_agreed_on() {
        let agreed = |pairs: &[_]| {
            agree(&headers(pairs), &["v5", "v4"], &["s4"])
                .map_err(|refusal| refusal.status().as_u16())
        };
        let (upgrade, key) = (("upgrade", "WebSocket"), ("sec-websocket-key", "x"));
        let good = [upgrade, key, ("sec-websocket-protocol", "v4, v5")];
        let five = Agreed::WebSocket { key: "x".into(), protocol: "v5" };
        assert_eq!(agreed(&good), Ok(five));
        assert_eq!(agreed(&[upgrade, key, ("sec-websocket-protocol", "v3")]), Err(403));
        assert_eq!(agreed(&good[..2]), Err(403));
        assert_eq!(agreed(&[upgrade]), Err(400));
        assert_eq!(agreed(&[]), Err(400));
        let spdy = ("upgrade", "SPDY/3.1");
        let lines =
            [spdy, ("x-stream-protocol-version", "s5"), ("x-stream-protocol-version", "s4")];
        assert_eq!(agreed(&lines), Ok(Agreed::Spdy { protocol: "s4" }));
        assert_eq!(agreed(&lines[..2]), Err(403));
    }
}
