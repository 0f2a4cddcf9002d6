//! Keeps the node out of trouble: evicts pods when memory or disk run low, removes images nobody uses, enforces the
//! limits of local storage, and rotates logs.
//!
//! Memory is looked at more often than anything else here, and only while pods run.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use oci::cgroup::Cgroups;
use oci::runtime::{ContainerState, ContainerStats, Filter, SandboxStats};
use pods::evict::{self, Use};
use pods::model::End;
use pods::threshold::{Met, Signal};

use crate::kubelet::Kubelet;
use crate::{cgroups, observe, stats};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(10);
/// Looks between two scans of disks: a minute.
const DISK_EVERY: u32 = 6;
/// Looks between two collections of images: five minutes.
const IMAGES_EVERY: u32 = 30;
/// The longest log file, in bytes.
const LOG_MAX: u64 = 10 << 20;
/// Rotated files that are kept.
const LOG_FILES: u32 = 4;

/// Looks for ever.
pub async fn run(k: Arc<Kubelet>) {
    let mut round = 0u32;
    let mut refused = HashMap::new();
    let mut seen = BTreeMap::new();
    loop {
        tokio::time::sleep(PERIOD).await;
        round = round.wrapping_add(1);
        if k.image_path.get().is_none()
            && let Ok(info) = k.runtime.image_fs_info().await
        {
            let _ = k.image_path.set(info.image_path);
        }
        // The conditions of the node come from the same readings.
        k.pressures();
        let due = lowest(&k);
        if due.is_none() && k.all_pods().is_empty() && !round.is_multiple_of(IMAGES_EVERY) {
            continue;
        }
        refused = tell_of_forks(&k, &refused);
        if let Some(met) = due {
            let signal = met.reading.signal;
            let text = format!("Attempting to reclaim {}", signal.resource());
            k.events.node(&k.options.name, true, "EvictionThresholdMet", text);
            if !matches!(signal, Signal::Memory | Signal::Pid) {
                collect_images(&k, &mut seen).await;
            }
            // What the collection made room for needs no pod to go.
            if let Some(met) = lowest(&k) {
                relieve(&k, &met).await;
            }
        }
        if round.is_multiple_of(DISK_EVERY) {
            local_storage(&k).await;
            rotate(&k).await;
        }
        if round.is_multiple_of(IMAGES_EVERY) {
            collect_images(&k, &mut seen).await;
        }
    }
}

/// The first threshold for which a pod may go.
fn lowest(k: &Kubelet) -> Option<Met> {
    k.thresholds().1.first().copied()
}

/// Tells the pods that may not start another process; gives how often that happened to each.
fn tell_of_forks(k: &Kubelet, before: &HashMap<String, u64>) -> HashMap<String, u64> {
    let Ok(groups) = Cgroups::detect() else { return HashMap::new() };
    let mut after = HashMap::new();
    for pod in k.all_pods() {
        let count = groups.forks_refused(&cgroups::path(&k.options, &pod));
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if count > before.get(&uid).copied().unwrap_or(0) {
            let message = format!(
                "The pod has as many processes as it may have ({}) and cannot start another: \
                 mend it, or start the node with a higher --pod-max-pids",
                k.options.pids_max
            );
            k.events.pod(&pod, None, true, "PIDLimitReached", message);
        }
        if count > 0 {
            after.insert(uid, count);
        }
    }
    after
}

/// Ends one pod for good.
fn end(k: &Kubelet, pod: &Pod, how: End) {
    let uid = pod.metadata.uid.as_deref().unwrap_or("");
    let Some(handle) = k.handle(uid) else { return };
    k.events.pod(pod, None, true, "Evicted", how.message.clone());
    *handle.end.lock() = Some(how);
    handle.notify.notify_one();
}

/// Whether the pod can still be evicted.
fn alive(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed")) && pod.metadata.deletion_timestamp.is_none()
}

async fn relieve(k: &Arc<Kubelet>, met: &Met) {
    let all: Vec<(Pod, SandboxStats)> =
        stats::pods(k).await.into_iter().filter_map(|u| Some((u.pod.filter(alive)?, u.stats))).collect();
    let memory = met.reading.signal == Signal::Memory;
    let uses: Vec<Use<'_>> = all
        .iter()
        .map(|(pod, s)| {
            let of = |c: &ContainerStats| {
                let used = if memory { c.memory.working_set } else { c.writable_layer.used_bytes };
                (c.name.clone(), used)
            };
            Use {
                pod,
                memory: s.memory.working_set,
                disk: s.containers.iter().map(|c| c.writable_layer.used_bytes).sum(),
                containers: s.containers.iter().map(of).collect(),
            }
        })
        .collect();
    if let Some((pod, how)) = evict::choose(met, k.options.eviction.soft_grace_max, &uses) {
        tracing::warn!(pod = pods::spec::describe(pod), resource = met.reading.signal.resource(), "evicting");
        end(k, pod, how);
    }
}

