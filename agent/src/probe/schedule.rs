//! When a probe is due, and when a row of outcomes becomes a verdict. Pure.
//!
//! ```text
//! (begin) --initialDelay--> due --fire--> in flight --observe--> waiting periodSeconds --> due …
//! ```
//! `failureThreshold` failures in a row make the verdict false, `successThreshold` successes make it true;
//! an error of the probe itself counts for neither.

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

/// One probe of one running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeState {
    pub plan: ProbePlan,
    due: Duration,
    in_flight: bool,
    verdict: Option<bool>,
    last: Option<bool>,
    row: u32,
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
        }
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

    /// Takes an outcome; returns the verdict if a threshold has just been reached (again).
    pub fn observe(&mut self, outcome: &Outcome, now: Duration) -> Option<bool> {
        self.in_flight = false;
        // Periods are counted from when the probe was due, unless it was so slow that this is past.
        self.due = (self.due + self.plan.period).max(now);
        let good = match outcome {
            Outcome::Success => true,
            Outcome::Failure(_) => false,
            Outcome::Error(_) => return None,
        };
        self.row = if self.last == Some(good) { self.row.saturating_add(1) } else { 1 };
        self.last = Some(good);
        let needed = if good { self.plan.success_threshold } else { self.plan.failure_threshold };
        if self.row < needed {
            return None;
        }
        self.verdict = Some(good);
        Some(good)
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
    fn defaults_are_upstreams() {
        let plan = ProbePlan::of(&Probe::default());
        assert_eq!((plan.period.as_secs(), plan.timeout.as_secs()), (10, 1));
        assert_eq!((plan.success_threshold, plan.failure_threshold), (1, 3));
    }
}
