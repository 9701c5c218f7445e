//! What the server says about itself: health, version, metrics, discovery, OpenAPI.

use std::fmt::Write as _;

use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::body::{self, Body};
use super::request::{Info, Query};
use super::{Api, UserInfo, accept, discovery, errors};
use crate::status::ApiError;

/// What this server claims to be compatible with.
pub(crate) const VERSION: &str = concat!("v1.33.0+kobune", env!("CARGO_PKG_VERSION"));

impl Api {
    pub(super) fn info(
        &self,
        user: &UserInfo,
        info: &Info,
        parts: &Parts,
    ) -> Result<Response<Body>, ApiError> {
        match info {
            // Not even roles can hide these two: load balancers ask without a name.
            Info::Health(check) => return Ok(self.health(check, &parts.uri)),
            Info::Version => return Ok(body::value(StatusCode::OK, &version())),
            Info::Backup => return self.backup(user),
            _ => self.authorize_path(user, parts)?,
        }
        match info {
            Info::Metrics => return Ok(body::text(StatusCode::OK, self.metrics())),
            Info::OpenApi(path) if path == "v2" => return Ok(openapi_v2(parts)),
            _ => {}
        }
        let aggregated = accept::aggregated_discovery(&parts.headers);
        let document = match (info, aggregated) {
            (Info::LegacyVersions, Some(version)) => {
                discovery::aggregated(&self.registry, true, version)
            }
            (Info::Groups, Some(version)) => discovery::aggregated(&self.registry, false, version),
            (Info::LegacyVersions, None) => discovery::legacy_versions(&self.address.to_string()),
            (Info::Groups, None) => discovery::groups(&self.registry),
            (Info::Group(name), _) => {
                discovery::group(&self.registry, name).ok_or_else(errors::no_such_path)?
            }
            (Info::GroupVersion(group, version), _) => {
                discovery::resources(&self.registry, group, version)
                    .ok_or_else(errors::no_such_path)?
            }
            (Info::Root, _) => json!({"paths": self.paths()}),
            (Info::OpenApi(path), _) => openapi(path).ok_or_else(errors::no_such_path)?,
            (Info::Health(_) | Info::Version | Info::Metrics | Info::Backup, _) => {
                return Err(errors::no_such_path());
            }
        };
        let media = match (info, aggregated) {
            (Info::LegacyVersions | Info::Groups, Some(version)) => {
                format!(
                    "application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
                )
            }
            _ => "application/json".into(),
        };
        let mut response = document_response(parts, &document, &media);
        // What is asked for by its hash never changes.
        if matches!(info, Info::OpenApi(_)) && Query::parse(query(parts)).get("hash").is_some() {
            let forever = HeaderValue::from_static("public, immutable, max-age=31536000");
            response.headers_mut().insert(header::CACHE_CONTROL, forever);
        }
        Ok(response)
    }

    fn paths(&self) -> Vec<String> {
        let groups = self.registry.groups().into_keys().map(|(group, version)| match group {
            "" => format!("/api/{version}"),
            group => format!("/apis/{group}/{version}"),
        });
        let fixed = [
            "/api",
            "/apis",
            "/healthz",
            "/livez",
            "/metrics",
            "/openapi/v3",
            "/readyz",
            "/version",
        ];
        let mut paths: Vec<String> = groups.chain(fixed.map(str::to_owned)).collect();
        paths.sort();
        paths
    }

    fn health(&self, path: &str, uri: &http::Uri) -> Response<Body> {
        let (endpoint, only) = path.split_once('/').unwrap_or((path, ""));
        let mut checks = vec![("ping", true), ("store", self.store.healthy())];
        if endpoint == "readyz" {
            checks.push(("shutdown", !self.shutdown.is_cancelled()));
        }
        if !only.is_empty() {
            checks.retain(|(name, _)| *name == only);
            if checks.is_empty() {
                return body::text(StatusCode::NOT_FOUND, "404 page not found\n");
            }
        }
        let good = checks.iter().all(|(_, good)| *good);
        let verbose = Query::parse(uri.query().unwrap_or_default()).get("verbose").is_some();
        if good && !verbose {
            return body::text(StatusCode::OK, "ok");
        }
        let mut text = String::new();
        for (name, good) in checks {
            let line = if good { format!("[+]{name} ok") } else { format!("[-]{name} failed") };
            text.push_str(&line);
            text.push('\n');
        }
        let verdict = if good { "passed" } else { "failed" };
        let _ = writeln!(text, "{endpoint} check {verdict}");
        let status = if good { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
        body::text(status, text)
    }

    fn metrics(&self) -> String {
        let mut text = String::from("# TYPE apiserver_storage_objects gauge\n");
        for (resource, count) in self.store.counts() {
            let _ = writeln!(text, "apiserver_storage_objects{{resource=\"{resource}\"}} {count}");
        }
        let _ = writeln!(text, "# TYPE kobune_store_revision counter");
        let _ = writeln!(text, "kobune_store_revision {}", self.store.revision());
        text
    }
}

fn query(parts: &Parts) -> &str {
    parts.uri.query().unwrap_or_default()
}

/// Clients ask for it with an `@` in the place of a dot, which their own media type parser refuses in answers.
const OPENAPI_V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The older form of OpenAPI describes nothing here: clients before 1.29 insist on the document, then go by the
/// types that they know themselves.
fn openapi_v2(parts: &Parts) -> Response<Body> {
    let accept = parts.headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
    if !accept.is_some_and(|a| a.contains("protobuf")) {
        let info = json!({"title": "Kubernetes", "version": VERSION});
        return body::value(StatusCode::OK, &json!({"swagger": "2.0", "info": info, "paths": {}}));
    }
    // openapi.v2.Document: swagger = 1, info = 2 { title = 1, version = 2 }, paths = 8
    let info = [field(1, b"Kubernetes"), field(2, VERSION.as_bytes())].concat();
    let document = [field(1, b"2.0"), field(2, &info), field(8, b"")].concat();
    let mut response = body::json(StatusCode::OK, document);
    let media = HeaderValue::from_static(OPENAPI_V2_PROTOBUF);
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    response
}

/// One length-delimited protobuf field, shorter than 128 bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    debug_assert!(number < 16 && bytes.len() < 128);
    let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap_or(0)];
    out.extend_from_slice(bytes);
    out
}

/// `v3`, `v3/api/v1`, `v3/apis/<group>/<version>`
fn openapi(path: &str) -> Option<Value> {
    match *path.split('/').collect::<Vec<_>>().as_slice() {
        ["v3"] => Some(crate::openapi::v3_index()),
        ["v3", "api", version] => crate::openapi::v3("", version),
        ["v3", "apis", group, version] => crate::openapi::v3(group, version),
        _ => None,
    }
}

fn version() -> Value {
    json!({
        "major": "1", "minor": "33", "gitVersion": VERSION, "gitCommit": "", "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": format!("linux/{}", match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }),
    })
}

/// 304 when the client has it already.
pub(super) fn document_response(parts: &Parts, document: &Value, media: &str) -> Response<Body> {
    let bytes = document.to_string();
    let etag = discovery::etag(bytes.as_bytes());
    let known = parts.headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let mut response = match known == Some(etag.as_str()) {
        true => body::json(StatusCode::NOT_MODIFIED, ""),
        false => body::json(StatusCode::OK, bytes),
    };
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, etag);
    }
    if let Ok(media) = HeaderValue::from_str(media) {
        headers.insert(header::CONTENT_TYPE, media);
    }
    response
}
