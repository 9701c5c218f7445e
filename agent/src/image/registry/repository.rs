//! One repository, at its servers: requests, redirects, and the next server when one fails.
//!
//! A server's `401` is [`super::access`]'s business. Credentials never follow a redirect to another host.

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RANGE,
    USER_AGENT,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use tokio::sync::Mutex;

use super::super::Reference;
use super::super::digest::{self, Digest};
use super::super::manifest::{self, media};
use super::RegistryError;
use super::access::{Access, challenges};
use super::credentials::{Credential, Keyring};
use super::hosts::{Endpoint, Tls};
use super::transport::{self, Transport, TransportError};
use super::tries::Tries;

/// The distribution spec's bound for manifests.
const MAX_MANIFEST: usize = 4 << 20;
const MAX_ERROR: usize = 64 << 10;
const REDIRECTS: usize = 5;

/// A manifest or an index, as it came and verified.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
}

pub(crate) struct Repository<'a> {
    pub(super) transport: &'a Transport,
    pub(super) sites: Vec<Site>,
    pub(super) path: String,
    registry: String,
}

/// One server, and who we are to it.
pub(super) struct Site {
    pub(super) endpoint: Endpoint,
    pub(super) credentials: Vec<Credential>,
    pub(super) access: Mutex<Access>,
}

/// What to ask a server for.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    /// Below the repository: `manifests/<tag>`, `blobs/<digest>`.
    pub(super) path: String,
    pub(super) accept: Option<&'static str>,
    pub(super) range: Option<String>,
    /// For messages.
    pub(super) what: &'a str,
}

impl<'a> Repository<'a> {
    pub(super) fn new(
        transport: &'a Transport,
        image: &Reference,
        endpoints: Vec<Endpoint>,
        keyring: &Keyring,
    ) -> Self {
        let site = |endpoint: Endpoint| Site {
            credentials: keyring.lookup(&endpoint.host, &image.path),
            endpoint,
            access: Mutex::default(),
        };
        let sites = endpoints.into_iter().map(site).collect();
        Self { transport, sites, path: image.path.clone(), registry: image.domain.clone() }
    }

