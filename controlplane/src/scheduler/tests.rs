//! Decisions of the scheduler's core on small clusters, and its edge on a paused clock.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::core::{Core, Decision, Verdict};
use crate::controllers::runner::Seen;
use crate::controllers::world::{node, pod};
use crate::object::{Object, Resource};

fn object(resource: Resource, value: &Value) -> Arc<Object> {
    Arc::new(Object::from_value(resource, value).expect("an object"))
}

struct Bench {
    core: Core,
    now: Instant,
}

impl Bench {
    fn with(nodes: &[Value]) -> Self {
        let mut bench = Self { core: Core::default(), now: Instant::now() };
        nodes.iter().for_each(|node| bench.sees("nodes", node));
        bench
    }

    fn sees(&mut self, resource: Resource, value: &Value) {
        let new = object(resource, value);
        let seen = Seen { resource, old: None, new: Some(&new) };
        self.core.observe(seen, Some(&new), self.now);
    }

    fn loses(&mut self, resource: Resource, value: &Value) {
        let old = object(resource, value);
        let seen = Seen { resource, old: Some(&old), new: None };
        self.core.observe(seen, None, self.now);
    }

    fn next(&mut self) -> Option<Decision> {
        self.core.next(self.now)
    }

    /// What happens to this Pod, as text.
    fn verdict(&mut self, pod: &Value) -> String {
        self.sees("pods", pod);
        match self.next().expect("a decision").verdict {
            Verdict::Bind { node } => node,
            Verdict::Wait { message, .. } => message,
            other => panic!("unexpected {other:?}"),
        }
    }
}

fn n(name: &str) -> Value {
    node(name).1
}

fn p(name: &str, edit: impl FnOnce(&mut Value)) -> Value {
    let mut value = pod("default", name).1;
    edit(&mut value);
    value
}

fn asking(name: &str, resource: &str, amount: &str) -> Value {
    p(name, |pod| pod["spec"]["containers"][0]["resources"]["requests"][resource] = json!(amount))
}

#[test]
fn filters_say_why_as_people_know_it() {
    let mut cordoned = n("cordoned");
    cordoned["spec"]["unschedulable"] = json!(true);
    let mut tainted = n("tainted");
    tainted["spec"]["taints"] = json!([{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]);
    let mut zoned = n("zoned");
    zoned["metadata"]["labels"]["zone"] = json!("z1");
    let all = [cordoned.clone(), tainted.clone(), zoned.clone()];
    let term = |key: &str, operator: &str, values: Value| {
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]}}})
    };
    let cases: Vec<(&[Value], Value, &str)> = vec![
        (&[], pod("default", "p").1, "no nodes available to schedule pods"),
        (&all, pod("default", "p").1, "zoned"),
        (
            &all[..1],
            pod("default", "p").1,
            "0/1 nodes are available: 1 node(s) were unschedulable.",
        ),
        (
            &all[1..2],
            pod("default", "p").1,
            "0/1 nodes are available: 1 node(s) had untolerated taint {gpu: yes}.",
        ),
        (
            &all[1..2],
            p("p", |v| v["spec"]["tolerations"] = json!([{"key": "gpu", "operator": "Exists"}])),
            "tainted",
        ),
        (
            &all[1..2],
            p("p", |v| {
                v["spec"]["tolerations"] =
                    json!([{"key": "gpu", "value": "yes", "effect": "NoSchedule"}])
            }),
            "tainted",
        ),
        (
            &all[1..2],
            p("p", |v| v["spec"]["tolerations"] = json!([{"key": "gpu", "value": "no"}])),
            "0/1 nodes are available: 1 node(s) had untolerated taint {gpu: yes}.",
        ),
        (
            &all[..1],
            p("p", |v| v["spec"]["tolerations"] = json!([{"operator": "Exists"}])),
            "cordoned",
        ),
        (
            &all,
            p("p", |v| v["spec"]["nodeSelector"] = json!({"zone": "z2"})),
            "0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had untolerated taint {gpu: yes}, 1 node(s) were unschedulable.",
        ),
        (&all, p("p", |v| v["spec"]["nodeSelector"] = json!({"zone": "z1"})), "zoned"),
        (&all[2..], p("p", |v| v["spec"]["affinity"] = term("zone", "In", json!(["z1"]))), "zoned"),
        (
            &all[2..],
            p("p", |v| v["spec"]["affinity"] = term("zone", "NotIn", json!(["z1"]))),
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
        ),
        (&all[2..], asking("p", "cpu", "5"), "0/1 nodes are available: 1 Insufficient cpu."),
        (
            &all[2..],
            asking("p", "memory", "9Gi"),
            "0/1 nodes are available: 1 Insufficient memory.",
        ),
        (
            &all[2..],
            asking("p", "example.com/gpu", "1"),
            "0/1 nodes are available: 1 Insufficient example.com/gpu.",
        ),
        (&all[2..], asking("p", "cpu", "4"), "zoned"),
        (
            &all[2..],
            p("p", |v| v["spec"]["resourceClaims"] = json!([{"name": "c"}])),
            "0/1 nodes are available: spec.resourceClaims is not supported.",
        ),
        (
            &all[2..],
            p("p", |v| v["spec"]["schedulingGates"] = json!([{"name": "g"}])),
            "Scheduling is blocked due to non-empty scheduling gates",
        ),
    ];
    for (nodes, pod, expected) in cases {
        assert_eq!(Bench::with(nodes).verdict(&pod), expected, "{pod}");
    }
}

