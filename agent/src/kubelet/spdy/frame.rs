//! SPDY/3.1 frames: bytes to values and back. Pure, but for the compressor's memory of earlier headers.
//!
//! ```text
//! control   1 version(15) type(16) | flags(8) length(24) | payload
//! data      0 stream(31)           | flags(8) length(24) | payload
//! ```
//! Frames that kubectl's library neither sends nor obeys (settings, window updates) are read and mean nothing: the
//! TCP connection alone holds back who sends too fast.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use tokio_util::codec::{Decoder, Encoder};

use super::dictionary::DICTIONARY;

const VERSION: u16 = 3;
const HEAD: usize = 8;
const FIN: u8 = 1;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const STREAM_ID: u32 = 0x7fff_ffff;
/// Of a control frame's payload, and of the headers in it. A stream's headers are a few words.
const MAX_CONTROL: usize = 64 << 10;

pub(super) type HeaderList = Vec<(String, String)>;

/// One frame. Long data arrives in pieces, of which the last may be final.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Frame {
    SynStream {
        id: u32,
        fin: bool,
        headers: HeaderList,
    },
    SynReply {
        id: u32,
        fin: bool,
        headers: HeaderList,
    },
    Headers {
        id: u32,
        fin: bool,
        headers: HeaderList,
    },
    Rst {
        id: u32,
        status: u32,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last: u32,
    },
    Data {
        id: u32,
        fin: bool,
        data: Bytes,
    },
    /// Read, and without a meaning here.
    Other,
}

/// Both directions of one connection.
pub(super) struct Codec {
    inflate: Decompress,
    deflate: Compress,
    /// In the middle of a data frame: stream, bytes to come, final.
    data: Option<(u32, usize, bool)>,
}

impl Codec {
    pub(super) fn new() -> io::Result<Self> {
        let mut deflate = Compress::new(Compression::default(), true);
        deflate.set_dictionary(&DICTIONARY).map_err(io::Error::other)?;
        Ok(Self { inflate: Decompress::new(true), deflate, data: None })
    }

    fn piece(&mut self, source: &mut BytesMut) -> Option<Frame> {
        let (id, left, last) = self.data?;
        if source.is_empty() && left > 0 {
            return None;
        }
        let data = source.split_to(left.min(source.len())).freeze();
        let left = left - data.len();
        self.data = (left > 0).then_some((id, left, last));
        Some(Frame::Data { id, fin: last && left == 0, data })
    }

    fn control(&mut self, kind: u16, flags: u8, mut payload: Bytes) -> io::Result<Frame> {
        let fin = flags & FIN != 0;
        let mut number = || payload.try_get_u32().map_err(|_| bad("a control frame is too short"));
        Ok(match kind {
            SYN_STREAM => {
                let id = number()? & STREAM_ID;
                // The associated stream, priority and slot are of no interest.
                number()?;
                payload.try_get_u16().map_err(|_| bad("a control frame is too short"))?;
                Frame::SynStream { id, fin, headers: self.read_headers(&payload)? }
            }
            SYN_REPLY => {
                let id = number()? & STREAM_ID;
                Frame::SynReply { id, fin, headers: self.read_headers(&payload)? }
            }
            HEADERS => {
                let id = number()? & STREAM_ID;
                Frame::Headers { id, fin, headers: self.read_headers(&payload)? }
            }
            RST_STREAM => Frame::Rst { id: number()? & STREAM_ID, status: number()? },
            PING => Frame::Ping { id: number()? },
            GOAWAY => Frame::GoAway { last: number()? & STREAM_ID },
            _ => Frame::Other,
        })
    }

    fn read_headers(&mut self, block: &[u8]) -> io::Result<HeaderList> {
        parse_headers(self.inflate(block)?.into())
    }

