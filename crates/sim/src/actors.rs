//! The processes of the simulation: the real planners and the real scheduler, with what their shells do around them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use controllers::{Action, Target, Wake};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use scheduler::queue::{Causes, Queue};
use scheduler::{PodInfo, Snapshot, solve};
use serde_json::json;

use crate::cache::{Cache, Change, Object, PLURALS};
use crate::plans::{self, LOOK, Memory};

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done, at this revision.
    Done(u64),
    /// Refused: the world is another than thought.
    Refused,
    /// No answer came: it may be done or not.
    Silence,
}

/// A request that belongs to one piece of work.
pub type Request = (String, Action);

/// How long a process waits after a failure, in milliseconds.
const BACKOFF_MS: u64 = 200;

/// A process.
pub trait Actor {
    /// What it watches.
    fn follows(&self) -> &'static [&'static str] {
        &["pods", "nodes"]
    }
    /// Takes a change in that its watch told.
    fn learn(&mut self, change: &Change);
    /// A table is known up to here.
    fn reached(&mut self, plural: &'static str, revision: u64);
    /// Names of a table as it knows it, to find what is gone.
    fn names(&self, plural: &str) -> Vec<String>;
    /// Takes the answer to a request of this piece of work.
    fn answered(&mut self, work: &str, answer: Answer, now_ms: u64);
    /// Does what there is to do; gives requests and when to be called again at the latest.
    fn work(&mut self, now_ms: u64, now: Timestamp) -> (Vec<Request>, Option<u64>);
}

/// One object under a controller.
#[derive(Default)]
struct Item {
    dirty: bool,
    rest: VecDeque<Action>,
    asked: bool,
    plural: &'static str,
    /// No pass before the cache is there: the freshness gate.
    gate: Vec<(&'static str, u64)>,
    not_before_ms: u64,
    wake_ms: Option<u64>,
    /// The uid that is being looked for.
    looks: Option<String>,
}

/// The controllers: of all workloads and of volumes, and the garbage collector.
#[derive(Default)]
pub struct Controllers {
    cache: Cache,
    memory: Memory,
    items: BTreeMap<String, Item>,
    counts_jobs: bool,
}

impl Controllers {
    /// All controllers.
    pub fn all() -> Self {
        Self { counts_jobs: true, ..Self::default() }
    }

    /// All that may safely run twice. What a Job's pods have completed is counted over several writes, of the pods
    /// and of the Job; as upstream's, only one process may do so at a time, and its lease sees to that.
    pub fn of_a_second_process() -> Self {
        Self::default()
    }
}

fn plural_of(action: &Action) -> &'static str {
    let resource = match action {
        Action::Create { resource, .. } => resource,
        Action::Patch { target, .. } | Action::Delete { target, .. } => &target.resource,
        _ => return "",
    };
    PLURALS.into_iter().find(|plural| *plural == resource.plural).unwrap_or("")
}

