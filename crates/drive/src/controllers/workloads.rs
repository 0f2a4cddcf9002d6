//! Deployment, ReplicaSet, ReplicationController.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Cache, Kind, Object, ObjectKey};
use controllers::select::{matches, matches_map};
use controllers::{Plan, deployment, pod, replicaset};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};

use crate::caches::{CONTROLLER, orphans_of};
use crate::shell::{Pass, Planner, Wiring};

/// Objects that the owner controls, and those of its namespace that no one does.
pub(super) fn candidates<K: Kind>(cache: &Cache<K>, owner_uid: &str, namespace: &str) -> Vec<Arc<K>> {
    let mut found = cache.by_index(CONTROLLER, owner_uid);
    found.extend(cache.by_index(CONTROLLER, &orphans_of(namespace)));
    found
}

/// Wakes every object of the namespace whose selector selects the orphan.
pub(super) fn wake_selecting<K: Kind, O: Object>(
    cache: &Cache<K>,
    orphan: &O,
    selects: impl Fn(&K, &O) -> bool,
    wake: &mut dyn FnMut(ObjectKey),
) {
    let namespace = orphan.meta().namespace.as_deref().unwrap_or("");
    for owner in cache.list(namespace).iter().filter(|o| selects(o, orphan)) {
        wake(ObjectKey::of(&**owner));
    }
}

pub(super) fn refs<K>(objects: &[Arc<K>]) -> Vec<&K> {
    objects.iter().map(|o| &**o).collect()
}

pub(super) fn deployment(wiring: &mut Wiring) -> Planner {
    let deployments = wiring.own::<Deployment>();
    let owners = deployments.clone();
    let sets = wiring.owned::<ReplicaSet>("Deployment", move |set, wake| {
        let selects = |d: &Deployment, s: &ReplicaSet| {
            matches(d.spec.as_ref().map(|s| &s.selector), s.metadata.labels.as_ref())
        };
        wake_selecting(&owners, set, selects, wake);
    });
    // A Recreate deployment waits for its last old pod to go.
    let by_pod = sets.clone();
    let pods = wiring.on_change::<Pod>(move |change, wake| {
        let gone = change.old.filter(|_| change.new.is_none_or(|p| pod::is_finished(p)));
        let owner = gone.and_then(|p| pod::controller_of(&p.metadata)).filter(|o| o.kind == "ReplicaSet");
        let set = owner.and_then(|o| by_pod.get(&change.key.namespace, &o.name));
        let deployment = set.as_ref().and_then(|s| pod::controller_of(&s.metadata)).map(|o| o.name.clone());
        if let Some(name) = deployment {
            wake(ObjectKey::new(&change.key.namespace, &name));
        }
    });
    Planner::local(move |pass: &Pass<'_>| {
        let Some(d) = deployments.get_key(pass.key) else { return Plan::idle("the deployment is gone") };
        let found = candidates(&sets, pod::uid(&*d), &pass.key.namespace);
        let namesake = sets.get(&pass.key.namespace, &deployment::next_name(&d));
        let recreate = d.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.type_.as_deref());
        let running: Vec<Arc<Pod>> = match recreate {
            Some("Recreate") => {
                found.iter().flat_map(|s| pods.by_index(CONTROLLER, pod::uid(&**s))).collect()
            }
            _ => Vec::new(),
        };
        let view = deployment::View {
            deployment: &d,
            sets: refs(&found),
            namesake: namesake.as_deref(),
            pods: refs(&running),
            failure: pass.failure,
        };
        deployment::plan(&view, pass.now)
    })
}

pub(super) fn replicaset(wiring: &mut Wiring) -> Planner {
    let sets = wiring.own::<ReplicaSet>();
    let owners = sets.clone();
    let pods = wiring.owned::<Pod>("ReplicaSet", move |orphan, wake| {
        let selects = |s: &ReplicaSet, p: &Pod| {
            matches(s.spec.as_ref().map(|s| &s.selector), p.metadata.labels.as_ref())
        };
        wake_selecting(&owners, orphan, selects, wake);
    });
    Planner::local(move |pass: &Pass<'_>| {
        let Some(set) = sets.get_key(pass.key) else { return Plan::idle("the set is gone") };
        let found = candidates(&pods, pod::uid(&*set), &pass.key.namespace);
        let related_on_node = related(&sets, &pods, &set);
        let resource = replicaset::resource();
        let view = replicaset::View {
            set: &set,
            resource,
            pods: refs(&found),
            related_on_node,
            failure: pass.failure,
        };
        replicaset::plan(&view, pass.now)
    })
}

/// How many active pods of the set's siblings each node has; only counted when the set is too large.
fn related(sets: &Cache<ReplicaSet>, pods: &Cache<Pod>, set: &ReplicaSet) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    let wanted = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    let own = pods.by_index(CONTROLLER, pod::uid(set));
    if own.len() <= usize::try_from(wanted).unwrap_or(0) {
        return count;
    }
    let siblings = match pod::controller_of(&set.metadata) {
        Some(owner) => sets.by_index(CONTROLLER, &owner.uid),
        None => Vec::new(),
    };
    let others = siblings.iter().filter(|s| pod::uid(&***s) != pod::uid(set));
    let theirs = others.flat_map(|s| pods.by_index(CONTROLLER, pod::uid(&**s)));
    for pod in own.iter().cloned().chain(theirs).filter(|p| pod::is_active(p)) {
        if let Some(node) = pod::node(&pod) {
            *count.entry(node.to_owned()).or_default() += 1;
        }
    }
    count
}

pub(super) fn replication_controller(wiring: &mut Wiring) -> Planner {
    let sets = wiring.own::<ReplicationController>();
    let owners = sets.clone();
    let pods = wiring.owned::<Pod>("ReplicationController", move |orphan, wake| {
        let selects = |s: &ReplicationController, p: &Pod| {
            matches_map(s.spec.as_ref().and_then(|s| s.selector.as_ref()), p.metadata.labels.as_ref())
        };
        wake_selecting(&owners, orphan, selects, wake);
    });
    Planner::local(move |pass: &Pass<'_>| {
        let Some(rc) = sets.get_key(pass.key) else { return Plan::idle("the controller is gone") };
        let set = replicaset::from_controller(&rc);
        let found = candidates(&pods, pod::uid(&*rc), &pass.key.namespace);
        let related_on_node = BTreeMap::new();
        let resource = replicaset::controller_resource();
        let view = replicaset::View {
            set: &set,
            resource,
            pods: refs(&found),
            related_on_node,
            failure: pass.failure,
        };
        replicaset::plan(&view, pass.now)
    })
}
