//! A queue of keys: no duplicates, one holder per key, timers, and back-off.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use client::ObjectKey;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The first delay after a failure; it doubles with each.
const DELAY_MIN: Duration = Duration::from_millis(5);
/// The longest delay after failures.
const DELAY_MAX: Duration = Duration::from_secs(1000);

#[derive(Default)]
struct State {
    /// Keys that may be taken, in order.
    ready: VecDeque<ObjectKey>,
    /// Keys that are wanted, whether ready or held.
    wanted: HashMap<ObjectKey, Instant>,
    /// Keys that someone works on.
    held: HashSet<ObjectKey>,
    timers: BTreeMap<(Instant, u64), ObjectKey>,
    timer_of: HashMap<ObjectKey, (Instant, u64)>,
    failures: HashMap<ObjectKey, u32>,
    sequence: u64,
    adds: u64,
    retries: u64,
    closed: bool,
}

impl State {
    fn want(&mut self, key: ObjectKey) {
        self.adds += 1;
        if self.wanted.contains_key(&key) {
            return;
        }
        self.wanted.insert(key.clone(), Instant::now());
        if !self.held.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn at(&mut self, key: ObjectKey, time: Instant) {
        if let Some(known) = self.timer_of.get(&key).copied() {
            if known.0 <= time {
                return;
            }
            self.timers.remove(&known);
        }
        self.sequence += 1;
        let slot = (time, self.sequence);
        self.timers.insert(slot, key.clone());
        self.timer_of.insert(key, slot);
    }

    /// Moves keys whose time has come; gives the time of the next.
    fn fire(&mut self, now: Instant) -> Option<Instant> {
        while let Some((&slot, _)) = self.timers.first_key_value() {
            if slot.0 > now {
                return Some(slot.0);
            }
            if let Some(key) = self.timers.remove(&slot) {
                self.timer_of.remove(&key);
                self.want(key);
            }
        }
        None
    }
}

/// Keys that want attention.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

/// Numbers for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Keys that wait.
    pub depth: usize,
    /// How often keys were added.
    pub adds: u64,
    /// How often keys were put back after a failure.
    pub retries: u64,
    /// Keys that are being worked on.
    pub held: usize,
}

impl Queue {
    /// The key wants attention now. A key that is waiting already stays where it is; one that is being
    /// worked on comes again afterwards.
    pub fn add(&self, key: ObjectKey) {
        self.state.lock().want(key);
        self.changed.notify_one();
    }

    /// The key wants attention after this time, unless sooner anyway.
    pub fn add_after(&self, key: ObjectKey, delay: Duration) {
        self.state.lock().at(key, Instant::now() + delay);
        self.changed.notify_one();
    }

    /// The pass failed: the key comes again, later each time. Gives the delay.
    pub fn retry(&self, key: ObjectKey) -> Duration {
        let mut state = self.state.lock();
        state.retries += 1;
        let failures = state.failures.entry(key.clone()).or_default();
        let delay = DELAY_MIN.saturating_mul(1 << (*failures).min(20)).min(DELAY_MAX);
        *failures = failures.saturating_add(1);
        state.at(key, Instant::now() + delay);
        drop(state);
        self.changed.notify_one();
        delay
    }

    /// The pass went well: the next failure is the first again.
    pub fn forget(&self, key: &ObjectKey) {
        self.state.lock().failures.remove(key);
    }

    /// Waits for a key, takes it and says how long it waited; `None` once closed. Hand it back with
    /// [`Queue::done`].
    pub async fn next(&self) -> Option<(ObjectKey, Duration)> {
        loop {
            let timer = {
                let mut state = self.state.lock();
                if state.closed {
                    return None;
                }
                let now = Instant::now();
                let timer = state.fire(now);
                if let Some(key) = state.ready.pop_front() {
                    let since = state.wanted.remove(&key).unwrap_or(now);
                    state.held.insert(key.clone());
                    return Some((key, now.saturating_duration_since(since)));
                }
                timer
            };
            match timer {
                Some(time) => {
                    tokio::select! {
                        () = self.changed.notified() => {}
                        () = tokio::time::sleep_until(time) => {}
                    }
                }
                None => self.changed.notified().await,
            }
        }
    }

    /// The pass for the key has ended.
    pub fn done(&self, key: &ObjectKey) {
        let mut state = self.state.lock();
        state.held.remove(key);
        if state.wanted.contains_key(key) {
            state.ready.push_back(key.clone());
        }
        drop(state);
        self.changed.notify_one();
    }

    /// No more keys are given out.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_one();
    }

    /// Numbers for metrics.
    #[must_use]
    pub fn stats(&self) -> QueueStats {
        let state = self.state.lock();
        QueueStats {
            depth: state.ready.len(),
            adds: state.adds,
            retries: state.retries,
            held: state.held.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("n", name)
    }

    async fn taken(queue: &Queue) -> String {
        queue.next().await.map_or_else(String::new, |(k, _)| k.name.to_string())
    }

    #[tokio::test]
    async fn keys_do_not_double_and_come_back_after_their_pass() {
        let queue = Queue::default();
        for name in ["a", "b", "a"] {
            queue.add(key(name));
        }
        assert_eq!(taken(&queue).await, "a");
        queue.add(key("a"));
        queue.add(key("a"));
        assert_eq!(taken(&queue).await, "b");
        assert_eq!(queue.stats().depth, 0);
        queue.done(&key("a"));
        assert_eq!(taken(&queue).await, "a");
        queue.done(&key("a"));
        assert_eq!(queue.stats().depth, 0);
    }

    #[tokio::test]
    async fn the_earlier_timer_wins_and_failures_back_off() {
        let queue = Queue::default();
        queue.add_after(key("a"), Duration::from_secs(9000));
        queue.add_after(key("a"), Duration::from_millis(2));
        queue.add_after(key("a"), Duration::from_secs(5000));
        assert_eq!(taken(&queue).await, "a");
        queue.done(&key("a"));
        let delays: Vec<u128> = (0..20).map(|_| queue.retry(key("b")).as_millis()).collect();
        assert_eq!(delays[..4], [5, 10, 20, 40]);
        assert_eq!(delays[19], 1_000_000);
        queue.forget(&key("b"));
        assert_eq!(queue.retry(key("b")).as_millis(), 5);
        queue.close();
        assert_eq!(taken(&queue).await, "");
    }
}
