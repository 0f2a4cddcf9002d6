//! Claims, volumes, and the nodes that make them.

use std::sync::Arc;

use bytes::Bytes;
use client::{Cache, Client, Error, ObjectKey};
use controllers::volume::local::{self, Demand};
use controllers::volume::{self, claim, ephemeral, expand, reclaim};
use controllers::{Plan, nodelifecycle, pod, protection};
use http::Method;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{StorageClass, VolumeAttributesClass};
use serde::Deserialize;

use super::workloads::refs;
use crate::shell::{Pass, Planner, Wiring};

/// The index of claims that wait for a volume, by class.
const UNBOUND: &str = "unbound";
/// The index of claims that wait for a volume, by its name.
const NAMING: &str = "naming";
/// The index of volumes by the claim they are kept for.
const BY_CLAIM: &str = "claim";
/// The index of volumes that are kept for no claim, by class.
const FREE: &str = "free";
/// The index of claims that are asked of the nodes.
const ASKED: &str = "asked";
/// The index of volumes by the node that has them.
const BY_NODE: &str = "volume-node";
/// The most bytes of a node's answer that are read.
const ANSWER_MAX: usize = 64 << 10;

fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// The key of the claim a volume is kept for.
fn claim_key(volume: &PersistentVolume) -> Option<ObjectKey> {
    let of = claim_ref(volume)?;
    Some(ObjectKey::new(of.namespace.as_deref()?, of.name.as_deref()?))
}

fn volume_key(name: &str) -> ObjectKey {
    ObjectKey::new("", name)
}

fn index_claims(claims: &Cache<PersistentVolumeClaim>) {
    claims.add_index(UNBOUND, |c| match volume::is_fully_bound(c) {
        true => Vec::new(),
        false => vec![volume::class_of_claim(c).to_owned()],
    });
    claims.add_index(NAMING, |c| match volume::is_fully_bound(c) {
        true => Vec::new(),
        false => vec![volume::volume_name(c).to_owned()],
    });
}

fn index_volumes(volumes: &Cache<PersistentVolume>) {
    volumes.add_index(BY_CLAIM, |v| claim_key(v).map(|k| k.to_string()).into_iter().collect());
    volumes.add_index(FREE, |v| match claim_ref(v) {
        None => vec![volume::class_of_volume(v).to_owned()],
        Some(_) => Vec::new(),
    });
}

fn wake_all(claims: &[Arc<PersistentVolumeClaim>], wake: &mut dyn FnMut(ObjectKey)) {
    claims.iter().for_each(|c| wake(ObjectKey::of(&**c)));
}

/// Claims have a namespace and volumes have none, so that one queue serves both.
pub(super) fn binder(wiring: &mut Wiring) -> Planner {
    let volumes = wiring.cache::<PersistentVolume>();
    index_volumes(&volumes);
    let by_claim = volumes.clone();
    let claims = wiring.on_change::<PersistentVolumeClaim>(move |change, wake| {
        wake(change.key.clone());
        for claim in [change.old, change.new].into_iter().flatten() {
            let name = volume::volume_name(claim);
            if !name.is_empty() {
                wake(volume_key(name));
            }
        }
        if change.new.is_none() {
            let kept = by_claim.by_index(BY_CLAIM, &change.key.to_string());
            kept.iter().for_each(|v| wake(volume_key(pod::name(&**v))));
        }
    });
    index_claims(&claims);
    let waiting = claims.clone();
    wiring.on_change::<PersistentVolume>(move |change, wake| {
        wake(change.key.clone());
        let kept = [change.old, change.new].into_iter().flatten().filter_map(|v| claim_key(v));
        kept.for_each(&mut *wake);
        // A free volume may be what a claim waits for; one that comes may be what a claim names.
        if let Some(free) = change.new.filter(|v| claim_ref(v).is_none()) {
            wake_all(&waiting.by_index(UNBOUND, volume::class_of_volume(free)), wake);
        }
        wake_all(&waiting.by_index(NAMING, &change.key.name), wake);
    });
    let waiting = claims.clone();
    let classes = wiring.on_change::<StorageClass>(move |change, wake| {
        wake_all(&waiting.by_index(UNBOUND, &change.key.name), wake);
        // It may have become the default.
        wake_all(&waiting.by_index(UNBOUND, ""), wake);
    });
    let pods = wiring.cache::<Pod>();
    let client = wiring.client().clone();
    Planner::asking(move |key, _| {
        let now = match key.namespace.is_empty() {
            false => Ok(plan_claim(&key, &claims, &volumes, &classes, &pods)),
            true => Err((volumes.get_key(&key), claims.clone(), client.clone())),
        };
        async move {
            match now {
                Ok(plan) => Ok(plan),
                Err((None, ..)) => Ok(Plan::idle("the volume is gone")),
                Err((Some(volume), claims, client)) => plan_volume(&volume, &claims, &client).await,
            }
        }
    })
}

