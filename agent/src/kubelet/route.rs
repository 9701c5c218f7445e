//! What may be asked: paths and queries of the kubelet's API. Pure.

use jiff::{SignedDuration, Timestamp};

use crate::logs::{LogOptions, Stream};

/// A request that was understood.
#[derive(Debug, PartialEq)]
pub(super) enum Route {
    Healthz,
    Pods,
    Logs {
        place: Place,
        previous: bool,
        options: LogOptions,
    },
    Exec {
        place: Place,
        exec: ExecOptions,
    },
    Attach {
        place: Place,
        streams: ExecOptions,
    },
    PortForward {
        namespace: String,
        pod: String,
    },
    /// Known, but not served yet.
    Later(&'static str),
}

#[derive(Debug, PartialEq)]
pub(super) struct Place {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) container: String,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct ExecOptions {
    pub(super) command: Vec<String>,
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

/// Why a request is refused: no such path, or bad parameters.
#[derive(Debug, PartialEq)]
pub(super) enum Refusal {
    NotFound,
    BadRequest(String),
}

/// Read a request's path and query.
pub(super) fn parse(path: &str, query: &str, now: Timestamp) -> Result<Route, Refusal> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts[..] {
        ["healthz"] => Ok(Route::Healthz),
        ["pods"] => Ok(Route::Pods),
        ["containerLogs", namespace, pod, container] => {
            let query = Query(query);
            let options = log_options(&query, now)?;
            let previous = query.flag("previous")?;
            Ok(Route::Logs { place: place(namespace, pod, container)?, previous, options })
        }
        // Upstream also has the Pod's uid in the path.
        ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
            let place = place(namespace, pod, container)?;
            Ok(Route::Exec { place, exec: exec_options(&Query(query))? })
        }
        ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
            let place = place(namespace, pod, container)?;
            Ok(Route::Attach { place, streams: streams(&Query(query))? })
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
            Ok(Route::PortForward { namespace: part(namespace)?, pod: part(pod)? })
        }
        ["run", ..] => Ok(Route::Later("run")),
        ["stats", ..] | ["metrics", ..] => Ok(Route::Later("metrics")),
        _ => Err(Refusal::NotFound),
    }
}

fn place(namespace: &str, pod: &str, container: &str) -> Result<Place, Refusal> {
    Ok(Place { namespace: part(namespace)?, pod: part(pod)?, container: part(container)? })
}

fn part(raw: &str) -> Result<String, Refusal> {
    decode(raw).filter(|text| !text.is_empty()).ok_or(Refusal::NotFound)
}

fn exec_options(query: &Query<'_>) -> Result<ExecOptions, Refusal> {
    let command = query.all("command")?;
    if command.is_empty() {
        return Err(Refusal::BadRequest("you must specify a command".into()));
    }
    Ok(ExecOptions { command, ..streams(query)? })
}

fn streams(query: &Query<'_>) -> Result<ExecOptions, Refusal> {
    // The API says stdin, the kubelet's own API says input; both are in use.
    let either = |a, b| Ok(query.flag(a)? || query.flag(b)?);
    let exec = ExecOptions {
        command: Vec::new(),
        stdin: either("stdin", "input")?,
        stdout: either("stdout", "output")?,
        stderr: either("stderr", "error")?,
        tty: query.flag("tty")?,
    };
    if !(exec.stdin || exec.stdout || exec.stderr) {
        return Err(Refusal::BadRequest("you must specify one of stdin, stdout, stderr".into()));
    }
    // A terminal has one stream for both.
    Ok(ExecOptions { stderr: exec.stderr && !exec.tty, ..exec })
}

fn log_options(query: &Query<'_>, now: Timestamp) -> Result<LogOptions, Refusal> {
    let seconds: Option<u32> = query.number("sinceSeconds")?;
    let since = match (seconds, query.one("sinceTime")?) {
        (Some(_), Some(_)) => {
            let message = "at most one of sinceTime or sinceSeconds may be specified";
            return Err(Refusal::BadRequest(message.into()));
        }
        (Some(seconds), None) => {
            now.checked_sub(SignedDuration::from_secs(i64::from(seconds))).ok()
        }
        (None, Some(text)) => Some(text.parse().map_err(|_| bad("sinceTime", &text))?),
        (None, None) => None,
    };
    let only = match query.one("stream")?.as_deref() {
        None | Some("" | "All") => None,
        Some("Stdout") => Some(Stream::Stdout),
        Some("Stderr") => Some(Stream::Stderr),
        Some(other) => return Err(bad("stream", other)),
    };
    Ok(LogOptions {
        follow: query.flag("follow")?,
        tail: query.number("tailLines")?,
        since,
        timestamps: query.flag("timestamps")?,
        limit: query.number("limitBytes")?,
        only,
    })
}

