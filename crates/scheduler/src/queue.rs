//! The order in which pods are placed: by priority, then by age; refused pods wait for a change or a while.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// First and longest wait of a refused pod after a change that may help it.
const BACKOFF_MS: (u64, u64) = (1_000, 10_000);
/// A refused pod is tried again after this time even if nothing seems to have changed.
pub const FLUSH_MS: u64 = 300_000;

/// What could let a refused pod be placed: a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Causes(u8);

impl Causes {
    /// Nothing.
    pub const NONE: Causes = Causes(0);
    /// Resources, host ports or disks come free.
    pub const ROOM: Causes = Causes(1);
    /// A node's labels, taints or willingness change.
    pub const NODE: Causes = Causes(2);
    /// Another pod comes to where this one wants to be near it.
    pub const NEAR: Causes = Causes(4);
    /// Another pod goes away from where this one may not be with it.
    pub const FAR: Causes = Causes(8);
    /// Pods are spread otherwise.
    pub const SPREAD: Causes = Causes(16);
    /// Claims, volumes, classes or drivers change.
    pub const VOLUME: Causes = Causes(32);
    /// Whatever happens.
    pub const ANY: Causes = Causes(u8::MAX);

    /// All of both.
    #[must_use]
    pub const fn and(self, other: Causes) -> Causes {
        Causes(self.0 | other.0)
    }

    /// Whether any is in both.
    #[must_use]
    pub const fn meets(self, other: Causes) -> bool {
        self.0 & other.0 != 0
    }
}

/// Names a pod: namespace and name.
pub type PodKey = (Arc<str>, Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// Ready to be placed.
    Active(Rank),
    /// Ready at this time.
    Waiting(u64),
    /// Refused at this time; waits for a change.
    Refused(u64),
}

/// Higher priority first, then older.
type Rank = (Reverse<i32>, u64);

/// Pods that are not placed yet. Times are milliseconds of any clock.
#[derive(Debug, Default)]
pub struct Queue {
    active: BTreeSet<(Rank, PodKey)>,
    waiting: BTreeSet<(u64, PodKey)>,
    refused: BTreeMap<PodKey, (u64, Causes)>,
    places: HashMap<PodKey, Place>,
    ranks: HashMap<PodKey, Rank>,
    attempts: HashMap<PodKey, u32>,
    arrivals: u64,
}

impl Queue {
    /// An empty queue.
    pub fn new() -> Queue {
        Queue::default()
    }

    /// Adds a pod, or notes that it changed: then it is ready again.
    pub fn add(&mut self, key: PodKey, priority: i32) {
        self.arrivals += 1;
        let arrival = self.ranks.get(&key).map_or(self.arrivals, |r| r.1);
        self.leave(&key);
        self.ranks.insert(key.clone(), (Reverse(priority), arrival));
        self.enter(key, None);
    }

    /// Forgets a pod: it is placed or gone.
    pub fn remove(&mut self, key: &PodKey) {
        self.leave(key);
        self.ranks.remove(key);
        self.attempts.remove(key);
    }

    /// Takes the next pod to place.
    pub fn pop(&mut self, now_ms: u64) -> Option<PodKey> {
        self.advance(now_ms);
        let (_, key) = self.active.pop_first()?;
        self.places.remove(&key);
        Some(key)
    }

    /// Puts a popped pod back that could not be placed until one of these causes.
    pub fn refuse(&mut self, key: PodKey, now_ms: u64, until: Causes) {
        if self.ranks.contains_key(&key) && !self.places.contains_key(&key) {
            *self.attempts.entry(key.clone()).or_default() += 1;
            self.refused.insert(key.clone(), (now_ms, until));
            self.places.insert(key, Place::Refused(now_ms));
        }
    }

    /// Something changed: refused pods that it may help become ready once their back-off is over.
    pub fn wake(&mut self, cause: Causes) {
        self.wake_those(|_, until| until.meets(cause));
    }

