//! The views of the real planners, made from a process's cache.

use std::collections::{BTreeMap, BTreeSet};

use controllers::{
    Action, Object, Plan, Resource, Target, daemonset, deployment, gc, job, pod, replicaset, statefulset,
    volume,
};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;

use crate::cache::{Cache, Change, PLURALS};

/// The subresource of a request that only looks whether the object of this uid is there. The real collector asks the
/// API before it holds that an owner is gone, because its cache may be behind.
pub const LOOK: &str = "look";

/// What a pass is told beyond the cache.
#[derive(Default)]
pub struct Memory {
    /// Uids that the server said are gone. They never come back.
    pub absent: BTreeSet<String>,
    /// Failures of daemon pods.
    pub failures: daemonset::Failures,
}

/// Whether the owner controls it, or nobody.
fn free<K: Object>(meta: &ObjectMeta, owner: &K) -> bool {
    pod::controller_of(meta).is_none_or(|c| Some(&c.uid) == owner.metadata().uid.as_ref())
}

fn pods_for<'a, K: Object>(cache: &'a Cache, owner: &K) -> Vec<&'a Pod> {
    cache.pods.values().map(|p| &**p).filter(|p| free(&p.metadata, owner)).collect()
}

fn revisions_of<'a, K: Object>(cache: &'a Cache, owner: &K) -> Vec<&'a ControllerRevision> {
    let uid = owner.metadata().uid.as_deref().unwrap_or("");
    let all = cache.revisions.values().map(|r| &**r);
    all.filter(|r| pod::is_controlled_by(&r.metadata, uid)).collect()
}

/// What a change concerns: `KIND/NAME`, and `gc/KIND/NAME` for what has owners.
pub fn concerned(cache: &Cache, change: &Change) -> Vec<String> {
    let kinds: &[&str] = match change.plural {
        "pods" => &["replicasets", "jobs", "statefulsets", "daemonsets"],
        "nodes" => &["daemonsets"],
        "replicasets" => &["deployments", "replicasets"],
        "controllerrevisions" => &["statefulsets", "daemonsets"],
        "persistentvolumes" | "persistentvolumeclaims" => &["persistentvolumes", "persistentvolumeclaims"],
        own => &[own],
    };
    let of = |plural: &'static str| {
        cache.names(plural).into_iter().map(move |name| (plural, name)).collect::<Vec<_>>()
    };
    let mut keys: Vec<String> = PLURALS
        .into_iter()
        .filter(|plural| kinds.contains(plural))
        .flat_map(of)
        .map(|(plural, name)| format!("{plural}/{name}"))
        .collect();
    // An owner that goes concerns all that may be its own.
    let gone = change.object.is_none();
    let owned = PLURALS.into_iter().filter(|plural| gone || *plural == change.plural).flat_map(of);
    let owned = owned.filter(|(plural, name)| {
        (gone || *name == change.name)
            && cache.meta(plural, name).is_some_and(|meta| meta.owner_references.is_some())
    });
    keys.extend(owned.map(|(plural, name)| format!("gc/{plural}/{name}")));
    keys
}

/// One pass.
pub fn plan(cache: &Cache, memory: &mut Memory, key: &str, now: Timestamp) -> Option<Plan> {
    let (kind, name) = key.split_once('/')?;
    match kind {
        "deployments" => {
            let deployment = cache.deployments.get(name)?;
            let sets = cache.sets.values().map(|set| &**set);
            let view = deployment::View {
                deployment,
                sets: sets.filter(|s| free(&s.metadata, &**deployment)).collect(),
                namesake: cache.sets.get(&deployment::next_name(deployment)).map(|set| &**set),
                pods: Vec::new(),
                failure: None,
            };
            Some(deployment::plan(&view, now))
        }
        "replicasets" => {
            let set = cache.sets.get(name)?;
            let view = replicaset::View {
                set,
                resource: replicaset::resource(),
                pods: pods_for(cache, &**set),
                related_on_node: BTreeMap::new(),
                failure: None,
            };
            Some(replicaset::plan(&view, now))
        }
        "jobs" => {
            let job = cache.jobs.get(name)?;
            Some(job::plan(&job::View { job, pods: pods_for(cache, &**job), failure: None }, now))
        }
        "statefulsets" => {
            let set = cache.statefuls.get(name)?;
            let view = statefulset::View {
                set,
                pods: pods_for(cache, &**set),
                claims: &|name| cache.claims.get(name).cloned(),
                revisions: revisions_of(cache, &**set),
                failure: None,
            };
            Some(statefulset::plan(&view, now))
        }
        "daemonsets" => {
            let set = cache.daemons.get(name)?;
            let view = daemonset::View {
                set,
                pods: pods_for(cache, &**set),
                nodes: cache.nodes.values().map(|node| &**node).collect(),
                revisions: revisions_of(cache, &**set),
                failure: None,
            };
            Some(daemonset::plan(&view, &mut memory.failures, now))
        }
        "persistentvolumeclaims" => {
            let claim = cache.claims.get(name)?;
            let view = volume::claim::View {
                claim,
                class: None,
                default: None,
                named: cache.volumes.get(volume::volume_name(claim)).map(|v| &**v),
                volumes: cache.volumes.values().map(|v| &**v).filter(|v| is_open(v, claim)).collect(),
                waiting_pods: Vec::new(),
            };
            Some(volume::claim::plan(&view))
        }
        "persistentvolumes" => volume_plan(cache, memory, name),
        "gc" => {
            let (plural, name) = name.split_once('/')?;
            collect(cache, memory, plural, name)
        }
        _ => None,
    }
}

