//! The far end of exec, whichever protocol it speaks: what it says, and what it is told.
//!
//! WebSocket: channels in messages (`channels`). SPDY: a stream for each of error, stdin, stdout, stderr and resize; the client
//! opens those that its query names, and resize when there is a terminal.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::channels::{self, Input, STDERR, STDOUT};
use super::spdy::{Connection, Stream};
use super::upgrade::{self, Agreed, Io, Socket};

/// To open the streams of a SPDY client.
const STREAMS: Duration = Duration::from_secs(30);
/// For the client's own good-bye.
const FAREWELL: Duration = Duration::from_secs(2);

/// Which streams the client asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

/// What the client says.
pub(super) enum Source {
    WebSocket(SplitStream<Socket>),
    Spdy(Said),
}

pub(super) struct Said {
    stdin: Option<Stream>,
    resize: Option<Stream>,
    /// Sizes that have not come completely.
    sizes: BytesMut,
    left: CancellationToken,
}

/// What the client is told.
pub(super) enum Sink {
    WebSocket(Mutex<SplitSink<Socket, Message>>),
    Spdy(Box<Told>),
}

pub(super) struct Told {
    connection: Connection,
    error: Stream,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
}

/// Both ends of a connection whose protocol was agreed on.
pub(super) async fn open(io: Io, agreed: Agreed, wanted: Wanted) -> io::Result<(Source, Sink)> {
    match agreed {
        Agreed::WebSocket { .. } => {
            let (out, inp) = upgrade::websocket(io).await.split();
            Ok((Source::WebSocket(inp), Sink::WebSocket(Mutex::new(out))))
        }
        Agreed::Spdy { .. } => {
            let opening = streams(Connection::open(io)?, wanted);
            let late = || io::Error::new(io::ErrorKind::TimedOut, "the client opened no streams");
            tokio::time::timeout(STREAMS, opening).await.map_err(|_| late())?
        }
    }
}

async fn streams(mut connection: Connection, wanted: Wanted) -> io::Result<(Source, Sink)> {
    let names = [
        (true, "error"),
        (wanted.stdin, "stdin"),
        (wanted.stdout, "stdout"),
        (wanted.stderr, "stderr"),
        (wanted.tty, "resize"),
    ];
    let mut found: [Option<Stream>; 5] = Default::default();
    while names.iter().zip(&found).any(|((wanted, _), stream)| *wanted && stream.is_none()) {
        let stream = connection.accept().await.ok_or(io::ErrorKind::UnexpectedEof)?;
        let kind = stream.header("streamtype").unwrap_or_default().to_ascii_lowercase();
        match names.iter().position(|(wanted, name)| *wanted && *name == kind) {
            Some(at) => found[at] = Some(stream),
            None => stream.output.reset().await,
        }
    }
    let [error, stdin, stdout, stderr, resize] = found;
    let error = error.ok_or(io::ErrorKind::UnexpectedEof)?;
    let left = connection.left();
    let said = Said { stdin, resize, sizes: BytesMut::new(), left };
    let told = Told { connection, error, stdout, stderr };
    Ok((Source::Spdy(said), Sink::Spdy(Box::new(told))))
}

impl Source {
    /// The next thing that the client says; none when it has left.
    pub(super) async fn next(&mut self) -> Option<Input> {
        match self {
            Source::WebSocket(socket) => loop {
                if let Message::Binary(bytes) = socket.next().await?.ok()? {
                    return Some(channels::decode(&bytes));
                }
            },
            Source::Spdy(said) => said.next().await,
        }
    }
}

impl Said {
    async fn next(&mut self) -> Option<Input> {
        if let Some(size) = self.size() {
            return Some(size);
        }
        tokio::select! {
            biased;
            data = read(&mut self.stdin) => Some(data.map_or(Input::CloseStdin, Input::Stdin)),
            data = read(&mut self.resize) => {
                self.sizes.extend_from_slice(&data.unwrap_or_default());
                Some(self.size().unwrap_or(Input::Nothing))
            }
            () = self.left.cancelled() => None,
        }
    }

    /// Sizes are JSON objects, one to a line.
    fn size(&mut self) -> Option<Input> {
        let end = self.sizes.iter().position(|byte| *byte == b'\n' || *byte == b'}')?;
        let line = self.sizes.split_to(end + 1).freeze();
        Some(channels::size(&line))
    }
}

/// What comes next on a stream; none once, at its end, and then never again.
async fn read(stream: &mut Option<Stream>) -> Option<Bytes> {
    let Some(open) = stream else { return std::future::pending().await };
    let data = open.input.recv().await;
    if data.is_none() {
        *stream = None;
    }
    data
}

impl Sink {
    /// Output of the process; an error when the client does not take it any more.
    pub(super) async fn write(&self, channel: u8, data: &[u8]) -> Result<(), ()> {
        match self {
            Sink::WebSocket(socket) => {
                let message = Message::Binary(channels::encode(channel, data));
                socket.lock().await.send(message).await.map_err(|_| ())
            }
            Sink::Spdy(told) => {
                let stream = match channel {
                    STDOUT => told.stdout.as_ref(),
                    STDERR => told.stderr.as_ref(),
                    _ => None,
                };
                let stream = stream.ok_or(())?;
                stream.output.write(Bytes::copy_from_slice(data)).await.map_err(|_| ())
            }
        }
    }

    /// The last word and a proper end.
    pub(super) async fn end(self, mut source: Source, status: &Value) {
        match self {
            Sink::WebSocket(socket) => {
                let mut socket = socket.into_inner();
                let _ = socket.send(Message::Binary(channels::last(status))).await;
                let _ = socket.send(upgrade::goodbye()).await;
                // The client's own Close, so that nothing of ours is lost to a reset.
                let rest = async { while source.next().await.is_some() {} };
                let _ = tokio::time::timeout(FAREWELL, rest).await;
            }
            Sink::Spdy(told) => {
                let Told { connection, error, stdout, stderr } = *told;
                let mut last = channels::last(status);
                last.advance(1);
                let _ = error.output.write(last).await;
                for stream in [Some(error), stdout, stderr].into_iter().flatten() {
                    stream.output.finish().await;
                }
                connection.close().await;
            }
        }
    }
}
