//! Bytes of a stream cut into records of the CRI log format: `<time> stdout|stderr P|F <text>`. Pure.
//!
//! A line that is longer than [`MAX_TEXT`] becomes several records, all but the last marked P. What has no newline yet is
//! kept for a later call, never more than one record's worth.

use super::time::rfc3339;

/// Bytes of text in one record, as other runtimes have it.
pub(super) const MAX_TEXT: usize = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Cuts one stream.
#[derive(Debug)]
pub(super) struct Splitter {
    stream: Stream,
    /// Less than [`MAX_TEXT`] bytes without a newline.
    rest: Vec<u8>,
}

impl Splitter {
    pub(super) fn new(stream: Stream) -> Splitter {
        Splitter { stream, rest: Vec::new() }
    }

    /// Appends the records that `bytes`, read at `now`, complete.
    pub(super) fn push(&mut self, mut bytes: &[u8], now: i64, out: &mut Vec<u8>) {
        let time = rfc3339(now);
        while !bytes.is_empty() {
            let room = MAX_TEXT - self.rest.len();
            let window = &bytes[..bytes.len().min(room)];
            match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.record(&time, 'F', &window[..end], out);
                    bytes = &bytes[end + 1..];
                }
                None if window.len() == room && bytes.get(room) == Some(&b'\n') => {
                    // Exactly full: the line ends here.
                    self.record(&time, 'F', window, out);
                    bytes = &bytes[room + 1..];
                }
                None if window.len() == room && bytes.len() > room => {
                    self.record(&time, 'P', window, out);
                    bytes = &bytes[room..];
                }
                None if window.len() == room => {
                    // Full, and whether the line ends here is not known yet.
                    self.record(&time, 'P', window, out);
                    bytes = &[];
                }
                None => {
                    self.rest.extend_from_slice(window);
                    bytes = &[];
                }
            }
        }
    }

    /// Appends what is left when the stream has ended.
    pub(super) fn finish(&mut self, now: i64, out: &mut Vec<u8>) {
        if !self.rest.is_empty() {
            self.record(&rfc3339(now), 'F', &[], out);
        }
    }

    fn record(&mut self, time: &str, tag: char, text: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(time.as_bytes());
        out.extend_from_slice(format!(" {} {tag} ", self.stream.name()).as_bytes());
        out.append(&mut self.rest);
        out.extend_from_slice(text);
        out.push(b'\n');
        // A container that wrote one long line must not cost memory for ever.
        self.rest = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a reader of the log makes of it: lines, and an unfinished one if the last record is P.
    fn read(log: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for line in log.split_inclusive(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\n").expect("records end with a newline");
            let mut fields = line.splitn(4, |byte| *byte == b' ');
            let time = fields.next().unwrap();
            assert_eq!((time.len(), time.last()), (30, Some(&b'Z')));
            assert_eq!(fields.next(), Some(&b"stdout"[..]));
            let tag = fields.next().unwrap();
            let text = fields.next().unwrap();
            assert!(text.len() <= MAX_TEXT);
            out.extend_from_slice(text);
            match tag {
                b"F" => out.push(b'\n'),
                b"P" => {}
                other => panic!("tag {other:?}"),
            }
        }
        out
    }

    fn split(chunks: &[&[u8]]) -> Vec<u8> {
        let mut splitter = Splitter::new(Stream::Stdout);
        let mut out = Vec::new();
        for chunk in chunks {
            splitter.push(chunk, 0, &mut out);
            assert!(splitter.rest.len() < MAX_TEXT);
        }
        splitter.finish(0, &mut out);
        out
    }

    #[test]
    fn the_format() {
        let mut out = Vec::new();
        let mut splitter = Splitter::new(Stream::Stderr);
        splitter.push(b"one\ntw", 1_000_000_000, &mut out);
        splitter.push(b"o\n", 2_000_000_000, &mut out);
        let text = "1970-01-01T00:00:01.000000000Z stderr F one\n\
                    1970-01-01T00:00:02.000000000Z stderr F two\n";
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }

    #[test]
    fn a_line_of_exactly_one_record_is_one_record() {
        let mut line = vec![b'x'; MAX_TEXT];
        line.push(b'\n');
        let log = split(&[&line]);
        assert_eq!(log.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(read(&log), line);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_added(
            lines in prop::collection::vec((0usize..3 * MAX_TEXT, any::<u8>()), 0..5),
            cuts in prop::collection::vec(1usize..2 * MAX_TEXT, 1..20),
        ) {
            let mut bytes = Vec::new();
            for (length, byte) in lines {
                let byte = if byte == b'\n' { b'.' } else { byte };
                bytes.resize(bytes.len() + length, byte);
                bytes.push(b'\n');
            }
            let mut chunks = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (chunk, tail) = rest.split_at(rest.len().min(*cut));
                chunks.push(chunk);
                rest = tail;
            }
            prop_assert_eq!(read(&split(&chunks)), bytes);
        }

        #[test]
        fn an_unfinished_line_is_written_at_the_end(length in 0usize..2 * MAX_TEXT) {
            let bytes = vec![b'y'; length];
            let text = read(&split(&[&bytes]));
            prop_assert_eq!(text.strip_suffix(b"\n").unwrap_or(&text), &bytes[..]);
        }
    }
}