    /// The manifest (or index) of a tag or a digest.
    pub(crate) async fn manifest(&self, reference: &str) -> Result<Fetched, RegistryError> {
        let expected = digest::parse(reference);
        let may = |site: &Site| match expected {
            Some(_) => site.endpoint.pull,
            None => site.endpoint.resolve,
        };
        let mut tries = self.tries(may);
        while let Some(server) = tries.next().await {
            match self.manifest_of(&self.sites[server], reference, expected.as_ref()).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => tries.failed(server, error),
            }
        }
        Err(tries.verdict())
    }

    /// What a tag means now, if a server tells it without sending the manifest.
    pub(crate) async fn head(&self, reference: &str) -> Option<Digest> {
        let what = self.name(reference);
        for site in self.sites.iter().filter(|site| site.endpoint.resolve) {
            let ask = Ask {
                method: Method::HEAD,
                path: format!("manifests/{reference}"),
                accept: Some(media::MANIFESTS),
                range: None,
                what: &what,
            };
            let Ok(answer) = self.ask(site, &ask).await else { continue };
            let found = answer.headers().get("docker-content-digest").and_then(|v| v.to_str().ok());
            return found.and_then(digest::parse);
        }
        None
    }

    pub(super) fn tries(&self, may: impl Fn(&Site) -> bool) -> Tries {
        let able = self.sites.iter().enumerate().filter(|(_, site)| may(site));
        Tries::new(able.map(|(server, _)| server).collect::<Vec<_>>().into_iter())
    }

    pub(super) fn name(&self, reference: &str) -> String {
        let separator = if reference.contains(':') { '@' } else { ':' };
        format!("{}/{}{separator}{reference}", self.registry, self.path)
    }

    async fn manifest_of(
        &self,
        site: &Site,
        reference: &str,
        expected: Option<&Digest>,
    ) -> Result<Fetched, RegistryError> {
        let what = self.name(reference);
        let ask = Ask {
            method: Method::GET,
            path: format!("manifests/{reference}"),
            accept: Some(media::MANIFESTS),
            range: None,
            what: &what,
        };
        let answer = self.ask(site, &ask).await?;
        let text = |name: HeaderName| {
            let value = answer.headers().get(name).and_then(|value| value.to_str().ok());
            value.map(|value| value.split(';').next().unwrap_or_default().trim().to_owned())
        };
        let said = text(HeaderName::from_static("docker-content-digest"));
        let said = said.as_deref().and_then(digest::parse);
        let content_type = text(CONTENT_TYPE).unwrap_or_default();
        let bytes = read(site, answer, MAX_MANIFEST).await?;
        let actual = digest::of(&bytes);
        if let Some(expected) = expected.or(said.as_ref()).filter(|expected| **expected != actual) {
            let message = format!("its digest is {actual}, expected {expected}");
            return Err(RegistryError::Corrupt { host: site.host(), what, message });
        }
        let media_type = manifest::media_type(&bytes).unwrap_or(content_type);
        Ok(Fetched { bytes, media_type, digest: actual })
    }

    /// One request with everything that may be necessary to get a good answer.
    pub(super) async fn ask(
        &self,
        site: &Site,
        ask: &Ask<'_>,
    ) -> Result<Response<Incoming>, RegistryError> {
        let mut header = site.access.lock().await.header.clone();
        // Each refusal uses up a credential, or renews a token once.
        for _ in 0..site.credentials.len() + 3 {
            let answer = self.send(site, ask, header.as_ref()).await?;
            match answer.status() {
                StatusCode::UNAUTHORIZED => {
                    let challenge = challenges(answer.headers());
                    header = self.authorize(site, ask.what, header, challenge).await?;
                }
                // Known, but not for this repository: somebody else may be. The server says how to ask once more.
                StatusCode::FORBIDDEN if site.turn_to_next_credential().await => header = None,
                status if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE => {
                    let mut access = site.access.lock().await;
                    access.proven |= access.header == header;
                    return Ok(answer);
                }
                _ => return Err(refusal(site, ask.what, answer).await),
            }
        }
        Err(site.denied(ask.what, "it asks for credentials again and again"))
    }

    async fn send(
        &self,
        site: &Site,
        ask: &Ask<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, RegistryError> {
        let base = &site.endpoint.base;
        let mut url = format!("{base}/{}/{}", self.path, ask.path);
        if site.endpoint.mirror {
            url = format!("{url}?ns={}", self.registry);
        }
        let mut url: Uri = url.parse().map_err(|_| site.refused(format!("bad URL {url:?}")))?;
        let home = url.clone();
        for _ in 0..=REDIRECTS {
            let at_home = origin(&url) == origin(&home);
            let mut request = Request::builder().method(ask.method.clone()).uri(url.clone());
            let headers =
                request.headers_mut().ok_or_else(|| site.refused("bad request".into()))?;
            headers.insert(USER_AGENT, HeaderValue::from_static(transport::USER_AGENT));
            if let Some(accept) = ask.accept {
                headers.insert(ACCEPT, HeaderValue::from_static(accept));
            }
            if let Some(range) = ask.range.as_ref().and_then(|range| range.parse().ok()) {
                headers.insert(RANGE, range);
            }
            if at_home {
                site.own_headers(headers)?;
                headers.extend(authorization.map(|value| (AUTHORIZATION, value.clone())));
            }
            let request =
                request.body(Full::default()).map_err(|error| site.refused(error.to_string()))?;
            let everywhere = Tls::default();
            let tls = if at_home { &site.endpoint.tls } else { &everywhere };
            let answer =
                self.transport.send(tls, request).await.map_err(|e| site.unreachable(e))?;
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            url = redirect(&url, answer.headers()).map_err(|message| site.refused(message))?;
        }
        Err(site.refused(format!("more than {REDIRECTS} redirects for {}", ask.what)))
    }
}

impl Site {
    pub(super) fn host(&self) -> String {
        let base = &self.endpoint.base;
        let rest = base.split_once("://").map_or(base.as_str(), |(_, rest)| rest);
        rest.split('/').next().unwrap_or_default().to_owned()
    }

