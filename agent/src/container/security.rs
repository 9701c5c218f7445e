//! Capabilities, privileges and hidden paths of a container. Pure.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::Container;
use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};

use super::ConfigError;

/// What a container may do that asks for nothing: the set that Docker and containerd settled on.
const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

pub fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|context| context.privileged).unwrap_or(false)
}

pub fn no_new_privileges(container: &Container) -> bool {
    let context = container.security_context.as_ref();
    context.and_then(|context| context.allow_privilege_escalation) == Some(false)
}

/// Inheritable and ambient stay empty (CVE-2022-29162).
pub fn capabilities(container: &Container) -> Result<LinuxCapabilities, ConfigError> {
    let set = if is_privileged(container) { all() } else { chosen(container)? };
    LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()
        .map_err(|error| ConfigError::Create(format!("build the capabilities: {error}")))
}

fn chosen(container: &Container) -> Result<HashSet<Capability>, ConfigError> {
    let wishes =
        container.security_context.as_ref().and_then(|context| context.capabilities.as_ref());
    let add = wishes.and_then(|wishes| wishes.add.as_deref()).unwrap_or_default();
    let drop = wishes.and_then(|wishes| wishes.drop.as_deref()).unwrap_or_default();
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let mut set: HashSet<Capability> = match (add.iter().any(is_all), drop.iter().any(is_all)) {
        (true, _) => all(),
        (false, true) => HashSet::new(),
        (false, false) => DEFAULT.into_iter().collect(),
    };
    for name in drop.iter().filter(|name| !is_all(name)) {
        set.remove(&parse(name)?);
    }
    for name in add.iter().filter(|name| !is_all(name)) {
        set.insert(parse(name)?);
    }
    Ok(set)
}

fn parse(name: &str) -> Result<Capability, ConfigError> {
    let upper = name.to_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    bare.parse().map_err(|_| ConfigError::Config(format!("unknown capability \"{name}\"")))
}

fn all() -> HashSet<Capability> {
    const NAMES: &str = "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE \
        DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD \
        NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYS_ADMIN SYS_BOOT \
        SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG SYSLOG \
        WAKE_ALARM";
    NAMES.split_whitespace().filter_map(|name| name.parse().ok()).collect()
}

pub fn masked_paths() -> Vec<String> {
    let list = [
        "/proc/asound",
        "/proc/acpi",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ];
    list.map(Into::into).to_vec()
}

pub fn readonly_paths() -> Vec<String> {
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        .map(Into::into)
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(context: &str) -> Result<Vec<String>, String> {
        let text = format!(r#"{{"name":"c","securityContext":{context}}}"#);
        let container: Container = serde_json::from_str(&text).unwrap();
        let built = capabilities(&container).map_err(|error| error.to_string())?;
        let mut names: Vec<String> =
            built.bounding().iter().flatten().map(ToString::to_string).collect();
        names.sort();
        assert!(built.inheritable().as_ref().is_some_and(HashSet::is_empty));
        assert_eq!(built.bounding(), built.effective());
        Ok(names)
    }

    #[test]
    fn adding_and_dropping() {
        assert_eq!(set("{}").unwrap().len(), 14);
        assert_eq!(
            set(r#"{"capabilities":{"drop":["ALL"],"add":["NET_BIND_SERVICE"]}}"#).unwrap(),
            ["NET_BIND_SERVICE"]
        );
        let more = set(r#"{"capabilities":{"add":["CAP_SYS_ADMIN"],"drop":["mknod"]}}"#).unwrap();
        assert!(more.contains(&"SYS_ADMIN".to_owned()) && !more.contains(&"MKNOD".to_owned()));
        assert_eq!(set(r#"{"privileged":true}"#).unwrap().len(), 41);
        assert_eq!(set(r#"{"capabilities":{"add":["ALL"],"drop":["KILL"]}}"#).unwrap().len(), 40);
        assert!(
            set(r#"{"capabilities":{"add":["FLY"]}}"#)
                .unwrap_err()
                .contains("unknown capability \"FLY\"")
        );
    }
}
