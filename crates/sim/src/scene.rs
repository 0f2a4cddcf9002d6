//! Who is on stage: two nodes' worth of pods too many for comfort, a Deployment, and two ReplicaSets that both want
//! the same pods. And what they should be in the end.

use controllers::{Action, Object, Target};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use crate::server::Server;

/// Pods a node takes.
pub const ROOM: usize = 12;
/// Replicas anybody asks for at most: all of them fit.
const REPLICAS_MAX: u64 = 7;

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
    vec![node("n0"), node("n1"), node("n2"), create(Deployment::resource(), web), set("left"), set("right")]
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
    let web = target(Deployment::resource(), deployments.first()?);
    let (pods, _) = server.list("pods");
    match rng.random_range(0..6) {
        0 => Some(merge(web, json!({"spec": {"replicas": rng.random_range(0..=REPLICAS_MAX)}}))),
        1 => {
            let image = rng.random_range(1..4u8).to_string();
            Some(merge(web, json!({"spec": {"template": template("web", &image)}})))
        }
        2 | 3 => {
            let victim = target(Pod::resource(), pods.choose(rng)?);
            Some(Action::Delete { target: victim, grace_s: None, propagation: None, report: None })
        }
        4 => {
            let loose = target(Pod::resource(), pods.choose(rng)?);
            Some(merge(loose, json!({"metadata": {"ownerReferences": null}})))
        }
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
    for deployment in &deployments {
        let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
        let uid = &deployment["metadata"]["uid"];
        let own = sets.iter().filter(|set| &owner(set) == uid);
        let image = |o: &Value| o.pointer("/spec/template/spec/containers/0/image").cloned();
        let (new, old): (Vec<&Value>, Vec<&Value>) = own.partition(|set| image(set) == image(deployment));
        let count =
            |sets: &[&Value]| sets.iter().filter_map(|set| set["spec"]["replicas"].as_u64()).sum::<u64>();
        if (count(&new), count(&old)) != (wanted, 0) {
            wrong.push(format!("web wants {wanted} of the new, has {} and {} old", count(&new), count(&old)));
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