    fn own_headers(&self, headers: &mut HeaderMap) -> Result<(), RegistryError> {
        for (name, value) in &self.endpoint.headers {
            let bad = || self.refused(format!("header {name:?} of hosts.toml is not valid"));
            let value: HeaderValue = value.parse().map_err(|_| bad())?;
            headers.append(name.parse::<HeaderName>().map_err(|_| bad())?, value);
        }
        Ok(())
    }

    pub(super) fn transient(&self, message: String) -> RegistryError {
        RegistryError::Transient { host: self.host(), message }
    }

    pub(super) fn refused(&self, message: String) -> RegistryError {
        RegistryError::Refused { host: self.host(), message }
    }

    pub(super) fn denied(&self, what: &str, reason: &str) -> RegistryError {
        RegistryError::Denied { host: self.host(), what: what.into(), reason: reason.into() }
    }

    fn unreachable(&self, error: TransportError) -> RegistryError {
        match error {
            TransportError::Setup(message) => self.refused(message),
            error => self.transient(error.to_string()),
        }
    }
}

pub(super) fn is_plain(uri: &Uri) -> bool {
    uri.scheme_str() != Some("https")
}

fn origin(uri: &Uri) -> (Option<&str>, Option<&str>) {
    (uri.scheme_str(), uri.authority().map(|authority| authority.as_str()))
}

/// Where an answer sends us.
fn redirect(from: &Uri, headers: &HeaderMap) -> Result<Uri, String> {
    let place = headers.get(LOCATION).and_then(|place| place.to_str().ok());
    let place = place.ok_or("a redirect without a place")?;
    let bad = || format!("a redirect to {place:?}, which is no URL");
    let to: Uri = place.parse().map_err(|_| bad())?;
    let to = match to.authority() {
        Some(_) => to,
        None => {
            let mut parts = from.clone().into_parts();
            parts.path_and_query = to.into_parts().path_and_query;
            Uri::from_parts(parts).map_err(|_| bad())?
        }
    };
    match (is_plain(from), to.scheme_str()) {
        (_, Some("https")) | (true, Some("http")) => Ok(to),
        (false, Some("http")) => Err(format!("a redirect from HTTPS to {place}, which is not")),
        _ => Err(bad()),
    }
}

/// A body that has to be small, whole.
pub(super) async fn read(
    site: &Site,
    answer: Response<Incoming>,
    most: usize,
) -> Result<Vec<u8>, RegistryError> {
    let too_long = || site.refused(format!("an answer longer than {most} bytes"));
    let said = answer.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if said.and_then(|value| value.parse::<usize>().ok()).is_some_and(|length| length > most) {
        return Err(too_long());
    }
    let body = Limited::new(answer.into_body(), most).collect();
    match tokio::time::timeout(super::blob::IDLE, body).await {
        Ok(Ok(body)) => Ok(Bytes::into(body.to_bytes())),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_long()),
        Ok(Err(error)) => Err(site.transient(transport::innermost(&*error))),
        Err(_elapsed) => Err(site.transient("the answer stopped coming".into())),
    }
}

/// An answer that is neither good nor a question.
pub(super) async fn refusal(site: &Site, what: &str, answer: Response<Incoming>) -> RegistryError {
    let status = answer.status();
    let body = read(site, answer, MAX_ERROR).await.unwrap_or_default();
    let detail = detail(&body).map(|detail| format!(": {detail}")).unwrap_or_default();
    match status {
        StatusCode::NOT_FOUND => {
            RegistryError::NotFound { host: site.host(), what: what.to_owned() }
        }
        StatusCode::FORBIDDEN => site.denied(what, &format!("{status}{detail}")),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
            site.transient(format!("{what}: {status}{detail}"))
        }
        status if status.is_server_error() => site.transient(format!("{what}: {status}{detail}")),
        status => site.refused(format!("{what}: {status}{detail}")),
    }
}

/// The first error of the distribution spec's list.
fn detail(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let first = &body["errors"][0];
    let text = first["message"].as_str().or_else(|| first["code"].as_str())?;
    Some(text.chars().take(200).collect())
}

#[cfg(test)]
#[path = "repository_tests.rs"]
mod tests;
