//! Claims and volumes on a small world; the scheduler is played by the test.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::controllers::world::{World, node};

fn class(name: &str, provisioner: &str, mode: &str, default: bool) -> (Resource, Value) {
    let value = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": default.to_string()}},
        "provisioner": provisioner, "reclaimPolicy": "Delete", "volumeBindingMode": mode,
    });
    (CLASSES, value)
}

fn claim(name: &str, edit: impl FnOnce(&mut Value)) -> (Resource, Value) {
    let mut value = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "default", "finalizers": [protection::CLAIM_FINALIZER]},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": {"requests": {"storage": "5Gi"}}},
        "status": {"phase": "Pending"},
    });
    edit(&mut value);
    (CLAIMS, value)
}

fn volume(name: &str, edit: impl FnOnce(&mut Value)) -> (Resource, Value) {
    let mut value = json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": name, "finalizers": [protection::VOLUME_FINALIZER]},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "5Gi"}, "hostPath": {"path": "/x"},
            "persistentVolumeReclaimPolicy": "Retain",
        },
        "status": {"phase": "Pending"},
    });
    edit(&mut value);
    (VOLUMES, value)
}

/// Runs the binder over everything until no write is left; the reasons of all notes.
fn settle(world: &mut World) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    for _ in 0..60 {
        let mut writes = 0;
        for resource in [CLAIMS, VOLUMES] {
            for object in world.list(resource, None) {
                let outcome = Binder.reconcile(world, &object.key(), world.now);
                reasons.extend(outcome.notes.iter().map(|note| note.reason));
                for act in outcome.batches.into_iter().flatten() {
                    writes += 1;
                    reasons.extend(act.done.iter().map(|note| note.reason));
                    if world.apply(act.change).is_err() {
                        break;
                    }
                }
            }
        }
        if writes == 0 {
            return reasons;
        }
    }
    panic!("never idle");
}

fn phase(world: &World, (resource, namespace, name): (Resource, &str, &str)) -> String {
    world.value(resource, namespace, name)["status"]["phase"].as_str().unwrap_or("none").to_owned()
}

fn claim_phase(world: &World, name: &str) -> String {
    phase(world, (CLAIMS, "default", name))
}

fn volume_phase(world: &World, name: &str) -> String {
    phase(world, (VOLUMES, "", name))
}

fn volume_of(world: &World, claim: &str) -> Value {
    world.value(CLAIMS, "default", claim)["spec"]["volumeName"].clone()
}

/// Returns the reasons of the events that follow.
fn delete_claim(world: &mut World, name: &str) -> Vec<&'static str> {
    world.delete(CLAIMS, "default", name, None, None, true).expect("delete");
    settle(world)
}

#[test]
fn the_smallest_volume_that_suits_is_bound() {
    let mut world = World::with([
        volume("small", |v| v["spec"]["capacity"]["storage"] = json!("1Gi")),
        volume("large", |v| v["spec"]["capacity"]["storage"] = json!("50Gi")),
        volume("right", |v| v["spec"]["capacity"]["storage"] = json!("10Gi")),
        volume("shared", |v| v["spec"]["accessModes"] = json!(["ReadOnlyMany"])),
        volume("classy", |v| v["spec"]["storageClassName"] = json!("fast")),
        claim("c", |_| {}),
    ]);
    settle(&mut world);
    assert_eq!(volume_of(&world, "c"), "right");
    assert_eq!(
        (claim_phase(&world, "c"), volume_phase(&world, "right")),
        ("Bound".into(), "Bound".into())
    );
    assert_eq!(world.value(CLAIMS, "default", "c")["status"]["capacity"]["storage"], "10Gi");
    assert_eq!(volume_phase(&world, "large"), "Available");
}

#[test]
fn selectors_classes_by_name_and_wishes_for_a_volume_are_honoured() {
    let mut world = World::with([
        volume("red", |v| v["metadata"]["labels"] = json!({"colour": "red"})),
        volume("blue", |v| v["metadata"]["labels"] = json!({"colour": "blue"})),
        volume("manual", |v| v["spec"]["storageClassName"] = json!("manual")),
        volume("wanted", |_| {}),
        volume("waiting", |v| {
            v["spec"]["claimRef"] = json!({"namespace": "default", "name": "later"})
        }),
        claim("a", |c| c["spec"]["selector"] = json!({"matchLabels": {"colour": "blue"}})),
        claim("b", |c| c["spec"]["storageClassName"] = json!("manual")),
        claim("c", |c| c["spec"]["volumeName"] = json!("wanted")),
    ]);
    settle(&mut world);
    assert_eq!((volume_of(&world, "a"), volume_of(&world, "b")), (json!("blue"), json!("manual")));
    assert_eq!(claim_phase(&world, "c"), "Bound");
    assert_eq!(volume_phase(&world, "waiting"), "Available");
    world.add(CLAIMS, claim("later", |_| {}).1);
    settle(&mut world);
    assert_eq!(volume_of(&world, "later"), "waiting");
}

