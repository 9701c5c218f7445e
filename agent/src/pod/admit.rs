//! Which Pods this node can run as written. Pure.
//!
//! Nothing in a Pod's spec is silently ignored: a field that the agent does not carry out (yet) is a
//! [`Refusal`] that names it. Fields that are somebody else's business (the scheduler's, the API's) pass.
//!
//! A refused Pod with `restartPolicy: Always` stays Pending, its containers waiting with the reason
//! `UnsupportedField`: failing it would make its ReplicaSet replace it at once, and for ever. Other refused
//! Pods fail with that reason. Both get a warning event.

use std::fmt;

use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, LifecycleHandler, Pod, PodSpec, Probe, SecurityContext, Volume,
};
use serde_json::Value;

use crate::container::field;

pub const REASON: &str = "UnsupportedField";

/// One field that this node cannot carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// As in the API's own messages: `spec.containers[0].stdin`.
    pub field: String,
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.field, self.message)
    }
}

/// All refusals of a Pod in one line.
pub fn summary(refusals: &[Refusal]) -> String {
    let list: Vec<String> = refusals.iter().map(ToString::to_string).collect();
    format!("this node cannot run the Pod as written: {}", list.join("; "))
}

pub fn admit(pod: &Pod) -> Result<(), Vec<Refusal>> {
    let mut found = Found::default();
    if let Some(spec) = &pod.spec {
        pod_fields(spec, &mut found);
        let host_network = spec.host_network.unwrap_or(false);
        let lists = [
            ("initContainers", spec.init_containers.as_deref()),
            ("containers", Some(&spec.containers)),
        ];
        for (list, containers) in lists {
            for (index, container) in containers.into_iter().flatten().enumerate() {
                let path = format!("spec.{list}[{index}]");
                container_fields(
                    &path,
                    container,
                    list == "initContainers",
                    host_network,
                    &mut found,
                );
            }
        }
        for (index, volume) in spec.volumes.iter().flatten().enumerate() {
            volume_fields(&format!("spec.volumes[{index}]"), volume, &mut found);
        }
    }
    if found.0.is_empty() { Ok(()) } else { Err(found.0) }
}

const NOT_YET: &str = "not supported yet";

#[derive(Default)]
struct Found(Vec<Refusal>);

impl Found {
    fn refuse(&mut self, path: &str, field: &str, message: impl Into<String>) {
        self.0.push(Refusal { field: format!("{path}.{field}"), message: message.into() });
    }

    fn refuse_if(&mut self, wrong: bool, path: &str, field: &str) {
        if wrong {
            self.refuse(path, field, NOT_YET);
        }
    }

    /// Any of `allowed`, or nothing at all.
    fn one_of(&mut self, value: &Option<String>, allowed: &[&str], path: &str, field: &str) {
        if let Some(value) =
            value.as_deref().filter(|value| !value.is_empty() && !allowed.contains(value))
        {
            self.refuse(path, field, format!("{value:?} is {NOT_YET}"));
        }
    }
}

