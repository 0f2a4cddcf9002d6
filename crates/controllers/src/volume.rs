//! Claims and volumes: the words on them, and which volume suits which claim.
//!
//! [`claim`] and [`reclaim`] are the two halves of the binder, [`local`] makes volumes of the cluster's own class,
//! [`expand`] lets them grow, [`ephemeral`] makes the claims that live as long as a pod. The scheduler chooses
//! volumes by the same rule ([`matching::best`]), with a node in mind.

use std::collections::BTreeMap;

use base::quantity::Quantity;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub mod claim;
pub mod ephemeral;
pub mod expand;
pub mod local;
pub mod matching;
pub mod reclaim;

/// On a claim: binding is complete, from now on a missing volume is a loss.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On both: the binder made the link, and may undo it.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a volume: who made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: the node the scheduler chose for its first consumer.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a claim: who is to make its volume.
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The same, as older provisioners read it.
pub const PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// The class, as it was written before it was a field.
pub const CLASS_BETA: &str = "volume.beta.kubernetes.io/storage-class";
/// The provisioner of classes whose volumes people make by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// The provisioner of directories on the cluster's own nodes.
pub const LOCAL_PROVISIONER: &str = "kutter.dev/local";

/// An annotation's value.
#[must_use]
pub fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// The class a claim names; empty for none.
#[must_use]
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let field = claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref());
    annotation(&claim.metadata, CLASS_BETA).or(field).unwrap_or("")
}

/// Whether a claim says anything about its class, be it that it wants none.
#[must_use]
pub fn says_class(claim: &PersistentVolumeClaim) -> bool {
    annotation(&claim.metadata, CLASS_BETA).is_some()
        || claim.spec.as_ref().is_some_and(|s| s.storage_class_name.is_some())
}

/// The class a volume belongs to; empty for none.
#[must_use]
pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    let field = volume.spec.as_ref().and_then(|s| s.storage_class_name.as_deref());
    annotation(&volume.metadata, CLASS_BETA).or(field).unwrap_or("")
}

/// Whether claims of the class wait for a pod.
#[must_use]
pub fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// The volume a claim names; empty for none.
#[must_use]
pub fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or("")
}

/// Whether the claim's binding is complete.
#[must_use]
pub fn is_fully_bound(claim: &PersistentVolumeClaim) -> bool {
    !volume_name(claim).is_empty() && annotation(&claim.metadata, BIND_COMPLETED).is_some()
}

/// The claim's phase, or an empty string.
#[must_use]
pub fn claim_phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

/// The volume's phase, or an empty string.
#[must_use]
pub fn volume_phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

/// The amount of storage in a list of resources; nothing counts as zero.
#[must_use]
pub fn storage(list: Option<&BTreeMap<String, Text>>) -> Quantity {
    list.and_then(|l| l.get("storage")).and_then(|q| q.0.parse().ok()).unwrap_or_default()
}

/// How much a claim asks for.
#[must_use]
pub fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let resources = claim.spec.as_ref().and_then(|s| s.resources.as_ref());
    storage(resources.and_then(|r| r.requests.as_ref()))
}

/// How much a volume holds.
#[must_use]
pub fn capacity(volume: &PersistentVolume) -> Quantity {
    storage(volume.spec.as_ref().and_then(|s| s.capacity.as_ref()))
}

pub(crate) fn spec_of(volume: &PersistentVolume) -> &PersistentVolumeSpec {
    static NONE: std::sync::LazyLock<PersistentVolumeSpec> =
        std::sync::LazyLock::new(PersistentVolumeSpec::default);
    volume.spec.as_ref().unwrap_or(&NONE)
}
