//! Server-side apply: a PATCH whose body is the wish of one manager. What it means for fields and owners is decided in
//! [`crate::apply`]; here it is read, laid over the newest version and sent the way of every write.

use serde_json::{Value, json};

use super::write::{Options, Ownership, Place, Written};
use super::{Api, errors, meta, sub, text};
use crate::apply::{self, ApplyError};
use crate::kinds::{FieldValidation, Kind};
use crate::object::Object;
use crate::status::ApiError;

/// Its media type. The body may as well be JSON, which is YAML.
pub(crate) const MEDIA_TYPE: &str = "application/apply-patch+yaml";

/// How often an object that comes and goes is looked for again.
const ATTEMPTS: usize = 8;

/// The body as an object, and the fields that stand twice in it.
pub(crate) fn decode(bytes: &[u8]) -> Result<text::Read, ApiError> {
    let wrong = |why: String| errors::bad_request(format!("error decoding YAML: {why}"));
    let read = match text::json(bytes) {
        Ok(read) => read,
        Err(_) => {
            let text = std::str::from_utf8(bytes).map_err(|e| wrong(e.to_string()))?;
            text::yaml(text).map_err(|e| wrong(e.to_string()))?
        }
    };
    match read.0 {
        Value::Object(_) => Ok(read),
        _ => Err(wrong("it is not an object".into())),
    }
}

impl Api {
    /// Applies `config` to the object, which is made if there is none. `may_be` says whether what comes out may be
    /// written, and whether as a new object.
    pub(crate) async fn server_side_apply(
        &self,
        place: Place<'_>,
        mut config: Value,
        options: &Options,
        force: bool,
        may_be: impl Fn(bool, &Value) -> Result<(), ApiError> + Send + Sync,
    ) -> Result<Written, ApiError> {
        check(place, &mut config)?;
        let applied = |live: Option<&Object>| {
            let now = meta::time(jiff::Timestamp::now());
            let live = live.map(Object::value);
            let writing = options.writing(place, &now);
            let applied = apply::apply(place.kind, writing, live.as_ref(), &config, force);
            let applied = applied.map_err(|error| refused(place, error))?;
            may_be(live.is_none(), &applied)?;
            Ok(applied)
        };
        let mut attempt = 0;
        loop {
            attempt += 1;
            let known = Ownership::Known;
            let result = match self.find(place) {
                Err(missing) if !place.subresource.is_empty() => return Err(missing),
                Err(_) => self.create_as(place, applied(None)?, options, known).await,
                Ok(_) => self.update_as(place, options, known, |live| applied(Some(live))).await,
            };
            match result {
                // Made or gone since it was looked for.
                Err(e) if attempt < ATTEMPTS && (e.is_already_exists() || e.is_not_found()) => {
                    if e.is_not_found() && self.find(place).is_ok() {
                        return Err(e);
                    }
                }
                other => return other,
            }
        }
    }

    /// The same through a Scale: only the replicas are wished for.
    pub(crate) async fn apply_scale(
        &self,
        place: Place<'_>,
        scale: &Value,
        options: &Options,
        force: bool,
    ) -> Result<Written, ApiError> {
        let whole = Place { subresource: "", ..place };
        let replicas = sub::replicas_of(place.kind, place.name, scale)?;
        let mut config = json!({
            "apiVersion": place.kind.api_version(), "kind": place.kind.kind,
            "metadata": {"name": place.name}, "spec": {"replicas": replicas},
        });
        if !place.namespace.is_empty() {
            config["metadata"]["namespace"] = place.namespace.into();
        }
        let version = meta::text(scale, "resourceVersion");
        if !version.is_empty() {
            config["metadata"]["resourceVersion"] = version.into();
        }
        self.find(whole)?;
        let options = Options { via: "scale", ..options.clone() };
        self.server_side_apply(whole, config, &options, force, |_, _| Ok(())).await
    }
}

/// Only whole statements of the kind that is served can be applied.
fn check(place: Place<'_>, config: &mut Value) -> Result<(), ApiError> {
    let kind = place.kind;
    let expected = kind.api_version();
    let version = config["apiVersion"].as_str().unwrap_or_default();
    if version != expected {
        return Err(errors::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {expected}"
        )));
    }
    if config["kind"].as_str().unwrap_or_default().is_empty() {
        return Err(errors::bad_request("Object 'Kind' is missing in the apply patch"));
    }
    meta::check_type(kind, config)?;
    if !config["metadata"]["managedFields"].is_null() {
        return Err(errors::bad_request("metadata.managedFields must be nil"));
    }
    meta::check_place(config, place.namespace, place.name)?;
    let unknown = kind.strategy.decode(config, FieldValidation::Warn)?;
    match unknown.first().and_then(|warning| warning.split('"').nth(1)) {
        None => Ok(()),
        Some(field) => {
            Err(no_patch(kind, place, &format!(".{field}: field not declared in schema")))
        }
    }
}

fn no_patch(kind: &Kind, place: Place<'_>, why: &str) -> ApiError {
    let (version, kind) = (kind.api_version(), kind.kind);
    let named = format!("{}/{}; {version}, Kind={kind}", place.namespace, place.name);
    errors::bad_request(format!("failed to create typed patch object ({named}): {why}"))
}

fn refused(place: Place<'_>, error: ApplyError) -> ApiError {
    match &error {
        ApplyError::Config(why) => no_patch(place.kind, place, why),
        ApplyError::Conflicts(conflicts) => {
            let mut refused = errors::apply_conflict(error.to_string());
            let cause = |c: &apply::Conflict| {
                let message = format!("conflict with {}", c.manager);
                errors::cause("FieldManagerConflict", &c.path, message)
            };
            refused.causes = conflicts.iter().map(cause).collect();
            refused
        }
    }
}
