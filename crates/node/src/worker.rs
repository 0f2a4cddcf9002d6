//! One pod's worker: looks, decides, starts what is due as tasks of their own, reports, and sleeps until woken.
//!
//! A pass never waits for slow things. Pulls, starts, stops and status writes are tasks in [`Worker::tasks`]; a pass
//! skips what is under way already, and the end of a task is a wake-up.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use client::{DeleteOptions, Patch};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerUser, LinuxContainerUser, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use pods::backoff::Backoff;
use pods::model::{End, Life, Memory, Waiting};
use pods::plan::{Action, Plan};
use pods::status::View;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::container::{self, Order};
use crate::kubelet::{Handle, Kubelet};
use crate::observe::{self, Snapshot};
use crate::probes::Probes;
use crate::volume::{Mounted, Tokens};
use crate::{halt, sandbox, volume};

/// How long the first status is held back, so that a pod that starts quickly is reported once.
const HOLD: Duration = Duration::from_millis(120);
/// Before something that failed is tried again.
const RETRY: SignedDuration = SignedDuration::from_secs(5);
/// Before a failed sandbox or mount is tried again for the first time.
const SOON: SignedDuration = SignedDuration::from_millis(500);

/// How a task ended.
enum Done {
    Volumes(Result<Mounted, String>),
    Sandbox(Result<(), String>),
    Start(String, Result<String, container::Failure>),
    Status(Box<PodStatus>, Result<(), client::Error>),
    Clean(Result<(), client::Error>),
    Other,
}

struct Worker {
    k: Arc<Kubelet>,
    uid: String,
    handle: Arc<Handle>,
    memory: Memory,
    probes: Probes,
    tasks: HashMap<String, JoinHandle<()>>,
    done: mpsc::Sender<(String, Done)>,
    volumes: Option<Mounted>,
    tokens: Arc<tokio::sync::Mutex<Tokens>>,
    refresh: bool,
    last: Option<PodStatus>,
    sent: Option<PodStatus>,
    born: Instant,
    admitted: bool,
    stop_grace: SignedDuration,
    pulls: HashMap<String, Backoff>,
    flips: HashMap<String, Timestamp>,
    failures: u32,
    retry_at: Option<Timestamp>,
    announced: HashSet<(String, u32)>,
    attempts: BTreeMap<String, u32>,
    cleaned: bool,
    tidied: bool,
}

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
        attempts: BTreeMap::new(),
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

