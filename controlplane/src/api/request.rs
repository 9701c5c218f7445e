//! The grammar of requests: method, path and query become a [`Request`]. Pure; knows which kinds are served
//! and nothing of what they hold.

use http::{Method, StatusCode, Uri};
use percent_encoding::percent_decode_str;

use super::errors;
use super::registry::Registry;
use crate::kinds::Kind;
use crate::status::ApiError;

#[derive(Debug)]
pub(crate) enum Request {
    Info(Info),
    Resource(Box<Target>),
}

/// What can be asked about the server itself.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Info {
    /// `livez`, `readyz/ping` …
    Health(String),
    Version,
    Metrics,
    /// Everything, to be kept elsewhere.
    Backup,
    /// What follows `/openapi/`.
    OpenApi(String),
    Root,
    /// `/api`
    LegacyVersions,
    /// `/apis`
    Groups,
    Group(String),
    /// The group is empty for `/api/v1`.
    GroupVersion(String, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
        }
    }
}

/// A verb on a resource.
pub(crate) struct Target {
    pub(crate) kind: &'static Kind,
    pub(crate) verb: Verb,
    /// Empty: cluster-scoped, or all namespaces.
    pub(crate) namespace: String,
    /// Empty: the collection.
    pub(crate) name: String,
    /// Empty: the resource itself.
    pub(crate) subresource: String,
    pub(crate) query: Query,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, verb, namespace, name, subresource, query } = self;
        let plural = kind.plural;
        write!(f, "{} {plural}/{subresource} {namespace}/{name} {query:?}", verb.as_str())
    }
}

/// Query parameters in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The value unless it is absent or empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    pub(crate) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None | Some("false" | "0" | "f" | "F" | "False" | "FALSE") => Ok(false),
            Some("" | "true" | "1" | "t" | "T" | "True" | "TRUE") => Ok(true),
            Some(other) => Err(errors::bad_request(format!(
                "query parameter {name:?}: {other:?} is neither true nor false"
            ))),
        }
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let parse = |text: &str| {
            text.parse().map_err(|_| {
                errors::bad_request(format!("query parameter {name:?}: {text:?} is not a number"))
            })
        };
        self.text(name).map(parse).transpose()
    }
}

/// `Err` is 404 for a path that nothing lives at, 405 for a method that a path does not have.
pub(crate) fn parse(method: &Method, uri: &Uri, registry: &Registry) -> Result<Request, ApiError> {
    let mut segments = Vec::new();
    for part in uri.path().split('/').filter(|p| !p.is_empty()) {
        let part = percent_decode_str(part).decode_utf8();
        segments.push(part.map_err(|_| errors::bad_request("the path is not UTF-8"))?.into_owned());
    }
    let path: Vec<&str> = segments.iter().map(String::as_str).collect();
    let info = match path.as_slice() {
        [] => Info::Root,
        [check @ ("livez" | "readyz" | "healthz"), ..] => Info::Health(
            std::iter::once(*check).chain(path[1..].iter().copied()).collect::<Vec<_>>().join("/"),
        ),
        ["version"] => Info::Version,
        ["metrics"] => Info::Metrics,
        ["kobune", "backup"] => Info::Backup,
        ["openapi", rest @ ..] => Info::OpenApi(rest.join("/")),
        ["api"] => Info::LegacyVersions,
        ["api", version] => Info::GroupVersion(String::new(), (*version).into()),
        ["apis"] => Info::Groups,
        ["apis", group] => Info::Group((*group).into()),
        ["apis", group, version] => Info::GroupVersion((*group).into(), (*version).into()),
        ["api", version, rest @ ..] => {
            let query = Query::parse(uri.query().unwrap_or_default());
            return resource(method, registry, "", version, rest, query);
        }
        ["apis", group, version, rest @ ..] => {
            let query = Query::parse(uri.query().unwrap_or_default());
            return resource(method, registry, group, version, rest, query);
        }
        _ => return Err(errors::no_such_path()),
    };
    match *method {
        Method::GET | Method::HEAD => Ok(Request::Info(info)),
        _ => Err(errors::method_not_allowed()),
    }
}

