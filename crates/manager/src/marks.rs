//! Labels and taints of a pool on the Node objects of its nodes: done when a node process has started, as that is
//! when its pool may say something else than before.

use std::path::PathBuf;
use std::time::Duration;

use client::{Client, Config, Patch, WriteOptions};
use fleet::marks::{Marks, Taint};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

/// The annotation that says what the pool put on the Node.
const ANNOTATION: &str = "kutter.dev/nodepool-marks";
/// How often and how long a Node that is not there yet, or a server that does not answer, is tried.
const TRY_EVERY: Duration = Duration::from_secs(1);
const TRIES_MAX: usize = 120;

/// Makes a Node as its pool wants it. `kubeconfig` is the administrator's.
pub(crate) async fn settle(kubeconfig: PathBuf, node: String, wanted: Marks) {
    let mut why = String::new();
    for _ in 0..TRIES_MAX {
        match once(&kubeconfig, &node, &wanted).await {
            Ok(()) => return,
            Err(error) => why = error,
        }
        tokio::time::sleep(TRY_EVERY).await;
    }
    tracing::warn!(node, error = why, "labels and taints of the pool not brought to the Node");
}

async fn once(kubeconfig: &std::path::Path, name: &str, wanted: &Marks) -> Result<(), String> {
    let config = Config::from_kubeconfig(kubeconfig, None).map_err(|e| e.to_string())?;
    let client = Client::from_config(config).map_err(|e| e.to_string())?;
    let found = client.find::<Node>("", name).await.map_err(|e| e.chain())?;
    let node = found.ok_or("it is not registered yet")?;
    let meta = &node.metadata;
    let text = meta.annotations.as_ref().and_then(|all| all.get(ANNOTATION));
    let known: Marks = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let taints: Vec<Taint> =
        client::to_value(&taints).ok().and_then(|v| serde_json::from_value(v).ok()).unwrap_or_default();
    let change = wanted.change(&known, &meta.labels.clone().unwrap_or_default(), &taints);
    let nothing = change.gone.is_empty() && change.taints.is_none();
    if nothing && (known == *wanted || text.is_none() && *wanted == Marks::default()) {
        return Ok(());
    }
    let gone: serde_json::Map<String, serde_json::Value> =
        change.gone.into_iter().map(|key| (key, serde_json::Value::Null)).collect();
    let marks = serde_json::to_string(wanted).map_err(|e| e.to_string())?;
    let mut patch = json!({"metadata": {"resourceVersion": meta.resource_version, "labels": gone,
        "annotations": {ANNOTATION: marks}}});
    if let Some(taints) = change.taints {
        patch["spec"] = json!({ "taints": taints });
    }
    let done = client.patch::<Node>("", name, &Patch::Merge(patch), &WriteOptions::default()).await;
    done.map(|_| ()).map_err(|e| e.chain())
}
