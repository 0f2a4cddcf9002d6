//! The phases that measure nodes: from a pod's creation until it is ready, one after the other and many at once.
//!
//! They need nodes that run pods, and an image that these have or can pull.

use std::collections::HashSet;
use std::time::Instant;

use http::Method;
use serde_json::json;

use crate::BenchError;
use crate::phases::{Bench, JSON, Request, histogram, in_namespace};
use crate::pods::{Event, Pods};

/// Pods that are started one after the other.
const SINGLES: usize = 30;

/// Runs the phases if they are asked for.
pub async fn all(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    if bench.asked_for("start one by one") {
        one_by_one(bench).await?;
    }
    if bench.asked_for("start at once") {
        at_once(bench).await?;
    }
    Ok(())
}

/// Each pod has the node to itself: the one before it is deleted first.
async fn one_by_one(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let mut pods = Pods::watch(bench, "").await?;
    let mut writer = bench.endpoint.connect().await?;
    let mut times = histogram();
    let mut bytes = 0;
    let base = Instant::now();
    for n in 0..SINGLES {
        let (method, path, kind, body) = pod(&bench.args.image, "one", n);
        let sent = Instant::now();
        writer.call(method, &path, kind, body).await?;
        let name = format!("one-{n}");
        bytes += pods.next(ready_of(&name), ("ready", n, SINGLES)).await?.1;
        times.saturating_record(sent.elapsed().as_micros() as u64);
        writer.call(Method::DELETE, &in_namespace("pods", &format!("/{name}")), JSON, now()).await?;
        pods.next(|e| e.r#type == "DELETED" && e.object.name() == name, ("gone", n, SINGLES)).await?;
    }
    bench.note("start one by one", base.elapsed(), bytes, &times);
    Ok(())
}

/// From the first creation until the last pod is ready. Times are of each pod, from the first creation on.
async fn at_once(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let count = bench.args.at_once;
    let image = bench.args.image.clone();
    let mut pods = Pods::watch(bench, "").await?;
    let base = Instant::now();
    let create = bench.send(count, bench.args.connections.min(count), move |n| pod(&image, "many", n));
    let watch = async {
        let mut times = histogram();
        let mut bytes = 0;
        let mut seen = HashSet::new();
        while seen.len() < count {
            let is_ready = |e: &Event| e.object.is_ready() && !seen.contains(e.object.name());
            let (name, size) = pods.next(is_ready, ("ready", seen.len(), count)).await?;
            seen.insert(name);
            times.saturating_record(base.elapsed().as_micros() as u64);
            bytes += size;
        }
        Ok((base.elapsed(), bytes, times))
    };
    let (_, (taken, bytes, times)) = tokio::try_join!(create, watch)?;
    bench.note("start at once", taken, bytes, &times);
    let mut writer = bench.endpoint.connect().await?;
    writer.call(Method::DELETE, &in_namespace("pods", ""), JSON, now()).await?;
    Ok(())
}

fn ready_of(name: &str) -> impl Fn(&Event) -> bool {
    move |event| event.object.name() == name && event.object.is_ready()
}

/// The body of a deletion without grace.
fn now() -> bytes::Bytes {
    json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}).to_string().into()
}

fn pod(image: &str, prefix: &str, n: usize) -> Request {
    let body = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("{prefix}-{n}")},
        "spec": {"containers": [{"name": "main", "image": image, "imagePullPolicy": "IfNotPresent"}]},
    });
    (Method::POST, in_namespace("pods", ""), JSON, body.to_string().into())
}