fn resource(
    method: &Method,
    registry: &Registry,
    group: &str,
    version: &str,
    rest: &[&str],
    query: Query,
) -> Result<Request, ApiError> {
    // `/api/v1/watch/…` is the old way to say `?watch=1`.
    let (rest, watch) = match rest {
        ["watch", rest @ ..] if !rest.is_empty() => (rest, true),
        rest => (rest, query.flag("watch")?),
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !matches!(rest, [] | ["status" | "finalize"]) => {
            (*namespace, rest)
        }
        rest => ("", rest),
    };
    let (plural, name, subresource) = match *rest {
        [plural] => (plural, "", ""),
        [plural, name] => (plural, name, ""),
        [plural, name, subresource] => (plural, name, subresource),
        _ => return Err(errors::no_such_path()),
    };
    // `bindings` is the collection form of `pods/binding`.
    let (plural, subresource) = match (group, plural) {
        ("", "bindings") if name.is_empty() => ("pods", "binding"),
        _ => (plural, subresource),
    };
    let kind = registry.find(group, version, plural).ok_or_else(errors::no_such_path)?;
    if !subresource.is_empty() && !kind.subresources.contains(&subresource) {
        return Err(errors::no_such_path());
    }
    if !namespace.is_empty() && !kind.namespaced {
        return Err(errors::no_such_path());
    }
    if kind.namespaced && namespace.is_empty() && (!name.is_empty() || *method == Method::POST) {
        return Err(errors::bad_request("an empty namespace may not be set here"));
    }
    let verb = verb(method, !name.is_empty(), watch, subresource)?;
    if !kind.is_stored() && verb != Verb::Create {
        return Err(errors::method_not_allowed());
    }
    Ok(Request::Resource(Box::new(Target {
        kind,
        verb,
        namespace: namespace.into(),
        name: name.into(),
        subresource: subresource.into(),
        query,
    })))
}

fn verb(method: &Method, named: bool, watch: bool, subresource: &str) -> Result<Verb, ApiError> {
    let connects = matches!(subresource, "exec" | "attach" | "portforward");
    Ok(match *method {
        Method::GET | Method::HEAD if watch && subresource.is_empty() => Verb::Watch,
        Method::GET | Method::HEAD if named => Verb::Get,
        Method::GET | Method::HEAD => Verb::List,
        Method::POST if !named || !subresource.is_empty() => Verb::Create,
        Method::PUT if named && !connects => Verb::Update,
        Method::PATCH if named && !connects => Verb::Patch,
        Method::DELETE if named && subresource.is_empty() => Verb::Delete,
        Method::DELETE if !named => Verb::DeleteCollection,
        _ => return Err(errors::method_not_allowed()),
    })
}

/// What lists and watches can be asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ListOptions {
    pub(crate) limit: usize,
    pub(crate) token: Option<String>,
    /// None: the most recent; 0: any.
    pub(crate) revision: Option<u64>,
    pub(crate) exact: bool,
    pub(crate) bookmarks: bool,
    pub(crate) initial_events: Option<bool>,
    pub(crate) timeout_seconds: Option<u64>,
}

impl ListOptions {
    pub(crate) fn parse(query: &Query) -> Result<Self, ApiError> {
        let revision = match query.text("resourceVersion").map(str::parse) {
            None => None,
            Some(Ok(revision)) => Some(revision),
            Some(Err(_)) => {
                return Err(errors::bad_request(format!(
                    "Invalid value: {:?}: resourceVersion must be an unsigned integer",
                    query.text("resourceVersion").unwrap_or_default()
                )));
            }
        };
        let matching = query.text("resourceVersionMatch");
        match matching {
            None | Some("NotOlderThan" | "Exact") => {}
            Some(other) => return Err(list_option_invalid("resourceVersionMatch", other)),
        }
        if matching.is_some() && revision.is_none() && query.get("sendInitialEvents").is_none() {
            let error = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided";
            return Err(errors::bad_request(error));
        }
        let initial_events = match query.get("sendInitialEvents") {
            None => None,
            Some(_) => Some(query.flag("sendInitialEvents")?),
        };
        Ok(Self {
            limit: query.number("limit")?.unwrap_or(0),
            token: query.text("continue").map(str::to_owned),
            revision,
            exact: matching == Some("Exact"),
            bookmarks: query.flag("allowWatchBookmarks")?,
            initial_events,
            timeout_seconds: query.number("timeoutSeconds")?,
        })
    }

