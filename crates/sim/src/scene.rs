//! Who is on stage: two nodes' worth of pods too many for comfort, a Deployment, two ReplicaSets that both want the
//! same pods; a StatefulSet, a DaemonSet, two Jobs and another Deployment that come and go; volumes, and claims to
//! them. And what they should be in the end.

use controllers::{Action, Object, Target};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use crate::server::Server;

/// Pods a node takes.
pub const ROOM: usize = 12;
/// Replicas anybody asks for at most: all of them fit.
const REPLICAS_MAX: u64 = 7;
/// Replicas of the StatefulSet at most.
pub const ORDINALS: u64 = 3;
/// What each Job completes.
pub const COMPLETIONS: u64 = 4;
const VOLUMES: u64 = 4;
const CLAIMS: u64 = 6;

fn create(resource: controllers::Resource, object: Value) -> Action {
    Action::Create { resource, object: Box::new(object), report: None }
}

fn template(app: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [
        {"name": "c", "image": image, "resources": {"requests": {"cpu": "100m"}}}]}})
}

/// What is there at first.
pub fn beginning() -> Vec<Action> {
    let node = |name: &str| {
        let capacity = json!({"cpu": "4", "memory": "8Gi", "pods": ROOM.to_string()});
        let status = json!({"capacity": capacity, "allocatable": capacity,
            "conditions": [{"type": "Ready", "status": "True"}]});
        create(Node::resource(), json!({"metadata": {"name": name}, "status": status}))
    };
    let set = |name: &str| {
        let spec = json!({"replicas": 2, "selector": {"matchLabels": {"app": "pair"}}, "template": template("pair", "1")});
        create(
            ReplicaSet::resource(),
            json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec}),
        )
    };
    let spec = json!({"replicas": 4, "selector": {"matchLabels": {"app": "web"}}, "template": template("web", "1"),
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
        "revisionHistoryLimit": 2, "progressDeadlineSeconds": 600});
    let web = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec});
    let mut all = vec![
        node("n0"),
        node("n1"),
        node("n2"),
        create(Deployment::resource(), web),
        set("left"),
        set("right"),
    ];
    all.extend(GUESTS.map(guest));
    for n in 0..VOLUMES {
        let spec = json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/none"}});
        let metadata = json!({"name": format!("v{n}")});
        all.push(create(PersistentVolume::resource(), json!({"metadata": metadata, "spec": spec})));
    }
    all
}

/// Those that come and go.
const GUESTS: [&str; 5] = ["site", "db", "agent", "batch", "indexed"];

fn guest(name: &str) -> Action {
    let metadata = json!({"name": name, "namespace": "default"});
    let selector = json!({"matchLabels": {"app": name}});
    let template = template(name, "1");
    let job = |mode: &str| {
        let mut template = template.clone();
        template["spec"]["restartPolicy"] = json!("Never");
        let spec = json!({"completions": COMPLETIONS, "parallelism": 2, "completionMode": mode,
            "backoffLimit": 1000, "template": template});
        create(Job::resource(), json!({"metadata": metadata, "spec": spec}))
    };
    match name {
        "site" => {
            let spec = json!({"replicas": 2, "selector": selector, "template": template});
            create(Deployment::resource(), json!({"metadata": metadata, "spec": spec}))
        }
        "db" => {
            let spec = json!({"replicas": 2, "selector": selector, "template": template, "serviceName": "db",
                "podManagementPolicy": "OrderedReady", "updateStrategy": {"type": "RollingUpdate"}});
            create(StatefulSet::resource(), json!({"metadata": metadata, "spec": spec}))
        }
        "agent" => {
            let spec = json!({"selector": selector, "template": template,
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}});
            create(DaemonSet::resource(), json!({"metadata": metadata, "spec": spec}))
        }
        "batch" => job("NonIndexed"),
        _ => job("Indexed"),
    }
}

fn claim(name: &str) -> Action {
    let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "",
        "resources": {"requests": {"storage": "1Gi"}}});
    let metadata = json!({"name": name, "namespace": "default"});
    create(PersistentVolumeClaim::resource(), json!({"metadata": metadata, "spec": spec}))
}

fn delete(target: Target) -> Action {
    Action::Delete { target, grace_s: None, propagation: None, report: None }
}

