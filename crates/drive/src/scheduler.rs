//! The scheduler's shell: watches feed the snapshot and the queue, decisions become bindings and events.
//!
//! One decision at a time against one snapshot; bindings are written in the background and bounded. A pod counts for
//! its node from the decision on (it is *assumed*); if its binding fails it is taken off again and tried anew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Cache, Client, Error, ObjectKey, Patch};
use controllers::{Note, Target};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use parking_lot::Mutex;
use scheduler::preempt::Preemption;
use scheduler::queue::Queue;
use scheduler::volumes::{Choice, Needs};
use scheduler::{PodInfo, Snapshot, Unschedulable, is_over, solve};
use serde_json::{Value, json};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::Recorder;
use crate::caches::Caches;
use crate::lease::Election;

mod preemption;
mod volumes;

use volumes::Shelf;

/// The scheduler name that pods have unless they ask for another.
const NAME: &str = "default-scheduler";
/// Bindings and refusals under way at a time.
const WRITES_MAX: usize = 128;

/// How the scheduler is to run.
#[derive(Clone, Default)]
pub struct Options {
    /// Run only while leading this election.
    pub election: Option<Election>,
}

/// Runs the scheduler for as long as the future is polled; while it leads, if there is an election.
pub async fn run(client: Client, options: Options) {
    loop {
        if let Some(election) = &options.election {
            election.win(&client).await;
        }
        let caches = Caches::new(client.clone());
        match &options.election {
            None => return start(&caches).await,
            Some(election) => tokio::select! {
                () = start(&caches) => {}
                () = election.hold(&client) => {}
            },
        }
        tracing::warn!("the lease is lost, scheduling stops");
    }
}

/// Schedules with caches that others may share.
pub async fn start(caches: &Caches) {
    let pods = caches.get::<Pod>();
    let nodes = caches.get::<Node>();
    let work = Arc::new(Work {
        client: caches.client().named("kutter-scheduler"),
        recorder: Recorder::start(caches.client().clone(), NAME, ""),
        shelf: Shelf::new(caches),
        pods: pods.clone(),
        budgets: caches.get::<PodDisruptionBudget>(),
        state: Mutex::new(State {
            snapshot: Snapshot::new(),
            queue: Queue::new(),
            nominated: preemption::Nominated::new(),
        }),
        ready: Notify::new(),
        writes: Arc::new(Semaphore::new(WRITES_MAX)),
        started: Instant::now(),
    });
    pods.synced().await;
    nodes.synced().await;
    work.budgets.synced().await;
    work.shelf.synced().await;
    hook_nodes(&work, &nodes);
    hook_pods(&work, &pods);
    let weak = Arc::downgrade(&work);
    work.shelf.on_change(move || {
        let Some(work) = weak.upgrade() else { return };
        work.state.lock().queue.wake();
        work.ready.notify_one();
    });
    work.run().await;
}

/// A node and what is to be written first, or why there is none and whom to preempt for one.
type Decision = Result<(String, Choice), (String, Option<Preemption>)>;

struct State {
    snapshot: Snapshot,
    queue: Queue,
    nominated: preemption::Nominated,
}

struct Work {
    client: Client,
    recorder: Recorder,
    shelf: Arc<Shelf>,
    pods: Cache<Pod>,
    budgets: Cache<PodDisruptionBudget>,
    state: Mutex<State>,
    ready: Notify,
    writes: Arc<Semaphore>,
    started: Instant,
}

/// Nodes go into the snapshot; a new or changed one may take pods that were refused.
fn hook_nodes(work: &Arc<Work>, nodes: &Cache<Node>) {
    let work = Arc::downgrade(work);
    nodes.hook(move |change| {
        let Some(work) = work.upgrade() else { return };
        let mut state = work.state.lock();
        match change.new {
            Some(node) => {
                let helps = change.old.is_none_or(|old| may_help(old, node));
                state.snapshot.set_node(node.clone());
                if helps {
                    state.queue.wake();
                }
            }
            None => state.snapshot.remove_node(&change.key.name),
        }
        drop(state);
        work.ready.notify_one();
    });
}

