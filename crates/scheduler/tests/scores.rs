//! Scores by table, one part at a time: what each of three nodes has beyond the least of them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use scheduler::{PodInfo, Snapshot, ratings};
use serde_json::{Value, json};

fn node(name: &str, zone: &str, extra: &Value) -> Arc<Node> {
    let mut value = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone}},
        "spec": {}, "status": {"allocatable": {"cpu": "10", "memory": "10Gi", "pods": "10"}},
    });
    for (key, more) in extra.as_object().into_iter().flatten() {
        value[key].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    }
    Arc::new(serde_json::from_value(value).unwrap())
}

fn pod(name: &str, app: &str, mut spec: Value) -> Arc<Pod> {
    if spec["containers"].is_null() {
        spec["containers"] = json!([{"name": "c"}]);
    }
    let meta = json!({"name": name, "uid": name, "namespace": "default", "labels": {"app": app}});
    Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap())
}

/// The marks of nodes a and b (zone 1) and c (zone 2) for a pod.
fn marks(nodes: [Value; 3], placed: &[(&str, &str, Value)], spec: Value, spread_by: Value) -> String {
    let mut snapshot = Snapshot::new();
    let namespace = json!({"metadata": {"name": "default", "labels": {"team": "red"}}});
    snapshot.set_namespace(&serde_json::from_value::<Namespace>(namespace).unwrap());
    for ((name, zone), extra) in [("a", "1"), ("b", "1"), ("c", "2")].into_iter().zip(&nodes) {
        snapshot.set_node(node(name, zone, extra));
    }
    for (i, (app, on, spec)) in placed.iter().enumerate() {
        let mut spec = spec.clone();
        spec["nodeName"] = json!(on);
        // They take no room, so that only what the table is about matters.
        spec["containers"] = json!([{"name": "c", "resources": {"requests": {"cpu": "0", "memory": "0"}}}]);
        snapshot.set_pod(pod(&format!("p{i}"), app, spec));
    }
    let mut info = PodInfo::of(pod("new", "web", spec));
    info.spread_by = serde_json::from_value(spread_by).unwrap();
    let ratings = ratings(&mut snapshot, &info).unwrap();
    let least = ratings.values().min().copied().unwrap_or(0);
    let text: Vec<String> = ratings.iter().map(|(name, mark)| format!("{name} {}", mark - least)).collect();
    text.join(" ")
}

fn plain() -> [Value; 3] {
    [json!({}), json!({}), json!({})]
}

fn web() -> Value {
    json!({"matchLabels": {"app": "web"}})
}

#[test]
fn parts_that_look_at_the_node_alone() {
    let soft = |keys: &[&str]| {
        let taints: Vec<Value> =
            keys.iter().map(|key| json!({"key": key, "effect": "PreferNoSchedule"})).collect();
        json!({"spec": {"taints": taints}})
    };
    let has = |size: i64| json!({"status": {"images": [{"names": ["app:latest"], "sizeBytes": size << 20}]}});
    let room = |cpu: &str, memory: &str| json!({"status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": "10"}}});
    let prefers = |terms: &[(i32, &str)]| {
        let terms: Vec<Value> = terms
            .iter()
            .map(|(weight, zone)| {
                let zone =
                    json!([{"key": "topology.kubernetes.io/zone", "operator": "In", "values": [zone]}]);
                json!({"weight": weight, "preference": {"matchExpressions": zone}})
            })
            .collect();
        json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}}})
    };
    let image = json!({"containers": [{"name": "c", "image": "app"}]});
    let asks =
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "2Gi"}}}]});
    let table = [
        ("nothing", plain(), json!({}), "a 0 b 0 c 0"),
        // Three times the share of soft taints that are tolerated, of the most that any node has.
        ("soft taints", [soft(&[]), soft(&["x"]), soft(&["x", "y"])], json!({}), "a 300 b 150 c 0"),
        (
            "tolerated soft taints",
            [soft(&[]), soft(&["x"]), soft(&["x", "y"])],
            json!({"tolerations": [{"key": "x", "operator": "Exists"}]}),
            "a 300 b 300 c 0",
        ),
        // Twice the share of the most weight that any node has, from nothing on and not from the least.
        ("node affinity", plain(), prefers(&[(30, "1"), (60, "2")]), "a 0 b 0 c 100"),
        ("node affinity of one", plain(), prefers(&[(1, "2")]), "a 0 b 0 c 200"),
        // A third of 523 MiB less what does not count, of 1,000 MiB less that: 15 of 100.
        ("an image on one node", [has(523), json!({}), json!({})], image.clone(), "a 15 b 0 c 0"),
        ("an image on two nodes", [has(523), has(523), json!({})], image, "a 33 b 33 c 0"),
        // 85 of 100 are left on a and b and 55 on c; for evenness they get 72 and 57.
        ("room", [json!({}), json!({}), room("10", "2560Mi")], asks, "a 45 b 45 c 0"),
    ];
    for (what, nodes, spec, expected) in table {
        assert_eq!(marks(nodes, &[], spec, json!(null)), expected, "{what}");
    }
}