    fn inflate(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(1024);
        let begin = self.inflate.total_in();
        loop {
            let read = usize::try_from(self.inflate.total_in() - begin).unwrap_or(usize::MAX);
            let rest = block.get(read..).unwrap_or_default();
            let before = out.len();
            match self.inflate.decompress_vec(rest, &mut out, FlushDecompress::Sync) {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate
                        .set_dictionary(&DICTIONARY)
                        .map_err(|_| bad("headers use another dictionary"))?;
                    continue;
                }
                Err(_) => return Err(bad("headers are not compressed as they must be")),
                Ok(_) => {}
            }
            if out.len() > MAX_CONTROL {
                return Err(bad("headers are too long"));
            }
            if out.len() == out.capacity() {
                out.reserve(out.len());
            } else if self.inflate.total_in() - begin == block.len() as u64 || out.len() == before {
                return Ok(out);
            }
        }
    }

    fn write_headers(&mut self, headers: &HeaderList) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        plain.put_u32(length(headers.len())?);
        for (name, value) in headers {
            for text in [name, value] {
                plain.put_u32(length(text.len())?);
                plain.put_slice(text.as_bytes());
            }
        }
        let begin = self.deflate.total_in();
        let mut out = Vec::with_capacity(plain.len() + 64);
        loop {
            let read = usize::try_from(self.deflate.total_in() - begin).unwrap_or(usize::MAX);
            let rest = plain.get(read..).unwrap_or_default();
            self.deflate
                .compress_vec(rest, &mut out, FlushCompress::Sync)
                .map_err(io::Error::other)?;
            if out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(out.len());
        }
    }
}

fn parse_headers(mut block: Bytes) -> io::Result<HeaderList> {
    let short = || bad("headers end too early");
    let count = block.try_get_u32().map_err(|_| short())?;
    let mut text = || {
        let length = block.try_get_u32().map_err(|_| short())? as usize;
        if length > block.len() {
            return Err(short());
        }
        String::from_utf8(block.split_to(length).to_vec()).map_err(|_| bad("headers are not UTF-8"))
    };
    // A count that lies ends with the block, not with our memory.
    (0..count).map(|_| Ok((text()?, text()?))).collect()
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("SPDY: {what}"))
}

fn length(length: usize) -> io::Result<u32> {
    u32::try_from(length).ok().filter(|length| *length < 1 << 24).ok_or_else(|| bad("too long"))
}

impl Decoder for Codec {
    type Item = Frame;
    type Error = io::Error;

    fn decode(&mut self, source: &mut BytesMut) -> io::Result<Option<Frame>> {
        if self.data.is_some() {
            return Ok(self.piece(source));
        }
        let Some(mut head) = source.get(..HEAD) else { return Ok(None) };
        let (first, second) = (head.get_u32(), head.get_u32());
        let (flags, length) = ((second >> 24) as u8, (second & 0xff_ffff) as usize);
        if first & !STREAM_ID == 0 {
            source.advance(HEAD);
            self.data = Some((first, length, flags & FIN != 0));
            return Ok(self.piece(source));
        }
        if (first >> 16) as u16 & 0x7fff != VERSION {
            return Err(bad("not version 3"));
        }
        if length > MAX_CONTROL {
            return Err(bad("a control frame is too long"));
        }
        if source.len() < HEAD + length {
            return Ok(None);
        }
        source.advance(HEAD);
        let payload = source.split_to(length).freeze();
        self.control(first as u16, flags, payload).map(Some)
    }
}

impl Encoder<Frame> for Codec {
    type Error = io::Error;

