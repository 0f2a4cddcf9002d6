//! The volumes' half of the binder: phases, and what becomes of a volume whose claim is gone.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use serde_json::{Value, json};

use super::matching::differs_in_mode;
use super::{BOUND_BY_CONTROLLER, PROVISIONED_BY, annotation, spec_of, volume_name, volume_phase};
use crate::{Action, Note, Plan, Target, pod};

/// Whether the claim that a volume is bound to is gone, or has been replaced by a namesake.
#[must_use]
pub fn is_orphan(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> bool {
    let uid = spec_of(volume).claim_ref.as_ref().and_then(|r| r.uid.as_deref()).unwrap_or("");
    !uid.is_empty() && claim.is_none_or(|c| pod::uid(c) != uid)
}

/// What is to be done for the volume. `claim` is the one of the name it refers to; that it is gone must be certain.
#[must_use]
pub fn plan(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Plan {
    let Some(of) = &spec_of(volume).claim_ref else { return phase(volume, "Available") };
    if of.uid.as_deref().unwrap_or("").is_empty() {
        // It is kept for a claim to come.
        return phase(volume, "Available");
    }
    let Some(claim) = claim.filter(|_| !is_orphan(volume, claim)) else { return reclaim(volume) };
    let names = volume_name(claim);
    if names == pod::name(volume) {
        return phase(volume, "Bound");
    }
    if names.is_empty() {
        return match differs_in_mode(claim, volume) {
            true => mismatch(volume, claim),
            false => Plan::idle("the claim's pass will bind it"),
        };
    }
    // The claim is bound elsewhere.
    let made = annotation(&volume.metadata, PROVISIONED_BY).is_some();
    if made && spec_of(volume).persistent_volume_reclaim_policy.as_deref() == Some("Delete") {
        return reclaim(volume);
    }
    unbind(volume)
}

fn phase(volume: &PersistentVolume, phase: &'static str) -> Plan {
    let mut plan = Plan::idle(format!("the volume is {phase}"));
    plan.actions.extend(set(volume, phase, None).map(|a| guarded(a, volume)));
    plan
}

/// Only as long as the volume is what it was when this was decided.
fn guarded(mut action: Action, volume: &PersistentVolume) -> Action {
    if let Action::Patch { patch, .. } = &mut action {
        patch["metadata"]["resourceVersion"] = json!(volume.metadata.resource_version);
    }
    action
}

fn set(volume: &PersistentVolume, phase: &'static str, message: Option<&str>) -> Option<Action> {
    let patch = json!({"status": {"phase": phase, "message": message}});
    (volume_phase(volume) != phase).then(|| Action::merge(Target::of(volume), "status", patch))
}

/// Does as the reclaim policy says. A volume that failed stays failed, for people to see.
fn reclaim(volume: &PersistentVolume) -> Plan {
    let mut plan = Plan::idle("the volume's claim is gone");
    if !matches!(volume_phase(volume), "Released" | "Failed") {
        plan.actions.extend(set(volume, "Released", None).map(|a| guarded(a, volume)));
    }
    let spec = spec_of(volume);
    let failure = match spec.persistent_volume_reclaim_policy.as_deref().unwrap_or("Retain") {
        "Retain" => return plan,
        "Recycle" => ("VolumeFailedRecycle", "No recycler plugin found for the volume!".to_owned()),
        "Delete" => {
            let by = annotation(&volume.metadata, PROVISIONED_BY).unwrap_or("");
            if spec.csi.is_some() || !by.is_empty() && !by.starts_with("kubernetes.io/") {
                plan.because("whoever made it deletes it");
                return plan;
            }
            let name = pod::name(volume);
            let text = format!(
                "error getting deleter volume plugin for volume \"{name}\": no deletable volume plugin matched"
            );
            ("VolumeFailedDelete", text)
        }
        _ => {
            ("VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy".to_owned())
        }
    };
    if volume_phase(volume) != "Failed" {
        plan.actions.extend(set(volume, "Failed", Some(&failure.1)));
        plan.actions.push(Action::event(volume, Note::warning(failure.0, failure.1)));
    }
    plan
}

fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Plan {
    let note = |text: String| Note::warning("VolumeMismatch", text);
    let to_volume = format!(
        "Cannot bind PersistentVolume to requested PersistentVolumeClaim \"{}\" due to incompatible volumeMode.",
        pod::name(claim)
    );
    let to_claim = format!(
        "Cannot bind PersistentVolume \"{}\" to requested PersistentVolumeClaim due to incompatible volumeMode.",
        pod::name(volume)
    );
    let actions = vec![Action::event(volume, note(to_volume)), Action::event(claim, note(to_claim))];
    Plan { actions, ..Plan::idle("the volume is of another mode than the claim it is kept for") }
}

/// Undoes a link: all of it where the binder made it, else only the uid.
fn unbind(volume: &PersistentVolume) -> Plan {
    let mut patch = json!({
        "metadata": {"resourceVersion": volume.metadata.resource_version},
        "spec": {"claimRef": {"uid": Value::Null}},
    });
    if annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_some() {
        patch["spec"]["claimRef"] = Value::Null;
        patch["metadata"]["annotations"] = json!({BOUND_BY_CONTROLLER: Value::Null});
    }
    let mut plan = Plan::idle("the claim is bound to another volume");
    plan.actions.push(Action::merge(Target::of(volume), "", patch));
    plan.actions.extend(set(volume, "Available", None));
    plan
}
