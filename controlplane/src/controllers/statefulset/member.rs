//! Who a Pod of the set is: its name, what the name gives it, and its claims as volumes. Pure.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Value, json};

use super::{Revisions, Set, claims};
use crate::controllers::history::HASH;
use crate::controllers::workload;

/// `web-3` of `web` → 3
pub(super) fn ordinal(set: &str, pod: &str) -> Option<i64> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    let is_canonical = digits == "0" || !digits.starts_with('0');
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if is_number && is_canonical { digits.parse().ok() } else { None }
}

pub(super) fn name(set: &Set<'_>, ordinal: i64) -> String {
    format!("{}-{ordinal}", set.object.meta.name)
}

/// The Pod that should be at this ordinal.
pub(super) fn new_pod(set: &Set<'_>, revisions: &Revisions, ordinal: i64) -> Option<Value> {
    let is_old = set.is_rolling() && ordinal < set.partition();
    let (label, template): (&str, &PodTemplateSpec) = match &revisions.current_template {
        Some(template) if is_old => (&revisions.current, template),
        _ => (&revisions.newest, &set.spec.template),
    };
    let mut pod = workload::new_pod(&set.object, template)?;
    let name = name(set, ordinal);
    let metadata = pod["metadata"].as_object_mut()?;
    metadata.remove("generateName");
    metadata.insert("name".into(), name.as_str().into());
    let labels = &mut metadata["labels"];
    labels[HASH] = label.into();
    labels["statefulset.kubernetes.io/pod-name"] = name.as_str().into();
    labels["apps.kubernetes.io/pod-index"] = ordinal.to_string().into();
    pod["spec"]["hostname"] = name.into();
    if let Some(service) = set.spec.service_name.as_deref().filter(|service| !service.is_empty()) {
        pod["spec"]["subdomain"] = service.into();
    }
    mount(set, &mut pod["spec"], ordinal);
    Some(pod)
}

/// A claim takes the place of a volume that has its name.
fn mount(set: &Set<'_>, spec: &mut Value, ordinal: i64) {
    let claims: Vec<(String, String)> = claims::names(set, ordinal).collect();
    if claims.is_empty() {
        return;
    }
    let mut volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
    volumes.retain(|volume| claims.iter().all(|(template, _)| volume["name"] != **template));
    volumes.extend(claims.iter().map(
        |(template, claim)| json!({"name": template, "persistentVolumeClaim": {"claimName": claim}}),
    ));
    spec["volumes"] = volumes.into();
}

#[cfg(test)]
mod tests {
    use super::ordinal;

    #[test]
    fn ordinals_are_read_from_names() {
        for (pod, expected) in [
            ("web-0", Some(0)),
            ("web-10", Some(10)),
            ("web-01", None),
            ("web-", None),
            ("web", None),
            ("web-x", None),
            ("web-+1", None),
            ("webb-1", None),
            ("web-1-1", None),
        ] {
            assert_eq!(ordinal("web", pod), expected, "{pod}");
        }
    }
}
