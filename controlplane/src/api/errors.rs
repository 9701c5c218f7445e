//! Refusals in the words that clients know (some of them match on the text).

use http::StatusCode;

use crate::kinds::Kind;
use crate::status::{ApiError, Cause};

/// `deployments.apps`
fn qualified(kind: &Kind) -> &'static str {
    kind.resource
}

fn about(mut error: ApiError, kind: &Kind, name: &str) -> ApiError {
    error.name = name.into();
    error.group = kind.group.into();
    error.kind = kind.plural.into();
    error
}

pub(crate) fn bad_request(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "BadRequest", message)
}

pub(crate) fn no_such_path() -> ApiError {
    let message = "the server could not find the requested resource";
    ApiError::new(StatusCode::NOT_FOUND, "NotFound", message)
}

pub(crate) fn method_not_allowed() -> ApiError {
    let message = "the server does not allow this method on the requested resource";
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
}

pub(crate) fn not_found(kind: &Kind, name: &str) -> ApiError {
    let message = format!("{} {name:?} not found", qualified(kind));
    about(ApiError::new(StatusCode::NOT_FOUND, "NotFound", message), kind, name)
}

pub(crate) fn already_exists(kind: &Kind, name: &str) -> ApiError {
    let message = format!("{} {name:?} already exists", qualified(kind));
    about(ApiError::new(StatusCode::CONFLICT, "AlreadyExists", message), kind, name)
}

pub(crate) fn conflict(kind: &Kind, name: &str, why: &str) -> ApiError {
    let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(kind));
    about(ApiError::new(StatusCode::CONFLICT, "Conflict", message), kind, name)
}

/// Says all in its causes.
pub(crate) fn apply_conflict(message: String) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, "Conflict", message)
}

pub(crate) fn modified(kind: &Kind, name: &str) -> ApiError {
    let why = "the object has been modified; please apply your changes to the latest version and try again";
    conflict(kind, name, why)
}

pub(crate) fn forbidden(kind: &Kind, name: &str, why: &str) -> ApiError {
    let message = match name {
        "" => format!("{} is forbidden: {why}", qualified(kind)),
        name => format!("{} {name:?} is forbidden: {why}", qualified(kind)),
    };
    about(ApiError::new(StatusCode::FORBIDDEN, "Forbidden", message), kind, name)
}

pub(crate) fn cause(reason: &str, field: &str, message: impl Into<String>) -> Cause {
    Cause { reason: reason.into(), message: message.into(), field: field.into() }
}

pub(crate) fn list_options_invalid(field: &str, why: &str) -> ApiError {
    options_invalid("ListOptions", cause("FieldValueForbidden", field, why))
}

/// What the query says is no good; `kind` is that of its options, `PatchOptions`.
pub(crate) fn options_invalid(kind: &str, cause: Cause) -> ApiError {
    let message = format!("{kind}.meta.k8s.io \"\" is invalid: {}: {}", cause.field, cause.message);
    let mut error = ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
    error.group = "meta.k8s.io".into();
    error.kind = kind.into();
    error.causes = vec![cause];
    error
}

pub(crate) fn expired(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::GONE, "Expired", message)
}

pub(crate) fn unsupported_media_type(message: impl Into<String>) -> ApiError {
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
}

pub(crate) fn internal(message: impl std::fmt::Display) -> ApiError {
    let message = format!("Internal error occurred: {message}");
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
}

pub(crate) fn unauthorized() -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
}

pub(crate) fn too_large() -> ApiError {
    let message = "Request entity too large: limit is 3145728";
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
}

pub(crate) fn too_many_requests() -> ApiError {
    let message = "the server has received too many requests and has asked us to try again later";
    let mut error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message);
    error.retry_after_seconds = Some(1);
    error
}

pub(crate) fn future_revision(asked: u64, current: u64) -> ApiError {
    let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
    let mut error = ApiError::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message);
    error.causes = vec![cause("ResourceVersionTooLarge", "", "Too large resource version")];
    error.retry_after_seconds = Some(1);
    error
}
