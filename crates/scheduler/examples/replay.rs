//! Replays another scheduler's decisions and says where ours would differ: `replay RECORD.json`.
//!
//! The record has `namespaces`, `nodes`, and `pods` in the order they were decided. A pod with `spec.nodeName` was
//! placed there: that node must be among our best. One without was refused: its condition `PodScheduled` must have
//! our words, what is said of preemption aside. A `spreadBy` beside `spec` is the selector of its Services and
//! controller.

use std::process::ExitCode;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use scheduler::{PodInfo, Snapshot, ratings};
use serde_json::Value;

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("the record's path is needed")?;
    let record: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    let mut snapshot = Snapshot::new();
    let list = |what: &str| record[what].as_array().cloned().unwrap_or_default();
    for namespace in list("namespaces") {
        snapshot.set_namespace(&serde_json::from_value::<Namespace>(namespace)?);
    }
    for node in list("nodes") {
        snapshot.set_node(Arc::new(serde_json::from_value::<Node>(node)?));
    }
    let (mut same, mut other) = (0, 0);
    for pod in list("pods") {
        let placed: Arc<Pod> = Arc::new(serde_json::from_value(pod.clone())?);
        let name = placed.metadata.name.clone().unwrap_or_default();
        let node = placed.spec.as_ref().and_then(|s| s.node_name.clone()).filter(|n| !n.is_empty());
        let mut asked = (*placed).clone();
        asked.spec.get_or_insert_default().node_name = None;
        let mut info = PodInfo::of(Arc::new(asked));
        info.spread_by = serde_json::from_value(pod["spreadBy"].clone())?;
        let ours = ratings(&mut snapshot, &info);
        let difference = match (ours, &node) {
            (Ok(ratings), Some(node)) => {
                let best = ratings.values().copied().max();
                (ratings.get(node).copied() != best).then(|| {
                    let chosen = ratings.get(node);
                    let better: Vec<_> = ratings.iter().filter(|(_, s)| Some(**s) == best).take(3).collect();
                    format!("placed on {node}, which has {chosen:?}; better are {better:?}")
                })
            }
            (Ok(ratings), None) => Some(format!("refused; ours {:?}", ratings.iter().next())),
            (Err(why), Some(node)) => Some(format!("placed on {node}; ours refuses: {why}")),
            (Err(why), None) => {
                let status = placed.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
                let said = status.into_iter().find(|c| c.type_ == "PodScheduled").and_then(|c| c.message);
                let said = said.unwrap_or_default();
                let words = said.split(" no new claims to deallocate").next().unwrap_or_default();
                (words != why.to_string()).then(|| format!("refused: {words}\n    ours: {why}"))
            }
        };
        match difference {
            None => same += 1,
            Some(text) => {
                other += 1;
                println!("{name}: {text}");
            }
        }
        if node.is_some() {
            snapshot.set_pod(placed);
        }
    }
    println!("{same} decisions agree, {other} differ");
    Ok(if other == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