/// Deletes an object of this name, or creates it if there is none.
fn toggle(server: &Server, made: Action) -> Action {
    let Action::Create { resource, object, .. } = &made else { return made };
    let name = &object["metadata"]["name"];
    let (all, _) = server.list(&resource.plural);
    match all.iter().find(|object| object["metadata"]["name"] == *name) {
        Some(found) => delete(target(resource.clone(), found)),
        None => made,
    }
}

fn target(resource: controllers::Resource, object: &Value) -> Target {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or("").to_owned();
    Target { resource, namespace: "default".into(), name: text("name"), uid: text("uid") }
}

fn merge(target: Target, patch: Value) -> Action {
    Action::Patch { target, subresource: "", patch: Box::new(patch), report: None }
}

/// Something that a person or another program does.
pub fn whim(rng: &mut StdRng, server: &Server) -> Option<Action> {
    let (deployments, _) = server.list("deployments");
    let web = target(Deployment::resource(), deployments.iter().find(|d| d["metadata"]["name"] == "web")?);
    let (pods, _) = server.list("pods");
    match rng.random_range(0..10) {
        0 => Some(merge(web, json!({"spec": {"replicas": rng.random_range(0..=REPLICAS_MAX)}}))),
        1 => {
            let image = rng.random_range(1..4u8).to_string();
            Some(merge(web, json!({"spec": {"template": template("web", &image)}})))
        }
        2 | 3 => {
            let victim = target(Pod::resource(), pods.choose(rng)?);
            Some(delete(victim))
        }
        4 => {
            // Those of guests would have nobody to go back to when their owner is gone.
            let stays =
                |pod: &&Value| matches!(pod["metadata"]["labels"]["app"].as_str(), Some("web" | "pair"));
            let loose: Vec<&Value> = pods.iter().filter(stays).collect();
            let loose = target(Pod::resource(), loose.choose(rng)?);
            Some(merge(loose, json!({"metadata": {"ownerReferences": null}})))
        }
        5 => Some(toggle(server, guest(GUESTS.choose(rng)?))),
        6 => {
            let (sets, _) = server.list("statefulsets");
            let db = target(StatefulSet::resource(), sets.first()?);
            Some(merge(db, json!({"spec": {"replicas": rng.random_range(0..=ORDINALS)}})))
        }
        7 | 8 => Some(toggle(server, claim(&format!("c{}", rng.random_range(0..CLAIMS))))),
        _ => {
            let name = format!("stray-{}", rng.random::<u32>());
            let spec = template("pair", "1")["spec"].clone();
            let pod = json!({"metadata": {"name": name, "namespace": "default", "labels": {"app": "pair"}}, "spec": spec});
            Some(create(Pod::resource(), pod))
        }
    }
}

/// What is not yet as it should be: every set has as many pods as it asks for, all run, no one is left over.
pub fn unsettled(server: &Server) -> Vec<String> {
    let mut wrong = Vec::new();
    let (pods, _) = server.list("pods");
    let (sets, _) = server.list("replicasets");
    let owner = |pod: &Value| pod.pointer("/metadata/ownerReferences/0/uid").cloned().unwrap_or_default();
    let phase = |pod: &Value| pod["status"]["phase"].as_str().unwrap_or("").to_owned();
    for set in &sets {
        let name = set["metadata"]["name"].as_str().unwrap_or("");
        let wanted = set["spec"]["replicas"].as_u64().unwrap_or(1) as usize;
        let own = pods.iter().filter(|pod| owner(pod) == set["metadata"]["uid"] && phase(pod) != "Failed");
        let all = own.clone().count();
        let running = own.filter(|pod| phase(pod) == "Running").count();
        let told = set["status"]["readyReplicas"].as_u64().unwrap_or(0) as usize;
        if [all, running, told] != [wanted; 3] {
            wrong.push(format!("{name} wants {wanted}, has {all}, {running} run, its status says {told}"));
        }
    }
    let (deployments, _) = server.list("deployments");
    wrong.extend(guests_unsettled(server, &pods));
    for deployment in &deployments {
        let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
        let uid = &deployment["metadata"]["uid"];
        let own = sets.iter().filter(|set| &owner(set) == uid);
        let image = |o: &Value| o.pointer("/spec/template/spec/containers/0/image").cloned();
        let (new, old): (Vec<&Value>, Vec<&Value>) = own.partition(|set| image(set) == image(deployment));
        let count =
            |sets: &[&Value]| sets.iter().filter_map(|set| set["spec"]["replicas"].as_u64()).sum::<u64>();
        if (count(&new), count(&old)) != (wanted, 0) {
            let name = &deployment["metadata"]["name"];
            wrong.push(format!(
                "{name} wants {wanted} of the new, has {} and {} old",
                count(&new),
                count(&old)
            ));
        }
    }
    for pod in pods.iter().filter(|pod| owner(pod).is_null() || phase(pod).is_empty()) {
        let deleting = !pod["metadata"]["deletionTimestamp"].is_null();
        wrong.push(format!(
            "{} is left over: deleting {deleting}, {:?}",
            pod["metadata"]["name"],
            phase(pod)
        ));
    }
    wrong
}

