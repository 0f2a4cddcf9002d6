//! One pod's worker: looks, decides, starts what is due as tasks of their own, reports, and sleeps until woken.
//!
//! A pass never waits for slow things. Pulls, starts, stops and status writes are tasks in [`Worker::tasks`]; a pass
//! skips what is under way already, and the end of a task is a wake-up.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use pods::backoff::Backoff;
use pods::model::{End, Life, Memory, Observed, Waiting};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::container::{self};
use crate::kubelet::{Handle, Kubelet};
use crate::observe::{self, Snapshot};
use crate::probes::Probes;
use crate::volume::{Mounted, Tokens};

/// Before something that failed is tried again.
const RETRY: SignedDuration = SignedDuration::from_secs(5);
/// Before a failed sandbox or mount is tried again for the first time.
pub(crate) const SOON: SignedDuration = SignedDuration::from_millis(500);

/// How a task ended.
pub(crate) enum Done {
    Volumes(Result<Mounted, String>),
    Sandbox(Result<(), String>),
    Start(String, Result<String, container::Failure>),
    Status(Box<PodStatus>, Result<(), client::Error>),
    Clean(Result<(), client::Error>),
    Resized(String, Result<ResourceRequirements, String>),
    Taken(Observed),
    Other,
}

/// The state of one worker.
pub(crate) struct Worker {
    pub(crate) k: Arc<Kubelet>,
    pub(crate) uid: String,
    pub(crate) handle: Arc<Handle>,
    pub(crate) memory: Memory,
    pub(crate) probes: Probes,
    pub(crate) tasks: HashMap<String, JoinHandle<()>>,
    pub(crate) done: mpsc::Sender<(String, Done)>,
    pub(crate) volumes: Option<Mounted>,
    pub(crate) tokens: Arc<tokio::sync::Mutex<Tokens>>,
    pub(crate) refresh: bool,
    /// The labels and annotations that the volumes were made with.
    pub(crate) names: Names,
    pub(crate) last: Option<PodStatus>,
    pub(crate) sent: Option<PodStatus>,
    pub(crate) born: Instant,
    pub(crate) admitted: bool,
    pub(crate) stop_grace: SignedDuration,
    /// By container: the image that could not be pulled, and for how long it is left alone.
    pub(crate) pulls: HashMap<String, (String, Backoff)>,
    pub(crate) flips: HashMap<String, Timestamp>,
    pub(crate) failures: u32,
    pub(crate) retry_at: Option<Timestamp>,
    pub(crate) announced: HashSet<(String, u32)>,
    /// Containers whose end was logged.
    pub(crate) ended: HashSet<String>,
    pub(crate) attempts: BTreeMap<String, u32>,
    /// Since when a container is being replaced.
    pub(crate) exchange: Option<Instant>,
    /// Back-offs of starts that are under way; they count once the start has ended.
    pub(crate) backoffs: HashMap<String, Backoff>,
    /// What the node has promised each container, by name, while the pod asks for something else.
    pub(crate) allocated: Option<BTreeMap<String, ResourceRequirements>>,
    /// That, as it is on disk.
    pub(crate) checkpointed: Option<BTreeMap<String, ResourceRequirements>>,
    /// What running containers have, by their ids.
    pub(crate) applied: BTreeMap<String, ResourceRequirements>,
    pub(crate) cleaned: bool,
    pub(crate) tidied: bool,
}

/// Labels and annotations.
type Names = (Option<BTreeMap<String, String>>, Option<BTreeMap<String, String>>);

