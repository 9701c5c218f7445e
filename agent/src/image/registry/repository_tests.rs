//! Requests to scripted servers: who we say we are, where we are sent, whom we ask next.

use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::Registry;
use super::super::scripted::{Scripted, Seen, answer};
use super::*;

const MANIFEST: &[u8] = br#"{"schemaVersion":2}"#;

/// A node's configuration and an image on `server`.
struct Node {
    dir: tempfile::TempDir,
    image: Reference,
    keyring: Keyring,
}

impl Node {
    fn new(server: &Scripted) -> Self {
        let image = Reference::parse(&format!("{}/team/app:1", server.host())).unwrap();
        Self { dir: tempfile::tempdir().unwrap(), image, keyring: Keyring::default() }
    }

    fn login(mut self, users: &[&str]) -> Self {
        for user in users {
            let auths =
                serde_json::json!({ &self.image.domain: { "username": user, "password": "pw" } });
            let ring = Keyring::docker_cfg(auths.to_string().as_bytes()).unwrap();
            self.keyring = self.keyring.and(&ring);
        }
        self
    }

    fn hosts(&self, text: &str) {
        let dir = self.dir.path().join(&self.image.domain);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("hosts.toml"), text).unwrap();
    }

    async fn manifest(&self) -> Result<Fetched, RegistryError> {
        let registry = Registry::new(self.dir.path(), &self.dir.path().join("config.json"));
        registry.repository(&self.image, &self.keyring)?.manifest("1").await
    }
}

fn good() -> Vec<u8> {
    answer("200 OK", &[("Content-Type", media::OCI_MANIFEST)], MANIFEST)
}

fn wants(challenge: &str) -> Vec<u8> {
    answer("401 Unauthorized", &[("WWW-Authenticate", challenge)], b"")
}

/// `Basic` of a user whose password is `pw`.
fn is_user(seen: &Seen, user: &str) -> bool {
    let expected = format!("Basic {}", STANDARD.encode(format!("{user}:pw")));
    seen.header("authorization") == Some(expected.as_str())
}

#[tokio::test]
async fn a_manifest_has_its_digest_and_its_type() {
    let server = Scripted::new(|_| good());
    let fetched = Node::new(&server).manifest().await.unwrap();
    assert_eq!(fetched.digest, digest::of(MANIFEST));
    assert_eq!(fetched.media_type, media::OCI_MANIFEST);
    assert_eq!(server.lines(), ["GET /v2/team/app/manifests/1"]);
    assert!(server.seen()[0].header("accept").unwrap().contains(media::DOCKER_INDEX));
}

#[tokio::test]
async fn a_password_is_given_only_when_it_is_asked_for() {
    let server = Scripted::new(|seen| match is_user(seen, "me") {
        true => good(),
        false => wants("Basic realm=\"r\""),
    });
    Node::new(&server).login(&["me"]).manifest().await.unwrap();
    assert_eq!(server.seen()[0].header("authorization"), None);
    assert_eq!(server.lines().len(), 2);
    let error = Node::new(&server).manifest().await.unwrap_err().to_string();
    assert!(error.contains("there are none for it"), "{error}");
    let error = Node::new(&server).login(&["you"]).manifest().await.unwrap_err().to_string();
    assert!(error.contains("not accepted") && !error.contains("pw"), "{error}");
}

#[tokio::test]
async fn credentials_are_tried_in_order() {
    for refusal in ["401 Unauthorized", "403 Forbidden"] {
        let server = Scripted::new(move |seen| match seen.header("authorization") {
            None => wants("Basic realm=\"r\""),
            Some(_) if is_user(seen, "third") => good(),
            Some(_) => answer(refusal, &[("WWW-Authenticate", "Basic realm=\"r\"")], b""),
        });
        Node::new(&server).login(&["first", "second", "third"]).manifest().await.unwrap();
        let users = ["first", "second", "third"];
        let order: Vec<_> = server
            .seen()
            .iter()
            .filter_map(|seen| users.iter().position(|user| is_user(seen, user)))
            .collect();
        assert_eq!(order, [0, 1, 2], "{refusal}");
    }
}

