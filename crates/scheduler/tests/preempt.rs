//! Who must go, by table.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use scheduler::preempt::preempt;
use scheduler::{PodInfo, Snapshot};
use serde_json::json;

fn node(name: &str) -> Arc<Node> {
    let value = json!({"metadata": {"name": name},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}}});
    Arc::new(serde_json::from_value(value).expect("node"))
}

/// `name`, CPU, priority, node.
fn pod((name, cpu, priority, node): (&str, &str, i32, &str)) -> Arc<Pod> {
    let value = json!({"metadata": {"name": name, "namespace": "a", "uid": name, "labels": {"app": name}},
        "spec": {"priority": priority, "nodeName": node,
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
    Arc::new(serde_json::from_value(value).expect("pod"))
}

fn budget(app: &str, allowed: i32) -> Arc<PodDisruptionBudget> {
    let value = json!({"metadata": {"name": app, "namespace": "a"},
        "spec": {"selector": {"matchLabels": {"app": app}}},
        "status": {"disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}});
    Arc::new(serde_json::from_value(value).expect("budget"))
}

type Row<'a> = (&'a [(&'a str, &'a str, i32, &'a str)], &'a [(&'a str, i32)], (&'a str, i32), &'a str);

#[test]
fn the_least_important_pods_go() {
    let table: [Row<'_>; 7] = [
        // The node whose most important victim matters least.
        (&[("x", "2", 5, "n1"), ("y", "2", 1, "n2")], &[], ("1", 10), "n2: y"),
        // No more than needed, and the more important ones stay.
        (&[("x", "1", 5, "n1"), ("y", "1", 1, "n1"), ("z", "2", 20, "n2")], &[], ("1", 10), "n1: y"),
        // All that is needed.
        (&[("x", "1", 5, "n1"), ("y", "1", 1, "n1"), ("z", "2", 20, "n2")], &[], ("2", 10), "n1: x y"),
        // Budgets are kept where they can be.
        (&[("x", "2", 1, "n1"), ("y", "2", 2, "n2")], &[("x", 0)], ("1", 10), "n2: y"),
        (&[("x", "2", 1, "n1"), ("y", "2", 20, "n2")], &[("x", 0)], ("1", 10), "n1: x"),
        // Nobody of the same priority goes.
        (
            &[("x", "2", 10, "n1"), ("y", "2", 10, "n2")],
            &[],
            ("1", 10),
            "0/2 nodes are available: 2 No preemption victims found for incoming pod.",
        ),
        // A pod that is too large for any node.
        (
            &[("x", "2", 0, "n1"), ("y", "2", 0, "n2")],
            &[],
            ("3", 10),
            "0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
        ),
    ];
    for (placed, budgets, (cpu, priority), wanted) in table {
        let mut snapshot = Snapshot::new();
        ["n1", "n2"].into_iter().for_each(|name| snapshot.set_node(node(name)));
        placed.iter().for_each(|p| snapshot.set_pod(pod(*p)));
        let budgets: Vec<_> = budgets.iter().map(|(app, allowed)| budget(app, *allowed)).collect();
        let incoming = PodInfo::of(pod(("new", cpu, priority, "")));
        let got = match preempt(&mut snapshot, &incoming, &budgets, 1) {
            Ok(found) => {
                let mut names: Vec<&str> =
                    found.victims.iter().filter_map(|v| v.metadata.name.as_deref()).collect();
                names.sort_unstable();
                format!("{}: {}", found.node, names.join(" "))
            }
            Err(why) => why,
        };
        assert_eq!(got, wanted, "{placed:?}");
    }
}
