//! Volumes: where a pod's claims let it go, and what is to be written before it is bound there.
//!
//! [`Needs::of`] looks claims up once per decision; [`PodInfo::volumes`] carries the result through the filters;
//! [`Needs::choose`] says for the chosen node which free volumes are taken and which claims are to be provisioned.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use controllers::volume::matching::{self, Seeker};
use controllers::volume::{self, NO_PROVISIONER};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};

use crate::snapshot::NodeInfo;

/// What is known of storage.
pub trait Storage: Send + Sync {
    /// The claim of this namespace and name.
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>>;
    /// The volume of this name.
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>>;
    /// Volumes of a class; those that a decision under way has taken refer to their claim.
    fn volumes_of(&self, class: &str) -> Vec<Arc<PersistentVolume>>;
    /// The class of this name.
    fn class(&self, name: &str) -> Option<Arc<StorageClass>>;
    /// How many volumes of which driver a node can take.
    fn csi_node(&self, name: &str) -> Option<Arc<CSINode>>;
    /// Whether a pod other than this one uses the claim.
    fn is_used_by_another(&self, pod: &Pod, claim: &str) -> bool;
}

/// A claim without a volume that waits for its first consumer.
#[derive(Debug, Clone)]
struct Unbound {
    claim: Arc<PersistentVolumeClaim>,
    class: Option<Arc<StorageClass>>,
}

/// What a pod's volumes demand of its node.
#[derive(Clone)]
pub struct Needs {
    storage: Arc<dyn Storage>,
    bound: Vec<Arc<PersistentVolume>>,
    lost: bool,
    unbound: Vec<Unbound>,
    candidates: BTreeMap<String, Vec<Arc<PersistentVolume>>>,
    in_use: bool,
    /// Volumes by driver and handle.
    attached: BTreeMap<String, BTreeSet<String>>,
    disks: Vec<Volume>,
}

impl fmt::Debug for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Needs { bound, unbound, in_use, .. } = self;
        write!(f, "Needs {{ bound: {}, unbound: {}, in_use: {in_use} }}", bound.len(), unbound.len())
    }
}

/// What is to be written before the pod is bound to the node it was chosen for.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// Free volumes with the claims that take them.
    pub bindings: Vec<(Arc<PersistentVolume>, Arc<PersistentVolumeClaim>)>,
    /// Claims whose volume is to be made for the node.
    pub provisions: Vec<Arc<PersistentVolumeClaim>>,
}

impl Choice {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bindings.is_empty() && self.provisions.is_empty()
    }

    /// The claims that must be bound before the pod is.
    pub fn claims(&self) -> impl Iterator<Item = &Arc<PersistentVolumeClaim>> {
        self.bindings.iter().map(|(_, claim)| claim).chain(&self.provisions)
    }
}

/// Names of the claims a pod uses; of those that are made for it alone, with `true`.
pub fn claims_of(pod: &Pod) -> Vec<(String, bool)> {
    let own = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes
        .filter_map(|v| match (&v.persistent_volume_claim, &v.ephemeral) {
            (Some(claim), _) => Some((claim.claim_name.clone(), false)),
            (None, Some(_)) => Some((format!("{own}-{}", v.name), true)),
            (None, None) => None,
        })
        .collect()
}

