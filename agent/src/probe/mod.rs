//! Probes: when one is due and what its outcomes mean (pure, [`schedule`]), and how one is carried out ([`run`]).
//!
//! A Pod's worker is the scheduler: the state machine says which probe is due, the worker runs it as a task
//! (never a thread) and feeds the outcome back.

pub mod run;
pub mod schedule;

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

impl ProbeKind {
    pub const ALL: [ProbeKind; 3] = [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness];

    /// The word that begins an event's message, as upstream has it.
    pub fn title(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Readiness => "Readiness",
            ProbeKind::Liveness => "Liveness",
        }
    }
}

/// What one try said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Failure(String),
    /// The probe itself could not be carried out; says nothing about the container.
    Error(String),
}