impl Actor for Controllers {
    fn follows(&self) -> &'static [&'static str] {
        &PLURALS
    }

    fn learn(&mut self, change: &Change) {
        self.cache.learn(change);
        for key in plans::concerned(&self.cache, change) {
            if self.counts_jobs || !key.starts_with("jobs/") {
                self.items.entry(key).or_default().dirty = true;
            }
        }
    }

    fn reached(&mut self, plural: &'static str, revision: u64) {
        self.cache.reached(plural, revision);
    }

    fn names(&self, plural: &str) -> Vec<String> {
        self.cache.names(plural)
    }

    fn answered(&mut self, work: &str, answer: Answer, now_ms: u64) {
        let Some(item) = self.items.get_mut(work) else { return };
        item.asked = false;
        if let Some(uid) = item.looks.take() {
            // One that is there after all shows in the cache a little later.
            if answer == Answer::Refused {
                self.memory.absent.insert(uid);
            }
            item.dirty = true;
            item.not_before_ms = now_ms + BACKOFF_MS;
            return;
        }
        match answer {
            Answer::Done(revision) => item.gate.push((item.plural, revision)),
            Answer::Refused | Answer::Silence => {
                item.rest.clear();
                item.dirty = true;
                item.not_before_ms = now_ms + BACKOFF_MS;
            }
        }
    }

    fn work(&mut self, now_ms: u64, now: Timestamp) -> (Vec<Request>, Option<u64>) {
        let (mut requests, mut wake) = (Vec::new(), None::<u64>);
        let ready = PLURALS.iter().all(|plural| self.cache.known(plural).is_some());
        let keys: Vec<String> = self.items.keys().cloned().collect();
        for key in keys.into_iter().filter(|_| ready) {
            let plan = {
                let Some(item) = self.items.get_mut(&key) else { continue };
                let due = item.wake_ms.is_some_and(|at| at <= now_ms);
                item.gate.retain(|(plural, at)| self.cache.known(plural).is_none_or(|known| known < *at));
                let idle = item.rest.is_empty() && !item.asked && (item.dirty || due) && item.gate.is_empty();
                match idle && item.not_before_ms <= now_ms {
                    true => plans::plan(&self.cache, &mut self.memory, &key, now),
                    false => None,
                }
            };
            let Some(item) = self.items.get_mut(&key) else { continue };
            if let Some(plan) = plan {
                (item.dirty, item.wake_ms) = (false, None);
                if let Wake::At(at) = plan.wake {
                    let ahead = at.as_millisecond() - now.as_millisecond();
                    item.wake_ms = Some(now_ms + u64::try_from(ahead).unwrap_or(0).max(1));
                }
                item.rest = plan.actions.into_iter().filter(|a| !matches!(a, Action::Event { .. })).collect();
            }
            if !item.asked
                && let Some(action) = item.rest.pop_front()
            {
                (item.asked, item.plural) = (true, plural_of(&action));
                if let Action::Post { target, subresource: LOOK, .. } = &action {
                    item.looks = Some(target.uid.clone());
                }
                requests.push((key, action));
                continue;
            }
            let again = [item.wake_ms, item.dirty.then_some(item.not_before_ms)].into_iter().flatten();
            wake = again.filter(|at| *at > now_ms).chain(wake).min();
        }
        (requests, wake)
    }
}

/// What a pod that comes to a node may be to others, and one that goes.
const CAME: Causes = Causes::NEAR.and(Causes::SPREAD);
const WENT: Causes = Causes::ROOM.and(Causes::FAR).and(Causes::SPREAD).and(Causes::VOLUME);

/// The scheduler.
#[derive(Default)]
pub struct Scheduler {
    cache: Cache,
    snapshot: Snapshot,
    queue: Queue,
}

fn is_pending(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|s| s.node_name.is_none()) && pod.metadata.deletion_timestamp.is_none()
}

