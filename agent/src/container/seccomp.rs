//! Which system calls a container may make: none is refused (Unconfined), those that a well-behaved program does not
//! need (RuntimeDefault), or what a file on the node says (Localhost). Pure; the file is read by the caller.

use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};
use oci_spec::runtime::{LinuxCapabilities, LinuxSeccomp};
use serde_json::{Value, json};

use super::{ConfigError, security};

/// What RuntimeDefault lets through.
const CALLS: &str = include_str!("seccomp.txt");

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    Unconfined,
    RuntimeDefault,
    /// Below the node's directory of profiles.
    Localhost(PathBuf),
}

/// The container's profile, or its Pod's. Privileged containers are never confined, as upstream.
pub fn choice(pod: &Pod, container: &Container) -> Result<Choice, ConfigError> {
    if security::is_privileged(container) {
        return Ok(Choice::Unconfined);
    }
    let own = container.security_context.as_ref().and_then(|it| it.seccomp_profile.as_ref());
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let profile = own.or(of_pod.and_then(|it| it.seccomp_profile.as_ref()));
    let Some(profile) = profile else { return Ok(Choice::Unconfined) };
    match profile.type_.as_str() {
        "Unconfined" => Ok(Choice::Unconfined),
        "RuntimeDefault" => Ok(Choice::RuntimeDefault),
        "Localhost" => local(profile.localhost_profile.as_deref().unwrap_or_default()),
        other => Err(ConfigError::Config(format!("unknown seccomp profile type {other:?}"))),
    }
}

fn local(path: &str) -> Result<Choice, ConfigError> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    match plain && !path.is_empty() {
        true => Ok(Choice::Localhost(path.into())),
        false => Err(ConfigError::Config(format!(
            "seccomp profile {path:?} is not a path below the node's profiles"
        ))),
    }
}

/// A profile as a file holds it, in the OCI's form.
pub fn parse(path: &Path, text: &[u8]) -> Result<LinuxSeccomp, ConfigError> {
    serde_json::from_slice(text)
        .map_err(|error| ConfigError::Create(format!("read seccomp profile {path:?}: {error}")))
}

/// RuntimeDefault for a container with these capabilities.
pub fn runtime_default(capabilities: &LinuxCapabilities) -> Result<LinuxSeccomp, ConfigError> {
    let bounding = capabilities.bounding();
    let names = bounding.iter().flatten().map(ToString::to_string);
    let has: Vec<String> = names.map(|name| name.trim_start_matches("CAP_").to_owned()).collect();
    let holds = |condition: &str| {
        let capability = condition.strip_prefix("CAP_");
        capability.is_none_or(|wanted| has.iter().any(|name| name == wanted))
    };
    let lines = CALLS.lines().filter(|line| !line.starts_with('#'));
    let groups = lines.filter_map(|line| line.split_once(':'));
    let allowed = groups.filter(|(condition, _)| holds(condition));
    let allowed: Vec<&str> = allowed.flat_map(|(_, names)| names.split_whitespace()).collect();
    let mut rules = vec![json!({"names": allowed, "action": "SCMP_ACT_ALLOW"})];
    rules.extend(with_arguments());
    if !holds("CAP_SYS_ADMIN") {
        rules.extend(without_namespaces());
    }
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": nix::libc::EPERM,
        "architectures": architectures(),
        "syscalls": rules,
    });
    serde_json::from_value(profile)
        .map_err(|error| ConfigError::Create(format!("build the seccomp profile: {error}")))
}

/// Every way to call the kernel that this machine has.
fn architectures() -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        _ => &[],
    }
}

