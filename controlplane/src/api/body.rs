//! Bodies in and out: bounded reading, JSON and YAML decoding, answers.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use serde_json::Value;

use super::accept::Encoding;
use super::{errors, text};
use crate::protobuf;
use crate::status::ApiError;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of every answer, and of every request once it is inside.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Larger request bodies are refused with 413.
pub const LIMIT: usize = 3 << 20;
/// For a request's body to arrive.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// The whole body, if it is not too large and not too slow.
pub async fn read(body: Body) -> Result<Bytes, ApiError> {
    let slow =
        |_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "Timeout", "read the request body: timeout");
    tokio::time::timeout(PATIENCE, collect(body)).await.map_err(slow)?
}

async fn collect(mut body: Body) -> Result<Bytes, ApiError> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let broken = |e| errors::bad_request(format!("read the request body: {e}"));
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if bytes.len() + data.len() > LIMIT {
            return Err(errors::too_large());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

/// The media type without parameters; JSON when absent.
pub fn media_type(headers: &HeaderMap) -> &str {
    let text = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match text.split(';').next().unwrap_or_default().trim() {
        "" => "application/json",
        media => media,
    }
}

/// Decodes a body that must be one object.
pub fn decode(media: &str, bytes: &[u8]) -> Result<Value, ApiError> {
    parse(media, bytes).map(|(value, _)| value)
}

/// The same, with the fields that stand twice in it.
pub(crate) fn parse(media: &str, bytes: &[u8]) -> Result<text::Read, ApiError> {
    let wrong = |why: String| errors::bad_request(format!("decode the request body: {why}"));
    let read = match media {
        "application/json" => text::json(bytes).map_err(|e| wrong(e.to_string()))?,
        "application/yaml" | "application/x-yaml" | "text/yaml" => {
            let text = std::str::from_utf8(bytes).map_err(|e| wrong(e.to_string()))?;
            text::yaml(text).map_err(|e| wrong(e.to_string()))?
        }
        protobuf::MEDIA_TYPE => {
            let value = protobuf::decode(bytes).map_err(|e| errors::bad_request(e.to_string()))?;
            (value, Vec::new())
        }
        other => return Err(unsupported(other)),
    };
    match read.0 {
        Value::Object(_) => Ok(read),
        _ => Err(wrong("it is not an object".into())),
    }
}

fn unsupported(media: &str) -> ApiError {
    let known = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
    errors::unsupported_media_type(format!(
        "the body of the request was in an unknown format - accepted media types include: {known} (it was {media:?})"
    ))
}

pub fn json(status: StatusCode, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

pub fn value(status: StatusCode, value: &Value) -> Response<Body> {
    json(status, value.to_string())
}

/// JSON bytes in the encoding asked for.
pub(crate) fn encoded(
    status: StatusCode,
    bytes: Bytes,
    encoding: Encoding,
) -> Result<Response<Body>, ApiError> {
    match encoding {
        Encoding::Json => Ok(json(status, bytes)),
        Encoding::Yaml => {
            let value: Value = serde_json::from_slice(&bytes).map_err(errors::internal)?;
            let text = serde_saphyr::to_string(&value).map_err(errors::internal)?;
            let mut response = json(status, text);
            let yaml = HeaderValue::from_static("application/yaml");
            response.headers_mut().insert(header::CONTENT_TYPE, yaml);
            Ok(response)
        }
    }
}

pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = json(status, text);
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

pub fn error(error: &ApiError) -> Response<Body> {
    let mut response = value(error.code, &error.to_value());
    if let Some(seconds) = error.retry_after_seconds {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// `Warning: 299 - "…"`, one header per warning.
pub fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        let printable: String =
            quoted.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if let Ok(header) = HeaderValue::from_bytes(format!("299 - \"{printable}\"").as_bytes()) {
            response.headers_mut().append(header::WARNING, header);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_decode_by_media_type() {
        let yaml = "kind: Pod\nspec:\n  n: 1\n  on: \"true\"\n";
        let value = decode("application/yaml", yaml.as_bytes()).unwrap();
        assert_eq!(value, serde_json::json!({"kind": "Pod", "spec": {"n": 1, "on": "true"}}));
        assert_eq!(decode("application/json", br#"{"a":1}"#).unwrap()["a"], 1);
        assert_eq!(decode("application/json", b"[]").unwrap_err().reason, "BadRequest");
        let protobuf = decode("application/vnd.kubernetes.protobuf", b"{}").unwrap_err();
        assert_eq!(protobuf.reason, "BadRequest");
        let cbor = decode("application/cbor", b"{}").unwrap_err();
        assert_eq!(cbor.code, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }

    #[test]
    fn bodies_are_bounded() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let read = |n: usize| runtime.block_on(read(full(vec![b' '; n])));
        assert_eq!(read(LIMIT).unwrap().len(), LIMIT);
        assert_eq!(read(LIMIT + 1).unwrap_err().code, StatusCode::PAYLOAD_TOO_LARGE);
    }
}
