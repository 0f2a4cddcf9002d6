//! Static pods: manifests in a directory, run without an API server, shown there as mirror pods.
//!
//! The directory is watched. A manifest's pod gets a uid from its contents, so that a changed file is another pod.
//! The mirror is a copy that the API has; deleting it only makes it come back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use client::DeleteOptions;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::kubelet::Kubelet;

/// Annotation that says where a pod comes from.
pub const SOURCE: &str = "kubernetes.io/config.source";
/// Annotation with the fingerprint of the manifest.
pub const HASH: &str = "kubernetes.io/config.hash";
/// Annotation that marks a mirror, with the fingerprint of what it mirrors.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// Manifests that are read.
const FILES_MAX: usize = 256;
/// The longest manifest, in bytes.
const BYTES_MAX: u64 = 1 << 20;
/// Before a mirror that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Whether the API's copy of a pod is the mirror of a static one.
pub fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(MIRROR))
}

/// Whether the pod comes from a file.
pub fn is_static(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().and_then(|a| a.get(SOURCE)).is_some_and(|s| s == "file")
        && !is_mirror(pod)
}

/// Follows the directory for ever.
pub async fn run(k: Arc<Kubelet>, dir: PathBuf) {
    if let Err(error) = std::fs::create_dir_all(&dir) {
        tracing::error!(%error, dir = %dir.display(), "static pods are off");
        return;
    }
    let (told, mut changes) = tokio::sync::mpsc::channel::<()>(1);
    let watched = dir.clone();
    std::thread::spawn(move || watch(&watched, &told));
    let mut have: BTreeMap<String, Arc<Pod>> = BTreeMap::new();
    loop {
        let found = read(&k, &dir);
        for (uid, _) in have.iter().filter(|(uid, _)| !found.contains_key(*uid)) {
            if let Some(handle) = k.handle(uid) {
                handle.gone.store(true, Ordering::Release);
                handle.notify.notify_one();
            }
        }
        for (uid, pod) in &found {
            if !have.contains_key(uid) {
                k.offer(pod.clone());
            }
        }
        let settled = mirrors(&k, &have, &found).await;
        have = found;
        tokio::select! {
            told = changes.recv() => if told.is_none() { return },
            () = k.mirrors.notified() => {}
            () = tokio::time::sleep(RETRY), if !settled => {}
        }
    }
}

/// The uids of the static pods that a directory has now.
pub fn uids(k: &Kubelet, dir: &Path) -> Vec<String> {
    read(k, dir).into_keys().collect()
}

/// Tells of every change in the directory, on a thread of its own.
fn watch(dir: &Path, told: &tokio::sync::mpsc::Sender<()>) {
    let flags = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE;
    let inotify = match Inotify::init(InitFlags::IN_CLOEXEC).and_then(|i| i.add_watch(dir, flags).map(|_| i))
    {
        Ok(inotify) => inotify,
        Err(error) => {
            tracing::error!(%error, dir = %dir.display(), "changes of static pods go unnoticed");
            return;
        }
    };
    while inotify.read_events().is_ok() {
        // A full queue already says that something changed.
        if let Err(tokio::sync::mpsc::error::TrySendError::Closed(())) = told.try_send(()) {
            return;
        }
    }
}

/// The pods of every manifest that can be read, by uid.
fn read(k: &Kubelet, dir: &Path) -> BTreeMap<String, Arc<Pod>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json"))
        .collect();
    files.sort();
    files.truncate(FILES_MAX);
    let mut found = BTreeMap::new();
    for path in files {
        match parse(k, &path) {
            Ok(pod) => drop(found.insert(pod.metadata.uid.clone().unwrap_or_default(), Arc::new(pod))),
            Err(why) => tracing::warn!(path = %path.display(), why, "a manifest of a static pod is left out"),
        }
    }
    found
}

