//! The claims' half of the binder: finds a volume, asks for one, and says when one is lost.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use super::matching::{self, Seeker};
use super::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONER, PROVISIONER_BETA, SELECTED_NODE, annotation,
    claim_phase, class_of_claim, says_class, spec_of, volume_name, volume_phase, waits_for_consumer,
};
use crate::{Action, Note, Plan, Target, pod};

/// Provisioners that were part of Kubernetes once, and the drivers that took their place.
const MOVED: [(&str, &str); 7] = [
    ("kubernetes.io/aws-ebs", "ebs.csi.aws.com"),
    ("kubernetes.io/azure-disk", "disk.csi.azure.com"),
    ("kubernetes.io/azure-file", "file.csi.azure.com"),
    ("kubernetes.io/cinder", "cinder.csi.openstack.org"),
    ("kubernetes.io/gce-pd", "pd.csi.storage.gke.io"),
    ("kubernetes.io/portworx-volume", "pxd.portworx.com"),
    ("kubernetes.io/vsphere-volume", "csi.vsphere.vmware.com"),
];

/// What the binder knows of a claim.
pub struct View<'a> {
    /// The claim.
    pub claim: &'a PersistentVolumeClaim,
    /// The class it names, if that exists.
    pub class: Option<&'a StorageClass>,
    /// The default class, if there is one.
    pub default: Option<&'a StorageClass>,
    /// The volume it names, if that exists.
    pub named: Option<&'a PersistentVolume>,
    /// Volumes that are free or kept for the claim.
    pub volumes: Vec<&'a PersistentVolume>,
    /// Names of pods that wait for a node and use the claim.
    pub waiting_pods: Vec<String>,
}

/// The default class: the newest that is marked, the first by name among equals.
pub fn default_class<'a>(classes: impl IntoIterator<Item = &'a StorageClass>) -> Option<&'a StorageClass> {
    let marks =
        ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    let marked = |c: &&StorageClass| marks.iter().any(|m| annotation(&c.metadata, m) == Some("true"));
    let rank = |c: &&StorageClass| {
        let age = c.metadata.creation_timestamp.as_ref().map(|t| t.0);
        (age, std::cmp::Reverse(pod::name(*c).to_owned()))
    };
    classes.into_iter().filter(marked).max_by_key(rank)
}

/// What is to be done for the claim.
#[must_use]
pub fn plan(view: &View<'_>) -> Plan {
    let claim = view.claim;
    if annotation(&claim.metadata, BIND_COMPLETED).is_some() {
        bound(view)
    } else if volume_name(claim).is_empty() {
        unbound(view)
    } else {
        pre_bound(view)
    }
}

/// The claim was bound once: it still is, or its volume is lost.
fn bound(view: &View<'_>) -> Plan {
    let claim = view.claim;
    let lost = |reason, message: &str| lose(claim, Note::warning(reason, message));
    if volume_name(claim).is_empty() {
        return lost(
            "ClaimLost",
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        );
    }
    let Some(volume) = view.named else {
        return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    };
    match spec_of(volume).claim_ref.as_ref().map(|r| r.uid.as_deref().unwrap_or("")) {
        None => bind(claim, volume),
        Some(uid) if uid == pod::uid(claim) => bind(claim, volume),
        Some(_) => {
            lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
        }
    }
}

fn lose(claim: &PersistentVolumeClaim, note: Note) -> Plan {
    let mut plan = Plan::idle(note.message.clone());
    if claim_phase(claim) != "Lost" {
        plan.actions.extend(status(claim, "Lost", None));
        plan.actions.push(Action::event(claim, note));
    }
    plan
}

/// The claim takes what it gets.
fn unbound(view: &View<'_>) -> Plan {
    let claim = view.claim;
    let waits = view.class.is_some_and(waits_for_consumer);
    let found = matching::best(claim, view.volumes.iter().copied(), Seeker::Binder { waits });
    if let Some(volume) = found {
        return bind(claim, volume);
    }
    if let Some(class) = view.default.filter(|_| !says_class(claim)) {
        let patch = json!({
            "metadata": {"resourceVersion": claim.metadata.resource_version},
            "spec": {"storageClassName": class.metadata.name},
        });
        let actions = vec![Action::merge(Target::of(claim), "", patch)];
        return Plan { actions, ..Plan::idle("the claim gets the default class") };
    }
    let selected = annotation(&claim.metadata, SELECTED_NODE).is_some_and(|n| !n.is_empty());
    if waits && !selected {
        let note = waiting_note(&view.waiting_pods);
        return pending(claim, Some(note));
    }
    if class_of_claim(claim).is_empty() {
        let text = "no persistent volumes available for this claim and no storage class is set";
        return pending(claim, Some(Note::normal("FailedBinding", text)));
    }
    provision(view)
}

