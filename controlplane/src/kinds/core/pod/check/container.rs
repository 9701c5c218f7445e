//! One container.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, ContainerPort, VolumeMount};

use super::{PROTOCOLS, env, probes, resources, security, volumes};
use crate::kinds::field::{Errors, Path};
use crate::kinds::names;

pub(super) fn check(
    errors: &mut Errors,
    path: &Path,
    one: &Container,
    volumes: &BTreeSet<String>,
    host_network: bool,
) {
    if one.name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        errors.all_invalid(&path.child("name"), &one.name, names::dns_label(&one.name));
    }
    let image = one.image.as_deref().unwrap_or_default();
    if image.is_empty() {
        errors.required(&path.child("image"), "");
    } else if image.trim() != image {
        let why = "must not have leading or trailing whitespace";
        errors.invalid(&path.child("image"), image, why);
    }
    policies(errors, path, one);
    ports(errors, &path.child("ports"), one.ports.as_deref().unwrap_or_default(), host_network);
    env::check(errors, path, one);
    mounts(errors, path, one, volumes);
    probes::check(errors, path, one);
    if let Some(wanted) = &one.resources {
        resources::check(errors, &path.child("resources"), wanted);
    }
    if let Some(context) = &one.security_context {
        security::container(errors, &path.child("securityContext"), context);
    }
}

fn policies(errors: &mut Errors, path: &Path, one: &Container) {
    const PULL: &[&str] = &["Always", "IfNotPresent", "Never"];
    const MESSAGE: &[&str] = &["FallbackToLogsOnError", "File"];
    errors.one_of(&path.child("imagePullPolicy"), one.image_pull_policy.as_deref(), PULL);
    let policy = one.termination_message_policy.as_deref();
    errors.one_of(&path.child("terminationMessagePolicy"), policy, MESSAGE);
}

fn ports(errors: &mut Errors, path: &Path, ports: &[ContainerPort], host_network: bool) {
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let at = path.index(index);
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            errors.all_invalid(&at.child("name"), name, names::port_name(name));
            if !seen.insert(name) {
                errors.duplicate(&at.child("name"), name);
            }
        }
        if port.container_port == 0 {
            errors.required(&at.child("containerPort"), "");
        } else {
            errors.port(&at.child("containerPort"), port.container_port);
        }
        let host_port = port.host_port.unwrap_or(0);
        if host_port != 0 {
            errors.port(&at.child("hostPort"), host_port);
        }
        if host_network && host_port != 0 && host_port != port.container_port {
            let why = "must match `hostPort` when `hostNetwork` is true";
            errors.invalid(&at.child("containerPort"), port.container_port, why);
        }
        errors.one_of(&at.child("protocol"), port.protocol.as_deref(), PROTOCOLS);
    }
}

/// Two containers of a Pod cannot have the same port of the host.
pub(super) fn host_ports(
    errors: &mut Errors,
    path: &Path,
    one: &Container,
    seen: &mut BTreeSet<String>,
) {
    for (index, port) in one.ports.iter().flatten().enumerate() {
        let number = port.host_port.unwrap_or(0);
        if number == 0 {
            continue;
        }
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let id = format!("{}/{}/{number}", text(&port.protocol), text(&port.host_ip));
        if !seen.insert(id.clone()) {
            errors.duplicate(&path.child("ports").index(index).child("hostPort"), id);
        }
    }
}

