//! The scheduler's shell: watches feed the snapshot and the queue, decisions become bindings and events.
//!
//! One decision at a time against one snapshot; bindings are written in the background and bounded. A pod counts for
//! its node from the decision on (it is *assumed*); if its binding fails it is taken off again and tried anew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Cache, Client, Error, ObjectKey, Patch};
use controllers::{Note, Target};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use parking_lot::Mutex;
use scheduler::preempt::{Preemption, fits};
use scheduler::queue::{Causes, Queue};
use scheduler::volumes::{Choice, Needs};
use scheduler::{PodInfo, Snapshot, Unschedulable, solve};
use serde_json::{Value, json};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::Recorder;
use crate::caches::Caches;
use crate::lease::Election;

mod kin;
mod preemption;
mod volumes;
mod watch;

use kin::Kin;
use volumes::Shelf;
use watch::is_pending;

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
            None => return start(&caches, &client).await,
            Some(election) => tokio::select! {
                () = start(&caches, &client) => {}
                () = election.hold(&client) => {}
            },
        }
        tracing::warn!("the lease is lost, scheduling stops");
    }
}

/// Schedules with caches that others may share; writes with a client of its own.
pub async fn start(caches: &Caches, client: &Client) {
    let pods = caches.get::<Pod>();
    let nodes = caches.get::<Node>();
    let work = Arc::new(Work {
        client: client.named("kutter-scheduler"),
        recorder: Recorder::start(client.clone(), NAME, ""),
        kin: Kin::new(caches),
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
    work.kin.synced().await;
    let namespaces = caches.get::<Namespace>();
    namespaces.synced().await;
    watch::hook_namespaces(&work, &namespaces);
    watch::hook_nodes(&work, &nodes);
    watch::hook_pods(&work, &pods);
    let weak = Arc::downgrade(&work);
    work.shelf.on_change(move || {
        let Some(work) = weak.upgrade() else { return };
        work.state.lock().queue.wake(Causes::VOLUME);
        work.ready.notify_one();
    });
    work.run().await;
}

/// A node and what is to be written first, or why there is none and whom to preempt for one.
type Decision = Result<(String, Choice), Refusal>;

/// Why a pod has no node, and what is done about it.
struct Refusal {
    why: String,
    /// Whom to preempt, and for whom no place is being made any more because of that.
    preemption: Option<(Preemption, Vec<Arc<Pod>>)>,
    /// Whether a place that was being made for the pod is given up.
    gives_up: bool,
}

struct State {
    snapshot: Snapshot,
    queue: Queue,
    nominated: preemption::Nominated,
}

struct Work {
    client: Client,
    recorder: Recorder,
    shelf: Arc<Shelf>,
    kin: Kin,
    pods: Cache<Pod>,
    budgets: Cache<PodDisruptionBudget>,
    state: Mutex<State>,
    ready: Notify,
    writes: Arc<Semaphore>,
    started: Instant,
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
                        Err(refusal) => {
                            work.refuse(&pod, &refusal.why).await;
                            let nominated =
                                pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref());
                            if refusal.gives_up && nominated.is_some_and(|n| !n.is_empty()) {
                                work.forget_place(&pod).await;
                            }
                            if let Some((preemption, displaced)) = refusal.preemption {
                                work.evict(&pod, preemption, displaced).await;
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
            info.spread_by = self.kin.selector(&pod);
            let kept = {
                let State { snapshot, nominated, .. } = &mut *state;
                preemption::keep_places(snapshot, nominated, &pod)
            };
            let solved = match Needs::of(&pod, &self.shelf.storage()) {
                Ok(needs) => {
                    info.volumes = needs;
                    self.find(&mut state, &info)
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
                Ok(node) => {
                    state.nominated.remove(info.uid());
                    let choice = self.shelf.reserve(&info, state.snapshot.node(&node));
                    state.snapshot.place(info, &node);
                    Ok((node, choice))
                }
                Err(unschedulable) => {
                    state.queue.refuse(key, now, unschedulable.until());
                    Err(self.refusal(&mut state, &info, &unschedulable, helped))
                }
            };
            return Some((pod, decision));
        }
    }

    /// The node for a pod. The one where a place is being made for it is its own if it is free by now.
    fn find(&self, state: &mut State, info: &PodInfo) -> Result<String, Unschedulable> {
        if let Some((_, node)) = state.nominated.get(info.uid())
            && fits(&mut state.snapshot, info, node)
        {
            return Ok(node.clone());
        }
        solve(&mut state.snapshot, info).map(|placement| placement.node)
    }

    fn refusal(
        &self,
        state: &mut State,
        info: &PodInfo,
        why: &Unschedulable,
        helped: Option<Result<Preemption, preemption::Refused>>,
    ) -> Refusal {
        match helped {
            Some(Ok(preemption)) => {
                let displaced = self.displace(state, info, &preemption.node);
                let preemption = Some((preemption, displaced));
                Refusal { why: why.to_string(), preemption, gives_up: false }
            }
            Some(Err(refused)) => {
                let why = format!("{why} no new claims to deallocate, preemption: {}", refused.why);
                Refusal { why, preemption: None, gives_up: !refused.keeps_place }
            }
            None => Refusal { why: why.to_string(), preemption: None, gives_up: false },
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
            state.queue.refuse((key.namespace, key.name), self.now_ms(), Causes::ANY);
            state.queue.wake(Causes::ANY);
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
            "observedGeneration": pod.metadata.generation,
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
