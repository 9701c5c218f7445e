//! Who we are to a server: what it asks for, answered with a password, or with a token that its token server gives.
//!
//! Credentials are tried in order; the one that was good is kept, and a token that expires is fetched anew. Credentials
//! never leave HTTPS for HTTP.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::Full;

use super::RegistryError;
use super::challenge::{self, Challenge};
use super::credentials::Credential;
use super::hosts::Tls;
use super::repository::{Repository, Site, is_plain, read, refusal};
use super::transport;

const MAX_TOKEN: usize = 1 << 20;

#[derive(Default)]
pub(super) struct Access {
    pub(super) header: Option<HeaderValue>,
    /// Which credential is used or to be used.
    credential: usize,
    /// The header was good for something.
    pub(super) proven: bool,
}

impl Repository<'_> {
    /// Another `Authorization` than `used`, which was not good enough.
    pub(super) async fn authorize(
        &self,
        site: &Site,
        what: &str,
        used: Option<HeaderValue>,
        challenge: Option<Challenge>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let mut access = site.access.lock().await;
        if access.header != used {
            // Somebody else was here meanwhile.
            return Ok(access.header.clone());
        }
        if used.is_some() && !access.proven {
            access.credential += 1;
        }
        access.proven = false;
        let Some(challenge) = challenge else {
            return Err(site.denied(what, "it asks for credentials in no way we know"));
        };
        loop {
            let credential = site.credentials.get(access.credential);
            if credential.is_none() && (access.credential > 0 || challenge == Challenge::Basic) {
                let reason = match site.credentials.len() {
                    0 => "it wants credentials, and there are none for it",
                    _ => "the credentials for it are not accepted",
                };
                return Err(site.denied(what, reason));
            }
            match self.header(site, what, credential, &challenge).await {
                Err(RegistryError::Denied { .. }) if !site.credentials.is_empty() => {
                    access.credential += 1;
                }
                Err(error) => return Err(error),
                Ok(header) => {
                    access.header = Some(header);
                    return Ok(access.header.clone());
                }
            }
        }
    }

    async fn header(
        &self,
        site: &Site,
        what: &str,
        credential: Option<&Credential>,
        challenge: &Challenge,
    ) -> Result<HeaderValue, RegistryError> {
        let bearer = |token: &str| secret(site, format!("Bearer {token}"));
        match (challenge, credential) {
            (_, Some(one)) if !one.registry_token.is_empty() => bearer(&one.registry_token),
            (Challenge::Basic, Some(one)) => secret(site, basic(one)),
            (Challenge::Basic, None) => Err(site.denied(what, "it wants credentials")),
            (Challenge::Bearer { realm, service, scope }, one) => {
                let token =
                    self.token(site, what, one, realm, service.as_deref(), scope.as_deref());
                bearer(&token.await?)
            }
        }
    }

    async fn token(
        &self,
        site: &Site,
        what: &str,
        credential: Option<&Credential>,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
    ) -> Result<String, RegistryError> {
        let uri: Uri =
            realm.parse().map_err(|_| site.refused(format!("bad token server {realm:?}")))?;
        if credential.is_some() && site.endpoint.base.starts_with("https:") && is_plain(&uri) {
            let reason = format!("its token server {realm} is not HTTPS, credentials stay here");
            return Err(site.denied(what, &reason));
        }
        let query =
            |more: &[(&str, &str)]| challenge::token_query(service, scope, &self.path, more);
        let request = Request::builder().header(USER_AGENT, transport::USER_AGENT);
        let request = match credential {
            Some(one) if !one.identity_token.is_empty() => {
                let more = [
                    ("grant_type", "refresh_token"),
                    ("client_id", "kobune"),
                    ("refresh_token", one.identity_token.as_str()),
                ];
                request
                    .method(Method::POST)
                    .uri(uri.clone())
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(Full::from(query(&more)))
            }
            one => {
                let separator = if uri.query().is_some() { '&' } else { '?' };
                let mut request = request.uri(format!("{realm}{separator}{}", query(&[])));
                if let Some(one) = one {
                    request = request.header(AUTHORIZATION, secret(site, basic(one))?);
                }
                request.body(Full::default())
            }
        };
        let request = request.map_err(|error| site.refused(error.to_string()))?;
        // A token server beside its registry has the same kind of certificate.
        let near = uri.host() == site.endpoint.host.split(':').next();
        let tls = if near { site.endpoint.tls.clone() } else { Tls::default() };
        let answer = self.transport.send(&tls, request).await.map_err(|error| {
            let message = format!("token server {realm}: {error}");
            RegistryError::Transient { host: site.host(), message }
        })?;
        match answer.status() {
            status if status.is_success() => {
                let answer = read(site, answer, MAX_TOKEN).await?;
                let none = || site.refused(format!("token server {realm} gave no token"));
                challenge::token(&answer).ok_or_else(none)
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                let status = answer.status();
                let reason = format!("token server {realm} answers {status}");
                Err(site.denied(what, &reason))
            }
            _ => Err(refusal(site, &format!("a token of {realm}"), answer).await),
        }
    }
}

impl Site {
    pub(super) async fn turn_to_next_credential(&self) -> bool {
        let mut access = self.access.lock().await;
        let next = access.credential + 1;
        if next >= self.credentials.len() {
            return false;
        }
        *access = Access { credential: next, ..Access::default() };
        true
    }
}

pub(super) fn challenges(headers: &HeaderMap) -> Option<Challenge> {
    let all = headers.get_all(WWW_AUTHENTICATE).iter();
    challenge::read(all.filter_map(|value| value.to_str().ok()))
}

fn basic(credential: &Credential) -> String {
    let pair = format!("{}:{}", credential.username, credential.password);
    format!("Basic {}", STANDARD.encode(pair))
}

fn secret(site: &Site, value: String) -> Result<HeaderValue, RegistryError> {
    let bad = |_| site.refused("the credentials for it do not fit into a header".into());
    let mut value: HeaderValue = value.parse().map_err(bad)?;
    value.set_sensitive(true);
    Ok(value)
}
