//! Nodes, and what becomes of their pods.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use client::{Cache, ObjectKey};
use controllers::nodelifecycle::{self, Health, given_up_at, readiness};
use controllers::{Plan, nodeipam, pod, podgc, tainteviction};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;

use super::workloads::refs;
use crate::shell::{Pass, Planner, Wiring};

/// The namespace of the leases nodes renew.
const LEASES: &str = "kube-node-lease";
/// The index of pods by the node they are on.
const BY_NODE: &str = "node";
/// The index of pods that have ended.
const ENDED: &str = "ended";
/// How many pods that have ended are kept; upstream's default.
const ENDED_MAX: usize = 12_500;
const ZONE: &str = "topology.kubernetes.io/zone";
/// Upstream's patience with silent nodes.
const GRACE: SignedDuration = SignedDuration::from_secs(50);

type Heard = Arc<Mutex<HashMap<String, Timestamp>>>;

fn index_by_node(pods: &Cache<Pod>) {
    pods.add_index(BY_NODE, |p| pod::node(p).map(str::to_owned).into_iter().collect());
}

/// Wakes every pod of a node whose taints changed, or that is gone.
fn wake_pods_of(wiring: &mut Wiring, pods: &Cache<Pod>) -> Cache<Node> {
    let by_node = pods.clone();
    wiring.on_change::<Node>(move |change, wake| {
        let taints = |n: &Node| n.spec.as_ref().and_then(|s| s.taints.clone());
        if change.old.is_some() == change.new.is_some()
            && change.old.map(|n| taints(n)) == change.new.map(|n| taints(n))
        {
            return;
        }
        by_node.by_index(BY_NODE, &change.key.name).iter().for_each(|p| wake(ObjectKey::of(&**p)));
    })
}

pub(super) fn lifecycle(wiring: &mut Wiring) -> Planner {
    let heard = Heard::default();
    // Other machines' clocks are not trusted: what counts is when a renewal was seen here.
    let renewed = heard.clone();
    let nodes = wiring.on_change::<Node>(move |change, wake| {
        let beat = |n: &Node| {
            let conditions = n.status.as_ref().and_then(|s| s.conditions.clone());
            conditions.into_iter().flatten().filter_map(|c| c.last_heartbeat_time).map(|t| t.0).max()
        };
        let mut renewed = renewed.lock();
        match change.new {
            None => drop(renewed.remove(&*change.key.name)),
            Some(n) if change.old.is_none_or(|o| beat(o) != beat(n)) => {
                renewed.insert(change.key.name.to_string(), Timestamp::now());
            }
            Some(_) => {}
        }
        wake(change.key.clone());
    });
    let renewed = heard.clone();
    wiring.cache::<Lease>().hook(move |change| {
        let time = |l: &Arc<Lease>| l.spec.as_ref().and_then(|s| s.renew_time.clone());
        if &*change.key.namespace == LEASES
            && change.new.is_some()
            && change.old.map(time) != change.new.map(time)
        {
            renewed.lock().insert(change.key.name.to_string(), Timestamp::now());
        }
    });
    let pods = wiring.cache::<Pod>();
    index_by_node(&pods);
    let met = Mutex::new(HashMap::<String, String>::new());
    let grace = wiring.settings().node_grace.and_then(|g| SignedDuration::try_from(g).ok()).unwrap_or(GRACE);
    Planner::local(move |pass: &Pass<'_>| {
        let Some(node) = nodes.get_key(pass.key) else {
            met.lock().remove(&*pass.key.name);
            return Plan::idle("the node is gone");
        };
        let uid = node.metadata.uid.clone().unwrap_or_default();
        let new =
            met.lock().insert(pass.key.name.to_string(), uid.clone()).is_none_or(|before| before != uid);
        let heard = *heard.lock().entry(pass.key.name.to_string()).or_insert(pass.now);
        let unready = readiness(&node) != "True";
        let found = if unready { pods.by_index(BY_NODE, &pass.key.name) } else { Vec::new() };
        let health = if unready { health(&nodes, &node) } else { Health::default() };
        let view = nodelifecycle::View { node: &node, pods: refs(&found), heard, grace, new, health };
        nodelifecycle::plan(&view, pass.now)
    })
}

