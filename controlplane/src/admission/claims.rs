//! DefaultStorageClass and PersistentVolumeClaimResize: a claim without a class gets the default one, and grows only
//! where its class can make volumes grow. Pure.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde::Deserialize;
use serde_json::Value;

use super::World;
use crate::controllers::volumes::matching;

const RESIZE: &str = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";

pub(super) fn complete(world: World<'_>, value: &mut Value) {
    let Ok(claim) = PersistentVolumeClaim::deserialize(&*value) else { return };
    if matching::class_name(&claim).is_none()
        && let Some(class) = matching::default_class(world)
    {
        value["spec"]["storageClassName"] = class.meta.name.as_str().into();
    }
}

pub(super) fn check(world: World<'_>, value: &Value, old: &Value) -> Result<(), String> {
    let asked = |value: &Value| value["spec"]["resources"]["requests"]["storage"].clone();
    if asked(value) == asked(old) {
        return Ok(());
    }
    let claim = PersistentVolumeClaim::deserialize(value).map_err(|error| error.to_string())?;
    let class = matching::class_of(world, &claim);
    match class.is_some_and(|class| class.allow_volume_expansion == Some(true)) {
        true => Ok(()),
        false => Err(RESIZE.into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::testing;
    use crate::controllers::volumes::CLASSES;

    fn class(name: &str, default: &str, grows: bool) -> (crate::object::Resource, Value) {
        let notes = json!({"storageclass.kubernetes.io/is-default-class": default});
        let value = json!({"metadata": {"name": name, "annotations": notes}, "provisioner": "p", "allowVolumeExpansion": grows});
        (CLASSES, value)
    }

    #[test]
    fn a_claim_without_a_class_gets_the_default() {
        let world = testing::World::of([class("a", "false", false), class("b", "true", false)]);
        for (given, expected) in [
            (json!({}), json!("b")),
            (json!({"storageClassName": "a"}), json!("a")),
            (json!({"storageClassName": ""}), json!("")),
        ] {
            let mut claim = json!({"metadata": {"name": "c"}, "spec": given});
            complete(&world, &mut claim);
            assert_eq!(claim["spec"]["storageClassName"], expected);
        }
        let mut claim = json!({"metadata": {"name": "c"}, "spec": {}});
        complete(&testing::World::of([]), &mut claim);
        assert!(claim["spec"]["storageClassName"].is_null());
    }

    #[test]
    fn only_classes_that_allow_it_let_claims_grow() {
        let world =
            testing::World::of([class("fixed", "false", false), class("grows", "false", true)]);
        let claim = |class: &str, size: &str| json!({"spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}}});
        assert_eq!(check(&world, &claim("fixed", "1Gi"), &claim("fixed", "1Gi")), Ok(()));
        assert_eq!(
            check(&world, &claim("fixed", "2Gi"), &claim("fixed", "1Gi")),
            Err(RESIZE.into())
        );
        assert_eq!(check(&world, &claim("grows", "2Gi"), &claim("grows", "1Gi")), Ok(()));
    }
}
