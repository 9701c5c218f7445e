//! Properties of the Pod state machine: whatever happens in whatever order, against a model of the world.

use std::time::Duration;

use proptest::prelude::*;

use super::super::apply::killed;
use super::super::clock::at;
use super::super::decide::next_wakeup;
use super::tests::{Bench, ONE, deeds};
use super::*;

/// A world that does what it is told, in any order and with any result.
#[derive(Debug, Clone)]
enum Move {
    /// Answer one of the actions that are under way.
    Answer {
        which: prop::sample::Index,
        good: bool,
    },
    Exit {
        which: prop::sample::Index,
        code: i32,
    },
    Wait(u64),
    Delete(u64),
    ObjectGone,
    SupervisorDies,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let any_move = prop_oneof![
        6 => (any::<prop::sample::Index>(), prop::bool::weighted(0.8))
            .prop_map(|(which, good)| Move::Answer { which, good }),
        3 => (any::<prop::sample::Index>(), 0..2i32).prop_map(|(which, code)| Move::Exit { which, code }),
        2 => (0..40u64).prop_map(Move::Wait),
        1 => (0..40u64).prop_map(Move::Delete),
        1 => Just(Move::ObjectGone),
        1 => Just(Move::SupervisorDies),
    ];
    prop::collection::vec(any_move, 0..80)
}

/// What is really there, as opposed to what the machine believes.
struct World {
    bench: Bench,
    pending: Vec<Action>,
    /// Containers that live: index, attempt.
    running: Vec<(usize, u32)>,
    highest: Vec<Option<u32>>,
    phase: Phase,
}

impl World {
    fn new(spec: &str) -> Self {
        let bench = Bench::new(spec);
        let count = bench.state.containers.len();
        let pending = deeds(&bench.log);
        Self {
            bench,
            pending,
            running: Vec::new(),
            highest: vec![None; count],
            phase: Phase::Pending,
        }
    }

    fn send(&mut self, event: Event) {
        let actions = self.bench.send(event);
        for action in deeds(&actions) {
            match action {
                Action::StartContainer { index, attempt } => self.check_start(index, attempt),
                Action::SetupSandbox | Action::TeardownSandbox => {
                    assert!(!self.pending.contains(&action), "{action:?} is under way already");
                    assert!(
                        self.running.is_empty(),
                        "{action:?} with live containers {:?}",
                        self.running
                    );
                }
                Action::Clean | Action::DeleteObject => {
                    assert!(!self.pending.contains(&action), "{action:?} is under way already");
                    assert!(
                        self.bench.state.is_deleted(),
                        "{action:?} of a Pod that is not deleted"
                    );
                    assert!(matches!(self.bench.state.sandbox, Sandbox::Absent { .. }));
                }
                _ => {}
            }
            self.pending.push(action);
        }
        let phase = self.bench.state.phase;
        assert!(phase >= self.phase, "{:?} → {phase:?}", self.phase);
        assert!(!self.phase.is_terminal() || phase == self.phase, "{:?} → {phase:?}", self.phase);
        self.phase = phase;
    }

    fn check_start(&mut self, index: usize, attempt: u32) {
        assert!(self.running.iter().all(|(running, _)| *running != index), "{index} runs already");
        let starting = |action: &Action| matches!(action, Action::StartContainer { index: other, .. } if *other == index);
        assert!(!self.pending.iter().any(starting), "{index} is being started already");
        assert!(
            self.highest[index].is_none_or(|before| before < attempt),
            "attempt {attempt} of {index} again"
        );
        assert!(self.bench.state.stop.is_none(), "a start in a Pod that stops");
        assert!(
            matches!(self.bench.state.sandbox, Sandbox::Ready { .. }),
            "a start without a sandbox"
        );
    }

    fn answer(&mut self, action: Action, good: bool) {
        match action {
            Action::SetupSandbox if good => self.send(Event::SandboxReady { address: None }),
            Action::SetupSandbox => {
                self.send(Event::SandboxFailed { reason: "FailedMount", message: String::new() });
            }
            Action::TeardownSandbox if good => self.send(Event::TornDown),
            Action::TeardownSandbox => self.send(Event::TeardownFailed { message: String::new() }),
            Action::StartContainer { index, attempt } => self.answer_start(index, attempt, good),
            Action::PreStop { index, attempt, .. } => {
                self.send(Event::PreStopDone { index, attempt, error: None });
            }
            Action::Terminate { .. } if !good => {}
            Action::Terminate { index } | Action::Kill { index } => {
                if let Some(at) = self.running.iter().position(|(running, _)| *running == index) {
                    self.exit(at, 137);
                }
            }
            Action::Probe { index, attempt, kind } => {
                let outcome = if good { Outcome::Success } else { Outcome::Failure(String::new()) };
                self.send(Event::Probed { index, attempt, kind, outcome });
            }
            Action::Clean if good => self.send(Event::Cleaned),
            Action::Clean => self.send(Event::CleanFailed { message: String::new() }),
            Action::DeleteObject if good => {
                self.send(Event::ObjectDeleted);
                self.send(Event::ObjectGone);
            }
            Action::DeleteObject => self.send(Event::DeleteFailed),
            Action::Report(_) => {}
        }
    }

