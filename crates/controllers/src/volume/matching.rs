//! Which volume suits a claim.

use base::quantity::Quantity;
use k8s_openapi::api::core::v1::{
    NodeSelectorTerm, ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec,
};

use super::{capacity, class_of_claim, class_of_volume, requested, spec_of, volume_phase};
use crate::select::Labels;
use crate::{Object, pod, select};

/// Who looks for a volume.
#[derive(Clone, Copy)]
pub enum Seeker<'a> {
    /// The binder, which leaves claims that wait for a consumer to the scheduler.
    Binder {
        /// Whether the claim waits.
        waits: bool,
    },
    /// The scheduler, for a node with these labels.
    Node(Option<&'a Labels>),
}

/// The volume that is bound to the claim already, or else the smallest that suits it. The binder looks among
/// volumes with few ways of access before those with more.
pub fn best<'v>(
    claim: &PersistentVolumeClaim,
    volumes: impl IntoIterator<Item = &'v PersistentVolume>,
    seeker: Seeker<'_>,
) -> Option<&'v PersistentVolume> {
    let mut smallest: Option<((usize, Quantity), &PersistentVolume)> = None;
    for volume in volumes {
        let mine = is_bound_to(volume, claim);
        let taken = spec_of(volume).claim_ref.is_some() && !mine;
        if taken
            || capacity(volume) < requested(claim)
            || differs_in_mode(claim, volume)
            || attributes_class(claim)
                != spec_of(volume).volume_attributes_class_name.as_deref().unwrap_or("")
            || pod::is_deleting(volume)
        {
            continue;
        }
        let suits_node = match seeker {
            Seeker::Node(labels) => reachable_from(volume, labels),
            Seeker::Binder { .. } => true,
        };
        if mine {
            return Some(volume).filter(|_| suits_node);
        }
        let selector = claim.spec.as_ref().and_then(|s| s.selector.as_ref());
        let open = volume_phase(volume) == "Available"
            && selector.is_none_or(|s| select::matches(Some(s), volume.metadata.labels.as_ref()))
            && class_of_volume(volume) == class_of_claim(claim)
            && offers_access(claim, volume);
        let waits = matches!(seeker, Seeker::Binder { waits: true });
        let ways = match seeker {
            Seeker::Binder { .. } => spec_of(volume).access_modes.as_ref().map_or(0, Vec::len),
            Seeker::Node(_) => 0,
        };
        let rank = (ways, capacity(volume));
        if open && suits_node && !waits && smallest.is_none_or(|(least, _)| rank < least) {
            smallest = Some((rank, volume));
        }
    }
    smallest.map(|(_, volume)| volume)
}

/// Why a volume that the claim names cannot be its own.
#[must_use]
pub fn objection(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<String> {
    if pod::is_deleting(volume) {
        return Some(format!("the volume is marked for deletion \"{}\"", pod::name(volume)));
    }
    let why = if capacity(volume).units() < requested(claim).units() {
        "requested PV is too small"
    } else if class_of_volume(volume) != class_of_claim(claim) {
        "storageClassName does not match"
    } else if attributes_class(claim) != spec_of(volume).volume_attributes_class_name.as_deref().unwrap_or("")
    {
        "volumeAttributesClassName does not match"
    } else if differs_in_mode(claim, volume) {
        "incompatible volumeMode"
    } else if !offers_access(claim, volume) {
        "incompatible accessMode"
    } else {
        return None;
    };
    Some(why.to_owned())
}

/// Whether the volume is kept for this claim: by name, and by uid where it has one.
#[must_use]
pub fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(of) = spec_of(volume).claim_ref.as_ref() else { return false };
    let uid = of.uid.as_deref().unwrap_or("");
    of.name == claim.metadata.name
        && of.namespace == claim.metadata.namespace
        && (uid.is_empty() || uid == pod::uid(claim))
}

/// How a volume refers to the claim.
#[must_use]
pub fn reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    let resource = PersistentVolumeClaim::resource();
    ObjectReference {
        api_version: Some(resource.api_version()),
        kind: Some(resource.kind.to_string()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        field_path: None,
    }
}

/// Whether a node with these labels can reach the volume.
#[must_use]
pub fn reachable_from(volume: &PersistentVolume, labels: Option<&Labels>) -> bool {
    let required = spec_of(volume).node_affinity.as_ref().and_then(|a| a.required.as_ref());
    required.is_none_or(|r| r.node_selector_terms.iter().any(|t| term_holds(t, labels)))
}

fn term_holds(term: &NodeSelectorTerm, labels: Option<&Labels>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let value = |key: &str| labels.and_then(|l| l.get(key)).map(String::as_str);
    // A node's fields are not known here, as they are not to upstream: terms with them hold for no node.
    term.match_fields.as_ref().is_none_or(Vec::is_empty)
        && !expressions.is_empty()
        && expressions.iter().all(|r| crate::fit::requirement(r, value(&r.key)))
}

/// Whether one is a file system and the other a device.
#[must_use]
pub fn differs_in_mode(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let wanted = claim.spec.as_ref().and_then(|s| s.volume_mode.as_deref()).unwrap_or("Filesystem");
    wanted != spec_of(volume).volume_mode.as_deref().unwrap_or("Filesystem")
}

fn attributes_class(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref()).unwrap_or("")
}

fn offers_access(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let offered = spec_of(volume).access_modes.as_deref().unwrap_or_default();
    let modes = |s: &PersistentVolumeClaimSpec| s.access_modes.clone().unwrap_or_default();
    let wanted = claim.spec.as_ref().map(modes).unwrap_or_default();
    wanted.iter().all(|m| offered.contains(m))
}
