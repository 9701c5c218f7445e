//! What of the specification is refused, each by its JSON path. Pure.

use std::collections::BTreeSet;

use oci_spec::runtime::{Hooks, Linux, LinuxNamespaceType, Process, Spec};

use super::{ConfigError, sysctl};

type Checked = Result<(), ConfigError>;

/// Refuses a config that this runtime would not obey in full.
pub fn check(spec: &Spec) -> Checked {
    let major = spec.version().split('.').next().unwrap_or_default();
    require(major == "1", "ociVersion", "must be 1.x")?;
    let root = spec.root().as_ref().ok_or_else(|| ConfigError::field("root", "required"))?;
    require(!root.path().as_os_str().is_empty(), "root.path", "required")?;
    check_lengths(spec)?;
    let process =
        spec.process().as_ref().ok_or_else(|| ConfigError::field("process", "required"))?;
    check_process(process, "process")?;
    check_hooks(spec)?;
    if let Some(linux) = spec.linux() {
        check_linux(linux)?;
    }
    check_names(spec)
}

/// The longest list that we work through. Each entry is a system call or more in the container's first process, which
/// nobody may keep busy, or fill the kernel's mount table through, with a file of some megabytes.
const MAX_LIST: usize = 4096;

fn check_lengths(spec: &Spec) -> Checked {
    fn length<T>(list: &Option<Vec<T>>) -> usize {
        list.as_ref().map_or(0, Vec::len)
    }
    let mut lists = vec![(length(spec.mounts()), "mounts".to_owned())];
    if let Some(process) = spec.process() {
        lists.push((length(process.rlimits()), "process.rlimits".into()));
        let groups = length(process.user().additional_gids());
        lists.push((groups, "process.user.additionalGids".into()));
    }
    if let Some(linux) = spec.linux() {
        lists.push((length(linux.devices()), "linux.devices".into()));
        lists.push((length(linux.masked_paths()), "linux.maskedPaths".into()));
        lists.push((length(linux.readonly_paths()), "linux.readonlyPaths".into()));
        let sysctls = linux.sysctl().as_ref().map_or(0, |map| map.len());
        lists.push((sysctls, "linux.sysctl".into()));
        let rules = linux.resources().as_ref().map_or(0, |r| length(r.devices()));
        lists.push((rules, "linux.resources.devices".into()));
    }
    if let Some(hooks) = spec.hooks() {
        #[allow(deprecated)]
        let phases = [
            (hooks.prestart(), "prestart"),
            (hooks.create_runtime(), "createRuntime"),
            (hooks.create_container(), "createContainer"),
            (hooks.start_container(), "startContainer"),
            (hooks.poststart(), "poststart"),
            (hooks.poststop(), "poststop"),
        ];
        lists.extend(phases.map(|(list, name)| (length(list), format!("hooks.{name}"))));
    }
    lists.into_iter().try_for_each(|(length, field)| {
        require(length <= MAX_LIST, &field, &format!("{length} entries; at most {MAX_LIST}"))
    })
}

/// Refuses what cannot be done for one process (the container's, or one more of it).
pub fn check_process(process: &Process, at: &str) -> Checked {
    let args = process.args().as_deref().unwrap_or_default();
    require(args.first().is_some_and(|arg| !arg.is_empty()), &format!("{at}.args"), "required")?;
    require(process.cwd().is_absolute(), &format!("{at}.cwd"), "must be an absolute path")?;
    for (index, entry) in process.env().iter().flatten().enumerate() {
        let fine = entry.find('=').is_some_and(|at| at > 0) && !entry.contains('\0');
        require(fine, &format!("{at}.env[{index}]"), "must be NAME=value")?;
    }
    let level = process.io_priority().is_none_or(|wanted| (0..8).contains(&wanted.priority()));
    require(level, &format!("{at}.ioPriority.priority"), "must be 0 to 7")?;
    let mut seen = Vec::new();
    for (index, limit) in process.rlimits().iter().flatten().enumerate() {
        let once = !seen.contains(&limit.typ());
        require(once, &format!("{at}.rlimits[{index}].type"), "this limit is listed twice")?;
        seen.push(limit.typ());
    }
    for (label, field) in
        [(process.apparmor_profile(), "apparmorProfile"), (process.selinux_label(), "selinuxLabel")]
    {
        let one_line = label.as_ref().is_none_or(|label| !label.contains(['\0', '\n']));
        require(one_line, &format!("{at}.{field}"), "must be one line")?;
    }
    Ok(())
}

fn check_hooks(spec: &Spec) -> Checked {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    #[allow(deprecated)]
    let phases = [
        (hooks.prestart(), "prestart"),
        (hooks.create_runtime(), "createRuntime"),
        (hooks.create_container(), "createContainer"),
        (hooks.start_container(), "startContainer"),
        (hooks.poststart(), "poststart"),
        (hooks.poststop(), "poststop"),
    ];
    for (list, name) in phases {
        for (index, hook) in list.iter().flatten().enumerate() {
            let at = |field| format!("hooks.{name}[{index}].{field}");
            require(hook.path().is_absolute(), &at("path"), "must be an absolute path")?;
            let timeout = hook.timeout().is_none_or(|seconds| seconds > 0);
            require(timeout, &at("timeout"), "must be greater than zero")?;
        }
    }
    Ok(())
}

