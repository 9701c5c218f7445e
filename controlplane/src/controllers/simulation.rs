//! Controllers that make Pods in a simulated cluster: property tests.
//!
//! Every step is drawn: which controller looks, which earlier decision is written (so that decisions are made
//! on old views, as in life), which Pod starts, becomes ready, stops or dies, what the user changes. Controllers
//! are told through events that may be lost or doubled; a lost event is made up for by the resync that a
//! restart is. The bounds are checked after every single write.

mod stateful;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::deployment::{DEPLOYMENTS, Deployments};
use super::look::PodView;
use super::outcome::Act;
use super::replicaset;
use super::runner::{Controller, Seen};
use super::world::World;
use crate::object::{Key, Resource};
use crate::reader::Reader;

/// What may happen next; numbers choose among what there is.
#[derive(Debug, Clone)]
enum Step {
    /// A controller takes a waiting key and decides.
    Decide(usize),
    /// The next act of a decision that was made is written.
    Write(usize),
    /// A Pod that was told to stop is gone.
    Stop(usize),
    /// A Pod gets ready.
    Ready(usize),
    /// The user wants another image.
    Image(u8),
    /// A user deletes a Pod.
    Kill(usize),
    /// The user wants another number.
    Scale(i32),
    /// The control plane starts anew: decisions that were not written are lost, everything is looked at.
    Restart,
}

fn step(kills: u32, scales: u32) -> impl Strategy<Value = Step> {
    let n = 0..1000usize;
    prop_oneof![
        12 => n.clone().prop_map(Step::Decide),
        12 => n.clone().prop_map(Step::Write),
        4 => n.clone().prop_map(Step::Stop),
        6 => n.clone().prop_map(Step::Ready),
        1 => (0..4u8).prop_map(Step::Image),
        1 => Just(Step::Restart),
        kills => n.prop_map(Step::Kill),
        scales => (0..8i32).prop_map(Step::Scale),
    ]
}

#[derive(Debug, Clone)]
struct Spec {
    replicas: i32,
    surge: i32,
    unavailable: i32,
}

fn spec() -> impl Strategy<Value = Spec> {
    (1..7i32, 0..4i32, 0..4i32).prop_map(|(replicas, surge, unavailable)| {
        // Both zero is refused by the API.
        let surge = if surge + unavailable == 0 { 1 } else { surge };
        Spec { replicas, surge, unavailable }
    })
}

struct Job {
    controller: usize,
    key: Key,
    /// What is left to write, in batches.
    acts: Vec<Act>,
}

struct Simulation {
    /// What the user changes; it is called `d`.
    subject: Resource,
    world: World,
    controllers: Vec<Box<dyn Controller>>,
    waiting: Vec<(usize, Key)>,
    busy: Vec<Job>,
    fed: usize,
    /// Every how many events one is lost, and one told twice; 0 is never.
    lossy: usize,
    writes: usize,
}