/// Works on one pod until it is gone.
pub async fn run(k: Arc<Kubelet>, uid: String, handle: Arc<Handle>) {
    let (done, mut ends) = mpsc::channel(64);
    let last = handle.pod.lock().status.clone().filter(|s| s.container_statuses.is_some());
    let mut worker = Worker {
        k: k.clone(),
        uid: uid.clone(),
        handle: handle.clone(),
        memory: Memory::default(),
        probes: Probes::default(),
        tasks: HashMap::new(),
        done,
        volumes: None,
        tokens: Arc::default(),
        refresh: false,
        names: Names::default(),
        sent: last.clone(),
        last,
        born: Instant::now(),
        admitted: false,
        stop_grace: SignedDuration::MAX,
        pulls: HashMap::new(),
        flips: HashMap::new(),
        failures: 0,
        retry_at: None,
        announced: HashSet::new(),
        ended: HashSet::new(),
        attempts: BTreeMap::new(),
        exchange: None,
        backoffs: HashMap::new(),
        allocated: None,
        checkpointed: None,
        applied: BTreeMap::new(),
        cleaned: false,
        tidied: false,
    };
    loop {
        if worker.cleaned && handle.gone.load(Ordering::Acquire) {
            break;
        }
        let wake = worker.pass().await;
        let now = Timestamp::now();
        let wait = wake.map_or(Duration::from_secs(3600), |at| {
            Duration::try_from(at.duration_since(now)).unwrap_or_default()
        });
        tokio::select! {
            () = handle.notify.notified() => {}
            Some((key, end)) = ends.recv() => worker.ended(key, end),
            () = tokio::time::sleep(wait) => {}
        }
        while let Ok((key, end)) = ends.try_recv() {
            worker.ended(key, end);
        }
    }
    k.forget(&uid);
}

