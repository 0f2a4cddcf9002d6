//! How long a node waits for the next pod of a set after its pods failed: longer each time.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

const FIRST: SignedDuration = SignedDuration::from_secs(1);
const LONGEST: SignedDuration = SignedDuration::from_mins(15);

/// Failures by set (uid) and node. What is older than twice the longest wait is forgotten.
#[derive(Debug, Default)]
pub struct Failures(HashMap<(String, String), (SignedDuration, Timestamp)>);

impl Failures {
    /// Whether the failed pod may be replaced now, which is counted; else when it may.
    pub fn next(&mut self, set: &str, node: &str, now: Timestamp) -> Result<(), Timestamp> {
        self.0.retain(|_, (_, last)| now.duration_since(*last) < LONGEST * 2);
        let key = (set.to_owned(), node.to_owned());
        let wait = match self.0.get(&key) {
            None => FIRST,
            Some((wait, last)) => {
                let due = *last + *wait;
                if now < due {
                    return Err(due);
                }
                (*wait * 2).min(LONGEST)
            }
        };
        self.0.insert(key, (wait, now));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("time");
        let at = |seconds: i64| start + SignedDuration::from_secs(seconds);
        let mut failures = Failures::default();
        assert_eq!(failures.next("s", "a", at(0)), Ok(()));
        assert_eq!(failures.next("s", "a", at(0)), Err(at(1)));
        assert_eq!(failures.next("s", "b", at(0)), Ok(()), "another node");
        assert_eq!(failures.next("s", "a", at(1)), Ok(()));
        assert_eq!(failures.next("s", "a", at(2)), Err(at(3)));
        assert_eq!(failures.next("s", "a", at(3)), Ok(()));
        assert_eq!(failures.next("s", "a", at(3)), Err(at(7)));
        assert_eq!(failures.next("s", "a", at(3 + 1800)), Ok(()), "forgotten");
        assert_eq!(failures.next("s", "a", at(3 + 1801)), Ok(()), "from the beginning");
    }
}
