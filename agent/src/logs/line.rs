//! One line of a CRI log: `<RFC 3339 time> <stdout|stderr> <P|F>[:…] <text>`. Pure.

use jiff::Timestamp;

use super::Stream;

/// A line, its newline removed.
#[derive(Debug, PartialEq)]
pub(super) struct Line<'a> {
    /// As written.
    pub(super) time: &'a str,
    pub(super) stream: Stream,
    /// The container wrote no newline here: the text goes on in the next line of the same stream.
    pub(super) partial: bool,
    pub(super) text: &'a [u8],
}

/// Read one line; none if it is not one (a crash may have cut it).
pub(super) fn parse(raw: &[u8]) -> Option<Line<'_>> {
    let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
    let mut parts = raw.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = match parts.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    // Tags are joined by colons; the first says whether the line is whole.
    let partial = match parts.next()?.split(|b| *b == b':').next()? {
        b"P" => true,
        b"F" => false,
        _ => return None,
    };
    Some(Line { time, stream, partial, text: parts.next().unwrap_or(b"") })
}

/// When a line was written.
pub(super) fn time(raw: &[u8]) -> Option<Timestamp> {
    parse(raw)?.time.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_the_cri_says() {
        let line = parse(b"2026-01-02T03:04:05.000000006Z stderr F a b  c\n").unwrap();
        assert_eq!(line.time, "2026-01-02T03:04:05.000000006Z");
        assert_eq!((line.stream, line.partial, line.text), (Stream::Stderr, false, &b"a b  c"[..]));
        assert!(parse(b"2026-01-02T03:04:05Z stdout P:x y").unwrap().partial);
        assert_eq!(parse(b"2026-01-02T03:04:05Z stdout F ").unwrap().text, b"");
        assert_eq!(parse(b"2026-01-02T03:04:05Z stdout F").unwrap().text, b"");
    }

    #[test]
    fn rubbish_is_no_line() {
        for raw in [&b""[..], b"\n", b"time", b"t stdin F x", b"t stdout X x", b"\xff stdout F x"] {
            assert_eq!(parse(raw), None, "{raw:?}");
        }
        assert_eq!(time(b"yesterday stdout F x"), None);
    }
}
