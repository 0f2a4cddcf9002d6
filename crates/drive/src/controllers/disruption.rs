//! PodDisruptionBudget.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use client::{Cache, Change, Client, ObjectKey};
use controllers::select::{is_empty, matches};
use controllers::{Plan, disruption, pod};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::CrossVersionObjectReference;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::autoscaler::{resource, scale};
use super::workloads::refs;
use crate::shell::{Planner, Wiring};

/// Kinds that are known here, and kinds that have no scale: the API is not asked about them.
const WITHOUT_SCALE: [&str; 6] =
    ["DaemonSet", "Job", "Node", "ReplicaSet", "ReplicationController", "StatefulSet"];

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
    let client = wiring.client().clone();
    let caches = Caches { deployments, sets, stateful, controllers };
    Planner::asking(move |key, now| {
        let budget = budgets.get_key(&key);
        let mut selected = pods.list(&key.namespace);
        let (caches, client) = (caches.clone(), client.clone());
        async move {
            let Some(budget) = budget else { return Ok(Plan::idle("the budget is gone")) };
            selected.retain(|p| selects(&budget, p));
            let asked = ask(&client, &key.namespace, &budget, &selected).await;
            let scale = |owner: &OwnerReference| {
                let own = caches.scale(&key.namespace, owner);
                own.or_else(|| asked.get(&owner.uid).map(|replicas| (owner.uid.clone(), *replicas)))
            };
            let view = disruption::View { budget: &budget, pods: refs(&selected), scale: &scale };
            Ok(disruption::plan(&view, now))
        }
    })
}

/// Owners of pods that have a scale and are known here.
#[derive(Clone)]
struct Caches {
    deployments: Cache<Deployment>,
    sets: Cache<ReplicaSet>,
    stateful: Cache<StatefulSet>,
    controllers: Cache<ReplicationController>,
}

impl Caches {
    /// The topmost owner by uid, with the replicas it wants.
    fn scale(&self, namespace: &str, owner: &OwnerReference) -> Option<(String, i32)> {
        let uid = |found: &str| found == owner.uid;
        match owner.kind.as_str() {
            "ReplicaSet" => {
                let set = self.sets.get(namespace, &owner.name).filter(|o| uid(pod::uid(&**o)))?;
                let above = pod::controller_of(&set.metadata).filter(|o| o.kind == "Deployment");
                let found = above.and_then(|o| {
                    self.deployments.get(namespace, &o.name).filter(|d| pod::uid(&**d) == o.uid)
                });
                match found {
                    Some(d) => Some((pod::uid(&*d).to_owned(), d.spec.as_ref()?.replicas.unwrap_or(1))),
                    None => Some((owner.uid.clone(), set.spec.as_ref()?.replicas.unwrap_or(1))),
                }
            }
            "StatefulSet" => {
                let set = self.stateful.get(namespace, &owner.name).filter(|o| uid(pod::uid(&**o)))?;
                Some((owner.uid.clone(), set.spec.as_ref()?.replicas.unwrap_or(1)))
            }
            "ReplicationController" => {
                let found = self.controllers.get(namespace, &owner.name).filter(|o| uid(pod::uid(&**o)))?;
                Some((owner.uid.clone(), found.spec.as_ref()?.replicas.unwrap_or(1)))
            }
            _ => None,
        }
    }
}

/// The replicas wanted by owners of other kinds, by uid: what the API says of their scale.
async fn ask(
    client: &Client,
    namespace: &str,
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
) -> HashMap<String, i32> {
    let mut asked = HashMap::new();
    let least = budget.spec.as_ref().and_then(|s| s.min_available.as_ref());
    if matches!(least, Some(IntOrString::Int(_))) {
        return asked;
    }
    let mut seen: HashSet<&str> = HashSet::new();
    let owners = pods.iter().filter_map(|p| pod::controller_of(&p.metadata));
    for owner in owners.filter(|owner| !WITHOUT_SCALE.contains(&owner.kind.as_str())) {
        if !seen.insert(owner.uid.as_str()) {
            continue;
        }
        let of = CrossVersionObjectReference {
            api_version: Some(owner.api_version.clone()),
            kind: owner.kind.clone(),
            name: owner.name.clone(),
        };
        let Ok(resource) = resource(client, &of).await else { continue };
        let Ok((target, object)) = scale(client, namespace, &owner.name, resource).await else { continue };
        if target.uid == owner.uid {
            asked.insert(owner.uid.clone(), object.spec.and_then(|s| s.replicas).unwrap_or(0));
        }
    }
    asked
}
