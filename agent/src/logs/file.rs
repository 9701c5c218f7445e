//! The file: where to begin in it, what is new in it, and whether its name now means another file.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use nix::fcntl::OFlag;

use super::{LogOptions, line};

/// Bytes read at a time.
const CHUNK: usize = 64 << 10;
/// A line is never longer than what the runtime splits at, by far; more is damage.
const MAX_LINE: usize = 4 << 20;

/// A log that is being read, from a place on.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    offset: u64,
    /// A line whose end has not been written yet.
    rest: Vec<u8>,
}

impl LogFile {
    /// Open the log where what is wanted begins.
    pub(super) fn open(path: &Path, options: &LogOptions) -> io::Result<Self> {
        let file = open(path)?;
        let len = file.metadata()?.len();
        let since = options.since.map_or(Ok(0), |since| first_since(&file, len, since))?;
        let tail = options.tail.map_or(Ok(0), |lines| last_lines(&file, len, lines))?;
        Ok(Self { path: path.to_owned(), file, offset: since.max(tail), rest: Vec::new() })
    }

    /// Hand every whole line that is there to `take`, at most about one chunk; says whether there were bytes.
    pub(super) fn read(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<bool> {
        let mut chunk = vec![0; CHUNK];
        let n = self.file.read_at(&mut chunk, self.offset)?;
        self.offset += n as u64;
        self.rest.extend_from_slice(&chunk[..n]);
        let whole = self.rest.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        self.rest[..whole].split_inclusive(|b| *b == b'\n').for_each(&mut take);
        self.rest.drain(..whole);
        if self.rest.len() > MAX_LINE {
            self.rest.clear();
        }
        Ok(n > 0)
    }

    /// Go over to the file that has the name now, if that is another one. Call it when there was nothing
    /// more to read; says whether there may be something now.
    pub(super) fn reopen(&mut self) -> io::Result<bool> {
        let new = match open(&self.path) {
            Ok(file) => file,
            // Between the two renames of a rotation, or for good.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        let id = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino()));
        if id(&new)? == id(&self.file)? {
            return Ok(false);
        }
        // Written between our last read and the rotation.
        if self.file.metadata()?.len() > self.offset {
            return Ok(true);
        }
        (self.file, self.offset) = (new, 0);
        self.rest.clear();
        Ok(true)
    }
}

/// A Pod that has the host's logs as a volume could put anything in their place (CVE-2021-25741 and its kind): a link would
/// show a file of the host to whoever may read logs, a fifo would never be opened.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags.bits()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("not a regular file")),
    }
}

/// Where the last `lines` lines begin. Looks at the end of the file, twice as far each time.
fn last_lines(file: &File, len: u64, lines: u64) -> io::Result<u64> {
    if lines == 0 {
        return Ok(len);
    }
    let mut span = CHUNK as u64;
    loop {
        let start = len.saturating_sub(span);
        let mut bytes = vec![0; usize::try_from(len - start).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, start)?;
        // Unless we see the file's beginning, the first line is a fragment of unknown kind.
        let from = if start == 0 {
            Some(0)
        } else {
            bytes.iter().position(|b| *b == b'\n').map(|at| at + 1)
        };
        let found = from.and_then(|from| nth_from_end(&bytes[from..], lines).map(|at| from + at));
        match found {
            Some(at) => return Ok(start + at as u64),
            None if start == 0 => return Ok(0),
            None => span = span.saturating_mul(2),
        }
    }
}

/// Where the n-th line from the end begins; pieces of one line count once. None: there are fewer, or as many.
fn nth_from_end(bytes: &[u8], lines: u64) -> Option<usize> {
    let mut starts = Vec::new();
    let mut at = 0;
    for raw in bytes.split_inclusive(|b| *b == b'\n') {
        starts.push(at);
        at += raw.len();
    }
    let mut seen = 0;
    for start in starts.into_iter().rev() {
        let end = bytes[start..].iter().position(|b| *b == b'\n');
        let Some(end) = end else { continue };
        let whole = line::parse(&bytes[start..start + end]).is_some_and(|line| !line.partial);
        // The end of the line before the ones that are wanted.
        if whole && seen == lines {
            return Some(start + end + 1);
        }
        seen += u64::from(whole);
    }
    None
}

/// A place before which every line is older than `since`, close to the first one that is not.
fn first_since(file: &File, len: u64, since: Timestamp) -> io::Result<u64> {
    let (mut low, mut high) = (0, len);
    while high - low > 2 * CHUNK as u64 {
        let middle = low + (high - low) / 2;
        match line_after(file, middle, high)? {
            Some((start, time)) if time < since => low = start,
            Some(_) => high = middle,
            None => break,
        }
    }
    Ok(low)
}

