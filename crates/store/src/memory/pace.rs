//! Delayed wake-ups, so that many watchers of a busy table are woken once per interval and not once per change.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::table::Table;

/// Wake-ups that may follow each other at once.
const AT_ONCE: u32 = 4;

/// How often the watchers of one table may be woken: a few times in a row at once, then once per gap. News that come
/// less often than that, even unevenly, wait for nothing; a stream of them is delivered in batches.
#[derive(Debug)]
pub(super) struct Allowance {
    /// Until when the wake-ups so far have been paid for.
    spent: Instant,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { spent: Instant::now() }
    }
}

impl Allowance {
    /// When the next wake-up may be.
    pub fn due(&self, gap: Duration) -> Instant {
        self.spent.checked_sub(gap.saturating_mul(AT_ONCE - 1)).unwrap_or(self.spent)
    }

    /// Notes a wake-up.
    pub fn spend(&mut self, now: Instant, gap: Duration) {
        self.spent = self.spent.max(now) + gap;
    }
}

#[derive(Debug, Default)]
struct Due {
    tables: Vec<(Instant, Arc<Table>)>,
    running: bool,
}

/// One thread for all tables of a store; it exists only while there are wake-ups to come.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    due: Arc<(Mutex<Due>, Condvar)>,
}

/// How long the thread stays without work.
const LINGER: Duration = Duration::from_secs(1);

impl Pace {
    /// Wakes `table` at `when`.
    pub(super) fn at(&self, when: Instant, table: Arc<Table>) {
        let (due, changed) = &*self.due;
        let mut due = due.lock();
        due.tables.push((when, table));
        if due.running {
            changed.notify_one();
            return;
        }
        let shared = self.due.clone();
        match std::thread::Builder::new().name("store-wake".into()).spawn(move || run(&shared)) {
            Ok(_) => due.running = true,
            // Without a thread the wake-ups happen now: more work, but nobody sleeps for ever.
            Err(_) => due.tables.drain(..).for_each(|(_, table)| table.wake_now()),
        }
    }
}

fn run((due, changed): &(Mutex<Due>, Condvar)) {
    let mut due = due.lock();
    loop {
        let now = Instant::now();
        let ready: Vec<_> = due.tables.extract_if(.., |(when, _)| *when <= now).collect();
        if !ready.is_empty() {
            parking_lot::MutexGuard::unlocked(&mut due, || {
                ready.iter().for_each(|(_, table)| table.wake_now())
            });
            continue;
        }
        match due.tables.iter().map(|(when, _)| *when).min() {
            Some(when) => drop(changed.wait_until(&mut due, when)),
            None if changed.wait_for(&mut due, LINGER).timed_out() && due.tables.is_empty() => {
                due.running = false;
                return;
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_wake_ups_at_once_then_one_per_gap() {
        let (start, gap) = (Instant::now(), Duration::from_millis(3));
        let mut allowance = Allowance { spent: start };
        let mut now = start;
        let mut waits = Vec::new();
        for news in [0, 1, 1, 1, 1, 1, 2, 100, 105, 106] {
            now = now.max(start + Duration::from_millis(news));
            let due = allowance.due(gap);
            waits.push(due.saturating_duration_since(now).as_millis());
            now = now.max(due);
            allowance.spend(now, gap);
        }
        assert_eq!(waits, [0, 0, 0, 0, 2, 3, 3, 0, 0, 0]);
    }
}
