//! Claims, volumes and their attribute classes do not go while they are in use.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use serde_json::json;

use crate::{Action, Object, Plan, Target, pod};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";
const ATTRIBUTES: &str = "kubernetes.io/vac-protection";

/// Lets a claim go once no pod uses it. `pods` are those of its namespace.
#[must_use]
pub fn plan_claim<'a>(claim: &PersistentVolumeClaim, pods: impl IntoIterator<Item = &'a Pod>) -> Plan {
    let used = pods.into_iter().filter(|p| uses(p, pod::name(claim))).map(pod::name).next();
    keep(claim, CLAIM, used.map(|p| format!("pod {p} uses the claim")))
}

/// Lets a volume go once no claim is bound to it.
#[must_use]
pub fn plan_volume(volume: &PersistentVolume) -> Plan {
    let phase = volume.status.as_ref().and_then(|s| s.phase.as_deref());
    keep(volume, VOLUME, (phase == Some("Bound")).then(|| "a claim is bound to the volume".to_owned()))
}

/// Lets a class of attributes go once nothing has it, is to have it or is just getting it.
pub fn plan_attributes<'a>(
    class: &VolumeAttributesClass,
    claims: impl IntoIterator<Item = &'a PersistentVolumeClaim>,
    volumes: impl IntoIterator<Item = &'a PersistentVolume>,
) -> Plan {
    let name = pod::name(class);
    let by_claim = claims
        .into_iter()
        .find(|c| attributes_of_claim(c).any(|a| a == name))
        .map(|c| pod::name(c).to_owned());
    let by_volume = || {
        let has = |v: &&PersistentVolume| attributes_of_volume(v) == Some(name);
        volumes.into_iter().find(has).map(|v| pod::name(v).to_owned())
    };
    keep(class, ATTRIBUTES, by_claim.or_else(by_volume).map(|by| format!("{by} uses the class")))
}

/// The classes of attributes a claim names.
pub fn attributes_of_claim(claim: &PersistentVolumeClaim) -> impl Iterator<Item = &str> {
    let status = claim.status.as_ref();
    let wanted = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
    let has = status.and_then(|s| s.current_volume_attributes_class_name.as_deref());
    let target = status
        .and_then(|s| s.modify_volume_status.as_ref())
        .and_then(|m| m.target_volume_attributes_class_name.as_deref());
    [wanted, has, target].into_iter().flatten()
}

/// The class of attributes a volume has.
#[must_use]
pub fn attributes_of_volume(volume: &PersistentVolume) -> Option<&str> {
    volume.spec.as_ref()?.volume_attributes_class_name.as_deref()
}

/// Whether a pod that is scheduled, or about to be, names the claim.
#[must_use]
pub fn uses(p: &Pod, claim: &str) -> bool {
    if pod::is_finished(p) || pod::node(p).is_none() {
        return false;
    }
    let ephemeral = |volume: &str| format!("{}-{volume}", pod::name(p)) == claim;
    p.spec.iter().flat_map(|s| s.volumes.iter().flatten()).any(|v| {
        v.persistent_volume_claim.as_ref().is_some_and(|c| c.claim_name == claim)
            || (v.ephemeral.is_some() && ephemeral(&v.name))
    })
}

/// Has the finalizer on objects that stay, and takes it off those that may go.
fn keep<K: Object>(object: &K, finalizer: &str, used: Option<String>) -> Plan {
    let meta = object.metadata();
    let has = meta.finalizers.iter().flatten().any(|f| f == finalizer);
    let deleting = pod::is_deleting(object);
    let finalizers: Vec<&str> = meta.finalizers.iter().flatten().map(String::as_str).collect();
    let change = |finalizers: Vec<&str>| {
        let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": meta.resource_version}});
        vec![Action::merge(Target::of(object), "", patch)]
    };
    match (deleting, has, used) {
        (true, true, Some(why)) => Plan::idle(why),
        (true, true, None) => {
            let actions = change(finalizers.into_iter().filter(|f| *f != finalizer).collect());
            Plan { actions, ..Plan::idle("nothing uses it any more") }
        }
        (false, false, _) => {
            let actions = change(finalizers.into_iter().chain([finalizer]).collect());
            Plan { actions, ..Plan::idle("it is to be protected") }
        }
        _ => Plan::idle("nothing is to be done"),
    }
}
