//! Transcripts of the Pod state machine: what happens, what is done, what the phase is.

use std::time::Duration;

use super::super::apply::killed;
use super::super::clock::{Now, at};
use super::super::decide::next_wakeup;
use super::*;

fn plan(spec: &str) -> PodPlan {
    let text = format!(r#"{{"metadata":{{"name":"p","namespace":"ns","uid":"u"}},"spec":{spec}}}"#);
    PodPlan::of(&serde_json::from_str(&text).expect("a Pod"))
}

/// A machine with a clock, and a world that answers actions on demand.
pub(super) struct Bench {
    pub(super) state: PodState,
    pub(super) now: Now,
    pub(super) log: Vec<Action>,
}

impl Bench {
    pub(super) fn new(spec: &str) -> Self {
        let now = at(0);
        let state = PodState::new(plan(spec), MachineOptions::default(), now);
        let mut bench = Self { state, now, log: Vec::new() };
        bench.send(Event::Tick);
        bench
    }

    pub(super) fn send(&mut self, event: Event) -> Vec<Action> {
        let actions = step(&mut self.state, event, self.now);
        self.log.extend(actions.iter().cloned());
        actions
    }

    fn wait(&mut self, seconds: u64) -> Vec<Action> {
        self.now = at(self.now.mono.as_secs() + seconds);
        self.send(Event::Tick)
    }

    fn sandbox(&mut self) {
        self.send(Event::SandboxReady { address: Some([10, 0, 0, 2].into()) });
    }

    fn started(&mut self, index: usize, attempt: u32) -> Vec<Action> {
        let id = format!("{index}-{attempt}");
        self.send(Event::Started { index, attempt, id, started_at: self.now.wall })
    }

    fn exited(&mut self, index: usize, attempt: u32, exit_code: i32) -> Vec<Action> {
        let mut termination = killed("i", None, self.now.wall);
        termination.exit_code = exit_code;
        termination.id = format!("{index}-{attempt}");
        self.send(Event::Exited { index, attempt, termination })
    }

    fn probed(&mut self, kind: ProbeKind, good: bool) -> Vec<Action> {
        let outcome = if good { Outcome::Success } else { Outcome::Failure("no".into()) };
        self.send(Event::Probed { index: 0, attempt: 0, kind, outcome })
    }
}

/// Actions without the events for people.
pub(super) fn deeds(actions: &[Action]) -> Vec<Action> {
    actions.iter().filter(|action| !matches!(action, Action::Report(_))).cloned().collect()
}

fn reports(actions: &[Action]) -> Vec<&'static str> {
    let reason = |action: &Action| match action {
        Action::Report(report) => Some(report.reason),
        _ => None,
    };
    actions.iter().filter_map(reason).collect()
}

pub(super) const ONE: &str = r#"{"containers":[{"name":"app"}]}"#;

#[test]
fn a_pod_comes_and_goes() {
    let mut bench = Bench::new(ONE);
    assert_eq!(deeds(&bench.log), [Action::SetupSandbox]);
    let actions = bench.send(Event::SandboxReady { address: None });
    assert_eq!(actions, [Action::StartContainer { index: 0, attempt: 0 }]);
    assert_eq!(bench.state.phase, Phase::Pending);
    assert_eq!(reports(&bench.started(0, 0)), ["Created", "Started"]);
    assert_eq!(bench.state.phase, Phase::Running);
    assert!(bench.state.containers[0].ready());

    let actions = bench.send(Event::Deleted { grace: Duration::from_secs(30) });
    assert_eq!(
        (deeds(&actions), reports(&actions)),
        (vec![Action::Terminate { index: 0 }], vec!["Killing"])
    );
    assert_eq!(bench.wait(29), []);
    assert_eq!(bench.wait(1), [Action::Kill { index: 0 }]);
    assert_eq!(bench.exited(0, 0, 137), [Action::TeardownSandbox]);
    assert_eq!(bench.state.phase, Phase::Failed);
    assert_eq!(bench.send(Event::TornDown), [Action::Clean]);
    assert_eq!(bench.send(Event::Cleaned), [Action::DeleteObject]);
    assert_eq!(bench.send(Event::ObjectDeleted), []);
    assert!(!bench.state.is_gone(), "until the watch says so");
    bench.send(Event::ObjectGone);
    assert!(bench.state.is_gone());
}

