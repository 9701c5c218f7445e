//! The supervisor's decisions, as transcripts.

use super::*;
use crate::wire::Rootfs;
use proptest::prelude::*;

fn request(container: &str, attempt: u32) -> Box<CreateRequest> {
    Box::new(CreateRequest {
        container: container.into(),
        id: format!("{attempt:064}"),
        attempt,
        bundle: "/b".into(),
        rootfs: Rootfs::Bundle,
        log: None,
    })
}

fn ask(core: &mut Core, peer: Peer, request: Request) -> Vec<Action> {
    core.step(Input::Request { peer, request }, 5)
}

fn replies(actions: &[Action]) -> Vec<&Response> {
    let replies = actions.iter().filter_map(|action| match action {
        Action::Reply { response, .. } => Some(response),
        _ => None,
    });
    replies.collect()
}

fn kind(actions: &[Action]) -> Option<ErrorKind> {
    match replies(actions)[..] {
        [Response::Error { kind, .. }] => Some(*kind),
        _ => None,
    }
}

fn record(core: &Core, name: &str) -> ContainerRecord {
    core.records().find(|record| record.container == name).unwrap().clone()
}

/// A core whose container `app` runs as pid 42.
fn running() -> Core {
    let mut core = Core::new(1);
    ask(&mut core, 1, Request::Create(request("app", 0)));
    core.step(Input::Launched { container: "app".into(), pid: 42 }, 6);
    core.step(Input::Ready { container: "app".into() }, 7);
    ask(&mut core, 1, Request::Start { container: "app".into() });
    core.step(Input::Executed { container: "app".into() }, 8);
    core
}

fn exit(core: &mut Core, name: &str, end: End) -> Vec<Action> {
    core.step(Input::Exited { container: name.into(), end, oom_killed: false }, 9)
}

#[test]
fn a_life() {
    let mut core = Core::new(1);
    let actions = ask(&mut core, 1, Request::Create(request("app", 0)));
    assert_eq!(actions, [Action::Make(request("app", 0))]);
    assert_eq!(core.step(Input::Launched { container: "app".into(), pid: 42 }, 6), []);
    let actions = core.step(Input::Ready { container: "app".into() }, 7);
    // The record is written before anybody hears of it.
    assert!(matches!(actions[..], [Action::Persist(_), Action::Publish(_), Action::Reply { .. }]));
    assert_eq!(replies(&actions), [&Response::Created { pid: 42 }]);
    let actions = ask(&mut core, 1, Request::Start { container: "app".into() });
    assert_eq!(actions, [Action::Release { container: "app".into() }]);
    let actions = core.step(Input::Executed { container: "app".into() }, 8);
    assert_eq!(replies(&actions), [&Response::Started { started_at: 8 }]);
    exit(&mut core, "app", End::Signal(9));
    let record = record(&core, "app");
    assert_eq!(record.phase, ContainerPhase::Exited);
    assert_eq!((record.exit_code, record.signal), (Some(137), Some(9)));
    assert_eq!((record.created_at, record.started_at, record.finished_at), (5, Some(8), Some(9)));
}

#[test]
fn a_program_that_cannot_run_leaves_a_record() {
    let mut core = Core::new(1);
    ask(&mut core, 1, Request::Create(request("app", 0)));
    core.step(Input::Ready { container: "app".into() }, 7);
    ask(&mut core, 1, Request::Start { container: "app".into() });
    let failure = Failure { exit_code: 127, message: "exec \"/x\": gone".into() };
    let actions = core.step(Input::StartFailed { container: "app".into(), failure }, 8);
    assert_eq!(kind(&actions), Some(ErrorKind::CannotRun));
    // The process ends a moment later, with whatever code: it does not count any more.
    assert_eq!(exit(&mut core, "app", End::Code(1)), []);
    let record = record(&core, "app");
    assert_eq!((record.exit_code, record.started_at), (Some(127), None));
    assert_eq!(record.message.as_deref(), Some("exec \"/x\": gone"));
}

#[test]
fn a_failed_creation_brings_the_former_record_back() {
    let mut core = running();
    exit(&mut core, "app", End::Code(3));
    ask(&mut core, 2, Request::Create(request("app", 1)));
    let failed =
        Input::Failed { container: "app".into(), kind: ErrorKind::Invalid, message: "no".into() };
    assert_eq!(kind(&core.step(failed, 10)), Some(ErrorKind::Invalid));
    assert_eq!(record(&core, "app").attempt, 0);
    assert_eq!(record(&core, "app").exit_code, Some(3));
    // And without a former one the name is free.
    ask(&mut core, 2, Request::Create(request("new", 0)));
    exit(&mut core, "new", End::Signal(9));
    assert_eq!(core.records().count(), 1);
}