fn pod_fields(spec: &PodSpec, found: &mut Found) {
    let on = |flag: Option<bool>| flag.unwrap_or(false);
    found.refuse_if(
        spec.ephemeral_containers.iter().flatten().next().is_some(),
        "spec",
        "ephemeralContainers",
    );
    found.one_of(
        &spec.dns_policy,
        &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
        "spec",
        "dnsPolicy",
    );
    found.refuse_if(on(spec.host_ipc), "spec", "hostIPC");
    found.refuse_if(on(spec.host_pid), "spec", "hostPID");
    found.refuse_if(spec.host_users == Some(false), "spec", "hostUsers");
    found.refuse_if(
        spec.overhead.as_ref().is_some_and(|overhead| !overhead.is_empty()),
        "spec",
        "overhead",
    );
    found.refuse_if(
        spec.resource_claims.iter().flatten().next().is_some(),
        "spec",
        "resourceClaims",
    );
    found.refuse_if(spec.resources.is_some(), "spec", "resources");
    found.refuse_if(spec.runtime_class_name.is_some(), "spec", "runtimeClassName");
    found.refuse_if(on(spec.set_hostname_as_fqdn), "spec", "setHostnameAsFQDN");
    found.refuse_if(on(spec.share_process_namespace), "spec", "shareProcessNamespace");
    if let Some(os) = &spec.os {
        found.one_of(&Some(os.name.clone()), &["linux"], "spec", "os.name");
    }
    let Some(context) = &spec.security_context else { return };
    let path = "spec.securityContext";
    found.refuse_if(context.se_linux_options.is_some(), path, "seLinuxOptions");
    found.refuse_if(context.windows_options.is_some(), path, "windowsOptions");
    let profile = |profile: Option<&String>| profile.cloned();
    let apparmor = profile(context.app_armor_profile.as_ref().map(|profile| &profile.type_));
    found.one_of(&apparmor, &["Unconfined"], path, "appArmorProfile.type");
    let seccomp = profile(context.seccomp_profile.as_ref().map(|profile| &profile.type_));
    found.one_of(&seccomp, &SECCOMP, path, "seccompProfile.type");
    for (index, sysctl) in context.sysctls.iter().flatten().enumerate() {
        if !is_safe_sysctl(&sysctl.name) {
            found.refuse(
                path,
                &format!("sysctls[{index}]"),
                format!("{:?} is not one of the safe sysctls", sysctl.name),
            );
        } else if sysctl.value.contains(['\n', '=']) {
            found.refuse(path, &format!("sysctls[{index}]"), "the value contains a separator");
        }
    }
}

/// Profiles that [`crate::container::seccomp`] knows.
const SECCOMP: [&str; 3] = ["Unconfined", "RuntimeDefault", "Localhost"];

/// Namespaced, and harmless to other Pods: upstream's list.
fn is_safe_sysctl(name: &str) -> bool {
    const SAFE: [&str; 11] = [
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_rmem",
    ];
    SAFE.contains(&name) || name == "net.ipv4.tcp_wmem"
}

fn container_fields(
    path: &str,
    container: &Container,
    init: bool,
    host_network: bool,
    found: &mut Found,
) {
    let on = |flag: Option<bool>| flag.unwrap_or(false);
    found.refuse_if(on(container.stdin), path, "stdin");
    found.refuse_if(on(container.tty), path, "tty");
    found.refuse_if(
        container.volume_devices.iter().flatten().next().is_some(),
        path,
        "volumeDevices",
    );
    if init {
        found.one_of(&container.restart_policy, &["Always"], path, "restartPolicy");
    } else {
        found.refuse_if(container.restart_policy.is_some(), path, "restartPolicy");
    }
    if let Some(lifecycle) = &container.lifecycle {
        found.refuse_if(lifecycle.post_start.is_some(), path, "lifecycle.postStart");
        found.refuse_if(field_is_set(lifecycle, "stopSignal"), path, "lifecycle.stopSignal");
        if let Some(hook) = &lifecycle.pre_stop {
            hook_fields(&format!("{path}.lifecycle.preStop"), hook, found);
        }
    }
    let probes = [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ];
    for (name, probe) in probes {
        if let Some(probe) = probe {
            probe_fields(&format!("{path}.{name}"), probe, found);
        }
    }
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let wrong = port.host_port.is_some_and(|port| port != 0) && !host_network;
        found.refuse_if(wrong, path, &format!("ports[{index}].hostPort"));
    }
    environment_fields(path, container, found);
    resource_fields(path, container, found);
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        let set = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        found.refuse_if(set(&mount.sub_path_expr), &path, "subPathExpr");
        found.one_of(&mount.mount_propagation, &["None"], &path, "mountPropagation");
        found.one_of(
            &mount.recursive_read_only,
            &["Disabled", "IfPossible"],
            &path,
            "recursiveReadOnly",
        );
    }
    if let Some(context) = &container.security_context {
        security_fields(&format!("{path}.securityContext"), context, found);
    }
}

