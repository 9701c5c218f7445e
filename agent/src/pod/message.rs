//! A container's last words: the termination message, or the end of its log.
//!
//! Both files are written by the container's side: they are opened without following links and read to a bound.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;

const MAX_MESSAGE: u64 = 4096;
const MAX_LOG: u64 = 2048;
const MAX_LOG_LINES: usize = 80;

/// What the container left at its terminationMessagePath, or (if asked for) the end of its log.
pub(super) fn read(message: &Path, log: &Path, fall_back_to_log: bool) -> Option<String> {
    let text = open(message).and_then(|file| head(file, MAX_MESSAGE)).unwrap_or_default();
    if !text.is_empty() {
        return Some(text);
    }
    let text = if fall_back_to_log { log_tail(log) } else { None };
    text.filter(|text| !text.is_empty())
}

fn open(path: &Path) -> Option<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).ok()?;
    file.metadata().ok()?.is_file().then_some(file)
}

fn head(file: File, max: u64) -> Option<String> {
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn log_tail(path: &Path) -> Option<String> {
    let mut file = open(path)?;
    let length = file.metadata().ok()?.len();
    // Each record has some forty bytes of its own.
    let from = length.saturating_sub(MAX_LOG * 4);
    file.seek(SeekFrom::Start(from)).ok()?;
    let text = head(file, MAX_LOG * 4)?;
    let records = if from > 0 { text.split_once('\n').map_or("", |(_, rest)| rest) } else { &text };
    Some(last_lines(records))
}

/// The messages of CRI records (`<time> <stream> <P|F> <message>`), as many as fit.
fn last_lines(records: &str) -> String {
    let messages: Vec<&str> =
        records.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let mut text = messages[messages.len().saturating_sub(MAX_LOG_LINES)..].join("\n");
    while text.len() as u64 > MAX_LOG {
        match text.split_once('\n') {
            Some((_, rest)) => text = rest.to_owned(),
            None => text = text.chars().take(MAX_LOG as usize / 4).collect(),
        }
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_bounded_and_links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let (message, log) = (root.path().join("message"), root.path().join("log"));
        assert_eq!(read(&message, &log, true), None);
        std::fs::write(&message, "x".repeat(10_000)).unwrap();
        assert_eq!(read(&message, &log, false).unwrap().len(), 4096);
        std::fs::remove_file(&message).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &message).unwrap();
        assert_eq!(read(&message, &log, false), None);
        std::fs::remove_file(&message).unwrap();
        nix::unistd::mkfifo(&message, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(&message, &log, false), None);
    }

    #[test]
    fn the_log_speaks_when_the_message_is_empty() {
        let root = tempfile::tempdir().unwrap();
        let (message, log) = (root.path().join("message"), root.path().join("log"));
        std::fs::write(&message, "").unwrap();
        std::fs::write(
            &log,
            "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:00Z stderr F two words\n",
        )
        .unwrap();
        assert_eq!(read(&message, &log, false), None);
        assert_eq!(read(&message, &log, true).as_deref(), Some("one\ntwo words\n"));
        let many = "2026-01-01T00:00:00Z stdout F 0123456789\n".repeat(1000);
        std::fs::write(&log, many).unwrap();
        assert!(read(&message, &log, true).unwrap().len() <= 2049);
    }
}
