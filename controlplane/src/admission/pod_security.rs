//! Pod Security Standards by Namespace label: `pod-security.kubernetes.io/enforce` refuses, `warn` warns; `audit` has nobody to
//! tell here. The levels and their checks are those of the documentation, at their latest version.

use serde_json::Value;

use super::World;
use crate::kinds::{Kind, Operation};

const PREFIX: &str = "pod-security.kubernetes.io/";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            _ => None,
        }
    }
}

/// The error is why it is refused; the strings are warnings.
pub(super) fn check(
    world: World<'_>,
    kind: &Kind,
    namespace: &str,
    value: &Value,
    op: Operation<'_>,
) -> Result<Vec<String>, String> {
    let (spec, metadata, is_pod) = match kind.resource {
        "pods" => (&value["spec"], &value["metadata"], true),
        _ => match value["spec"].get("template") {
            Some(template) if template["spec"]["containers"].is_array() => {
                (&template["spec"], &template["metadata"], false)
            }
            _ => return Ok(Vec::new()),
        },
    };
    if let Operation::Update { old, subresource } = op
        && (!subresource.is_empty() && subresource != "ephemeralcontainers"
            || old["spec"] == value["spec"])
    {
        return Ok(Vec::new());
    }
    let Some(namespace) = world.get("namespaces", "", namespace) else { return Ok(Vec::new()) };
    let labels = &namespace.meta.labels;
    let violations = |mode: &str| -> Option<String> {
        let text = labels.get(&format!("{PREFIX}{mode}"))?;
        // An unknown level is the strictest, as upstream has it.
        let level = Level::parse(text).unwrap_or(Level::Restricted);
        let version =
            labels.get(&format!("{PREFIX}{mode}-version")).map_or("latest", String::as_str);
        let found = violations(level, spec, &metadata["annotations"]);
        (!found.is_empty())
            .then(|| format!("violate PodSecurity \"{text}:{version}\": {}", found.join(", ")))
    };
    // Templates only warn: what counts is the Pod that comes of them.
    if is_pod && let Some(text) = violations("enforce") {
        return Err(text.replacen("violate", "violates", 1));
    }
    let warned = violations("warn").or_else(|| violations("enforce"));
    Ok(warned.map(|text| format!("would {text}")).into_iter().collect())
}

/// One container and what it is called in messages.
struct Container<'a> {
    name: &'a str,
    value: &'a Value,
}

fn containers(spec: &Value) -> Vec<Container<'_>> {
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let all = lists.iter().flat_map(|list| spec[*list].as_array().into_iter().flatten());
    all.map(|value| Container { name: value["name"].as_str().unwrap_or_default(), value }).collect()
}

/// `container "a"` or `containers "a", "b"` of those that `is`.
fn named(containers: &[Container<'_>], is: impl Fn(&Value) -> bool) -> Option<String> {
    let names: Vec<String> =
        containers.iter().filter(|c| is(c.value)).map(|c| format!("{:?}", c.name)).collect();
    match names.as_slice() {
        [] => None,
        [one] => Some(format!("container {one}")),
        many => Some(format!("containers {}", many.join(", "))),
    }
}

fn violations(level: Level, spec: &Value, annotations: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if level >= Level::Baseline {
        baseline(&mut found, spec, annotations);
    }
    if level >= Level::Restricted {
        restricted(&mut found, spec);
    }
    found
}

const BASELINE_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];
const SELINUX_TYPES: &[&str] =
    &["container_engine_t", "container_init_t", "container_kvm_t", "container_t"];

