//! The certificate is renewed by the certificate, long before it ends; whoever talks to the API notices nothing.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use tokio_util::sync::CancellationToken;

use super::held::Held;
use super::request;
use crate::cli::Failure;

/// The clock is looked at at least this often: it may be set.
const LOOK: Duration = Duration::from_secs(3600);
const RETRY: Duration = Duration::from_secs(60);

/// The client with the newest certificate.
#[derive(Clone)]
pub(super) struct Current(Arc<RwLock<Client>>);

impl Current {
    pub(super) fn new(client: Client) -> Self {
        Self(Arc::new(RwLock::new(client)))
    }

    fn newest(&self) -> Client {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Watches that run go on over the connection that they have.
    fn replace(&self, client: Client) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = client;
    }

    /// One that asks the newest, whenever it is asked.
    pub(super) fn client(&self) -> Client {
        let current = self.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let newest = current.newest();
            async move { newest.send(request).await }
        });
        Client::new(service, "default")
    }
}

#[derive(Debug, PartialEq)]
enum Step {
    Renew,
    Wait(Duration),
}

/// Upstream's rule: after 70 to 90 % of the lifetime; `spread` (0 to 1) says where, so that nodes that came together do not ask
/// together. Pure.
fn step(from: Timestamp, until: Timestamp, spread: f64, now: Timestamp) -> Step {
    let lifetime = Duration::try_from(until.duration_since(from)).unwrap_or_default();
    let due = from + lifetime.mul_f64(0.7 + 0.2 * spread.clamp(0.0, 1.0));
    match Duration::try_from(due.duration_since(now)) {
        Ok(left) if !left.is_zero() => Step::Wait(left.min(LOOK)),
        _ => Step::Renew,
    }
}

#[derive(Clone)]
pub(super) struct Rotation {
    current: Current,
    url: http::Uri,
    pki: PathBuf,
    held: Held,
    node: String,
}

impl Rotation {
    pub(super) fn new(
        current: Current,
        url: http::Uri,
        pki: PathBuf,
        held: Held,
        node: String,
    ) -> Self {
        Self { current, url, pki, held, node }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut spread = random();
        loop {
            let wait = match step(self.held.from, self.held.until, spread, Timestamp::now()) {
                Step::Wait(wait) => wait,
                Step::Renew => match self.renew().await {
                    Ok(()) => {
                        spread = random();
                        tracing::info!(until = %self.held.until, "the node's certificate is renewed");
                        continue;
                    }
                    Err(error) => {
                        tracing::warn!(%error, until = %self.held.until, "renew the node's certificate");
                        RETRY
                    }
                },
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn renew(&mut self) -> Result<(), Failure> {
        let pair = request::certificate(&self.current.newest(), &self.node).await?;
        let held = Held::new(pair, self.held.ca.clone(), &self.node)?;
        let client = held.client(&self.url)?;
        held.save(&self.pki)?;
        self.current.replace(client);
        self.held = held;
        Ok(())
    }
}

fn random() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0
}

#[cfg(test)]
mod tests {
    use super::super::held::tests::held;
    use super::*;

    #[test]
    fn a_certificate_is_renewed_in_its_last_third() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let table = [
            (0.0, 0, Step::Wait(Duration::from_secs(700))),
            (0.0, 699, Step::Wait(Duration::from_secs(1))),
            (0.0, 700, Step::Renew),
            (1.0, 700, Step::Wait(Duration::from_secs(200))),
            (1.0, 900, Step::Renew),
            (0.5, 2000, Step::Renew),
        ];
        for (spread, now, wanted) in table {
            assert_eq!(step(at(0), at(1000), spread, at(now)), wanted, "{spread} {now}");
        }
        let year = 365 * 86400;
        assert_eq!(step(at(0), at(year), 0.0, at(0)), Step::Wait(LOOK));
        assert_eq!(step(at(10), at(10), 0.0, at(10)), Step::Renew);
    }

    fn answering(with: &'static str) -> Client {
        let service = tower::service_fn(move |_: http::Request<Body>| async move {
            Ok::<_, std::convert::Infallible>(http::Response::new(Body::from(
                with.as_bytes().to_vec(),
            )))
        });
        Client::new(service, "default")
    }

    #[tokio::test]
    async fn everybody_talks_with_the_newest_certificate() {
        let current = Current::new(answering("old"));
        let client = current.client();
        let ask = async || {
            let request = http::Request::get("/x").body(Vec::new()).unwrap();
            client.request_text(request).await.unwrap()
        };
        assert_eq!(ask().await, "old");
        current.replace(answering("new"));
        assert_eq!(ask().await, "new");
    }

    /// The API signs what it is asked for; here somebody plays it.
    #[tokio::test]
    async fn a_renewed_certificate_is_kept_and_used() {
        let dir = tempfile::tempdir().unwrap();
        let signed = Arc::new(RwLock::new(None::<serde_json::Value>));
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let signed = signed.clone();
            async move {
                let creates = request.method() == http::Method::POST;
                let bytes = http_body_util::BodyExt::collect(request.into_body()).await?.to_bytes();
                if creates {
                    let csr: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                    *signed.write().unwrap() = Some(sign(csr));
                }
                let csr = signed.read().unwrap().clone().unwrap();
                let body = match creates {
                    true => csr,
                    false => {
                        serde_json::json!({"metadata": {"resourceVersion": "1"}, "items": [csr]})
                    }
                };
                let body = Body::from(body.to_string().into_bytes());
                Ok::<_, kube::Error>(http::Response::new(body))
            }
        });
        let old = held("n");
        let url = "https://127.0.0.1:1".parse().unwrap();
        let current = Current::new(Client::new(service, "default"));
        let pki = dir.path().to_path_buf();
        let mut rotation = Rotation::new(current, url, pki.clone(), old.clone(), "n".into());
        rotation.renew().await.unwrap();
        assert_ne!(rotation.held.pair.key, old.pair.key, "a new key");
        assert!(rotation.held.until > old.until);
        let kept = Held::load(&pki, "n").unwrap().unwrap();
        assert_eq!(kept.pair.certificate.trim(), rotation.held.pair.certificate.trim());
    }

    fn sign(mut csr: serde_json::Value) -> serde_json::Value {
        let asked: k8s_openapi::ByteString =
            serde_json::from_value(csr["spec"]["request"].clone()).unwrap();
        let pem = String::from_utf8(asked.0).unwrap();
        let mut asked = rcgen::CertificateSigningRequestParams::from_pem(&pem).unwrap();
        asked.params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let issuer = rcgen::Issuer::new(rcgen::CertificateParams::default(), key);
        let certificate = asked.signed_by(&issuer).unwrap().pem();
        csr["metadata"]["name"] = "c".into();
        csr["status"] =
            serde_json::json!({"certificate": k8s_openapi::ByteString(certificate.into_bytes())});
        csr
    }
}