    fn answer_start(&mut self, index: usize, attempt: u32, good: bool) {
        // Nothing starts where no supervisor is.
        if good && matches!(self.bench.state.sandbox, Sandbox::Ready { .. }) {
            self.highest[index] = Some(attempt);
            self.running.push((index, attempt));
            let started_at = self.bench.now.wall;
            self.send(Event::Started {
                index,
                attempt,
                id: format!("{index}-{attempt}"),
                started_at,
            });
        } else {
            let failure = StartFailure::NotMade {
                reason: "CreateContainerError".into(),
                message: String::new(),
            };
            self.send(Event::StartFailed { index, attempt, failure });
        }
    }

    fn exit(&mut self, at: usize, code: i32) {
        let (index, attempt) = self.running.remove(at);
        let mut termination = killed("i", None, self.bench.now.wall);
        termination.exit_code = code;
        self.send(Event::Exited { index, attempt, termination });
    }

    fn make(&mut self, one: Move) {
        match one {
            Move::Answer { which, good } if !self.pending.is_empty() => {
                let action = self.pending.remove(which.index(self.pending.len()));
                self.answer(action, good);
            }
            Move::Exit { which, code } if !self.running.is_empty() => {
                self.exit(which.index(self.running.len()), code);
            }
            Move::Wait(seconds) => self.wait(seconds),
            Move::Delete(grace) => self.send(Event::Deleted { grace: Duration::from_secs(grace) }),
            Move::ObjectGone => self.send(Event::ObjectGone),
            Move::SupervisorDies if matches!(self.bench.state.sandbox, Sandbox::Ready { .. }) => {
                self.running.clear();
                self.send(Event::SupervisorLost);
            }
            _ => {}
        }
    }

    fn wait(&mut self, seconds: u64) {
        self.bench.now = at(self.bench.now.mono.as_secs() + seconds);
        self.send(Event::Tick);
    }

    /// Deletes the Pod and lets everything succeed; false if it does not come to an end.
    fn finish(mut self) -> bool {
        self.send(Event::Deleted { grace: Duration::from_secs(1) });
        for _ in 0..1000 {
            if self.bench.state.is_gone() {
                return self.running.is_empty();
            }
            if self.pending.is_empty() {
                match next_wakeup(&self.bench.state, self.bench.now) {
                    Some(at) => self.wait((at.saturating_sub(self.bench.now.mono)).as_secs() + 1),
                    None => self.send(Event::ObjectGone),
                }
            } else {
                let action = self.pending.remove(0);
                self.answer(action, true);
            }
        }
        false
    }
}

const SHAPES: [&str; 4] = [
    ONE,
    r#"{"restartPolicy":"OnFailure","activeDeadlineSeconds":60,"containers":[{"name":"a"},{"name":"b"}]}"#,
    r#"{"restartPolicy":"Never","initContainers":[{"name":"i"},{"name":"s","restartPolicy":"Always"}],
        "containers":[{"name":"a","lifecycle":{"preStop":{"exec":{}}}}]}"#,
    r#"{"initContainers":[{"name":"i"}],"containers":[{"name":"a",
        "livenessProbe":{"periodSeconds":1,"failureThreshold":1,"exec":{}},
        "startupProbe":{"periodSeconds":1,"failureThreshold":2,"exec":{}}}]}"#,
];

proptest! {
    /// Whatever happens in whatever order: no phase is rewound, nothing is started twice or in a dead sandbox, and a deleted Pod
    /// always comes to a clean end.
    #[test]
    fn any_order_of_events_is_survived(shape in 0..SHAPES.len(), moves in moves()) {
        let mut world = World::new(SHAPES[shape]);
        for one in moves {
            world.make(one);
        }
        prop_assert!(world.finish());
    }
}
