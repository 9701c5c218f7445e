//! Objects that every cluster has from its first moment on, made or mended at each start.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::api::{Api, api_address};
use crate::auth::policy;
use crate::context::Config;
use crate::controllers::volumes::local_path;
use crate::object::Resource;
use crate::reader::Reader;
use crate::status::ApiError;
use crate::writer::{Change, Writer};

const WHO: &str = "system:apiserver";
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// What the cluster's own Pods may call themselves.
const PRIORITIES: [(&str, i32); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

pub(crate) async fn run(api: &Api, config: &Config, address: SocketAddr) -> Result<(), ApiError> {
    for name in NAMESPACES {
        create(api, "namespaces", namespace(name)).await?;
    }
    roles(api).await?;
    for (name, value) in PRIORITIES {
        create(api, "priorityclasses.scheduling.k8s.io", priority(name, value)).await?;
    }
    create(api, "storageclasses.storage.k8s.io", local_path::class()).await?;
    create(api, "services", service(config, address.port())).await?;
    create(api, "services", dns()).await?;
    replace(api, "endpoints", endpoints(address)).await?;
    replace(api, "endpointslices.discovery.k8s.io", slice(address)).await
}

/// All at once: a commit serves as many as wait for it. What somebody has added is left, what was taken away put back.
async fn roles(api: &Api) -> Result<(), ApiError> {
    let (roles, bindings) = policy::defaults();
    let roles = roles.into_iter().map(|r| ("clusterroles.rbac.authorization.k8s.io", r));
    let bindings =
        bindings.into_iter().map(|b| ("clusterrolebindings.rbac.authorization.k8s.io", b));
    let all = roles.chain(bindings).map(|(resource, object)| mend(api, resource, object));
    futures::future::try_join_all(all).await.map(drop)
}

async fn mend(api: &Api, resource: Resource, object: Value) -> Result<(), ApiError> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let Some(stored) = api.store().get(resource, "", name) else {
        return create(api, resource, object).await;
    };
    match policy::reconciled(&stored.value(), &object) {
        None => Ok(()),
        Some(object) => {
            api.apply(WHO, Change::Update { resource, subresource: None, object }).await.map(drop)
        }
    }
}

async fn create(api: &Api, resource: Resource, object: Value) -> Result<(), ApiError> {
    match api.apply(WHO, Change::Create { resource, object }).await {
        Err(error) if !error.is_already_exists() => Err(error),
        _ => Ok(()),
    }
}

/// Where this server is may have changed since the last start.
async fn replace(api: &Api, resource: Resource, mut object: Value) -> Result<(), ApiError> {
    match api.store().get(resource, "default", "kubernetes") {
        None => create(api, resource, object).await,
        Some(stored) => {
            let version = stored.meta.resource_version.to_string();
            object["metadata"]["resourceVersion"] = version.into();
            match api.apply(WHO, Change::Update { resource, subresource: None, object }).await {
                // Another server starts at this moment, and is as good an address.
                Err(error) if !error.is_conflict() => Err(error),
                _ => Ok(()),
            }
        }
    }
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn priority(name: &str, value: i32) -> Value {
    json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {"name": name}, "value": value,
        "description": "Used for system critical pods.",
    })
}

fn labels() -> Value {
    json!({"component": "apiserver", "provider": "kubernetes"})
}

fn service(config: &Config, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels()},
        "spec": {
            "type": "ClusterIP", "clusterIP": api_address(&config.service_cidr).to_string(),
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
        },
    })
}

/// Its address is reserved for it. It selects nothing: every node answers for itself.
fn dns() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {
            "k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS",
        }},
        "spec": {
            "type": "ClusterIP",
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            ],
        },
    })
}

fn endpoints(address: SocketAddr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {
            "endpointslice.kubernetes.io/skip-mirror": "true",
        }},
        "subsets": [{
            "addresses": [{"ip": address.ip().to_string()}],
            "ports": [{"name": "https", "port": address.port(), "protocol": "TCP"}],
        }],
    })
}

fn slice(address: SocketAddr) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {
            "kubernetes.io/service-name": "kubernetes",
        }},
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": address.port(), "protocol": "TCP"}],
    })
}
