//! Where a registry's images come from: `<dir>/<registry>/hosts.toml`, as containerd reads it. Pure.
//!
//! ```toml
//! server = "https://registry.example"
//! [host."https://mirror.example:5000"]
//!   capabilities = ["pull", "resolve"]
//!   ca = "mirror.crt"            # relative to this file; also a list
//!   client = ["cert.pem", "key.pem"]
//!   skip_verify = false
//!   override_path = false        # true: the URL has the API's path already
//!   [host."https://mirror.example:5000".header]
//!     x-team = "boat"
//! ```
//! Mirrors are asked in their order, the server last. `_default/hosts.toml` is for registries without a file of
//! their own. Without any file a registry is asked by HTTPS, one on the loopback interface by HTTP.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// One server of the distribution API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `https://mirror.example:5000/v2`, without a slash at the end.
    pub(crate) base: String,
    /// `mirror.example:5000`: by this name credentials are looked up.
    pub(crate) host: String,
    /// A mirror is told whose image it is asked for.
    pub(crate) mirror: bool,
    /// Serves blobs, and manifests by digest.
    pub(crate) pull: bool,
    /// May say what a tag means.
    pub(crate) resolve: bool,
    pub(crate) tls: Tls,
    pub(crate) headers: Vec<(String, String)>,
}

/// How far a server's certificate is believed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tls {
    pub(crate) skip_verify: bool,
    /// Beside those of the host.
    pub(crate) ca: Vec<PathBuf>,
    /// Certificate and key.
    pub(crate) client: Vec<(PathBuf, PathBuf)>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    #[serde(default)]
    header: toml::Table,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

