//! When a probe is due, and when a row of outcomes becomes a verdict. Pure.
//!
//! ```text
//! (begin) --initialDelay--> due --fire--> in flight --observe--> waiting periodSeconds --> due …
//! ```
//! `failureThreshold` failures in a row make the verdict false, `successThreshold` successes make it true;
//! an error of the probe itself counts for neither.
//!
//! A program needs a moment before it listens, and a whole period is long to wait for the next look. So a probe
//! without initial delay that decides when a container may begin (startup, readiness) is repeated
//! eagerly after 20, 40, 80 … ms while it fails, for the first second or the first period. Those failures are
//! no outcomes: they are not counted and nobody is told.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;

use super::Outcome;

/// A probe's numbers, with upstream's defaults filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbePlan {
    pub initial_delay: Duration,
    pub period: Duration,
    pub timeout: Duration,
    pub success_threshold: u32,
    pub failure_threshold: u32,
    /// Overrides the Pod's grace period when this probe kills the container.
    pub grace: Option<Duration>,
}

impl ProbePlan {
    pub fn of(probe: &Probe) -> Self {
        let positive = |value: Option<i32>, default: u32| match value {
            Some(value) if value > 0 => value as u32,
            _ => default,
        };
        Self {
            initial_delay: Duration::from_secs(positive(probe.initial_delay_seconds, 0).into()),
            period: Duration::from_secs(positive(probe.period_seconds, 10).into()),
            timeout: Duration::from_secs(positive(probe.timeout_seconds, 1).into()),
            success_threshold: positive(probe.success_threshold, 1),
            failure_threshold: positive(probe.failure_threshold, 3),
            grace: probe
                .termination_grace_period_seconds
                .map(|seconds| Duration::from_secs(seconds.max(0) as u64)),
        }
    }
}

const EAGER_FIRST: Duration = Duration::from_millis(20);
const EAGER_FOR: Duration = Duration::from_secs(1);

/// What an outcome meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// An eager try that came too early: as if it had not been.
    TooEarly,
    /// It counts, and no threshold has been reached by it.
    Counted,
    /// A threshold has just been reached (again).
    Verdict(bool),
}

/// One probe of one running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeState {
    pub plan: ProbePlan,
    due: Duration,
    in_flight: bool,
    verdict: Option<bool>,
    last: Option<bool>,
    row: u32,
    /// Pause before the next eager try; None when they are over.
    eager: Option<Duration>,
    /// When the container started.
    started: Duration,
}

impl ProbeState {
    /// A container started at `started` (monotonic).
    pub fn begin(plan: ProbePlan, started: Duration) -> Self {
        Self {
            plan,
            due: started + plan.initial_delay,
            in_flight: false,
            verdict: None,
            last: None,
            row: 0,
            eager: None,
            started,
        }
    }

    /// As [`ProbeState::begin`], with eager tries if there is no initial delay.
    pub fn begin_eagerly(plan: ProbePlan, started: Duration) -> Self {
        let eager = plan.initial_delay.is_zero().then_some(EAGER_FIRST);
        Self { eager, ..Self::begin(plan, started) }
    }

    /// As [`ProbeState::begin`], with a verdict known from before (the agent was restarted).
    pub fn resume(plan: ProbePlan, now: Duration, verdict: Option<bool>) -> Self {
        Self { verdict, ..Self::begin(ProbePlan { initial_delay: Duration::ZERO, ..plan }, now) }
    }

    /// None until a threshold has been reached for the first time.
    pub fn verdict(&self) -> Option<bool> {
        self.verdict
    }

    /// When it is next due; None while one is under way.
    pub fn due(&self) -> Option<Duration> {
        (!self.in_flight).then_some(self.due)
    }

    /// Marks the probe as under way if it is due.
    pub fn fire(&mut self, now: Duration) -> bool {
        let fire = !self.in_flight && self.due <= now;
        self.in_flight |= fire;
        fire
    }

    /// Not before `now` plus one period: for a probe that is switched off meanwhile.
    pub fn postpone(&mut self, now: Duration) {
        self.due = now + self.plan.period;
    }

