//! What the API shows of a cluster: the record, its pools and every process with role and pid.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::spec::{Cluster, Desired, NodePool, Phase};

/// One process of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessView {
    /// `manager`, `control-plane`, `supervisor` or `node`.
    pub role: String,
    /// The node it belongs to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<String>,
    /// Process id on this machine while it runs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pid: Option<i32>,
    /// `starting`, `ready`, `stopping` or `exited`.
    pub state: String,
    /// How often it has been restarted by this manager.
    pub restarts: u32,
    /// How often in a row it has ended soon after its start, the last time just now.
    #[serde(default)]
    pub failures: u32,
    /// Its log.
    pub log: PathBuf,
    /// Bytes of its resident memory, filled in by who shows the view: it changes without anything happening.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub memory_bytes: Option<u64>,
}

/// A cluster as users see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterView {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub phase: Phase,
    /// Kubernetes version.
    pub version: String,
    /// The API server's address on this machine.
    pub api: String,
    /// The address on which the API server listens for other machines.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub listen: Option<SocketAddr>,
    /// Whether the control plane is on another machine.
    #[serde(default)]
    pub member: bool,
    /// Where the ingress answers on this machine, as `address:port`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ingress: Option<String>,
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// The node pools.
    pub pools: Vec<NodePool>,
    /// Every process that runs or should run.
    pub processes: Vec<ProcessView>,
    /// Why what is wanted is not so yet, one sentence each.
    pub why: Vec<String>,
}

/// The phase that record and processes add up to.
pub fn phase(cluster: &Cluster, wanted: usize, processes: &[ProcessView]) -> Phase {
    let ready = processes.iter().filter(|p| p.state == "ready").count();
    let restarted = processes.iter().any(|p| p.restarts > 0 && p.state != "ready");
    match cluster.desired {
        Desired::Running if ready >= wanted && ready == processes.len() => Phase::Running,
        Desired::Running if restarted => Phase::Degraded,
        Desired::Running => Phase::Starting,
        Desired::Stopped if processes.is_empty() => Phase::Stopped,
        Desired::Stopped => Phase::Stopping,
        Desired::Deleted => Phase::Deleting,
    }
}
