//! The claims of a StatefulSet's pods: made before the pods, and kept or given up as the policy says.

use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Stop, Work, claim_names, ordinal};
use crate::claim::owners_patch;
use crate::{Action, Note, Object, Report, Target, pod};

impl Work<'_> {
    /// Puts the claims' volumes in front of the template's, whose namesakes they replace.
    pub(super) fn mount_claims(&self, spec: &mut PodSpec, ordinal: i32) {
        let claims = claim_names(self.set, ordinal);
        let mut volumes: Vec<Volume> = claims
            .iter()
            .map(|(name, claim)| Volume {
                name: name.clone(),
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: claim.clone(),
                    read_only: None,
                }),
                ..Volume::default()
            })
            .collect();
        let others = spec.volumes.take().unwrap_or_default().into_iter();
        volumes.extend(others.filter(|v| !claims.contains_key(&v.name)));
        spec.volumes = (!volumes.is_empty()).then_some(volumes);
    }

    /// Creates the pod's claims that do not exist; waits for those that are going.
    pub(super) fn ensure_claims(&mut self, p: &Pod, ordinal: i32) -> Result<(), Stop> {
        let names = claim_names(self.set, ordinal);
        for template in self.spec.volume_claim_templates.iter().flatten() {
            let Some(name) = names.get(pod::name(template)) else { continue };
            if let Some(known) = (self.claims)(name) {
                if pod::is_deleting(&*known) {
                    self.plan.because(format!("claim {name} is being deleted"));
                    return Err(Stop);
                }
                continue;
            }
            let mut labels = template.metadata.labels.clone().unwrap_or_default();
            labels.extend(self.spec.selector.match_labels.clone().unwrap_or_default());
            let mut new = PersistentVolumeClaim {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    namespace: Some(self.owner.namespace.clone()),
                    labels: Some(labels),
                    annotations: template.metadata.annotations.clone(),
                    ..ObjectMeta::default()
                },
                spec: template.spec.clone(),
                status: None,
            };
            if self.deletes_with_set() {
                new.metadata.owner_references = Some(vec![self.owner.controller_reference()]);
            }
            let (set, pod_name) = (&self.owner.name, pod::name(p));
            let text = format!("Create Claim {name} Pod {pod_name} in StatefulSet {set} success");
            let trouble =
                format!("Create Claim {name} for Pod {pod_name} in StatefulSet {set} failed error: ");
            let report = Report {
                about: self.owner.clone(),
                done: Some(Note::normal("SuccessfulCreate", text)),
                failed: Some(Note::warning("FailedCreate", trouble)),
            };
            self.plan.actions.push(Action::create_reported(&new, Some(report)));
        }
        Ok(())
    }

    fn policy(&self, when: &str) -> bool {
        let policy = self.spec.persistent_volume_claim_retention_policy.as_ref();
        let value = policy.and_then(|p| {
            if when == "scaled" { p.when_scaled.as_deref() } else { p.when_deleted.as_deref() }
        });
        value == Some("Delete")
    }

    fn deletes_with_set(&self) -> bool {
        self.policy("deleted")
    }

    /// Makes the pod's claims belong to the set, to the pod, or to no one.
    pub(super) fn keep_retention(&mut self, p: &Pod, in_range: bool) {
        let Some(ordinal) = ordinal(&self.owner.name, p) else { return };
        let me = Target::of(p);
        let owner = match (self.policy("scaled"), self.deletes_with_set(), in_range) {
            (true, _, false) => Some(&me),
            (_, true, true) | (false, true, _) => Some(&self.owner),
            _ => None,
        };
        let mut actions = Vec::new();
        for name in claim_names(self.set, ordinal).values() {
            let Some(known) = (self.claims)(name) else { continue };
            let old = known.metadata.owner_references.clone().unwrap_or_default();
            let ours = |uid: &str| uid == self.owner.uid || uid == me.uid;
            let others: Vec<_> = old.iter().filter(|o| !ours(&o.uid)).cloned().collect();
            // A claim that someone else controls is not ours to give.
            let foreign = others.iter().any(|o| o.controller == Some(true));
            let mut new = others;
            new.extend(owner.filter(|_| !foreign).map(Target::controller_reference));
            if new != old {
                actions.push(owners_patch(PersistentVolumeClaim::resource(), &known.metadata, &new));
            }
        }
        self.plan.actions.extend(actions);
    }
}
