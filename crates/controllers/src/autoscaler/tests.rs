//! Tables of what autoscalers do.

use serde_json::{Value, json};

use super::*;

const START: &str = "2026-01-01T00:00:00Z";

fn at(seconds: i64) -> Timestamp {
    START.parse::<Timestamp>().expect("time") + SignedDuration::from_secs(seconds)
}

fn hpa(behavior: Value) -> HorizontalPodAutoscaler {
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": 50}}});
    serde_json::from_value(json!({"metadata": {"name": "h", "namespace": "n"}, "spec": {
        "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"},
        "minReplicas": 1, "maxReplicas": 10, "metrics": [cpu], "behavior": behavior}}))
    .expect("autoscaler")
}

fn pods(count: usize) -> Vec<Pod> {
    let make = |i: usize| {
        json!({"metadata": {"name": format!("p{i}")},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]},
            "status": {"phase": "Running", "startTime": "2025-12-31T00:00:00Z",
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2025-12-31T00:00:10Z"}]}})
    };
    (0..count).map(|i| serde_json::from_value(make(i)).expect("pod")).collect()
}

fn usage(milli: &[i64], at: Timestamp) -> BTreeMap<String, PodUsage> {
    let one = |milli: i64| PodUsage {
        containers: vec![Usage { container: "c".into(), milli: [("cpu".to_owned(), milli)].into() }],
        at,
        window_s: 15.0,
    };
    milli.iter().enumerate().map(|(i, m)| (format!("p{i}"), one(*m))).collect()
}

/// The replicas asked for by a pass over these figures, and the reasons of its conditions.
fn pass(
    hpa: &HorizontalPodAutoscaler,
    replicas: usize,
    milli: &[i64],
    memory: &mut Memory,
    now: Timestamp,
) -> (Option<i64>, String) {
    let pods = pods(replicas);
    let scale = Scale {
        target: Target::of(hpa),
        wanted: replicas as i32,
        current: replicas as i32,
        pods: pods.iter().collect(),
    };
    let view = View { hpa, scale: Ok(scale), metrics: Ok(usage(milli, now)) };
    let plan = plan(&view, memory, now);
    let patch = |wanted: &str| {
        plan.actions.iter().find_map(|action| match action {
            Action::Patch { subresource, patch, .. } if *subresource == wanted => Some(patch.clone()),
            _ => None,
        })
    };
    let reasons = patch("status").map_or_else(String::new, |patch| {
        let list = patch["status"]["conditions"].as_array().cloned().unwrap_or_default();
        list.iter().filter_map(|c| c["reason"].as_str()).collect::<Vec<_>>().join(" ")
    });
    (patch("scale").and_then(|patch| patch["spec"]["replicas"].as_i64()), reasons)
}

#[test]
fn targets_follow_their_use() {
    let table: [(usize, &[i64], Option<i64>, &str); 6] = [
        (2, &[50, 50], None, "ReadyForNewScale"),
        (2, &[54, 54], None, "ReadyForNewScale"),
        (2, &[100, 100], Some(4), "SucceededRescale"),
        (2, &[5, 5], Some(1), "SucceededRescale"),
        (8, &[100; 8], Some(10), "TooManyReplicas"),
        // One pod of which nothing is known speaks against growing.
        (2, &[60], None, "ReadyForNewScale"),
    ];
    for (replicas, milli, wanted, reason) in table {
        let mut memory = Memory::default();
        let (scaled, reasons) = pass(&hpa(Value::Null), replicas, milli, &mut memory, at(0));
        assert_eq!(scaled, wanted, "{replicas} {milli:?} {reasons}");
        assert!(reasons.contains(reason), "{replicas} {milli:?} {reasons}");
    }
}

#[test]
fn shrinking_waits_for_its_window() {
    let (hpa, mut memory) = (hpa(Value::Null), Memory::default());
    assert_eq!(pass(&hpa, 2, &[100, 100], &mut memory, at(0)).0, Some(4));
    let (scaled, reasons) = pass(&hpa, 4, &[1; 4], &mut memory, at(60));
    assert_eq!((scaled, reasons.contains("ScaleDownStabilized")), (None, true), "{reasons}");
    assert_eq!(pass(&hpa, 4, &[1; 4], &mut memory, at(301)).0, Some(1));
}

#[test]
fn policies_bound_the_pace() {
    let behavior = json!({"scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max",
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}});
    let (hpa, mut memory) = (hpa(behavior), Memory::default());
    let (scaled, reasons) = pass(&hpa, 2, &[100, 100], &mut memory, at(0));
    assert_eq!((scaled, reasons.contains("ScaleUpLimit")), (Some(3), true), "{reasons}");
    assert_eq!(pass(&hpa, 3, &[100; 3], &mut memory, at(30)).0, None);
    assert_eq!(pass(&hpa, 3, &[100; 3], &mut memory, at(61)).0, Some(4));
}

#[test]
fn what_is_not_known_is_said() {
    let hpa = hpa(Value::Null);
    let pods = pods(1);
    let scale = || Scale { target: Target::of(&hpa), wanted: 1, current: 1, pods: pods.iter().collect() };
    let view = View { hpa: &hpa, scale: Ok(scale()), metrics: Err("no answer".into()) };
    let text = format!("{:?}", plan(&view, &mut Memory::default(), at(0)).actions);
    assert!(text.contains("FailedGetResourceMetric"), "{text}");
    let message = "failed to get cpu utilization: unable to get metrics for resource cpu: no answer";
    assert!(text.contains(message), "{text}");
}
