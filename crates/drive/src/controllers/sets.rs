//! StatefulSet and DaemonSet.

use client::ObjectKey;
use controllers::select::matches;
use controllers::{Plan, daemonset, pod, statefulset};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, StatefulSet};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};
use parking_lot::Mutex;

use super::workloads::{candidates, refs, wake_selecting};
use crate::caches::CONTROLLER;
use crate::shell::{Pass, Planner, Wiring};

pub(super) fn statefulset(wiring: &mut Wiring) -> Planner {
    let sets = wiring.own::<StatefulSet>();
    let owners = sets.clone();
    let pods = wiring.owned::<Pod>("StatefulSet", move |orphan, wake| {
        let selects = |s: &StatefulSet, p: &Pod| {
            matches(s.spec.as_ref().map(|s| &s.selector), p.metadata.labels.as_ref())
        };
        wake_selecting(&owners, orphan, selects, wake);
    });
    let revisions = wiring.owned::<ControllerRevision>("StatefulSet", |_, _| {});
    let owners = sets.clone();
    let claims = wiring.on_change::<PersistentVolumeClaim>(move |change, wake| {
        // A set that waits for a claim to go has to learn that it is gone.
        if change.new.is_none() {
            let named = |s: &StatefulSet| change.key.name.contains(&format!("-{}-", pod::name(s)));
            owners
                .list(&change.key.namespace)
                .iter()
                .filter(|s| named(s))
                .for_each(|s| wake(ObjectKey::of(&**s)));
        }
    });
    Planner::local(move |pass: &Pass<'_>| {
        let Some(set) = sets.get_key(pass.key) else { return Plan::idle("the set is gone") };
        let found = candidates(&pods, pod::uid(&*set), &pass.key.namespace);
        let history = revisions.by_index(CONTROLLER, pod::uid(&*set));
        let claim = |name: &str| claims.get(&pass.key.namespace, name);
        let view = statefulset::View {
            set: &set,
            pods: refs(&found),
            claims: &claim,
            revisions: refs(&history),
            failure: pass.failure,
        };
        statefulset::plan(&view, pass.now)
    })
}

pub(super) fn daemonset(wiring: &mut Wiring) -> Planner {
    let sets = wiring.own::<DaemonSet>();
    let owners = sets.clone();
    let pods = wiring.owned::<Pod>("DaemonSet", move |orphan, wake| {
        let selects = |s: &DaemonSet, p: &Pod| {
            matches(s.spec.as_ref().map(|s| &s.selector), p.metadata.labels.as_ref())
        };
        wake_selecting(&owners, orphan, selects, wake);
    });
    let revisions = wiring.owned::<ControllerRevision>("DaemonSet", |_, _| {});
    let owners = sets.clone();
    let nodes = wiring.on_change::<Node>(move |change, wake| {
        // Heartbeats change nothing that decides where pods go.
        let face = |n: &Node| (n.metadata.labels.clone(), n.spec.as_ref().and_then(|s| s.taints.clone()));
        if change.old.map(|n| face(n)) != change.new.map(|n| face(n)) {
            owners.keys().into_iter().for_each(wake);
        }
    });
    let failures = Mutex::new(daemonset::Failures::default());
    Planner::local(move |pass: &Pass<'_>| {
        let Some(set) = sets.get_key(pass.key) else { return Plan::idle("the set is gone") };
        let found = candidates(&pods, pod::uid(&*set), &pass.key.namespace);
        let history = revisions.by_index(CONTROLLER, pod::uid(&*set));
        let all = nodes.list("");
        let view = daemonset::View {
            set: &set,
            pods: refs(&found),
            nodes: refs(&all),
            revisions: refs(&history),
            failure: pass.failure,
        };
        daemonset::plan(&view, &mut failures.lock(), pass.now)
    })
}
