//! The phases that measure a whole control plane: how fast pods are scheduled, and Deployments made and removed.
//!
//! Nodes are objects without a machine, and pods are never run: what is measured is the scheduler and the controllers
//! through the API. All is seen from one watch of pods, as any client sees it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::BenchError;
use crate::phases::{Bench, JSON, MERGE, NAMESPACE, Request, histogram, in_namespace};
use crate::pods::Pods;

/// Zones that nodes are in, one after the other.
const ZONES: usize = 3;
/// Pods of one anti-affinity group; groups are as many as it takes.
const GROUP: usize = 500;
/// What is made outside of the namespace carries this label.
const MARK: &str = "kutter-bench";

/// What the pods of a schedule phase ask for.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Plain,
    Spread,
    AntiAffinity,
}

/// Runs the phases that are asked for.
pub async fn all(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let phases = [
        ("schedule plain", Shape::Plain),
        ("schedule spread", Shape::Spread),
        ("schedule anti-affinity", Shape::AntiAffinity),
    ];
    for (name, shape) in phases {
        if bench.asked_for(name) {
            let outcome = schedule(bench, name, shape).await;
            clear(bench).await?;
            outcome?;
        }
    }
    if bench.asked_for("deploy") {
        deploy(bench).await?;
    }
    Ok(())
}

/// From the first pod's creation until the last one is bound. Times are of each pod, from its creation on.
async fn schedule(bench: &mut Bench<'_>, name: &'static str, shape: Shape) -> Result<(), BenchError> {
    let wide = bench.args.connections;
    bench.send(bench.args.nodes, wide, create_node).await?;
    // A new node is tainted until its first report; there is nobody to report.
    bench.send(bench.args.nodes, wide, untaint_node).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let count = bench.args.pods;
    let mut bound = Pods::watch(bench, "&fieldSelector=spec.nodeName!%3D").await?;
    let base = Instant::now();
    let sent: Arc<Vec<_>> = Arc::new((0..count).map(|_| std::sync::atomic::AtomicU64::new(0)).collect());
    let times = Arc::clone(&sent);
    let create = bench.send(count, wide, move |n| {
        times[n].store(base.elapsed().as_micros() as u64, std::sync::atomic::Ordering::Relaxed);
        create_pod(shape, n)
    });
    let watch = async {
        let mut times = histogram();
        let mut bytes = 0;
        for done in 0..count {
            let (name, size) = bound.next(|e| e.r#type == "ADDED", ("bound", done, count)).await?;
            let number: Option<usize> = name.strip_prefix("pod-").and_then(|n| n.parse().ok());
            let created =
                number.and_then(|n| sent.get(n)).map(|t| t.load(std::sync::atomic::Ordering::Relaxed));
            let now = base.elapsed().as_micros() as u64;
            times.saturating_record(now.saturating_sub(created.unwrap_or(now)));
            bytes += size;
        }
        Ok((base.elapsed(), bytes, times))
    };
    let (_, (taken, bytes, times)) = tokio::try_join!(create, watch)?;
    bench.note(name, taken, bytes, &times);
    Ok(())
}

/// A Deployment until all of its pods exist, and its deletion until they are gone. Times count from the request on.
async fn deploy(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let count = bench.args.replicas;
    let mut first = bench.endpoint.connect().await?;
    let mut pods = Pods::watch(bench, "").await?;
    let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments");
    let background = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
    let steps = [
        ("deploy create", "ADDED", "made", (Method::POST, path.clone(), deployment(count))),
        ("deploy delete", "DELETED", "gone", (Method::DELETE, format!("{path}/bench"), background)),
    ];
    for (name, event, what, (method, path, body)) in steps {
        let base = Instant::now();
        first.call(method, &path, JSON, body.to_string().into()).await?;
        let mut times = histogram();
        let mut bytes = 0;
        for done in 0..count {
            bytes += pods.next(|e| e.r#type == event, (what, done, count)).await?.1;
            times.saturating_record(base.elapsed().as_micros() as u64);
        }
        bench.note(name, base.elapsed(), bytes, &times);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// Removes what a schedule phase made.
async fn clear(bench: &Bench<'_>) -> Result<(), BenchError> {
    let mut first = bench.endpoint.connect().await?;
    let now = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}).to_string();
    first.call(Method::DELETE, &in_namespace("pods", ""), JSON, now.into()).await?;
    let nodes = format!("/api/v1/nodes?labelSelector={MARK}");
    first.call(Method::DELETE, &nodes, JSON, Bytes::new()).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(())
}

fn create_node(n: usize) -> Request {
    let name = format!("{MARK}-{n}");
    let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "a node of the benchmark"});
    let room = json!({"cpu": "4", "memory": "32Gi", "pods": "110"});
    let body = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {
            MARK: "", "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", n % ZONES),
        }},
        "status": {"capacity": room, "allocatable": room, "conditions": [ready]},
    });
    (Method::POST, "/api/v1/nodes".to_owned(), JSON, body.to_string().into())
}

fn untaint_node(n: usize) -> Request {
    let body = json!({"spec": {"taints": null}});
    (Method::PATCH, format!("/api/v1/nodes/{MARK}-{n}"), MERGE, body.to_string().into())
}

fn create_pod(shape: Shape, n: usize) -> Request {
    let requests = json!({"cpu": "100m", "memory": "100Mi"});
    let mut body = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{n}"), "labels": {"app": "bench"}},
        "spec": {"containers": [{"name": "main", "image": "registry.example/app:1.0", "resources": {"requests": requests}}]},
    });
    match shape {
        Shape::Plain => {}
        Shape::Spread => {
            body["spec"]["topologySpreadConstraints"] = json!([{
                "maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "bench"}},
            }]);
        }
        Shape::AntiAffinity => {
            let group = Value::from(format!("g{}", n / GROUP));
            body["metadata"]["labels"]["group"] = group.clone();
            body["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!([{
                "topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"group": group}},
            }]);
        }
    }
    (Method::POST, in_namespace("pods", ""), JSON, body.to_string().into())
}

/// Its pods are nobody's to schedule, so that deletion needs no node.
fn deployment(replicas: usize) -> Value {
    let labels = json!({"app": "bench-deploy"});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "bench"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {
                "schedulerName": "nobody",
                "containers": [{"name": "main", "image": "registry.example/app:1.0"}],
            },
        }},
    })
}