#[test]
fn a_released_volume_is_kept_or_said_to_be_nobodys_to_delete() {
    for (policy, expected) in [("Retain", "Released"), ("Delete", "Failed")] {
        let mut world = World::with([
            volume("v", |v| v["spec"]["persistentVolumeReclaimPolicy"] = json!(policy)),
            claim("c", |_| {}),
        ]);
        settle(&mut world);
        delete_claim(&mut world, "c");
        assert_eq!(volume_phase(&world, "v"), expected);
        // The next claim of that name does not get what the last one left.
        world.add(CLAIMS, claim("c", |_| {}).1);
        settle(&mut world);
        assert_eq!(claim_phase(&world, "c"), "Pending");
    }
}

fn local() -> World {
    World::with([
        node("n1"),
        class("local-path", local_path::PROVISIONER, "WaitForFirstConsumer", true),
        claim("c", |c| {
            c["spec"].as_object_mut().expect("an object").remove("storageClassName");
        }),
    ])
}

#[test]
fn a_local_path_is_made_on_the_chosen_node_and_goes_with_its_claim() {
    let mut world = local();
    assert!(settle(&mut world).contains(&"WaitForFirstConsumer"));
    assert_eq!(world.value(CLAIMS, "default", "c")["spec"]["storageClassName"], "local-path");
    world.edit(CLAIMS, "default", "c", |c| annotate(c, SELECTED_NODE, "n1"));
    assert!(settle(&mut world).contains(&"ProvisioningSucceeded"));
    assert_eq!(claim_phase(&world, "c"), "Bound");
    let name = volume_of(&world, "c").as_str().expect("a name").to_owned();
    let made = world.value(VOLUMES, "", &name);
    assert_eq!(made["metadata"]["annotations"][PROVISIONED_BY], local_path::PROVISIONER);
    let uid = world.object(CLAIMS, "default", "c").meta.uid.clone();
    assert_eq!(
        made["spec"]["hostPath"]["path"],
        format!("/var/lib/kobune/local-path/pvc-{uid}_default_c")
    );
    let term =
        &made["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0];
    assert_eq!(*term, json!({"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}));
    assert!(delete_claim(&mut world, "c").contains(&"VolumeDirectoryKept"));
    assert!(world.list(VOLUMES, None).is_empty());
}

#[test]
fn what_a_local_path_cannot_be_is_said() {
    for (field, value) in [
        ("accessModes", json!(["ReadWriteMany"])),
        ("volumeMode", json!("Block")),
        ("selector", json!({"matchLabels": {"a": "b"}})),
    ] {
        let mut world = local();
        world.edit(CLAIMS, "default", "c", |c| {
            c["spec"][field] = value;
            annotate(c, SELECTED_NODE, "n1");
        });
        assert!(settle(&mut world).contains(&"ProvisioningFailed"), "{field}");
    }
    // A node that is gone is chosen again.
    let mut world = local();
    world.edit(CLAIMS, "default", "c", |c| annotate(c, SELECTED_NODE, "gone"));
    settle(&mut world);
    assert_eq!(annotation(&world.value(CLAIMS, "default", "c"), SELECTED_NODE), "");
}

#[test]
fn classes_of_others_are_left_to_their_provisioner() {
    let mut world = World::with([
        class("other", "example.org/disk", "Immediate", false),
        claim("c", |c| c["spec"]["storageClassName"] = json!("other")),
    ]);
    assert!(settle(&mut world).contains(&"ExternalProvisioning"));
    let note = world.value(CLAIMS, "default", "c")["metadata"]["annotations"]["volume.kubernetes.io/storage-provisioner"].clone();
    assert_eq!(note, "example.org/disk");
}

#[test]
fn a_claim_in_use_and_a_volume_that_is_held_are_not_gone() {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"},
        "spec": {"nodeName": "n", "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]},
    });
    let mut world = World::with([volume("v", |_| {}), claim("c", |_| {}), ("pods", pod)]);
    settle(&mut world);
    world.delete(VOLUMES, "", "v", None, None, true).expect("delete");
    delete_claim(&mut world, "c");
    assert!(world.get(CLAIMS, "default", "c").is_some() && world.get(VOLUMES, "", "v").is_some());
    world.edit("pods", "default", "p", |pod| pod["status"] = json!({"phase": "Succeeded"}));
    settle(&mut world);
    assert!(world.get(CLAIMS, "default", "c").is_none() && world.get(VOLUMES, "", "v").is_none());
}

#[test]
fn a_claim_whose_volume_is_gone_is_lost() {
    let mut world = World::with([volume("v", |_| {}), claim("c", |_| {})]);
    settle(&mut world);
    world.remove(VOLUMES, "", "v");
    assert!(settle(&mut world).contains(&"ClaimLost"));
    assert_eq!(claim_phase(&world, "c"), "Lost");
}

#[derive(Debug, Clone)]
enum Step {
    Claim(u8, u8),
    Volume(u8, u8, bool),
    /// Decides about something, and writes this many of the acts.
    Look(usize, usize),
    Choose(u8),
    Drop(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..4u8, 0..3u8).prop_map(|(n, class)| Step::Claim(n, class)),
        2 => (0..4u8, 1..9u8, any::<bool>()).prop_map(|(n, size, keep)| Step::Volume(n, size, keep)),
        8 => (0..99usize, 0..3usize).prop_map(|(n, acts)| Step::Look(n, acts)),
        2 => (0..4u8).prop_map(Step::Choose),
        1 => (0..4u8).prop_map(Step::Drop),
    ]
}

fn take(world: &mut World, step: &Step) {
    match step {
        Step::Claim(n, which) => {
            let class = ["", "now", "local-path"][usize::from(*which)];
            let (resource, value) =
                claim(&format!("c{n}"), |c| c["spec"]["storageClassName"] = json!(class));
            let _ = world.apply(crate::writer::Change::Create { resource, object: value });
        }
        Step::Volume(n, size, keep) => {
            let (resource, value) = volume(&format!("v{n}"), |v| {
                v["spec"]["capacity"]["storage"] = json!(format!("{size}Gi"));
                v["spec"]["persistentVolumeReclaimPolicy"] =
                    json!(if *keep { "Retain" } else { "Delete" });
                v["spec"]["storageClassName"] = json!(if *keep { "" } else { "now" });
            });
            let _ = world.apply(crate::writer::Change::Create { resource, object: value });
        }
        Step::Look(n, acts) => {
            let all: Vec<_> =
                [CLAIMS, VOLUMES].into_iter().flat_map(|r| world.list(r, None)).collect();
            if all.is_empty() {
                return;
            }
            let outcome = Binder.reconcile(world, &all[n % all.len()].key(), world.now);
            for act in outcome.batches.into_iter().flatten().take(*acts) {
                let _ = world.apply(act.change);
            }
        }
        Step::Choose(n) => {
            let name = format!("c{n}");
            if world.get(CLAIMS, "default", &name).is_some() {
                world.edit(CLAIMS, "default", &name, |c| annotate(c, SELECTED_NODE, "n1"));
            }
        }
        Step::Drop(n) => drop(world.delete(CLAIMS, "default", &format!("c{n}"), None, None, true)),
    }
}

/// No volume is claimed twice, and who is bound has room enough.
fn check(world: &World) -> Result<(), TestCaseError> {
    let mut holders: BTreeMap<String, String> = BTreeMap::new();
    for claim in world.list(CLAIMS, None) {
        let value = claim.value();
        let name = text(&value, "/spec/volumeName").to_owned();
        if name.is_empty() {
            continue;
        }
        let other = holders.insert(name.clone(), claim.meta.name.clone());
        prop_assert!(other.is_none(), "{name} is {}'s and {other:?}'s", claim.meta.name);
        if let Some(volume) = world.get(VOLUMES, "", &name) {
            let held = volume.value();
            prop_assert!(
                held["spec"]["claimRef"]["uid"] == *claim.meta.uid,
                "{name} is held by another"
            );
            let size = text(&held, "/spec/capacity/storage").trim_end_matches("Gi").to_owned();
            prop_assert!(size.parse::<u32>().expect("a size") >= 5, "{name} has {size}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_volume_is_held_twice_at_any_step_and_all_comes_to_rest(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::with([
            node("n1"),
            class("local-path", local_path::PROVISIONER, "WaitForFirstConsumer", true),
            class("now", "kubernetes.io/no-provisioner", "Immediate", false),
        ]);
        for step in &steps {
            take(&mut world, step);
            check(&world)?;
        }
        settle(&mut world);
        check(&world)?;
        for claim in world.list(CLAIMS, None) {
            let value = claim.value();
            let bound = !text(&value, "/spec/volumeName").is_empty();
            prop_assert_eq!(text(&value, "/status/phase") == "Bound", bound);
        }
        for volume in world.list(VOLUMES, None) {
            let value = volume.value();
            prop_assert!(matches!(text(&value, "/status/phase"), "Available" | "Bound" | "Released" | "Failed"), "{value:#}");
        }
    }
}
