//! SPDY/3.1 as kubectl's library speaks it: several streams over one connection, the client opens them.
//!
//! `frame` is the codec (pure); here are two tasks per connection, one reads and one writes. Never knows what streams
//! are for. A stream that nobody reads holds the whole connection back, as a full socket does.

mod dictionary;
mod frame;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_util::codec::{FramedRead, FramedWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use frame::{Codec, Frame};

/// Frames that wait, in each direction.
const QUEUE: usize = 16;
const MAX_STREAMS: usize = 2000;
/// What the client gets to close its side.
const FAREWELL: Duration = Duration::from_secs(2);
const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 3;
const CANCEL: u32 = 5;

/// A connection with a client that opens streams.
pub(super) struct Connection {
    incoming: mpsc::Receiver<Stream>,
    out: mpsc::Sender<Frame>,
    reader: AbortOnDropHandle<()>,
    left: CancellationToken,
}

/// One stream: its headers, what comes in, and a way back.
pub(super) struct Stream {
    headers: Vec<(String, String)>,
    pub(super) input: mpsc::Receiver<Bytes>,
    pub(super) output: Writer,
}

/// The way back of a stream; the stream is over when it is dropped.
pub(super) struct Writer {
    id: u32,
    out: mpsc::Sender<Frame>,
    /// The client does not want to hear more.
    reset: CancellationToken,
}

impl Connection {
    /// Speak SPDY on an established connection.
    pub(super) fn open(io: impl AsyncRead + AsyncWrite + Send + 'static) -> io::Result<Self> {
        let (read, write) = tokio::io::split(io);
        let (out, frames) = mpsc::channel(QUEUE);
        let (streams, incoming) = mpsc::channel(QUEUE);
        let (source, sink) =
            (FramedRead::new(read, Codec::new()?), FramedWrite::new(write, Codec::new()?));
        tokio::spawn(write_frames(sink, frames));
        let reader = Reader { streams, out: out.clone(), open: BTreeMap::new(), last: 0 };
        let left = CancellationToken::new();
        let leaving = left.clone().drop_guard();
        let reader = AbortOnDropHandle::new(tokio::spawn(async move {
            let _leaving = leaving;
            reader.run(source).await;
        }));
        Ok(Self { incoming, out, reader, left })
    }

    /// The next stream that the client opens; none when it has left.
    pub(super) async fn accept(&mut self) -> Option<Stream> {
        self.incoming.recv().await
    }

    /// Cancelled when nothing more comes from the client.
    pub(super) fn left(&self) -> CancellationToken {
        self.left.clone()
    }

    /// Say good-bye behind everything written before, and give the client a moment to leave.
    pub(super) async fn close(self) {
        let Self { incoming, out, reader, .. } = self;
        drop(incoming);
        let _ = out.send(Frame::GoAway { last: 0 }).await;
        drop(out);
        let _ = tokio::time::timeout(FAREWELL, reader).await;
    }
}

impl Stream {
    /// A header's value; names are written in any case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

impl Writer {
    /// Bytes to the client; an error when nobody takes them any more.
    pub(super) async fn write(&self, data: Bytes) -> io::Result<()> {
        if self.reset.is_cancelled() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        self.send(Frame::Data { id: self.id, fin: false, data }).await
    }

    /// Nothing more comes.
    pub(super) async fn finish(&self) {
        if !self.reset.is_cancelled() {
            let _ = self.send(Frame::Data { id: self.id, fin: true, data: Bytes::new() }).await;
        }
    }

    /// Give the stream up in both directions.
    pub(super) async fn reset(&self) {
        let _ = self.send(Frame::Rst { id: self.id, status: CANCEL }).await;
        self.reset.cancel();
    }

    /// Until the client has given the stream up, or has left.
    pub(super) async fn gone(&self) {
        self.reset.cancelled().await;
    }

    async fn send(&self, frame: Frame) -> io::Result<()> {
        self.out.send(frame).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.reset.cancel();
    }
}

async fn write_frames<W: AsyncWrite>(
    mut sink: FramedWrite<WriteHalf<W>, Codec>,
    mut frames: mpsc::Receiver<Frame>,
) {
    while let Some(frame) = frames.recv().await {
        let last = matches!(frame, Frame::GoAway { .. });
        // What waits already goes out together.
        let sent = match frames.is_empty() {
            true => sink.send(frame).await,
            false => sink.feed(frame).await,
        };
        if sent.is_err() || last {
            break;
        }
    }
    let _ = sink.close().await;
}

/// What reads, and knows which streams are open.
struct Reader {
    streams: mpsc::Sender<Stream>,
    out: mpsc::Sender<Frame>,
    open: BTreeMap<u32, Open>,
    last: u32,
}

struct Open {
    /// None after the client's last word.
    input: Option<mpsc::Sender<Bytes>>,
    reset: CancellationToken,
}

impl Reader {
    async fn run<R: AsyncRead>(mut self, mut source: FramedRead<ReadHalf<R>, Codec>) {
        loop {
            match source.next().await {
                Some(Ok(frame)) => self.take(frame).await,
                Some(Err(error)) => break tracing::debug!("read SPDY frames: {error}"),
                None => break,
            }
        }
        self.open.values().for_each(|stream| stream.reset.cancel());
    }

    async fn take(&mut self, frame: Frame) {
        match frame {
            Frame::SynStream { id, fin, headers } => self.begin(id, fin, headers).await,
            Frame::Data { id, fin, data } => self.data(id, fin, data).await,
            Frame::SynReply { id, fin, .. } | Frame::Headers { id, fin, .. } => {
                self.data(id, fin, Bytes::new()).await;
            }
            Frame::Rst { id, .. } => {
                if let Some(stream) = self.open.remove(&id) {
                    stream.reset.cancel();
                }
            }
            // Even numbers would be answers to our own, of which there are none.
            Frame::Ping { id } if !id.is_multiple_of(2) => self.send(Frame::Ping { id }).await,
            Frame::Ping { .. } | Frame::GoAway { .. } | Frame::Other => {}
        }
    }

    async fn begin(&mut self, id: u32, fin: bool, headers: Vec<(String, String)>) {
        if id.is_multiple_of(2) || id <= self.last {
            return self.send(Frame::Rst { id, status: PROTOCOL_ERROR }).await;
        }
        self.last = id;
        self.forget_ended();
        if self.open.len() >= MAX_STREAMS {
            return self.send(Frame::Rst { id, status: REFUSED_STREAM }).await;
        }
        let (sender, input) = mpsc::channel(QUEUE);
        let reset = CancellationToken::new();
        let output = Writer { id, out: self.out.clone(), reset: reset.clone() };
        self.open.insert(id, Open { input: (!fin).then_some(sender), reset });
        self.send(Frame::SynReply { id, fin: false, headers: Vec::new() }).await;
        if self.streams.send(Stream { headers, input, output }).await.is_err() {
            self.open.remove(&id);
            self.send(Frame::Rst { id, status: REFUSED_STREAM }).await;
        }
    }

    async fn data(&mut self, id: u32, fin: bool, data: Bytes) {
        let Some(stream) = self.open.get_mut(&id) else { return };
        if let Some(input) = &stream.input
            && !data.is_empty()
            && input.send(data).await.is_err()
        {
            // Nobody reads it any more; its writer may live on.
            stream.input = None;
        }
        if fin {
            stream.input = None;
        }
    }

    fn forget_ended(&mut self) {
        self.open.retain(|_, stream| !stream.reset.is_cancelled());
    }

    async fn send(&self, frame: Frame) {
        let _ = self.out.send(frame).await;
    }
}