/// Whether the change of a node could let a refused pod onto it. A mere heartbeat cannot.
fn may_help(old: &Node, new: &Node) -> bool {
    let allocatable = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
    old.spec != new.spec || old.metadata.labels != new.metadata.labels || allocatable(old) != allocatable(new)
}

/// Placed pods go into the snapshot, others into the queue; an ended one makes room.
fn hook_pods(work: &Arc<Work>, pods: &Cache<Pod>) {
    let work = Arc::downgrade(work);
    pods.hook(move |change| {
        let Some(work) = work.upgrade() else { return };
        let key = (change.key.namespace.clone(), change.key.name.clone());
        if change.new.is_none_or(|pod| !is_pending(pod))
            && let Some(pod) = change.old.or(change.new)
        {
            work.shelf.forget(pod);
        }
        let mut state = work.state.lock();
        match (change.old, change.new) {
            (_, Some(pod)) if is_pending(pod) => {
                let changed = change
                    .old
                    .is_none_or(|old| old.spec != pod.spec || old.metadata.labels != pod.metadata.labels);
                if changed {
                    state.queue.add(key, priority(pod));
                }
            }
            (old, Some(pod)) => {
                state.queue.remove(&key);
                state.snapshot.set_pod(pod.clone());
                // A pod that ended makes room; one that was placed may be what another wants to be near.
                if old.is_some_and(|old| is_over(old) != is_over(pod))
                    || old.is_none_or(|old| is_pending(old))
                {
                    state.queue.wake();
                }
            }
            (Some(old), None) => {
                state.queue.remove(&key);
                state.nominated.remove(old.metadata.uid.as_deref().unwrap_or_default());
                state.snapshot.remove_pod(old.metadata.uid.as_deref().unwrap_or_default());
                state.queue.wake();
            }
            (None, None) => {}
        }
        drop(state);
        work.ready.notify_one();
    });
}

/// Whether the pod waits for this scheduler.
fn is_pending(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let placed = spec.node_name.as_ref().is_some_and(|n| !n.is_empty());
    let gated = spec.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty());
    let ours = spec.scheduler_name.as_deref().unwrap_or(NAME) == NAME;
    ours && !placed && !gated && pod.metadata.deletion_timestamp.is_none()
}

fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0)
}