fn health(nodes: &Cache<Node>, node: &Node) -> Health {
    let zone = |n: &Node| n.metadata.labels.as_ref().and_then(|l| l.get(ZONE)).cloned();
    let mut health = Health::default();
    for other in nodes.list("") {
        let unready = usize::from(readiness(&other) != "True");
        health.all += 1;
        health.all_unready += unready;
        if zone(&other) == zone(node) {
            health.zone += 1;
            health.zone_unready += unready;
            let others = other.metadata.name != node.metadata.name;
            health.last = health.last.max(given_up_at(&other).filter(|_| others));
        }
    }
    health
}

pub(super) fn addresses(wiring: &mut Wiring) -> Planner {
    let ranges: Vec<nodeipam::Range> =
        wiring.settings().pod_ranges.iter().filter_map(|text| nodeipam::Range::parse(text)).collect();
    let nodes = wiring.own::<Node>();
    // Parts that were given and that the cache may not show yet.
    let given: Mutex<BTreeMap<String, Vec<String>>> = Mutex::default();
    Planner::local(move |pass: &Pass<'_>| {
        let mut given = given.lock();
        let Some(node) = nodes.get_key(pass.key) else {
            given.remove(&*pass.key.name);
            return Plan::idle("the node is gone");
        };
        let others = nodes.list("").into_iter().filter(|n| n.metadata.name != node.metadata.name);
        let mut used: BTreeSet<String> = others.flat_map(|n| nodeipam::ranges(&n)).collect();
        used.extend(given.iter().filter(|(name, _)| **name != *pass.key.name).flat_map(|(_, r)| r.clone()));
        let plan = nodeipam::plan(&node, &ranges, &used);
        match nodeipam::ranges(&node) {
            own if own.is_empty() => {
                let parts: Option<Vec<String>> = ranges.iter().map(|r| r.free(&used)).collect();
                given.insert(pass.key.name.to_string(), parts.unwrap_or_default());
            }
            _ => drop(given.remove(&*pass.key.name)),
        }
        plan
    })
}

pub(super) fn taint_eviction(wiring: &mut Wiring) -> Planner {
    let pods = wiring.on_change::<Pod>(|change, wake| {
        let face = |p: &Arc<Pod>| {
            (pod::node(p).map(str::to_owned), p.spec.as_ref().and_then(|s| s.tolerations.clone()))
        };
        if change.new.is_some_and(|p| pod::node(p).is_some()) && change.old.map(face) != change.new.map(face)
        {
            wake(change.key.clone());
        }
    });
    index_by_node(&pods);
    let nodes = wake_pods_of(wiring, &pods);
    Planner::local(move |pass: &Pass<'_>| {
        let Some(p) = pods.get_key(pass.key) else { return Plan::idle("the pod is gone") };
        match pod::node(&p).and_then(|n| nodes.get("", n)) {
            Some(node) => tainteviction::plan(&p, &node, pass.now),
            None => Plan::idle("the pod has no node"),
        }
    })
}

pub(super) fn pod_gc(wiring: &mut Wiring) -> Planner {
    let pods = wiring.on_change::<Pod>(|change, wake| {
        let unplaced = |p: &Arc<Pod>| pod::node(p).is_none() && !pod::is_deleting(&**p);
        let ended = |p: &Arc<Pod>| pod::is_finished(p);
        let ends = change.new.is_some_and(ended) && !change.old.is_some_and(ended);
        if ends
            || change.new.is_some_and(|p| !unplaced(p))
                && (change.old.is_none_or(unplaced) || change.new.is_some_and(|p| pod::node(p).is_none()))
        {
            wake(change.key.clone());
        }
    });
    index_by_node(&pods);
    pods.add_index(ENDED, |p| pod::is_finished(p).then(String::new).into_iter().collect());
    let nodes = wake_pods_of(wiring, &pods);
    let client = wiring.client().clone();
    Planner::asking(move |key, now| {
        let (known, nodes, client) = (pods.get_key(&key), nodes.clone(), client.clone());
        let pods = pods.clone();
        async move {
            let Some(p) = known else { return Ok(Plan::idle("the pod is gone")) };
            let gone = match pod::node(&p) {
                // The cache of nodes may lag behind that of pods.
                Some(node) if nodes.get("", node).is_none() => client.find::<Node>("", node).await?.is_none(),
                _ => false,
            };
            let mut plan = podgc::plan(&p, gone, now);
            if pod::is_finished(&p) {
                let ended = pods.by_index(ENDED, "");
                plan.actions.extend(podgc::thin_out(&refs(&ended), ENDED_MAX).actions);
            }
            Ok(plan)
        }
    })
}
