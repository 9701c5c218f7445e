//! Defaults of the Pod spec, complete as upstream's: `spec` for templates too, `pod` what only Pods get.

use serde_json::{Value, json};

use crate::kinds::edit::{Object, child, default_to, each, is_unset, make};

const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
/// 0644
const FILE_MODE: i32 = 420;

/// A Pod's own spec.
pub(in crate::kinds) fn pod(pod: &mut Object) {
    spec(pod);
    default_to(pod, "enableServiceLinks", true);
    let host_network = pod.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["initContainers", "containers"] {
        for container in each(pod, list) {
            requests_from_limits(container);
            if host_network {
                host_ports(container);
            }
        }
    }
}

/// What a Pod and a template share.
pub(in crate::kinds) fn spec(spec: &mut Object) {
    default_to(spec, "dnsPolicy", "ClusterFirst");
    default_to(spec, "restartPolicy", "Always");
    default_to(spec, "schedulerName", "default-scheduler");
    default_to(spec, "terminationGracePeriodSeconds", 30);
    make(spec, "securityContext");
    account_names(spec);
    for list in CONTAINER_LISTS {
        for one in each(spec, list) {
            container(one);
        }
    }
    for one in each(spec, "volumes") {
        volume(one);
    }
}

/// The deprecated `serviceAccount` and its successor are one value.
fn account_names(spec: &mut Object) {
    let (new, old) = ("serviceAccountName", "serviceAccount");
    for (from, to) in [(old, new), (new, old)] {
        if is_unset(spec.get(to)) && !is_unset(spec.get(from)) {
            let name = spec[from].clone();
            spec.insert(to.into(), name);
        }
    }
}

fn container(container: &mut Object) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = pull_policy(image);
    default_to(container, "imagePullPolicy", policy);
    default_to(container, "terminationMessagePath", "/dev/termination-log");
    default_to(container, "terminationMessagePolicy", "File");
    make(container, "resources");
    for port in each(container, "ports") {
        default_to(port, "protocol", "TCP");
    }
    for env in each(container, "env") {
        field_ref(child(env, "valueFrom"));
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(one) = child(container, name) {
            probe(one);
        }
    }
    if let Some(lifecycle) = child(container, "lifecycle") {
        for name in ["postStart", "preStop"] {
            http_get(child(lifecycle, name));
        }
    }
}

/// Always for what may move under the name: tag `latest`, or none.
fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or_default();
    let moves = match (last.split_once('@'), last.rsplit_once(':')) {
        (Some(_), _) => false,
        (None, Some((_, tag))) => tag == "latest",
        (None, None) => true,
    };
    if moves { "Always" } else { "IfNotPresent" }
}

fn probe(probe: &mut Object) {
    default_to(probe, "timeoutSeconds", 1);
    default_to(probe, "periodSeconds", 10);
    default_to(probe, "successThreshold", 1);
    default_to(probe, "failureThreshold", 3);
    // Zero is the same as absent for these four.
    for (key, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        if probe[key] == 0 {
            probe.insert(key.into(), value.into());
        }
    }
    if let Some(grpc) = child(probe, "grpc")
        && !grpc.contains_key("service")
    {
        grpc.insert("service".into(), "".into());
    }
    http_get(Some(probe));
}

/// Of a probe or a hook.
fn http_get(handler: Option<&mut Object>) {
    if let Some(get) = handler.and_then(|h| child(h, "httpGet")) {
        default_to(get, "path", "/");
        default_to(get, "scheme", "HTTP");
    }
}

fn field_ref(source: Option<&mut Object>) {
    if let Some(field) = source.and_then(|s| child(s, "fieldRef")) {
        default_to(field, "apiVersion", "v1");
    }
}

fn requests_from_limits(container: &mut Object) {
    let Some(resources) = child(container, "resources") else { return };
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else { return };
    let requests = make(resources, "requests");
    for (name, amount) in limits {
        requests.entry(name).or_insert(amount);
    }
}

fn host_ports(container: &mut Object) {
    for port in each(container, "ports") {
        if port.get("hostPort").is_none_or(|p| p == 0) {
            let number = port.get("containerPort").cloned().unwrap_or_default();
            port.insert("hostPort".into(), number);
        }
    }
}

fn volume(volume: &mut Object) {
    if volume.keys().all(|key| key == "name") {
        volume.insert("emptyDir".into(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(one) = child(volume, source) {
            default_to(one, "defaultMode", FILE_MODE);
        }
    }
    if let Some(downward) = child(volume, "downwardAPI") {
        for item in each(downward, "items") {
            field_ref(Some(item));
        }
    }
    if let Some(projected) = child(volume, "projected") {
        for source in each(projected, "sources") {
            if let Some(token) = child(source, "serviceAccountToken") {
                default_to(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = child(source, "downwardAPI") {
                for item in each(downward, "items") {
                    field_ref(Some(item));
                }
            }
        }
    }
    if let Some(host) = child(volume, "hostPath")
        && !host.contains_key("type")
    {
        host.insert("type".into(), "".into());
    }
    if let Some(image) = child(volume, "image") {
        let reference = image.get("reference").and_then(Value::as_str).unwrap_or_default();
        let policy = pull_policy(reference);
        default_to(image, "pullPolicy", policy);
    }
    let claim = child(volume, "ephemeral").and_then(|e| child(e, "volumeClaimTemplate"));
    if let Some(claim) = claim {
        default_to(make(claim, "spec"), "volumeMode", "Filesystem");
    }
    if let Some(iscsi) = child(volume, "iscsi") {
        default_to(iscsi, "iscsiInterface", "default");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policies() {
        for (image, expected) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.25", "IfNotPresent"),
            ("host:5000/nginx", "Always"),
            ("host:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:00", "IfNotPresent"),
            ("host:5000/a/nginx:latest@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), expected, "{image}");
        }
    }
}
