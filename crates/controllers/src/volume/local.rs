//! Volumes of the cluster's own class: directories that a node makes and removes on request.
//!
//! What is to be asked of which node is decided here, and what its answer means; the asking is the shell's. A volume
//! keeps a finalizer until its node has removed the directory, however long the node is away.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    LocalVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume,
    PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::matching::reference;
use super::{
    LOCAL_PROVISIONER, PROVISIONED_BY, PROVISIONER, SELECTED_NODE, annotation, claim_phase, spec_of,
    volume_name, volume_phase, waits_for_consumer,
};
use crate::{Action, Note, Plan, Target, Wake, nodelifecycle, pod};

/// Holds a volume until its directory is gone.
pub const FINALIZER: &str = "kutter.dev/local-volume";
/// On a volume: the node that has it.
pub const NODE: &str = "kutter.dev/node";
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Between attempts at a node that is there but refuses: the first and the longest pause.
const RETRY: SignedDuration = SignedDuration::from_secs(1);
const RETRY_MAX: SignedDuration = SignedDuration::from_mins(1);
/// After this time a node that does not exist takes its directories with it.
const GONE_AFTER: SignedDuration = SignedDuration::from_mins(5);

/// What is to be asked of a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Demand {
    /// Nothing; this is to be done instead.
    Nothing(Plan),
    /// To make the directory of this volume.
    Make {
        /// The node.
        node: String,
        /// The volume.
        volume: String,
    },
    /// To remove it.
    Remove {
        /// The node.
        node: String,
        /// The volume.
        volume: String,
    },
}

/// The name of the volume that is made for a claim.
#[must_use]
pub fn name_for(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", pod::uid(claim))
}

/// What a claim demands. `volume` is the one of [`name_for`] it, if there is.
pub fn for_claim<'a>(
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
    volume: Option<&PersistentVolume>,
    nodes: impl Fn(&str) -> Option<&'a Node>,
    any: impl FnOnce() -> Option<String>,
) -> Demand {
    let idle = |why: &'static str| Demand::Nothing(Plan::idle(why));
    if annotation(&claim.metadata, PROVISIONER) != Some(LOCAL_PROVISIONER)
        || !volume_name(claim).is_empty()
        || claim_phase(claim) == "Lost"
        || pod::is_deleting(claim)
    {
        return idle("the claim needs no volume from here");
    }
    let Some(class) = class.filter(|c| c.provisioner == LOCAL_PROVISIONER) else {
        return idle("the claim is not of a class from here");
    };
    if volume.is_some() {
        return idle("the volume is made");
    }
    if let Some(why) = refusal(claim) {
        return Demand::Nothing(failed(claim, class, why));
    }
    let selected = annotation(&claim.metadata, SELECTED_NODE).filter(|n| !n.is_empty());
    let node = match selected {
        Some(name) => match nodes(name) {
            Some(node) if nodelifecycle::readiness(node) == "True" => name.to_owned(),
            _ => {
                let mut plan = failed(claim, class, &format!("node {name} is not ready"));
                plan.actions.extend(reschedule(claim));
                return Demand::Nothing(plan);
            }
        },
        None if waits_for_consumer(class) => return idle("the claim waits for its first consumer"),
        None => match any() {
            Some(name) => name,
            None => return Demand::Nothing(failed(claim, class, "no node is ready")),
        },
    };
    Demand::Make { node, volume: name_for(claim) }
}

/// What no directory can be.
fn refusal(claim: &PersistentVolumeClaim) -> Option<&'static str> {
    let spec = claim.spec.as_ref()?;
    if spec.volume_mode.as_deref() == Some("Block") {
        Some("volumes of this class are directories, volumeMode Block is not supported")
    } else if spec.selector.is_some() {
        Some("claim Selector is not supported")
    } else if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        Some("volumes of this class cannot be made from a dataSource")
    } else {
        None
    }
}

fn failed(claim: &PersistentVolumeClaim, class: &StorageClass, why: &str) -> Plan {
    let text = format!("failed to provision volume with StorageClass \"{}\": {why}", pod::name(class));
    let actions = vec![Action::event(claim, Note::warning("ProvisioningFailed", text.clone()))];
    Plan { actions, ..Plan::idle(text) }
}

/// Gives the choice of the node back to the scheduler.
fn reschedule(claim: &PersistentVolumeClaim) -> Option<Action> {
    annotation(&claim.metadata, SELECTED_NODE)?;
    let patch = json!({"metadata": {
        "resourceVersion": claim.metadata.resource_version, "annotations": {SELECTED_NODE: Value::Null},
    }});
    Some(Action::merge(Target::of(claim), "", patch))
}