fn with_arguments() -> Vec<Value> {
    /// Linux, and the few that turn off randomised addresses or say that they are 32 bits wide.
    const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];
    /// A socket to the machine that holds this one.
    const AF_VSOCK: u64 = 40;
    let rule = |name: &str, value: u64, op: &str| {
        json!({"names": [name], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": value, "op": op}]})
    };
    let mut rules: Vec<Value> =
        PERSONALITIES.iter().map(|value| rule("personality", *value, "SCMP_CMP_EQ")).collect();
    rules.push(rule("socket", AF_VSOCK, "SCMP_CMP_NE"));
    rules
}

/// New processes and threads, but not in new namespaces.
fn without_namespaces() -> Vec<Value> {
    /// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
    const NEW: u64 = 0x7e02_0000;
    vec![
        json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": NEW, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}),
        // Its flags are in memory, where no filter can look: libraries fall back to the other.
        json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": nix::libc::ENOSYS}),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(of_pod: &str, own: &str) -> Result<Choice, String> {
        let spec = format!(
            r#"{{"spec":{{"securityContext":{of_pod},"containers":[{{"name":"c","securityContext":{own}}}]}}}}"#
        );
        let pod: Pod = serde_json::from_str(&spec).unwrap();
        let container = pod.spec.as_ref().unwrap().containers[0].clone();
        choice(&pod, &container).map_err(|error| error.to_string())
    }

    #[test]
    fn the_containers_own_profile_counts() {
        const DEFAULT: &str = r#"{"seccompProfile":{"type":"RuntimeDefault"}}"#;
        assert_eq!(chosen("{}", "{}"), Ok(Choice::Unconfined));
        assert_eq!(chosen(DEFAULT, "{}"), Ok(Choice::RuntimeDefault));
        let own = r#"{"seccompProfile":{"type":"Unconfined"}}"#;
        assert_eq!(chosen(DEFAULT, own), Ok(Choice::Unconfined));
        assert_eq!(chosen(DEFAULT, r#"{"privileged":true}"#), Ok(Choice::Unconfined));
        let file = |path: &str| {
            chosen(
                "{}",
                &format!(
                    r#"{{"seccompProfile":{{"type":"Localhost","localhostProfile":"{path}"}}}}"#
                ),
            )
        };
        assert_eq!(file("team/web.json"), Ok(Choice::Localhost("team/web.json".into())));
        for outside in ["", "/etc/x", "../x", "a/../../x"] {
            assert!(file(outside).unwrap_err().contains("is not a path below"), "{outside:?}");
        }
    }

    fn of(capabilities: &str) -> Value {
        let text = format!(r#"{{"name":"c","securityContext":{{"capabilities":{capabilities}}}}}"#);
        let container: Container = serde_json::from_str(&text).unwrap();
        let capabilities = security::capabilities(&container).unwrap();
        serde_json::to_value(runtime_default(&capabilities).unwrap()).unwrap()
    }

    fn allows(profile: &Value, name: &str) -> bool {
        let rules = profile["syscalls"].as_array().unwrap();
        rules.iter().any(|rule| {
            let names = rule["names"].as_array().unwrap();
            rule["action"] == "SCMP_ACT_ALLOW"
                && rule["args"].as_array().is_none_or(Vec::is_empty)
                && names.iter().any(|each| each == name)
        })
    }

    #[test]
    fn capabilities_open_their_calls() {
        let plain = of("{}");
        assert!(allows(&plain, "openat") && allows(&plain, "chroot") && allows(&plain, "write"));
        for closed in ["mount", "unshare", "bpf", "keyctl", "add_key", "io_uring_setup", "clone"] {
            assert!(!allows(&plain, closed), "{closed}");
        }
        let admin = of(r#"{"add":["SYS_ADMIN"]}"#);
        assert!(allows(&admin, "mount") && allows(&admin, "clone") && allows(&admin, "clone3"));
        assert!(!allows(&of(r#"{"drop":["ALL"]}"#), "chroot"));
        assert!(allows(&of(r#"{"add":["SYS_TIME"]}"#), "clock_settime"));
    }

    #[test]
    fn the_list_names_every_call_once_for_one_condition() {
        let mut seen = std::collections::BTreeSet::new();
        for line in CALLS.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let (condition, names) = line.split_once(':').expect("a condition");
            assert!(condition == "always" || condition.starts_with("CAP_"), "{condition}");
            for name in names.split_whitespace() {
                assert!(seen.insert((condition, name)), "{name} stands twice");
            }
        }
        assert!(seen.len() > 300, "{} calls", seen.len());
    }
}
