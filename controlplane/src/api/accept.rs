//! Content negotiation: what form of an object the client asked for. Pure.

use http::{HeaderMap, StatusCode, header};

use super::request::Query;
use crate::status::ApiError;

/// What of each object goes into a Table row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    Metadata,
    Object,
}

/// The shape of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Object,
    Partial,
    Table(Include),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) shape: Shape,
    pub(crate) encoding: Encoding,
}

/// The first media type of `Accept` that this server can write.
pub(crate) fn negotiate(headers: &HeaderMap, query: &Query) -> Result<Format, ApiError> {
    let accepts: Vec<&str> =
        headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
    let accepts = accepts.join(",");
    if accepts.trim().is_empty() {
        return Ok(Format { shape: Shape::Object, encoding: Encoding::Json });
    }
    let chosen = accepts.split(',').find_map(|range| format(range, query));
    chosen.ok_or_else(|| {
        let known = "application/json, application/yaml";
        let message = format!("only the following media types are accepted: {known}");
        ApiError::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    })
}

fn format(range: &str, query: &Query) -> Option<Format> {
    let mut parts = range.split(';').map(str::trim);
    let encoding = match parts.next()? {
        "application/json" | "application/*" | "*/*" => Encoding::Json,
        "application/yaml" => Encoding::Yaml,
        _ => return None,
    };
    let (mut kind, mut group, mut version) = ("", "meta.k8s.io", "v1");
    for part in parts {
        match part.split_once('=') {
            Some(("as", value)) => kind = value,
            Some(("g", value)) => group = value,
            Some(("v", value)) => version = value,
            // A stream parameter (`stream=watch`), a quality, a charset: all the same to us.
            _ => {}
        }
    }
    let shape = match kind {
        "" => Shape::Object,
        _ if group != "meta.k8s.io" || !matches!(version, "v1" | "v1beta1") => return None,
        "Table" => Shape::Table(match query.get("includeObject") {
            Some("None") => Include::None,
            Some("Object") => Include::Object,
            _ => Include::Metadata,
        }),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Shape::Partial,
        _ => return None,
    };
    Some(Format { shape, encoding })
}

/// The API version of aggregated discovery that the client prefers; None for the plain lists.
pub(crate) fn aggregated_discovery(headers: &HeaderMap) -> Option<&'static str> {
    let accepts: Vec<&str> =
        headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
    for range in accepts.join(",").split(',') {
        let has = |wanted: &str| range.split(';').any(|part| part.trim() == wanted);
        if !has("application/json") {
            continue;
        }
        if !has("as=APIGroupDiscoveryList") {
            return None;
        }
        // A variant of the list that leaves out peers is this one: there are no peers.
        if has("g=apidiscovery.k8s.io") && has("v=v2") {
            return Some("v2");
        }
        if has("g=apidiscovery.k8s.io") && has("v=v2beta1") {
            return Some("v2beta1");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(accept: &str, query: &str) -> Option<Shape> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        negotiate(&headers, &Query::parse(query)).ok().map(|f| f.shape)
    }

    #[test]
    fn the_first_writable_type_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(ask(kubectl, ""), Some(Shape::Table(Include::Metadata)));
        assert_eq!(ask(kubectl, "includeObject=Object"), Some(Shape::Table(Include::Object)));
        let typed = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(ask(typed, ""), Some(Shape::Object));
        assert_eq!(
            ask("application/json;as=Other;v=v1;g=meta.k8s.io, */*", ""),
            Some(Shape::Object)
        );
        let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert_eq!(ask(partial, ""), Some(Shape::Partial));
        assert_eq!(ask("application/vnd.kubernetes.protobuf", ""), None);
        assert_eq!(ask("text/html", ""), None);
    }

    #[test]
    fn discovery_versions() {
        let ask = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            aggregated_discovery(&headers)
        };
        let list = "as=APIGroupDiscoveryList";
        let both = format!(
            "application/json;g=apidiscovery.k8s.io;v=v2;{list},application/json;g=apidiscovery.k8s.io;v=v2beta1;{list},application/json"
        );
        assert_eq!(ask(&both), Some("v2"));
        let old =
            format!("application/json;g=apidiscovery.k8s.io;v=v2beta1;{list},application/json");
        assert_eq!(ask(&old), Some("v2beta1"));
        assert_eq!(ask("application/json"), None);
    }
}
