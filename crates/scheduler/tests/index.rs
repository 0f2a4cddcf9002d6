//! The index equals counting anew: whatever changes come, decisions are those of a cluster made of what is left.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use proptest::prelude::*;
use scheduler::{PodInfo, Snapshot, solve};
use serde_json::{Value, json};

const NODES: usize = 5;

fn node(who: usize, zone: usize, tainted: bool) -> Arc<Node> {
    let name = format!("n{who}");
    let mut labels = json!({"kubernetes.io/hostname": name});
    // Zone 3 is no zone.
    if zone < 3 {
        labels["topology.kubernetes.io/zone"] = json!(format!("z{zone}"));
    }
    let taints = if tainted { json!([{"key": "k", "effect": "NoSchedule"}]) } else { json!(null) };
    let value = json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "9"},
            "images": [{"names": ["img:1"], "sizeBytes": who * 100_000_000}]}});
    Arc::new(serde_json::from_value(value).unwrap())
}

fn namespace(name: &str, team: &str) -> Namespace {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"team": team}}})).unwrap()
}

/// Every kind of rule about other pods, by number.
fn rules(which: usize) -> Value {
    let zone = "topology.kubernetes.io/zone";
    let host = "kubernetes.io/hostname";
    let app = |v: &str| json!({"matchLabels": {"app": v}});
    let required = |t: Value| json!({"requiredDuringSchedulingIgnoredDuringExecution": [t]});
    let preferred = |t: Value| json!({"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 10, "podAffinityTerm": t}]});
    match which {
        0 => json!({}),
        1 => {
            json!({"affinity": {"podAntiAffinity": required(json!({"topologyKey": host, "labelSelector": app("a")}))}})
        }
        2 => {
            json!({"affinity": {"podAffinity": required(json!({"topologyKey": zone, "labelSelector": app("b")}))}})
        }
        3 => {
            json!({"affinity": {"podAntiAffinity": preferred(json!({"topologyKey": zone, "labelSelector": app("a")}))}})
        }
        4 => {
            json!({"affinity": {"podAffinity": preferred(json!({"topologyKey": host, "labelSelector": app("b"),
            "namespaceSelector": {"matchLabels": {"team": "red"}}}))}})
        }
        5 => json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": zone,
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": app("a"), "nodeTaintsPolicy": "Honor"}]}),
        6 => json!({"topologySpreadConstraints": [{"maxSkew": 2, "topologyKey": host,
            "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": app("b")}]}),
        _ => json!({"nodeSelector": {"topology.kubernetes.io/zone": "z1"}, "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": host, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": app("b")},
            {"maxSkew": 1, "topologyKey": zone, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": app("b")}]}),
    }
}

fn pod(name: &str, place: Option<usize>, which: usize, kind: usize) -> Arc<Pod> {
    let mut spec = rules(which);
    spec["containers"] = json!([{"name": "c", "image": "img:1", "resources": {"requests": {"cpu": format!("{}m", 100 + 50 * kind)}}}]);
    if let Some(place) = place {
        spec["nodeName"] = json!(format!("n{place}"));
    }
    let value = json!({
        "metadata": {"name": name, "uid": name, "namespace": if kind.is_multiple_of(3) { "red" } else { "blue" },
            "labels": {"app": if kind.is_multiple_of(2) { "a" } else { "b" }}},
        "spec": spec,
    });
    Arc::new(serde_json::from_value(value).unwrap())
}

fn rules_of(pod: &Pod) -> Option<Value> {
    let spec = pod.spec.as_ref()?;
    Some(json!([spec.affinity, spec.topology_spread_constraints]))
}

#[derive(Debug, Clone)]
enum Step {
    Place { who: usize, node: usize, which: usize, kind: usize },
    Remove { who: usize },
    Node { who: usize, zone: usize, tainted: bool },
    Lose { who: usize },
    Team { red: bool },
    Ask { which: usize, kind: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..20, 0..NODES, 0usize..8, 0usize..4)
            .prop_map(|(who, node, which, kind)| Step::Place { who, node, which, kind }),
        2 => (0usize..20).prop_map(|who| Step::Remove { who }),
        1 => (0..NODES, 0usize..4, any::<bool>()).prop_map(|(who, zone, tainted)| Step::Node { who, zone, tainted }),
        1 => (0..NODES).prop_map(|who| Step::Lose { who }),
        1 => any::<bool>().prop_map(|red| Step::Team { red }),
        4 => (0usize..8, 0usize..4).prop_map(|(which, kind)| Step::Ask { which, kind }),
    ]
}

#[derive(Default)]
struct Left {
    nodes: BTreeMap<usize, Arc<Node>>,
    pods: BTreeMap<usize, Arc<Pod>>,
    team: &'static str,
}

impl Left {
    fn anew(&self) -> Snapshot {
        let mut snapshot = Snapshot::new();
        snapshot.set_namespace(&namespace("blue", self.team));
        self.nodes.values().for_each(|n| snapshot.set_node(n.clone()));
        self.pods.values().for_each(|p| snapshot.set_pod(p.clone()));
        snapshot
    }
}

fn decide(snapshot: &mut Snapshot, which: usize, kind: usize) -> String {
    let mut info = PodInfo::of(pod("incoming", None, which, kind));
    // Some pods are spread by their Service.
    if kind == 3 {
        info.spread_by = serde_json::from_value(json!({"matchLabels": {"app": "b"}})).unwrap();
    }
    match solve(snapshot, &info) {
        Ok(placement) => format!("{placement:?}"),
        Err(why) => why.to_string(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn decisions_equal_those_of_a_snapshot_made_anew(steps in prop::collection::vec(step(), 1..60)) {
        let mut left = Left { team: "red", ..Left::default() };
        (0..NODES).for_each(|who| drop(left.nodes.insert(who, node(who, who % 4, false))));
        let mut snapshot = left.anew();
        for step in steps {
            match step {
                Step::Place { who, node, which, kind } => {
                    let placed = pod(&format!("p{who}"), Some(node), which, kind);
                    // What a pod asks for of others never changes: with other rules it is another pod.
                    if left.pods.get(&who).is_some_and(|old| rules_of(old) != rules_of(&placed)) {
                        snapshot.remove_pod(&format!("p{who}"));
                    }
                    snapshot.set_pod(placed.clone());
                    left.pods.insert(who, placed);
                }
                Step::Remove { who } => {
                    snapshot.remove_pod(&format!("p{who}"));
                    left.pods.remove(&who);
                }
                Step::Node { who, zone, tainted } => {
                    let changed = node(who, zone, tainted);
                    snapshot.set_node(changed.clone());
                    left.nodes.insert(who, changed);
                }
                Step::Lose { who } => {
                    snapshot.remove_node(&format!("n{who}"));
                    left.nodes.remove(&who);
                }
                Step::Team { red } => {
                    left.team = if red { "red" } else { "green" };
                    snapshot.set_namespace(&namespace("blue", left.team));
                }
                Step::Ask { which, kind } => {
                    let anew = decide(&mut left.anew(), which, kind);
                    prop_assert_eq!(decide(&mut snapshot, which, kind), anew);
                }
            }
        }
    }
}