/// What to do once the node has answered with the directory, or with what went wrong.
#[must_use]
pub fn made(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    node: &Node,
    answer: Result<String, String>,
    now: Timestamp,
) -> Plan {
    let path = match answer {
        Ok(path) => path,
        Err(why) => {
            let mut plan = failed(claim, class, &why);
            let again = reschedule(claim);
            plan.wake = Wake::OnChange.or_at(again.is_none().then_some(now + RETRY));
            plan.actions.extend(again);
            return plan;
        }
    };
    let volume = volume_of(claim, class, node, path);
    let text = format!("Successfully provisioned volume {}", pod::name(&volume));
    let done = Some(Note::normal("ProvisioningSucceeded", text));
    let report = crate::Report { about: Target::of(claim), done, failed: None };
    let actions = vec![Action::create_reported(&volume, Some(report))];
    Plan { actions, ..Plan::idle("the volume is made") }
}

fn volume_of(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    node: &Node,
    path: String,
) -> PersistentVolume {
    let wants = claim.spec.clone().unwrap_or_default();
    let labels = node.metadata.labels.as_ref();
    let host = labels.and_then(|l| l.get(HOSTNAME)).cloned().unwrap_or_else(|| pod::name(node).to_owned());
    let here =
        NodeSelectorRequirement { key: HOSTNAME.into(), operator: "In".into(), values: Some(vec![host]) };
    let term = NodeSelectorTerm { match_expressions: Some(vec![here]), match_fields: None };
    let annotations = [(PROVISIONED_BY, LOCAL_PROVISIONER), (NODE, pod::name(node))];
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name_for(claim)),
            annotations: Some(annotations.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
            finalizers: Some(vec![FINALIZER.into()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: wants.access_modes,
            capacity: wants.resources.and_then(|r| r.requests),
            claim_ref: Some(reference(claim)),
            local: Some(LocalVolumeSource { path, fs_type: None }),
            mount_options: class.mount_options.clone(),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector { node_selector_terms: vec![term] }),
            }),
            persistent_volume_reclaim_policy: class
                .reclaim_policy
                .clone()
                .or_else(|| Some("Delete".to_owned())),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: wants.volume_mode,
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

/// What a volume demands. `node` is the one that has it, if that exists.
#[must_use]
pub fn for_volume(volume: &PersistentVolume, node: Option<&Node>, now: Timestamp) -> Demand {
    if annotation(&volume.metadata, PROVISIONED_BY) != Some(LOCAL_PROVISIONER) {
        return Demand::Nothing(Plan::idle("the volume is not from here"));
    }
    let deletes = spec_of(volume).persistent_volume_reclaim_policy.as_deref() == Some("Delete");
    let free = matches!(volume_phase(volume), "Released" | "Failed")
        || pod::is_deleting(volume) && volume_phase(volume) != "Bound";
    if !free {
        return Demand::Nothing(Plan::idle("the volume is in use"));
    }
    if !deletes {
        let going = pod::is_deleting(volume);
        let actions = if going { unhold(volume) } else { Vec::new() };
        return Demand::Nothing(Plan { actions, ..Plan::idle("the directory is kept") });
    }
    let Some(node) = node else {
        let due = phase_since(volume).map_or(now, |s| s + GONE_AFTER);
        return Demand::Nothing(match due <= now {
            true => removed(volume, Ok(()), now),
            false => {
                Plan { wake: Wake::At(due), ..Plan::idle("the volume's node is gone and may come back") }
            }
        });
    };
    if nodelifecycle::readiness(node) != "True" {
        return Demand::Nothing(Plan::idle("the volume's node is away"));
    }
    Demand::Remove { node: pod::name(node).to_owned(), volume: pod::name(volume).to_owned() }
}

/// What to do once the node has removed the directory, or said why it could not.
#[must_use]
pub fn removed(volume: &PersistentVolume, answer: Result<(), String>, now: Timestamp) -> Plan {
    if let Err(why) = answer {
        let mut plan = Plan::idle(why.clone());
        if volume_phase(volume) != "Failed" {
            let patch = json!({"status": {"phase": "Failed", "message": why}});
            plan.actions.push(Action::merge(Target::of(volume), "status", patch));
        }
        plan.actions.push(Action::event(volume, Note::warning("VolumeFailedDelete", why)));
        // The pauses grow with the time that it has failed.
        let failing = phase_since(volume).filter(|_| plan.actions.len() == 1).map(|s| now.duration_since(s));
        plan.wake = Wake::At(now + failing.unwrap_or(RETRY).clamp(RETRY, RETRY_MAX));
        return plan;
    }
    let mut actions = unhold(volume);
    if !pod::is_deleting(volume) {
        actions.push(Action::delete(volume));
    }
    Plan { actions, ..Plan::idle("the directory is gone") }
}

/// Since when the volume is in its phase.
fn phase_since(volume: &PersistentVolume) -> Option<Timestamp> {
    Some(volume.status.as_ref()?.last_phase_transition_time.as_ref()?.0)
}

fn unhold(volume: &PersistentVolume) -> Vec<Action> {
    let finalizers = volume.metadata.finalizers.as_deref().unwrap_or_default();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        return Vec::new();
    }
    let rest: Vec<_> = finalizers.iter().filter(|f| *f != FINALIZER).collect();
    let patch = json!({"metadata": {
        "resourceVersion": volume.metadata.resource_version, "finalizers": rest,
    }});
    vec![Action::merge(Target::of(volume), "", patch)]
}