#[test]
fn parts_that_look_at_other_pods() {
    let zone = "topology.kubernetes.io/zone";
    let term = |key: &str| json!({"topologyKey": key, "labelSelector": web()});
    let preferred = |which: &str, key: &str, weight: i32| {
        let terms = json!([{"weight": weight, "podAffinityTerm": term(key)}]);
        json!({"affinity": {which: {"preferredDuringSchedulingIgnoredDuringExecution": terms}}})
    };
    let required = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term(zone)]}}});
    let spread = |key: &str, skew: i32| {
        json!({"topologySpreadConstraints": [{"maxSkew": skew, "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": web()}]})
    };
    let none = json!({});
    let at = |app: &'static str, on: &'static str| (app, on, json!({}));
    let table = [
        (
            "near, by zone",
            vec![at("web", "a")],
            preferred("podAffinity", zone, 5),
            none.clone(),
            "a 200 b 200 c 0",
        ),
        (
            "near, by node, of more and fewer",
            vec![at("web", "a"), at("web", "a"), at("web", "b"), at("db", "c")],
            preferred("podAffinity", "kubernetes.io/hostname", 5),
            none.clone(),
            "a 200 b 100 c 0",
        ),
        (
            "far, by zone",
            vec![at("web", "a")],
            preferred("podAntiAffinity", zone, 5),
            none.clone(),
            "a 0 b 0 c 200",
        ),
        // What placed pods prefer, and what they require, counts for the pod that they speak of.
        (
            "theirs",
            vec![("db", "c", preferred("podAffinity", zone, 1))],
            none.clone(),
            none.clone(),
            "a 0 b 0 c 200",
        ),
        ("theirs, required", vec![("db", "c", required)], none.clone(), none.clone(), "a 0 b 0 c 200"),
        // Zones have 2 and 1 pods, two zones weigh ln 4: 3 and 1 rounded; (3 + 1 - 3) / 3 against all.
        (
            "spread by zone",
            vec![at("web", "a"), at("web", "b"), at("web", "c")],
            spread(zone, 1),
            none.clone(),
            "a 0 b 0 c 134",
        ),
        (
            "spread by node",
            vec![at("web", "a")],
            spread("kubernetes.io/hostname", 1),
            none.clone(),
            "a 0 b 200 c 200",
        ),
        // A skew that is allowed waters the difference down.
        (
            "spread by node, skew 5",
            vec![at("web", "a")],
            spread("kubernetes.io/hostname", 5),
            none.clone(),
            "a 0 b 68 c 68",
        ),
        // Pods of a Service: by node with skew 3, by zone with skew 5.
        ("by default", vec![at("web", "a"), at("db", "c")], none.clone(), web(), "a 0 b 44 c 68"),
    ];
    for (what, placed, spec, spread_by, expected) in table {
        let spread_by = if spread_by == none { json!(null) } else { spread_by };
        assert_eq!(marks(plain(), &placed, spec, spread_by), expected, "{what}");
    }
}