/// One file with both, or certificate and key, or a list of such pairs.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Client {
    One(PathBuf),
    Many(Vec<Pair>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Pair {
    File(PathBuf),
    Two(Vec<PathBuf>),
}

/// The directories that may hold a registry's file, best first.
pub(crate) fn places(dir: &Path, registry: &str) -> Vec<PathBuf> {
    let mut names = vec![registry.to_owned()];
    if let Some((host, port)) = registry.split_once(':') {
        // A colon is hard to have in a directory's name on some systems.
        names.push(format!("{host}_{port}_"));
    }
    names.push("_default".into());
    names.into_iter().map(|name| dir.join(name)).collect()
}

/// The servers of `registry` without a file.
pub(crate) fn default(registry: &str) -> Endpoint {
    let server = match registry {
        "docker.io" => "registry-1.docker.io",
        other => other,
    };
    let scheme = if is_loopback(server) { "http" } else { "https" };
    Endpoint {
        base: format!("{scheme}://{server}/v2"),
        host: registry.to_owned(),
        mirror: false,
        pull: true,
        resolve: true,
        tls: Tls::default(),
        headers: Vec::new(),
    }
}

/// The servers of `registry` as a file `hosts.toml` in `dir` has them, in the order in which they are asked.
pub(crate) fn read(registry: &str, text: &str, dir: &Path) -> Result<Vec<Endpoint>, String> {
    let mut table: toml::Table =
        text.parse().map_err(|error: toml::de::Error| error.message().to_owned())?;
    let mut out = Vec::new();
    if let Some(hosts) = table.remove("host") {
        let toml::Value::Table(hosts) = hosts else { return Err("host is not a table".into()) };
        for (url, entry) in hosts {
            let entry = entry_of(&format!("host.{url:?}"), entry)?;
            out.push(endpoint(&url, entry, dir, registry, true)?);
        }
    }
    let server = match table.remove("server") {
        None => None,
        Some(toml::Value::String(server)) => Some(server).filter(|server| !server.is_empty()),
        Some(_) => return Err("server is not text".into()),
    };
    let entry = entry_of("the file", toml::Value::Table(table))?;
    let server = server.unwrap_or_else(|| default(registry).base.trim_end_matches("/v2").into());
    let own = endpoint(&server, entry, dir, registry, false)?;
    // A host that is the server itself says how to ask it.
    if !out.iter().any(|host| host.base == own.base) {
        out.push(own);
    }
    Ok(out)
}

fn entry_of(what: &str, value: toml::Value) -> Result<Entry, String> {
    value.try_into().map_err(|error: toml::de::Error| format!("{what}: {}", error.message()))
}

fn endpoint(
    url: &str,
    entry: Entry,
    dir: &Path,
    registry: &str,
    mirror: bool,
) -> Result<Endpoint, String> {
    let full = match url.contains("://") {
        true => url.to_owned(),
        false if is_loopback(url) => format!("http://{url}"),
        false => format!("https://{url}"),
    };
    let bad = || format!("{url:?} is not a URL of http or https");
    let (scheme, rest) = full.split_once("://").ok_or_else(bad)?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if !matches!(scheme, "http" | "https") || host.is_empty() || host.contains(['@', '?', '#']) {
        return Err(bad());
    }
    let path = path.trim_matches('/');
    let path = match (entry.override_path, path) {
        (true, "") => String::new(),
        (true, path) => format!("/{path}"),
        (false, "") => "/v2".into(),
        (false, path) if path == "v2" || path.ends_with("/v2") => format!("/{path}"),
        (false, path) => format!("/{path}/v2"),
    };
    let (pull, resolve) = capabilities(entry.capabilities.as_deref())?;
    let same = host == registry || (registry == "docker.io" && host == "registry-1.docker.io");
    Ok(Endpoint {
        base: format!("{scheme}://{host}{path}"),
        host: if same { registry.to_owned() } else { host.to_owned() },
        mirror: mirror && !same,
        pull,
        resolve,
        tls: tls(entry.skip_verify, entry.ca, entry.client, dir)?,
        headers: headers(entry.header)?,
    })
}

fn capabilities(names: Option<&[String]>) -> Result<(bool, bool), String> {
    let Some(names) = names else { return Ok((true, true)) };
    if let Some(other) =
        names.iter().find(|name| !matches!(name.as_str(), "pull" | "resolve" | "push"))
    {
        return Err(format!("capability {other:?} is none of pull, resolve, push"));
    }
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    Ok((has("pull"), has("resolve")))
}

fn tls(
    skip_verify: bool,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    dir: &Path,
) -> Result<Tls, String> {
    let below = |path: &PathBuf| dir.join(path);
    let ca = match &ca {
        None => Vec::new(),
        Some(OneOrMany::One(path)) => vec![below(path)],
        Some(OneOrMany::Many(paths)) => paths.iter().map(below).collect(),
    };
    let both = |path: &PathBuf| (below(path), below(path));
    let client = match &client {
        None => Vec::new(),
        Some(Client::One(path)) => vec![both(path)],
        Some(Client::Many(list)) => match &list[..] {
            // The short form of a single pair.
            [Pair::File(certificate), Pair::File(key)] => vec![(below(certificate), below(key))],
            list => list
                .iter()
                .map(|pair| match pair {
                    Pair::File(path) => Ok(both(path)),
                    Pair::Two(two) => match &two[..] {
                        [path] => Ok(both(path)),
                        [certificate, key] => Ok((below(certificate), below(key))),
                        _ => Err("client has a list that is not certificate and key".to_owned()),
                    },
                })
                .collect::<Result<_, _>>()?,
        },
    };
    Ok(Tls { skip_verify, ca, client })
}

fn headers(table: toml::Table) -> Result<Vec<(String, String)>, String> {
    let mut out = Vec::new();
    for (name, value) in table {
        match value {
            toml::Value::String(value) => out.push((name, value)),
            toml::Value::Array(values) => {
                for value in values {
                    let text =
                        value.as_str().ok_or_else(|| format!("header {name:?} is not text"))?;
                    out.push((name.clone(), text.to_owned()));
                }
            }
            _ => return Err(format!("header {name:?} is not text")),
        }
    }
    Ok(out)
}

/// Nothing on the way to it can listen.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost"
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(registry: &str, text: &str) -> Vec<String> {
        let read = read(registry, text, Path::new("/certs/r")).unwrap();
        read.into_iter().map(|endpoint| endpoint.base).collect()
    }

    #[test]
    fn without_a_file() {
        assert_eq!(default("registry.test").base, "https://registry.test/v2");
        assert_eq!(default("docker.io").base, "https://registry-1.docker.io/v2");
        assert_eq!(default("docker.io").host, "docker.io");
        for loopback in ["localhost:5000", "127.0.0.1", "[::1]:5000"] {
            assert_eq!(default(loopback).base, format!("http://{loopback}/v2"));
        }
        assert_eq!(default("localhost.test").base, "https://localhost.test/v2");
    }

    #[test]
    fn mirrors_come_in_their_order_and_the_server_last() {
        let text = r#"
            server = "https://registry.test"
            [host."https://z.test"]
            capabilities = ["pull"]
            [host."http://a.test:5000/mirror"]
            [host."http://b.test/whole/path"]
            override_path = true
        "#;
        assert_eq!(
            bases("registry.test", text),
            [
                "https://z.test/v2",
                "http://a.test:5000/mirror/v2",
                "http://b.test/whole/path",
                "https://registry.test/v2"
            ]
        );
        let first = &read("registry.test", text, Path::new("/")).unwrap()[0];
        assert!(first.mirror && first.pull && !first.resolve);
        assert_eq!(bases("registry.test", ""), ["https://registry.test/v2"]);
    }

    #[test]
    fn what_is_said_of_the_server_itself() {
        let text = "server = \"http://registry.test:5000\"\nskip_verify = true\nca = [\"a.crt\", \"/b.crt\"]";
        let own = &read("registry.test:5000", text, Path::new("/certs/r")).unwrap()[0];
        assert_eq!(own.base, "http://registry.test:5000/v2");
        assert!(own.tls.skip_verify && !own.mirror);
        assert_eq!(own.tls.ca, [PathBuf::from("/certs/r/a.crt"), PathBuf::from("/b.crt")]);
        let again = "[host.\"https://registry.test\"]\nskip_verify = true";
        assert_eq!(bases("registry.test", again).len(), 1);
        let client = "client = [\"c.pem\", \"k.pem\"]\n[header]\nx-a = [\"1\", \"2\"]\n";
        let own = &read("registry.test", client, Path::new("/c")).unwrap()[0];
        assert_eq!(own.tls.client, [(PathBuf::from("/c/c.pem"), PathBuf::from("/c/k.pem"))]);
        assert_eq!(own.headers.len(), 2);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("skip_verfy = true", "skip_verfy"),
            ("[host.\"https://m.test\"]\nskip_verfy = true", "m.test"),
            ("[host.\"ftp://m.test\"]", "ftp://m.test"),
            ("capabilities = [\"fetch\"]", "fetch"),
            ("server = 5", "server"),
            ("server = ", ""),
        ] {
            let error = read("registry.test", text, Path::new("/")).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn places_of_the_file() {
        let names = |registry| {
            places(Path::new("/c"), registry)
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(names("r.test:5000"), ["/c/r.test:5000", "/c/r.test_5000_", "/c/_default"]);
        assert_eq!(names("r.test"), ["/c/r.test", "/c/_default"]);
    }
}