fn environment_fields(path: &str, container: &Container, found: &mut Found) {
    for (index, var) in container.env.iter().flatten().enumerate() {
        let Some(source) = &var.value_from else { continue };
        let path = format!("{path}.env[{index}].valueFrom");
        if let Some(reference) = &source.field_ref
            && !field::is_known(&reference.field_path)
        {
            found.refuse(&path, "fieldRef", format!("{:?} is {NOT_YET}", reference.field_path));
        }
        if let Some(reference) = &source.resource_field_ref {
            let known = ["limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
            found.one_of(
                &Some(reference.resource.clone()),
                &known,
                &path,
                "resourceFieldRef.resource",
            );
            found.refuse_if(
                reference.container_name.is_some(),
                &path,
                "resourceFieldRef.containerName",
            );
        }
        found.refuse_if(field_is_set(source, "fileKeyRef"), &path, "fileKeyRef");
    }
}

fn resource_fields(path: &str, container: &Container, found: &mut Found) {
    let Some(resources) = &container.resources else { return };
    found.refuse_if(resources.claims.iter().flatten().next().is_some(), path, "resources.claims");
    for name in resources.limits.iter().flatten().map(|(name, _)| name) {
        if !matches!(name.as_str(), "cpu" | "memory") {
            found.refuse(
                path,
                &format!("resources.limits[{name}]"),
                "this limit cannot be enforced yet",
            );
        }
    }
}

fn hook_fields(path: &str, hook: &LifecycleHandler, found: &mut Found) {
    found.refuse_if(hook.tcp_socket.is_some(), path, "tcpSocket");
    if let Some(get) = &hook.http_get {
        found.one_of(&get.scheme, &["HTTP"], path, "httpGet.scheme");
    }
}

fn probe_fields(path: &str, probe: &Probe, found: &mut Found) {
    found.refuse_if(probe.grpc.is_some(), path, "grpc");
    if let Some(get) = &probe.http_get {
        found.one_of(&get.scheme, &["HTTP"], path, "httpGet.scheme");
    }
}

fn security_fields(path: &str, context: &SecurityContext, found: &mut Found) {
    found.refuse_if(context.se_linux_options.is_some(), path, "seLinuxOptions");
    found.refuse_if(context.windows_options.is_some(), path, "windowsOptions");
    found.one_of(&context.proc_mount, &["Default"], path, "procMount");
    let apparmor = context.app_armor_profile.as_ref().map(|profile| profile.type_.clone());
    found.one_of(&apparmor, &["Unconfined"], path, "appArmorProfile.type");
    let seccomp = context.seccomp_profile.as_ref().map(|profile| profile.type_.clone());
    found.one_of(&seccomp, &SECCOMP, path, "seccompProfile.type");
}

/// Volume sources that the agent can make; every other field of a volume is refused by its name.
const VOLUMES: [&str; 8] = [
    "name",
    "configMap",
    "secret",
    "emptyDir",
    "hostPath",
    "downwardAPI",
    "projected",
    "persistentVolumeClaim",
];

fn volume_fields(path: &str, volume: &Volume, found: &mut Found) {
    for field in fields(volume) {
        found.refuse_if(!VOLUMES.contains(&field.as_str()), path, &field);
    }
    if let Some(EmptyDirVolumeSource { medium, size_limit }) = &volume.empty_dir {
        found.one_of(medium, &["Memory"], path, "emptyDir.medium");
        if size_limit.is_some() && medium.as_deref() != Some("Memory") {
            found.refuse(path, "emptyDir.sizeLimit", "a limit on disk cannot be enforced yet");
        }
    }
    for (index, source) in
        volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()).enumerate()
    {
        for field in fields(source) {
            let known = matches!(
                field.as_str(),
                "configMap" | "secret" | "downwardAPI" | "serviceAccountToken"
            );
            found.refuse_if(!known, path, &format!("projected.sources[{index}].{field}"));
        }
    }
}