#[test]
fn room_that_was_decided_away_is_gone_before_anything_is_written() {
    let mut bench = Bench::with(&[n("a")]);
    assert_eq!(bench.verdict(&asking("one", "cpu", "3")), "a");
    assert_eq!(
        bench.verdict(&asking("two", "cpu", "2")),
        "0/1 nodes are available: 1 Insufficient cpu."
    );
}

#[test]
fn host_ports_are_taken_once_per_node() {
    let with_port = |name: &str, port: i32| {
        p(name, |pod| {
            pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": port}])
        })
    };
    let mut bench = Bench::with(&[n("a")]);
    assert_eq!(bench.verdict(&with_port("one", 8080)), "a");
    let taken =
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
    assert_eq!(bench.verdict(&with_port("two", 8080)), taken);
    assert_eq!(bench.verdict(&with_port("three", 8081)), "a");
}

#[test]
fn a_node_takes_as_many_pods_as_it_says() {
    let mut small = n("small");
    small["status"]["allocatable"]["pods"] = json!("1");
    let mut bench = Bench::with(&[small]);
    assert_eq!(bench.verdict(&pod("default", "one").1), "small");
    assert_eq!(
        bench.verdict(&pod("default", "two").1),
        "0/1 nodes are available: 1 Too many pods."
    );
}

#[test]
fn replicas_of_one_owner_spread() {
    let nodes = [n("a"), n("b"), n("c")];
    let mut bench = Bench::with(&nodes);
    let mut landed: Vec<String> = (0..3)
        .map(|i| {
            let owned = p(&format!("p{i}"), |pod| {
                pod["metadata"]["ownerReferences"] =
                    json!([{"kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]);
            });
            bench.verdict(&owned)
        })
        .collect();
    landed.sort();
    assert_eq!(landed, ["a", "b", "c"]);
}

#[test]
fn preferred_affinity_and_soft_taints_sway() {
    let mut liked = n("liked");
    liked["metadata"]["labels"]["disk"] = json!("ssd");
    let mut shunned = n("shunned");
    shunned["spec"]["taints"] = json!([{"key": "old", "effect": "PreferNoSchedule"}]);
    let prefers = p("p", |pod| {
        pod["spec"]["affinity"] = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}]}});
    });
    assert_eq!(Bench::with(&[n("plain"), liked]).verdict(&prefers), "liked");
    assert_eq!(Bench::with(&[shunned, n("plain")]).verdict(&pod("default", "p").1), "plain");
}

