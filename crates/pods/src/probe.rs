//! The state machine of one probe of one container instance.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Probe;

/// Which probe it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Holds the others back until it succeeded once.
    Startup,
    /// A failure restarts the container.
    Liveness,
    /// A failure takes the pod out of Services.
    Readiness,
}

impl Kind {
    /// As events print it.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }
}

/// Counters of one probe.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counter {
    last: Option<bool>,
    run: u32,
}

/// Numbers of a probe with their defaults filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Before the first try.
    pub initial: SignedDuration,
    /// Between tries.
    pub period: SignedDuration,
    /// For one try.
    pub timeout: SignedDuration,
    /// Failures in a row that make a verdict.
    pub failures: u32,
    /// Successes in a row that make a verdict.
    pub successes: u32,
}

/// The numbers of `probe`.
pub fn timing(probe: &Probe) -> Timing {
    let or = |v: Option<i32>, d: i32| u32::try_from(v.filter(|v| *v > 0).unwrap_or(d)).unwrap_or(1);
    let seconds = |v: u32| SignedDuration::from_secs(i64::from(v));
    Timing {
        initial: SignedDuration::from_secs(i64::from(probe.initial_delay_seconds.unwrap_or(0).max(0))),
        period: seconds(or(probe.period_seconds, 10)),
        timeout: seconds(or(probe.timeout_seconds, 1)),
        failures: or(probe.failure_threshold, 3),
        successes: or(probe.success_threshold, 1),
    }
}

impl Counter {
    /// Counts one outcome; `Some` when it makes a verdict.
    pub fn count(&mut self, ok: bool, timing: &Timing) -> Option<bool> {
        if self.last == Some(ok) {
            self.run = self.run.saturating_add(1);
        } else {
            *self = Counter { last: Some(ok), run: 1 };
        }
        let enough = if ok { timing.successes } else { timing.failures };
        (self.run >= enough).then_some(ok)
    }
}

/// When to try next: at the end of the initial delay, then every period.
pub fn next(timing: &Timing, started: Timestamp, last: Option<Timestamp>, now: Timestamp) -> Timestamp {
    let due = match last {
        None => started.saturating_add(timing.initial),
        Some(last) => last.saturating_add(timing.period),
    };
    due.unwrap_or(now).max(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_follow_thresholds() {
        // successes needed, failures needed, outcomes, verdicts
        let table = [
            (1, 3, "+", "+"),
            (1, 3, "--", ".."),
            (1, 3, "---", "..-"),
            (1, 3, "--+---", "..+..-"),
            (2, 1, "+-++", ".-.+"),
        ];
        for (successes, failures, outcomes, want) in table {
            let probe = Probe {
                success_threshold: Some(successes),
                failure_threshold: Some(failures),
                ..Probe::default()
            };
            let timing = timing(&probe);
            let mut counter = Counter::default();
            let got: String = outcomes
                .chars()
                .map(|c| match counter.count(c == '+', &timing) {
                    Some(true) => '+',
                    Some(false) => '-',
                    None => '.',
                })
                .collect();
            assert_eq!(got, want, "{outcomes}");
        }
    }
}
