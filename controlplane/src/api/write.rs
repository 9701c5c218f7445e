//! Create, update and patch: one path for HTTP requests, controllers and the node agent.
//!
//! ```text
//! body ─► type, place ─► decode ─► default ─► admit ─► prepare ─► validate ─► store (compare-and-swap)
//! ```
//! A lost race is retried from the stored object unless the caller named the version it started from.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::request::Query;
use super::{Api, UserInfo, admit, errors, meta, twin};
use crate::admission::{self, quota};
use crate::apply::{self, Writing};
use crate::kinds::{FieldValidation, Kind, Operation, invalid};
use crate::object::{Key, Object};
use crate::reader::Reader;
use crate::status::ApiError;
use crate::store::{Exclusive, Section, StoreError, Write};

/// How often a lost race is run again before the caller hears of it.
const ATTEMPTS: usize = 8;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Options {
    pub(crate) dry_run: bool,
    pub(crate) validation: FieldValidation,
    /// Who owns what is written.
    pub(crate) manager: String,
    /// The subresource that is told of in the owner's entry where the object itself is written.
    pub(crate) via: &'static str,
    /// What the body itself gives reason to warn of.
    pub(crate) noticed: Vec<String>,
    /// Who writes; None: a component of this process.
    pub(crate) user: Option<UserInfo>,
}

impl Options {
    /// For components in this process: their types are ours, there is nobody to warn.
    pub(crate) fn internal(manager: &str) -> Self {
        let validation = FieldValidation::Ignore;
        let manager = manager.into();
        Self { dry_run: false, validation, manager, via: "", noticed: Vec::new(), user: None }
    }

    /// `fallback` manages what is written by those who give no name.
    pub(crate) fn parse(query: &Query, fallback: &str) -> Result<Self, ApiError> {
        let dry_run = match query.text("dryRun") {
            None => false,
            Some("All") => true,
            Some(other) => {
                let text =
                    format!("dryRun: Unsupported value: {other:?}: supported values: \"All\"");
                return Err(errors::bad_request(text));
            }
        };
        let validation = match query.text("fieldValidation") {
            Some("Strict") => FieldValidation::Strict,
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some(other) => {
                return Err(errors::bad_request(format!(
                    "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
                )));
            }
        };
        let manager = query.text("fieldManager").unwrap_or(fallback).to_owned();
        Ok(Self { dry_run, validation, manager, via: "", noticed: Vec::new(), user: None })
    }

    /// Fields that stand twice in the body are refused, told of, or passed over.
    pub(super) fn note_twice(&mut self, fields: Vec<String>) -> Result<(), String> {
        let told: Vec<String> = fields.iter().map(|f| format!("duplicate field {f:?}")).collect();
        match self.validation {
            FieldValidation::Strict if !told.is_empty() => {
                return Err(format!("strict decoding error: {}", told.join(", ")));
            }
            FieldValidation::Warn => self.noticed.extend(told),
            FieldValidation::Strict | FieldValidation::Ignore => {}
        }
        Ok(())
    }

    pub(super) fn writing<'a>(&'a self, place: Place<'a>, now: &'a str) -> Writing<'a> {
        let subresource = if self.via.is_empty() { place.subresource } else { self.via };
        Writing { manager: &self.manager, subresource, now }
    }
}

/// Names the object (or with an empty name the collection) that a request is about.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) kind: &'static Kind,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) subresource: &'a str,
}

impl Place<'_> {
    fn key(&self) -> Key {
        Key::new(twin::resource(self.kind), self.namespace, self.name)
    }
}

/// Who says which fields belong to whom after a write.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Ownership {
    /// What changes is the writer's.
    Track,
    /// The written object has it already.
    Known,
}

pub(crate) struct Written {
    pub(crate) object: Arc<Object>,
    pub(crate) created: bool,
    pub(crate) warnings: Vec<String>,
}

impl Api {
    pub(super) fn find(&self, place: Place<'_>) -> Result<Arc<Object>, ApiError> {
        self.store
            .get(twin::resource(place.kind), place.namespace, place.name)
            .map(|object| twin::shown(place.kind, object))
            .ok_or_else(|| errors::not_found(place.kind, place.name))
    }

    pub(crate) async fn create(
        &self,
        place: Place<'_>,
        body: Value,
        options: &Options,
    ) -> Result<Written, ApiError> {
        self.create_as(place, body, options, Ownership::Track).await
    }

