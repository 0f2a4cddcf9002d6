//! Decisions by table, and properties of the snapshot.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use proptest::prelude::*;
use scheduler::{PodInfo, Snapshot, solve};
use serde_json::{Value, json};

fn node(name: &str, extra: Value) -> Arc<Node> {
    let mut value = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "zone": &name[..1]}},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}},
    });
    merge(&mut value, extra);
    Arc::new(serde_json::from_value(value).unwrap())
}

fn pod(name: &str, extra: Value) -> Arc<Pod> {
    let mut value = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "500m", "memory": "64Mi"}}}]},
    });
    merge(&mut value, extra);
    Arc::new(serde_json::from_value(value).unwrap())
}

fn merge(base: &mut Value, extra: Value) {
    match (base, extra) {
        (Value::Object(base), Value::Object(extra)) => {
            for (key, value) in extra {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, extra) => *base = extra,
    }
}

fn cluster(nodes: Vec<Arc<Node>>, pods: Vec<Arc<Pod>>) -> Snapshot {
    let mut snapshot = Snapshot::new();
    nodes.into_iter().for_each(|n| snapshot.set_node(n));
    pods.into_iter().for_each(|p| snapshot.set_pod(p));
    snapshot
}

fn decide(snapshot: &Snapshot, pod: Arc<Pod>) -> String {
    match solve(&mut snapshot.clone(), &PodInfo::of(pod)) {
        Ok(placement) => placement.node,
        Err(why) => why.to_string(),
    }
}

fn two() -> Vec<Arc<Node>> {
    vec![node("a1", json!({})), node("b1", json!({}))]
}

fn on(name: &str, node: &str, extra: Value) -> Arc<Pod> {
    let mut spec = json!({"spec": {"nodeName": node}});
    merge(&mut spec, extra);
    pod(name, spec)
}

#[test]
fn refusals_are_in_upstreams_words() {
    let taint = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    let cordon = json!({"spec": {"unschedulable": true}});
    let table: Vec<(Vec<Arc<Node>>, Value, &str)> = vec![
        (vec![], json!({}), "no nodes available to schedule pods"),
        (
            vec![node("a1", taint.clone()), node("b1", cordon)],
            json!({}),
            "0/2 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable.",
        ),
        (
            two(),
            json!({"spec": {"nodeSelector": {"disk": "ssd"}}}),
            "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.",
        ),
        (
            two(),
            json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "3", "example.com/gpu": "1"}}}]}}),
            "0/2 nodes are available: 2 Insufficient cpu, 2 Insufficient example.com/gpu.",
        ),
    ];
    for (nodes, extra, expected) in table {
        assert_eq!(decide(&cluster(nodes, vec![]), pod("p", extra)), expected);
    }
}

#[test]
fn placements_by_table() {
    let tolerant = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
    let taint = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    assert_eq!(decide(&cluster(vec![node("a1", taint)], vec![]), pod("p", tolerant)), "a1");
    // The emptier node wins.
    assert_eq!(decide(&cluster(two(), vec![on("x", "a1", json!({}))]), pod("p", json!({}))), "b1");
    // Preferred affinity outweighs emptiness.
    let prefer = json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 100, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}}]}}}});
    assert_eq!(decide(&cluster(two(), vec![on("x", "a1", json!({}))]), pod("p", prefer)), "a1");
    // A taken host port sends the pod elsewhere.
    let port =
        json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}});
    let full = cluster(two(), vec![on("x", "b1", port.clone())]);
    assert_eq!(decide(&full, pod("p", port)), "a1");
}

fn anti() -> Value {
    json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}}}})
}

#[test]
fn anti_affinity_keeps_apart_both_ways() {
    assert_eq!(decide(&cluster(two(), vec![on("x", "a1", json!({}))]), pod("p", anti())), "b1");
    let both = cluster(two(), vec![on("x", "a1", anti()), on("y", "b1", json!({}))]);
    assert_eq!(
        decide(&both, pod("p", anti())),
        "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules."
    );
    let existing = cluster(two(), vec![on("x", "a1", anti()), on("y", "b1", anti())]);
    assert_eq!(
        decide(&existing, pod("p", json!({}))),
        "0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules."
    );
}

#[test]
fn affinity_brings_together_and_lets_the_first_in() {
    let near = json!({"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}}]}}}});
    assert_eq!(decide(&cluster(two(), vec![on("x", "b1", json!({}))]), pod("p", near.clone())), "b1");
    assert_eq!(decide(&cluster(vec![node("a1", json!({}))], vec![]), pod("p", near.clone())), "a1");
    let stranger = json!({"metadata": {"labels": {"app": "other"}}});
    let mut alone = near;
    merge(&mut alone, stranger);
    assert_eq!(
        decide(&cluster(two(), vec![]), pod("p", alone)),
        "0/2 nodes are available: 2 node(s) didn't match pod affinity rules."
    );
}

#[test]
fn hard_spread_holds_the_skew() {
    let spread = json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]}});
    let uneven = cluster(two(), vec![on("x", "a1", json!({}))]);
    assert_eq!(decide(&uneven, pod("p", spread.clone())), "b1");
    let mut nodes = two();
    nodes[1] = node("b1", json!({"spec": {"unschedulable": true}}));
    let held = cluster(nodes, vec![on("x", "a1", json!({}))]);
    assert_eq!(
        decide(&held, pod("p", spread)),
        "0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) were unschedulable."
    );
}

proptest! {
    /// However pods come, change and go, the snapshot is that of a cluster made of what is left.
    #[test]
    fn the_snapshot_equals_one_made_anew(steps in prop::collection::vec((0usize..6, 0usize..3, 1i64..900), 0..40)) {
        let mut snapshot = cluster(two(), vec![]);
        let mut left = std::collections::BTreeMap::new();
        for (who, place, milli) in steps {
            let name = format!("p{who}");
            let request = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": format!("{milli}m")}}}]}});
            match ["a1", "b1"].get(place) {
                Some(node) => {
                    let pod = on(&name, node, request);
                    snapshot.set_pod(pod.clone());
                    left.insert(name, pod);
                }
                None => {
                    snapshot.remove_pod(&name);
                    left.remove(&name);
                }
            }
        }
        let anew = cluster(two(), left.into_values().collect());
        for (a, b) in snapshot.nodes().zip(anew.nodes()) {
            prop_assert_eq!(&a.requested, &b.requested);
            prop_assert_eq!(&a.likely, &b.likely);
            prop_assert_eq!(a.pods.len(), b.pods.len());
        }
    }

    /// A node is never asked for more than it has.
    #[test]
    fn placements_never_overfill(requests in prop::collection::vec(1i64..1500, 1..30)) {
        let mut snapshot = cluster(two(), vec![]);
        for (i, milli) in requests.iter().enumerate() {
            let request = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": format!("{milli}m")}}}]}});
            let info = PodInfo::of(pod(&format!("p{i}"), request));
            if let Ok(placement) = solve(&mut snapshot, &info) {
                snapshot.place(info, &placement.node);
            }
        }
        for node in snapshot.nodes() {
            prop_assert!(node.requested.cpu_milli <= node.allocatable.cpu_milli);
            prop_assert!(node.requested.pods <= node.allocatable.pods);
        }
    }
}
