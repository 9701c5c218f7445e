//! What is written into a volume, and how it is changed.

use super::*;
use crate::container::env::TokenWish;
use crate::container::resources::HostSize;

fn pod() -> Pod {
    let text = r#"{"metadata":{"name":"p","namespace":"ns","labels":{"a":"1","b":"2"}},
        "spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":"1500m"}}}]}}"#;
    serde_json::from_str(text).unwrap()
}

fn sources() -> Sources {
    let map: ConfigMap =
        serde_json::from_str(r#"{"data":{"k":"v","l":"w"},"binaryData":{"b":"AAE="}}"#).unwrap();
    let secret: Secret = serde_json::from_str(r#"{"data":{"s":"aGk="}}"#).unwrap();
    let mut sources = Sources::default();
    sources.config_maps.insert("m".into(), Some(map));
    sources.config_maps.insert("gone".into(), None);
    sources.secrets.insert("s".into(), Some(secret));
    sources
}

fn of(volume: &str) -> Result<Vec<(String, String, u32)>, String> {
    let pod = pod();
    let facts = PodFacts {
        pod: &pod,
        pod_ip: Some("10.0.0.2".into()),
        host_ip: "1.2.3.4".into(),
        hostname: "p".into(),
        host: HostSize::default(),
    };
    let volume: Volume = serde_json::from_str(volume).unwrap();
    let payload = payload(&volume, &facts, &sources())
        .map_err(|error| error.to_string())?
        .expect("a payload");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ok(payload.into_iter().map(|(path, file)| (path, text(file.bytes), file.mode)).collect())
}

fn file(path: &str, text: &str, mode: u32) -> (String, String, u32) {
    (path.into(), text.into(), mode)
}

#[test]
fn config_maps_and_secrets() {
    assert_eq!(
        of(r#"{"name":"v","configMap":{"name":"m"}}"#).unwrap(),
        [file("b", "\0\u{1}", 0o644), file("k", "v", 0o644), file("l", "w", 0o644)]
    );
    let items = r#"{"name":"v","configMap":{"name":"m","defaultMode":256,"items":[{"key":"k","path":"a/b"},
        {"key":"l","path":"l","mode":511}]}}"#;
    assert_eq!(of(items).unwrap(), [file("a/b", "v", 0o400), file("l", "w", 0o777)]);
    assert_eq!(
        of(r#"{"name":"v","secret":{"secretName":"s"}}"#).unwrap(),
        [file("s", "hi", 0o644)]
    );
}

#[test]
fn what_is_missing_is_an_error_unless_optional() {
    let missing = of(r#"{"name":"v","configMap":{"name":"gone"}}"#).unwrap_err();
    assert_eq!(missing, "configmap \"ns/gone\" not found");
    assert!(of(r#"{"name":"v","configMap":{"name":"gone","optional":true}}"#).unwrap().is_empty());
    let key = of(r#"{"name":"v","configMap":{"name":"m","items":[{"key":"x","path":"x"}]}}"#)
        .unwrap_err();
    assert!(key.contains("non-existent config key: x"), "{key}");
}

#[test]
fn paths_stay_inside_the_volume() {
    for path in ["../x", "/x", "a/../../x", "..data", ""] {
        let volume = format!(
            r#"{{"name":"v","configMap":{{"name":"m","items":[{{"key":"k","path":"{path}"}}]}}}}"#
        );
        assert!(of(&volume).unwrap_err().contains("not allowed"), "{path:?}");
    }
}

#[test]
fn downward_api_and_projections() {
    let downward = r#"{"name":"v","downwardAPI":{"items":[{"path":"labels","fieldRef":{"fieldPath":"metadata.labels"}},
        {"path":"cpu","resourceFieldRef":{"containerName":"c","resource":"limits.cpu"}}]}}"#;
    assert_eq!(
        of(downward).unwrap(),
        [file("cpu", "2", 0o644), file("labels", "a=\"1\"\nb=\"2\"", 0o644)]
    );
    let projected = r#"{"name":"v","projected":{"defaultMode":288,"sources":[{"secret":{"name":"s"}},
        {"configMap":{"name":"m","items":[{"key":"k","path":"k"}]}}]}}"#;
    assert_eq!(of(projected).unwrap(), [file("k", "v", 0o440), file("s", "hi", 0o440)]);
}

const TOKENS: &str = r#"{"name":"v","projected":{"defaultMode":420,"sources":[
    {"serviceAccountToken":{"path":"token","expirationSeconds":3607}},
    {"serviceAccountToken":{"path":"vault/token","audience":"vault"}}]}}"#;

fn tokens(spec: &str) -> Vec<(String, String, u32, Option<u32>)> {
    let text = format!(r#"{{"metadata":{{"name":"p","namespace":"ns"}},"spec":{spec}}}"#);
    let pod: Pod = serde_json::from_str(&text).unwrap();
    let facts = PodFacts {
        pod: &pod,
        pod_ip: None,
        host_ip: "1.2.3.4".into(),
        hostname: "p".into(),
        host: HostSize::default(),
    };
    let mut sources = sources();
    for (audience, seconds, token) in [("", 3607, "mine"), ("vault", 3600, "theirs")] {
        let wish = TokenWish { audience: audience.into(), seconds };
        sources.tokens.insert(wish, token.into());
    }
    let volume: Volume = serde_json::from_str(TOKENS).unwrap();
    let payload = payload(&volume, &facts, &sources).unwrap().expect("a payload");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    payload.into_iter().map(|(path, f)| (path, text(f.bytes), f.mode, f.owner)).collect()
}

#[test]
fn tokens_are_for_those_who_run() {
    let both = |mode: u32, owner: Option<u32>| {
        [
            ("token".into(), "mine".into(), mode, owner),
            ("vault/token".into(), "theirs".into(), mode, owner),
        ]
    };
    let table = [
        (r#"{"containers":[{"name":"a"}]}"#, both(0o644, None)),
        (
            r#"{"securityContext":{"runAsUser":7},"containers":[{"name":"a"},{"name":"b"}]}"#,
            both(0o600, Some(7)),
        ),
        (
            r#"{"securityContext":{"runAsUser":7},"containers":[{"name":"a"},{"name":"b","securityContext":{"runAsUser":8}}]}"#,
            both(0o644, None),
        ),
        (
            r#"{"containers":[{"name":"a","securityContext":{"runAsUser":7}},{"name":"b"}]}"#,
            both(0o644, None),
        ),
        (r#"{"securityContext":{"fsGroup":9},"containers":[{"name":"a"}]}"#, both(0o600, None)),
    ];
    for (spec, expected) in table {
        assert_eq!(tokens(spec), expected, "{spec}");
    }
    let missing = of(TOKENS).unwrap_err();
    assert!(missing.contains("no token of the service account"), "{missing}");
}
