//! Image names, read as Docker reads them. Pure.
//!
//! `myapp:1.0` is `docker.io/library/myapp:1.0`; the first component is a registry only if it looks like one
//! (a dot, a colon, or `localhost`).

use std::fmt;

/// A name in its full form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// `docker.io`, `localhost`, `registry.example:5000` …
    pub domain: String,
    /// `library/myapp`.
    pub path: String,
    /// `latest` when neither tag nor digest was given.
    pub tag: Option<String>,
    /// `sha256:<64 hex>`.
    pub digest: Option<String>,
}

/// Why a string is not an image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parse image name {name:?}: {reason}")]
pub struct ReferenceError {
    pub name: String,
    pub reason: &'static str,
}

const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

impl Reference {
    /// Parse and normalise a name.
    pub fn parse(name: &str) -> Result<Self, ReferenceError> {
        parse(name).map_err(|reason| ReferenceError { name: name.to_owned(), reason })
    }

    /// Domain and path: `docker.io/library/myapp`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The form under which the store keeps it. A digest says more than a tag: with both, the tag goes.
    pub fn key(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("{}@{digest}", self.repository()),
            (None, Some(tag)) => format!("{}:{tag}", self.repository()),
            (None, None) => self.repository(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key())
    }
}

fn parse(name: &str) -> Result<Reference, &'static str> {
    let (rest, digest) = match name.split_once('@') {
        Some((rest, digest)) => (rest, Some(checked_digest(digest)?)),
        None => (name, None),
    };
    // A colon after the last slash starts a tag; one before it belongs to a registry's port.
    let colon = rest.rfind(':').filter(|&at| !rest[at..].contains('/'));
    let (rest, tag) = match colon {
        Some(at) => (&rest[..at], Some(checked_tag(&rest[at + 1..])?)),
        None => (rest, None),
    };
    if rest.is_empty() {
        return Err("it is empty");
    }
    let (domain, path) = split_domain(rest);
    check_domain(&domain)?;
    check_path(&path)?;
    if domain.len() + 1 + path.len() > MAX_NAME {
        return Err("it is longer than 255 characters");
    }
    let tag = match (tag, &digest) {
        (None, None) => Some("latest".to_owned()),
        (tag, _) => tag,
    };
    Ok(Reference { domain, path, tag, digest })
}

fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, path)) if looks_like_domain(first) => (first, path),
        _ => ("docker.io", name),
    };
    let domain = if domain == "index.docker.io" { "docker.io" } else { domain };
    let path = if domain == "docker.io" && !path.contains('/') {
        format!("library/{path}")
    } else {
        path.to_owned()
    };
    (domain.to_owned(), path)
}

fn looks_like_domain(s: &str) -> bool {
    s == "localhost" || s.contains(['.', ':']) || s.chars().any(|c| c.is_ascii_uppercase())
}

fn check_domain(domain: &str) -> Result<(), &'static str> {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (domain, None),
    };
    if port.is_some_and(|p| p.is_empty() || !p.bytes().all(|b| b.is_ascii_digit())) {
        return Err("the registry's port is not a number");
    }
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if host.split('.').all(label) { Ok(()) } else { Err("the registry is not a host name") }
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("the repository must be in lower case");
    }
    if path.split('/').all(is_path_component) {
        Ok(())
    } else {
        Err("the repository has a component that is not letters and digits, joined by . _ __ or -")
    }
}

/// Letters and digits, joined by one `.`, one or two `_`, or any number of `-`.
fn is_path_component(s: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = s.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !alnum(*first) || !alnum(*last) {
        return false;
    }
    s.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-'))
}

fn checked_tag(tag: &str) -> Result<String, &'static str> {
    let ok = !tag.is_empty()
        && tag.len() <= MAX_TAG
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if ok { Ok(tag.to_owned()) } else { Err("the tag is not 1 to 128 letters, digits, . _ or -") }
}

fn checked_digest(digest: &str) -> Result<String, &'static str> {
    super::digest::parse(digest)
        .map(|d| d.to_string())
        .ok_or("the digest is not sha256:<64 hex digits>")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> String {
        Reference::parse(name).unwrap().key()
    }

    #[test]
    fn short_names_get_dockers_defaults() {
        assert_eq!(key("myapp:1.0"), "docker.io/library/myapp:1.0");
        assert_eq!(key("myapp"), "docker.io/library/myapp:latest");
        assert_eq!(key("team/app"), "docker.io/team/app:latest");
        assert_eq!(key("docker.io/app"), "docker.io/library/app:latest");
        assert_eq!(key("index.docker.io/app:x"), "docker.io/library/app:x");
        assert_eq!(key("localhost/kobune-demo:0.1.0"), "localhost/kobune-demo:0.1.0");
        assert_eq!(key("registry.k8s.io/pause:3.9"), "registry.k8s.io/pause:3.9");
        assert_eq!(key("host:5000/a/b"), "host:5000/a/b:latest");
    }

    #[test]
    fn a_digest_outranks_a_tag() {
        let hex = "a".repeat(64);
        assert_eq!(
            key(&format!("app:1@sha256:{hex}")),
            format!("docker.io/library/app@sha256:{hex}")
        );
    }

    #[test]
    fn full_names_stay_as_they_are() {
        for name in ["docker.io/library/a__b:V1", "quay.io/x/y-z.w:a_b.c-D", "h:1/x--y:t"] {
            assert_eq!(key(name), name);
            assert_eq!(key(&key(name)), key(name));
        }
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        for bad in [
            "",
            ":tag",
            "app:",
            "UPPER",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a:b c",
            "a@sha256:12",
            "a@md5:aa",
            "../a",
            "host:port/a",
            "a:.x",
            "docker.io/",
            "a b",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(Reference::parse(&"a".repeat(300)).is_err());
    }
}
