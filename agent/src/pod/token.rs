//! Tokens of a Pod's service account, for its projected volumes: asked for as the node, bound to the Pod, asked for
//! again before they end. They are held in memory only; after a restart of the agent new ones are written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::Instant;

use super::worker::Msg;
use crate::container::env::TokenWish;

/// However long a token lives, a day is enough.
const OLDEST: Duration = Duration::from_secs(24 * 60 * 60);
/// The API did not answer: the old token is good for a fifth of its life.
const RETRY: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("failed to fetch token: {0}")]
    Request(#[from] kube::Error),
    #[error("failed to fetch token: the answer of the API holds none")]
    Empty,
}

struct Held {
    token: String,
    renew: Instant,
    until: Instant,
}

/// The tokens of one Pod.
pub(super) struct Tokens {
    held: Mutex<BTreeMap<TokenWish, Held>>,
    /// When the first of them is to be renewed.
    due: watch::Sender<Option<Instant>>,
}

impl Tokens {
    pub(super) fn new() -> Self {
        Self { held: Mutex::default(), due: watch::channel(None).0 }
    }

    /// A good token for each wish; only what is missing or old is asked for.
    pub(super) async fn fetch(
        &self,
        client: &Client,
        pod: &Pod,
        wishes: BTreeSet<TokenWish>,
    ) -> Result<BTreeMap<TokenWish, String>, TokenError> {
        let mut out = BTreeMap::new();
        if wishes.is_empty() {
            return Ok(out);
        }
        let mut held = self.held.lock().await;
        for wish in wishes {
            let token = match renewed(client, pod, &wish, held.get(&wish)).await? {
                None => held[&wish].token.clone(),
                Some(fresh) => {
                    let token = fresh.token.clone();
                    held.insert(wish.clone(), fresh);
                    self.due.send_replace(held.values().map(|one| one.renew).min());
                    token
                }
            };
            out.insert(wish, token);
        }
        Ok(out)
    }

    /// Tells the worker when the volumes need new tokens; at once if they were written by an agent before this one.
    pub(super) async fn renew(self: Arc<Self>, inherited: bool, inbox: mpsc::UnboundedSender<Msg>) {
        let mut due = self.due.subscribe();
        if inherited {
            let _ = inbox.send(Msg::SourcesChanged);
        }
        loop {
            let at = *due.borrow_and_update();
            tokio::select! {
                _ = due.changed() => continue,
                () = super::worker::sleep_until(at) => {}
            }
            let _ = inbox.send(Msg::SourcesChanged);
            let _ = tokio::time::timeout(RETRY, due.changed()).await;
        }
    }
}

/// None if the one that is there will do.
async fn renewed(
    client: &Client,
    pod: &Pod,
    wish: &TokenWish,
    held: Option<&Held>,
) -> Result<Option<Held>, TokenError> {
    let now = Instant::now();
    if held.is_some_and(|held| now < held.renew) {
        return Ok(None);
    }
    match (request(client, pod, wish).await, held) {
        (Err(error), Some(held)) if now < held.until => {
            tracing::warn!(%error, pod = ?pod.metadata.name, "renew a token");
            Ok(None)
        }
        (result, _) => result.map(Some),
    }
}

async fn request(client: &Client, pod: &Pod, wish: &TokenWish) -> Result<Held, TokenError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
    let asked = TokenRequest { spec: spec(pod, wish), ..TokenRequest::default() };
    let answer = accounts
        .create_token_request(account.unwrap_or("default"), &PostParams::default(), &asked)
        .await?;
    let status = answer.status.filter(|status| !status.token.is_empty());
    let status = status.ok_or(TokenError::Empty)?;
    let left = status.expiration_timestamp.0.duration_since(Timestamp::now());
    let lifetime = Duration::try_from(left).unwrap_or_default();
    let now = Instant::now();
    Ok(Held { token: status.token, renew: now + renew_after(lifetime), until: now + lifetime })
}