#[test]
fn a_crash_loop_backs_off() {
    let mut bench = Bench::new(ONE);
    bench.sandbox();
    bench.started(0, 0);
    let actions = bench.exited(0, 0, 1);
    assert_eq!(
        actions,
        [Action::StartContainer { index: 0, attempt: 1 }],
        "the first restart is immediate"
    );
    bench.started(0, 1);
    assert_eq!(bench.state.containers[0].restart_count, 1);
    let actions = bench.exited(0, 1, 1);
    assert_eq!((deeds(&actions), reports(&actions)), (vec![], vec!["BackOff"]));
    let Life::Waiting { reason, message, .. } = &bench.state.containers[0].life else {
        panic!("not waiting")
    };
    assert_eq!(reason, "CrashLoopBackOff");
    assert_eq!(
        message.as_deref(),
        Some("back-off 10s restarting failed container=app pod=p_ns(u)")
    );
    assert_eq!(bench.state.containers[0].last.as_ref().unwrap().id, "0-1");
    assert_eq!(next_wakeup(&bench.state, bench.now), Some(Duration::from_secs(10)));
    assert_eq!(bench.wait(9), []);
    assert_eq!(bench.wait(1), [Action::StartContainer { index: 0, attempt: 2 }]);
    assert_eq!(bench.state.phase, Phase::Running);
}

#[test]
fn restart_policies() {
    let table = [
        ("Never", 0, Phase::Succeeded, false),
        ("Never", 1, Phase::Failed, false),
        ("OnFailure", 0, Phase::Succeeded, false),
        ("OnFailure", 1, Phase::Running, true),
        ("Always", 0, Phase::Running, true),
        ("Always", 1, Phase::Running, true),
    ];
    for (policy, code, phase, again) in table {
        let mut bench = Bench::new(&format!(
            r#"{{"restartPolicy":"{policy}","containers":[{{"name":"app"}}]}}"#
        ));
        bench.sandbox();
        bench.started(0, 0);
        let actions = deeds(&bench.exited(0, 0, code));
        assert_eq!(bench.state.phase, phase, "{policy} {code}");
        let expected = if again {
            Action::StartContainer { index: 0, attempt: 1 }
        } else {
            Action::TeardownSandbox
        };
        assert_eq!(actions, [expected], "{policy} {code}");
        if !again {
            assert_eq!(bench.send(Event::TornDown), [], "a terminal Pod stays until it is deleted");
            let actions = bench.send(Event::Deleted { grace: Duration::from_secs(30) });
            assert_eq!(deeds(&actions), [Action::Clean]);
            assert_eq!(bench.state.phase, phase);
        }
    }
}

#[test]
fn init_containers_run_in_order_and_sidecars_stay() {
    let mut bench = Bench::new(
        r#"{"initContainers":[{"name":"a"},{"name":"side","restartPolicy":"Always"},{"name":"b"}],
            "containers":[{"name":"x"},{"name":"y"}],"restartPolicy":"Never"}"#,
    );
    bench.sandbox();
    let start = |index, attempt| Action::StartContainer { index, attempt };
    assert_eq!(deeds(&bench.log)[1..], [start(0, 0)]);
    bench.started(0, 0);
    assert_eq!(bench.exited(0, 0, 0), [start(1, 0)]);
    assert_eq!(deeds(&bench.started(1, 0)), [start(2, 0)], "a sidecar only has to start");
    bench.started(2, 0);
    assert_eq!(bench.state.phase, Phase::Pending);
    assert_eq!(bench.exited(2, 0, 0), [start(3, 0), start(4, 0)]);
    bench.started(3, 0);
    bench.started(4, 0);
    assert_eq!(bench.state.phase, Phase::Running);
    assert_eq!(deeds(&bench.exited(1, 0, 1)), [start(1, 1)], "whatever the Pod's restart policy");
    bench.started(1, 1);
    bench.exited(3, 0, 0);
    let actions = bench.exited(4, 0, 0);
    assert_eq!(deeds(&actions), [Action::Terminate { index: 1 }], "sidecars stop after the others");
    assert_eq!(bench.state.phase, Phase::Running);
    assert_eq!(bench.exited(1, 1, 143), [Action::TeardownSandbox]);
    assert_eq!(bench.state.phase, Phase::Succeeded);
}

