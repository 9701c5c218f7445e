//! Where messages go: lines of text or JSON in the file of `--log`, and standard error. One message is one line,
//! whatever it holds: names come from config files and images, and none of them may forge a line.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{CliError, message};
use crate::supervisor::time;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Json,
}

impl Format {
    pub(super) fn parse(name: &str) -> Result<Format, CliError> {
        match name {
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            _ => message(format!("invalid log-format: {name:?} (must be text or json)")),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Debug,
    Warning,
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

#[derive(Debug)]
pub(super) struct Log {
    /// Opened for each message: no descriptor of it is there when those for the container are counted, and a command
    /// that has nothing to tell does not pay. Standard error when there is none.
    file: Option<PathBuf>,
    format: Format,
    debug: bool,
}

impl Default for Log {
    fn default() -> Log {
        Log { file: None, format: Format::Text, debug: false }
    }
}

impl Log {
    /// Whoever asks for a log that cannot be written hears of it before anything is done.
    pub(super) fn new(file: Option<PathBuf>, format: Format, debug: bool) -> Result<Log, CliError> {
        if let Some(path) = &file {
            append(path).map_err(CliError::io(format!("open the log {path:?}")))?;
        }
        Ok(Log { file, format, debug })
    }

    /// The text is made only if somebody will read it.
    pub(super) fn debug(&self, text: impl FnOnce() -> String) {
        if self.debug {
            self.tell(Level::Debug, &text());
        }
    }

    pub(super) fn warning(&self, text: &str) {
        self.tell(Level::Warning, text);
    }

    /// People at the terminal see an error even if programs read it elsewhere.
    pub(super) fn error(&self, text: &str) {
        self.tell(Level::Error, text);
        if self.file.is_some() {
            to_stderr(&plain(Level::Error, text));
        }
    }

    fn tell(&self, level: Level, text: &str) {
        let Some(path) = &self.file else {
            return to_stderr(&match self.format {
                Format::Json => json(level, text, &now()),
                Format::Text => plain(level, text),
            });
        };
        let line = match self.format {
            Format::Json => json(level, text, &now()),
            Format::Text => fields(level, text, &now()),
        };
        // One write: lines of several processes do not mix.
        if let Err(error) = append(path).and_then(|mut file| file.write_all(line.as_bytes())) {
            to_stderr(&plain(Level::Warning, &format!("write the log {path:?}: {error}")));
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).open(path)
}

/// If that cannot be written, there is nowhere left to tell it.
fn to_stderr(line: &str) {
    let _ = std::io::stderr().write_all(line.as_bytes());
}

fn now() -> String {
    time::rfc3339(time::now())
}

/// As podman, conmon and containerd read it.
fn json(level: Level, text: &str, time: &str) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        level: &'a str,
        msg: &'a str,
        time: &'a str,
    }
    let line = Line { level: level.name(), msg: text, time };
    serde_json::to_string(&line).unwrap_or_default() + "\n"
}

/// As runc writes it.
fn fields(level: Level, text: &str, time: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("time=\"{time}\" level={} msg=\"{}\"\n", level.name(), escaped(&text))
}

/// For people.
fn plain(level: Level, text: &str) -> String {
    match level {
        Level::Error => format!("kobune-runtime: {}\n", escaped(text)),
        _ => format!("kobune-runtime: {}: {}\n", level.name(), escaped(text)),
    }
}

/// Without control characters, among them those that steer terminals and those that turn the direction of text.
fn escaped(text: &str) -> String {
    let steers =
        |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) {
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "no \"x\"\n{\"level\":\"info\"}\r\u{1b}[2K\u{202e}\\";

    #[test]
    fn json_is_one_line_that_says_what_was_said() {
        let line = json(Level::Error, HOSTILE, "T");
        assert_eq!(line.matches('\n').count(), 1);
        assert!(!line.contains(['\r', '\u{1b}']));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "error");
        assert_eq!(value["msg"], HOSTILE);
        assert_eq!(value["time"], "T");
    }

    #[test]
    fn text_is_one_line_without_control_characters() {
        for line in [fields(Level::Error, HOSTILE, "T"), plain(Level::Error, HOSTILE)] {
            assert!(line.ends_with('\n'));
            assert!(!line.trim_end_matches('\n').contains(|c: char| c.is_control()), "{line:?}");
            assert!(!line.contains('\u{202e}'));
        }
        assert_eq!(
            fields(Level::Error, "a \"b\"\n\\", "T"),
            "time=\"T\" level=error msg=\"a \\\"b\\\"\\n\\\\\"\n"
        );
    }
}
