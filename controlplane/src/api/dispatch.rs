//! From a request to its answer.

use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::accept::{self, Encoding, Format, Shape};
use super::body::{self, Body};
use super::delete::{DeleteOptions, Deleted};
use super::patch::Patch;
use super::request::{self, ListOptions, Request, Target, Verb};
use super::selector::Selectors;
use super::write::{Options, Place, Written};
use super::{Api, UserInfo, apply, errors, manager, read, sub, table};
use crate::kinds::Kind;
use crate::object::Object;
use crate::status::ApiError;

/// How long a request waits for others before it is sent away.
const QUEUED: Duration = Duration::from_secs(10);

impl Api {
    /// Answers one request of an authenticated user.
    pub async fn serve(&self, user: &UserInfo, request: http::Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        match self.answer(user, parts, body).await {
            Ok(response) => response,
            Err(error) => body::error(&error),
        }
    }

    async fn answer(
        &self,
        user: &UserInfo,
        mut parts: Parts,
        body: Body,
    ) -> Result<Response<Body>, ApiError> {
        let other = match user.is_anonymous() {
            true => None,
            false => self.impersonated(user, &parts.headers)?,
        };
        let user = other.as_ref().unwrap_or(user);
        let request = request::parse(&parts.method, &parts.uri, &self.registry);
        match request {
            Ok(Request::Info(info)) => self.info(user, &info, &parts),
            _ if user.is_anonymous() => Err(errors::unauthorized()),
            Err(error) => Err(error),
            Ok(Request::Resource(target)) => {
                self.authorize(user, &target)?;
                match target.subresource.as_str() {
                    "log" | "exec" | "attach" | "portforward" => {
                        self.connect(&target, &mut parts, body).await
                    }
                    _ if target.verb == Verb::Watch => {
                        let format = accept::negotiate(&parts.headers, &target.query)?;
                        self.answer_watch(&target, format).await
                    }
                    _ => {
                        let _slot = self.slot().await?;
                        self.resource(user, &target, &parts, body).await
                    }
                }
            }
        }
    }

