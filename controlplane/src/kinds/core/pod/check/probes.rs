//! Probes and lifecycle hooks.

use k8s_openapi::api::core::v1::{
    Container, ExecAction, HTTPGetAction, Lifecycle, LifecycleHandler, Probe,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::kinds::field::{Errors, Path};
use crate::kinds::names;

pub(super) fn check(errors: &mut Errors, path: &Path, one: &Container) {
    for (field, probe) in [
        ("livenessProbe", &one.liveness_probe),
        ("readinessProbe", &one.readiness_probe),
        ("startupProbe", &one.startup_probe),
    ] {
        let Some(probe) = probe else { continue };
        let at = path.child(field);
        numbers(errors, &at, probe);
        handlers(
            errors,
            &at,
            Handlers {
                exec: probe.exec.as_ref(),
                http: probe.http_get.as_ref(),
                tcp: probe.tcp_socket.as_ref().map(|t| &t.port),
                grpc: probe.grpc.as_ref().map(|g| g.port),
                sleep: None,
            },
        );
        let successes = probe.success_threshold.unwrap_or(1);
        if field != "readinessProbe" && successes != 1 {
            errors.invalid(&at.child("successThreshold"), successes, "must be 1");
        }
        if let (Some(seconds), "readinessProbe") = (probe.termination_grace_period_seconds, field) {
            let why = "must not be set for readinessProbes";
            errors.invalid(&at.child("terminationGracePeriodSeconds"), seconds, why);
        }
    }
    if let Some(hooks) = &one.lifecycle {
        lifecycle(errors, &path.child("lifecycle"), hooks);
    }
}

fn numbers(errors: &mut Errors, path: &Path, probe: &Probe) {
    for (field, number) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        errors.not_negative(&path.child(field), number.map(i64::from));
    }
    if let Some(seconds) = probe.termination_grace_period_seconds
        && seconds <= 0
    {
        let at = path.child("terminationGracePeriodSeconds");
        errors.invalid(&at, seconds, "must be greater than 0");
    }
}

fn lifecycle(errors: &mut Errors, path: &Path, hooks: &Lifecycle) {
    let handler = |h: &LifecycleHandler, errors: &mut Errors, at: &Path| {
        let all = Handlers {
            exec: h.exec.as_ref(),
            http: h.http_get.as_ref(),
            tcp: h.tcp_socket.as_ref().map(|t| &t.port),
            grpc: None,
            sleep: h.sleep.as_ref().map(|s| s.seconds),
        };
        handlers(errors, at, all);
    };
    if let Some(hook) = &hooks.post_start {
        handler(hook, errors, &path.child("postStart"));
    }
    if let Some(hook) = &hooks.pre_stop {
        handler(hook, errors, &path.child("preStop"));
    }
}

/// What a probe or hook does: exactly one of these.
struct Handlers<'h> {
    exec: Option<&'h ExecAction>,
    http: Option<&'h HTTPGetAction>,
    tcp: Option<&'h IntOrString>,
    grpc: Option<i32>,
    sleep: Option<i64>,
}

fn handlers(errors: &mut Errors, path: &Path, all: Handlers<'_>) {
    let mut given = Vec::new();
    if let Some(exec) = all.exec {
        given.push("exec");
        if exec.command.as_ref().is_none_or(|c| c.is_empty()) {
            errors.required(&path.child("exec").child("command"), "");
        }
    }
    if let Some(get) = all.http {
        given.push("httpGet");
        http(errors, &path.child("httpGet"), get);
    }
    if let Some(value) = all.tcp {
        given.push("tcpSocket");
        port(errors, &path.child("tcpSocket").child("port"), value);
    }
    if let Some(number) = all.grpc {
        given.push("grpc");
        errors.port(&path.child("grpc").child("port"), number);
    }
    if let Some(seconds) = all.sleep {
        given.push("sleep");
        if seconds < 0 {
            let at = path.child("sleep").child("seconds");
            errors.invalid(&at, seconds, "must be non-negative");
        }
    }
    match given.as_slice() {
        [] => errors.required(path, "must specify a handler type"),
        [_] => {}
        [_, more @ ..] => {
            for field in more {
                errors.forbidden(&path.child(field), "may not specify more than 1 handler type");
            }
        }
    }
}

fn http(errors: &mut Errors, path: &Path, get: &HTTPGetAction) {
    if get.path.as_deref().unwrap_or_default().is_empty() {
        errors.required(&path.child("path"), "");
    }
    port(errors, &path.child("port"), &get.port);
    errors.one_of(&path.child("scheme"), get.scheme.as_deref(), &["HTTP", "HTTPS"]);
    for (index, header) in get.http_headers.iter().flatten().enumerate() {
        let token = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if header.name.is_empty() || !header.name.bytes().all(token) {
            let at = path.child("httpHeaders").index(index).child("name");
            errors.invalid(&at, &header.name, "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')");
        }
    }
}

/// A number or the name of one of the container's ports.
pub(super) fn port(errors: &mut Errors, path: &Path, port: &IntOrString) {
    match port {
        IntOrString::Int(number) => errors.port(path, *number),
        IntOrString::String(name) => errors.all_invalid(path, name, names::port_name(name)),
    }
}