impl Simulation {
    fn new(spec: &Spec, lossy: usize) -> Self {
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "d", "namespace": "default"},
            "spec": {
                "replicas": spec.replicas, "selector": {"matchLabels": {"app": "d"}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": spec.surge, "maxUnavailable": spec.unavailable}},
                "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c", "image": "i:0"}]}},
            },
        });
        let controllers: Vec<Box<dyn Controller>> =
            vec![Box::new(Deployments), Box::new(replicaset::SETS)];
        Self::of(DEPLOYMENTS, deployment, controllers, lossy)
    }

    fn of(
        subject: Resource,
        object: Value,
        controllers: Vec<Box<dyn Controller>>,
        lossy: usize,
    ) -> Self {
        Self {
            subject,
            world: World::with([(subject, object)]),
            controllers,
            waiting: Vec::new(),
            busy: Vec::new(),
            fed: 0,
            lossy,
            writes: 0,
        }
    }

    fn pods(&self) -> Vec<PodView> {
        self.world.list("pods", None).into_iter().filter_map(PodView::of).collect()
    }

    fn feed(&mut self) {
        let fresh = self.world.log[self.fed..].to_vec();
        for event in fresh {
            self.fed += 1;
            if self.lossy > 0 && self.fed.is_multiple_of(self.lossy) {
                continue;
            }
            let seen = Seen {
                resource: event.resource,
                old: event.old.as_deref(),
                new: event.new.as_deref(),
            };
            for (index, controller) in self.controllers.iter().enumerate() {
                if controller.watches().contains(&event.resource) {
                    self.waiting.extend(
                        controller.keys(&self.world, seen).into_iter().map(|key| (index, key)),
                    );
                }
            }
        }
        self.waiting.sort();
        self.waiting.dedup();
    }

    /// As the runner at its start.
    fn resync(&mut self) {
        let mut watched: Vec<Resource> =
            self.controllers.iter().flat_map(|c| c.watches()).collect();
        watched.sort_unstable();
        watched.dedup();
        for resource in watched {
            for object in self.world.list(resource, None) {
                let seen = Seen { resource, old: None, new: Some(&object) };
                let all = self.controllers.iter().enumerate();
                for (index, controller) in all.filter(|(_, c)| c.watches().contains(&resource)) {
                    self.waiting.extend(
                        controller.keys(&self.world, seen).into_iter().map(|key| (index, key)),
                    );
                }
            }
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Decide(n) => self.decide(*n),
            Step::Write(n) => self.write(*n),
            Step::Stop(n) => {
                let stopping: Vec<PodView> =
                    self.pods().into_iter().filter(PodView::is_terminating).collect();
                if let Some(pod) = pick(&stopping, *n) {
                    self.world
                        .delete("pods", "default", &pod.meta().name, None, None, true)
                        .expect("delete");
                }
            }
            Step::Ready(n) => {
                let unready: Vec<PodView> =
                    self.pods().into_iter().filter(|p| p.is_active() && !p.is_ready()).collect();
                if let Some(pod) = pick(&unready, *n) {
                    self.start(&pod.meta().name.clone());
                }
            }
            Step::Image(n) => self.world.edit(self.subject, "default", "d", |d| {
                d["spec"]["template"]["spec"]["containers"][0]["image"] = json!(format!("i:{n}"));
            }),
            Step::Kill(n) => {
                let active: Vec<PodView> =
                    self.pods().into_iter().filter(PodView::is_active).collect();
                if let Some(pod) = pick(&active, *n) {
                    self.world
                        .delete("pods", "default", &pod.meta().name, None, None, false)
                        .expect("delete");
                }
            }
            Step::Scale(n) => {
                self.world.edit(self.subject, "default", "d", |d| d["spec"]["replicas"] = json!(n))
            }
            Step::Restart => {
                self.busy.clear();
                self.resync();
            }
        }
        self.feed();
    }

    fn start(&mut self, name: &str) {
        self.world.edit("pods", "default", name, |pod| {
            pod["spec"]["nodeName"] = json!("n");
            pod["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        });
    }

    fn decide(&mut self, n: usize) {
        let free: Vec<usize> = (0..self.waiting.len())
            .filter(|&i| {
                let (controller, key) = &self.waiting[i];
                !self.busy.iter().any(|job| job.controller == *controller && job.key == *key)
            })
            .collect();
        let Some(&index) = pick(&free, n) else { return };
        let (controller, key) = self.waiting.remove(index);
        let outcome = self.controllers[controller].reconcile(&self.world, &key, self.world.now);
        let mut acts: Vec<Act> = outcome.batches.into_iter().flatten().collect();
        acts.reverse();
        if !acts.is_empty() {
            self.busy.push(Job { controller, key, acts });
        }
    }

    fn write(&mut self, n: usize) {
        if self.busy.is_empty() {
            return;
        }
        let index = n % self.busy.len();
        let job = &mut self.busy[index];
        let Some(act) = job.acts.pop() else { return };
        self.writes += 1;
        let change = act.change.clone();
        let failed = match self.world.apply(act.change) {
            Ok(_) => false,
            Err(error) => {
                if !error.is_conflict() && !error.is_not_found() {
                    let (controller, key) = (&self.controllers[job.controller], &job.key);
                    for change in
                        controller.refused(&self.world, key, &change, &error, self.world.now)
                    {
                        let _ = self.world.apply(change);
                    }
                }
                true
            }
        };
        if failed {
            let job = self.busy.remove(index);
            self.waiting.push((job.controller, job.key));
        } else if self.busy[index].acts.is_empty() {
            self.busy.remove(index);
        }
    }

    /// Everything that can happen without faults or users happens, until nothing does.
    fn settle(&mut self) {
        for _ in 0..5000 {
            self.feed();
            let stopping = self.pods().iter().any(PodView::is_terminating);
            let starting = self.pods().iter().any(|p| p.is_active() && !p.is_ready());
            if self.waiting.is_empty() && self.busy.is_empty() && !stopping && !starting {
                return;
            }
            for step in [Step::Write(0), Step::Decide(0), Step::Ready(0), Step::Stop(0)] {
                self.take(&step);
            }
        }
        panic!("never idle: {} waiting, {} busy", self.waiting.len(), self.busy.len());
    }

    fn deployment(&self) -> Value {
        self.world.value(DEPLOYMENTS, "default", "d")
    }

    fn check_settled(&mut self) {
        let deployment = self.deployment();
        let replicas = deployment["spec"]["replicas"].as_u64().expect("a number");
        let image = deployment["spec"]["template"]["spec"]["containers"][0]["image"].clone();
        let pods = self.pods();
        assert_eq!(pods.len() as u64, replicas, "{deployment:#}");
        for pod in &pods {
            assert_eq!(pod.object.value()["spec"]["containers"][0]["image"], image);
        }
        let status = &deployment["status"];
        let count = |name: &str| status[name].as_u64().unwrap_or(0);
        assert_eq!(count("replicas"), replicas);
        assert_eq!(count("updatedReplicas"), replicas);
        assert_eq!(count("availableReplicas"), replicas);
        assert_eq!(count("unavailableReplicas"), 0);
        assert_eq!(status["observedGeneration"], deployment["metadata"]["generation"]);
        self.check_idle();
    }

    /// Idle means idle: another look at everything writes nothing.
    fn check_idle(&mut self) {
        let before = self.writes;
        self.resync();
        self.settle();
        assert_eq!(self.writes, before, "writes although nothing changed");
    }
}

fn pick<T>(items: &[T], n: usize) -> Option<&T> {
    if items.is_empty() { None } else { items.get(n % items.len()) }
}

/// Image changes only: every bound holds after every write.
fn rollouts_stay_in_bounds(spec: &Spec, steps: &[Step], lossy: usize) {
    let mut sim = Simulation::new(spec, lossy);
    sim.resync();
    sim.feed();
    sim.settle_losing();
    let most = usize::try_from(spec.replicas + spec.surge).expect("positive");
    let unavailable = spec.unavailable.min(spec.replicas);
    let least = usize::try_from(spec.replicas - unavailable).expect("not negative");
    for (index, step) in steps.iter().enumerate() {
        sim.take(step);
        let pods = sim.pods();
        let ready = pods.iter().filter(|p| p.is_active() && p.is_ready()).count();
        assert!(
            pods.len() <= most,
            "{} pods exist after step {index} {step:?}, at most {most}",
            pods.len()
        );
        assert!(ready >= least, "{ready} ready after step {index} {step:?}, at least {least}");
    }
    sim.settle_losing();
    sim.check_settled();
}

impl Simulation {
    /// Settles although events are lost: a resync finds what was missed.
    fn settle_losing(&mut self) {
        let lossy = std::mem::take(&mut self.lossy);
        self.resync();
        self.settle();
        self.lossy = lossy;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rolling_updates_stay_in_bounds_at_every_step_and_converge(
        spec in spec(), steps in prop::collection::vec(step(0, 0), 0..250), lossy in prop_oneof![Just(0usize), 2..9usize],
    ) {
        rollouts_stay_in_bounds(&spec, &steps, lossy);
    }

    /// Pods that a user deletes are replaced beside them; the others stay in bounds.
    #[test]
    fn deleted_pods_do_not_make_a_rollout_overshoot(
        spec in spec(), steps in prop::collection::vec(step(6, 0), 0..300),
    ) {
        let mut sim = Simulation::new(&spec, 0);
        sim.settle_losing();
        let most = usize::try_from(spec.replicas + spec.surge).expect("positive");
        for (index, step) in steps.iter().enumerate() {
            sim.take(step);
            let active = sim.pods().iter().filter(|pod| pod.is_active()).count();
            assert!(active <= most, "{active} active after step {index} {step:?}, at most {most}");
        }
    }

    #[test]
    fn with_deleted_pods_and_scaling_everything_still_converges(
        spec in spec(), steps in prop::collection::vec(step(1, 1), 0..250), lossy in prop_oneof![Just(0usize), 2..9usize],
    ) {
        let mut sim = Simulation::new(&spec, lossy);
        sim.resync();
        for step in &steps {
            sim.take(step);
        }
        sim.settle_losing();
        sim.check_settled();
    }
}
