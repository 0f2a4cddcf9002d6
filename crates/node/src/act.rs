//! What a worker does about the actions of a plan: each becomes a task.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};
use pods::plan::{Action, Plan};

use crate::container::{self, Order};
use crate::observe::{self, Snapshot};
use crate::worker::{Done, Worker, min};
use crate::{halt, sandbox, volume};

impl Worker {
    /// Starts what the plan asks for, unless it is under way.
    pub(crate) fn act(
        &mut self,
        action: Action,
        plan: &Plan,
        pod: &Arc<Pod>,
        snap: &Snapshot,
        now: Timestamp,
    ) {
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
                    self.backoffs.insert(name.clone(), *b);
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
                // What is being started is waited for, so that its end is seen as well.
                if self.busy("stop") || self.tasks.keys().any(|task| task.starts_with("start:")) {
                    return;
                }
                for c in &snap.seen.containers {
                    let next = self.attempts.entry(c.name.clone()).or_default();
                    *next = (*next).max(c.attempt + 1);
                }
                let stop = pods::stop::plan(pod, &snap.seen, &self.memory);
                // Those that the restart is for go last: until then all can see that it is under way.
                let sandbox = snap.seen.sandboxes.first().map_or("", |s| &s.id);
                let causes = pod.spec.as_ref().map(|s| pods::plan::restarters(s, &snap.seen, sandbox));
                let causes = causes.unwrap_or_default();
                let mut ids: Vec<String> = snap.containers.iter().map(|c| c.id.clone()).collect();
                ids.sort_by_key(|id| causes.iter().any(|c| c.id == *id));
                let (pod, uid) = (pod.clone(), self.uid.clone());
                self.spawn("stop", async move {
                    halt::groups(&k, &pod, stop, &[]).await;
                    let left = observe::pod(&*k.runtime, &uid, &k.pod_dir(&uid)).await.unwrap_or_default();
                    for id in ids {
                        let _ = k.runtime.remove_container(&id).await;
                    }
                    Done::Taken(left.seen)
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
        if self.volumes.as_ref().is_some_and(|v| !v.lacks(pod)) {
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
        self.refresh = false;
        self.names = (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
        let (k, pod, tokens) = (self.k.clone(), pod.clone(), self.tokens.clone());
        let before = self.volumes.clone();
        self.spawn("volumes", async move {
            let mut tokens = tokens.lock().await;
            Done::Volumes(volume::mount(&k, &pod, &mut tokens, before).await)
        });
    }

    /// Refreshes files from the API when they changed or a token gets old.
    pub(crate) fn keep_fresh(
        &mut self,
        pod: &Arc<Pod>,
        plan: &Plan,
        now: Timestamp,
        wake: &mut Option<Timestamp>,
    ) {
        if plan.over {
            return;
        }
        if self.volumes.is_none() {
            *wake = min(*wake, self.memory.not_before.get("").copied().filter(|at| *at > now));
            return;
        }
        let renew = self.volumes.as_ref().and_then(|v| v.renew);
        let lacks = self.volumes.as_ref().is_some_and(|v| v.lacks(pod));
        let due = self.refresh || renew.is_some_and(|at| at <= now) || self.is_renamed(pod) || lacks;
        let waits = self.memory.not_before.get("").copied().filter(|at| *at > now);
        match (due, waits) {
            (true, Some(at)) => *wake = min(*wake, Some(at)),
            (true, None) => self.mount(pod),
            (false, _) => *wake = min(*wake, renew),
        }
    }

    /// Whether files of the downward API show labels or annotations that the pod no longer has.
    fn is_renamed(&self, pod: &Pod) -> bool {
        let shows = |v: &Volume| {
            let sources = v.projected.iter().flat_map(|p| p.sources.iter().flatten());
            v.downward_api.is_some() || sources.into_iter().any(|s| s.downward_api.is_some())
        };
        let metadata = &pod.metadata;
        pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).any(shows)
            && (self.names.0 != metadata.labels || self.names.1 != metadata.annotations)
    }
}
