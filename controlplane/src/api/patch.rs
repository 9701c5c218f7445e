//! `PATCH`: media type and body become a patch that is applied anew to each version it meets. Pure.

use serde_json::Value;

use super::{errors, text};
use crate::kinds::Kind;
use crate::patch::{self, PatchType};
use crate::status::ApiError;

const KNOWN: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";

/// A decoded patch.
pub(crate) struct Patch {
    form: PatchType,
    value: Value,
}

impl Patch {
    /// With the fields that stand twice in it.
    pub(crate) fn decode(media: &str, bytes: &[u8]) -> Result<(Self, Vec<String>), ApiError> {
        let form = PatchType::from_content_type(media).ok_or_else(|| {
            errors::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: {KNOWN} (it was {media:?})"
            ))
        })?;
        let read = text::json(bytes);
        let (value, twice) =
            read.map_err(|e| errors::bad_request(format!("error decoding patch: {e}")))?;
        Ok((Self { form, value }, twice))
    }

    pub(crate) fn apply(&self, kind: &Kind, current: &Value) -> Result<Value, ApiError> {
        patch::apply(kind, self.form, current, &self.value)
    }

    /// To a Scale, whose lists nobody merges.
    pub(crate) fn apply_to_scale(&self, kind: &Kind, scale: &Value) -> Result<Value, ApiError> {
        let form = match self.form {
            PatchType::Strategic => PatchType::Merge,
            form => form,
        };
        patch::apply(kind, form, scale, &self.value)
    }
}