#[test]
fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    let mut bench = Bench::new(
        r#"{"restartPolicy":"Never","initContainers":[{"name":"a"}],"containers":[{"name":"x"}]}"#,
    );
    bench.sandbox();
    bench.started(0, 0);
    assert_eq!(bench.exited(0, 0, 3), [Action::TeardownSandbox]);
    assert_eq!(bench.state.phase, Phase::Failed);
}

#[test]
fn probes_gate_readiness_and_restart() {
    let mut bench = Bench::new(
        r#"{"containers":[{"name":"app","startupProbe":{"periodSeconds":1,"failureThreshold":2,"tcpSocket":{"port":1}},
            "readinessProbe":{"periodSeconds":1,"failureThreshold":1,"tcpSocket":{"port":1}},
            "livenessProbe":{"periodSeconds":1,"failureThreshold":2,"tcpSocket":{"port":1},
              "terminationGracePeriodSeconds":7}}]}"#,
    );
    bench.sandbox();
    let probe = |kind| Action::Probe { index: 0, attempt: 0, kind };
    assert_eq!(deeds(&bench.started(0, 0)), [probe(ProbeKind::Startup)], "the others wait for it");
    assert!(!bench.state.containers[0].started());
    let actions = bench.probed(ProbeKind::Startup, true);
    assert_eq!(deeds(&actions), [probe(ProbeKind::Readiness), probe(ProbeKind::Liveness)]);
    assert!(bench.state.containers[0].started() && !bench.state.containers[0].ready());
    bench.probed(ProbeKind::Readiness, true);
    assert!(bench.state.containers[0].ready());
    bench.probed(ProbeKind::Liveness, true);
    assert_eq!(deeds(&bench.wait(1)), [probe(ProbeKind::Readiness), probe(ProbeKind::Liveness)]);
    assert_eq!(reports(&bench.probed(ProbeKind::Readiness, false)), ["Unhealthy"]);
    assert!(!bench.state.containers[0].ready(), "taken out at once");
    assert_eq!(reports(&bench.probed(ProbeKind::Liveness, false)), ["Unhealthy"]);
    bench.wait(1);
    let actions = bench.probed(ProbeKind::Liveness, false);
    assert_eq!(reports(&actions), ["Unhealthy", "Killing"]);
    assert_eq!(deeds(&actions), [Action::Terminate { index: 0 }]);
    assert_eq!(deeds(&bench.wait(6)), []);
    assert_eq!(deeds(&bench.wait(1)), [Action::Kill { index: 0 }], "the probe's own grace period");
    let actions = bench.exited(0, 0, 137);
    assert_eq!(deeds(&actions), [Action::StartContainer { index: 0, attempt: 1 }]);
}

