//! Where etcd is, from `--store`: `etcd://HOST:PORT[,HOST:PORT…][/PREFIX]`.

use std::path::PathBuf;
use std::time::Duration;

/// In front of every key, where none is named.
const PREFIX: &str = "kobune";
const PORT: &str = ":2379";
const HISTORY: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// `host:port` each.
    pub members: Vec<String>,
    /// With a slash at both ends.
    pub prefix: String,
    pub tls: Option<Tls>,
    /// What is older than this is compacted.
    pub history: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Tls {
    /// PEM: whose word counts on who etcd is.
    pub ca: PathBuf,
    /// PEM: certificate and key, where etcd wants to know who we are.
    pub client: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OptionsError {
    #[error("{url:?} is no address of a store: etcd://HOST:PORT[,HOST:PORT…][/PREFIX]")]
    Url { url: String },
    #[error("read {path:?} for TLS to etcd: {why}")]
    Tls { path: PathBuf, why: String },
}

impl Options {
    pub fn parse(url: &str, tls: Option<Tls>) -> Result<Self, OptionsError> {
        let wrong = || OptionsError::Url { url: url.into() };
        let rest = url.strip_prefix("etcd://").ok_or_else(wrong)?;
        let (members, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = match prefix.trim_matches('/') {
            "" => PREFIX,
            prefix => prefix,
        };
        let member = |m: &str| match m.rsplit_once(':') {
            _ if m.is_empty() || m.contains(['@', ' ', '?', '#']) => Err(wrong()),
            Some((_, port)) if port.parse::<u16>().is_ok() => Ok(m.to_owned()),
            Some(_) if !m.ends_with(']') => Err(wrong()),
            _ => Ok(format!("{m}{PORT}")),
        };
        let members = members.split(',').map(member).collect::<Result<_, _>>()?;
        Ok(Self { members, prefix: format!("/{prefix}/"), tls, history: HISTORY })
    }
}

impl Options {
    /// What these were parsed from, in full.
    pub fn url(&self) -> String {
        format!("etcd://{}{}", self.members.join(","), self.prefix.trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parse = |url| Options::parse(url, None).map(|o| (o.members.join(" "), o.prefix));
        let is = |members: &str, prefix: &str| Ok((members.to_owned(), prefix.to_owned()));
        assert_eq!(parse("etcd://a"), is("a:2379", "/kobune/"));
        assert_eq!(parse("etcd://a:1,b:2/x/y/"), is("a:1 b:2", "/x/y/"));
        assert_eq!(parse("etcd://[::1],[::2]:5"), is("[::1]:2379 [::2]:5", "/kobune/"));
        for wrong in ["", "etcd://", "http://a", "etcd://a:x", "etcd://a,,b", "etcd://u@a"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