    /// Takes an outcome.
    pub fn observe(&mut self, outcome: &Outcome, now: Duration) -> Reading {
        self.in_flight = false;
        let eager = self.eager.take();
        if *outcome != Outcome::Success
            && let Some(pause) = eager
        {
            let next = now + pause;
            if next < self.started + EAGER_FOR.min(self.plan.period) {
                self.eager = Some(pause * 2);
                self.due = next;
                return Reading::TooEarly;
            }
            self.due = self.started;
        }
        // Periods are counted from when the probe was due, unless it was so slow that this is past.
        self.due = (self.due + self.plan.period).max(now);
        let good = match outcome {
            Outcome::Success => true,
            Outcome::Failure(_) => false,
            Outcome::Error(_) => return Reading::Counted,
        };
        self.row = if self.last == Some(good) { self.row.saturating_add(1) } else { 1 };
        self.last = Some(good);
        let needed = if good { self.plan.success_threshold } else { self.plan.failure_threshold };
        if self.row < needed {
            return Reading::Counted;
        }
        self.verdict = Some(good);
        Reading::Verdict(good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(success: u32, failure: u32) -> ProbePlan {
        ProbePlan {
            initial_delay: Duration::from_secs(5),
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            success_threshold: success,
            failure_threshold: failure,
            grace: None,
        }
    }

    fn verdicts(plan: ProbePlan, outcomes: &str) -> String {
        let mut state = ProbeState::begin(plan, Duration::ZERO);
        let mut now = Duration::from_secs(5);
        let mut out = String::new();
        for letter in outcomes.chars() {
            assert!(state.fire(now));
            let outcome = match letter {
                's' => Outcome::Success,
                'f' => Outcome::Failure("no".into()),
                _ => Outcome::Error("cannot".into()),
            };
            state.observe(&outcome, now);
            out.push(match state.verdict() {
                None => '?',
                Some(true) => 'S',
                Some(false) => 'F',
            });
            now += plan.period;
        }
        out
    }

    #[test]
    fn verdicts_follow_thresholds() {
        assert_eq!(verdicts(plan(1, 3), "ffsfffs"), "??SSSFS");
        assert_eq!(verdicts(plan(2, 1), "sssfss"), "?SSFFS");
    }

    #[test]
    fn an_error_of_the_probe_neither_counts_nor_breaks_a_row() {
        assert_eq!(verdicts(plan(1, 2), "sfef"), "SSSF");
    }

    #[test]
    fn due_after_the_initial_delay_then_every_period_and_never_twice_at_once() {
        let mut state = ProbeState::begin(plan(1, 3), Duration::from_secs(100));
        assert_eq!(state.due(), Some(Duration::from_secs(105)));
        assert!(!state.fire(Duration::from_secs(104)));
        assert!(state.fire(Duration::from_secs(105)));
        assert!(!state.fire(Duration::from_secs(200)), "one is under way");
        state.observe(&Outcome::Success, Duration::from_secs(106));
        assert_eq!(state.due(), Some(Duration::from_secs(115)));
    }

    #[test]
    fn a_slow_probe_does_not_pile_up() {
        let mut state = ProbeState::begin(plan(1, 3), Duration::ZERO);
        assert!(state.fire(Duration::from_secs(5)));
        state.observe(&Outcome::Success, Duration::from_secs(95));
        assert_eq!(state.due(), Some(Duration::from_secs(95)));
    }

    #[test]
    fn eager_failures_are_repeated_soon_and_do_not_count() {
        let eager = ProbePlan { initial_delay: Duration::ZERO, ..plan(1, 1) };
        let mut state = ProbeState::begin_eagerly(eager, Duration::ZERO);
        let failure = Outcome::Failure("not yet".into());
        let mut now = Duration::ZERO;
        let mut tries = Vec::new();
        while tries.len() < 5 {
            assert!(state.fire(now));
            assert_eq!(state.observe(&failure, now), Reading::TooEarly);
            now = state.due().unwrap();
            tries.push(now.as_millis());
        }
        assert_eq!(tries, [20, 60, 140, 300, 620]);
        assert!(state.fire(now));
        assert_eq!(state.observe(&failure, now), Reading::Verdict(false), "now it counts");
        assert_eq!(state.due(), Some(Duration::from_secs(10)), "and periods go on from the start");
        let mut state = ProbeState::begin_eagerly(eager, Duration::ZERO);
        state.fire(Duration::ZERO);
        state.observe(&failure, Duration::ZERO);
        state.fire(Duration::from_millis(20));
        assert_eq!(
            state.observe(&Outcome::Success, Duration::from_millis(20)),
            Reading::Verdict(true)
        );
    }

    #[test]
    fn an_initial_delay_is_kept() {
        let mut state = ProbeState::begin_eagerly(plan(1, 1), Duration::ZERO);
        assert_eq!(state.due(), Some(Duration::from_secs(5)));
        state.fire(Duration::from_secs(5));
        let failure = Outcome::Failure("no".into());
        assert_eq!(state.observe(&failure, Duration::from_secs(5)), Reading::Verdict(false));
    }

    #[test]
    fn defaults_are_upstreams() {
        let plan = ProbePlan::of(&Probe::default());
        assert_eq!((plan.period.as_secs(), plan.timeout.as_secs()), (10, 1));
        assert_eq!((plan.success_threshold, plan.failure_threshold), (1, 3));
    }
}
