//! The exponential wait before a container is restarted or an image pulled again: 10 s, doubling, at most 300 s,
//! forgotten when there was no failure for twice the maximum.

use jiff::{SignedDuration, Timestamp};

/// The first wait.
pub const FIRST: SignedDuration = SignedDuration::from_secs(10);
/// The longest wait.
pub const LONGEST: SignedDuration = SignedDuration::from_secs(300);

/// The state of one back-off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the failure at `updated`.
    pub delay: SignedDuration,
    /// The failure that set the delay.
    pub updated: Timestamp,
}

impl Backoff {
    /// The state after a failure at `event`.
    pub fn after(previous: Option<Backoff>, event: Timestamp) -> Backoff {
        let delay = match previous {
            Some(b) if !b.expired(event) => (b.delay + b.delay).min(LONGEST),
            _ => FIRST,
        };
        Backoff { delay, updated: event }
    }

    /// When to go on after a failure at `event`, if that is not at once.
    pub fn until(&self, event: Timestamp) -> Option<Timestamp> {
        (!self.expired(event)).then(|| event.saturating_add(self.delay).unwrap_or(Timestamp::MAX))
    }

    fn expired(&self, event: Timestamp) -> bool {
        event.duration_since(self.updated) > LONGEST + LONGEST
    }
}

/// A delay the way status messages print it: `10s`, `1m20s`, `5m0s`.
pub fn words(delay: SignedDuration) -> String {
    let s = delay.as_secs();
    if s < 60 { format!("{s}s") } else { format!("{}m{}s", s / 60, s % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_limit_and_forgets() {
        let at = |s| Timestamp::from_second(s).expect("in range");
        let mut now = at(1_000);
        let mut state = None;
        let mut delays = Vec::new();
        for _ in 0..8 {
            let next = Backoff::after(state, now);
            delays.push(words(next.delay));
            now = next.until(now).expect("waits");
            state = Some(next);
        }
        assert_eq!(delays, ["10s", "20s", "40s", "1m20s", "2m40s", "5m0s", "5m0s", "5m0s"]);
        let late = now.saturating_add(SignedDuration::from_secs(601)).expect("in range");
        assert_eq!(state.expect("some").until(late), None);
        assert_eq!(Backoff::after(state, late).delay, FIRST);
    }
}