    /// The right to be worked on; 429 after a while.
    async fn slot(&self) -> Result<tokio::sync::SemaphorePermit<'_>, ApiError> {
        match tokio::time::timeout(QUEUED, self.slots.acquire()).await {
            Ok(Ok(slot)) => Ok(slot),
            _ => Err(errors::too_many_requests()),
        }
    }

    async fn resource(
        &self,
        user: &UserInfo,
        target: &Target,
        parts: &Parts,
        body: Body,
    ) -> Result<Response<Body>, ApiError> {
        let format = accept::negotiate(&parts.headers, &target.query)?;
        let place = place(target);
        // What another server has acknowledged is known here, for reads and for what writes are decided on.
        if target.query.text("resourceVersion").is_none() {
            self.store.fresh().await.map_err(errors::internal)?;
        }
        match target.verb {
            Verb::Get => self.get(place, format),
            Verb::List => self.answer_list(target, format).await,
            Verb::Watch => Err(errors::method_not_allowed()),
            Verb::Create | Verb::Update | Verb::Patch => {
                let bytes = body::read(body).await?;
                let media = body::media_type(&parts.headers);
                manager::check(&target.query, target.verb, media == apply::MEDIA_TYPE)?;
                let fallback = manager::fallback(user, &parts.headers);
                let mut options = Options::parse(&target.query, &fallback)?;
                options.user = Some(user.clone());
                let body = (media, &bytes[..]);
                self.answer_write(user, target, body, options, format).await
            }
            Verb::Delete | Verb::DeleteCollection => {
                let bytes = body::read(body).await?;
                let mut options = delete_options(target, body::media_type(&parts.headers), &bytes)?;
                self.admit_deletion(user, place, &mut options)?;
                match target.verb {
                    Verb::Delete => self.answer_delete(place, &options, format).await,
                    _ => self.delete_collection(target, &options, format).await,
                }
            }
        }
    }

    fn get(&self, place: Place<'_>, format: Format) -> Result<Response<Body>, ApiError> {
        let object = self.find(place)?;
        match place.subresource {
            "scale" => {
                let scale = sub::scale_of(&object).to_string();
                body::encoded(StatusCode::OK, scale.into(), format.encoding)
            }
            "" | "status" | "approval" => one(place.kind, &object, StatusCode::OK, format),
            _ => Err(errors::method_not_allowed()),
        }
    }

    async fn answer_list(
        &self,
        target: &Target,
        format: Format,
    ) -> Result<Response<Body>, ApiError> {
        let options = ListOptions::parse(&target.query)?;
        let page = self.list(target.kind, &selectors(target)?, &options).await?;
        let bytes = read::render(target.kind, &page, format, Timestamp::now().as_second());
        body::encoded(StatusCode::OK, bytes, format.encoding)
    }

    async fn answer_watch(
        &self,
        target: &Target,
        format: Format,
    ) -> Result<Response<Body>, ApiError> {
        let options = ListOptions::parse(&target.query)?;
        options.check_watch(&target.query)?;
        if format.encoding != Encoding::Json {
            let text = "watch events are only sent as application/json";
            return Err(ApiError::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", text));
        }
        if options.revision.is_none() {
            self.store.fresh().await.map_err(errors::internal)?;
        }
        let events = self.watch(target.kind, selectors(target)?, format.shape, &options).await?;
        let mut response = body::json(StatusCode::OK, Bytes::new());
        *response.body_mut() = events;
        Ok(response)
    }

    async fn answer_write(
        &self,
        user: &UserInfo,
        target: &Target,
        (media, bytes): (&str, &[u8]),
        mut options: Options,
        format: Format,
    ) -> Result<Response<Body>, ApiError> {
        let place = place(target);
        let may = |value: &Value| self.may_grant(user, place.kind, place.namespace, value);
        let written = match (target.verb, place.subresource) {
            (Verb::Create, "") if !place.kind.is_stored() => {
                let review = body::decode(media, bytes)?;
                let (answer, warnings) = self.review(user, target, review, options.validation)?;
                let bytes = answer.to_string().into();
                let mut response = body::encoded(StatusCode::CREATED, bytes, format.encoding)?;
                body::warn(&mut response, &warnings);
                return Ok(response);
            }
            (Verb::Create, "token") => {
                let request = body::decode(media, bytes)?;
                self.admit_token(user, place, &request)?;
                let token = self.request_token(place, request, options.validation)?;
                let bytes = token.to_string().into();
                return body::encoded(StatusCode::CREATED, bytes, format.encoding);
            }
            (Verb::Create, "") => {
                let value = object(place, media, bytes, &mut options)?;
                may(&value)?;
                self.create(place, value, &options).await?
            }
            (Verb::Create, "binding") => {
                let binding = body::decode(media, bytes)?;
                let named = binding["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let name = if place.name.is_empty() { &named } else { place.name };
                self.bind(Place { name, ..place }, &binding).await?;
                return Ok(success(StatusCode::CREATED));
            }
            (Verb::Create, "eviction") => {
                self.admit_eviction(user, place)?;
                self.evict(place, &body::decode(media, bytes)?, &options).await?;
                return Ok(success(StatusCode::CREATED));
            }
            (Verb::Update, "scale") => {
                let scale = body::decode(media, bytes)?;
                self.scale(place, &options, |_| Ok(scale.clone())).await?
            }
            (Verb::Update, "" | "status" | "finalize" | "approval") => {
                let value = object(place, media, bytes, &mut options)?;
                may(&value)?;
                self.replace(place, value, &options, || self.may_create(user, target)).await?
            }
            (Verb::Patch, "" | "status" | "scale" | "approval") if media == apply::MEDIA_TYPE => {
                let (config, twice) = apply::decode(bytes)?;
                let noted = options.note_twice(twice);
                noted.map_err(|why| errors::bad_request(format!("error decoding YAML: {why}")))?;
                let force = target.query.flag("force")?;
                match place.subresource {
                    "scale" => self.apply_scale(place, &config, &options, force).await?,
                    _ => {
                        let may_be = |new: bool, value: &Value| {
                            if new {
                                self.may_create(user, target)?;
                            }
                            may(value)
                        };
                        self.server_side_apply(place, config, &options, force, may_be).await?
                    }
                }
            }
            (Verb::Patch, "scale") => {
                let patch = patch(media, bytes, &mut options)?;
                self.scale(place, &options, |scale| patch.apply_to_scale(place.kind, &scale))
                    .await?
            }
            (Verb::Patch, "" | "status" | "approval") => {
                let patch = patch(media, bytes, &mut options)?;
                let patched = |object: &Object| {
                    let value = patch.apply(place.kind, &object.value())?;
                    may(&value)?;
                    Ok(value)
                };
                self.update(place, &options, patched).await?
            }
            _ => return Err(errors::method_not_allowed()),
        };
        self.written(place, &written, &options.noticed, format)
    }

    fn written(
        &self,
        place: Place<'_>,
        written: &Written,
        noticed: &[String],
        format: Format,
    ) -> Result<Response<Body>, ApiError> {
        let status = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        let mut response = match place.subresource {
            "scale" => {
                let scale = sub::scale_of(&written.object).to_string();
                body::encoded(status, scale.into(), format.encoding)?
            }
            _ => one(place.kind, &written.object, status, format)?,
        };
        body::warn(&mut response, noticed);
        body::warn(&mut response, &written.warnings);
        Ok(response)
    }

    async fn answer_delete(
        &self,
        place: Place<'_>,
        options: &DeleteOptions,
        format: Format,
    ) -> Result<Response<Body>, ApiError> {
        let deleted = self.delete(place, options).await?;
        match &deleted {
            Deleted::Gone(object) if !returned_when_gone(place.kind) => {
                let status = json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                    "details": {
                        "name": object.meta.name, "group": place.kind.group,
                        "kind": place.kind.plural, "uid": object.meta.uid,
                    },
                });
                Ok(body::value(StatusCode::OK, &status))
            }
            deleted => one(place.kind, deleted.object(), StatusCode::OK, format),
        }
    }

    async fn delete_collection(
        &self,
        target: &Target,
        options: &DeleteOptions,
        format: Format,
    ) -> Result<Response<Body>, ApiError> {
        let kind = target.kind;
        let list = ListOptions { limit: 0, ..ListOptions::parse(&target.query)? };
        let page = self.list(kind, &selectors(target)?, &list).await?;
        for object in &page.objects {
            let (namespace, name) = (&object.meta.namespace, &object.meta.name);
            let place = Place { kind, namespace, name, subresource: "" };
            match self.delete(place, options).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let bytes = read::render(kind, &page, format, Timestamp::now().as_second());
        body::encoded(StatusCode::OK, bytes, format.encoding)
    }
}