impl Needs {
    /// Looks the pod's claims up. `None` when its volumes demand nothing; an error when no node can help.
    pub fn of(pod: &Pod, storage: &Arc<dyn Storage>) -> Result<Option<Arc<Needs>>, String> {
        let claims = claims_of(pod);
        let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        let disks: Vec<Volume> = volumes.filter(|v| is_exclusive_disk(v)).cloned().collect();
        if claims.is_empty() && disks.is_empty() {
            return Ok(None);
        }
        let mut needs = Needs {
            storage: storage.clone(),
            bound: Vec::new(),
            lost: false,
            unbound: Vec::new(),
            candidates: BTreeMap::new(),
            in_use: false,
            attached: attachments(pod, &**storage),
            disks,
        };
        let mut immediate = false;
        for (name, ephemeral) in &claims {
            let claim = find(pod, name, *ephemeral, &**storage)?;
            let modes = claim.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default();
            needs.in_use |=
                modes.iter().any(|m| m == "ReadWriteOncePod") && storage.is_used_by_another(pod, name);
            if volume::is_fully_bound(&claim) {
                match storage.volume(volume::volume_name(&claim)) {
                    Some(volume) => needs.bound.push(volume),
                    None => needs.lost = true,
                }
                continue;
            }
            let name = volume::class_of_claim(&claim);
            let class = storage.class(name);
            if !name.is_empty() && class.is_none() {
                return Err(format!("storageclass.storage.k8s.io \"{name}\" not found"));
            }
            let waits = class.as_deref().is_some_and(volume::waits_for_consumer);
            if !waits || !volume::volume_name(&claim).is_empty() {
                immediate = true;
                continue;
            }
            let name = name.to_owned();
            needs.candidates.entry(name).or_insert_with_key(|n| storage.volumes_of(n));
            needs.unbound.push(Unbound { claim, class });
        }
        if immediate {
            return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
        // The smallest claims choose first, so that they take the smallest volumes.
        needs.unbound.sort_by_cached_key(|u| volume::requested(&u.claim));
        Ok(Some(Arc::new(needs)))
    }

    /// Why the node cannot have the pod, in upstream's words.
    #[must_use]
    pub fn reason(&self, node: &NodeInfo) -> Option<&'static str> {
        let labels = node.node.as_ref().and_then(|n| n.metadata.labels.as_ref());
        if self.disks.iter().any(|disk| node.pods.values().any(|p| conflicts(disk, &p.pod))) {
            Some("node(s) had no available disk")
        } else if self.in_use {
            Some(
                "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod",
            )
        } else if self.lost {
            Some("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
        } else if self.is_full(node) {
            Some("node(s) exceed max volume count")
        } else if !self.bound.iter().all(|v| matching::reachable_from(v, labels)) {
            Some("node(s) didn't match PersistentVolume's node affinity")
        } else if self.choose(node).is_none() {
            Some("node(s) didn't find available persistent volumes to bind")
        } else if !self.bound.iter().all(|v| is_in_zone(v, node)) {
            Some("node(s) had no available volume zone")
        } else {
            None
        }
    }

    /// Whether a driver can attach fewer volumes to the node than there would be.
    fn is_full(&self, node: &NodeInfo) -> bool {
        if self.attached.is_empty() {
            return false;
        }
        let Some(limits) = self.storage.csi_node(node.name()) else { return false };
        let mut there: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for other in node.pods.values() {
            for (driver, handles) in attachments(&other.pod, &*self.storage) {
                there.entry(driver).or_default().extend(handles);
            }
        }
        let none = BTreeSet::new();
        limits.spec.drivers.iter().any(|driver| {
            let count = driver.allocatable.as_ref().and_then(|a| a.count);
            let count = count.and_then(|c| usize::try_from(c).ok());
            let has = there.get(&driver.name).unwrap_or(&none);
            let wants = self.attached.get(&driver.name).unwrap_or(&none);
            let new = wants.difference(has).count();
            new > 0 && count.is_some_and(|most| has.len() + new > most)
        })
    }

    /// What is to be written if the pod goes to this node; `None` if its claims find nothing there.
    #[must_use]
    pub fn choose(&self, node: &NodeInfo) -> Option<Choice> {
        let labels = node.node.as_ref().and_then(|n| n.metadata.labels.as_ref());
        let mut choice = Choice::default();
        let mut taken = BTreeSet::new();
        for Unbound { claim, class } in &self.unbound {
            // A node that was chosen before is kept to: its provisioner may be at work.
            let chosen = volume::annotation(&claim.metadata, volume::SELECTED_NODE);
            let candidates = self.candidates.get(volume::class_of_claim(claim));
            let free = candidates.into_iter().flatten().filter(|v| !taken.contains(&name(v)));
            let found = matching::best(claim, free.map(|v| &**v), Seeker::Node(labels));
            let found =
                found.and_then(|f| candidates?.iter().find(|v| name(v) == f.metadata.name.as_deref()));
            match (chosen, found, class) {
                (Some(other), ..) if other != node.name() => return None,
                (None, Some(volume), _) => {
                    taken.insert(name(volume));
                    choice.bindings.push((volume.clone(), claim.clone()));
                }
                (_, _, Some(class)) if provisions(class, node) => choice.provisions.push(claim.clone()),
                _ => return None,
            }
        }
        Some(choice)
    }
}

fn name(volume: &PersistentVolume) -> Option<&str> {
    volume.metadata.name.as_deref()
}

/// The claim, if a pod may use it.
fn find(
    pod: &Pod,
    name: &str,
    ephemeral: bool,
    storage: &dyn Storage,
) -> Result<Arc<PersistentVolumeClaim>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let Some(claim) = storage.claim(namespace, name) else {
        return Err(match ephemeral {
            true => {
                format!(
                    "waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\""
                )
            }
            false => format!("persistentvolumeclaim \"{name}\" not found"),
        });
    };
    if volume::claim_phase(&claim) == "Lost" {
        let volume = volume::volume_name(&claim);
        return Err(format!(
            "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""
        ));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
    }
    let owned = controllers::pod::is_controlled_by(&claim.metadata, controllers::pod::uid(pod));
    if ephemeral && !owned {
        let pod = pod.metadata.name.as_deref().unwrap_or_default();
        return Err(format!(
            "PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"
        ));
    }
    Ok(claim)
}

