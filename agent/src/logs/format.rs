//! From lines to what was asked for. Pure: keeps only what one answer needs to remember.

use super::{LogOptions, Stream, line};

/// Shapes the lines of one answer.
#[derive(Debug)]
pub(super) struct Formatter {
    options: LogOptions,
    left: u64,
    /// Streams in the middle of a line: what comes next gets no time.
    open: Vec<Stream>,
}

impl Formatter {
    pub(super) fn new(options: LogOptions) -> Self {
        Self { left: options.limit.unwrap_or(u64::MAX), options, open: Vec::new() }
    }

    /// All that may be said has been said.
    pub(super) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Take one line of the file, give what it adds to the answer.
    pub(super) fn push(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        let Some(line) = line::parse(raw) else { return };
        if self.options.only.is_some_and(|only| only != line.stream) {
            return;
        }
        if let Some(since) = self.options.since
            && line.time.parse::<jiff::Timestamp>().is_ok_and(|time| time < since)
        {
            return;
        }
        let goes_on = self.open.contains(&line.stream);
        if self.options.timestamps && !goes_on {
            self.put(line.time.as_bytes(), out);
            self.put(b" ", out);
        }
        self.put(line.text, out);
        self.open.retain(|stream| *stream != line.stream);
        if line.partial {
            self.open.push(line.stream);
        } else {
            self.put(b"\n", out);
        }
    }

    fn put(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let fits = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        out.extend_from_slice(&bytes[..fits]);
        self.left -= fits as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &[&str] = &[
        "2026-01-01T00:00:01Z stdout F one",
        "2026-01-01T00:00:02Z stdout P tw",
        "2026-01-01T00:00:03Z stdout F o",
        "cut in the mid",
        "2026-01-01T00:00:04Z stderr F three",
    ];

    fn show(options: LogOptions) -> String {
        let mut formatter = Formatter::new(options);
        let mut out = Vec::new();
        LOG.iter().for_each(|line| formatter.push(line.as_bytes(), &mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn partial_lines_are_joined() {
        assert_eq!(show(LogOptions::default()), "one\ntwo\nthree\n");
    }

    #[test]
    fn times_stand_at_the_beginning_of_lines_only() {
        let text = show(LogOptions { timestamps: true, ..LogOptions::default() });
        assert_eq!(
            text,
            "2026-01-01T00:00:01Z one\n2026-01-01T00:00:02Z two\n2026-01-01T00:00:04Z three\n"
        );
    }

    #[test]
    fn since_and_stream_and_limit() {
        let since = "2026-01-01T00:00:04Z".parse().ok();
        assert_eq!(show(LogOptions { since, ..LogOptions::default() }), "three\n");
        let only = Some(Stream::Stdout);
        assert_eq!(show(LogOptions { only, ..LogOptions::default() }), "one\ntwo\n");
        assert_eq!(show(LogOptions { limit: Some(6), ..LogOptions::default() }), "one\ntw");
    }
}
