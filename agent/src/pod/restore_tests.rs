//! What a new agent makes of Pods that an earlier one left running.

use super::super::clock::at;
use super::super::state::{Action, Event, step};
use super::*;

fn pod(policy: &str, status: &str) -> Pod {
    let text = format!(
        r#"{{"metadata":{{"name":"p","namespace":"ns","uid":"u"}},
        "spec":{{"restartPolicy":"{policy}","containers":[{{"name":"app","readinessProbe":{{"exec":{{}}}}}}]}},
        "status":{status}}}"#
    );
    serde_json::from_str(&text).expect("a Pod")
}

fn status(state: &str, restarts: u32) -> String {
    format!(
        r#"{{"phase":"Running","podIP":"10.0.0.9","startTime":"2023-11-14T22:00:00Z","containerStatuses":[
        {{"name":"app","image":"x","imageID":"i","ready":true,"started":true,"restartCount":{restarts},
          "containerID":"kobune://abc","state":{state}}}]}}"#
    )
}

const RUNNING: &str = r#"{"running":{"startedAt":"2023-11-14T22:00:01Z"}}"#;

fn record(phase: ContainerPhase, attempt: u32) -> ContainerRecord {
    let seconds = |seconds: i64| (1_700_000_000 + seconds) * 1_000_000_000;
    let over = phase == ContainerPhase::Exited;
    ContainerRecord {
        container: "app".into(),
        id: "abc".into(),
        attempt,
        phase,
        pid: 7,
        created_at: seconds(0),
        started_at: (phase != ContainerPhase::Created).then(|| seconds(1)),
        finished_at: over.then(|| seconds(2)),
        exit_code: over.then_some(3),
        signal: None,
        oom_killed: false,
        message: None,
    }
}

fn found(alive: bool, records: Vec<ContainerRecord>) -> Found {
    Found { alive, address: Some(Ipv4Addr::new(10, 0, 0, 2)), records }
}

fn go(pod: &Pod, found: Option<&Found>) -> (PodState, Vec<Action>) {
    let mut state = restore(pod, MachineOptions::default(), found, at(100));
    let actions = step(&mut state, Event::Tick, at(100));
    let deeds = actions
        .into_iter()
        .filter(|action| !matches!(action, Action::Report(_) | Action::Probe { .. }));
    (state, deeds.collect())
}

#[test]
fn living_containers_go_on_as_they_were() {
    let (state, actions) = go(
        &pod("Always", &status(RUNNING, 2)),
        Some(&found(true, vec![record(ContainerPhase::Running, 2)])),
    );
    assert_eq!(actions, []);
    let container = &state.containers[0];
    assert_eq!(container.restart_count, 2);
    assert!(container.ready(), "the readiness of before counts until a probe says otherwise");
    assert_eq!(container.run().unwrap().started_at.as_second(), 1_700_000_001);
    assert_eq!(state.phase, Phase::Running);
}

#[test]
fn an_exit_while_nobody_looked_is_seen() {
    let found = found(true, vec![record(ContainerPhase::Exited, 2)]);
    let (state, actions) = go(&pod("Always", &status(RUNNING, 2)), Some(&found));
    assert_eq!(actions, [Action::StartContainer { index: 0, attempt: 3 }]);
    assert_eq!(state.containers[0].last.as_ref().unwrap().exit_code, 3);
    let (state, actions) = go(&pod("Never", &status(RUNNING, 2)), Some(&found));
    assert_eq!((state.phase, actions), (Phase::Failed, vec![Action::TeardownSandbox]));
}

#[test]
fn a_container_that_was_made_but_not_started_uses_up_no_attempt() {
    let waiting = r#"{"waiting":{"reason":"ContainerCreating"}}"#;
    let found = found(true, vec![record(ContainerPhase::Created, 0)]);
    let (_, actions) = go(&pod("Always", &status(waiting, 0)), Some(&found));
    assert_eq!(actions, [Action::StartContainer { index: 0, attempt: 0 }]);
}

#[test]
fn a_dead_supervisor_takes_its_containers_with_it() {
    let found = found(false, vec![record(ContainerPhase::Running, 0)]);
    let (mut state, actions) = go(&pod("Always", &status(RUNNING, 0)), Some(&found));
    assert_eq!(actions, [Action::TeardownSandbox]);
    step(&mut state, Event::TornDown, at(101));
    let actions = step(&mut state, Event::SandboxReady { address: None }, at(102));
    assert_eq!(actions, [Action::StartContainer { index: 0, attempt: 1 }]);
    assert_eq!(state.containers[0].last.as_ref().unwrap().exit_code, 137);
}

#[test]
fn after_a_reboot_containers_are_restarted_and_counted() {
    let (mut state, actions) = go(&pod("Always", &status(RUNNING, 4)), None);
    assert_eq!(actions, [Action::SetupSandbox]);
    let actions = step(&mut state, Event::SandboxReady { address: None }, at(101));
    assert_eq!(actions, [Action::StartContainer { index: 0, attempt: 5 }]);
    let last = state.containers[0].last.as_ref().unwrap();
    assert_eq!((last.exit_code, last.reason.as_str()), (255, "Unknown"));
    let (state, actions) = go(&pod("Never", &status(RUNNING, 0)), None);
    assert_eq!((state.phase, actions), (Phase::Failed, vec![]));
}

#[test]
fn a_terminal_pod_stays_terminal() {
    let ended = r#"{"phase":"Succeeded","containerStatuses":[{"name":"app","image":"x","imageID":"i","ready":false,
        "restartCount":0,"state":{"terminated":{"exitCode":0,"finishedAt":"2023-11-14T22:00:01Z"}}}]}"#;
    let (mut state, actions) = go(&pod("Always", ended), None);
    assert_eq!((state.phase, actions), (Phase::Succeeded, vec![]));
    let actions = step(&mut state, Event::Deleted { grace: Duration::ZERO }, at(101));
    assert_eq!((state.phase, actions), (Phase::Succeeded, vec![Action::Clean]));
}

#[test]
fn a_crash_loop_does_not_begin_anew() {
    let waiting = r#"{"waiting":{"reason":"CrashLoopBackOff"}},"lastState":{"terminated":{"exitCode":1,
        "containerID":"kobune://abc","finishedAt":"2023-11-14T22:14:55Z"}}"#;
    let found = found(true, vec![record(ContainerPhase::Exited, 3)]);
    let (mut state, actions) = go(&pod("Always", &status(waiting, 3)), Some(&found));
    assert_eq!(actions, []);
    // It ended at second 95 and waits 40 s: until 135.
    assert_eq!(step(&mut state, Event::Tick, at(134)), []);
    assert_eq!(
        step(&mut state, Event::Tick, at(135)),
        [Action::StartContainer { index: 0, attempt: 4 }]
    );
}

#[test]
fn a_new_pod_is_a_new_pod() {
    let pod = pod("Always", r#"{"phase":"Pending"}"#);
    let state = restore(&pod, MachineOptions::default(), None, at(5));
    assert_eq!(state, PodState::new(PodPlan::of(&pod), MachineOptions::default(), at(5)));
}
