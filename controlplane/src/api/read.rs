//! Get and list: from the memory of the store, at one revision, in pages where asked.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::accept::{Format, Shape};
use super::request::ListOptions;
use super::selector::Selectors;
use super::{Api, errors, table, twin};
use crate::kinds::Kind;
use crate::object::Object;
use crate::status::ApiError;
use crate::store::Snapshot;

/// How long a read waits for a revision that this server has not seen yet.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where the next page begins: after this object, at this revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Token {
    /// 0 when that is gone: at whatever is there now.
    #[serde(rename = "rv")]
    revision: u64,
    #[serde(rename = "ns")]
    namespace: String,
    #[serde(rename = "n")]
    name: String,
}

impl Token {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(text: &str) -> Result<Self, ApiError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        bytes
            .and_then(|b| serde_json::from_slice(&b).ok())
            .ok_or_else(|| errors::bad_request("continue key is not valid"))
    }
}

/// One page.
pub(crate) struct Page {
    pub(crate) objects: Vec<Arc<Object>>,
    pub(crate) revision: u64,
    /// Empty on the last page.
    pub(crate) token: String,
    pub(crate) remaining: Option<usize>,
}

impl Api {
    pub(crate) async fn list(
        &self,
        kind: &'static Kind,
        selectors: &Selectors,
        options: &ListOptions,
    ) -> Result<Page, ApiError> {
        let token = options.token.as_deref().map(Token::decode).transpose()?;
        if token.is_some() && options.revision.is_some_and(|r| r != 0) {
            let text = "specifying resource version is not allowed when using continue";
            return Err(errors::bad_request(text));
        }
        let Snapshot { revision, objects } = match (&token, options.revision) {
            (Some(Token { revision: 0, .. }), _) => self.present(kind, selectors),
            (Some(token), _) => self
                .past(kind, selectors, token.revision)
                .map_err(|_| inconsistent(token.clone()))?,
            (None, Some(revision)) if options.exact => {
                if revision == 0 {
                    let why = "Forbidden: resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"";
                    return Err(errors::list_options_invalid("resourceVersionMatch", why));
                }
                self.reached(revision).await?;
                self.past(kind, selectors, revision)?
            }
            (None, Some(revision)) => {
                self.reached(revision).await?;
                self.present(kind, selectors)
            }
            (None, None) => self.present(kind, selectors),
        };
        Ok(page(kind, selectors, options.limit, token, objects, revision))
    }

    pub(super) fn present(&self, kind: &Kind, selectors: &Selectors) -> Snapshot {
        as_shown(kind, self.store.snapshot(twin::resource(kind), namespace(selectors)))
    }

    fn past(
        &self,
        kind: &Kind,
        selectors: &Selectors,
        revision: u64,
    ) -> Result<Snapshot, ApiError> {
        let resource = twin::resource(kind);
        let past = self.store.snapshot_at(resource, namespace(selectors), revision);
        past.map(|snapshot| as_shown(kind, snapshot)).map_err(|e| {
            errors::expired(format!("too old resource version: {} ({})", e.asked, e.oldest))
        })
    }

    /// Waits a moment for a revision from the future.
    pub(super) async fn reached(&self, revision: u64) -> Result<(), ApiError> {
        let waited = tokio::time::timeout(PATIENCE, self.store.reached(revision)).await;
        waited.map_err(|_| errors::future_revision(revision, self.store.revision()))
    }
}

fn as_shown(kind: &Kind, mut snapshot: Snapshot) -> Snapshot {
    if kind.strategy.twin().is_some() {
        let objects = std::mem::take(&mut snapshot.objects).into_iter();
        snapshot.objects = objects.map(|object| twin::shown(kind, object)).collect();
    }
    snapshot
}

/// The rest of the list may be had as it is now, for those who can live with that.
fn inconsistent(token: Token) -> ApiError {
    let mut error = errors::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    error.continue_token = Token { revision: 0, ..token }.encode();
    error
}

fn namespace(selectors: &Selectors) -> Option<&str> {
    Some(selectors.namespace.as_str()).filter(|n| !n.is_empty())
}

/// Cuts a page out of everything. Pure.
fn page(
    kind: &Kind,
    selectors: &Selectors,
    limit: usize,
    token: Option<Token>,
    objects: Vec<Arc<Object>>,
    revision: u64,
) -> Page {
    let start = token.map_or(0, |t| {
        let before = (t.namespace.as_str(), t.name.as_str());
        objects.partition_point(|o| (o.meta.namespace.as_str(), o.meta.name.as_str()) <= before)
    });
    let total = objects.len();
    let mut found = Vec::new();
    let mut token = String::new();
    let mut remaining = None;
    for (index, object) in objects.into_iter().enumerate().skip(start) {
        if !selectors.match_object(kind, &object) {
            continue;
        }
        found.push(object);
        if limit > 0 && found.len() == limit && index + 1 < total {
            let last = &found[limit - 1].meta;
            let (namespace, name) = (last.namespace.clone(), last.name.clone());
            token = Token { revision, namespace, name }.encode();
            remaining = selectors.everything().then_some(total - index - 1);
            break;
        }
    }
    Page { objects: found, revision, token, remaining }
}

/// The page as JSON, in the shape asked for. Objects are copied as the bytes that they are stored as.
pub(crate) fn render(kind: &Kind, page: &Page, format: Format, now: i64) -> Bytes {
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if !page.token.is_empty() {
        metadata["continue"] = page.token.clone().into();
    }
    if let Some(remaining) = page.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    let (kind_name, api_version) = match format.shape {
        Shape::Table(include) => {
            return table::table(kind, &page.objects, include, &metadata, now).into();
        }
        Shape::Partial => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned()),
        Shape::Object => (format!("{}List", kind.kind), kind.api_version()),
    };
    let size: usize = page.objects.iter().map(|o| o.raw().len() + 1).sum();
    let head = format!(
        r#"{{"kind":"{kind_name}","apiVersion":"{api_version}","metadata":{metadata},"items":["#
    );
    let mut out = Vec::with_capacity(head.len() + size + 2);
    out.extend_from_slice(head.as_bytes());
    for (index, object) in page.objects.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&table::shaped(object, format.shape));
    }
    out.extend_from_slice(b"]}");
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing;

    #[test]
    fn pages_continue_where_they_ended() {
        let kind = testing::kind("configmaps");
        let object = |n: u32| {
            let value = json!({"metadata": {"name": format!("m{n}"), "namespace": "a"}});
            Arc::new(Object::from_value("configmaps", &value).unwrap())
        };
        let all: Vec<_> = (0..5).map(object).collect();
        let (mut token, mut names, mut left) = (None, Vec::new(), Vec::new());
        loop {
            let page = page(kind, &Selectors::default(), 2, token, all.clone(), 9);
            names.extend(page.objects.iter().map(|o| o.meta.name.clone()));
            left.push(page.remaining);
            if page.token.is_empty() {
                break;
            }
            token = Some(Token::decode(&page.token).unwrap());
        }
        assert_eq!(names, ["m0", "m1", "m2", "m3", "m4"]);
        assert_eq!(left, [Some(3), Some(1), None]);
        assert!(Token::decode("nonsense").is_err());
    }
}
