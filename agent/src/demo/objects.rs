//! What the demo creates: a Namespace, a Deployment of three, a Service. Pure.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Service};
use serde_json::{Value, json};

use crate::image::ImageConfig;

pub(super) const NAMESPACE: &str = "demo";
pub(super) const NAME: &str = "hello";
pub(super) const REPLICAS: usize = 3;
/// Of the Service; the Pods listen on 8080.
pub(super) const PORT: u16 = 80;
/// The program itself, as an image.
pub(crate) const IMAGE: &str = concat!("localhost/kobune-demo:", env!("CARGO_PKG_VERSION"));

/// How the demo image runs.
pub(crate) fn image_config() -> ImageConfig {
    let mut config = ImageConfig::default();
    config.set_entrypoint(Some(vec!["/kobune".into(), "demo-server".into()]));
    config.set_env(Some(vec!["PATH=/".into()]));
    config.set_user(Some("65534:65534".into()));
    config.set_exposed_ports(Some(vec!["8080/tcp".into()]));
    config
}

pub(super) fn namespace() -> Namespace {
    typed(json!({"metadata": {"name": NAMESPACE}}))
}

pub(super) fn deployment() -> Deployment {
    let probe = |path: &str| json!({"httpGet": {"path": path, "port": 8080}, "periodSeconds": 1, "failureThreshold": 3});
    typed(json!({
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": labels()},
        "spec": {
            "replicas": REPLICAS,
            "selector": {"matchLabels": labels()},
            "template": {
                "metadata": {"labels": labels()},
                "spec": {
                    "terminationGracePeriodSeconds": 5,
                    "containers": [{
                        "name": "server",
                        "image": IMAGE,
                        "ports": [{"name": "http", "containerPort": 8080}],
                        "env": [{
                            "name": "POD_IP",
                            "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}},
                        }],
                        "readinessProbe": probe("/readyz"),
                        "livenessProbe": probe("/healthz"),
                        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                    }],
                },
            },
        },
    }))
}

pub(super) fn service() -> Service {
    typed(json!({
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {
            "selector": labels(),
            "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
        },
    }))
}

fn labels() -> Value {
    json!({"app": NAME})
}

/// The literals above are objects of their kinds; a test holds them to it.
fn typed<T: serde::de::DeserializeOwned + Default>(value: Value) -> T {
    serde_json::from_value(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_literals_are_objects() {
        assert_eq!(namespace().metadata.name.as_deref(), Some(NAMESPACE));
        let spec = deployment().spec.unwrap();
        assert_eq!(spec.replicas, Some(3));
        assert_eq!(spec.selector.match_labels, spec.template.metadata.unwrap().labels);
        let container = &spec.template.spec.unwrap().containers[0];
        assert_eq!(container.image.as_deref(), Some(IMAGE));
        assert!(container.readiness_probe.as_ref().unwrap().http_get.is_some());
        assert_eq!(service().spec.unwrap().ports.unwrap()[0].port, i32::from(PORT));
    }

    #[test]
    fn the_image_name_is_normal() {
        assert_eq!(crate::image::Reference::parse(IMAGE).unwrap().key(), IMAGE);
    }
}