    pub(crate) async fn create_as(
        &self,
        place: Place<'_>,
        mut body: Value,
        options: &Options,
        ownership: Ownership,
    ) -> Result<Written, ApiError> {
        let kind = place.kind;
        meta::check_type(kind, &mut body)?;
        if kind.namespaced && place.namespace.is_empty() {
            return Err(errors::bad_request("an empty namespace may not be set during creation"));
        }
        meta::check_place(&mut body, place.namespace, place.name)?;
        if meta::version(&body)?.is_some() {
            let text = "resourceVersion should not be set on objects to be created";
            return Err(errors::bad_request(text));
        }
        let warnings = kind.strategy.decode(&mut body, options.validation)?;
        let drawn = meta::text(&body, "name").is_empty();
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.create_once(place, body.clone(), options, ownership).await {
                Ok((object, more)) => {
                    let warnings = [warnings, more].concat();
                    return Ok(Written { object, created: true, warnings });
                }
                // Two draws of the same name.
                Err(e) if drawn && e.is_already_exists() && attempt < ATTEMPTS => {}
                Err(e) => return Err(e),
            }
        }
    }

    async fn create_once(
        &self,
        place: Place<'_>,
        mut value: Value,
        options: &Options,
        ownership: Ownership,
    ) -> Result<(Arc<Object>, Vec<String>), ApiError> {
        let kind = place.kind;
        let strategy = kind.strategy;
        meta::born(&mut value, Timestamp::now())?;
        strategy.default(&mut value);
        if ownership == Ownership::Track {
            track(place, options, None, &mut value);
        }
        self.admit_namespace(kind, place.namespace, meta::text(&value, "name"))?;
        admit::create(kind, &mut value);
        self.admit_account(kind, place.namespace, &mut value).await?;
        admission::complete(&*self.store, kind, place.namespace, &mut value)?;
        strategy.prepare(&mut value, Operation::Create);
        self.admit_writer(place, options, &mut value, Operation::Create)?;
        // Held until the commit: two Services must not be given one address.
        let _allocating = self.allocate(kind, &mut value, None).await?;
        let name = meta::text(&value, "name").to_owned();
        let causes = strategy.validate(&value, Operation::Create);
        if !causes.is_empty() {
            return Err(invalid(kind, &name, causes));
        }
        let (_counting, warnings) = self.admit_content(place, &value, Operation::Create).await?;
        let key = Key::new(twin::resource(kind), place.namespace, &name);
        if options.dry_run {
            if self.store.get(twin::resource(kind), place.namespace, &name).is_some() {
                return Err(errors::already_exists(kind, &name));
            }
            let object = Object::from_value(kind.resource, &value).map_err(errors::internal)?;
            return Ok((Arc::new(object), warnings));
        }
        let value = twin::stored(kind, value);
        let commit = self.store.commit(Write::Create { key, value }).await;
        commit
            .map(|object| (twin::shown(kind, object), warnings))
            .map_err(|e| store_error(kind, &name, e))
    }

    /// Replaces the object by what `desired` makes of the stored one.
    pub(crate) async fn update(
        &self,
        place: Place<'_>,
        options: &Options,
        desired: impl Fn(&Object) -> Result<Value, ApiError> + Send + Sync,
    ) -> Result<Written, ApiError> {
        self.update_as(place, options, Ownership::Track, desired).await
    }

    pub(crate) async fn update_as(
        &self,
        place: Place<'_>,
        options: &Options,
        ownership: Ownership,
        desired: impl Fn(&Object) -> Result<Value, ApiError> + Send + Sync,
    ) -> Result<Written, ApiError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let current = self.find(place)?;
            let value = desired(&current)?;
            match self.update_once(place, options, ownership, &current, value).await {
                Err(Failure::Race) if attempt < ATTEMPTS => {}
                Err(Failure::Race) => return Err(errors::modified(place.kind, place.name)),
                Err(Failure::Refused(error)) => return Err(*error),
                Ok(written) => return Ok(written),
            }
        }
    }

    async fn update_once(
        &self,
        place: Place<'_>,
        options: &Options,
        ownership: Ownership,
        current: &Object,
        mut value: Value,
    ) -> Result<Written, Failure> {
        let (kind, name) = (place.kind, place.name);
        let old = current.value();
        meta::check_type(kind, &mut value)?;
        meta::check_place(&mut value, place.namespace, name)?;
        check_version(kind, current, &value)?;
        let warnings = kind.strategy.decode(&mut value, options.validation)?;
        meta::keep(&mut value, &old)?;
        kind.strategy.default(&mut value);
        let op = Operation::Update { old: &old, subresource: place.subresource };
        kind.strategy.prepare(&mut value, op);
        self.admit_writer(place, options, &mut value, op)?;
        if ownership == Ownership::Track {
            track(place, options, Some(&old), &mut value);
        }
        let _allocating = self.allocate(kind, &mut value, Some(&old)).await?;
        let causes = kind.strategy.validate(&value, op);
        if !causes.is_empty() {
            return Err(invalid(kind, name, causes).into());
        }
        let (_counting, more) = self.admit_content(place, &value, op).await?;
        let warnings = [warnings, more].concat();
        let metadata = meta::metadata(&mut value)?;
        metadata.insert("resourceVersion".into(), current.meta.resource_version.to_string().into());
        let object = Object::from_value(kind.resource, &value)
            .map_err(|e| errors::bad_request(format!("metadata: {e}")))?;
        let done = |object| Ok(Written { object, created: false, warnings });
        if options.dry_run || value == old {
            return done(Arc::new(object));
        }
        let (key, version) = (place.key(), current.meta.resource_version);
        let write = match meta::finished(&object) && admit::emptied(kind, &value) {
            true => Write::Delete { key, version },
            false => Write::Update { key, version, value: twin::stored(kind, value) },
        };
        match self.store.commit(write).await {
            Ok(object) => done(twin::shown(kind, object)),
            Err(StoreError::Conflict { .. }) => Err(Failure::Race),
            Err(error) => Err(store_error(kind, name, error).into()),
        }
    }

    /// `PUT`: the body replaces the object; a few kinds are created by it.
    pub(crate) async fn replace(
        &self,
        place: Place<'_>,
        body: Value,
        options: &Options,
        may_create: impl Fn() -> Result<(), ApiError> + Send + Sync,
    ) -> Result<Written, ApiError> {
        let creates = place.subresource.is_empty() && admit::created_by_update(place.kind);
        let unversioned = meta::version(&body)?.is_none();
        if creates && unversioned && self.find(place).is_err() {
            may_create()?;
            match self.create(place, body.clone(), options).await {
                // Somebody was faster: it is an update after all.
                Err(e) if e.is_already_exists() => {}
                other => return other,
            }
        }
        self.update(place, options, |_| Ok(body.clone())).await
    }

    /// Gives a Service its addresses; the guard keeps others from taking the same ones.
    async fn allocate(
        &self,
        kind: &Kind,
        value: &mut Value,
        old: Option<&Value>,
    ) -> Result<Option<Exclusive>, ApiError> {
        if kind.resource != "services" {
            return Ok(None);
        }
        let guard = self.store.exclusive(Section::Addresses).await.map_err(errors::internal)?;
        let services = self.store.list("services", None);
        super::services::allocate(kind, &self.config.service_cidr, &services, value, old)?;
        Ok(Some(guard))
    }

    /// Refuses what the Namespace's rules forbid; the strings are warnings. The guard is held until the commit: two
    /// writers must not use the same rest of a quota.
    async fn admit_content(
        &self,
        place: Place<'_>,
        value: &Value,
        op: Operation<'_>,
    ) -> Result<(Option<Exclusive>, Vec<String>), ApiError> {
        let (kind, namespace, world) = (place.kind, place.namespace, &*self.store);
        let mut warnings = kind.strategy.warn(value, op);
        warnings.extend(admission::check(world, kind, namespace, value, op)?);
        let old = match op {
            Operation::Create => None,
            Operation::Update { old, .. } if old["spec"] != value["spec"] => Some(old),
            Operation::Update { .. } => return Ok((None, warnings)),
        };
        if !quota::counts(world, kind, namespace) {
            return Ok((None, warnings));
        }
        let guard = self.store.exclusive(Section::Quotas).await.map_err(errors::internal)?;
        match quota::refusal(world, kind, namespace, value, old) {
            None => Ok((Some(guard), warnings)),
            Some(why) => Err(errors::forbidden(kind, meta::text(value, "name"), &why)),
        }
    }

    fn admit_namespace(&self, kind: &Kind, namespace: &str, name: &str) -> Result<(), ApiError> {
        if !kind.namespaced {
            return Ok(());
        }
        let Some(found) = self.store.get("namespaces", "", namespace) else {
            return Err(admit::namespace_missing(namespace));
        };
        match found.meta.deletion_timestamp {
            None => Ok(()),
            Some(_) => Err(admit::namespace_ending(kind, namespace, name)),
        }
    }
}