fn spec(pod: &Pod, wish: &TokenWish) -> TokenRequestSpec {
    TokenRequestSpec {
        // None: for the API itself.
        audiences: Some(wish.audience.clone())
            .filter(|name| !name.is_empty())
            .into_iter()
            .collect(),
        expiration_seconds: Some(wish.seconds),
        bound_object_ref: Some(BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
        }),
    }
}

fn renew_after(lifetime: Duration) -> Duration {
    (lifetime / 5 * 4).min(OLDEST)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use kube::client::Body;

    use super::*;

    fn wish(audience: &str) -> TokenWish {
        TokenWish { audience: audience.into(), seconds: 600 }
    }

    fn pod() -> Pod {
        let text = r#"{"metadata":{"name":"p","namespace":"ns","uid":"u"},"spec":{"containers":[],"serviceAccountName":"sa"}}"#;
        serde_json::from_str(text).unwrap()
    }

    /// Answers with tokens that count; from the `fails`th request on not at all.
    fn client(fails: u64) -> (Client, Arc<AtomicU64>) {
        let asked = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&asked);
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let number = count.fetch_add(1, Ordering::Relaxed);
            let path = "/api/v1/namespaces/ns/serviceaccounts/sa/token";
            assert_eq!(request.uri().path(), path);
            async move {
                let until = Timestamp::now() + Duration::from_secs(600);
                let body = serde_json::json!({"metadata": {}, "spec": {"audiences": []},
                    "status": {"token": format!("t{number}"), "expirationTimestamp": until.to_string()}});
                let (code, body) =
                    if number >= fails { (503, "{}".into()) } else { (201, body.to_string()) };
                http::Response::builder().status(code).body(Body::from(body.into_bytes()))
            }
        });
        (Client::new(service, "ns"), asked)
    }

    #[test]
    fn a_token_is_renewed_in_time() {
        let table = [(600, 480), (3607, 2885), (7 * 24 * 3600, 24 * 3600), (0, 0)];
        for (lifetime, after) in table {
            assert_eq!(renew_after(Duration::from_secs(lifetime)).as_secs(), after, "{lifetime}");
        }
    }

    #[test]
    fn the_request_binds_the_token_to_the_pod() {
        let asked = spec(&pod(), &wish("vault"));
        assert_eq!(asked.audiences, ["vault"]);
        assert_eq!(asked.bound_object_ref.unwrap().uid.as_deref(), Some("u"));
        assert!(spec(&pod(), &wish("")).audiences.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn old_tokens_are_replaced_and_kept_while_nobody_answers() {
        let (client, asked) = client(2);
        let tokens = Tokens::new();
        let fetch = async || {
            let wishes = BTreeSet::from([wish("")]);
            tokens
                .fetch(&client, &pod(), wishes)
                .await
                .map(|mut all| all.remove(&wish("")).unwrap())
        };
        assert_eq!(fetch().await.unwrap(), "t0");
        assert_eq!(fetch().await.unwrap(), "t0");
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        tokio::time::advance(Duration::from_secs(490)).await;
        assert_eq!(fetch().await.unwrap(), "t1");
        tokio::time::advance(Duration::from_secs(490)).await;
        assert_eq!(fetch().await.unwrap(), "t1", "the API is away, the token is good");
        tokio::time::advance(Duration::from_secs(200)).await;
        fetch().await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn the_worker_is_told_when_it_is_time() {
        let (client, _) = client(1);
        let tokens = Arc::new(Tokens::new());
        let (inbox, mut messages) = mpsc::unbounded_channel();
        let task = tokio::spawn(Arc::clone(&tokens).renew(false, inbox));
        tokens.fetch(&client, &pod(), BTreeSet::from([wish("")])).await.unwrap();
        let begin = Instant::now();
        assert!(matches!(messages.recv().await, Some(Msg::SourcesChanged)));
        assert!((475..=485).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
        // Nobody renewed it: told again.
        assert!(matches!(messages.recv().await, Some(Msg::SourcesChanged)));
        assert!((505..=515).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
        task.abort();
    }
}