    fn encode(&mut self, frame: Frame, out: &mut BytesMut) -> io::Result<()> {
        let (kind, fin, payload) = match frame {
            Frame::Data { id, fin, data } => {
                out.put_u32(id & STREAM_ID);
                out.put_u32(u32::from(fin) << 24 | length(data.len())?);
                out.put_slice(&data);
                return Ok(());
            }
            Frame::SynStream { id, fin, headers } => {
                let mut payload = [&id.to_be_bytes()[..], &[0; 6]].concat();
                payload.extend(self.write_headers(&headers)?);
                (SYN_STREAM, fin, payload)
            }
            Frame::SynReply { id, fin, headers } => {
                (SYN_REPLY, fin, [&id.to_be_bytes()[..], &self.write_headers(&headers)?].concat())
            }
            Frame::Headers { id, fin, headers } => {
                (HEADERS, fin, [&id.to_be_bytes()[..], &self.write_headers(&headers)?].concat())
            }
            Frame::Rst { id, status } => {
                (RST_STREAM, false, [id.to_be_bytes(), status.to_be_bytes()].concat())
            }
            Frame::Ping { id } => (PING, false, id.to_be_bytes().to_vec()),
            Frame::GoAway { last } => (GOAWAY, false, [last.to_be_bytes(), [0; 4]].concat()),
            Frame::Other => return Ok(()),
        };
        out.put_u16(0x8000 | VERSION);
        out.put_u16(kind);
        out.put_u32(u32::from(fin) << 24 | length(payload.len())?);
        out.put_slice(&payload);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn headers() -> impl Strategy<Value = HeaderList> {
        vec(("[a-z-]{1,20}", "\\PC{0,40}"), 0..6)
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let id = 1..=STREAM_ID;
        prop_oneof![
            (id.clone(), any::<bool>(), headers())
                .prop_map(|(id, fin, headers)| Frame::SynStream { id, fin, headers }),
            (id.clone(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::SynReply {
                id,
                fin,
                headers
            }),
            (id.clone(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::Headers {
                id,
                fin,
                headers
            }),
            (id.clone(), any::<u32>()).prop_map(|(id, status)| Frame::Rst { id, status }),
            any::<u32>().prop_map(|id| Frame::Ping { id }),
            id.clone().prop_map(|last| Frame::GoAway { last }),
            (id, any::<bool>(), vec(any::<u8>(), 0..300)).prop_map(|(id, fin, data)| Frame::Data {
                id,
                fin,
                data: data.into()
            }),
        ]
    }

    /// Decode what arrives in pieces; pieces of data are put together again.
    fn read(bytes: &[u8], piece: usize) -> io::Result<Vec<Frame>> {
        let (mut codec, mut buffer, mut frames) = (Codec::new()?, BytesMut::new(), Vec::new());
        let mut open = false;
        for piece in bytes.chunks(piece) {
            buffer.extend_from_slice(piece);
            while let Some(frame) = codec.decode(&mut buffer)? {
                match (frame, frames.last_mut()) {
                    (
                        Frame::Data { fin, data, .. },
                        Some(Frame::Data { fin: end, data: all, .. }),
                    ) if open => {
                        *all = [&all[..], &data].concat().into();
                        *end = fin;
                    }
                    (frame, _) => frames.push(frame),
                }
                open = codec.data.is_some();
            }
        }
        Ok(frames)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_whatever_the_pieces(frames in vec(frame(), 0..12), piece in 1usize..400) {
            let (mut codec, mut bytes) = (Codec::new().unwrap(), BytesMut::new());
            for frame in &frames {
                codec.encode(frame.clone(), &mut bytes).unwrap();
            }
            prop_assert_eq!(read(&bytes, piece).unwrap(), frames);
        }

        #[test]
        fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..200), kind in 0u16..12) {
            let _ = read(&bytes, 64);
            let mut control = vec![0x80, 3];
            control.extend(kind.to_be_bytes());
            control.extend((bytes.len() as u32).to_be_bytes());
            control.extend(&bytes);
            let _ = read(&control, 64);
        }
    }

    #[test]
    fn headers_begin_as_those_of_other_implementations() {
        let (mut codec, mut bytes) = (Codec::new().unwrap(), BytesMut::new());
        codec
            .encode(Frame::SynReply { id: 1, fin: false, headers: Vec::new() }, &mut bytes)
            .unwrap();
        assert_eq!(bytes[..8], [0x80, 3, 0, 2, 0, 0, 0, (bytes.len() - 8) as u8]);
        // The dictionary's checksum behind the two bytes of zlib.
        assert_eq!(bytes[14..18], [0xe3, 0xc6, 0xa7, 0xc2]);
    }

    #[test]
    fn headers_that_grow_without_end_are_refused() {
        let (mut codec, mut bytes) = (Codec::new().unwrap(), BytesMut::new());
        let headers = vec![("bomb".to_owned(), "0".repeat(4 << 20))];
        codec.encode(Frame::SynStream { id: 1, fin: false, headers }, &mut bytes).unwrap();
        assert!(bytes.len() < MAX_CONTROL, "{} bytes", bytes.len());
        assert!(read(&bytes, 4096).unwrap_err().to_string().contains("too long"));
    }

    #[test]
    fn other_versions_and_lying_lengths_are_refused() {
        assert!(read(&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1], 100).is_err());
        assert!(read(&[0x80, 3, 0, 6, 0, 0xff, 0xff, 0xff], 100).is_err());
        assert!(read(&[0x80, 3, 0, 3, 0, 0, 0, 2, 0, 1], 100).is_err());
        assert!(parse_headers(Bytes::from_static(&[0xff; 12])).is_err());
    }
}