/// The body of a request that creates or replaces.
fn object(
    place: Place<'_>,
    media: &str,
    bytes: &[u8],
    options: &mut Options,
) -> Result<Value, ApiError> {
    let (value, twice) = body::parse(media, bytes)?;
    let Kind { kind, version, .. } = place.kind;
    options.note_twice(twice).map_err(|why| {
        let text = format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}");
        errors::bad_request(text)
    })?;
    Ok(value)
}

fn patch(media: &str, bytes: &[u8], options: &mut Options) -> Result<Patch, ApiError> {
    let (patch, twice) = Patch::decode(media, bytes)?;
    let noted = options.note_twice(twice);
    noted.map_err(|why| errors::bad_request(format!("error decoding patch: {why}")))?;
    Ok(patch)
}

fn place(target: &Target) -> Place<'_> {
    let Target { kind, namespace, name, subresource, .. } = target;
    Place { kind, namespace, name, subresource }
}

fn selectors(target: &Target) -> Result<Selectors, ApiError> {
    let query = &target.query;
    let (labels, fields) = (query.text("labelSelector"), query.text("fieldSelector"));
    let mut selectors = Selectors::parse(target.kind, &target.namespace, labels, fields)?;
    if !target.name.is_empty() {
        selectors.only(&target.name);
    }
    Ok(selectors)
}

fn one(
    kind: &Kind,
    object: &std::sync::Arc<Object>,
    status: StatusCode,
    format: Format,
) -> Result<Response<Body>, ApiError> {
    let bytes = match format.shape {
        Shape::Table(include) => {
            table::one(kind, object, include, true, Timestamp::now().as_second()).into()
        }
        shape => table::shaped(object, shape),
    };
    body::encoded(status, bytes, format.encoding)
}

fn success(code: StatusCode) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "code": code.as_u16(),
    });
    body::value(code, &status)
}

/// Kinds whose last state is the answer to their deletion.
fn returned_when_gone(kind: &Kind) -> bool {
    matches!(kind.resource, "pods" | "services" | "serviceaccounts")
}

/// From the body where there is one, otherwise from the query.
fn delete_options(target: &Target, media: &str, bytes: &[u8]) -> Result<DeleteOptions, ApiError> {
    let query = &target.query;
    let mut options = match bytes.is_empty() {
        true => DeleteOptions {
            grace_period_seconds: query.number("gracePeriodSeconds")?,
            propagation_policy: query.text("propagationPolicy").map(str::to_owned),
            ..DeleteOptions::default()
        },
        false => serde_json::from_value(body::decode(media, bytes)?)
            .map_err(|e| errors::bad_request(format!("decode DeleteOptions: {e}")))?,
    };
    if query.text("dryRun").is_some() && options.dry_run.is_none() {
        options.dry_run = query.text("dryRun").map(|d| vec![d.to_owned()]);
    }
    Ok(options)
}

#[cfg(test)]
mod tests;
