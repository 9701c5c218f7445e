//! Bootstrap tokens: `<id>.<secret>`, for machines that have nothing else yet. A token is a Secret of `kube-system`, and is good
//! as long as that says so. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use super::same;
use crate::api::UserInfo;
use crate::reader::Reader;

pub(crate) const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const PREFIX: &str = "bootstrap-token-";
const GROUP: &str = "system:bootstrappers";

/// Id and secret, if it looks like one.
pub(super) fn parse(token: &str) -> Option<(&str, &str)> {
    let plain = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    token.split_once('.').filter(|(id, secret)| plain(id, 6) && plain(secret, 16))
}

/// Whose token it is; the error is for the log, not for whoever asks.
pub(super) fn user(
    world: &dyn Reader,
    (id, secret): (&str, &str),
    now: Timestamp,
) -> Result<UserInfo, &'static str> {
    let stored =
        world.get("secrets", NAMESPACE, &format!("{PREFIX}{id}")).ok_or("no such token")?;
    if stored.meta.deletion_timestamp.is_some() {
        return Err("the token is being deleted");
    }
    let stored = stored.view::<Secret>().map_err(|_| "the token's Secret cannot be read")?;
    if stored.type_.as_deref() != Some(TYPE) {
        return Err("the Secret is no token");
    }
    if field(&stored, "token-id") != id {
        return Err("the Secret's name does not have its id");
    }
    if !same(secret, field(&stored, "token-secret")) {
        return Err("the secret is another");
    }
    match expiry(&stored) {
        Expiry::Never => {}
        Expiry::At(until) if now < until => {}
        Expiry::At(_) => return Err("the token has expired"),
        Expiry::Unreadable => return Err("the token's expiration cannot be read"),
    }
    if field(&stored, "usage-bootstrap-authentication") != "true" {
        return Err("the token is not for authentication");
    }
    let extra: Vec<&str> = field(&stored, "auth-extra-groups")
        .split(',')
        .map(str::trim)
        .filter(|g| !g.is_empty())
        .collect();
    if !extra.iter().all(|group| is_group(group)) {
        return Err("the token has a group that is none of bootstrappers");
    }
    let groups = [&[GROUP][..], &extra, &["system:authenticated"]].concat();
    Ok(UserInfo::new(&format!("system:bootstrap:{id}"), &groups))
}

/// `system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]`
fn is_group(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix(':')) else {
        return false;
    };
    let end = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    rest.len() <= 256
        && rest.bytes().all(|b| end(b) || b == b':' || b == b'-')
        && rest.bytes().last().is_some_and(end)
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Expiry {
    Never,
    At(Timestamp),
    Unreadable,
}

/// When a Secret stops to be a token; None when it is none.
pub(crate) fn expiry_of(secret: &Secret) -> Option<Expiry> {
    (secret.type_.as_deref() == Some(TYPE)).then(|| expiry(secret))
}

fn expiry(secret: &Secret) -> Expiry {
    match field(secret, "expiration") {
        "" => Expiry::Never,
        text => text.parse().map_or(Expiry::Unreadable, Expiry::At),
    }
}

fn field<'s>(secret: &'s Secret, key: &str) -> &'s str {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    bytes.and_then(|bytes| std::str::from_utf8(&bytes.0).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::{Value, json};

    use super::*;
    use crate::admission::testing::World;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;
    const SECRET: &str = "0123456789abcdef";

    fn token(changes: &[(&str, Option<&str>)]) -> Value {
        let mut data = json!({});
        let usual = [
            ("token-id", "abcdef"),
            ("token-secret", SECRET),
            ("usage-bootstrap-authentication", "true"),
            ("expiration", "1970-01-01T00:01:00Z"),
            ("auth-extra-groups", "system:bootstrappers:kubeadm:default-node-token"),
        ];
        let usual = usual.map(|(key, value)| (key, Some(value)));
        for (key, value) in usual.iter().chain(changes) {
            data[key] = value.map_or(Value::Null, |value| STANDARD.encode(value).into());
        }
        data.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        json!({"metadata": {"name": "bootstrap-token-abcdef", "namespace": NAMESPACE},
            "type": TYPE, "data": data})
    }

    fn ask(secret: Value, now: Timestamp) -> Result<UserInfo, &'static str> {
        user(&World::of([("secrets", secret)]), ("abcdef", SECRET), now)
    }

    #[test]
    fn a_token_is_a_secret_that_has_not_expired() {
        let user = ask(token(&[]), NOW).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(
            user.groups,
            [
                "system:bootstrappers",
                "system:bootstrappers:kubeadm:default-node-token",
                "system:authenticated"
            ]
        );
        assert!(ask(token(&[("expiration", None)]), NOW).is_ok());
        let minute = Timestamp::from_second(60).unwrap();
        assert!(ask(token(&[]), minute).is_err());
        for wrong in [
            ("token-id", "abcdeg"),
            ("token-secret", "0123456789abcdeg"),
            ("usage-bootstrap-authentication", "false"),
            ("expiration", "tomorrow"),
            ("auth-extra-groups", "system:masters"),
            ("auth-extra-groups", "system:bootstrappers:"),
            ("auth-extra-groups", "system:bootstrappers:X"),
        ] {
            assert!(ask(token(&[(wrong.0, Some(wrong.1))]), NOW).is_err(), "{wrong:?}");
        }
        let mut opaque = token(&[]);
        opaque["type"] = "Opaque".into();
        assert!(ask(opaque, NOW).is_err());
        let mut ending = token(&[]);
        ending["metadata"]["deletionTimestamp"] = "1970-01-01T00:00:00Z".into();
        assert!(ask(ending, NOW).is_err());
    }

    #[test]
    fn what_tokens_look_like() {
        assert_eq!(parse("abcdef.0123456789abcdef"), Some(("abcdef", SECRET)));
        for other in [
            "",
            "abcdef",
            "abcde.0123456789abcdef",
            "ABCDEF.0123456789abcdef",
            "a.b.c",
            "abcdef.0123456789abcde.",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
