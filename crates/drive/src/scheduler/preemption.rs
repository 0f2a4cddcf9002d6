//! Preemption: the place that is being made for a pod is kept for it, and its victims are told and deleted.

use std::collections::HashMap;
use std::sync::Arc;

use client::{DeleteOptions, ObjectKey, Patch};
use controllers::{Note, Target};
use k8s_openapi::api::core::v1::Pod;
use scheduler::preempt::{Preemption, preempt, priority};
use scheduler::{PodInfo, Snapshot};
use serde_json::json;

use super::{State, Work};

/// Pods for which a place is being made, by uid, with the node.
pub(super) type Nominated = HashMap<String, (PodInfo, String)>;

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Why no place is made for a pod.
pub(super) struct Refused {
    pub(super) why: String,
    /// Whether the place that is being made for it already stays its own.
    pub(super) keeps_place: bool,
}

fn is_being_preempted(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    pod.metadata.deletion_timestamp.is_some()
        && conditions.iter().any(|c| {
            c.type_ == "DisruptionTarget"
                && c.status == "True"
                && c.reason.as_deref() == Some("PreemptionByScheduler")
        })
}

/// The places kept for pods at least as important, which `pod` may not take.
pub(super) fn keep_places(snapshot: &mut Snapshot, nominated: &Nominated, pod: &Pod) -> Vec<String> {
    let others = nominated.iter().filter(|(of, _)| of.as_str() != uid(pod));
    let kept: Vec<_> = others.filter(|(_, (info, _))| priority(&info.pod) >= priority(pod)).collect();
    for (_, (info, node)) in &kept {
        snapshot.place(info.clone(), node);
    }
    kept.into_iter().map(|(uid, _)| uid.clone()).collect()
}

impl Work {
    /// Makes a place for a pod that found none, if pods of lower priority can give it; otherwise says why not.
    pub(super) fn nominate(&self, state: &mut State, info: &PodInfo) -> Result<Preemption, Refused> {
        if let Some((_, node)) = state.nominated.get(info.uid()) {
            let own = priority(&info.pod);
            let on_its_way = |p: &PodInfo| is_being_preempted(&p.pod) && priority(&p.pod) < own;
            if state.snapshot.node(node).is_some_and(|n| n.pods.values().any(on_its_way)) {
                let why = "not eligible due to a terminating pod on the nominated node.".to_owned();
                return Err(Refused { why, keeps_place: true });
            }
            state.nominated.remove(info.uid());
        }
        // Not always the same nodes are looked at first.
        let offset = self.started.elapsed().subsec_nanos() as usize;
        let found = preempt(&mut state.snapshot, info, &self.budgets.list(""), offset)
            .map_err(|why| Refused { why, keeps_place: false })?;
        state.nominated.insert(info.uid().to_owned(), (info.clone(), found.node.clone()));
        Ok(found)
    }

    /// Less important pods for which a place was being made on the node must look for another.
    pub(super) fn displace(&self, state: &mut State, info: &PodInfo, node: &str) -> Vec<Arc<Pod>> {
        let own = priority(&info.pod);
        let lower = state.nominated.extract_if(|_, (other, on)| on == node && priority(&other.pod) < own);
        lower.map(|(_, (other, _))| other.pod).collect()
    }

    /// Tells the victims and deletes them; they have their own time to end.
    pub(super) async fn evict(&self, pod: &Pod, preemption: Preemption, displaced: Vec<Arc<Pod>>) {
        let key = ObjectKey::of(pod);
        let nominated = json!({"status": {"nominatedNodeName": preemption.node}});
        let told = self.client.patch_status::<Pod>(&key.namespace, &key.name, &Patch::Merge(nominated)).await;
        if let Err(error) = told {
            tracing::warn!(pod = %key, error = error.chain(), "the nominated node could not be told");
        }
        for other in displaced {
            self.forget_place(&other).await;
        }
        for victim in preemption.victims {
            self.evict_one(pod, &victim, &preemption.node).await;
        }
    }

    /// Tells a pod that no place is being made for it any more.
    pub(super) async fn forget_place(&self, pod: &Pod) {
        let key = ObjectKey::of(pod);
        let patch = Patch::Merge(json!({"status": {"nominatedNodeName": null}}));
        let told = self.client.patch_status::<Pod>(&key.namespace, &key.name, &patch).await;
        if let Err(error) = told.map(drop)
            && !error.is_not_found()
        {
            tracing::warn!(pod = %key, error = error.chain(), "the nominated node could not be cleared");
        }
    }

    async fn evict_one(&self, pod: &Pod, victim: &Arc<Pod>, node: &str) {
        let key = ObjectKey::of(&**victim);
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let condition = json!({"status": {"conditions": [{"type": "DisruptionTarget", "status": "True",
            "reason": "PreemptionByScheduler", "lastTransitionTime": now,
            "message": "default-scheduler: preempting to accommodate a higher priority pod"}]}});
        let patch = Patch::Strategic(condition);
        let told = self.client.patch_status::<Pod>(&key.namespace, &key.name, &patch).await;
        let deleted = match told {
            Ok(_) => {
                let options = DeleteOptions::uid(uid(victim));
                self.client.delete::<Pod>(&key.namespace, &key.name, &options).await.map(drop)
            }
            Err(error) => Err(error),
        };
        match deleted {
            Ok(()) => {
                let text = format!("Preempted by pod {} on node {node}", uid(pod));
                self.recorder.tell(&Target::of(&**victim), &Note::normal("Preempted", text));
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                tracing::warn!(pod = %key, error = error.chain(), "a pod could not be preempted");
            }
        }
    }
}