type Claim = k8s_openapi::api::core::v1::PersistentVolumeClaim;
type Volume = k8s_openapi::api::core::v1::PersistentVolume;

/// Nobody has the volume, or it is kept for the claim.
fn is_open(volume: &Volume, claim: &Claim) -> bool {
    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    reference.is_none() || volume::matching::is_bound_to(volume, claim)
}

fn volume_plan(cache: &Cache, memory: &Memory, name: &str) -> Option<Plan> {
    let volume = cache.volumes.get(name)?;
    let reference = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    let claim = reference.and_then(|r| cache.claims.get(r.name.as_deref()?)).map(|c| &**c);
    if let Some(reference) = reference.filter(|_| volume::reclaim::is_orphan(volume, claim)) {
        let uid = reference.uid.clone().unwrap_or_default();
        if !memory.absent.contains(&uid) {
            return Some(look(Claim::resource(), reference.name.as_deref()?, &uid));
        }
    }
    Some(volume::reclaim::plan(volume, claim))
}

fn look(resource: Resource, name: &str, uid: &str) -> Plan {
    let target = Target { resource, namespace: "default".into(), name: name.into(), uid: uid.into() };
    let actions = vec![Action::Post { target, subresource: LOOK, body: Box::new(json!({})) }];
    Plan { actions, ..Plan::idle("it has to be seen whether the owner is there") }
}

fn resource_of(plural: &str) -> Option<Resource> {
    Some(match plural {
        "deployments" => Deployment::resource(),
        "replicasets" => ReplicaSet::resource(),
        "jobs" => Job::resource(),
        "statefulsets" => StatefulSet::resource(),
        "daemonsets" => DaemonSet::resource(),
        "controllerrevisions" => ControllerRevision::resource(),
        "pods" => Pod::resource(),
        "persistentvolumeclaims" => Claim::resource(),
        _ => return None,
    })
}

fn plural_of(owner: &OwnerReference) -> String {
    format!("{}s", owner.kind.to_lowercase())
}

/// Deletes what has no owner any more; lets go of pods whose Job is gone.
fn collect(cache: &Cache, memory: &Memory, plural: &str, name: &str) -> Option<Plan> {
    let item = gc::Node { resource: resource_of(plural)?, meta: cache.meta(plural, name)?.clone() };
    let mut owners = Vec::new();
    for owner in item.owners() {
        let kind = plural_of(owner);
        let here = cache.meta(&kind, &owner.name).is_some_and(|meta| meta.uid.as_ref() == Some(&owner.uid));
        match (here, memory.absent.contains(&owner.uid)) {
            (true, _) => owners.push((owner, gc::Owner::Solid)),
            (false, true) => owners.push((owner, gc::Owner::Absent)),
            (false, false) => return Some(look(resource_of(&kind)?, &owner.name, &owner.uid)),
        }
    }
    let mut plan = gc::plan(&gc::View { item: &item, owners: owners.clone(), dependents: Vec::new() });
    let gone = owners.iter().any(|(owner, state)| owner.kind == "Job" && *state == gc::Owner::Absent);
    if let Some(pod) = cache.pods.get(name).filter(|_| gone && plural == "pods") {
        plan.actions.extend(job::release_orphan(pod).actions);
    }
    Some(plan)
}