fn plan_claim(
    key: &ObjectKey,
    claims: &Cache<PersistentVolumeClaim>,
    volumes: &Cache<PersistentVolume>,
    classes: &Cache<StorageClass>,
    pods: &Cache<Pod>,
) -> Plan {
    let Some(claim) = claims.get_key(key) else { return Plan::idle("the claim is gone") };
    let all = classes.list("");
    let class = classes.get("", volume::class_of_claim(&claim));
    let named = Some(volume::volume_name(&claim)).filter(|n| !n.is_empty()).and_then(|n| volumes.get("", n));
    let mut found = Vec::new();
    let mut waiting_pods = Vec::new();
    if named.is_none() && !volume::is_fully_bound(&claim) {
        found = volumes.by_index(BY_CLAIM, &key.to_string());
        found.extend(volumes.by_index(FREE, volume::class_of_claim(&claim)));
        let uses = |p: &Arc<Pod>| {
            pod::node(p).is_none()
                && !pod::is_finished(p)
                && scheduler::volumes::claims_of(p).iter().any(|(name, _)| **name == *key.name)
        };
        waiting_pods = pods
            .list(&key.namespace)
            .iter()
            .filter(|p| uses(p))
            .map(|p| pod::name(&**p).to_owned())
            .collect();
    }
    claim::plan(&claim::View {
        claim: &claim,
        class: class.as_deref(),
        default: claim::default_class(all.iter().map(|c| &**c)),
        named: named.as_deref(),
        volumes: refs(&found),
        waiting_pods,
    })
}

async fn plan_volume(
    volume: &PersistentVolume,
    claims: &Cache<PersistentVolumeClaim>,
    client: &Client,
) -> Result<Plan, Error> {
    let key = claim_key(volume);
    let cached = key.as_ref().and_then(|k| claims.get_key(k));
    let known = matches!(volume::volume_phase(volume), "Released" | "Failed");
    if let Some(key) = key.filter(|_| !known && reclaim::is_orphan(volume, cached.as_deref())) {
        // The cache of claims may lag behind that of volumes, and what follows cannot be undone.
        let claim = client.find::<PersistentVolumeClaim>(&key.namespace, &key.name).await?;
        return Ok(reclaim::plan(volume, claim.as_ref()));
    }
    Ok(reclaim::plan(volume, cached.as_deref()))
}

