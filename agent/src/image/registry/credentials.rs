//! Who may pull what: the `auths` of docker's `config.json`, of Secrets of type `kubernetes.io/dockerconfigjson`, and the older
//! `kubernetes.io/dockercfg`. Pure.
//!
//! A key of `auths` is a registry, with or without a scheme, a port, and the beginning of a path; `*` stands for
//! anything within one label of the host name, as upstream's keyring has it. Longer keys are tried first.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::Deserialize;

/// One way to say who we are.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credential {
    pub username: String,
    pub password: String,
    /// An OAuth2 refresh token, in place of a password.
    pub identity_token: String,
    /// A bearer token, used as it is.
    pub registry_token: String,
}

/// Secrets are not shown.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Credentials and where they are good for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Keyring {
    entries: Vec<(String, Credential)>,
}

/// Why a text holds no credentials. Says nothing of what is in the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    #[error("it is not JSON as docker writes it (line {0})")]
    Json(usize),
    #[error("auths[{0:?}].auth is not base64 of user:password")]
    Auth(String),
    #[error("{0} is not supported: put the credentials into auths")]
    Helper(&'static str),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigJson {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
    #[serde(default)]
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default)]
    identitytoken: String,
    #[serde(default)]
    registrytoken: String,
}

impl Keyring {
    /// The node's own `config.json`. What would need a helper program is refused.
    pub fn node_file(text: &[u8]) -> Result<Self, KeyringError> {
        let config: ConfigJson = json(text)?;
        if config.creds_store.is_some_and(|store| !store.is_empty()) {
            return Err(KeyringError::Helper("credsStore"));
        }
        if !config.cred_helpers.is_empty() {
            return Err(KeyringError::Helper("credHelpers"));
        }
        Self::of(config.auths)
    }

    /// `.dockerconfigjson` of a Secret.
    pub fn docker_config_json(text: &[u8]) -> Result<Self, KeyringError> {
        Self::of(json::<ConfigJson>(text)?.auths)
    }

    /// `.dockercfg` of a Secret: the `auths` without anything around.
    pub fn docker_cfg(text: &[u8]) -> Result<Self, KeyringError> {
        Self::of(json(text)?)
    }

    fn of(auths: BTreeMap<String, Auth>) -> Result<Self, KeyringError> {
        let mut entries = Vec::new();
        for (key, auth) in auths {
            let bad = || KeyringError::Auth(key.clone());
            let (mut username, mut password) = (auth.username, auth.password);
            if !auth.auth.is_empty() {
                (username, password) = user_and_password(&auth.auth).ok_or_else(bad)?;
            }
            let credential = Credential {
                username,
                password,
                identity_token: auth.identitytoken,
                registry_token: auth.registrytoken,
            };
            entries.push((canonical(&key), credential));
        }
        Ok(Self { entries })
    }