/// The first readable line that begins after `from`: where, and its time.
fn line_after(file: &File, from: u64, end: u64) -> io::Result<Option<(u64, Timestamp)>> {
    let want = usize::try_from(end - from).unwrap_or(usize::MAX).min(CHUNK);
    let mut bytes = vec![0; want];
    let n = file.read_at(&mut bytes, from)?;
    let mut at = 0;
    for (i, raw) in bytes[..n].split_inclusive(|b| *b == b'\n').enumerate() {
        if i > 0
            && let Some(time) = line::time(raw)
        {
            return Ok(Some((from + at as u64, time)));
        }
        at += raw.len();
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(dir: &tempfile::TempDir, lines: usize) -> PathBuf {
        let path = dir.path().join("0.log");
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let text: String = (0..lines)
            .map(|i| {
                let time = start + jiff::SignedDuration::from_secs(i as i64);
                format!("{time} stdout F line {i}\n")
            })
            .collect();
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn only_files_are_logs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let refused = |what: &str| {
            assert!(LogFile::open(&path, &LogOptions::default()).is_err(), "{what}");
            std::fs::remove_file(&path).unwrap();
        };
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        refused("a link");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        refused("a fifo");
        // And not later either.
        std::fs::write(&path, "").unwrap();
        let mut file = LogFile::open(&path, &LogOptions::default()).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(file.reopen().is_err());
    }

    fn read(path: &Path, options: LogOptions) -> Vec<String> {
        let mut file = LogFile::open(path, &options).unwrap();
        let mut lines = Vec::new();
        while file.read(|raw| lines.push(String::from_utf8_lossy(raw).into_owned())).unwrap() {}
        lines
    }

    fn text(raw: &str) -> &str {
        raw.trim_end().split_once(" F ").unwrap().1
    }

    #[test]
    fn the_tail_of_a_long_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = log(&dir, 20_000);
        for (tail, first) in [(1, "line 19999"), (3, "line 19997"), (7000, "line 13000")] {
            let lines = read(&path, LogOptions { tail: Some(tail), ..LogOptions::default() });
            assert_eq!((lines.len() as u64, text(&lines[0])), (tail, first));
        }
        for (tail, count) in [(0, 0), (20_000, 20_000), (30_000, 20_000)] {
            let lines = read(&path, LogOptions { tail: Some(tail), ..LogOptions::default() });
            assert_eq!(lines.len(), count);
        }
    }

    #[test]
    fn pieces_of_a_line_count_as_one_in_a_tail() {
        let bytes = b"t stdout F a\nt stdout P b\nt stdout P c\nt stdout F d\nt stdout F e\nt std";
        assert_eq!(nth_from_end(bytes, 2), Some(13));
        assert_eq!(nth_from_end(bytes, 1), Some(52));
        assert_eq!(nth_from_end(bytes, 3), None);
    }

    #[test]
    fn since_skips_without_losing() {
        let dir = tempfile::tempdir().unwrap();
        let path = log(&dir, 20_000);
        let since = "2026-01-01T04:00:00Z".parse::<Timestamp>().unwrap();
        let lines = read(&path, LogOptions { since: Some(since), ..LogOptions::default() });
        assert!(lines.len() < 20_000 - 5_000, "read {} lines", lines.len());
        assert!(lines.iter().any(|line| text(line) == "line 14400"));
        assert!(line::time(lines[0].as_bytes()).unwrap() <= since);
    }

    #[test]
    fn a_line_is_given_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, "t stdout F a").unwrap();
        let mut file = LogFile::open(&path, &LogOptions::default()).unwrap();
        let mut lines = Vec::new();
        file.read(|raw| lines.push(raw.to_vec())).unwrap();
        assert!(lines.is_empty());
        std::fs::write(&path, "t stdout F ab\n").unwrap();
        file.read(|raw| lines.push(raw.to_vec())).unwrap();
        assert_eq!(lines, [b"t stdout F ab\n"]);
    }

    #[test]
    fn rotation_loses_nothing() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut old = File::create(&path).unwrap();
        let mut file = LogFile::open(&path, &LogOptions::default()).unwrap();
        let mut lines = Vec::new();
        assert!(!file.read(|_| panic!("nothing was written")).unwrap());
        assert!(!file.reopen().unwrap());
        old.write_all(b"last\n").unwrap();
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        assert!(!file.reopen().unwrap(), "there is no new file yet");
        std::fs::write(&path, "first\n").unwrap();
        while file.reopen().unwrap() {
            while file.read(|raw| lines.push(raw.to_vec())).unwrap() {}
        }
        assert_eq!(lines, [&b"last\n"[..], b"first\n"]);
    }
}