pub(super) fn ephemeral(wiring: &mut Wiring) -> Planner {
    let pods = wiring.on_change::<Pod>(|change, wake| {
        let has = |p: &Arc<Pod>| {
            p.spec.iter().flat_map(|s| s.volumes.iter().flatten()).any(|v| v.ephemeral.is_some())
        };
        if change.new.is_some_and(has) {
            wake(change.key.clone());
        }
    });
    let claims = wiring.on_change::<PersistentVolumeClaim>(|change, wake| {
        if change.new.is_none()
            && let Some(owner) = change.old.and_then(|c| pod::controller_of(&c.metadata))
            && owner.kind == "Pod"
        {
            wake(ObjectKey::new(&change.key.namespace, &owner.name));
        }
    });
    Planner::local(move |pass: &Pass<'_>| match pods.get_key(pass.key) {
        Some(p) => ephemeral::plan(&p, |name| claims.get(&pass.key.namespace, name)),
        None => Plan::idle("the pod is gone"),
    })
}

pub(super) fn expand(wiring: &mut Wiring) -> Planner {
    let claims = wiring.on_change::<PersistentVolumeClaim>(|change, wake| {
        let face = |c: &Arc<PersistentVolumeClaim>| {
            let resources = c.spec.as_ref().and_then(|s| s.resources.clone());
            (resources, volume::claim_phase(c).to_owned(), c.status.as_ref().and_then(|s| s.capacity.clone()))
        };
        if change.new.is_some() && change.old.map(face) != change.new.map(face) {
            wake(change.key.clone());
        }
    });
    let volumes = wiring.cache::<PersistentVolume>();
    Planner::local(move |pass: &Pass<'_>| match claims.get_key(pass.key) {
        Some(claim) => expand::plan(&claim, volumes.get("", volume::volume_name(&claim)).as_deref()),
        None => Plan::idle("the claim is gone"),
    })
}

pub(super) fn attributes_protection(wiring: &mut Wiring) -> Planner {
    let classes = wiring.own::<VolumeAttributesClass>();
    let claims = wiring.on_change::<PersistentVolumeClaim>(|change, wake| {
        let named = change.old.into_iter().flat_map(|c| protection::attributes_of_claim(c));
        named.for_each(|name| wake(volume_key(name)));
    });
    let volumes = wiring.on_change::<PersistentVolume>(|change, wake| {
        let named = change.old.and_then(|v| protection::attributes_of_volume(v));
        named.into_iter().for_each(|name| wake(volume_key(name)));
    });
    Planner::local(move |pass: &Pass<'_>| {
        let Some(class) = classes.get_key(pass.key) else { return Plan::idle("the class is gone") };
        let (claims, volumes) = (claims.list(""), volumes.list(""));
        protection::plan_attributes(&class, claims.iter().map(|c| &**c), volumes.iter().map(|v| &**v))
    })
}

/// Makes and removes directories on nodes, through the API server's way to their kubelets.
pub(super) fn local(wiring: &mut Wiring) -> Planner {
    let claims = wiring.on_change::<PersistentVolumeClaim>(|change, wake| {
        if change.new.is_some_and(|c| is_asked(c)) {
            wake(change.key.clone());
        }
    });
    claims.add_index(ASKED, |c| if is_asked(c) { vec![ASKED.to_owned()] } else { Vec::new() });
    let volumes = wiring.on_change::<PersistentVolume>(|change, wake| {
        if change.new.is_some_and(|v| host_of(v).is_some()) {
            wake(change.key.clone());
        }
    });
    volumes.add_index(BY_NODE, |v| host_of(v).map(str::to_owned).into_iter().collect());
    let (waiting, held) = (claims.clone(), volumes.clone());
    let nodes = wiring.on_change::<Node>(move |change, wake| {
        let ready = |n: &Arc<Node>| nodelifecycle::readiness(n) == "True";
        if change.old.map(ready) != change.new.map(ready) {
            held.by_index(BY_NODE, &change.key.name).iter().for_each(|v| wake(ObjectKey::of(&**v)));
            wake_all(&waiting.by_index(ASKED, ASKED), wake);
        }
    });
    let classes = wiring.cache::<StorageClass>();
    let work = Arc::new(Local { claims, volumes, nodes, classes, client: wiring.client().clone() });
    Planner::asking(move |key, now| {
        let work = work.clone();
        async move {
            Ok(match key.namespace.is_empty() {
                false => work.claim(&key, now).await,
                true => work.volume(&key, now).await?,
            })
        }
    })
}

