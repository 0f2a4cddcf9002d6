//! Stops containers with their hooks and grace, and removes what a pod leaves behind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use pods::spec;
use pods::stop::{Stop, left};

use crate::container::field;
use crate::kubelet::Kubelet;
use crate::{cgroups, hooks, report};

fn seconds(d: SignedDuration) -> u32 {
    let up = d.as_secs() + i64::from(d.subsec_nanos() > 0);
    u32::try_from(up).unwrap_or(if d.is_negative() { 0 } else { u32::MAX })
}

/// Stops every group after the other, within the grace period.
pub async fn groups(k: &Arc<Kubelet>, pod: &Pod, stop: Stop, ips: &[String]) {
    let began = Instant::now();
    for group in &stop.groups {
        let each = group.iter().map(|v| {
            let elapsed = SignedDuration::try_from(began.elapsed()).unwrap_or(SignedDuration::ZERO);
            let message = format!("Stopping container {}", v.name);
            halt(k, pod, (&v.id, &v.name), ips, message, left(stop.grace, elapsed))
        });
        join_all(each).await;
    }
}

/// Stops one container, which will be restarted.
pub async fn one(
    k: &Arc<Kubelet>,
    pod: &Pod,
    who: (&str, &str),
    ips: &[String],
    message: String,
    grace: Option<i64>,
) {
    let own = pod.spec.as_ref().map_or(30, spec::grace_seconds);
    halt(k, pod, who, ips, message, SignedDuration::from_secs(grace.unwrap_or(own))).await;
}

async fn halt(
    k: &Arc<Kubelet>,
    pod: &Pod,
    (id, name): (&str, &str),
    ips: &[String],
    message: String,
    grace: SignedDuration,
) {
    let began = Instant::now();
    let found = pod.spec.as_ref().and_then(|s| spec::find(s, name));
    let place = found.as_ref().map(|(sort, _)| field(*sort, name));
    k.events.pod(pod, place.clone(), false, "Killing", message);
    let hook = found.as_ref().and_then(|(_, c)| Some((c, c.lifecycle.as_ref()?.pre_stop.as_ref()?)));
    if let Some((c, hook)) = hook.filter(|_| grace.is_positive()) {
        let limit = Duration::try_from(grace).unwrap_or_default();
        if let Err(error) = hooks::run(k, pod, c, id, ips, hook, limit).await {
            tracing::info!(container = name, error, "the preStop hook failed");
            k.events.pod(pod, place, true, "FailedPreStopHook", "PreStopHook failed".into());
        }
    }
    let elapsed = SignedDuration::try_from(began.elapsed()).unwrap_or(SignedDuration::ZERO);
    if let Err(error) = k.runtime.stop_container(id, seconds(left(grace, elapsed))).await
        && !error.is_not_found()
    {
        tracing::warn!(%error, container = id, "a container was not stopped");
        let text = format!("error killing pod: {error}");
        k.events.pod(pod, None, true, "FailedKillPod", text);
    }
}

/// Removes the pod's containers, network, volumes and logs, then the pod itself from the API.
pub async fn clean(
    k: &Arc<Kubelet>,
    pod: &Pod,
    uid: &str,
    sandboxes: Vec<String>,
    gone: bool,
) -> Result<(), client::Error> {
    let removals = sandboxes.iter().map(|id| k.runtime.remove_sandbox(id));
    for (id, outcome) in sandboxes.iter().zip(join_all(removals).await) {
        if let Err(error) = outcome {
            tracing::warn!(%error, sandbox = id, "a sandbox was not removed");
        }
    }
    if let Err(error) = k.network.detach(uid).await {
        tracing::warn!(error, pod = uid, "a pod was not unplugged");
    }
    let (dir, logs) = (k.pod_dir(uid), k.pod_logs(pod));
    let (devices, user) = (k.devices.clone(), uid.to_owned());
    cgroups::remove(&k.options, pod);
    let files = move || {
        if let Err(error) = volumes::setup::tear_down(&dir) {
            tracing::warn!(%error, "files of a pod are left");
        }
        crate::volume::release_devices(&devices, &user);
        let _ = std::fs::remove_dir_all(logs);
    };
    if let Err(error) = tokio::task::spawn_blocking(files).await {
        tracing::warn!(%error, "files of a pod are left");
    }
    if gone { Ok(()) } else { report::delete(&k.client, pod).await }
}