fn min(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn after(now: Timestamp, delay: SignedDuration) -> Timestamp {
    now.saturating_add(delay).unwrap_or(now)
}

impl Worker {
    /// Starts a task whose end is told under `key`.
    fn spawn(&mut self, key: &str, work: impl Future<Output = Done> + Send + 'static) {
        let (done, name) = (self.done.clone(), key.to_string());
        let task = tokio::spawn(async move {
            let end = work.await;
            let _ = done.send((name, end)).await;
        });
        self.tasks.insert(key.to_string(), task);
    }

    fn busy(&self, key: &str) -> bool {
        self.tasks.contains_key(key)
    }

    /// Takes note of the end of a task.
    fn ended(&mut self, key: String, end: Done) {
        self.tasks.remove(&key);
        let now = Timestamp::now();
        let pod = self.handle.pod.lock().clone();
        match end {
            Done::Volumes(Ok(mounted)) => {
                self.volumes = Some(mounted);
                self.failures = 0;
            }
            Done::Volumes(Err(error)) => {
                self.k.events.pod(&pod, None, true, "FailedMount", error);
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
        let until = if failure.pull {
            let next = Backoff::after(self.pulls.get(&name).copied(), now);
            self.pulls.insert(name.clone(), next);
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
        let pod = Arc::new(self.current());
        self.judge(&pod, &snap, now);
        self.probes.tell(&snap.seen, &mut self.memory);
        let plan = pods::plan::plan(&pod, &snap.seen, &self.memory, now);
        let mut wake = plan.wake;
        self.flip(&pod, now, &mut wake);
        for action in plan.actions.clone() {
            self.act(action, &plan, &pod, &snap, now);
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

    /// A failed pull is first reported as such, then as a back-off.
    fn flip(&mut self, pod: &Pod, now: Timestamp, wake: &mut Option<Timestamp>) {
        let due: Vec<String> =
            self.flips.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        for name in due {
            self.flips.remove(&name);
            let found = pod.spec.as_ref().and_then(|s| pods::spec::find(s, &name));
            let (Some(w), Some((sort, c))) = (self.memory.waiting.get_mut(&name), found) else { continue };
            let text = format!("Back-off pulling image \"{}\"", c.image.unwrap_or_default());
            self.k.events.pod(pod, Some(container::field(sort, &name)), false, "BackOff", text.clone());
            w.message = format!("{text}: {}: {}", w.reason, w.message);
            w.reason = "ImagePullBackOff".into();
        }
        for at in self.flips.values() {
            *wake = min(*wake, Some(*at));
        }
    }

    fn act(&mut self, action: Action, plan: &Plan, pod: &Arc<Pod>, snap: &Snapshot, now: Timestamp) {
        let k = self.k.clone();
        match action {
            Action::MakeSandbox { attempt } => {
                if self.busy("sandbox") || self.busy("stop") || !self.mounted(pod, now) {
                    return;
                }
                let old: Vec<String> = snap.sandboxes.iter().map(|s| s.id.clone()).collect();
                let (pod, uid) = (pod.clone(), self.uid.clone());
                if !old.is_empty() {
                    let text = "Pod sandbox changed, it will be killed and re-created.".to_string();
                    k.events.pod(&pod, None, false, "SandboxChanged", text);
                }
                self.spawn("sandbox", async move {
                    for id in &old {
                        let _ = k.runtime.stop_sandbox(id).await;
                    }
                    if !old.is_empty() {
                        let _ = k.network.detach(&uid).await;
                    }
                    Done::Sandbox(sandbox::make(&k, &pod, attempt).await)
                });
            }
            Action::Start { name, sort, attempt } => {
                let key = format!("start:{name}");
                let blocked = self.busy("sandbox") || self.busy("stop") || self.busy(&key);
                if blocked || !self.mounted(pod, now) {
                    return;
                }
                let Some(live) = snap.seen.live_sandbox() else { return };
                if let Some(b) = plan.backoffs.get(&name) {
                    self.memory.restarts.insert(name.clone(), *b);
                }
                let attempt = attempt.max(self.attempts.get(&name).copied().unwrap_or(0));
                let order = Order {
                    pod: pod.clone(),
                    name: name.clone(),
                    sort,
                    attempt,
                    sandbox: live.id.clone(),
                    ips: live.ips.clone(),
                    volumes: self.volumes.clone().unwrap_or_default(),
                    ids: snap.seen.containers.iter().rev().map(|c| (c.name.clone(), c.id.clone())).collect(),
                };
                self.spawn(&key, async move { Done::Start(name, container::start(&k, &order).await) });
            }
            Action::Kill { id, name, message, grace } => {
                let key = format!("kill:{name}");
                if self.busy(&key) || self.busy("stop") {
                    return;
                }
                let pod = pod.clone();
                let ips = snap.seen.sandboxes.first().map(|s| s.ips.clone()).unwrap_or_default();
                self.spawn(&key, async move {
                    halt::one(&k, &pod, (&id, &name), &ips, message, grace).await;
                    Done::Other
                });
            }
            Action::RestartAll => {
                if self.busy("stop") {
                    return;
                }
                for c in &snap.seen.containers {
                    let next = self.attempts.entry(c.name.clone()).or_default();
                    *next = (*next).max(c.attempt + 1);
                }
                let stop = pods::stop::plan(pod, &snap.seen, &self.memory);
                let ids: Vec<String> = snap.containers.iter().map(|c| c.id.clone()).collect();
                let pod = pod.clone();
                self.spawn("stop", async move {
                    halt::groups(&k, &pod, stop, &[]).await;
                    for id in ids {
                        let _ = k.runtime.remove_container(&id).await;
                    }
                    Done::Other
                });
            }
            Action::StopPod => self.stop(pod, snap),
        }
    }

    fn stop(&mut self, pod: &Arc<Pod>, snap: &Snapshot) {
        let stop = pods::stop::plan(pod, &snap.seen, &self.memory);
        if self.busy("sandbox") {
            return;
        }
        if self.busy("stop") {
            if stop.grace >= self.stop_grace {
                return;
            }
            if let Some(task) = self.tasks.remove("stop") {
                task.abort();
            }
        }
        let starting: Vec<String> = self.tasks.keys().filter(|t| t.starts_with("start:")).cloned().collect();
        for key in starting {
            if let Some(task) = self.tasks.remove(&key) {
                task.abort();
            }
        }
        self.stop_grace = stop.grace;
        let sandboxes: Vec<String> = snap.sandboxes.iter().map(|s| s.id.clone()).collect();
        let ips = snap.seen.sandboxes.first().map(|s| s.ips.clone()).unwrap_or_default();
        let (k, pod, uid) = (self.k.clone(), pod.clone(), self.uid.clone());
        self.spawn("stop", async move {
            halt::groups(&k, &pod, stop, &ips).await;
            if let Err(error) = k.network.detach(&uid).await {
                tracing::warn!(error, pod = uid, "a pod was not unplugged");
            }
            for id in sandboxes {
                if let Err(error) = k.runtime.stop_sandbox(&id).await {
                    tracing::warn!(%error, sandbox = id, "a sandbox was not stopped");
                }
            }
            Done::Other
        });
    }

    /// Whether the volumes are there; makes them if not.
    fn mounted(&mut self, pod: &Arc<Pod>, now: Timestamp) -> bool {
        if self.volumes.is_some() {
            return true;
        }
        let waits = self.memory.not_before.get("").is_some_and(|at| *at > now);
        if !waits {
            self.mount(pod);
        }
        false
    }

    fn mount(&mut self, pod: &Arc<Pod>) {
        if self.busy("volumes") {
            return;
        }
        let (k, pod, tokens) = (self.k.clone(), pod.clone(), self.tokens.clone());
        self.spawn("volumes", async move {
            let mut tokens = tokens.lock().await;
            Done::Volumes(volume::mount(&k, &pod, &mut tokens).await)
        });
    }

    /// Refreshes files from the API when they changed or a token gets old.
    fn keep_fresh(&mut self, pod: &Arc<Pod>, plan: &Plan, now: Timestamp, wake: &mut Option<Timestamp>) {
        if plan.over {
            return;
        }
        if self.volumes.is_none() {
            *wake = min(*wake, self.memory.not_before.get("").copied().filter(|at| *at > now));
            return;
        }
        let renew = self.volumes.as_ref().and_then(|v| v.renew);
        if self.refresh || renew.is_some_and(|at| at <= now) {
            self.refresh = false;
            self.mount(pod);
        } else {
            *wake = min(*wake, renew);
        }
    }

    /// Says once per crash that a restart waits.
    fn announce(&mut self, pod: &Pod, plan: &Plan, snap: &Snapshot) {
        for (name, w) in plan.waiting.iter().filter(|(_, w)| w.reason == "CrashLoopBackOff") {
            let attempt = snap.seen.newest(name).map_or(0, |s| s.attempt);
            if self.announced.insert((name.clone(), attempt)) {
                let sort = pod.spec.as_ref().and_then(|s| pods::spec::find(s, name)).map(|(s, _)| s);
                let text = format!(
                    "Back-off restarting failed container {name} in pod {}",
                    pods::spec::describe(pod)
                );
                let place = sort.map(|s| container::field(s, name));
                self.k.events.pod(pod, place, true, "BackOff", text);
            }
            tracing::debug!(message = w.message, "waits");
        }
    }

    /// Removes ended containers but the newest two of each name.
    fn collect(&mut self, snap: &Snapshot) {
        if self.busy("collect") {
            return;
        }
        let mut count: HashMap<&str, u32> = HashMap::new();
        let mut old = Vec::new();
        for c in &snap.seen.containers {
            let n = count.entry(&c.name).or_default();
            *n += 1;
            if *n > 2 && c.life == Life::Exited {
                let log = snap.containers.iter().find(|r| r.id == c.id).map(|r| r.log_path.clone());
                old.push((c.id.clone(), log));
            }
        }
        if old.is_empty() {
            return;
        }
        let k = self.k.clone();
        self.spawn("collect", async move {
            for (id, log) in old {
                let _ = k.runtime.remove_container(&id).await;
                if let Some(log) = log.filter(|l| !l.as_os_str().is_empty()) {
                    let _ = std::fs::remove_file(log);
                }
            }
            Done::Other
        });
    }

    /// Writes the status if it changed.
    fn report(
        &mut self,
        pod: &Pod,
        plan: &Plan,
        snap: &Snapshot,
        quiet: bool,
        now: Timestamp,
        wake: &mut Option<Timestamp>,
    ) {
        let users = users(snap);
        let hosts = self.k.options.ip_texts();
        let view = View {
            seen: &snap.seen,
            memory: &self.memory,
            waiting: &plan.waiting,
            over: plan.over && !snap.seen.anything_runs() && (quiet || !self.busy("stop")),
            host_ips: &hosts,
            runtime: &self.k.runtime_name,
            users: &users,
            now,
        };
        let status = pods::status::status(pod, &view);
        self.last = Some(status.clone());
        *self.handle.status.lock() = Some(status.clone());
        if self.sent.as_ref() == Some(&status)
            || self.busy("status")
            || self.handle.gone.load(Ordering::Acquire)
            || self.retry_at.is_some_and(|at| at > now)
        {
            return;
        }
        let starting = self.tasks.keys().any(|t| t == "volumes" || t == "sandbox" || t.starts_with("start:"));
        if self.sent.is_none() && starting && self.born.elapsed() < HOLD {
            let left = HOLD.saturating_sub(self.born.elapsed());
            *wake = min(*wake, Some(after(now, SignedDuration::try_from(left).unwrap_or(SOON))));
            return;
        }
        let (client, m) = (self.k.client.clone(), pod.metadata.clone());
        let replaced = self.sent.as_ref().is_some_and(|s| s.pod_ips.is_some() && s.pod_ips != status.pod_ips);
        self.spawn("status", async move {
            let outcome = write(&client, &m, &status, replaced).await;
            Done::Status(Box::new(status), outcome)
        });
    }

    /// The pod is over and everything of it has stopped.
    fn finish(&mut self, pod: &Arc<Pod>, snap: &Snapshot) {
        let gone = self.handle.gone.load(Ordering::Acquire);
        if pod.metadata.deletion_timestamp.is_none() && !gone {
            self.k.release(&self.uid);
            if !self.tidied {
                self.tidied = true;
                self.volumes = None;
                let dir = self.k.pod_dir(&self.uid).join("volumes");
                self.spawn("tidy", async move {
                    let _ = tokio::task::spawn_blocking(move || volumes::setup::tear_down(&dir)).await;
                    Done::Other
                });
            }
            return;
        }
        let reported = gone || self.sent == self.last;
        let waits = self.retry_at.is_some_and(|at| at > Timestamp::now());
        if !reported || waits || self.busy("status") {
            return;
        }
        let sandboxes: Vec<String> = snap.sandboxes.iter().map(|s| s.id.clone()).collect();
        let (k, uid, pod) = (self.k.clone(), self.uid.clone(), pod.clone());
        self.spawn("clean", async move { Done::Clean(halt::clean(&k, &pod, &uid, sandboxes, gone).await) });
    }
}

/// Event reasons are words the program knows.
fn reason_word(reason: &str) -> &'static str {
    match reason {
        "OutOfcpu" => "OutOfcpu",
        "OutOfmemory" => "OutOfmemory",
        "OutOfpods" => "OutOfpods",
        "NodeAffinity" => "NodeAffinity",
        "NodePorts" => "NodePorts",
        _ => "UnexpectedAdmissionError",
    }
}

fn users(snap: &Snapshot) -> BTreeMap<String, ContainerUser> {
    let started = snap.containers.iter().filter(|c| c.started_at != 0);
    started
        .map(|c| {
            let groups: Vec<i64> = c.user.supplemental_groups.iter().map(|g| i64::from(*g)).collect();
            let linux = LinuxContainerUser {
                uid: i64::from(c.user.uid),
                gid: i64::from(c.user.gid),
                supplemental_groups: (!groups.is_empty()).then_some(groups),
            };
            (c.id.clone(), ContainerUser { linux: Some(linux) })
        })
        .collect()
}

async fn write(
    client: &client::Client,
    m: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    status: &PodStatus,
    replaced: bool,
) -> Result<(), client::Error> {
    let mut value = serde_json::to_value(status).map_err(|e| client::Error::Request(e.to_string()))?;
    if let (true, Some(list)) = (replaced, value.get_mut("podIPs").and_then(|v| v.as_array_mut())) {
        list.insert(0, json!({ "$patch": "replace" }));
    }
    let patch = Patch::Strategic(json!({ "metadata": { "uid": m.uid }, "status": value }));
    let (namespace, name) = (m.namespace.as_deref().unwrap_or(""), m.name.as_deref().unwrap_or(""));
    client.patch_status::<Pod>(namespace, name, &patch).await.map(drop)
}

/// Deletes the pod from the API, if it is still this one.
pub async fn delete(client: &client::Client, pod: &Pod) -> Result<(), client::Error> {
    let m = &pod.metadata;
    let (namespace, name) = (m.namespace.as_deref().unwrap_or(""), m.name.as_deref().unwrap_or(""));
    let options = DeleteOptions::uid(m.uid.as_deref().unwrap_or("")).grace(0);
    match client.delete::<Pod>(namespace, name, &options).await {
        Err(e) if e.is_not_found() || e.is_conflict() => Ok(()),
        other => other.map(drop),
    }
}