/// Refuses what needs a command line beside the container: a supervisor runs no hooks and has no listeners.
pub(crate) fn check_supervised(spec: &Spec) -> Checked {
    let hooks = spec.hooks().as_ref().is_some_and(|hooks| *hooks != Hooks::default());
    refuse(hooks, || "hooks".into())?;
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let listener = seccomp.is_some_and(|seccomp| seccomp.listener_path().is_some());
    refuse(listener, || "linux.seccomp.listenerPath".into())
}

fn check_linux(linux: &Linux) -> Checked {
    refuse(linux.intel_rdt().is_some(), || "linux.intelRdt".into())?;
    let label = linux.mount_label().as_ref();
    let fine = label.is_none_or(|label| !label.contains(['\0', '\n', '"']));
    require(fine, "linux.mountLabel", "must be one line without quotes")?;
    let flags = linux.personality().as_ref().and_then(|personality| personality.flags().as_ref());
    let none = flags.is_none_or(|flags| flags.is_empty());
    require(none, "linux.personality.flags", "the specification knows none yet")?;
    let mut seen = BTreeSet::new();
    for (index, namespace) in linux.namespaces().iter().flatten().enumerate() {
        let at = format!("linux.namespaces[{index}]");
        let kind = namespace.typ();
        require(seen.insert(kind as u64), &at, "this type is listed twice")?;
        let fine = namespace.path().as_ref().is_none_or(|path| path.is_absolute());
        require(fine, &format!("{at}.path"), "must be an absolute path")?;
    }
    let has = |kind: LinuxNamespaceType| seen.contains(&(kind as u64));
    for (key, value) in linux.sysctl().iter().flatten() {
        sysctl::check(key, value, has)
            .map_err(|why| ConfigError::field(format!("linux.sysctl[{key:?}]"), why))?;
    }
    Ok(())
}

/// A host name can only be set where it is not the host's.
fn check_names(spec: &Spec) -> Checked {
    let mut namespaces = spec.linux().iter().filter_map(|linux| linux.namespaces().as_ref());
    let has_uts =
        namespaces.any(|list| list.iter().any(|item| item.typ() == LinuxNamespaceType::Uts));
    for (name, field) in [(spec.hostname(), "hostname"), (spec.domainname(), "domainname")] {
        let set = name.as_ref().is_some_and(|name| !name.is_empty());
        require(!set || has_uts, field, "needs a uts namespace in linux.namespaces")?;
    }
    let settings = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref());
    let setting = settings
        .into_iter()
        .flatten()
        .find(|(key, _)| sysctl::sysctl_path(key).is_ok_and(|path| path == "kernel/domainname"));
    if let (Some(name), Some((key, value))) = (spec.domainname(), setting) {
        let field = format!("linux.sysctl[{key:?}]");
        require(name == value, &field, "differs from domainname: which one is meant?")?;
    }
    Ok(())
}

fn require(fine: bool, field: &str, why: &str) -> Checked {
    if fine { Ok(()) } else { Err(ConfigError::field(field, why)) }
}

fn refuse(present: bool, field: impl FnOnce() -> String) -> Checked {
    if present { Err(ConfigError::unsupported(field())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn base() -> Value {
        json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["/bin/true"]},
            "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
        })
    }

    fn error_with(pointer: &str, value: Value) -> String {
        let mut config = base();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[key] = value;
        let spec: Spec = serde_json::from_value(config).unwrap();
        check(&spec).expect_err("must be refused").to_string()
    }

    #[test]
    fn a_plain_config_is_accepted() {
        check(&serde_json::from_value(base()).unwrap()).unwrap();
    }

    #[test]
    fn each_refusal_names_its_field() {
        let cases = [
            (
                "/hooks",
                json!({"poststop": [{"path": "/x"}, {"path": "x"}]}),
                "hooks.poststop[1].path: ",
            ),
            (
                "/hooks",
                json!({"prestart": [{"path": "/x", "timeout": 0}]}),
                "hooks.prestart[0].timeout: ",
            ),
            (
                "/linux/personality",
                json!({"domain": "LINUX", "flags": ["X"]}),
                "linux.personality.flags: ",
            ),
            ("/process/selinuxLabel", json!("x\n"), "process.selinuxLabel: "),
            ("/linux/mountLabel", json!("x\"y"), "linux.mountLabel: "),
            ("/process/cwd", json!("tmp"), "process.cwd: "),
            (
                "/mounts",
                json!(vec![json!({"destination": "/x"}); MAX_LIST + 1]),
                "mounts: 4097 entries; at most 4096",
            ),
            ("/process/args", json!([]), "process.args: "),
            ("/process/env", json!(["A=b", "=c"]), "process.env[1]: "),
            ("/hostname", json!("x"), "hostname: needs a uts"),
            ("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}), "linux.sysctl[\"net.ipv4"),
            ("/linux/sysctl", json!({"kernel.core_pattern": "|/x"}), "linux.sysctl[\"kernel.core"),
            ("/linux/sysctl", json!({"net.../x": "1"}), "linux.sysctl["),
            (
                "/linux/namespaces",
                json!([{"type": "mount"}, {"type": "mount"}]),
                "linux.namespaces[1]: this",
            ),
        ];
        for (pointer, value, expected) in cases {
            let error = error_with(pointer, value);
            assert!(error.starts_with(expected), "{error:?} does not start with {expected:?}");
        }
    }
}
