//! StatefulSets: names, order and claims at every step, and what is left in the end.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Simulation, Step, step};
use crate::controllers::collector::Collector;
use crate::controllers::look::PodView;
use crate::controllers::statefulset::{STATEFULSETS, StatefulSets};
use crate::reader::Reader;

const CLAIMS: &str = "persistentvolumeclaims";

#[derive(Debug, Clone)]
struct Spec {
    replicas: i32,
    start: i32,
    partition: i32,
    parallel: bool,
    max_unavailable: Option<i32>,
    /// Whether claims go with surplus Pods.
    frees: bool,
}

fn spec() -> impl Strategy<Value = Spec> {
    let bound = prop_oneof![Just(None), (1..4i32).prop_map(Some)];
    let flags = (any::<bool>(), any::<bool>());
    (1..6i32, 0..3i32, 0..4i32, bound, flags).prop_map(
        |(replicas, start, partition, max_unavailable, (parallel, frees))| Spec {
            replicas,
            start,
            partition,
            parallel,
            max_unavailable,
            frees,
        },
    )
}

fn object(spec: &Spec) -> Value {
    let mut rolling = json!({"partition": spec.partition});
    if let Some(bound) = spec.max_unavailable {
        rolling["maxUnavailable"] = bound.into();
    }
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "d", "namespace": "default"},
        "spec": {
            "replicas": spec.replicas, "serviceName": "d", "ordinals": {"start": spec.start},
            "podManagementPolicy": if spec.parallel { "Parallel" } else { "OrderedReady" },
            "selector": {"matchLabels": {"app": "d"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
            "persistentVolumeClaimRetentionPolicy":
                {"whenDeleted": "Retain", "whenScaled": if spec.frees { "Delete" } else { "Retain" }},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}],
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "i:0"}]}},
        },
    })
}

fn simulation(spec: &Spec, lossy: usize) -> Simulation {
    // The collector frees the claims of Pods that are gone.
    Simulation::of(
        STATEFULSETS,
        object(spec),
        vec![Box::new(StatefulSets), Box::<Collector>::default()],
        lossy,
    )
}

fn ordinal(pod: &PodView) -> i32 {
    pod.meta().name.strip_prefix("d-").and_then(|n| n.parse().ok()).expect("a member's name")
}

fn is_well(pod: &PodView) -> bool {
    !pod.is_terminating() && pod.is_ready()
}

impl Simulation {
    /// Without users that delete Pods: one Pod at a time is away in an ordered set, and every Pod has its claim.
    fn check_step(&self, spec: &Spec, (most, scaled): (i32, bool), what: &str) {
        let pods = self.pods();
        assert!(i32::try_from(pods.len()).expect("few") <= most, "{} pods {what}", pods.len());
        let ailing = pods.iter().filter(|pod| !is_well(pod)).count();
        // A set that shrinks gives up its highest Pod while a lower one may be away for an update, as upstream.
        let bound = spec.max_unavailable.unwrap_or(1) + i32::from(scaled);
        if !spec.parallel {
            assert!(ailing <= usize::try_from(bound).expect("positive"), "{ailing} away {what}");
        }
        for pod in pods.iter().filter(|pod| !pod.is_terminating()) {
            let claim = format!("data-{}", pod.meta().name);
            assert!(self.world.get(CLAIMS, "default", &claim).is_some(), "no {claim} {what}");
        }
    }

    /// A Pod that a user deletes while it is surplus, one that is away for an update when its set shrinks, and a
    /// control plane that ends between a claim and its Pod leave the claim behind (`untidy`), as upstream: a claim
    /// goes with a Pod.
    fn check_members(&mut self, spec: &Spec, untidy: bool) {
        let set = self.world.value(STATEFULSETS, "default", "d");
        let replicas =
            i32::try_from(set["spec"]["replicas"].as_i64().expect("a number")).expect("few");
        let newest = set["spec"]["template"]["spec"]["containers"][0]["image"].clone();
        let pods = self.pods();
        let mut found: Vec<i32> = pods.iter().map(ordinal).collect();
        found.sort_unstable();
        assert_eq!(found, (spec.start..spec.start + replicas).collect::<Vec<_>>());
        for pod in &pods {
            let value = pod.object.value();
            if ordinal(pod) >= spec.start + spec.partition {
                assert_eq!(value["spec"]["containers"][0]["image"], newest, "{}", pod.meta().name);
            }
            let claim = format!("data-{}", pod.meta().name);
            assert_eq!(value["spec"]["hostname"], *pod.meta().name);
            assert_eq!(value["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"], *claim);
        }
        let claims = self.world.list(CLAIMS, Some("default")).len();
        assert!(claims >= pods.len());
        if spec.frees && !untidy {
            assert_eq!(claims, pods.len(), "claims of surplus Pods went with them");
        }
        let status = &set["status"];
        let count = |name: &str| i32::try_from(status[name].as_i64().unwrap_or(0)).expect("few");
        assert_eq!((count("replicas"), count("readyReplicas")), (replicas, replicas), "{status}");
        assert_eq!(status["observedGeneration"], set["metadata"]["generation"]);
        if spec.partition == 0 {
            assert_eq!(status["currentRevision"], status["updateRevision"]);
            assert_eq!(count("currentReplicas"), count("updatedReplicas"));
        }
        self.check_idle();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn stateful_sets_keep_their_order_at_every_step_and_converge(
        spec in spec(), steps in prop::collection::vec(step(0, 1), 0..250), lossy in prop_oneof![Just(0usize), 2..9usize],
    ) {
        let mut sim = simulation(&spec, lossy);
        sim.settle_losing();
        let (mut most, mut scaled) = (spec.replicas, false);
        for (index, step) in steps.iter().enumerate() {
            if let Step::Scale(n) = step {
                most = most.max(*n);
                scaled = true;
            }
            sim.take(step);
            sim.check_step(&spec, (most, scaled), &format!("after step {index} {step:?}"));
        }
        sim.settle_losing();
        let any = |of: fn(&Step) -> bool| steps.iter().any(of);
        let updated = any(|step| matches!(step, Step::Image(_)));
        let untidy = any(|step| matches!(step, Step::Restart)) || (scaled && updated);
        sim.check_members(&spec, untidy);
    }

    #[test]
    fn with_deleted_pods_stateful_sets_still_converge(
        spec in spec(), steps in prop::collection::vec(step(2, 1), 0..250), lossy in prop_oneof![Just(0usize), 2..9usize],
    ) {
        let mut sim = simulation(&spec, lossy);
        sim.resync();
        for step in &steps {
            sim.take(step);
        }
        sim.settle_losing();
        sim.check_members(&spec, true);
    }
}
