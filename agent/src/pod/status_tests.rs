//! From a Pod's state to the status that the API shows.

use std::time::Duration;

use super::super::clock::at;
use super::super::plan::PodPlan;
use super::super::state::{Action, Event, MachineOptions, StartFailure, Stop, step};
use super::*;
use crate::probe::{Outcome, ProbeKind};

struct Bench {
    pod: Pod,
    state: PodState,
    seconds: u64,
}

impl Bench {
    fn new(spec: &str) -> Self {
        let text = format!(
            r#"{{"metadata":{{"name":"p","namespace":"ns","uid":"u"}},"spec":{spec},
            "status":{{"phase":"Pending","qosClass":"Burstable","conditions":[
              {{"type":"PodScheduled","status":"True","lastTransitionTime":"2023-01-01T00:00:00Z"}}]}}}}"#
        );
        let pod: Pod = serde_json::from_str(&text).expect("a Pod");
        let state = PodState::new(PodPlan::of(&pod), MachineOptions::default(), at(0));
        let mut bench = Self { pod, state, seconds: 0 };
        bench.send(Event::Tick);
        bench
    }

    fn send(&mut self, event: Event) -> Vec<Action> {
        step(&mut self.state, event, at(self.seconds))
    }

    fn up(&mut self) {
        self.send(Event::SandboxReady { address: Some([10, 244, 0, 5].into()) });
    }

    fn started(&mut self, index: usize) {
        let started_at = at(self.seconds).wall;
        self.send(Event::ImageResolved {
            index,
            image: "docker.io/x:1".into(),
            image_id: "sha256:1".into(),
        });
        self.send(Event::Started { index, attempt: 0, id: "abc".into(), started_at });
    }

    fn exited(&mut self, index: usize, exit_code: i32, reason: &str) {
        let now = at(self.seconds).wall;
        let termination = Termination {
            id: "abc".into(),
            exit_code,
            signal: None,
            reason: reason.into(),
            message: None,
            started_at: Some(now),
            finished_at: now,
        };
        self.send(Event::Exited { index, attempt: 0, termination });
    }

    /// The status, written back as the API would have it.
    fn status(&mut self) -> PodStatus {
        let host = HostFacts { ip: "1.2.3.4".into() };
        let status = build(&self.pod, &self.state, &host, at(self.seconds).wall);
        self.pod.status = Some(status.clone());
        assert_eq!(
            build(&self.pod, &self.state, &host, at(self.seconds + 5).wall),
            status,
            "the same again"
        );
        status
    }

    fn conditions(&mut self) -> Vec<String> {
        let of = |condition: PodCondition| {
            let reason = condition.reason.map(|reason| format!(" {reason}")).unwrap_or_default();
            format!("{}={}{reason}", condition.type_, condition.status)
        };
        self.status().conditions.unwrap_or_default().into_iter().map(of).collect()
    }
}

const ONE: &str = r#"{"containers":[{"name":"app","image":"x:1",
    "readinessProbe":{"successThreshold":1,"exec":{}}}]}"#;

fn waiting(status: &ContainerStatus) -> Option<&str> {
    status.state.as_ref()?.waiting.as_ref()?.reason.as_deref()
}

#[test]
fn from_creation_to_readiness() {
    let mut bench = Bench::new(ONE);
    let status = bench.status();
    assert_eq!((status.phase.as_deref(), status.pod_ip), (Some("Pending"), None));
    assert_eq!(status.host_ip.as_deref(), Some("1.2.3.4"));
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!(waiting(container), Some("ContainerCreating"));
    assert_eq!((container.image.as_str(), container.started), ("x:1", Some(false)));
    assert_eq!(
        bench.conditions(),
        [
            "PodReadyToStartContainers=False",
            "Initialized=True",
            "Ready=False ContainersNotReady",
            "ContainersReady=False ContainersNotReady",
            "PodScheduled=True",
        ]
    );

    bench.seconds = 3;
    bench.up();
    bench.started(0);
    let status = bench.status();
    assert_eq!(
        (status.phase.as_deref(), status.pod_ip.as_deref()),
        (Some("Running"), Some("10.244.0.5"))
    );
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!(container.container_id.as_deref(), Some("kobune://abc"));
    assert_eq!(
        (container.image.as_str(), container.image_id.as_str()),
        ("docker.io/x:1", "sha256:1")
    );
    assert_eq!((container.ready, container.started), (false, Some(true)));
    let message = status.conditions.unwrap()[2].message.clone();
    assert_eq!(message.as_deref(), Some("containers with unready status: [app]"));

    bench.seconds = 4;
    bench.send(Event::Probed {
        index: 0,
        attempt: 0,
        kind: ProbeKind::Readiness,
        outcome: Outcome::Success,
    });
    let status = bench.status();
    assert!(status.container_statuses.unwrap()[0].ready);
    let conditions = status.conditions.unwrap();
    let time = |type_: &str| {
        let found = conditions.iter().find(|each| each.type_ == type_).unwrap();
        found.last_transition_time.as_ref().unwrap().0
    };
    assert_eq!(time("Ready"), at(4).wall);
    assert_eq!(time("PodReadyToStartContainers"), at(3).wall, "kept from then");
    assert_eq!(time("Initialized"), at(0).wall);
}

