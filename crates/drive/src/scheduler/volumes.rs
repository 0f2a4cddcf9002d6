//! What the scheduler knows of storage, and the writes that ready a pod's volumes before it is bound.
//!
//! A free volume counts as taken from the decision on, a claim as given to its node, one that only one pod may use as
//! used: pods that share a claim go where the first of them went. The binder and the provisioners do the rest; that a
//! claim is bound is learnt from the watch.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::{Cache, Client, ObjectKey, Patch, WriteOptions};
use controllers::volume::{self, matching};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};
use parking_lot::Mutex;
use scheduler::volumes::{Choice, Storage, claims_of};
use scheduler::{NodeInfo, PodInfo};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use crate::caches::Caches;

/// The index of volumes by class.
const BY_CLASS: &str = "storage-class";
/// The index of placed pods by the claims they use.
const BY_CLAIM: &str = "scheduler-claim";
/// How long a pod waits for its volumes; upstream's.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// Storage as the scheduler sees it.
pub(super) struct Shelf {
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    classes: Cache<StorageClass>,
    csi_nodes: Cache<CSINode>,
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    held: Mutex<Held>,
}

/// What decisions under way have taken.
#[derive(Default)]
struct Held {
    /// Names of volumes, with the claims that take them.
    volumes: HashMap<String, Arc<PersistentVolumeClaim>>,
    /// Claims by namespace and name, with the uid of the pod that uses them.
    claims: HashMap<(String, String), String>,
    /// The nodes that claims are given to, by the claims' uids.
    nodes: HashMap<String, String>,
    /// Uids of pods whose volumes are being readied.
    busy: HashSet<String>,
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

impl Shelf {
    pub(super) fn new(caches: &Caches) -> Arc<Self> {
        let shelf = Self {
            claims: caches.get(),
            volumes: caches.get(),
            classes: caches.get(),
            csi_nodes: caches.get(),
            nodes: caches.get(),
            pods: caches.get(),
            held: Mutex::default(),
        };
        shelf.volumes.add_index(BY_CLASS, |v| vec![volume::class_of_volume(v).to_owned()]);
        shelf.pods.add_index(BY_CLAIM, |pod| {
            let placed = controllers::pod::node(pod).is_some() && !controllers::pod::is_finished(pod);
            let claims = if placed { claims_of(pod) } else { Vec::new() };
            claims.into_iter().map(|(name, _)| format!("{}/{name}", namespace(pod))).collect()
        });
        Arc::new(shelf)
    }

    pub(super) async fn synced(&self) {
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
        self.csi_nodes.synced().await;
    }

    pub(super) fn storage(self: &Arc<Self>) -> Arc<dyn Storage> {
        self.clone()
    }

    /// Calls `wake` for every change that may let a refused pod be placed.
    pub(super) fn on_change(&self, wake: impl Fn() + Send + Sync + Clone + 'static) {
        let call = wake.clone();
        self.claims.hook(move |change| {
            let face = |c: &Arc<PersistentVolumeClaim>| {
                (c.spec.clone(), c.metadata.annotations.clone(), c.metadata.deletion_timestamp.is_some())
            };
            if change.new.is_some() && change.old.map(face) != change.new.map(face) {
                call();
            }
        });
        let call = wake.clone();
        self.volumes.hook(move |change| {
            if change.new.is_some() {
                call();
            }
        });
        let call = wake.clone();
        self.classes.hook(move |_| call());
        self.csi_nodes.hook(move |change| {
            if change.old.map(|n| &n.spec) != change.new.map(|n| &n.spec) {
                wake();
            }
        });
    }

    /// Whether the pod's volumes are being readied.
    pub(super) fn is_busy(&self, pod: &Pod) -> bool {
        self.held.lock().busy.contains(uid(pod))
    }