/// Those that come and go, what they left, and the volumes.
fn guests_unsettled(server: &Server, pods: &[Value]) -> Vec<String> {
    let mut wrong = Vec::new();
    let owner =
        |object: &Value| object.pointer("/metadata/ownerReferences/0/uid").cloned().unwrap_or_default();
    let own = |of: &Value, phase: &str| -> Vec<String> {
        let mine =
            pods.iter().filter(|pod| owner(pod) == of["metadata"]["uid"] && pod["status"]["phase"] == phase);
        mine.filter_map(|pod| Some(pod["metadata"]["name"].as_str()?.to_owned())).collect()
    };
    for set in &server.list("statefulsets").0 {
        let wanted = set["spec"]["replicas"].as_u64().unwrap_or(1);
        let names: Vec<String> = (0..wanted).map(|n| format!("db-{n}")).collect();
        if own(set, "Running") != names {
            wrong.push(format!("db wants {wanted}, has {:?}", own(set, "Running")));
        }
    }
    for set in &server.list("daemonsets").0 {
        let nodes: std::collections::BTreeSet<&str> = pods
            .iter()
            .filter(|pod| owner(pod) == set["metadata"]["uid"] && pod["status"]["phase"] == "Running")
            .filter_map(|pod| pod["spec"]["nodeName"].as_str())
            .collect();
        if nodes.len() != 3 || own(set, "Running").len() != 3 {
            wrong.push(format!("agent runs on {nodes:?}: {:?}", own(set, "Running")));
        }
    }
    for job in &server.list("jobs").0 {
        let done = job["status"]["succeeded"].as_u64().unwrap_or(0);
        let conditions = job["status"]["conditions"].as_array();
        let complete =
            conditions.into_iter().flatten().any(|c| c["type"] == "Complete" && c["status"] == "True");
        let left = own(job, "Running").len() + own(job, "").len();
        if done != COMPLETIONS || !complete || left > 0 {
            wrong.push(format!("{}: {done} done, complete {complete}, {left} left", job["metadata"]["name"]));
        }
    }
    let uids: Vec<Value> = crate::cache::PLURALS
        .iter()
        .flat_map(|plural| server.list(plural).0)
        .map(|object| object["metadata"]["uid"].clone())
        .collect();
    for plural in crate::cache::PLURALS {
        for object in server.list(plural).0.iter().filter(|object| !owner(object).is_null()) {
            if !uids.contains(&owner(object)) {
                wrong.push(format!("{plural}/{} is an orphan", object["metadata"]["name"]));
            }
        }
    }
    let volumes = server.list("persistentvolumes").0;
    for claim in &server.list("persistentvolumeclaims").0 {
        let volume = volumes.iter().find(|v| v["metadata"]["name"] == claim["spec"]["volumeName"]);
        let linked = volume.is_some_and(|v| v["spec"]["claimRef"]["uid"] == claim["metadata"]["uid"]);
        let phase = claim["status"]["phase"].as_str().unwrap_or("");
        let free = volumes.iter().any(|v| v["spec"]["claimRef"].is_null());
        if (phase == "Bound") != linked || (phase != "Bound" && (phase != "Pending" || free)) {
            wrong.push(format!("claim {} is {phase:?}, linked {linked}", claim["metadata"]["name"]));
        }
    }
    wrong
}
