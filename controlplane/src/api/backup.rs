//! `GET /kobune/backup`: the whole store at one revision, as a stream that no writer waits for.

use bytes::{Bytes, BytesMut};
use futures::stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};

use super::body::{self, Body};
use super::{Api, UserInfo, errors};
use crate::auth::rbac::{self, Action};
use crate::status::ApiError;

pub(super) const PATH: &str = "/kobune/backup";
/// Bytes sent at once, about.
const CHUNK: usize = 64 << 10;

impl Api {
    /// All Secrets are in it: what a node may do otherwise does not count here.
    pub(super) fn backup(&self, user: &UserInfo) -> Result<Response<Body>, ApiError> {
        let action = Action::Path { verb: "get", path: PATH };
        if rbac::allows(&*self.store, user, action).is_none() {
            if user.is_anonymous() {
                return Err(errors::unauthorized());
            }
            let why = format!("forbidden: User {:?} cannot get path {PATH:?}", user.name);
            return Err(ApiError::new(StatusCode::FORBIDDEN, "Forbidden", why));
        }
        let chunks = stream::unfold(self.store.backup(), |mut lines| async move {
            let mut chunk = BytesMut::new();
            while chunk.len() < CHUNK
                && let Some(line) = lines.next()
            {
                chunk.extend_from_slice(&line);
            }
            let more = !chunk.is_empty();
            more.then(|| (Ok::<_, body::BoxError>(Frame::data(chunk.freeze())), lines))
        });
        let mut response = body::json(StatusCode::OK, Bytes::new());
        *response.body_mut() = StreamBody::new(chunks).boxed_unsync();
        let media = HeaderValue::from_static("application/jsonl");
        response.headers_mut().insert(header::CONTENT_TYPE, media);
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing;

    #[tokio::test]
    async fn administrators_and_nobody_else() {
        let api = testing::api();
        let get = async |user: &UserInfo| {
            let request = http::Request::get(PATH).body(body::full("")).unwrap();
            api.serve(user, request).await
        };
        let answer = get(&UserInfo::admin()).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(text.starts_with(b"{\"kobuneBackup\""), "{text:?}");
        let node = UserInfo::new("system:node:n", &["system:nodes", "system:authenticated"]);
        assert_eq!(get(&node).await.status(), StatusCode::FORBIDDEN);
        assert_eq!(get(&UserInfo::anonymous()).await.status(), StatusCode::UNAUTHORIZED);
    }
}
