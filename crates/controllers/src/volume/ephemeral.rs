//! Claims that are made for one pod and go with it.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{Action, Note, Plan, Target, pod};

/// Makes the claims of a pod's ephemeral volumes. `find` gives the claims of its namespace.
pub fn plan<F, C>(p: &Pod, find: F) -> Plan
where
    F: Fn(&str) -> Option<C>,
    C: std::ops::Deref<Target = PersistentVolumeClaim>,
{
    if pod::is_deleting(p) {
        return Plan::idle("the pod is being deleted");
    }
    let mut plan = Plan::default();
    let me = Target::of(p);
    for volume in p.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        let Some(template) = volume.ephemeral.as_ref().map(|e| e.volume_claim_template.clone()) else {
            continue;
        };
        let name = format!("{}-{}", me.name, volume.name);
        if let Some(claim) = find(&name) {
            if !pod::is_controlled_by(&claim.metadata, &me.uid) {
                let (space, pod) = (&me.namespace, &me.name);
                let text = format!(
                    "ephemeral volume {}: PVC {space}/{name} was not created for pod {space}/{pod} (pod is not owner)",
                    volume.name
                );
                plan.actions.push(Action::event(p, Note::warning("FailedBinding", text)));
            }
            continue;
        }
        let template = template.unwrap_or_default();
        let meta = template.metadata.unwrap_or_default();
        plan.actions.push(Action::create(&PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(me.namespace.clone()),
                labels: meta.labels,
                annotations: meta.annotations,
                owner_references: Some(vec![me.controller_reference()]),
                ..ObjectMeta::default()
            },
            spec: Some(template.spec),
            status: None,
        }));
    }
    plan.because("every ephemeral volume has a claim");
    plan
}