#[test]
fn higher_priority_goes_first_and_age_decides_among_equals() {
    let mut bench = Bench::with(&[n("a")]);
    for (name, priority) in [("low", 0), ("low2", 0), ("high", 10)] {
        bench.sees("pods", &p(name, |pod| pod["spec"]["priority"] = json!(priority)));
    }
    let order: Vec<String> =
        std::iter::from_fn(|| bench.next()).map(|d| d.pod.meta.name.clone()).collect();
    assert_eq!(order, ["high", "low", "low2"]);
}

#[test]
fn a_parked_pod_is_tried_again_when_room_appears_and_not_before() {
    let big = asking("big", "cpu", "3");
    let mut running = asking("running", "cpu", "2");
    running["spec"]["nodeName"] = json!("a");
    let mut bench = Bench::with(&[n("a")]);
    bench.sees("pods", &running);
    assert_eq!(bench.verdict(&big), "0/1 nodes are available: 1 Insufficient cpu.");
    bench.now += Duration::from_secs(60);
    let mut heartbeat = n("a");
    heartbeat["status"]["conditions"][0]["lastHeartbeatTime"] = json!("2026-01-01T00:00:00Z");
    bench.sees("nodes", &heartbeat);
    assert!(bench.next().is_none(), "a heartbeat makes no room");
    bench.loses("pods", &running);
    let verdict = bench.next().expect("a decision").verdict;
    assert_eq!(verdict, Verdict::Bind { node: "a".into() });
}

#[test]
fn the_first_retry_is_free_and_then_tries_back_off_from_one_second_to_ten() {
    let mut bench = Bench::with(&[]);
    bench.sees("pods", &asking("big", "cpu", "30"));
    assert!(bench.next().is_some());
    bench.sees("nodes", &n("a"));
    let mut waits = Vec::new();
    for i in 0..6 {
        assert!(bench.next().is_some());
        let mut other = n("b");
        other["metadata"]["labels"]["turn"] = json!(i.to_string());
        bench.sees("nodes", &other);
        assert!(bench.next().is_none(), "not at once");
        let due = bench.core.next_due().expect("a time");
        waits.push((due - bench.now).as_secs());
        bench.now = due;
    }
    assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
}

#[test]
fn a_refused_binding_frees_the_room_and_the_pod_is_tried_again() {
    let mut bench = Bench::with(&[n("a")]);
    bench.sees("pods", &asking("one", "cpu", "3"));
    for wait in [0, 1, 2] {
        let decision = bench.next().expect("a decision");
        assert_eq!(decision.verdict, Verdict::Bind { node: "a".into() });
        bench.core.refused(&decision.pod.meta.uid, bench.now);
        bench.now += Duration::from_secs(wait);
    }
    assert!(bench.next().is_some());
}