fn mounts(errors: &mut Errors, path: &Path, one: &Container, known: &BTreeSet<String>) {
    let place = path.child("volumeMounts");
    let privileged = one.security_context.as_ref().and_then(|c| c.privileged) == Some(true);
    let mut seen = BTreeSet::new();
    for (index, mount) in one.volume_mounts.iter().flatten().enumerate() {
        let at = place.index(index);
        if mount.name.is_empty() {
            errors.required(&at.child("name"), "");
        } else if !known.contains(&mount.name) {
            errors.not_found(&at.child("name"), &mount.name);
        }
        if mount.mount_path.is_empty() {
            errors.required(&at.child("mountPath"), "");
        } else if !seen.insert(&mount.mount_path) {
            errors.invalid(&at.child("mountPath"), &mount.mount_path, "must be unique");
        }
        sub_paths(errors, &at, mount);
        propagation(errors, &at, mount, privileged);
    }
    for (index, device) in one.volume_devices.iter().flatten().enumerate() {
        let at = path.child("volumeDevices").index(index);
        if device.name.is_empty() {
            errors.required(&at.child("name"), "");
        } else if !known.contains(&device.name) {
            errors.not_found(&at.child("name"), &device.name);
        }
        if device.device_path.is_empty() {
            errors.required(&at.child("devicePath"), "");
        }
    }
}

fn sub_paths(errors: &mut Errors, path: &Path, mount: &VolumeMount) {
    let given = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    let (plain, expression) = (given(&mount.sub_path), given(&mount.sub_path_expr));
    if let Some(text) = &plain {
        volumes::inside(errors, &path.child("subPath"), text);
    }
    if let Some(text) = &expression {
        let at = path.child("subPathExpr");
        if plain.is_some() {
            errors.invalid(&at, text, "subPathExpr and subPath are mutually exclusive");
        }
        volumes::inside(errors, &at, text);
    }
}

fn propagation(errors: &mut Errors, path: &Path, mount: &VolumeMount, privileged: bool) {
    const MODES: &[&str] = &["Bidirectional", "HostToContainer", "None"];
    let at = path.child("mountPropagation");
    errors.optional_one_of(&at, mount.mount_propagation.as_deref(), MODES);
    if mount.mount_propagation.as_deref() == Some("Bidirectional") && !privileged {
        let why = "Bidirectional mount propagation is available only to privileged containers";
        errors.forbidden(&at, why);
    }
    const RECURSIVE: &[&str] = &["Disabled", "Enabled", "IfPossible"];
    let at = path.child("recursiveReadOnly");
    let recursive = mount.recursive_read_only.as_deref();
    errors.optional_one_of(&at, recursive, RECURSIVE);
    let strict = matches!(recursive, Some("Enabled" | "IfPossible"));
    if strict && mount.read_only != Some(true) {
        errors.forbidden(&at, "may only be specified when readOnly is true");
    }
}

/// What init containers may not have.
pub(super) fn init(errors: &mut Errors, path: &Path, one: &Container) {
    let sidecar = match one.restart_policy.as_deref() {
        None => false,
        Some("Always") => true,
        Some(other) => {
            errors.not_supported(&path.child("restartPolicy"), other, &["Always"]);
            return;
        }
    };
    if sidecar {
        return;
    }
    for (field, set) in [
        ("lifecycle", one.lifecycle.is_some()),
        ("livenessProbe", one.liveness_probe.is_some()),
        ("readinessProbe", one.readiness_probe.is_some()),
        ("startupProbe", one.startup_probe.is_some()),
    ] {
        if set {
            let why = "may not be set for init containers without restartPolicy=Always";
            errors.forbidden(&path.child(field), why);
        }
    }
}

/// What ephemeral containers may not have.
pub(super) fn ephemeral(errors: &mut Errors, path: &Path, one: &Container) {
    let has_resources = one
        .resources
        .as_ref()
        .is_some_and(|r| r.limits.is_some() || r.requests.is_some() || r.claims.is_some());
    for (field, set) in [
        ("lifecycle", one.lifecycle.is_some()),
        ("livenessProbe", one.liveness_probe.is_some()),
        ("ports", one.ports.as_ref().is_some_and(|p| !p.is_empty())),
        ("readinessProbe", one.readiness_probe.is_some()),
        ("resources", has_resources),
        ("restartPolicy", one.restart_policy.is_some()),
        ("startupProbe", one.startup_probe.is_some()),
    ] {
        if set {
            errors.forbidden(&path.child(field), "cannot be set for an Ephemeral Container");
        }
    }
}