#[test]
fn requests_in_the_wrong_phase_are_refused() {
    let mut core = running();
    let app = || "app".to_owned();
    let create = ask(&mut core, 2, Request::Create(request("app", 1)));
    assert_eq!(kind(&create), Some(ErrorKind::WrongPhase));
    assert_eq!(
        kind(&ask(&mut core, 2, Request::Start { container: app() })),
        Some(ErrorKind::WrongPhase)
    );
    assert_eq!(
        kind(&ask(&mut core, 2, Request::Remove { container: app() })),
        Some(ErrorKind::WrongPhase)
    );
    exit(&mut core, "app", End::Code(0));
    let kill = ask(&mut core, 2, Request::Kill { container: app(), signal: 15 });
    assert_eq!(kind(&kill), Some(ErrorKind::WrongPhase));
    let kill = ask(&mut core, 2, Request::Kill { container: "other".into(), signal: 15 });
    assert_eq!(kind(&kill), Some(ErrorKind::NotFound));
}

#[test]
fn names_cannot_be_paths() {
    let mut core = Core::new(1);
    for name in ["", "..", "a/b", "_supervisor", "A", "-a", "a-", &"a".repeat(64)] {
        let actions = ask(&mut core, 1, Request::Create(request(name, 0)));
        assert_eq!(kind(&actions), Some(ErrorKind::Invalid), "{name:?}");
    }
}

#[test]
fn a_subscriber_hears_the_present_first() {
    let mut core = running();
    let actions = ask(&mut core, 9, Request::Subscribe);
    assert!(matches!(&actions[..], [
        Action::Reply { peer: 9, response: Response::Ok },
        Action::Subscribe { peer: 9 },
        Action::Tell { peer: 9, event: Event::Container(record) },
    ] if record.phase == ContainerPhase::Running));
}

#[test]
fn shutdown_waits_for_the_last_process() {
    let mut core = running();
    assert_eq!(ask(&mut core, 3, Request::Shutdown), [Action::KillAll]);
    let create = ask(&mut core, 3, Request::Create(request("late", 0)));
    assert_eq!(kind(&create), Some(ErrorKind::WrongPhase));
    let actions = exit(&mut core, "app", End::Signal(9));
    assert!(actions.contains(&Action::Forget { container: "app".into() }));
    assert_eq!(replies(&actions), [&Response::Ok]);
    assert_eq!(actions.last(), Some(&Action::End));
}

#[test]
fn an_empty_supervisor_ends_at_once() {
    let mut core = Core::new(1);
    let actions = core.step(Input::Terminate, 1);
    assert_eq!(actions, [Action::KillAll, Action::RemovePod, Action::End]);
}

fn any_input() -> impl Strategy<Value = Input> {
    let name = prop_oneof![Just("a".to_owned()), Just("b".to_owned())];
    let failure = || Failure { exit_code: 127, message: "m".into() };
    (0..9u8, name).prop_map(move |(which, container)| match which {
        0 => Input::Request { peer: 1, request: Request::Create(request(&container, 0)) },
        1 => Input::Request { peer: 1, request: Request::Start { container } },
        2 => Input::Request { peer: 1, request: Request::Remove { container } },
        3 => Input::Launched { container, pid: 7 },
        4 => Input::Ready { container },
        5 => Input::Failed { container, kind: ErrorKind::Internal, message: "m".into() },
        6 => Input::Executed { container },
        7 => Input::StartFailed { container, failure: failure() },
        _ => Input::Exited { container, end: End::Code(0), oom_killed: false },
    })
}

proptest! {
    /// Whatever happens in whatever order: an exit is told once, every record that is told was
    /// written just before, and each Create or Start gets one answer at most.
    #[test]
    fn no_order_of_events_confuses_it(inputs in prop::collection::vec(any_input(), 0..60)) {
        let mut core = Core::new(1);
        let mut asked = 0i32;
        let mut answered = 0i32;
        for input in inputs {
            asked += i32::from(matches!(input, Input::Request { .. }));
            let actions = core.step(input, 1);
            answered += replies(&actions).len() as i32;
            for pair in actions.windows(2) {
                if let Action::Publish(Event::Container(told)) = &pair[1] {
                    prop_assert_eq!(&pair[0], &Action::Persist(told.clone()));
                }
            }
            for record in core.records() {
                let exited = record.phase == ContainerPhase::Exited;
                prop_assert_eq!(exited, record.exit_code.is_some());
                prop_assert_eq!(exited, record.finished_at.is_some());
            }
            prop_assert!(answered <= asked);
        }
    }
}