    /// Takes what the pod needs on its node.
    pub(super) fn reserve(&self, info: &PodInfo, node: Option<&NodeInfo>) -> Choice {
        let Some(needs) = &info.volumes else { return Choice::default() };
        let choice = node.and_then(|n| needs.choose(n)).unwrap_or_default();
        let mut held = self.held.lock();
        for (name, _) in claims_of(&info.pod) {
            held.claims.insert((info.namespace().to_owned(), name), info.uid().to_owned());
        }
        if !choice.is_empty() {
            held.busy.insert(info.uid().to_owned());
            for (volume, claim) in &choice.bindings {
                let name = volume.metadata.name.clone().unwrap_or_default();
                held.volumes.insert(name, claim.clone());
            }
            for claim in &choice.provisions {
                let node = node.map(|n| n.name().to_owned()).unwrap_or_default();
                held.nodes.insert(claim.metadata.uid.clone().unwrap_or_default(), node);
            }
        }
        choice
    }

    /// The pod's volumes are ready, or will not be.
    pub(super) fn release(&self, pod: &Pod, choice: &Choice) {
        let mut held = self.held.lock();
        held.busy.remove(uid(pod));
        for name in choice.bindings.iter().filter_map(|(v, _)| v.metadata.name.as_ref()) {
            held.volumes.remove(name);
        }
        for uid in choice.provisions.iter().filter_map(|c| c.metadata.uid.as_ref()) {
            held.nodes.remove(uid);
        }
    }

    /// The pod is bound, gone, or not going where it was to go: the API says from now on what it uses.
    pub(super) fn forget(&self, pod: &Pod) {
        let mut held = self.held.lock();
        if !held.claims.is_empty() {
            held.claims.retain(|_, user| user != uid(pod));
        }
    }

    /// Writes what was chosen and waits until all claims are bound. Gives the permit back before it waits.
    pub(super) async fn prepare(
        &self,
        client: &Client,
        pod: &Pod,
        node: &str,
        choice: &Choice,
        permit: OwnedSemaphorePermit,
    ) -> Result<(), String> {
        for (volume, claim) in &choice.bindings {
            let of = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
            if of.is_some_and(|of| of.uid == claim.metadata.uid) {
                // Another pod with the same claim writes it.
                continue;
            }
            let patch = bind_patch(volume, claim);
            let name = volume.metadata.name.as_deref().unwrap_or_default();
            patch_it::<PersistentVolume>(client, "", name, patch).await?;
        }
        let mut awaited = Vec::new();
        for claim in &choice.provisions {
            if volume::annotation(&claim.metadata, volume::SELECTED_NODE) == Some(node) {
                let cached = self.claims.get_key(&ObjectKey::of(&**claim));
                let told = |c: Arc<PersistentVolumeClaim>| {
                    volume::annotation(&c.metadata, volume::SELECTED_NODE) == Some(node)
                };
                if !cached.is_some_and(told) {
                    // Another pod with the same claim is writing it.
                    awaited.push(claim);
                }
                continue;
            }
            let patch = json!({"metadata": {
                "uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version,
                "annotations": {volume::SELECTED_NODE: node},
            }});
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            patch_it::<PersistentVolumeClaim>(client, namespace(pod), name, patch).await?;
            awaited.push(claim);
        }
        drop(permit);
        let written = |claim: &PersistentVolumeClaim| {
            // The cache may still show the claim as it was before.
            let cached = self.claims.get_key(&ObjectKey::of(claim));
            cached.is_none_or(|c| c.metadata.resource_version != claim.metadata.resource_version)
        };
        let settled = || match self.state(pod, node, choice) {
            Ok(bound) => bound,
            Err(_) => awaited.iter().all(|c| written(c)),
        };
        let wait = async {
            tokio::select! {
                () = self.claims.wait_until(|_| settled()) => {}
                () = self.volumes.wait_until(|_| settled()) => {}
                () = self.pods.wait_until(|_| settled()) => {}
            }
        };
        match tokio::time::timeout(WAIT_MAX, wait).await {
            Ok(()) => self.state(pod, node, choice).map(drop),
            Err(_) => Err("context deadline exceeded".to_owned()),
        }
    }

