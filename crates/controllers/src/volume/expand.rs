//! Lets the cluster's own volumes grow, and says of others that someone else has to.

use base::quantity::Quantity;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use serde_json::{Value, json};

use super::{LOCAL_PROVISIONER, PROVISIONED_BY, annotation, capacity, claim_phase, requested, storage};
use crate::{Action, Note, Plan, Target, pod};

/// What is to be done so that the claim has what it asks for.
#[must_use]
pub fn plan(claim: &PersistentVolumeClaim, volume: Option<&PersistentVolume>) -> Plan {
    if claim_phase(claim) != "Bound" || pod::is_deleting(claim) {
        return Plan::idle("only bound claims grow");
    }
    let Some(volume) = volume else { return Plan::idle("the claim's volume is not known") };
    let status = claim.status.as_ref();
    let has = storage(status.and_then(|s| s.capacity.as_ref()));
    let wants = requested(claim);
    if wants <= has {
        return Plan::idle("the claim has what it asks for");
    }
    if annotation(&volume.metadata, PROVISIONED_BY) != Some(LOCAL_PROVISIONER) {
        let text = "waiting for an external controller to expand this PVC";
        let actions = vec![Action::event(claim, Note::normal("ExternalExpanding", text))];
        return Plan { actions, ..Plan::idle("the volume is someone else's") };
    }
    grow(claim, volume, wants)
}

/// A directory has the room of its file system: it is enough to say so.
fn grow(claim: &PersistentVolumeClaim, volume: &PersistentVolume, wants: Quantity) -> Plan {
    let size = json!({"storage": wants.to_string()});
    let mut plan = Plan::idle("the volume grows");
    if capacity(volume) < wants {
        let patch = json!({
            "metadata": {"resourceVersion": volume.metadata.resource_version},
            "spec": {"capacity": size.clone()},
        });
        plan.actions.push(Action::merge(Target::of(volume), "", patch));
    }
    let resizing = ["Resizing", "FileSystemResizePending", "ControllerResizeError", "NodeResizeError"];
    let conditions = claim.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let others: Vec<_> = conditions.filter(|c| !resizing.contains(&c.type_.as_str())).collect();
    let conditions = if others.is_empty() { Value::Null } else { json!(others) };
    let patch = json!({"status": {
        "capacity": size.clone(), "allocatedResources": size,
        "allocatedResourceStatuses": Value::Null, "conditions": conditions,
    }});
    plan.actions.push(Action::merge(Target::of(claim), "status", patch));
    plan.actions
        .push(Action::event(claim, Note::normal("VolumeResizeSuccessful", "Resize volume succeeded")));
    plan
}