    fn wake_those(&mut self, helps: impl Fn(u64, Causes) -> bool) {
        let woken: Vec<(PodKey, (u64, Causes))> =
            self.refused.extract_if(.., |_, (since, until)| helps(*since, *until)).collect();
        for (key, (since, _)) in woken {
            let attempts = self.attempts.get(&key).copied().unwrap_or(1);
            let delay = (BACKOFF_MS.0 << (attempts - 1).min(10)).min(BACKOFF_MS.1);
            self.places.remove(&key);
            self.enter(key, Some(since + delay));
        }
    }

    /// When time alone will make a pod ready.
    pub fn due_ms(&self) -> Option<u64> {
        let waiting = self.waiting.first().map(|(at, _)| *at);
        let flush = self.refused.values().map(|(since, _)| since + FLUSH_MS).min();
        waiting.into_iter().chain(flush).min()
    }

    /// Whether a pod is ready now.
    pub fn is_ready(&self) -> bool {
        !self.active.is_empty()
    }

    fn advance(&mut self, now_ms: u64) {
        let is_due = |since: u64| since + FLUSH_MS <= now_ms;
        if self.refused.values().any(|(since, _)| is_due(*since)) {
            self.wake_those(|since, _| is_due(since));
        }
        while let Some((at, key)) = self.waiting.first().cloned().filter(|(at, _)| *at <= now_ms) {
            self.waiting.remove(&(at, key.clone()));
            self.enter(key, None);
        }
    }

    fn enter(&mut self, key: PodKey, at_ms: Option<u64>) {
        match (at_ms, self.ranks.get(&key)) {
            (Some(at), _) => {
                self.waiting.insert((at, key.clone()));
                self.places.insert(key, Place::Waiting(at));
            }
            (None, Some(rank)) => {
                self.active.insert((*rank, key.clone()));
                self.places.insert(key, Place::Active(*rank));
            }
            (None, None) => {}
        }
    }

    fn leave(&mut self, key: &PodKey) {
        match self.places.remove(key) {
            Some(Place::Active(rank)) => drop(self.active.remove(&(rank, key.clone()))),
            Some(Place::Waiting(at)) => drop(self.waiting.remove(&(at, key.clone()))),
            Some(Place::Refused(_)) => drop(self.refused.remove(key)),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> PodKey {
        ("ns".into(), name.into())
    }

    #[test]
    fn priority_then_age() {
        let mut queue = Queue::new();
        for (name, priority) in [("old", 0), ("new", 0), ("high", 10)] {
            queue.add(key(name), priority);
        }
        let order: Vec<PodKey> = std::iter::from_fn(|| queue.pop(0)).collect();
        assert_eq!(order, [key("high"), key("old"), key("new")]);
    }

    #[test]
    fn a_refused_pod_waits_for_a_change_and_its_back_off() {
        let mut queue = Queue::new();
        queue.add(key("a"), 0);
        let a = queue.pop(0).unwrap();
        queue.refuse(a, 0, Causes::ROOM.and(Causes::NODE));
        assert_eq!(queue.pop(10_000), None);
        queue.wake(Causes::NEAR);
        assert_eq!(queue.pop(10_000), None);
        queue.wake(Causes::ROOM);
        assert_eq!(queue.due_ms(), Some(1_000));
        assert_eq!(queue.pop(999), None);
        let a = queue.pop(1_000).unwrap();
        queue.refuse(a, 1_000, Causes::NONE);
        assert_eq!(queue.pop(1_000 + FLUSH_MS - 1), None);
        assert_eq!(queue.pop(1_000 + FLUSH_MS), Some(key("a")));
    }

    #[test]
    fn a_removed_pod_is_forgotten_everywhere() {
        let mut queue = Queue::new();
        queue.add(key("a"), 0);
        let a = queue.pop(0).unwrap();
        queue.remove(&a);
        queue.refuse(a, 0, Causes::ANY);
        queue.wake(Causes::ANY);
        assert_eq!((queue.pop(u64::MAX / 2), queue.due_ms()), (None, None));
    }
}
