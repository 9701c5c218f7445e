//! Kernel settings of config.json: where they are below /proc/sys, and whether they are the container's to change. Pure.

use oci_spec::runtime::LinuxNamespaceType;

/// Refuses a setting that is not the container's own: one of the host that no namespace keeps apart, or one of a namespace
/// that the container shares with the host. Otherwise `kernel.core_pattern` would be a program that the host executes.
pub(super) fn check(
    key: &str,
    value: &str,
    has: impl Fn(LinuxNamespaceType) -> bool,
) -> Result<(), &'static str> {
    let path = sysctl_path(key)?;
    // One line is one setting: what follows a line break would be another (CVE-2022-0811).
    if value.contains(['\n', '\0']) {
        return Err("the value has several lines");
    }
    match namespace(&path) {
        None => Err("is not kept apart by any namespace: it would change the host"),
        Some(kind) if has(kind) => Ok(()),
        Some(LinuxNamespaceType::Ipc) => Err("needs an ipc namespace in linux.namespaces"),
        Some(LinuxNamespaceType::Network) => Err("needs a network namespace in linux.namespaces"),
        Some(_) => Err("needs a uts namespace in linux.namespaces"),
    }
}

/// The namespace that has its own value of a setting.
fn namespace(path: &str) -> Option<LinuxNamespaceType> {
    const IPC: [&str; 9] = [
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/msg_next_id",
    ];
    match path {
        _ if IPC.contains(&path) || path.starts_with("fs/mqueue/") => Some(LinuxNamespaceType::Ipc),
        _ if path.starts_with("net/") => Some(LinuxNamespaceType::Network),
        // The host name has a field of its own.
        "kernel/domainname" => Some(LinuxNamespaceType::Uts),
        _ => None,
    }
}

/// Where a sysctl is below /proc/sys. Only whole names of plain words: nothing that leaves the directory.
pub(crate) fn sysctl_path(key: &str) -> Result<String, &'static str> {
    // `net/ipv4/conf/eth0.100/x` may hold dots where the first separator is a slash.
    let path = match key.find(['.', '/']) {
        Some(at) if key.as_bytes()[at] == b'.' => key
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => key.to_owned(),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let fine =
        |word: &str| !word.is_empty() && word != "." && word != ".." && word.bytes().all(plain);
    if path.split('/').all(fine) && path.contains('/') {
        Ok(path)
    } else {
        Err("not a sysctl name")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settings_of_own_namespaces() {
        use LinuxNamespaceType::{Ipc, Network, Uts};
        let own = [Ipc, Network, Uts];
        for key in ["kernel.shmmax", "fs.mqueue.msg_max", "net.core.somaxconn", "kernel.domainname"]
        {
            check(key, "1", |kind| own.contains(&kind)).unwrap();
            assert!(check(key, "1", |_| false).unwrap_err().contains("namespace in"), "{key}");
        }
        for key in ["kernel.core_pattern", "vm.swappiness", "kernel.shmx", "fs.file-max", "user.x"]
        {
            assert!(check(key, "1", |_| true).unwrap_err().contains("change the host"), "{key}");
        }
        assert!(check("net.core.somaxconn", "1\n2", |_| true).is_err());
    }

    #[test]
    fn sysctl_names_become_paths_inside_proc_sys() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward").unwrap(), "net/ipv4/ip_forward");
        assert_eq!(sysctl_path("net/ipv4/conf/a.1/x").unwrap(), "net/ipv4/conf/a.1/x");
        assert_eq!(sysctl_path("net.ipv4.conf.a/1.x").unwrap(), "net/ipv4/conf/a.1/x");
        for bad in ["", "x", "net..x", "/net/x", "net/../x", "net.ipv4.a=b", "kernel.x\n"] {
            assert!(sysctl_path(bad).is_err(), "{bad:?}");
        }
    }
}