fn baseline(found: &mut Vec<String>, spec: &Value, annotations: &Value) {
    let containers = containers(spec);
    let mut add = |text: Option<String>| found.extend(text);
    let host: Vec<&str> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| spec[*field] == true)
        .collect();
    if !host.is_empty() {
        let list: Vec<String> = host.iter().map(|field| format!("{field}=true")).collect();
        add(Some(format!("host namespaces ({})", list.join(", "))));
    }
    add(named(&containers, |c| c["securityContext"]["privileged"] == true)
        .map(|who| format!("privileged ({who} must not set securityContext.privileged=true)")));
    add(named(&containers, |c| {
        let added = c["securityContext"]["capabilities"]["add"].as_array().into_iter().flatten();
        added.filter_map(Value::as_str).any(|name| !BASELINE_CAPABILITIES.contains(&name))
    })
    .map(|who| format!("non-default capabilities ({who} must not include more than the default set in securityContext.capabilities.add)")));
    let paths: Vec<String> = spec["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|volume| volume.get("hostPath").is_some_and(|path| !path.is_null()))
        .map(|volume| format!("{:?}", volume["name"].as_str().unwrap_or_default()))
        .collect();
    if !paths.is_empty() {
        let word = if paths.len() == 1 { "volume" } else { "volumes" };
        add(Some(format!("hostPath volumes ({word} {})", paths.join(", "))));
    }
    add(named(&containers, |c| {
        c["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|p| p["hostPort"].as_i64().unwrap_or(0) != 0)
    })
    .map(|who| format!("hostPort ({who} uses a hostPort)")));
    add(named(&containers, |c| {
        !matches!(c["securityContext"]["procMount"].as_str(), None | Some("" | "Default"))
    })
    .map(|who| {
        format!(
            "procMount ({who} must not set securityContext.procMount to anything but \"Default\")"
        )
    }));
    let unconfined = |context: &Value| context["seccompProfile"]["type"] == "Unconfined";
    if unconfined(&spec["securityContext"])
        || containers.iter().any(|c| unconfined(&c.value["securityContext"]))
    {
        add(Some("seccompProfile (pod or container must not set securityContext.seccompProfile.type to \"Unconfined\")".into()));
    }
    let apparmor = |context: &Value| context["appArmorProfile"]["type"] == "Unconfined";
    let annotated = annotations.as_object().into_iter().flatten().any(|(key, value)| {
        key.starts_with("container.apparmor.security.beta.kubernetes.io/") && value == "unconfined"
    });
    if annotated
        || apparmor(&spec["securityContext"])
        || containers.iter().any(|c| apparmor(&c.value["securityContext"]))
    {
        add(Some("forbidden AppArmor profile (\"unconfined\")".into()));
    }
    let selinux = |context: &Value| {
        let options = &context["seLinuxOptions"];
        let text = |field: &str| options[field].as_str().unwrap_or_default();
        !text("user").is_empty()
            || !text("role").is_empty()
            || (!text("type").is_empty() && !SELINUX_TYPES.contains(&text("type")))
    };
    if selinux(&spec["securityContext"])
        || containers.iter().any(|c| selinux(&c.value["securityContext"]))
    {
        add(Some(
            "seLinuxOptions (pod or container set forbidden securityContext.seLinuxOptions)".into(),
        ));
    }
    let sysctls: Vec<&str> = spec["securityContext"]["sysctls"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|sysctl| sysctl["name"].as_str())
        .filter(|name| !SAFE_SYSCTLS.contains(name))
        .collect();
    if !sysctls.is_empty() {
        add(Some(format!("forbidden sysctls ({})", sysctls.join(", "))));
    }
}

const RESTRICTED_VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn restricted(found: &mut Vec<String>, spec: &Value) {
    let containers = containers(spec);
    let pod = &spec["securityContext"];
    let mut add = |text: Option<String>| found.extend(text);
    let odd: Vec<String> = spec["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|volume| {
            let kinds = volume.as_object().into_iter().flatten();
            kinds
                .filter(|(key, value)| *key != "name" && !value.is_null())
                .any(|(key, _)| !RESTRICTED_VOLUMES.contains(&key.as_str()) && key != "hostPath")
        })
        .map(|volume| format!("{:?}", volume["name"].as_str().unwrap_or_default()))
        .collect();
    if !odd.is_empty() {
        add(Some(format!(
            "restricted volume types (volumes {} use restricted volume types)",
            odd.join(", ")
        )));
    }
    add(named(&containers, |c| c["securityContext"]["allowPrivilegeEscalation"] != false)
        .map(|who| format!("allowPrivilegeEscalation != false ({who} must set securityContext.allowPrivilegeEscalation=false)")));
    add(named(&containers, |c| {
        let capabilities = &c["securityContext"]["capabilities"];
        let list = |field: &str| -> Vec<&str> {
            capabilities[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
        };
        !list("drop").contains(&"ALL") || list("add").iter().any(|name| *name != "NET_BIND_SERVICE")
    })
    .map(|who| {
        format!(
            "unrestricted capabilities ({who} must set securityContext.capabilities.drop=[\"ALL\"])"
        )
    }));
    let of = |context: &Value| context["runAsNonRoot"].as_bool();
    let root = |c: &Value| !of(&c["securityContext"]).or(of(pod)).unwrap_or(false);
    add(named(&containers, root).map(|who| {
        format!("runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)")
    }));
    let zero = |context: &Value| context["runAsUser"] == 0;
    if zero(pod) {
        add(Some("runAsUser=0 (pod must not set runAsUser=0)".into()));
    }
    add(named(&containers, |c| zero(&c["securityContext"]))
        .map(|who| format!("runAsUser=0 ({who} must not set runAsUser=0)")));
    let profile = |context: &Value| {
        context["seccompProfile"]["type"]
            .as_str()
            .map(|kind| matches!(kind, "RuntimeDefault" | "Localhost"))
    };
    add(named(&containers, |c| !profile(&c["securityContext"]).or(profile(pod)).unwrap_or(false))
        .map(|who| format!("seccompProfile (pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")")));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::testing;
    use crate::kinds::find;

    fn judge(labels: Value, spec: Value) -> Result<Vec<String>, String> {
        let world = testing::World::of([(
            "namespaces",
            json!({"metadata": {"name": "a", "labels": labels}}),
        )]);
        let pod = json!({"metadata": {"name": "p"}, "spec": spec});
        check(&world, find("", "v1", "pods").unwrap(), "a", &pod, Operation::Create)
    }

    fn with(field: &str, value: Value) -> Value {
        let mut spec = json!({"containers": [{"name": "c", "securityContext": {}}]});
        match field.strip_prefix("c.") {
            Some(field) => spec["containers"][0]["securityContext"][field] = value,
            None => spec[field] = value,
        }
        spec
    }

    #[test]
    fn each_baseline_rule_refuses() {
        let baseline = json!({"pod-security.kubernetes.io/enforce": "baseline"});
        assert_eq!(judge(baseline.clone(), with("x", json!(1))), Ok(vec![]));
        for (field, value, said) in [
            ("hostNetwork", json!(true), "host namespaces (hostNetwork=true)"),
            ("c.privileged", json!(true), "privileged (container \"c\""),
            ("c.capabilities", json!({"add": ["SYS_ADMIN"]}), "non-default capabilities"),
            (
                "volumes",
                json!([{"name": "v", "hostPath": {"path": "/"}}]),
                "hostPath volumes (volume \"v\")",
            ),
            ("c.procMount", json!("Unmasked"), "procMount"),
            ("c.seccompProfile", json!({"type": "Unconfined"}), "seccompProfile"),
            (
                "securityContext",
                json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}),
                "forbidden sysctls (kernel.msgmax)",
            ),
            ("securityContext", json!({"seLinuxOptions": {"type": "spc_t"}}), "seLinuxOptions"),
            ("securityContext", json!({"appArmorProfile": {"type": "Unconfined"}}), "AppArmor"),
        ] {
            let refused = judge(baseline.clone(), with(field, value)).unwrap_err();
            assert!(refused.starts_with("violates PodSecurity \"baseline:latest\": "), "{refused}");
            assert!(refused.contains(said), "{field}: {refused}");
        }
    }

    #[test]
    fn restricted_wants_it_said() {
        let restricted = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let refused = judge(restricted.clone(), with("x", json!(1))).unwrap_err();
        for said in [
            "allowPrivilegeEscalation",
            "unrestricted capabilities",
            "runAsNonRoot",
            "seccompProfile",
        ] {
            assert!(refused.contains(said), "{refused}");
        }
        let spec = json!({
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
            }}],
        });
        assert_eq!(judge(restricted, spec), Ok(vec![]));
    }

    #[test]
    fn warnings_do_not_refuse_and_templates_are_only_warned_about() {
        let warn = json!({"pod-security.kubernetes.io/warn": "baseline"});
        let warned = judge(warn, with("hostPID", json!(true))).unwrap();
        assert_eq!(
            warned,
            ["would violate PodSecurity \"baseline:latest\": host namespaces (hostPID=true)"]
        );
        let labels = json!({"pod-security.kubernetes.io/enforce": "baseline"});
        let world = testing::World::of([(
            "namespaces",
            json!({"metadata": {"name": "a", "labels": labels}}),
        )]);
        let deployment = json!({"spec": {"template": {"spec": with("hostPID", json!(true))}}});
        let kind = find("apps", "v1", "deployments").unwrap();
        let found = check(&world, kind, "a", &deployment, Operation::Create).unwrap();
        assert_eq!(found.len(), 1);
    }
}