    /// The rules of streaming lists.
    pub(crate) fn check_watch(&self, query: &Query) -> Result<(), ApiError> {
        let matching = query.text("resourceVersionMatch");
        match (self.initial_events, matching) {
            (Some(_), Some("NotOlderThan")) | (None, None) => Ok(()),
            (Some(_), _) => Err(errors::list_options_invalid(
                "resourceVersionMatch",
                "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            )),
            (None, Some(_)) => Err(errors::list_options_invalid(
                "resourceVersionMatch",
                "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            )),
        }
    }
}

fn list_option_invalid(field: &str, value: &str) -> ApiError {
    let text = format!(
        "{field}: Unsupported value: {value:?}: supported values: \"Exact\", \"NotOlderThan\""
    );
    ApiError::new(StatusCode::BAD_REQUEST, "BadRequest", text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing;

    fn ask(method: &str, uri: &str) -> String {
        let registry = testing::registry();
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        match parse(&method, &uri.parse().unwrap(), &registry) {
            Ok(Request::Info(info)) => format!("{info:?}"),
            Ok(Request::Resource(t)) => {
                let (verb, kind) = (t.verb.as_str(), t.kind.resource);
                format!("{verb} {kind} {:?} {:?} {:?}", t.namespace, t.name, t.subresource)
            }
            Err(e) => format!("{} {}", e.code.as_u16(), e.reason),
        }
    }

    #[test]
    fn paths() {
        for (method, uri, meaning) in [
            ("GET", "/", "Root"),
            ("GET", "/readyz/ping?verbose", r#"Health("readyz/ping")"#),
            ("GET", "/api/", "LegacyVersions"),
            ("GET", "/api/v1", r#"GroupVersion("", "v1")"#),
            ("GET", "/apis/apps/v1", r#"GroupVersion("apps", "v1")"#),
            ("GET", "/openapi/v3/api/v1", r#"OpenApi("v3/api/v1")"#),
            ("GET", "/api/v1/pods", r#"list pods "" "" """#),
            ("GET", "/api/v1/pods?watch=true", r#"watch pods "" "" """#),
            ("GET", "/api/v1/watch/namespaces/a/pods", r#"watch pods "a" "" """#),
            ("GET", "/api/v1/namespaces/a/pods/b", r#"get pods "a" "b" """#),
            ("GET", "/api/v1/namespaces/a/pods/b/log", r#"get pods "a" "b" "log""#),
            ("POST", "/api/v1/namespaces/a/pods", r#"create pods "a" "" """#),
            ("POST", "/api/v1/namespaces/a/pods/b/binding", r#"create pods "a" "b" "binding""#),
            ("POST", "/api/v1/namespaces/a/bindings", r#"create pods "a" "" "binding""#),
            ("GET", "/api/v1/namespaces/a", r#"get namespaces "" "a" """#),
            ("PUT", "/api/v1/namespaces/a/finalize", r#"update namespaces "" "a" "finalize""#),
            ("DELETE", "/api/v1/namespaces/a/pods", r#"deletecollection pods "a" "" """#),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/a/deployments/d",
                r#"patch deployments.apps "a" "d" """#,
            ),
            ("GET", "/api/v1/namespaces/a/pods/b%2Fc", r#"get pods "a" "b/c" """#),
            ("GET", "/api/v1/nothings", "404 NotFound"),
            ("GET", "/api/v1/namespaces/a/pods/b/nothing", "404 NotFound"),
            ("GET", "/api/v1/namespaces/a/namespaces/b", "404 NotFound"),
            ("POST", "/api/v1/pods", "400 BadRequest"),
            ("POST", "/api/v1/namespaces/a/pods/b", "405 MethodNotAllowed"),
            ("PUT", "/api/v1/namespaces/a/pods", "405 MethodNotAllowed"),
            ("POST", "/version", "405 MethodNotAllowed"),
            ("GET", "/nowhere", "404 NotFound"),
        ] {
            assert_eq!(ask(method, uri), meaning, "{method} {uri}");
        }
    }

    #[test]
    fn list_options() {
        let parse = |q: &str| ListOptions::parse(&Query::parse(q));
        let options = parse("limit=5&resourceVersion=7&resourceVersionMatch=Exact").unwrap();
        assert_eq!((options.limit, options.revision, options.exact), (5, Some(7), true));
        assert_eq!(parse("resourceVersion=").unwrap().revision, None);
        assert!(parse("resourceVersion=x").is_err());
        assert!(parse("resourceVersionMatch=Exact").is_err());
        assert!(parse("limit=many").is_err());
        let watch = |q: &str| parse(q).unwrap().check_watch(&Query::parse(q));
        assert!(watch("sendInitialEvents=true&resourceVersionMatch=NotOlderThan").is_ok());
        assert!(watch("sendInitialEvents=true").is_err());
        assert!(watch("resourceVersion=1&resourceVersionMatch=NotOlderThan").is_err());
    }
}