/// A registry that wants `Bearer good`, and its token server beside it.
fn with_tokens(gives: impl Fn(&Seen) -> Vec<u8> + Send + Sync + 'static) -> Scripted {
    let tokens = Scripted::new(gives);
    let realm = format!("http://{}/token", tokens.host());
    Scripted::new(move |seen| match seen.header("authorization") {
        Some("Bearer good") => good(),
        _ => wants(&format!(
            "Bearer realm=\"{realm}\",service=\"reg\",scope=\"repository:team/app:pull\""
        )),
    })
}

#[tokio::test]
async fn a_token_is_fetched_with_or_without_a_name() {
    let anonymous = with_tokens(|seen| {
        assert_eq!(seen.header("authorization"), None);
        assert_eq!(seen.line, "GET /token?service=reg&scope=repository%3Ateam%2Fapp%3Apull");
        answer("200 OK", &[], br#"{"token":"good"}"#)
    });
    Node::new(&anonymous).manifest().await.unwrap();
    let named = with_tokens(|seen| match is_user(seen, "me") {
        true => answer("200 OK", &[], br#"{"access_token":"good"}"#),
        false => answer("401 Unauthorized", &[], b"{}"),
    });
    Node::new(&named).login(&["other", "me"]).manifest().await.unwrap();
    let error = Node::new(&named).login(&["other"]).manifest().await.unwrap_err();
    assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
}

#[tokio::test]
async fn an_identity_token_is_exchanged() {
    let server = with_tokens(|seen| {
        let exchanged = seen.line == "POST /token" && seen.body.contains("refresh_token=ident");
        assert!(exchanged && seen.body.contains("grant_type=refresh_token"), "{seen:?}");
        answer("200 OK", &[], br#"{"access_token":"good"}"#)
    });
    let mut node = Node::new(&server);
    let auths = serde_json::json!({ &node.image.domain: { "identitytoken": "ident" } });
    node.keyring = Keyring::docker_cfg(auths.to_string().as_bytes()).unwrap();
    node.manifest().await.unwrap();
}

#[tokio::test]
async fn a_token_that_expires_is_fetched_anew() {
    let count = std::sync::Arc::new(AtomicUsize::new(0));
    let made = std::sync::Arc::clone(&count);
    let tokens = Scripted::new(move |_| {
        let number = made.fetch_add(1, Ordering::SeqCst);
        answer("200 OK", &[], format!(r#"{{"token":"t{number}"}}"#).as_bytes())
    });
    let realm = format!("http://{}/token", tokens.host());
    let uses = AtomicUsize::new(0);
    let server = Scripted::new(move |seen| {
        // Each token is good for two requests.
        let token = format!("Bearer t{}", uses.load(Ordering::SeqCst) / 2);
        if seen.header("authorization") == Some(token.as_str()) {
            uses.fetch_add(1, Ordering::SeqCst);
            return good();
        }
        wants(&format!("Bearer realm=\"{realm}\""))
    });
    let node = Node::new(&server);
    let registry = Registry::new(node.dir.path(), node.dir.path());
    let registry = Registry { auth_file: node.dir.path().join("none"), ..registry };
    let repository = registry.repository(&node.image, &node.keyring).unwrap();
    for _ in 0..6 {
        repository.manifest("1").await.unwrap();
    }
    assert_eq!(count.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_redirect_is_followed_without_credentials() {
    let store = Scripted::new(|_| good());
    let place = format!("http://{}/elsewhere", store.host());
    let server = Scripted::new(move |seen| match is_user(seen, "me") {
        true => answer("307 Temporary Redirect", &[("Location", &place)], b""),
        false => wants("Basic realm=\"r\""),
    });
    Node::new(&server).login(&["me"]).manifest().await.unwrap();
    assert_eq!(store.lines(), ["GET /elsewhere"]);
    assert_eq!(store.seen()[0].header("authorization"), None);
}

#[test]
fn where_a_redirect_may_lead() {
    let to = |from: &str, place: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, place.parse().unwrap());
        redirect(&from.parse().unwrap(), &headers).map(|uri| uri.to_string())
    };
    assert_eq!(to("http://a.test/x", "/y?z"), Ok("http://a.test/y?z".into()));
    assert_eq!(to("http://a.test/x", "https://b.test/y"), Ok("https://b.test/y".into()));
    assert!(to("https://a.test/x", "http://b.test/y").is_err());
    assert!(to("http://a.test/x", "file:///etc/passwd").is_err());
}

#[tokio::test]
async fn mirrors_are_asked_first_and_told_for_whom() {
    let mirror = Scripted::new(|_| good());
    let dead = Scripted::new(|_| answer("500 Oh", &[], b""));
    let server = Scripted::new(|_| good());
    let node = Node::new(&server);
    node.hosts(&format!(
        "[host.\"http://{}\"]\n[host.\"http://{}\"]\n[host.\"http://{}\".header]\nx-boat = \"small\"\n",
        dead.host(),
        mirror.host(),
        mirror.host()
    ));
    node.manifest().await.unwrap();
    let registry = server.host();
    assert_eq!(dead.lines(), [format!("GET /v2/team/app/manifests/1?ns={registry}")]);
    assert_eq!(mirror.seen()[0].header("x-boat"), Some("small"));
    assert!(server.lines().is_empty());
}

#[tokio::test]
async fn what_a_mirror_lacks_the_registry_has() {
    let mirror = Scripted::new(|_| answer("404 Not Found", &[], b""));
    let server = Scripted::new(|_| good());
    let node = Node::new(&server);
    node.hosts(&format!("[host.\"http://{}\"]\n", mirror.host()));
    node.manifest().await.unwrap();
    let empty = Scripted::new(|_| {
        answer("404 Not Found", &[], br#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#)
    });
    let node = Node::new(&empty);
    let error = node.manifest().await.unwrap_err();
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error}");
    assert!(error.to_string().ends_with("/team/app:1 not found"), "{error}");
    assert_eq!(empty.lines().len(), 1, "asked again in vain");
}

#[tokio::test]
async fn a_manifest_that_is_not_what_it_says_is_refused() {
    let other = digest::of(b"other").to_string();
    let server =
        Scripted::new(move |_| answer("200 OK", &[("Docker-Content-Digest", &other)], MANIFEST));
    let error = Node::new(&server).manifest().await.unwrap_err();
    assert!(matches!(error, RegistryError::Corrupt { .. }), "{error}");
    let endless = Scripted::new(|_| answer("200 OK", &[("Content-Length", "9999999")], b""));
    let error = Node::new(&endless).manifest().await.unwrap_err().to_string();
    assert!(error.contains("longer than"), "{error}");
}

#[tokio::test]
async fn a_registry_that_is_busy_is_asked_again() {
    let count = AtomicUsize::new(0);
    let server = Scripted::new(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => answer("503 Service Unavailable", &[], b""),
        1 => answer("429 Too Many Requests", &[], b""),
        _ => good(),
    });
    Node::new(&server).manifest().await.unwrap();
}

#[tokio::test]
async fn settings_that_cannot_be_read_are_named() {
    let server = Scripted::new(|_| good());
    let node = Node::new(&server);
    node.hosts("skip_verfy = true");
    let error = node.manifest().await.unwrap_err().to_string();
    assert!(error.contains("hosts.toml") && error.contains("skip_verfy"), "{error}");
    let node = Node::new(&server);
    std::fs::write(node.dir.path().join("config.json"), "{").unwrap();
    let error = node.manifest().await.unwrap_err().to_string();
    assert!(error.contains("config.json"), "{error}");
}