fn key_of(name: &str) -> scheduler::queue::PodKey {
    (Arc::from("default"), Arc::from(name))
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

impl Actor for Scheduler {
    fn learn(&mut self, change: &Change) {
        let old = self.cache.pods.get(&change.name).filter(|_| change.plural == "pods").cloned();
        self.cache.learn(change);
        match &change.object {
            Some(Object::Node(node)) => {
                self.snapshot.set_node(node.clone());
                self.queue.wake(Causes::ANY);
            }
            Some(Object::Pod(pod)) => {
                if let Some(old) = old.filter(|old| uid(old) != uid(pod)) {
                    self.snapshot.remove_pod(uid(&old));
                }
                if is_pending(pod) {
                    self.queue.add(key_of(&change.name), 0);
                } else {
                    self.queue.remove(&key_of(&change.name));
                    self.snapshot.set_pod(pod.clone());
                    let over = PodInfo::of(pod.clone()).is_over();
                    self.queue.wake(if over { WENT } else { CAME });
                }
            }
            None if change.plural == "pods" => {
                self.queue.remove(&key_of(&change.name));
                if let Some(old) = old {
                    self.snapshot.remove_pod(uid(&old));
                    self.queue.wake(WENT);
                }
            }
            _ => {}
        }
    }

    fn reached(&mut self, plural: &'static str, revision: u64) {
        self.cache.reached(plural, revision);
    }

    fn names(&self, plural: &str) -> Vec<String> {
        self.cache.names(plural)
    }

    fn answered(&mut self, work: &str, answer: Answer, now_ms: u64) {
        let Some(pod) = self.cache.pods.get(work).filter(|_| !matches!(answer, Answer::Done(_))) else {
            return;
        };
        if !is_pending(pod) {
            return;
        }
        self.snapshot.remove_pod(uid(pod));
        self.queue.refuse(key_of(work), now_ms, Causes::ANY);
        self.queue.wake(Causes::ANY);
    }

    fn work(&mut self, now_ms: u64, _: Timestamp) -> (Vec<Request>, Option<u64>) {
        let mut requests = Vec::new();
        if ["pods", "nodes"].iter().any(|plural| self.cache.known(plural).is_none()) {
            return (requests, None);
        }
        while let Some(key) = self.queue.pop(now_ms) {
            let Some(pod) = self.cache.pods.get(&*key.1).filter(|pod| is_pending(pod)).cloned() else {
                self.queue.remove(&key);
                continue;
            };
            let info = PodInfo::of(pod.clone());
            match solve(&mut self.snapshot, &info) {
                Ok(place) => {
                    self.snapshot.place(info, &place.node);
                    let body = Box::new(json!({"target": {"name": place.node}}));
                    let action = Action::Post { target: Target::of(&*pod), subresource: "binding", body };
                    requests.push((key.1.to_string(), action));
                }
                Err(why) => self.queue.refuse(key, now_ms, why.until()),
            }
        }
        (requests, self.queue.due_ms().filter(|due| *due > now_ms))
    }
}

/// A kubelet without containers: it starts the pods of its node that fit, and takes away those that are to go.
pub struct Kubelet {
    node: String,
    room: usize,
    cache: Cache,
    /// Work under way, or not before this time.
    wait: BTreeMap<String, u64>,
}

impl Kubelet {
    /// The kubelet of a node with room for so many pods.
    pub fn new(node: &str, room: usize) -> Self {
        Self { node: node.to_owned(), room, cache: Cache::default(), wait: BTreeMap::new() }
    }

    fn next(&self, pod: &Pod, now: Timestamp) -> Option<Action> {
        let mine = pod.spec.as_ref()?.node_name.as_deref() == Some(&self.node);
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        if !mine {
            return None;
        }
        if pod.metadata.deletion_timestamp.is_some() {
            if phase == Some("Running") && is_of_a_job(pod) {
                return Some(Action::merge(
                    Target::of(pod),
                    "status",
                    json!({"status": {"phase": "Failed"}}),
                ));
            }
            if pod.metadata.deletion_grace_period_seconds == Some(0) {
                return None;
            }
            let target = Target::of(pod);
            return Some(Action::Delete { target, grace_s: Some(0), propagation: None, report: None });
        }
        if phase == Some("Running") && is_of_a_job(pod) {
            return Some(Action::merge(Target::of(pod), "status", json!({"status": {"phase": "Succeeded"}})));
        }
        if phase.is_some() {
            return None;
        }
        let running = |p: &&Arc<Pod>| {
            let on = p.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(&self.node);
            on && p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")
        };
        let status = match self.cache.pods.values().filter(running).count() < self.room {
            true => json!({"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": now.to_string()}]}),
            false => json!({"phase": "Failed", "reason": "OutOfpods"}),
        };
        Some(Action::merge(Target::of(pod), "status", json!({"status": status})))
    }
}

/// What pods of Jobs do is done at once.
fn is_of_a_job(pod: &Pod) -> bool {
    pod.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key("batch.kubernetes.io/job-name"))
}

impl Actor for Kubelet {
    fn learn(&mut self, change: &Change) {
        self.cache.learn(change);
    }

    fn reached(&mut self, plural: &'static str, revision: u64) {
        self.cache.reached(plural, revision);
    }

    fn names(&self, plural: &str) -> Vec<String> {
        self.cache.names(plural)
    }

    fn answered(&mut self, work: &str, _: Answer, now_ms: u64) {
        // What was done shows in the cache a little later.
        self.wait.insert(work.to_owned(), now_ms + BACKOFF_MS);
    }

    fn work(&mut self, now_ms: u64, now: Timestamp) -> (Vec<Request>, Option<u64>) {
        self.wait.retain(|_, until| *until > now_ms);
        // One at a time: what is started next depends on what runs.
        if self.wait.values().any(|until| *until == u64::MAX) {
            return (Vec::new(), None);
        }
        let waits = |name: &String| self.wait.contains_key(name);
        let free = self.cache.pods.iter().filter(|(name, _)| !waits(name));
        let first = free.filter_map(|(name, pod)| Some((name.clone(), self.next(pod, now)?))).next();
        let requests: Vec<Request> = first.into_iter().collect();
        for (name, _) in &requests {
            self.wait.insert(name.clone(), u64::MAX);
        }
        (requests, self.wait.values().copied().filter(|until| *until < u64::MAX).min())
    }
}
