//! Delayed wake-ups, so that many watchers of a busy table are woken once per interval and not once per change.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::table::Table;

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
const LINGER: std::time::Duration = std::time::Duration::from_secs(1);

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