fn waiting_note(pods: &[String]) -> Note {
    match pods {
        [] => Note::normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
        [pod] => Note::normal("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
        pods => Note::normal(
            "WaitForPodScheduled",
            format!("waiting for pods {} to be scheduled", pods.join(",")),
        ),
    }
}

/// Asks the class's provisioner for a volume.
fn provision(view: &View<'_>) -> Plan {
    let claim = view.claim;
    let Some(class) = view.class else {
        let text = format!("storageclass.storage.k8s.io \"{}\" not found", class_of_claim(claim));
        return pending(claim, Some(Note::warning("ProvisioningFailed", text)));
    };
    let moved = MOVED.iter().find(|(old, _)| *old == class.provisioner);
    let by = moved.map_or(class.provisioner.as_str(), |(_, new)| new);
    // Provisioners of this prefix were part of Kubernetes once; none of them is left.
    if by.starts_with("kubernetes.io/") {
        let text = format!("no volume plugin matched name: {by}");
        return pending(claim, Some(Note::warning("ProvisioningFailed", text)));
    }
    let mut plan = Plan::idle(format!("a volume is to come from {by}"));
    if annotation(&claim.metadata, PROVISIONER) != Some(by) {
        let patch = json!({"metadata": {
            "resourceVersion": claim.metadata.resource_version,
            "annotations": {PROVISIONER: by, PROVISIONER_BETA: by},
        }});
        plan.actions.push(Action::merge(Target::of(claim), "", patch));
    }
    let text = format!(
        "Waiting for a volume to be created either by the external provisioner '{by}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
    );
    plan.actions.push(Action::event(claim, Note::normal("ExternalProvisioning", text)));
    plan
}

/// The claim names its volume.
fn pre_bound(view: &View<'_>) -> Plan {
    let claim = view.claim;
    let Some(volume) = view.named else { return pending(claim, None) };
    if spec_of(volume).claim_ref.is_none() {
        return match matching::objection(claim, volume) {
            None => bind(claim, volume),
            Some(why) => {
                let text = format!("Cannot bind to requested volume \"{}\": {why}", pod::name(volume));
                pending(claim, Some(Note::warning("VolumeMismatch", text)))
            }
        };
    }
    if matching::is_bound_to(volume, claim) {
        return bind(claim, volume);
    }
    let text = format!("volume \"{}\" already bound to a different claim.", pod::name(volume));
    pending(claim, Some(Note::warning("FailedBinding", text)))
}

fn pending(claim: &PersistentVolumeClaim, note: Option<Note>) -> Plan {
    let why =
        note.as_ref().map_or_else(|| "the claim's volume does not exist".to_owned(), |n| n.message.clone());
    let mut plan = Plan::idle(why);
    plan.actions.extend(note.map(|n| Action::event(claim, n)));
    plan.actions.extend(status(claim, "Pending", None));
    plan
}

/// Links the two, the volume first; whatever is so already is left alone.
fn bind(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Plan {
    let mut plan = Plan::idle(format!("the claim is bound to {}", pod::name(volume)));
    let at = Target::of(volume);
    let linked = matching::is_bound_to(volume, claim);
    let uid = spec_of(volume).claim_ref.as_ref().and_then(|r| r.uid.as_deref()).unwrap_or("");
    if !linked || uid != pod::uid(claim) {
        let mut patch = json!({
            "metadata": {"resourceVersion": volume.metadata.resource_version},
            "spec": {"claimRef": matching::reference(claim)},
        });
        if !linked {
            patch["metadata"]["annotations"] = json!({BOUND_BY_CONTROLLER: "yes"});
        }
        plan.actions.push(Action::merge(at.clone(), "", patch));
    }
    if volume_phase(volume) != "Bound" {
        let patch = json!({"status": {"phase": "Bound", "message": Value::Null}});
        plan.actions.push(Action::merge(at, "status", patch));
    }
    let mut annotations = serde_json::Map::new();
    let renamed = volume_name(claim) != pod::name(volume);
    if renamed && annotation(&claim.metadata, BOUND_BY_CONTROLLER).is_none() {
        annotations.insert(BOUND_BY_CONTROLLER.into(), "yes".into());
    }
    if annotation(&claim.metadata, BIND_COMPLETED).is_none() {
        annotations.insert(BIND_COMPLETED.into(), "yes".into());
    }
    if renamed || !annotations.is_empty() {
        let patch = json!({
            "metadata": {"resourceVersion": claim.metadata.resource_version, "annotations": annotations},
            "spec": {"volumeName": pod::name(volume)},
        });
        plan.actions.push(Action::merge(Target::of(claim), "", patch));
    }
    plan.actions.extend(status(claim, "Bound", Some(volume)));
    plan
}

/// The claim's status in this phase. The capacity is the volume's when it becomes bound; later it is the business
/// of whoever lets it grow.
fn status(
    claim: &PersistentVolumeClaim,
    phase: &'static str,
    volume: Option<&PersistentVolume>,
) -> Option<Action> {
    let old = claim.status.clone().unwrap_or_default();
    let mut new = old.clone();
    let changes = old.phase.as_deref() != Some(phase);
    new.phase = Some(phase.to_owned());
    match volume.map(spec_of) {
        None => {
            new.access_modes = None;
            new.capacity = None;
            new.current_volume_attributes_class_name = None;
        }
        Some(spec) => {
            new.access_modes = spec.access_modes.clone();
            if changes {
                new.capacity = spec.capacity.clone();
            }
            if changes && old.phase.as_deref() == Some("Pending") {
                new.current_volume_attributes_class_name = spec.volume_attributes_class_name.clone();
            }
        }
    }
    let patch = crate::diff::merge_patch(&crate::diff::value(&old), &crate::diff::value(&new))?;
    Some(Action::merge(Target::of(claim), "status", json!({"status": patch})))
}