fn bad(name: &str, value: &str) -> Refusal {
    Refusal::BadRequest(format!("invalid value {value:?} of parameter {name}"))
}

/// `a=1&b=2`, read on demand.
struct Query<'a>(&'a str);

impl Query<'_> {
    fn all(&self, name: &str) -> Result<Vec<String>, Refusal> {
        let pairs = self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs
            .filter(|(key, _)| *key == name)
            .map(|(_, value)| decode(&value.replace('+', " ")).ok_or_else(|| bad(name, value)))
            .collect()
    }

    fn one(&self, name: &str) -> Result<Option<String>, Refusal> {
        Ok(self.all(name)?.into_iter().next())
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Refusal> {
        let text = self.one(name)?.filter(|text| !text.is_empty());
        text.map(|text| text.parse().map_err(|_| bad(name, &text))).transpose()
    }

    /// As Go reads booleans; a name without a value is true.
    fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.one(name)?.as_deref() {
            None | Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(false),
            Some("" | "1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(true),
            Some(other) => Err(bad(name, other)),
        }
    }
}

/// Undo percent-encoding.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let hex = std::str::from_utf8(after.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(hex, 16).ok()?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(uri: &str) -> Result<Route, Refusal> {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        parse(path, query, "2026-01-01T00:01:00Z".parse().unwrap())
    }

    fn logs(query: &str) -> Result<LogOptions, Refusal> {
        match route(&format!("/containerLogs/ns/pod/c?{query}"))? {
            Route::Logs { options, .. } => Ok(options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn exec_as_kubectl_asks() {
        let uri = "/exec/ns/pod/c?command=sh&command=-c&command=echo+a%20%26b&stdin=true&stdout=1&tty=true&stderr=true";
        let Ok(Route::Exec { place, exec }) = route(uri) else { panic!("not exec") };
        assert_eq!(
            place,
            Place { namespace: "ns".into(), pod: "pod".into(), container: "c".into() }
        );
        assert_eq!(exec.command, ["sh", "-c", "echo a &b"]);
        assert!(exec.stdin && exec.stdout && exec.tty && !exec.stderr);
        assert!(matches!(route("/exec/ns/pod/c?stdout=1"), Err(Refusal::BadRequest(_))));
        assert!(matches!(route("/exec/ns/pod/c?command=a"), Err(Refusal::BadRequest(_))));
    }

    #[test]
    fn log_parameters() {
        let all = logs("follow&tailLines=3&sinceSeconds=60&timestamps=true&limitBytes=9").unwrap();
        let expected = LogOptions {
            follow: true,
            tail: Some(3),
            since: "2026-01-01T00:00:00Z".parse().ok(),
            timestamps: true,
            limit: Some(9),
            only: None,
        };
        assert_eq!(all, expected);
        assert_eq!(logs("").unwrap(), LogOptions::default());
        for bad in [
            "tailLines=-1",
            "tailLines=x",
            "follow=maybe",
            "sinceTime=noon",
            "limitBytes=%zz",
            "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
        ] {
            assert!(matches!(logs(bad), Err(Refusal::BadRequest(_))), "{bad}");
        }
    }

    #[test]
    fn other_paths() {
        assert_eq!(route("/healthz"), Ok(Route::Healthz));
        assert_eq!(route("/pods/"), Ok(Route::Pods));
        let forward = Route::PortForward { namespace: "a".into(), pod: "b".into() };
        assert_eq!(route("/portForward/a/b"), Ok(forward));
        assert!(matches!(route("/attach/a/b/c?stdout=true"), Ok(Route::Attach { .. })));
        assert!(matches!(route("/attach/a/b/c"), Err(Refusal::BadRequest(_))));
        for path in ["/", "/secrets", "/containerLogs/a/b", "/exec/a//c", "/containerLogs/a/b/c/d"]
        {
            assert_eq!(route(path), Err(Refusal::NotFound), "{path}");
        }
    }
}
