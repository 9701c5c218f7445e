//! Security contexts and what is shared with the host.

use k8s_openapi::api::core::v1::{AppArmorProfile, PodSpec, SeccompProfile, SecurityContext};

use super::between;
use crate::kinds::field::{Errors, Path};

pub(super) fn pod(errors: &mut Errors, path: &Path, spec: &PodSpec) {
    let at = path.child("securityContext");
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&path.child("shareProcessNamespace"), true, why);
    }
    if spec.host_users == Some(false) {
        for (field, set) in [
            ("hostNetwork", spec.host_network),
            ("hostPID", spec.host_pid),
            ("hostIPC", spec.host_ipc),
        ] {
            if set == Some(true) {
                errors.forbidden(&path.child("hostUsers"), &format!("when `{field}` is true"));
            }
        }
    }
    let Some(context) = &spec.security_context else { return };
    ids(
        errors,
        &at,
        &[
            ("runAsUser", context.run_as_user),
            ("runAsGroup", context.run_as_group),
            ("fsGroup", context.fs_group),
        ],
    );
    for (index, group) in context.supplemental_groups.iter().flatten().enumerate() {
        between(errors, &at.child("supplementalGroups").index(index), *group, 0);
    }
    let change = context.fs_group_change_policy.as_deref();
    errors.optional_one_of(&at.child("fsGroupChangePolicy"), change, &["Always", "OnRootMismatch"]);
    let policy = context.supplemental_groups_policy.as_deref();
    errors.optional_one_of(&at.child("supplementalGroupsPolicy"), policy, &["Merge", "Strict"]);
    profiles(errors, &at, &context.seccomp_profile, &context.app_armor_profile);
    let mut seen = std::collections::BTreeSet::new();
    for (index, sysctl) in context.sysctls.iter().flatten().enumerate() {
        let at = at.child("sysctls").index(index).child("name");
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_./".contains(c);
        if sysctl.name.is_empty() {
            errors.required(&at, "");
        } else if sysctl.name.len() > 253 || !sysctl.name.chars().all(good) {
            errors.invalid(&at, &sysctl.name, "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$");
        } else if !seen.insert(&sysctl.name) {
            errors.duplicate(&at, &sysctl.name);
        }
    }
}

pub(super) fn container(errors: &mut Errors, path: &Path, context: &SecurityContext) {
    ids(errors, path, &[("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)]);
    profiles(errors, path, &context.seccomp_profile, &context.app_armor_profile);
    let proc_mount = context.proc_mount.as_deref();
    errors.optional_one_of(&path.child("procMount"), proc_mount, &["Default", "Unmasked"]);
    if context.allow_privilege_escalation == Some(false) {
        let at = path.child("allowPrivilegeEscalation");
        if context.privileged == Some(true) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(&at, false, why);
        }
        let added = context.capabilities.as_ref().and_then(|c| c.add.as_ref());
        if added.is_some_and(|a| a.iter().any(|c| c == "SYS_ADMIN" || c == "CAP_SYS_ADMIN")) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(&at, false, why);
        }
    }
}

fn ids(errors: &mut Errors, path: &Path, ids: &[(&str, Option<i64>)]) {
    for (field, id) in ids {
        if let Some(id) = id {
            between(errors, &path.child(field), *id, 0);
        }
    }
}

fn profiles(
    errors: &mut Errors,
    path: &Path,
    seccomp: &Option<SeccompProfile>,
    app_armor: &Option<AppArmorProfile>,
) {
    const TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
    let kinds = [
        ("seccompProfile", seccomp.as_ref().map(|p| (&p.type_, &p.localhost_profile))),
        ("appArmorProfile", app_armor.as_ref().map(|p| (&p.type_, &p.localhost_profile))),
    ];
    for (field, profile) in kinds {
        let Some((kind, file)) = profile else { continue };
        let at = path.child(field);
        errors.one_of(&at.child("type"), Some(kind), TYPES);
        let place = at.child("localhostProfile");
        match (kind.as_str(), file.as_deref().unwrap_or_default()) {
            ("Localhost", "") => errors.required(&place, "must be set when type is Localhost"),
            ("Localhost", text) if field == "seccompProfile" => {
                super::volumes::inside(errors, &place, text);
            }
            ("Localhost", _) | (_, "") => {}
            (_, text) => errors.invalid(&place, text, "can only be set when type is Localhost"),
        }
    }
}
