//! `kutter cluster` and `kutter nodepool`.

use std::collections::BTreeMap;

use fleet::ClusterView;
use http::Method;
use serde_json::json;

use crate::commands::{Cluster, Delete, Nodepool, Status};
use crate::manager::Manager;
use crate::output::{self, table};
use crate::{CliError, Globals, Output, down, status, up};

/// `kutter cluster …`.
pub async fn cluster(globals: &Globals, command: Cluster) -> Result<(), CliError> {
    match command {
        Cluster::Create { name, nodes } => {
            let manager = Manager::ensure(globals).await?;
            let body = json!({ "desired": "running", "pools": [{"name": up::POOL, "count": nodes}] });
            let path = format!("/v1/clusters/{name}");
            let view: ClusterView = manager.call(Method::PUT, &path, Some(&body)).await?;
            match globals.output {
                Output::Json => output::json(&view),
                Output::Table => {
                    println!(
                        "cluster {name} is being started; follow it with `kutter status {name} --watch`"
                    );
                    Ok(())
                }
            }
        }
        Cluster::List => list(globals).await,
        Cluster::Show { name } => status::run(globals, Status { name: Some(name), watch: false }).await,
        Cluster::Delete { name, yes } => down::delete(globals, Delete { name: Some(name), yes }).await,
    }
}

async fn list(globals: &Globals) -> Result<(), CliError> {
    let clusters = Manager::running(globals).await?.clusters().await?;
    if globals.output == Output::Json {
        return output::json(&clusters);
    }
    let rows: Vec<Vec<String>> = clusters
        .iter()
        .map(|c| {
            let nodes: usize = c.pools.iter().map(|p| p.node_names().len()).sum();
            let phase = format!("{:?}", c.phase).to_lowercase();
            vec![c.name.clone(), phase, c.version.clone(), nodes.to_string(), c.api.clone()]
        })
        .collect();
    print!("{}", table(&["NAME", "PHASE", "VERSION", "NODES", "API"], &rows));
    Ok(())
}

/// `kutter nodepool …`.
pub async fn nodepool(globals: &Globals, command: Nodepool) -> Result<(), CliError> {
    let manager = Manager::running(globals).await?;
    match command {
        Nodepool::Add { name, cluster, count, cpus, memory_mib, max_pods, labels, taints } => {
            let body = json!({
                "count": count,
                "cpus": cpus,
                "memoryMib": memory_mib,
                "maxPods": max_pods,
                "labels": (!labels.is_empty()).then(|| parse_labels(&labels)).transpose()?,
                "taints": (!taints.is_empty()).then_some(taints),
            });
            put(globals, &manager, &cluster, &name, &body).await
        }
        Nodepool::Scale { name, cluster, count } => {
            let known = manager.cluster(&cluster).await?.pools.iter().any(|p| p.name == name);
            if !known {
                return Err(CliError::told(format!(
                    "node pool {name:?} does not exist in cluster {cluster}"
                )));
            }
            put(globals, &manager, &cluster, &name, &json!({ "count": count })).await
        }
        Nodepool::Delete { name, cluster } => {
            let path = format!("/v1/clusters/{cluster}/pools/{name}");
            let view: ClusterView = manager.call(Method::DELETE, &path, None).await?;
            print_pools(globals, &view)
        }
        Nodepool::List { cluster } => print_pools(globals, &manager.cluster(&cluster).await?),
    }
}

async fn put(
    globals: &Globals,
    manager: &Manager,
    cluster: &str,
    name: &str,
    body: &serde_json::Value,
) -> Result<(), CliError> {
    manager.cluster(cluster).await?;
    let path = format!("/v1/clusters/{cluster}/pools/{name}");
    let view: ClusterView = manager.call(Method::PUT, &path, Some(body)).await?;
    print_pools(globals, &view)
}

fn print_pools(globals: &Globals, view: &ClusterView) -> Result<(), CliError> {
    if globals.output == Output::Json {
        return output::json(&view.pools);
    }
    let limit = |n: u64, unit: &str| if n == 0 { "all".to_owned() } else { format!("{n}{unit}") };
    let rows: Vec<Vec<String>> = view
        .pools
        .iter()
        .map(|p| {
            let (cpus, memory) = (limit(u64::from(p.cpus), ""), limit(p.memory_mib, "Mi"));
            let labels: Vec<String> = p.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let or_none = |list: &[String]| if list.is_empty() { "-".to_owned() } else { list.join(",") };
            let (labels, taints) = (or_none(&labels), or_none(&p.taints));
            vec![p.name.clone(), p.count.to_string(), cpus, memory, p.max_pods.to_string(), labels, taints]
        })
        .collect();
    print!("{}", table(&["NAME", "COUNT", "CPUS", "MEMORY", "MAX PODS", "LABELS", "TAINTS"], &rows));
    Ok(())
}

/// `KEY=VALUE` each.
pub fn parse_labels(labels: &[String]) -> Result<BTreeMap<String, String>, CliError> {
    let split = |label: &String| {
        let (key, value) = label.split_once('=')?;
        Some((key.to_owned(), value.to_owned()))
    };
    labels
        .iter()
        .map(|l| {
            split(l).ok_or_else(|| CliError::told(format!("label {l:?} cannot be read: write KEY=VALUE")))
        })
        .collect()
}