/// Before admission and what the server fills in: that has no owner.
fn track(place: Place<'_>, options: &Options, old: Option<&Value>, value: &mut Value) {
    apply::track(place.kind, options.writing(place, &meta::time(Timestamp::now())), old, value);
}

/// Why one attempt at an update did not go through.
enum Failure {
    /// Somebody else wrote in between.
    Race,
    Refused(Box<ApiError>),
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Failure::Refused(Box::new(error))
    }
}

fn check_version(kind: &Kind, current: &Object, value: &Value) -> Result<(), ApiError> {
    let name = &current.meta.name;
    match meta::version(value)? {
        Some(version) if version != current.meta.resource_version => {
            return Err(errors::modified(kind, name));
        }
        None if admit::needs_version(kind) => {
            let message = "Invalid value: 0: must be specified for an update";
            let cause = errors::cause("FieldValueInvalid", "metadata.resourceVersion", message);
            return Err(invalid(kind, name, vec![cause]));
        }
        _ => {}
    }
    match meta::text(value, "uid") {
        "" => Ok(()),
        uid if uid == current.meta.uid => Ok(()),
        uid => Err(uid_conflict(kind, name, uid, &current.meta.uid)),
    }
}

pub(super) fn uid_conflict(kind: &Kind, name: &str, asked: &str, found: &str) -> ApiError {
    let why =
        format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {found}");
    errors::conflict(kind, name, &why)
}

pub(super) fn store_error(kind: &Kind, name: &str, error: StoreError) -> ApiError {
    match error {
        StoreError::Exists => errors::already_exists(kind, name),
        StoreError::NotFound => errors::not_found(kind, name),
        StoreError::Conflict { .. } => errors::modified(kind, name),
        StoreError::Encode(_)
        | StoreError::Failed(_)
        | StoreError::Closed
        | StoreError::Deposed => errors::internal(error),
    }
}