/// The names of the fields that are set.
fn fields(object: &impl serde::Serialize) -> Vec<String> {
    match serde_json::to_value(object) {
        Ok(Value::Object(map)) => {
            map.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name).collect()
        }
        _ => Vec::new(),
    }
}

fn field_is_set(object: &impl serde::Serialize, name: &str) -> bool {
    fields(object).iter().any(|field| field == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(spec: &str) -> Vec<String> {
        let pod: Pod = serde_json::from_str(&format!(r#"{{"spec":{spec}}}"#)).expect("a Pod");
        admit(&pod).err().unwrap_or_default().into_iter().map(|refusal| refusal.field).collect()
    }

    #[test]
    fn an_ordinary_pod_is_admitted() {
        let spec = r#"{"restartPolicy":"Always","dnsPolicy":"ClusterFirst","serviceAccountName":"default",
            "terminationGracePeriodSeconds":30,"securityContext":{},"schedulerName":"default-scheduler",
            "nodeName":"n","tolerations":[{"operator":"Exists"}],"priority":0,"enableServiceLinks":true,
            "containers":[{"name":"app","image":"myapp:1.0","ports":[{"containerPort":8080,"protocol":"TCP"}],
              "resources":{"limits":{"cpu":"500m","memory":"512Mi"}},"imagePullPolicy":"IfNotPresent",
              "terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File",
              "readinessProbe":{"httpGet":{"path":"/","port":8080,"scheme":"HTTP"}},
              "volumeMounts":[{"name":"v","mountPath":"/v","readOnly":true}]}],
            "volumes":[{"name":"v","configMap":{"name":"c"}},{"name":"e","emptyDir":{}},
              {"name":"c","persistentVolumeClaim":{"claimName":"c"}}]}"#;
        assert_eq!(refused(spec), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let table = [
            (r#"{"hostPID":true,"containers":[]}"#, "spec.hostPID"),
            (r#"{"shareProcessNamespace":true,"containers":[]}"#, "spec.shareProcessNamespace"),
            (r#"{"runtimeClassName":"x","containers":[]}"#, "spec.runtimeClassName"),
            (r#"{"containers":[{"name":"a","stdin":true}]}"#, "spec.containers[0].stdin"),
            (
                r#"{"containers":[{"name":"a","livenessProbe":{"grpc":{"port":1}}}]}"#,
                "spec.containers[0].livenessProbe.grpc",
            ),
            (
                r#"{"containers":[{"name":"a","ports":[{"containerPort":1,"hostPort":1}]}]}"#,
                "spec.containers[0].ports[0].hostPort",
            ),
            (
                r#"{"containers":[],"volumes":[{"name":"v","nfs":{"server":"s","path":"/"}}]}"#,
                "spec.volumes[0].nfs",
            ),
            (
                r#"{"containers":[],"volumes":[{"name":"v","projected":{"sources":[{"clusterTrustBundle":{"path":"t"}}]}}]}"#,
                "spec.volumes[0].projected.sources[0].clusterTrustBundle",
            ),
            (
                r#"{"containers":[],"securityContext":{"sysctls":[{"name":"kernel.panic","value":"1"}]}}"#,
                "spec.securityContext.sysctls[0]",
            ),
            (
                r#"{"initContainers":[{"name":"a","lifecycle":{"postStart":{"exec":{"command":["x"]}}}}],"containers":[]}"#,
                "spec.initContainers[0].lifecycle.postStart",
            ),
        ];
        for (spec, field) in table {
            assert_eq!(refused(spec), [field], "{spec}");
        }
    }

    #[test]
    fn the_port_of_a_host_network_pod_is_its_host_port() {
        let spec = r#"{"hostNetwork":true,"containers":[{"name":"a","ports":[{"containerPort":1,"hostPort":1}]}]}"#;
        assert_eq!(refused(spec), Vec::<String>::new());
    }
}
