//! What discovery and decoding need to know of subresources: their own kinds and verbs.

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::core::v1::Binding;
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;

use super::Kind;
use super::schema::Types;

/// One line of discovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subresource {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub verbs: &'static [&'static str],
}

/// Which kind `name` of `kind` speaks; None when it has none such.
pub fn subresource(kind: &Kind, name: &str) -> Option<Subresource> {
    if !kind.subresources.contains(&name) {
        return None;
    }
    let of = |group, version, kind, verbs| Some(Subresource { group, version, kind, verbs });
    const CONNECT: &[&str] = &["create", "get"];
    const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];
    const CHANGE: &[&str] = &["get", "patch", "update"];
    match name {
        "scale" => of("autoscaling", "v1", "Scale", CHANGE),
        "eviction" => of("policy", "v1", "Eviction", &["create"]),
        "token" => of("authentication.k8s.io", "v1", "TokenRequest", &["create"]),
        "binding" => of(kind.group, kind.version, "Binding", &["create"]),
        "exec" => of(kind.group, kind.version, "PodExecOptions", CONNECT),
        "attach" => of(kind.group, kind.version, "PodAttachOptions", CONNECT),
        "portforward" => of(kind.group, kind.version, "PodPortForwardOptions", CONNECT),
        "proxy" if kind.kind == "Pod" => of("", "v1", "PodProxyOptions", PROXY),
        "proxy" if kind.kind == "Service" => of("", "v1", "ServiceProxyOptions", PROXY),
        "proxy" => of("", "v1", "NodeProxyOptions", PROXY),
        "log" => of(kind.group, kind.version, kind.kind, &["get"]),
        "finalize" => of(kind.group, kind.version, kind.kind, &["update"]),
        _ => of(kind.group, kind.version, kind.kind, CHANGE),
    }
}

/// Bodies that are no stored kind.
pub(super) fn learn(types: &mut Types) {
    types.learn::<Scale>();
    types.learn::<Binding>();
    types.learn::<Eviction>();
    types.learn::<TokenRequest>();
    types.learn::<DeleteOptions>();
}
