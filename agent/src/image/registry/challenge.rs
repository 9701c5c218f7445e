//! What a registry asks for before it answers (`WWW-Authenticate`, RFC 9110), and the request for a token
//! (distribution spec, token authentication). Pure.

use http_auth::ChallengeParser;

/// The strongest way in that a registry offers and we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// Reads all `WWW-Authenticate` headers of one answer. A token is preferred to a password.
pub(crate) fn read<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for header in headers {
        for challenge in ChallengeParser::new(header).map_while(Result::ok) {
            let parameter = |name: &str| {
                let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                let Some(realm) = parameter("realm") else { continue };
                let (service, scope) = (parameter("service"), parameter("scope"));
                return Some(Challenge::Bearer { realm, service, scope });
            }
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

/// What to ask the token server for; the registry's own words come first.
pub(crate) fn token_query(
    service: Option<&str>,
    scope: Option<&str>,
    repository: &str,
    more: &[(&str, &str)],
) -> String {
    let own = format!("repository:{repository}:pull");
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (key, value) in more {
        query.append_pair(key, value);
    }
    if let Some(service) = service {
        query.append_pair("service", service);
    }
    let scope = scope.filter(|scope| !scope.is_empty()).unwrap_or(&own);
    query.append_pair("scope", scope);
    query.finish()
}

/// The token in the token server's answer: `token`, or `access_token` as OAuth2 calls it.
pub(crate) fn token(answer: &[u8]) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_slice(answer).ok()?;
    let text = |name: &str| answer[name].as_str().filter(|token| !token.is_empty());
    text("token").or_else(|| text("access_token")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_as_registries_write_them() {
        let header =
            r#"Bearer realm="https://auth.test/token",service="reg",scope="repository:a/b:pull""#;
        let Some(Challenge::Bearer { realm, service, scope }) = read([header].into_iter()) else {
            panic!("no bearer")
        };
        assert_eq!(realm, "https://auth.test/token");
        assert_eq!(
            (service.as_deref(), scope.as_deref()),
            (Some("reg"), Some("repository:a/b:pull"))
        );
        assert_eq!(read([r#"Basic realm="x y""#].into_iter()), Some(Challenge::Basic));
        assert_eq!(
            read([r#"bAsIc realm="x""#, header].into_iter()).unwrap(),
            read([header].into_iter()).unwrap()
        );
        assert_eq!(read(["Negotiate", ""].into_iter()), None);
        assert_eq!(read([r#"Bearer service="no realm""#].into_iter()), None);
    }

    #[test]
    fn the_token_request_says_what_it_is_for() {
        assert_eq!(
            token_query(Some("the reg"), None, "a/b", &[]),
            "service=the+reg&scope=repository%3Aa%2Fb%3Apull"
        );
        assert_eq!(token_query(None, Some("s"), "a", &[("account", "me")]), "account=me&scope=s");
    }

    #[test]
    fn tokens_have_two_names() {
        assert_eq!(token(br#"{"token":"a","access_token":"b"}"#).as_deref(), Some("a"));
        assert_eq!(token(br#"{"access_token":"b","expires_in":300}"#).as_deref(), Some("b"));
        assert_eq!(token(br#"{"token":""}"#), None);
        assert_eq!(token(b"<html>"), None);
    }
}