    /// Whether all is bound; an error when it will not be.
    fn state(&self, pod: &Pod, node: &str, choice: &Choice) -> Result<bool, String> {
        let here = self.pods.get_key(&ObjectKey::of(pod));
        if here.is_none_or(|p| p.metadata.uid != pod.metadata.uid || p.metadata.deletion_timestamp.is_some())
        {
            return Err("pod does not exist any more".to_owned());
        }
        let mut bound = true;
        for (claim, provisioned) in choice.claims().zip(
            std::iter::repeat_n(false, choice.bindings.len())
                .chain(std::iter::repeat_n(true, choice.provisions.len())),
        ) {
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            let Some(now) = self.claims.get(namespace(pod), name) else {
                return Err(format!("persistentvolumeclaim \"{name}\" not found"));
            };
            bound &= volume::is_fully_bound(&now);
            let selected = volume::annotation(&now.metadata, volume::SELECTED_NODE);
            if provisioned && selected != Some(node) {
                return Err(match selected {
                    Some(_) => format!("provisioning failed for PVC \"{name}\""),
                    None => format!("selectedNode annotation reset for PVC \"{name}\""),
                });
            }
            let volume = self.volumes.get("", volume::volume_name(&now));
            let labels = self.nodes.get("", node).and_then(|n| n.metadata.labels.clone());
            if let Some(volume) = volume.filter(|v| !matching::reachable_from(v, labels.as_ref())) {
                let volume = volume.metadata.name.as_deref().unwrap_or_default();
                return Err(format!(
                    "pv \"{volume}\" node affinity doesn't match node \"{node}\": no matching NodeSelectorTerms"
                ));
            }
        }
        Ok(bound)
    }
}

/// Keeps the volume for the claim.
fn bind_patch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Value {
    let mut patch = json!({
        "metadata": {"uid": volume.metadata.uid, "resourceVersion": volume.metadata.resource_version},
        "spec": {"claimRef": matching::reference(claim)},
    });
    if !matching::is_bound_to(volume, claim) {
        patch["metadata"]["annotations"] = json!({volume::BOUND_BY_CONTROLLER: "yes"});
    }
    patch
}

async fn patch_it<K: client::Kind>(
    client: &Client,
    namespace: &str,
    name: &str,
    patch: Value,
) -> Result<(), String> {
    let options = WriteOptions::default();
    let patched = client.patch::<K>(namespace, name, &Patch::Merge(patch), &options).await;
    patched.map(drop).map_err(|e| e.chain())
}

impl Storage for Shelf {
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        let claim = self.claims.get(namespace, name)?;
        let node = self.held.lock().nodes.get(claim.metadata.uid.as_deref()?).cloned();
        let Some(node) = node.filter(|_| !volume::is_fully_bound(&claim)) else { return Some(claim) };
        let mut given = (*claim).clone();
        let annotations = given.metadata.annotations.get_or_insert_with(BTreeMap::new);
        annotations.insert(volume::SELECTED_NODE.to_owned(), node);
        Some(Arc::new(given))
    }

    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.get("", name)
    }

    fn volumes_of(&self, class: &str) -> Vec<Arc<PersistentVolume>> {
        let mut volumes = self.volumes.by_index(BY_CLASS, class);
        let held = self.held.lock();
        for volume in volumes.iter_mut().filter(|_| !held.volumes.is_empty()) {
            let taker = volume.metadata.name.as_ref().and_then(|n| held.volumes.get(n));
            if let Some(claim) = taker {
                let mut taken = (**volume).clone();
                taken.spec.get_or_insert_default().claim_ref = Some(matching::reference(claim));
                *volume = Arc::new(taken);
            }
        }
        volumes
    }

    fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.classes.get("", name)
    }

    fn csi_node(&self, name: &str) -> Option<Arc<CSINode>> {
        self.csi_nodes.get("", name)
    }

    fn is_used_by_another(&self, pod: &Pod, claim: &str) -> bool {
        let held = self.held.lock();
        let about = held.claims.get(&(namespace(pod).to_owned(), claim.to_owned()));
        let users = self.pods.by_index(BY_CLAIM, &format!("{}/{claim}", namespace(pod)));
        about.is_some_and(|user| user != uid(pod)) || users.iter().any(|p| uid(p) != uid(pod))
    }
}
