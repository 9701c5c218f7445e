//! Services, Pods and what becomes of them in slices and in the legacy object.

use serde_json::{Value, json};

use super::*;
use crate::controllers::runner::Controller;
use crate::controllers::world::{World, pod};
use crate::object::Resource;

fn service(edit: impl FnOnce(&mut Value)) -> (Resource, Value) {
    let mut value = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "svc", "namespace": "default", "uid": "svc-uid", "labels": {"team": "t"}},
        "spec": {"selector": {"app": "a"}, "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]},
    });
    edit(&mut value);
    ("services", value)
}

fn backend(index: usize, ready: bool) -> (Resource, Value) {
    let mut value = pod("default", &format!("p{index:03}")).1;
    value["metadata"]["labels"] = json!({"app": "a"});
    value["spec"]["nodeName"] = json!("n");
    value["spec"]["containers"][0]["ports"] = json!([{"name": "web", "containerPort": 8080}]);
    let ready = if ready { "True" } else { "False" };
    value["status"] = json!({
        "phase": "Running", "podIP": format!("10.0.{}.{}", index / 250, index % 250),
        "conditions": [{"type": "Ready", "status": ready}],
    });
    ("pods", value)
}

fn settle(world: &mut World) -> usize {
    let key = Key::new("services", "default", "svc");
    let controllers: [&dyn Controller; 2] = [&Slices, &Legacy];
    let mut writes = 0;
    for controller in controllers {
        for act in controller.reconcile(world, &key, world.now).batches.into_iter().flatten() {
            world.apply(act.change).expect("apply");
            writes += 1;
        }
    }
    writes
}

fn slices(world: &World) -> Vec<Value> {
    world.list(SLICES, Some("default")).iter().map(|slice| slice.value()).collect()
}

fn legacy(world: &World) -> Value {
    world.value("endpoints", "default", "svc")
}

#[test]
fn ready_pods_are_endpoints() {
    let mut world = World::with([service(|_| ()), backend(1, true), backend(2, false)]);
    settle(&mut world);
    let [slice] = slices(&world).try_into().expect("one slice");
    assert_eq!(
        slice["metadata"]["labels"],
        json!({
            "team": "t", "kubernetes.io/service-name": "svc",
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        })
    );
    assert_eq!(slice["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
    assert_eq!(
        slice["endpoints"][0],
        json!({
            "addresses": ["10.0.0.1"], "nodeName": "n",
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": "default", "name": "p001", "uid": "pod-p001"},
        })
    );
    assert_eq!(
        slice["endpoints"][1]["conditions"],
        json!({"ready": false, "serving": false, "terminating": false})
    );
    let subset = &legacy(&world)["subsets"][0];
    assert_eq!(subset["addresses"][0]["ip"], "10.0.0.1");
    assert_eq!(subset["notReadyAddresses"][0]["ip"], "10.0.0.2");
    assert_eq!(settle(&mut world), 0, "no change, no write");
}

#[test]
fn a_pod_that_was_told_to_stop_is_not_ready_at_once() {
    let mut world = World::with([service(|_| ()), backend(1, true)]);
    settle(&mut world);
    world.delete("pods", "default", "p001", None, None, false).expect("delete");
    settle(&mut world);
    let conditions = slices(&world)[0]["endpoints"][0]["conditions"].clone();
    assert_eq!(conditions, json!({"ready": false, "serving": true, "terminating": true}));
    assert_eq!(legacy(&world)["subsets"], json!([]));
}

#[test]
fn not_ready_addresses_are_published_when_asked() {
    let published = service(|s| s["spec"]["publishNotReadyAddresses"] = json!(true));
    let mut world = World::with([published, backend(1, false)]);
    settle(&mut world);
    let conditions = slices(&world)[0]["endpoints"][0]["conditions"].clone();
    assert_eq!(conditions, json!({"ready": true, "serving": false, "terminating": false}));
    assert_eq!(legacy(&world)["subsets"][0]["addresses"][0]["ip"], "10.0.0.1");
}

#[test]
fn a_named_port_is_what_each_pod_says() {
    let mut other = backend(2, true);
    other.1["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(9090);
    let mut world = World::with([service(|_| ()), backend(1, true), other]);
    settle(&mut world);
    let mut ports: Vec<i64> =
        slices(&world).iter().filter_map(|s| s["ports"][0]["port"].as_i64()).collect();
    ports.sort_unstable();
    assert_eq!(ports, [8080, 9090]);
    assert_eq!(legacy(&world)["subsets"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_slice_holds_a_hundred_and_only_the_slice_that_changes_is_written() {
    let mut world = World::with([service(|_| ())]);
    for index in 0..250 {
        let (resource, value) = backend(index, true);
        world.add(resource, value);
    }
    settle(&mut world);
    let sizes = |world: &World| {
        let count = |slice: &Value| slice["endpoints"].as_array().map_or(0, Vec::len);
        let mut sizes: Vec<usize> = slices(world).iter().map(count).collect();
        sizes.sort_unstable();
        sizes
    };
    assert_eq!(sizes(&world), [50, 100, 100]);
    world.remove("pods", "default", "p010");
    let before = world.log.len();
    settle(&mut world);
    let written = world.log[before..].iter().filter(|event| event.resource == SLICES).count();
    assert_eq!(written, 1);
    assert_eq!(sizes(&world).iter().sum::<usize>(), 249);
}

#[test]
fn without_pods_there_is_one_empty_slice() {
    let mut world = World::with([service(|_| ())]);
    settle(&mut world);
    assert_eq!(slices(&world)[0]["endpoints"], json!([]));
    let (resource, value) = backend(1, true);
    world.add(resource, value);
    settle(&mut world);
    assert_eq!(slices(&world).len(), 1);
    world.remove("pods", "default", "p001");
    settle(&mut world);
    assert_eq!(slices(&world)[0]["endpoints"], json!([]));
    assert_eq!(settle(&mut world), 0);
}

#[test]
fn services_without_a_selector_and_finished_pods_are_left_alone() {
    let mut world =
        World::with([service(|s| s["spec"]["selector"] = Value::Null), backend(1, true)]);
    assert_eq!(settle(&mut world), 0);
    let mut done = backend(1, true);
    done.1["status"]["phase"] = json!("Succeeded");
    let mut world = World::with([service(|_| ()), done]);
    settle(&mut world);
    assert_eq!(slices(&world)[0]["endpoints"], json!([]));
}

#[test]
fn the_legacy_object_goes_with_its_service() {
    let mut world = World::with([service(|_| ()), backend(1, true)]);
    settle(&mut world);
    world.remove("services", "default", "svc");
    settle(&mut world);
    assert!(world.get("endpoints", "default", "svc").is_none());
}

#[test]
fn a_pod_concerns_the_services_that_select_it_before_or_after() {
    let world = World::with([service(|_| ()), backend(1, true)]);
    let new = world.object("pods", "default", "p001");
    let mut relabelled = new.value();
    relabelled["metadata"]["labels"] = json!({});
    let without = Object::from_value("pods", &relabelled).expect("an object");
    for (old, new, expected) in [(&*new, &without, 1), (&without, &without, 0)] {
        let seen = Seen { resource: "pods", old: Some(old), new: Some(new) };
        assert_eq!(Slices.keys(&world, seen).len(), expected);
    }
}