#[test]
fn containers_that_end() {
    let mut bench = Bench::new(r#"{"restartPolicy":"Never","containers":[{"name":"app"}]}"#);
    bench.up();
    bench.started(0);
    bench.exited(0, 137, "OOMKilled");
    bench.send(Event::TornDown);
    let status = bench.status();
    assert_eq!(
        (status.phase.as_deref(), status.pod_ip.as_deref()),
        (Some("Failed"), Some("10.244.0.5"))
    );
    let container = &status.container_statuses.unwrap()[0];
    let end = container.state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((end.exit_code, end.reason.as_deref()), (137, Some("OOMKilled")));
    assert_eq!(
        bench.conditions(),
        [
            "PodReadyToStartContainers=False",
            "Initialized=True",
            "Ready=False PodFailed",
            "ContainersReady=False PodFailed",
            "PodScheduled=True",
        ]
    );

    let mut bench = Bench::new(r#"{"restartPolicy":"Never","containers":[{"name":"app"}]}"#);
    bench.up();
    bench.started(0);
    bench.exited(0, 0, "Completed");
    assert_eq!(bench.status().phase.as_deref(), Some("Succeeded"));
    assert_eq!(
        bench.conditions()[1..3],
        ["Initialized=True PodCompleted", "Ready=False PodCompleted"]
    );
}

#[test]
fn init_containers() {
    let mut bench = Bench::new(
        r#"{"initContainers":[{"name":"i"},{"name":"j"}],"containers":[{"name":"app"}]}"#,
    );
    bench.up();
    bench.started(0);
    let status = bench.status();
    assert_eq!(waiting(&status.container_statuses.as_ref().unwrap()[0]), Some("PodInitializing"));
    let message = status.conditions.unwrap()[1].message.clone();
    assert_eq!(message.as_deref(), Some("containers with incomplete status: [i j]"));
    bench.exited(0, 0, "Completed");
    let status = bench.status();
    let init = status.init_container_statuses.unwrap();
    assert_eq!((init[0].ready, init[1].ready), (true, false));
    assert_eq!(status.phase.as_deref(), Some("Pending"));
}

#[test]
fn a_restart_shows_the_state_before() {
    let mut bench = Bench::new(r#"{"containers":[{"name":"app"}]}"#);
    bench.up();
    bench.started(0);
    bench.exited(0, 1, "Error");
    let started_at = at(1).wall;
    bench.send(Event::Started { index: 0, attempt: 1, id: "def".into(), started_at });
    let container = bench.status().container_statuses.unwrap().remove(0);
    assert_eq!(
        (container.restart_count, container.container_id.as_deref()),
        (1, Some("kobune://def"))
    );
    let last = container.last_state.unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.container_id.as_deref()), (1, Some("kobune://abc")));
}

#[test]
fn what_cannot_start_says_why() {
    let mut bench = Bench::new(r#"{"containers":[{"name":"app"}]}"#);
    bench.up();
    let failure =
        StartFailure::NotMade { reason: "CreateContainerConfigError".into(), message: "no".into() };
    bench.send(Event::StartFailed { index: 0, attempt: 0, failure });
    let status = bench.status();
    assert_eq!(waiting(&status.container_statuses.unwrap()[0]), Some("CreateContainerConfigError"));
    assert_eq!(status.phase.as_deref(), Some("Pending"));
}

#[test]
fn host_network_pods_have_the_nodes_address() {
    let mut bench = Bench::new(r#"{"hostNetwork":true,"containers":[{"name":"app"}]}"#);
    bench.send(Event::SandboxReady { address: None });
    assert_eq!(bench.status().pod_ip.as_deref(), Some("1.2.3.4"));
}

#[test]
fn readiness_gates_of_others_count() {
    let mut bench = Bench::new(
        r#"{"readinessGates":[{"conditionType":"gate"}],"containers":[{"name":"app"}]}"#,
    );
    bench.up();
    bench.started(0);
    assert_eq!(
        bench.conditions()[2..4],
        ["Ready=False ReadinessGatesNotReady", "ContainersReady=True"]
    );
    let gate =
        PodCondition { type_: "gate".into(), status: "True".into(), ..PodCondition::default() };
    bench.pod.status.as_mut().unwrap().conditions.as_mut().unwrap().push(gate);
    assert_eq!(bench.conditions()[2], "Ready=True");
    assert_eq!(bench.conditions().last().unwrap(), "gate=True", "kept");
}

#[test]
fn a_deadline_and_a_refusal_are_reasons_of_the_pod() {
    let mut bench = Bench::new(r#"{"activeDeadlineSeconds":2,"containers":[{"name":"app"}]}"#);
    bench.seconds = 2;
    bench.send(Event::Tick);
    assert_eq!(bench.state.stop, Some(Stop::Deadline));
    bench.send(Event::SandboxFailed { reason: "FailedMount", message: String::new() });
    let status = bench.status();
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("DeadlineExceeded"))
    );

    let mut bench = Bench::new(r#"{"containers":[{"name":"app"}]}"#);
    bench.state.refuse("hostPID is not supported");
    let status = bench.status();
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Pending"), Some("UnsupportedField"))
    );
    assert_eq!(waiting(&status.container_statuses.unwrap()[0]), Some("UnsupportedField"));
    assert_eq!(bench.state.deadline, None::<Duration>);

    let mut bench = Bench::new(r#"{"restartPolicy":"Never","containers":[{"name":"app"}]}"#);
    bench.state.refuse("hostPID is not supported");
    bench.send(Event::Tick);
    let status = bench.status();
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("UnsupportedField"))
    );
    assert_eq!(status.container_statuses, None, "kubectl shows the Pod's reason only then");
}