fn parse(k: &Kubelet, path: &Path) -> Result<Pod, String> {
    let size = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if size > BYTES_MAX {
        return Err(format!("longer than {BYTES_MAX} bytes"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let value: serde_json::Value = serde_saphyr::from_str(&text).map_err(|e| e.to_string())?;
    if value.get("kind").and_then(|k| k.as_str()) != Some("Pod") {
        return Err("kind is not Pod".into());
    }
    let mut pod: Pod = client::from_value(&value).map_err(|e| e.to_string())?;
    if pod.spec.as_ref().is_none_or(|s| s.containers.is_empty()) {
        return Err("no containers".into());
    }
    let node = &k.options.name;
    let m = &mut pod.metadata;
    let name = m.name.clone().filter(|n| !n.is_empty()).ok_or("no name")?;
    let hash = fingerprint(&format!("{node}\n{}\n{text}", path.display()));
    m.name = Some(format!("{name}-{node}"));
    m.namespace.get_or_insert_with(|| "default".into());
    m.uid = Some(hash.clone());
    let annotations = m.annotations.get_or_insert_default();
    annotations.insert(SOURCE.into(), "file".into());
    annotations.insert(HASH.into(), hash);
    if let Some(spec) = &mut pod.spec {
        spec.node_name = Some(node.clone());
        spec.restart_policy.get_or_insert_with(|| "Always".into());
        spec.enable_service_links.get_or_insert(true);
        let all = k8s_openapi::api::core::v1::Toleration {
            operator: Some("Exists".into()),
            effect: Some("NoExecute".into()),
            ..Default::default()
        };
        spec.tolerations.get_or_insert_default().push(all);
    }
    pod.status = None;
    Ok(pod)
}

/// 128 bits of the text in hexadecimal: two runs of FNV-1a from different starts.
fn fingerprint(text: &str) -> String {
    let run = |start: u64| text.bytes().fold(start, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    format!("{:016x}{:016x}", run(0xcbf2_9ce4_8422_2325), run(0x6c62_272e_07bb_0142))
}

/// Brings the API's mirrors in line; `false` when it has to be tried again.
async fn mirrors(
    k: &Arc<Kubelet>,
    old: &BTreeMap<String, Arc<Pod>>,
    new: &BTreeMap<String, Arc<Pod>>,
) -> bool {
    let mut settled = true;
    for pod in old.iter().filter(|(uid, _)| !new.contains_key(*uid)).map(|(_, p)| p) {
        let m = &pod.metadata;
        let (namespace, name) = (m.namespace.as_deref().unwrap_or(""), m.name.as_deref().unwrap_or(""));
        let outcome = k.client.delete::<Pod>(namespace, name, &DeleteOptions::default().grace(0)).await;
        settled &= outcome.map_or_else(|e| e.is_not_found(), |_| true);
    }
    for pod in new.values() {
        let m = &pod.metadata;
        let (namespace, name) = (m.namespace.as_deref().unwrap_or(""), m.name.as_deref().unwrap_or(""));
        let hash = m.uid.clone().unwrap_or_default();
        match k.client.find::<Pod>(namespace, name).await {
            Ok(Some(known)) => {
                let mirrored = known.metadata.annotations.as_ref().and_then(|a| a.get(MIRROR));
                if mirrored == Some(&hash) && known.metadata.deletion_timestamp.is_none() {
                    continue;
                }
                let _ = k.client.delete::<Pod>(namespace, name, &DeleteOptions::default().grace(0)).await;
            }
            Ok(None) => {}
            Err(_) => {
                settled = false;
                continue;
            }
        }
        if let Err(error) = k.client.create(&mirror(k, pod)).await {
            tracing::warn!(error = %error.chain(), pod = name, "a mirror pod was not made");
            settled = false;
        } else if let Some(handle) = k.handle(&hash) {
            handle.unreported.store(true, Ordering::Release);
            handle.notify.notify_one();
        }
    }
    settled
}

fn mirror(k: &Kubelet, pod: &Pod) -> Pod {
    let mut mirror = pod.clone();
    let hash = mirror.metadata.uid.take().unwrap_or_default();
    mirror.metadata.annotations.get_or_insert_default().insert(MIRROR.into(), hash);
    let node = k.node.lock().clone().unwrap_or_default();
    if let (Some(name), Some(uid)) = (node.metadata.name, node.metadata.uid) {
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name,
            uid,
            controller: Some(true),
            ..OwnerReference::default()
        };
        mirror.metadata.owner_references = Some(vec![owner]);
    }
    mirror
}