#[test]
fn an_exit_that_overtakes_the_start_is_not_lost() {
    let mut bench = Bench::new(r#"{"restartPolicy":"Never","containers":[{"name":"app"}]}"#);
    bench.sandbox();
    assert_eq!(bench.exited(0, 0, 0), [], "the start is still under way");
    let actions = bench.started(0, 0);
    assert_eq!(deeds(&actions), [Action::TeardownSandbox]);
    assert_eq!(bench.state.phase, Phase::Succeeded);
}

#[test]
fn a_missing_image_backs_off_and_recovers() {
    let mut bench = Bench::new(r#"{"containers":[{"name":"app","image":"x"}]}"#);
    bench.sandbox();
    let failure =
        StartFailure::NotMade { reason: "ErrImagePull".into(), message: "no such image".into() };
    bench.send(Event::StartFailed { index: 0, attempt: 0, failure });
    let reason = |bench: &Bench| match &bench.state.containers[0].life {
        Life::Waiting { reason, .. } => reason.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(&bench), "ErrImagePull");
    assert_eq!(reports(&bench.wait(1)), ["BackOff", "Failed"]);
    assert_eq!(reason(&bench), "ImagePullBackOff");
    assert_eq!(
        bench.wait(9),
        [Action::StartContainer { index: 0, attempt: 0 }],
        "no attempt was used up"
    );
}

#[test]
fn a_pull_backs_off_to_five_minutes_while_the_store_is_looked_into() {
    let mut bench = Bench::new(r#"{"containers":[{"name":"app","image":"x"}]}"#);
    bench.sandbox();
    let fail = |bench: &mut Bench, reason: &str| {
        let failure = StartFailure::NotMade { reason: reason.into(), message: "m".into() };
        reports(&bench.send(Event::StartFailed { index: 0, attempt: 0, failure }))
    };
    let may_pull = |bench: &Bench| bench.state.containers[0].may_pull(bench.now);
    assert_eq!(fail(&mut bench, "ErrImagePull"), ["Failed"]);
    assert!(!may_pull(&bench));
    for delay in [10, 20, 40, 80, 160, 300, 300_u64] {
        let mut waited = 0;
        loop {
            let started = (1..=20).find(|_| {
                waited += 1;
                !deeds(&bench.wait(1)).is_empty()
            });
            assert!(started.is_some(), "the store is looked into at least every 20 s");
            if may_pull(&bench) {
                break;
            }
            // What was said stays to be seen, and is not said again.
            let waited = bench.state.containers[0].waited.clone().unwrap();
            assert_eq!(waited.0, "ImagePullBackOff");
            assert!(waited.1.unwrap().ends_with("ErrImagePull: m"));
            assert!(fail(&mut bench, "ImagePullBackOff").is_empty());
        }
        assert_eq!(waited, delay);
        assert_eq!(fail(&mut bench, "ErrImagePull"), ["Failed"]);
    }
    bench.wait(300);
    bench.started(0, 0);
    let container = &bench.state.containers[0];
    assert_eq!((&container.pull_after, &container.waited), (&None, &None));
}

#[test]
fn a_pod_that_is_deleted_while_pulling_says_nothing_of_the_pull() {
    let mut bench = Bench::new(r#"{"containers":[{"name":"app","image":"x"}]}"#);
    bench.sandbox();
    assert!(bench.send(Event::Deleted { grace: Duration::from_secs(30) }).is_empty());
    let failure = StartFailure::NotMade { reason: "ErrImagePull".into(), message: "m".into() };
    let actions = bench.send(Event::StartFailed { index: 0, attempt: 0, failure });
    assert_eq!(actions, [Action::TeardownSandbox]);
}

#[test]
fn a_lost_supervisor_means_a_new_sandbox_and_a_restart() {
    let mut bench = Bench::new(ONE);
    bench.sandbox();
    bench.started(0, 0);
    let actions = bench.send(Event::SupervisorLost);
    assert_eq!(deeds(&actions), [Action::TeardownSandbox]);
    assert_eq!(bench.send(Event::TornDown), [Action::SetupSandbox]);
    let actions = bench.send(Event::SandboxReady { address: None });
    assert_eq!(actions, [Action::StartContainer { index: 0, attempt: 1 }]);
    bench.started(0, 1);
    let container = &bench.state.containers[0];
    assert_eq!((container.restart_count, container.last.as_ref().unwrap().exit_code), (1, 137));
}

#[test]
fn deletion_while_a_start_is_under_way_stops_what_comes_of_it() {
    let mut bench = Bench::new(ONE);
    bench.sandbox();
    assert_eq!(bench.send(Event::Deleted { grace: Duration::from_secs(5) }), []);
    assert_eq!(deeds(&bench.started(0, 0)), [Action::Terminate { index: 0 }]);
    assert_eq!(bench.exited(0, 0, 0), [Action::TeardownSandbox]);
}

#[test]
fn deletion_before_anything_was_made() {
    let mut bench = Bench::new(ONE);
    bench.send(Event::Deleted { grace: Duration::from_secs(5) });
    assert_eq!(bench.send(Event::SandboxReady { address: None }), [Action::TeardownSandbox]);
    assert_eq!(bench.send(Event::TornDown), [Action::Clean]);
}

#[test]
fn a_shorter_grace_period_counts_and_a_longer_one_does_not() {
    let mut bench = Bench::new(ONE);
    bench.sandbox();
    bench.started(0, 0);
    bench.send(Event::Deleted { grace: Duration::from_secs(30) });
    bench.send(Event::Deleted { grace: Duration::from_secs(60) });
    assert_eq!(bench.send(Event::Deleted { grace: Duration::ZERO }), [Action::Kill { index: 0 }]);
}

#[test]
fn the_pre_stop_hook_comes_first_and_has_the_same_deadline() {
    let mut bench = Bench::new(
        r#"{"containers":[{"name":"app","lifecycle":{"preStop":{"exec":{"command":["x"]}}}}]}"#,
    );
    bench.sandbox();
    bench.started(0, 0);
    let grace = Duration::from_secs(10);
    let actions = bench.send(Event::Deleted { grace });
    assert_eq!(deeds(&actions), [Action::PreStop { index: 0, attempt: 0, limit: grace }]);
    bench.wait(9);
    let done = Event::PreStopDone { index: 0, attempt: 0, error: None };
    assert_eq!(bench.send(done), [Action::Terminate { index: 0 }]);
    assert_eq!(bench.wait(1), [], "two seconds after a hook that took long");
    assert_eq!(bench.wait(1), [Action::Kill { index: 0 }]);
}

#[test]
fn the_active_deadline_fails_the_pod() {
    let mut bench = Bench::new(r#"{"activeDeadlineSeconds":5,"containers":[{"name":"app"}]}"#);
    bench.sandbox();
    bench.started(0, 0);
    let actions = bench.wait(5);
    assert_eq!(reports(&actions), ["DeadlineExceeded", "Killing"]);
    bench.exited(0, 0, 0);
    assert_eq!(
        (bench.state.phase, bench.state.reason.as_deref()),
        (Phase::Failed, Some("DeadlineExceeded"))
    );
}

#[test]
fn a_source_that_appears_is_not_waited_for() {
    let mut bench = Bench::new(ONE);
    bench.send(Event::SandboxFailed { reason: "FailedMount", message: "no".into() });
    assert_eq!(bench.send(Event::SourcesChanged), [Action::SetupSandbox]);
    assert_eq!(bench.send(Event::SourcesChanged), [], "it is under way");
}

#[test]
fn what_fails_is_tried_again() {
    let mut bench = Bench::new(ONE);
    let failed = Event::SandboxFailed { reason: "FailedMount", message: "no".into() };
    assert_eq!(reports(&bench.send(failed)), ["FailedMount"]);
    assert_eq!(bench.wait(9), []);
    assert_eq!(bench.wait(1), [Action::SetupSandbox]);
    bench.sandbox();
    bench.started(0, 0);
    bench.send(Event::Deleted { grace: Duration::from_secs(1) });
    bench.exited(0, 0, 0);
    bench.send(Event::TeardownFailed { message: "busy".into() });
    let at = next_wakeup(&bench.state, bench.now).expect("a retry") - bench.now.mono;
    assert_eq!(bench.wait(at.as_secs()), [Action::TeardownSandbox]);
    bench.send(Event::TornDown);
    bench.send(Event::CleanFailed { message: "busy".into() });
    let at = next_wakeup(&bench.state, bench.now).expect("a retry") - bench.now.mono;
    assert_eq!(bench.wait(at.as_secs()), [Action::Clean]);
}

#[test]
fn a_refused_pod_starts_nothing() {
    for (policy, phase) in [("Always", Phase::Pending), ("Never", Phase::Failed)] {
        let spec = format!(r#"{{"restartPolicy":"{policy}","containers":[{{"name":"app"}}]}}"#);
        let mut state = PodState::new(plan(&spec), MachineOptions::default(), at(0));
        state.refuse("no");
        assert_eq!(step(&mut state, Event::Tick, at(0)), [], "{policy}");
        assert_eq!(state.phase, phase, "{policy}");
        let actions = step(&mut state, Event::Deleted { grace: Duration::ZERO }, at(1));
        assert_eq!(actions, [Action::Clean], "{policy}");
    }
}