pub(crate) fn min(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

pub(crate) fn after(now: Timestamp, delay: SignedDuration) -> Timestamp {
    now.saturating_add(delay).unwrap_or(now)
}

impl Worker {
    /// Starts a task whose end is told under `key`.
    pub(crate) fn spawn(&mut self, key: &str, work: impl Future<Output = Done> + Send + 'static) {
        let (done, name) = (self.done.clone(), key.to_string());
        let task = tokio::spawn(async move {
            let end = work.await;
            let _ = done.send((name, end)).await;
        });
        self.tasks.insert(key.to_string(), task);
    }

    pub(crate) fn busy(&self, key: &str) -> bool {
        self.tasks.contains_key(key)
    }

    /// Takes note of the end of a task.
    fn ended(&mut self, key: String, end: Done) {
        self.tasks.remove(&key);
        if let Some(name) = key.strip_prefix("start:")
            && let Some(backoff) = self.backoffs.remove(name)
        {
            self.memory.restarts.insert(name.to_owned(), backoff);
        }
        let now = Timestamp::now();
        let pod = self.handle.pod.lock().clone();
        match end {
            Done::Volumes(Ok(mounted)) => {
                self.handle.volumes.lock().clone_from(&mounted.paths);
                self.volumes = Some(mounted);
                self.failures = 0;
            }
            Done::Volumes(Err(error)) => {
                self.k.events.pod(&pod, None, true, "FailedMount", error);
                self.refresh |= self.volumes.is_some();
                self.failed(now);
            }
            Done::Sandbox(Ok(())) => self.failures = 0,
            Done::Sandbox(Err(error)) => {
                let text = format!("Failed to create pod sandbox: {error}");
                self.k.events.pod(&pod, None, true, "FailedCreatePodSandBox", text);
                self.failed(now);
            }
            Done::Start(name, Ok(_)) => {
                self.memory.waiting.remove(&name);
                self.memory.not_before.remove(&name);
                self.pulls.remove(&name);
                self.flips.remove(&name);
            }
            Done::Start(name, Err(failure)) => self.not_started(name, failure, now),
            Done::Status(status, Ok(())) => self.sent = Some(*status),
            Done::Status(status, Err(error)) => {
                if error.is_not_found() || error.is_conflict() {
                    self.sent = Some(*status);
                } else {
                    tracing::warn!(pod = pods::spec::describe(&pod), error = %error.chain(), "a status was not written");
                    self.retry_at = Some(after(now, SignedDuration::from_secs(1)));
                }
            }
            Done::Clean(Ok(())) => self.cleaned = true,
            Done::Clean(Err(error)) => {
                tracing::warn!(pod = pods::spec::describe(&pod), error = %error.chain(), "a pod was not deleted");
                self.retry_at = Some(after(now, SignedDuration::from_secs(1)));
            }
            Done::Resized(id, Ok(resources)) => {
                self.applied.insert(id, resources);
            }
            Done::Resized(id, Err(error)) => {
                self.memory.resize.running = Some(Some(error.clone()));
                tracing::warn!(pod = pods::spec::describe(&pod), id, error, "a container was not resized");
                self.retry_at = Some(after(now, SignedDuration::from_secs(1)));
            }
            Done::Taken(seen) => {
                for ended in seen.containers.into_iter().rev().filter(|c| c.life == Life::Exited) {
                    self.memory.taken.insert(ended.name.clone(), ended);
                }
            }
            Done::Other => {}
        }
    }

    fn failed(&mut self, now: Timestamp) {
        let factor = 1 << self.failures.min(8);
        let delay = (SOON * factor).min(SignedDuration::from_secs(120));
        self.failures += 1;
        self.memory.not_before.insert(String::new(), after(now, delay));
    }

    fn not_started(&mut self, name: String, failure: container::Failure, now: Timestamp) {
        let until = if let Some(image) = failure.pull {
            let before = self.pulls.get(&name).filter(|(i, _)| *i == image).map(|(_, b)| *b);
            let next = Backoff::after(before, now);
            self.pulls.insert(name.clone(), (image, next));
            self.flips.insert(name.clone(), after(now, SignedDuration::from_secs(1)));
            after(now, next.delay)
        } else {
            after(now, RETRY)
        };
        self.memory.not_before.insert(name.clone(), until);
        self.memory.waiting.insert(name, failure.waiting);
    }

    /// The pod with the status as this worker last made it; conditions of others come from the API.
    fn current(&self) -> Pod {
        let mut pod = Pod::clone(&self.handle.pod.lock());
        if let Some(last) = &self.last {
            let mut status = last.clone();
            let own = status.conditions.get_or_insert_default();
            for c in pod.status.iter().flat_map(|s| s.conditions.iter().flatten()) {
                let mine = matches!(
                    c.type_.as_str(),
                    "Ready"
                        | "ContainersReady"
                        | "Initialized"
                        | "PodReadyToStartContainers"
                        | "PodScheduled"
                        | pods::status::RESIZE_PENDING
                        | pods::status::RESIZE_RUNNING
                );
                if !mine {
                    own.retain(|o| o.type_ != c.type_);
                    own.push(c.clone());
                }
            }
            pod.status = Some(status);
        }
        if self.handle.gone.load(Ordering::Acquire) && pod.metadata.deletion_timestamp.is_none() {
            pod.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
        }
        pod
    }

    /// Looks, decides, acts. Answers when to look again.
    async fn pass(&mut self) -> Option<Timestamp> {
        let now = Timestamp::now();
        if self.cleaned {
            return None;
        }
        let dir = self.k.pod_dir(&self.uid);
        let snap = match observe::pod(&*self.k.runtime, &self.uid, &dir).await {
            Ok(snap) => snap,
            Err(error) => {
                tracing::warn!(%error, pod = self.uid, "the runtime does not answer");
                return Some(after(now, SignedDuration::from_secs(1)));
            }
        };
        if self.handle.refs_changed.swap(false, Ordering::AcqRel) {
            self.refresh = true;
            let config = |w: &Waiting| w.reason == "CreateContainerConfigError";
            let stuck: Vec<_> =
                self.memory.waiting.iter().filter(|(_, w)| config(w)).map(|(n, _)| n.clone()).collect();
            for name in &stuck {
                self.memory.not_before.remove(name);
            }
            self.memory.not_before.remove("");
        }
        // A report that is under way may have gone to the one before.
        if !self.busy("status") && self.handle.unreported.swap(false, Ordering::AcqRel) {
            self.sent = None;
        }
        let pod = self.current();
        let pod = Arc::new(self.allocate(pod));
        self.checkpoint();
        if !self.admitted && snap.sandboxes.is_empty() {
            self.k.recall_node(&pod).await;
        }
        self.renamed(&pod);
        self.judge(&pod, &snap, now);
        self.probes.tell(&snap.seen, &mut self.memory);
        // Before the plan, which copies what containers wait for.
        let mut due = None;
        self.flip(&pod, now, &mut due);
        let plan = pods::plan::plan(&pod, &snap.seen, &self.memory, now);
        let mut wake = min(plan.wake, due);
        for action in plan.actions.clone() {
            self.act(action, &plan, &pod, &snap, now);
        }
        if !plan.over && self.retry_at.is_none_or(|at| at <= now) {
            for action in self.resize(&pod, &snap) {
                self.act(action, &plan, &pod, &snap, now);
            }
        }
        self.keep_fresh(&pod, &plan, now, &mut wake);
        let ips = snap.seen.sandboxes.first().map(|s| s.ips.clone()).unwrap_or_default();
        self.probes.sync(&self.k.clone(), &pod, &snap.seen, &self.memory, &ips);
        self.announce(&pod, &plan, &snap);
        self.collect(&snap);
        let quiet = plan.over && plan.actions.is_empty() && self.tasks.keys().all(|t| t == "status");
        self.report(&pod, &plan, &snap, quiet, now, &mut wake);
        if quiet {
            self.finish(&pod, &snap);
        }
        if let Some(at) = self.retry_at.filter(|at| *at > now) {
            wake = min(wake, Some(at));
        }
        wake
    }

    /// Admission, the deadline, and what others decided.
    fn judge(&mut self, pod: &Arc<Pod>, snap: &Snapshot, now: Timestamp) {
        if let Some(end) = self.handle.end.lock().take()
            && self.memory.end.is_none()
        {
            self.memory.end = Some(end);
        }
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        let over = matches!(phase, Some("Succeeded" | "Failed")) || pod.metadata.deletion_timestamp.is_some();
        if !self.admitted {
            self.admitted = true;
            if !over && let Err(refusal) = self.k.admit(pod, !snap.sandboxes.is_empty()) {
                self.k.events.pod(pod, None, true, reason_word(&refusal.reason), refusal.message.clone());
                let (reason, message) = (refusal.reason, refusal.message);
                self.memory.end = Some(End { reason, message, grace: None, disruption: None });
            }
        }
        if self.memory.end.is_none() && !over && pods::plan::deadline(pod).is_some_and(|d| d <= now) {
            self.memory.end = Some(End {
                reason: "DeadlineExceeded".into(),
                message: "Pod was active on the node longer than the specified deadline".into(),
                grace: None,
                disruption: None,
            });
        }
    }

    /// Whoever mends the name of an image does not wait for the back-off of the old one.
    fn renamed(&mut self, pod: &Pod) {
        let Some(spec) = &pod.spec else { return };
        let names = |image: &str| {
            let volumes =
                spec.volumes.iter().flatten().filter_map(|v| v.image.as_ref()?.reference.as_deref());
            volumes.into_iter().any(|i| i == image)
        };
        let of = |name: &str| pods::spec::find(spec, name).and_then(|(_, c)| c.image);
        let gone = |(name, (image, _)): &(&String, &(String, Backoff))| {
            of(name).as_deref() != Some(image.as_str()) && !names(image)
        };
        let gone: Vec<String> = self.pulls.iter().filter(gone).map(|(name, _)| name.clone()).collect();
        for name in gone {
            self.pulls.remove(&name);
            self.flips.remove(&name);
            self.memory.not_before.remove(&name);
            self.memory.waiting.remove(&name);
        }
    }

    /// A failed pull is first reported as such, then as a back-off.
    fn flip(&mut self, pod: &Pod, now: Timestamp, wake: &mut Option<Timestamp>) {
        let due: Vec<String> =
            self.flips.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        for name in due {
            self.flips.remove(&name);
            let found = pod.spec.as_ref().and_then(|s| pods::spec::find(s, &name));
            let (Some(w), Some((sort, c))) = (self.memory.waiting.get_mut(&name), found) else { continue };
            let image = self.pulls.get(&name).map(|(image, _)| image.clone()).or(c.image).unwrap_or_default();
            let text = format!("Back-off pulling image \"{image}\"");
            let field = Some(container::field(sort, &name));
            self.k.events.pod(pod, field.clone(), false, "BackOff", text.clone());
            self.k.events.pod(pod, field, true, "Failed", "Error: ImagePullBackOff".into());
            w.message = format!("{text}: {}: {}", w.reason, w.message);
            w.reason = "ImagePullBackOff".into();
        }
        for at in self.flips.values() {
            *wake = min(*wake, Some(*at));
        }
    }
}

/// Event reasons are words the program knows.
fn reason_word(reason: &str) -> &'static str {
    match reason {
        "OutOfcpu" => "OutOfcpu",
        "OutOfmemory" => "OutOfmemory",
        "OutOfpods" => "OutOfpods",
        "OutOfephemeral-storage" => "OutOfephemeral-storage",
        "Evicted" => "Evicted",
        "SysctlForbidden" => "SysctlForbidden",
        "NodeAffinity" => "NodeAffinity",
        "NodePorts" => "NodePorts",
        "NodeShutdown" => "NodeShutdown",
        _ => "UnexpectedAdmissionError",
    }
}
