//! PodDisruptionBudget.

use std::sync::Arc;

use client::{Cache, Change, ObjectKey};
use controllers::select::{is_empty, matches};
use controllers::{Plan, disruption, pod};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::workloads::refs;
use crate::shell::{Pass, Planner, Wiring};

fn selects(budget: &PodDisruptionBudget, p: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector.is_some() && (is_empty(selector) || matches(selector, p.metadata.labels.as_ref()))
}

/// Wakes the budgets that select the pod, before or after, if anything changed that they count.
fn wake_budgets(
    budgets: &Cache<PodDisruptionBudget>,
    change: &Change<'_, Pod>,
    wake: &mut dyn FnMut(ObjectKey),
) {
    let face = |p: &Arc<Pod>| {
        (p.metadata.uid.clone(), p.metadata.labels.clone(), pod::is_ready(p), pod::is_deleting(&**p))
    };
    if let (Some(old), Some(new)) = (change.old, change.new)
        && face(old) == face(new)
    {
        return;
    }
    for budget in budgets.list(&change.key.namespace) {
        if [change.old, change.new].into_iter().flatten().any(|p| selects(&budget, p)) {
            wake(ObjectKey::of(&*budget));
        }
    }
}

/// Wakes all budgets of the namespace when the replicas wanted by a workload change.
macro_rules! on_scale {
    ($wiring:expr, $budgets:expr, $kind:ty) => {{
        let budgets = $budgets.clone();
        $wiring.on_change::<$kind>(move |change, wake| {
            let replicas = |o: &Arc<$kind>| o.spec.as_ref().and_then(|s| s.replicas);
            if change.old.map(replicas) != change.new.map(replicas) {
                budgets.list(&change.key.namespace).iter().for_each(|b| wake(ObjectKey::of(&**b)));
            }
        })
    }};
}

pub(super) fn budget(wiring: &mut Wiring) -> Planner {
    let budgets = wiring.own::<PodDisruptionBudget>();
    let known = budgets.clone();
    let pods = wiring.on_change::<Pod>(move |change, wake| wake_budgets(&known, change, wake));
    let deployments = on_scale!(wiring, budgets, Deployment);
    let sets = on_scale!(wiring, budgets, ReplicaSet);
    let stateful = on_scale!(wiring, budgets, StatefulSet);
    let controllers = on_scale!(wiring, budgets, ReplicationController);
    Planner::local(move |pass: &Pass<'_>| {
        let Some(budget) = budgets.get_key(pass.key) else { return Plan::idle("the budget is gone") };
        let namespace = &*pass.key.namespace;
        let scale = |owner: &OwnerReference| {
            let uid = |found: &str| found == owner.uid;
            match owner.kind.as_str() {
                "ReplicaSet" => {
                    let set = sets.get(namespace, &owner.name).filter(|o| uid(pod::uid(&**o)))?;
                    let above = pod::controller_of(&set.metadata).filter(|o| o.kind == "Deployment");
                    match above
                        .and_then(|o| deployments.get(namespace, &o.name).filter(|d| pod::uid(&**d) == o.uid))
                    {
                        Some(d) => Some((pod::uid(&*d).to_owned(), d.spec.as_ref()?.replicas.unwrap_or(1))),
                        None => Some((owner.uid.clone(), set.spec.as_ref()?.replicas.unwrap_or(1))),
                    }
                }
                "StatefulSet" => {
                    let set = stateful.get(namespace, &owner.name).filter(|o| uid(pod::uid(&**o)))?;
                    Some((owner.uid.clone(), set.spec.as_ref()?.replicas.unwrap_or(1)))
                }
                "ReplicationController" => {
                    let found = controllers.get(namespace, &owner.name).filter(|o| uid(pod::uid(&**o)))?;
                    Some((owner.uid.clone(), found.spec.as_ref()?.replicas.unwrap_or(1)))
                }
                _ => None,
            }
        };
        let mut selected = pods.list(namespace);
        selected.retain(|p| selects(&budget, p));
        let view = disruption::View { budget: &budget, pods: refs(&selected), scale: &scale };
        disruption::plan(&view, pass.now)
    })
}