#[test]
fn other_schedulers_pods_and_finished_pods_are_left_alone() {
    let mut bench = Bench::with(&[n("a")]);
    bench.sees("pods", &p("theirs", |pod| pod["spec"]["schedulerName"] = json!("mine")));
    bench.sees("pods", &p("done", |pod| pod["status"] = json!({"phase": "Succeeded"})));
    bench.sees(
        "pods",
        &p("gone", |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")),
    );
    assert!(bench.next().is_none());
}

#[test]
fn a_pods_room_is_counted_once_whatever_the_order_and_number_of_events() {
    let mut placed = asking("one", "cpu", "3");
    placed["spec"]["nodeName"] = json!("a");
    let mut bench = Bench::with(&[]);
    bench.sees("pods", &placed);
    bench.sees("nodes", &n("a"));
    bench.sees("pods", &placed);
    assert_eq!(bench.verdict(&asking("two", "cpu", "1")), "a");
    assert_eq!(
        bench.verdict(&asking("three", "cpu", "1")),
        "0/1 nodes are available: 1 Insufficient cpu."
    );
    bench.loses("nodes", &n("a"));
    bench.sees("nodes", &n("a"));
    assert!(matches!(bench.next().map(|d| d.verdict), Some(Verdict::Wait { .. })), "still no room");
    bench.loses("pods", &placed);
    bench.now += Duration::from_secs(10);
    assert_eq!(bench.next().map(|d| d.verdict), Some(Verdict::Bind { node: "a".into() }));
}

mod edge {
    use super::*;
    use crate::controllers::runner::{Clock, Tools};
    use crate::controllers::world::{SharedWorld, World};
    use crate::reader::Reader;
    use crate::scheduler::serve;
    use jiff::Timestamp;
    use tokio_util::sync::CancellationToken;

    /// Runs the scheduler on `world` until nothing moves for some seconds.
    async fn settle(world: World) -> SharedWorld {
        let world = SharedWorld::new(world);
        let shutdown = CancellationToken::new();
        let clock = Clock::following_tokio(Timestamp::from_second(1_000_000).expect("in range"));
        let reader: Arc<dyn Reader> = Arc::new(world.clone());
        let recorder = crate::controllers::events::spawn(
            reader.clone(),
            Arc::new(world.clone()),
            clock.clone(),
            shutdown.clone(),
        );
        let recorder = recorder.for_component("default-scheduler");
        let tools = Tools { reader, writer: Arc::new(world.clone()), recorder, clock };
        let running = tokio::spawn(serve(tools, world.subscribe(), shutdown.clone()));
        tokio::time::sleep(Duration::from_secs(30)).await;
        shutdown.cancel();
        running.await.expect("the scheduler ends");
        world
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_is_bound_and_told_about() {
        let world = settle(World::with([node("a"), pod("default", "p")])).await;
        let (bound, events) =
            world.with(|w| (w.value("pods", "default", "p"), w.list("events", Some("default"))));
        assert_eq!(bound["spec"]["nodeName"], "a");
        let event = events[0].value();
        assert_eq!(event["message"], "Successfully assigned default/p to a");
        assert_eq!(event["source"]["component"], "default-scheduler");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_fits_nowhere_says_so_once_and_then_is_quiet() {
        let world = settle(World::with([node("a"), ("pods", asking("big", "cpu", "9"))])).await;
        let (pod, writes) = world.with(|w| {
            let writes = w.log.iter().filter(|e| e.resource == "pods").count();
            (w.value("pods", "default", "big"), writes)
        });
        let condition = &pod["status"]["conditions"][0];
        assert_eq!(condition["type"], "PodScheduled");
        assert_eq!(condition["status"], "False");
        assert_eq!(condition["reason"], "Unschedulable");
        assert_eq!(condition["message"], "0/1 nodes are available: 1 Insufficient cpu.");
        assert_eq!(writes, 2, "created and explained");
    }
}

mod volumes {
    use super::*;

    const CLAIMS: Resource = "persistentvolumeclaims";
    const VOLUMES: Resource = "persistentvolumes";
    const CLASSES: Resource = "storageclasses.storage.k8s.io";

    fn with_claim(name: &str, claim: &str) -> Value {
        p(name, |pod| {
            pod["spec"]["volumes"] =
                json!([{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]);
        })
    }

    fn claim(name: &str, edit: impl FnOnce(&mut Value)) -> Value {
        let mut value = json!({
            "metadata": {"name": name, "namespace": "default", "uid": format!("claim-{name}"), "annotations": {}},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "late", "resources": {"requests": {"storage": "1Gi"}}},
        });
        edit(&mut value);
        value
    }

    fn bound(name: &str, volume: &str) -> Value {
        claim(name, |c| {
            c["spec"]["volumeName"] = json!(volume);
            c["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"] = json!("yes");
        })
    }

    fn volume(name: &str, node: &str) -> Value {
        let term = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]});
        json!({
            "metadata": {"name": name},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "storageClassName": "late",
                "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
            },
        })
    }

    fn class(provisioner: &str) -> Value {
        json!({"metadata": {"name": "late"}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"})
    }

    #[test]
    fn a_bound_claim_ties_the_pod_to_the_nodes_of_its_volume() {
        let mut bench = Bench::with(&[n("a"), n("b")]);
        assert_eq!(
            bench.verdict(&with_claim("p0", "none")),
            "0/2 nodes are available: persistentvolumeclaim \"none\" not found."
        );
        bench.loses("pods", &with_claim("p0", "none"));
        bench.sees(CLAIMS, &bound("c", "v"));
        bench.sees(VOLUMES, &volume("v", "b"));
        assert_eq!(bench.verdict(&with_claim("p1", "c")), "b");
        bench.sees(VOLUMES, &volume("w", "elsewhere"));
        bench.sees(CLAIMS, &bound("d", "w"));
        let why = bench.verdict(&with_claim("p2", "d"));
        assert_eq!(
            why,
            "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity."
        );
        bench.loses("pods", &with_claim("p2", "d"));
        bench.sees(CLAIMS, &claim("e", |c| c["spec"]["storageClassName"] = json!("other")));
        let why = bench.verdict(&with_claim("p3", "e"));
        assert_eq!(
            why,
            "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims."
        );
    }

    /// The node of a preparation, and what it writes.
    fn prepared(bench: &mut Bench) -> (String, Vec<crate::writer::Change>) {
        match bench.next().expect("a decision").verdict {
            Verdict::Prepare { node, changes } => (node, changes),
            other => panic!("unexpected {other:?}"),
        }
    }

    #[test]
    fn a_claim_that_waits_is_told_the_node_and_the_pod_is_bound_when_it_is() {
        let mut bench = Bench::with(&[n("a")]);
        bench.sees(CLASSES, &class("p"));
        bench.sees(CLAIMS, &claim("c", |_| {}));
        bench.sees("pods", &with_claim("p", "c"));
        let (node, changes) = prepared(&mut bench);
        let [crate::writer::Change::Update { object, .. }] = changes.as_slice() else {
            panic!("{changes:?}")
        };
        assert_eq!(
            (
                node.as_str(),
                &object["metadata"]["annotations"]["volume.kubernetes.io/selected-node"]
            ),
            ("a", &json!("a"))
        );
        bench.sees(CLAIMS, object);
        assert!(bench.next().is_none(), "not before the claim is bound");
        bench.sees(VOLUMES, &volume("v", "a"));
        bench.sees(CLAIMS, &bound("c", "v"));
        assert_eq!(bench.next().expect("a decision").verdict, Verdict::Bind { node: "a".into() });
    }

    #[test]
    fn a_free_volume_is_taken_on_its_node_and_without_one_the_pod_waits() {
        let mut bench = Bench::with(&[n("a"), n("b")]);
        bench.sees(CLASSES, &class("kubernetes.io/no-provisioner"));
        bench.sees(CLAIMS, &claim("c", |_| {}));
        let why = bench.verdict(&with_claim("p", "c"));
        assert_eq!(
            why,
            "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind."
        );
        bench.sees(VOLUMES, &volume("v", "b"));
        let (node, changes) = prepared(&mut bench);
        let [crate::writer::Change::Update { object, .. }] = changes.as_slice() else {
            panic!("{changes:?}")
        };
        assert_eq!((node.as_str(), &object["spec"]["claimRef"]["name"]), ("b", &json!("c")));
        bench.sees(VOLUMES, object);
        assert!(bench.next().is_none(), "the claim follows");
        bench.sees(CLAIMS, &bound("c", "v"));
        assert_eq!(bench.next().expect("a decision").verdict, Verdict::Bind { node: "b".into() });
    }

    #[test]
    fn a_node_that_goes_while_volumes_are_made_is_chosen_anew() {
        let mut bench = Bench::with(&[n("a")]);
        bench.sees(CLASSES, &class("p"));
        bench.sees(CLAIMS, &claim("c", |_| {}));
        bench.sees("pods", &with_claim("p", "c"));
        prepared(&mut bench);
        bench.loses("nodes", &n("a"));
        bench.sees("nodes", &n("b"));
        assert_eq!(prepared(&mut bench).0, "b");
    }
}