/// Ends pods whose emptyDirs or whole local storage are above their limits.
async fn local_storage(k: &Arc<Kubelet>) {
    let limited = |p: &Pod| {
        let Some(spec) = &p.spec else { return false };
        let dirs = spec.volumes.iter().flatten().filter_map(|v| v.empty_dir.as_ref());
        let total = pods::resources::limits(spec).contains_key("ephemeral-storage");
        total || dirs.into_iter().any(|e| e.size_limit.is_some())
    };
    let of_interest: Vec<Pod> = k.all_pods().into_iter().filter(|p| alive(p) && limited(p)).collect();
    if of_interest.is_empty() {
        return;
    }
    let uses = stats::pods(k).await;
    for pod in of_interest {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let root = k.pod_dir(&uid).join("volumes/kubernetes.io~empty-dir");
        let logs = k.pod_logs(&pod);
        let scan = move || {
            let entries = std::fs::read_dir(&root).into_iter().flatten().flatten();
            let dirs: Vec<(String, u64)> = entries
                .filter_map(|e| {
                    Some((e.file_name().into_string().ok()?, volumes::scan::usage(&e.path()).bytes))
                })
                .collect();
            (dirs, volumes::scan::usage(&logs).bytes)
        };
        let Ok((dirs, logs)) = tokio::task::spawn_blocking(scan).await else { continue };
        let found = uses.iter().find(|u| u.stats.metadata.uid == uid);
        let layers: u64 =
            found.map_or(0, |u| u.stats.containers.iter().map(|c| c.writable_layer.used_bytes).sum());
        let total = layers + logs + dirs.iter().map(|d| d.1).sum::<u64>();
        if let Some(how) = evict::over_limit(&pod, &dirs, total) {
            end(k, &pod, how);
        }
    }
}

/// Removes images that no container uses when the disk is full. `seen` keeps when each was last used.
async fn collect_images(k: &Arc<Kubelet>, seen: &mut BTreeMap<String, Timestamp>) {
    let (Ok(images), Ok(containers)) =
        (k.runtime.list_images().await, k.runtime.list_containers(Filter::default()).await)
    else {
        return;
    };
    let now = Timestamp::now();
    let mut busy: BTreeSet<&str> = containers.iter().map(|c| c.image_id.as_str()).collect();
    let named: Vec<String> = k.all_pods().iter().flat_map(mounted_images).collect();
    busy.extend(named.iter().filter_map(|name| find(&images, name)));
    let ids: BTreeSet<String> = images.iter().map(|i| i.id.clone()).collect();
    k.pulled.keep(&ids);
    seen.retain(|id, _| ids.contains(id));
    seen.extend(busy.iter().map(|id| ((*id).to_owned(), now)));
    let held: Vec<_> = images
        .iter()
        .map(|i| pods::image::Held {
            id: i.id.clone(),
            size: i.size,
            used: observe::time(i.last_used).max(seen.get(&i.id).copied()).unwrap_or(now),
            busy: i.pinned || busy.contains(i.id.as_str()),
        })
        .collect();
    let Ok(info) = k.runtime.image_fs_info().await else { return };
    let Some([free, capacity, ..]) = volumes::scan::file_system(&info.image_path) else { return };
    let excess = pods::image::excess(free, k.options.eviction.wanted(Signal::ImageFs, capacity));
    if excess == 0 {
        return;
    }
    let mut freed = 0;
    let age = SignedDuration::try_from(k.options.image_age).unwrap_or(SignedDuration::ZERO);
    for id in pods::image::collect(&held, excess, age, now) {
        tracing::info!(image = id, "removing an image that is not used");
        match k.runtime.remove_image(&id).await {
            Ok(()) => freed += held.iter().find(|h| h.id == id).map_or(0, |h| h.size),
            Err(error) => {
                let text = format!("failed to remove image {id}: {error}");
                k.events.node(&k.options.name, true, "ImageGCFailed", text);
            }
        }
    }
    if freed < excess {
        let text = format!(
            "Failed to garbage collect required amount of images. Attempted to free {excess} bytes, but only found {freed} bytes eligible to free."
        );
        k.events.node(&k.options.name, true, "FreeDiskSpaceFailed", text);
    }
}

/// Images that a pod mounts.
fn mounted_images(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter_map(|v| v.image.as_ref()?.reference.clone()).collect()
}

fn find<'a>(images: &'a [oci::runtime::Image], name: &str) -> Option<&'a str> {
    let parsed = oci::images::Reference::parse(name).ok()?;
    let digest = parsed.digest.as_ref().map(|d| parsed.with_digest(d));
    let whole = digest.or(parsed.tagged())?;
    let found = images.iter().find(|i| i.tags.contains(&whole) || i.digests.contains(&whole));
    found.map(|i| i.id.as_str())
}

/// Moves long logs aside and has the runtime open new ones.
async fn rotate(k: &Arc<Kubelet>) {
    let containers = k.runtime.list_containers(Filter::default()).await.unwrap_or_default();
    for c in containers.into_iter().filter(|c| c.state == ContainerState::Running) {
        let long = std::fs::metadata(&c.log_path).is_ok_and(|m| m.len() > LOG_MAX);
        if !long || c.log_path.as_os_str().is_empty() {
            continue;
        }
        let numbered = |n: u32| format!("{}.{n}", c.log_path.display());
        for n in (1..LOG_FILES).rev() {
            let _ = std::fs::rename(numbered(n), numbered(n + 1));
        }
        if std::fs::rename(&c.log_path, numbered(1)).is_err() {
            continue;
        }
        if let Err(error) = k.runtime.reopen_log(&c.id).await {
            tracing::warn!(%error, container = c.id, "a log was not opened again");
            let _ = std::fs::rename(Path::new(&numbered(1)), &c.log_path);
        }
    }
}
