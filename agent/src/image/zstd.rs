//! Layers compressed with zstd: every frame of a stream, one after the other (RFC 8878).
//!
//! The decoder reads single frames; `zstd:chunked` layers have many, with frames to skip among them. Memory: one window.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// What the highest level of the usual compressors wants (`zstd --ultra -22`).
const MAX_WINDOW: u64 = 128 << 20;

pub(super) struct Frames<R> {
    source: R,
    decoder: FrameDecoder,
    inside: bool,
}

impl<R: BufRead> Frames<R> {
    pub(super) fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW);
        Self { source, decoder, inside: false }
    }

    /// To the next frame with content; false at the end of the stream.
    fn enter(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            use ReadFrameHeaderError::SkipFrame;
            match self.decoder.init(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(SkipFrame { length, .. })) => {
                    let wanted = u64::from(length);
                    let skipped = io::copy(&mut (&mut self.source).take(wanted), &mut io::sink())?;
                    if skipped < wanted {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.inside {
                self.inside = self.enter()?;
                if !self.inside {
                    return Ok(0);
                }
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.source, one).map_err(io::Error::other)?;
            }
            match self.decoder.read(buf)? {
                0 => self.inside = false,
                n => return Ok(n),
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A frame of one raw block (RFC 8878, 3.1.1): single segment, one byte of size.
    pub(in super::super) fn frame(data: &[u8]) -> Vec<u8> {
        let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, u8::try_from(data.len()).unwrap()];
        let header = 1 | (u32::try_from(data.len()).unwrap() << 3);
        out.extend(&header.to_le_bytes()[..3]);
        out.extend(data);
        out
    }

    fn skippable(data: &[u8]) -> Vec<u8> {
        let mut out = 0x184D_2A50_u32.to_le_bytes().to_vec();
        out.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        out.extend(data);
        out
    }

    fn decode(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Frames::new(bytes).read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn all_frames_and_none_of_the_skippable_ones() {
        let stream =
            [frame(b"small "), skippable(b"table of contents"), frame(b"boat"), skippable(b"")];
        assert_eq!(decode(&stream.concat()).unwrap(), b"small boat");
        assert_eq!(decode(b"").unwrap(), b"");
    }

    #[test]
    fn what_is_cut_or_no_zstd_fails() {
        let whole = [frame(b"small "), skippable(b"table")].concat();
        for cut in [3, 8, 12, whole.len() - 1] {
            assert!(decode(&whole[..cut]).is_err(), "cut at {cut}");
        }
        assert!(decode(b"not zstd at all").is_err());
    }
}