/// Whether the class makes volumes for this node.
fn provisions(class: &StorageClass, node: &NodeInfo) -> bool {
    let topologies = class.allowed_topologies.as_deref().unwrap_or_default();
    let suits = topologies.is_empty()
        || topologies.iter().any(|t| {
            t.match_label_expressions
                .iter()
                .flatten()
                .all(|e| node.label(&e.key).is_some_and(|have| e.values.iter().any(|v| v == have)))
        });
    suits && !class.provisioner.is_empty() && class.provisioner != NO_PROVISIONER
}

const ZONES: [(&str, &str); 2] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
];

/// Whether the volume's zone and region, if it has them, are the node's. A volume may be in several zones.
fn is_in_zone(volume: &PersistentVolume, node: &NodeInfo) -> bool {
    if !ZONES.iter().any(|(old, new)| node.label(old).is_some() || node.label(new).is_some()) {
        return true;
    }
    let labels = volume.metadata.labels.as_ref();
    ZONES.iter().flat_map(|(old, new)| [(old, new), (new, new)]).all(|(key, new)| {
        let Some(zones) = labels.and_then(|l| l.get(*key)) else { return true };
        let have = node.label(key).or_else(|| node.label(new));
        have.is_some_and(|have| zones.split("__").any(|zone| zone == have))
    })
}

/// The volumes of external drivers that a pod has attached, by driver.
fn attachments(pod: &Pod, storage: &dyn Storage) -> BTreeMap<String, BTreeSet<String>> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, _) in claims_of(pod) {
        let Some(claim) = storage.claim(namespace, &name) else { continue };
        let volume = storage.volume(volume::volume_name(&claim));
        let csi = volume.as_ref().and_then(|v| v.spec.as_ref()).and_then(|s| s.csi.as_ref());
        let class = || storage.class(volume::class_of_claim(&claim));
        // A claim without a volume will have one of its class's driver.
        let attachment = match (csi, volume.is_some()) {
            (Some(csi), _) => Some((csi.driver.clone(), csi.volume_handle.clone())),
            (None, true) => None,
            (None, false) => class().map(|c| (c.provisioner.clone(), format!("{namespace}/{name}"))),
        };
        if let Some((driver, handle)) = attachment {
            found.entry(driver).or_default().insert(handle);
        }
    }
    found
}

fn is_exclusive_disk(v: &Volume) -> bool {
    v.gce_persistent_disk.is_some()
        || v.aws_elastic_block_store.is_some()
        || v.iscsi.is_some()
        || v.rbd.is_some()
}

/// Whether a pod has the same disk where only one may.
fn conflicts(disk: &Volume, pod: &Pod) -> bool {
    let both_read = |a: Option<bool>, b: Option<bool>| a == Some(true) && b == Some(true);
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).any(|v| {
        let gce = disk.gce_persistent_disk.as_ref().zip(v.gce_persistent_disk.as_ref());
        let aws = disk.aws_elastic_block_store.as_ref().zip(v.aws_elastic_block_store.as_ref());
        let iscsi = disk.iscsi.as_ref().zip(v.iscsi.as_ref());
        let rbd = disk.rbd.as_ref().zip(v.rbd.as_ref());
        gce.is_some_and(|(a, b)| a.pd_name == b.pd_name && !both_read(a.read_only, b.read_only))
            || aws.is_some_and(|(a, b)| a.volume_id == b.volume_id)
            || iscsi.is_some_and(|(a, b)| a.iqn == b.iqn && !both_read(a.read_only, b.read_only))
            || rbd.is_some_and(|(a, b)| {
                a.monitors.iter().any(|m| b.monitors.contains(m))
                    && (&a.pool, &a.image) == (&b.pool, &b.image)
                    && !both_read(a.read_only, b.read_only)
            })
    })
}