/// Whether a node is to make the claim's volume.
fn is_asked(claim: &PersistentVolumeClaim) -> bool {
    volume::annotation(&claim.metadata, volume::PROVISIONER) == Some(volume::LOCAL_PROVISIONER)
        && volume::volume_name(claim).is_empty()
}

fn host_of(volume: &PersistentVolume) -> Option<&str> {
    volume::annotation(&volume.metadata, local::NODE)
}

struct Local {
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    nodes: Cache<Node>,
    classes: Cache<StorageClass>,
    client: Client,
}

/// What a node says of a directory it made.
#[derive(Deserialize)]
struct Made {
    path: String,
}

impl Local {
    async fn claim(&self, key: &ObjectKey, now: Timestamp) -> Plan {
        let Some(claim) = self.claims.get_key(key) else { return Plan::idle("the claim is gone") };
        let class = self.classes.get("", volume::class_of_claim(&claim));
        let exists = self.volumes.get("", &local::name_for(&claim));
        let nodes = self.nodes.list("");
        let find = |name: &str| nodes.iter().map(|n| &**n).find(|n| pod::name(*n) == name);
        let any = || {
            let ready = nodes.iter().filter(|n| nodelifecycle::readiness(n) == "True");
            ready.map(|n| pod::name(&**n).to_owned()).min()
        };
        let (node, volume) = match local::for_claim(&claim, class.as_deref(), exists.as_deref(), find, any) {
            Demand::Make { node, volume } => (node, volume),
            Demand::Nothing(plan) => return plan,
            Demand::Remove { .. } => return Plan::idle("claims remove nothing"),
        };
        let (Some(class), Some(on)) = (class, find(&node)) else { return Plan::idle("the node is gone") };
        let answer = self.ask(Method::POST, &node, &volume).await;
        let path = answer.and_then(|bytes| {
            serde_json::from_slice::<Made>(&bytes).map(|m| m.path).map_err(|e| format!("node {node}: {e}"))
        });
        local::made(&claim, &class, on, path, now)
    }

    async fn volume(&self, key: &ObjectKey, now: Timestamp) -> Result<Plan, Error> {
        let gone = || Ok(Plan::idle("the volume is gone"));
        let Some(cached) = self.volumes.get_key(key) else { return gone() };
        let node = host_of(&cached).and_then(|n| self.nodes.get("", n));
        if let Demand::Nothing(plan) = local::for_volume(&cached, node.as_deref(), now) {
            return Ok(plan);
        }
        // What is removed does not come back: the API itself must say that the volume is free.
        let Some(volume) = self.client.find::<PersistentVolume>("", &key.name).await? else { return gone() };
        Ok(match local::for_volume(&volume, node.as_deref(), now) {
            Demand::Remove { node, volume: name } => {
                let answer = self.ask(Method::DELETE, &node, &name).await;
                local::removed(&volume, answer.map(drop), now)
            }
            Demand::Nothing(plan) => plan,
            Demand::Make { .. } => Plan::idle("volumes make nothing"),
        })
    }

    /// Asks a node's kubelet about one of its directories.
    async fn ask(&self, method: Method, node: &str, volume: &str) -> Result<Vec<u8>, String> {
        let uri = format!("/api/v1/nodes/{node}/proxy/kutter/volumes/{volume}");
        let answer = self.client.raw(method, &uri, "application/json", Bytes::new()).await;
        let answer = answer.map_err(|e| format!("node {node}: {}", e.chain()))?;
        let body = http_body_util::Limited::new(answer.into_body(), ANSWER_MAX);
        let body = http_body_util::BodyExt::collect(body).await.map_err(|e| format!("node {node}: {e}"))?;
        Ok(body.to_bytes().to_vec())
    }
}