    /// These and then those of `other`.
    #[must_use]
    pub fn and(mut self, other: &Keyring) -> Self {
        self.entries.extend(other.entries.iter().cloned());
        self
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What to try at a registry (`host[:port]`) for a repository, in order.
    pub fn lookup(&self, registry: &str, repository: &str) -> Vec<Credential> {
        let target = canonical(&format!("{registry}/{repository}"));
        let mut found: Vec<_> =
            self.entries.iter().filter(|(key, _)| matches(key, &target)).collect();
        found.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
        let mut out: Vec<Credential> = Vec::new();
        for (_, credential) in found {
            if !out.contains(credential) {
                out.push(credential.clone());
            }
        }
        out
    }
}

fn json<T: serde::de::DeserializeOwned>(text: &[u8]) -> Result<T, KeyringError> {
    // The parser's own message could repeat a part of a password.
    serde_json::from_slice(text).map_err(|error| KeyringError::Json(error.line()))
}

fn user_and_password(auth: &str) -> Option<(String, String)> {
    let auth = auth.trim();
    let bytes = STANDARD.decode(auth).or_else(|_| STANDARD_NO_PAD.decode(auth)).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    // Old clients pad with NUL.
    Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// `host[:port][/path]`: no scheme, no API version, one name for docker.io.
fn canonical(key: &str) -> String {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let path = path.trim_end_matches('/');
    let path = match path.split_once('/') {
        Some(("v1" | "v2", rest)) => rest,
        None if matches!(path, "v1" | "v2") => "",
        _ => path,
    };
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    };
    if path.is_empty() { host.to_owned() } else { format!("{host}/{path}") }
}

fn matches(key: &str, target: &str) -> bool {
    let split = |text: &str| {
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        let (host, port) = host.split_once(':').unwrap_or((host, ""));
        (host.to_owned(), port.to_owned(), path.to_owned())
    };
    let ((host, port, path), (to_host, to_port, to_path)) = (split(key), split(target));
    let labels = || host.split('.').zip(to_host.split('.'));
    port == to_port
        && host.split('.').count() == to_host.split('.').count()
        && labels().all(|(pattern, label)| glob(pattern, label))
        && to_path.starts_with(&path)
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            let ends = (0..=text.len()).filter(|at| text.is_char_boundary(*at));
            ends.map(|at| &text[at..]).any(|tail| glob(rest, tail))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(keyring: &Keyring, registry: &str, repository: &str) -> Vec<String> {
        keyring.lookup(registry, repository).into_iter().map(|one| one.username).collect()
    }

    fn ring(keys: &[&str]) -> Keyring {
        let auths: serde_json::Map<_, _> = keys
            .iter()
            .map(|key| ((*key).to_owned(), serde_json::json!({ "username": key, "password": "p" })))
            .collect();
        Keyring::docker_cfg(serde_json::Value::from(auths).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn both_forms_and_both_ways_to_write_a_password() {
        let auth = STANDARD.encode("me:pass:word");
        let inner = format!(r#"{{"registry.test":{{"auth":"{auth}","email":"x"}}}}"#);
        let old = Keyring::docker_cfg(inner.as_bytes()).unwrap();
        let new =
            Keyring::docker_config_json(format!(r#"{{"auths":{inner}}}"#).as_bytes()).unwrap();
        assert_eq!(old, new);
        let found = &new.lookup("registry.test", "a")[0];
        assert_eq!((found.username.as_str(), found.password.as_str()), ("me", "pass:word"));
        assert!(!format!("{new:?}").contains("pass"), "a password is shown");
    }

    #[test]
    fn what_is_no_credential_is_refused_without_repeating_it() {
        let error = Keyring::docker_cfg(br#"{"r":{"auth":"c2VjcmV0"}}"#).unwrap_err().to_string();
        assert!(error.contains("\"r\"") && !error.contains("c2Vj"), "{error}");
        assert!(Keyring::docker_config_json(b"secret").unwrap_err().to_string().contains("JSON"));
        let helper = br#"{"auths":{},"credsStore":"desktop"}"#;
        assert_eq!(Keyring::node_file(helper), Err(KeyringError::Helper("credsStore")));
        assert!(Keyring::docker_config_json(helper).unwrap().is_empty());
    }

    #[test]
    fn keys_match_as_upstream_has_them() {
        let all = ring(&[
            "registry.test",
            "registry.test/team",
            "https://registry.test/v2/",
            "*.wild.test",
            "other.test:5000",
            "https://index.docker.io/v1/",
        ]);
        assert_eq!(
            users(&all, "registry.test", "team/app"),
            ["registry.test/team", "https://registry.test/v2/", "registry.test"]
        );
        assert_eq!(users(&all, "registry.test", "x").len(), 2);
        assert_eq!(users(&all, "a.wild.test", "x"), ["*.wild.test"]);
        assert!(users(&all, "a.b.wild.test", "x").is_empty());
        assert!(users(&all, "wild.test", "x").is_empty());
        assert!(users(&all, "other.test", "x").is_empty());
        assert_eq!(users(&all, "other.test:5000", "x"), ["other.test:5000"]);
        assert_eq!(users(&all, "docker.io", "library/x"), ["https://index.docker.io/v1/"]);
        assert!(glob("a*c*e", "abcde") && !glob("a*c", "abcd"));
    }

    #[test]
    fn a_pods_own_credentials_come_before_the_nodes() {
        let both = ring(&["registry.test"]).and(&ring(&["https://registry.test"]));
        assert_eq!(users(&both, "registry.test", "x"), ["registry.test", "https://registry.test"]);
    }
}
