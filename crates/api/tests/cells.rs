//! Cells of Table views by table.

use api::cells::{age, cell};
use serde_json::{Value, json};

const NOW: i64 = 1_767_225_600; // 2026-01-01T00:00:00Z

fn pod(spec: Value, status: Value) -> Value {
    json!({"metadata": {"name": "p", "creationTimestamp": "2025-12-31T23:59:00Z"}, "spec": spec, "status": status})
}

fn row(kind: &str, columns: &[&str], object: &Value) -> String {
    let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    columns.iter().map(|c| text(cell(kind, c, "string", object, NOW))).collect::<Vec<_>>().join(" | ")
}

#[test]
fn ages() {
    for (seconds, expected) in [
        (-1, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (600, "10m"),
        (10_860, "3h1m"),
        (90_000, "25h"),
        (180_000, "2d2h"),
        (864_000, "10d"),
    ] {
        assert_eq!(age(seconds), expected);
    }
}

#[test]
fn pods() {
    let columns = ["Name", "Ready", "Status", "Restarts", "Age", "IP"];
    let spec = json!({"containers": [{"name": "c"}]});
    let running = json!({"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [{"name": "c", "ready": true,
        "restartCount": 2, "state": {"running": {}}, "lastState": {"terminated": {"finishedAt": "2025-12-31T23:55:00Z"}}}]});
    assert_eq!(
        row("Pod", &columns, &pod(spec.clone(), running)),
        "p | 1/1 | Running | 2 (5m ago) | 60s | 10.0.0.1"
    );
    let crashing = json!({"phase": "Running", "containerStatuses": [{"name": "c", "ready": false, "restartCount": 1,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]});
    assert_eq!(
        row("Pod", &columns, &pod(spec.clone(), crashing)),
        "p | 0/1 | CrashLoopBackOff | 1 | 60s | <none>"
    );
    let done = json!({"phase": "Succeeded", "containerStatuses": [{"name": "c", "ready": false, "restartCount": 0,
        "state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]});
    assert_eq!(row("Pod", &["Ready", "Status"], &pod(spec, done)), "0/1 | Completed");
    let two = json!({"initContainers": [{"name": "a"}, {"name": "b"}], "containers": [{"name": "c"}]});
    let starting = json!({"phase": "Pending", "initContainerStatuses": [
        {"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
        {"name": "b", "state": {"running": {}}}]});
    assert_eq!(row("Pod", &["Ready", "Status"], &pod(two, starting)), "0/1 | Init:1/2");
}

#[test]
fn other_kinds() {
    let service = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.7", "ports": [
        {"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}});
    let columns = ["Type", "Cluster-IP", "External-IP", "Port(s)"];
    assert_eq!(row("Service", &columns, &service), "NodePort | 10.96.0.7 | <none> | 80:30080/TCP,53/UDP");
    let deployment = json!({"spec": {"replicas": 3, "selector": {"matchLabels": {"app": "a"}}},
        "status": {"readyReplicas": 2, "updatedReplicas": 3}});
    let columns = ["Ready", "Up-to-date", "Available", "Selector"];
    assert_eq!(row("Deployment", &columns, &deployment), "2/3 | 3 | 0 | app=a");
    let node = json!({"metadata": {"labels": {"node-role.kubernetes.io/worker": ""}}, "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(row("Node", &["Status", "Roles"], &node), "Ready,SchedulingDisabled | worker");
    let job =
        json!({"spec": {"completions": 2}, "status": {"succeeded": 1, "startTime": "2025-12-31T23:58:00Z"}});
    assert_eq!(row("Job", &["Status", "Completions", "Duration"], &job), "Running | 1/2 | 2m");
}