impl Work {
    async fn run(self: &Arc<Self>) {
        loop {
            while let Some((pod, decision)) = self.decide() {
                // The permit bounds what is under way; it is given back when the write is done.
                let Ok(permit) = Arc::clone(&self.writes).acquire_owned().await else { return };
                let work = Arc::clone(self);
                tokio::spawn(async move {
                    match decision {
                        Ok((node, choice)) => work.put(&pod, &node, choice, permit).await,
                        Err((why, preemption)) => {
                            work.refuse(&pod, &why).await;
                            if let Some(preemption) = preemption {
                                work.evict(&pod, preemption).await;
                            }
                        }
                    }
                });
            }
            let due = self.state.lock().queue.due_ms();
            let wait = due.map(|at| Duration::from_millis(at.saturating_sub(self.now_ms())));
            tokio::select! {
                () = self.ready.notified() => {}
                () = async {
                    match wait {
                        Some(wait) => tokio::time::sleep(wait).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The next pod with its node, or with the reason why it has none.
    fn decide(&self) -> Option<(Arc<Pod>, Decision)> {
        let now = self.now_ms();
        let mut state = self.state.lock();
        loop {
            let key = state.queue.pop(now)?;
            let Some(pod) = self.pods.get(&key.0, &key.1).filter(|p| is_pending(p)) else {
                state.queue.remove(&key);
                continue;
            };
            if self.shelf.is_busy(&pod) {
                // Its volumes are being made ready; the end of that decides what becomes of it.
                continue;
            }
            let mut info = PodInfo::of(pod.clone());
            let kept = {
                let State { snapshot, nominated, .. } = &mut *state;
                preemption::keep_places(snapshot, nominated, &pod)
            };
            let solved = match Needs::of(&pod, &self.shelf.storage()) {
                Ok(needs) => {
                    info.volumes = needs;
                    solve(&mut state.snapshot, &info)
                }
                Err(why) => Err(Unschedulable::everywhere(&state.snapshot, why)),
            };
            let hopeless = solved.as_ref().is_err_and(|why| why.everywhere.is_some() || why.nodes == 0);
            let helped = match &solved {
                Err(_) if !hopeless => Some(self.nominate(&mut state, &info)),
                _ => None,
            };
            kept.iter().for_each(|uid| state.snapshot.remove_pod(uid));
            let decision = match solved {
                Ok(placement) => {
                    state.nominated.remove(info.uid());
                    let choice = self.shelf.reserve(&info, state.snapshot.node(&placement.node));
                    state.snapshot.place(info, &placement.node);
                    Ok((placement.node, choice))
                }
                Err(unschedulable) => {
                    state.queue.refuse(key, now);
                    Err(match helped {
                        Some(Ok(preemption)) => (unschedulable.to_string(), Some(preemption)),
                        Some(Err(why)) => (format!("{unschedulable} preemption: {why}"), None),
                        None => (unschedulable.to_string(), None),
                    })
                }
            };
            return Some((pod, decision));
        }
    }

    /// Readies the pod's volumes, if it has any to ready, and binds it. The permit is not held while others work.
    async fn put(&self, pod: &Pod, node: &str, choice: Choice, permit: OwnedSemaphorePermit) {
        if !choice.is_empty() {
            let ready = self.shelf.prepare(&self.client, pod, node, &choice, permit).await;
            self.shelf.release(pod, &choice);
            if let Err(why) = ready {
                let why = format!("running PreBind plugin \"VolumeBinding\": binding volumes: {why}");
                self.take_back(pod, true);
                return self.refuse(pod, &why).await;
            }
        }
        self.bind(pod, node).await;
    }

    /// The pod is not going where it was placed; it is tried anew unless it is gone.
    fn take_back(&self, pod: &Pod, again: bool) {
        let key = ObjectKey::of(pod);
        let mut state = self.state.lock();
        state.snapshot.remove_pod(pod.metadata.uid.as_deref().unwrap_or_default());
        self.shelf.forget(pod);
        if again {
            state.queue.refuse((key.namespace, key.name), self.now_ms());
            state.queue.wake();
        }
        drop(state);
        self.ready.notify_one();
    }

    async fn bind(&self, pod: &Pod, node: &str) {
        let key = ObjectKey::of(pod);
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": pod.metadata.name, "namespace": pod.metadata.namespace, "uid": pod.metadata.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let bound: Result<Value, Error> =
            self.client.create_subresource::<Pod, _, _>(&key.namespace, &key.name, "binding", &binding).await;
        match bound {
            Ok(_) => {
                let message = format!("Successfully assigned {}/{} to {node}", key.namespace, key.name);
                self.recorder.tell(&Target::of(pod), &Note::normal("Scheduled", message));
            }
            Err(error) => {
                tracing::warn!(pod = %key, node, error = error.chain(), "binding failed");
                self.take_back(pod, !(error.is_not_found() || error.is_conflict()));
            }
        }
    }

    /// Tells the pod's status and people why it is not placed. Said once as long as the reason stays.
    async fn refuse(&self, pod: &Pod, why: &str) {
        let key = ObjectKey::of(pod);
        let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let said = conditions.iter().any(|c| c.type_ == "PodScheduled" && c.message.as_deref() == Some(why));
        self.recorder.tell(&Target::of(pod), &Note::warning("FailedScheduling", why.to_owned()));
        if said {
            return;
        }
        let patch = json!({"status": {"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why,
            "lastTransitionTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }]}});
        let patched =
            self.client.patch_status::<Pod>(&key.namespace, &key.name, &Patch::Strategic(patch)).await;
        if let Err(error) = patched
            && !error.is_not_found()
        {
            tracing::warn!(pod = %key, error = error.chain(), "the pod's condition could not be told");
        }
    }
}
