//! What a worker tells: statuses, events, and at the end the deletion.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use client::{DeleteOptions, Patch};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerUser, LinuxContainerUser, Pod, PodStatus};
use pods::model::Life;
use pods::plan::Plan;
use pods::spec::Sort;
use pods::status::View;
use serde_json::json;

use crate::observe::Snapshot;
use crate::worker::{Done, SOON, Worker, after, min};
use crate::{container, halt, statics};

/// How long the first status is held back, so that a pod that starts quickly is reported once.
const HOLD: Duration = Duration::from_millis(120);
/// How long a status is held back while a container is replaced by one of another definition.
const REPLACE_HOLD: Duration = Duration::from_millis(300);

impl Worker {
    /// Says once per crash that a restart waits.
    pub(crate) fn announce(&mut self, pod: &Pod, plan: &Plan, snap: &Snapshot) {
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
    pub(crate) fn collect(&mut self, snap: &Snapshot) {
        self.ended.retain(|id| snap.seen.containers.iter().any(|c| c.id == *id));
        for c in snap.seen.containers.iter().filter(|c| c.life == Life::Exited) {
            if self.ended.insert(c.id.clone()) {
                let pod = self.handle.pod.lock().clone();
                let sort = pod.spec.as_ref().and_then(|s| pods::spec::find(s, &c.name)).map(|(s, _)| s);
                let reason = pods::status::reason_of_end(c);
                self.k.tally.ended(sort.unwrap_or(Sort::Regular), c.exit_code, reason);
                let pod = pods::spec::describe(&pod);
                let container = &c.name;
                tracing::info!(pod, container, attempt = c.attempt, exit_code = c.exit_code, reason, "ended");
            }
        }
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
    pub(crate) fn report(
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
            resources: &self.applied,
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
        if self.sent.is_some() && !plan.over && in_exchange(pod, snap) {
            let since = *self.exchange.get_or_insert_with(std::time::Instant::now);
            let left = REPLACE_HOLD.saturating_sub(since.elapsed());
            if !left.is_zero() {
                *wake = min(*wake, Some(after(now, SignedDuration::try_from(left).unwrap_or(SOON))));
                return;
            }
        } else {
            self.exchange = None;
        }
        let known = [self.sent.clone(), self.handle.pod.lock().status.clone()];
        let gone = known.iter().flatten().flat_map(|s| ended(s, &status)).collect();
        let (client, m) = (self.k.client.clone(), pod.metadata.clone());
        let replaced = self.sent.as_ref().is_some_and(|s| s.pod_ips.is_some() && s.pod_ips != status.pod_ips);
        self.spawn("status", async move {
            let outcome = write(&client, &m, &status, replaced, gone).await;
            Done::Status(Box::new(status), outcome)
        });
    }

    /// The pod is over and everything of it has stopped.
    pub(crate) fn finish(&mut self, pod: &Arc<Pod>, snap: &Snapshot) {
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

/// Whether a container of an older definition has ended and its successor is still to come.
fn in_exchange(pod: &Pod, snap: &Snapshot) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.into_iter().any(|c| {
        let is_older = |seen: &pods::model::ContainerSeen| {
            seen.spec_hash.is_some_and(|hash| hash != pods::spec::hash(c))
        };
        let mut own = snap.seen.containers.iter().filter(|seen| seen.name == c.name);
        let waits = snap.seen.newest(&c.name).is_some_and(|seen| match seen.life {
            Life::Running => false,
            Life::Created => true,
            _ => is_older(seen),
        });
        waits && own.any(is_older)
    })
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

/// The conditions of a resize that an earlier status has and the new one has not.
fn ended(old: &PodStatus, new: &PodStatus) -> Vec<&'static str> {
    let has = |s: &PodStatus, kind: &str| s.conditions.iter().flatten().any(|c| c.type_ == kind);
    let kinds = [pods::status::RESIZE_PENDING, pods::status::RESIZE_RUNNING];
    kinds.into_iter().filter(|kind| has(old, kind) && !has(new, kind)).collect()
}

async fn write(
    client: &client::Client,
    m: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    status: &PodStatus,
    replaced: bool,
    gone: BTreeSet<&'static str>,
) -> Result<(), client::Error> {
    let mut value = client::to_value(status)?;
    // A merge keeps what is absent, so what a condition no longer says must be taken out by name.
    for condition in value.get_mut("conditions").and_then(|v| v.as_array_mut()).into_iter().flatten() {
        for field in ["reason", "message"] {
            if condition.get(field).is_none() {
                condition[field] = serde_json::Value::Null;
            }
        }
    }
    if let Some(list) = value.get_mut("conditions").and_then(|v| v.as_array_mut()) {
        list.extend(gone.into_iter().map(|kind| json!({ "type": kind, "$patch": "delete" })));
    }
    if let (true, Some(list)) = (replaced, value.get_mut("podIPs").and_then(|v| v.as_array_mut())) {
        list.insert(0, json!({ "$patch": "replace" }));
    }
    // A static pod is known to the API by its mirror, which has another uid.
    let file = m.annotations.as_ref().and_then(|a| a.get(statics::SOURCE)).is_some_and(|s| s == "file");
    let uid = m.uid.as_ref().filter(|_| !file);
    let patch = Patch::Strategic(json!({ "metadata": { "uid": uid }, "status": value }));
    let (namespace, name) = (m.namespace.as_deref().unwrap_or(""), m.name.as_deref().unwrap_or(""));
    client.patch_status::<Pod>(namespace, name, &patch).await.map(drop)
}

/// Deletes the pod from the API, if it is still this one.
pub(crate) async fn delete(client: &client::Client, pod: &Pod) -> Result<(), client::Error> {
    let m = &pod.metadata;
    let (namespace, name) = (m.namespace.as_deref().unwrap_or(""), m.name.as_deref().unwrap_or(""));
    let options = DeleteOptions::uid(m.uid.as_deref().unwrap_or("")).grace(0);
    match client.delete::<Pod>(namespace, name, &options).await {
        Err(e) if e.is_not_found() || e.is_conflict() => Ok(()),
        other => other.map(drop),
    }
}
