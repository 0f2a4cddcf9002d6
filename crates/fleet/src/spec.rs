//! What a user asks for: clusters and their node pools, as kept by the manager and shown by its API.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::address::{address_plan, overlap};

pub use base::KUBERNETES_VERSION;

/// Whether a cluster shall run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    /// Control plane and nodes run.
    #[default]
    Running,
    /// Everything is stopped, data is kept.
    Stopped,
    /// Everything is stopped and removed, then the record itself goes.
    Deleted,
}

/// What a cluster is doing, as users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Processes are being started.
    Starting,
    /// Every process is ready.
    Running,
    /// A process that should run does not, and is being restarted.
    Degraded,
    /// Processes are being stopped.
    Stopping,
    /// Nothing runs, data is kept.
    Stopped,
    /// Data is being removed.
    Deleting,
}

/// A managed cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// DNS-1123 label, unique on this machine.
    pub name: String,
    /// A small number, unique on this machine, from which addresses, ports and device names derive.
    pub index: u8,
    /// Served Kubernetes version, such as `v1.36.2`.
    pub version: String,
    /// Whether it shall run.
    #[serde(default)]
    pub desired: Desired,
    /// Raised by every change of the wanted state.
    #[serde(default)]
    pub generation: u64,
    /// The address on which the API server listens for other machines; none for this machine alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// Where the cluster's control plane is, when it runs on another machine and this one is a member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<Remote>,
}

/// What a member knows of a cluster whose control plane is elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remote {
    /// The API server, `https://address:port`.
    pub server: String,
    /// Addresses of the cluster's DNS.
    pub cluster_dns: Vec<IpAddr>,
    /// Range of all pods, `address/length`.
    pub pod_cidr: String,
    /// Range of Services.
    pub service_cidr: String,
    /// Range of load balancer addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer_cidr: Option<String>,
}

/// This machine itself as a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Host {
    /// Name of the Node object.
    pub node: String,
    /// The address under which the other machines of the cluster reach this one; none while there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Another container runtime of this machine than Kutter's own, `cri=unix:///PATH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
}

/// A taint or toleration in the short form `key=value:Effect`, as users write it.
pub type Toleration = String;

/// A group of equal nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodePool {
    /// The cluster it belongs to.
    pub cluster: String,
    /// DNS-1123 label, unique in the cluster, at most 12 characters.
    pub name: String,
    /// A small number, unique in the cluster, from which the nodes' addresses derive.
    #[serde(default)]
    pub index: u8,
    /// How many local nodes.
    pub count: u32,
    /// CPU cores of each node; 0 means all of this machine.
    #[serde(default)]
    pub cpus: u32,
    /// Memory of each node in MiB; 0 means all of this machine.
    #[serde(default)]
    pub memory_mib: u64,
    /// Pods a node takes at most.
    #[serde(default = "max_pods_default")]
    pub max_pods: u32,
    /// Labels of the nodes.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Taints of the nodes, `key=value:Effect`.
    #[serde(default)]
    pub taints: Vec<Toleration>,
    /// Members that are stopped on purpose, by node name.
    #[serde(default)]
    pub stopped: Vec<String>,
    /// Set when the pool's one node is this machine itself, in its own network, and not a local node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
}

fn max_pods_default() -> u32 {
    PODS_MAX
}

/// Why a wanted state is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpecError {
    /// A name is not usable.
    #[error(
        "name {0:?} is not usable: use 1 to {1} lower-case letters, digits or '-', beginning and ending with a letter or digit"
    )]
    Name(String, usize),
    /// More nodes than one machine is allowed to carry.
    #[error("{0} nodes in a pool are too many: at most {1}")]
    Count(u32, u32),
    /// This machine is one node.
    #[error("this machine is one node, not {0}: choose local nodes instead, or another machine")]
    OneHost(u32),
    /// A cluster's nodes on this machine are of one sort.
    #[error("this machine is a node of the cluster itself: it cannot carry local nodes besides")]
    HostAndLocal,
    /// No socket of a container runtime.
    #[error("runtime {0:?} is not known: write cri=unix:///PATH")]
    Runtime(String),
    /// The nodes would be too small to run anything.
    #[error("{0} MiB of memory are too few for a node: at least {1}")]
    Memory(u64, u64),
    /// A number of pods that a node cannot have.
    #[error("{0} pods on a node are not possible: 1 to {1}")]
    Pods(u32, u32),
    /// A taint cannot be read.
    #[error("taint {0:?} cannot be read: write key=value:NoSchedule, :PreferNoSchedule or :NoExecute")]
    Taint(String),
    /// No free index is left for a cluster.
    #[error("{0} clusters on this machine are too many: delete one first")]
    Clusters(usize),
    /// No free index is left for a node pool.
    #[error("{0} node pools in a cluster are too many: delete one first")]
    Pools(usize),
}

/// Most node pools in a cluster.
pub const POOLS_MAX: usize = 8;
/// Most local nodes in one pool: `POOLS_MAX` pools of this size fill a cluster's node network below its load
/// balancer addresses.
pub const POOL_COUNT_MAX: u32 = 23;
/// Least memory of a node with a limit of its own, in MiB.
pub const MEMORY_MIB_MIN: u64 = 256;
/// Most pods on a node: what its range of addresses carries.
pub const PODS_MAX: u32 = 250;
/// Most clusters on one machine.
pub const CLUSTERS_MAX: usize = 200;

impl Cluster {
    /// A new cluster with the lowest index that `existing` leaves free and whose networks are none of those that the
    /// machine reaches already (`reached`: address and length). Where every index meets one of them, as behind a
    /// route to all of `10.0.0.0/8`, the lowest free one is taken, and the cluster's own routes go first.
    pub fn new(name: &str, existing: &[Cluster], reached: &[(Ipv4Addr, u8)]) -> Result<Cluster, SpecError> {
        check_name(name, 40)?;
        let free = (0..CLUSTERS_MAX as u8).filter(|i| existing.iter().all(|c| c.index != *i));
        let is_apart = |i: &u8| {
            let plan = address_plan(*i);
            reached.iter().all(|r| !overlap(*r, plan.node_network) && !overlap(*r, plan.pod_network))
        };
        let index = free
            .clone()
            .find(is_apart)
            .or_else(|| free.clone().next())
            .ok_or(SpecError::Clusters(existing.len()))?;
        Ok(Cluster {
            name: name.to_owned(),
            index,
            version: KUBERNETES_VERSION.to_owned(),
            desired: Desired::Running,
            generation: 1,
            listen: None,
            remote: None,
        })
    }
}

impl NodePool {
    /// A pool of `count` nodes without limits of their own, with the lowest index that `existing` leaves free in
    /// the cluster.
    pub fn new(cluster: &str, name: &str, count: u32, existing: &[NodePool]) -> Result<NodePool, SpecError> {
        let of_cluster = existing.iter().filter(|p| p.cluster == cluster);
        let index = (0..POOLS_MAX as u8)
            .find(|i| of_cluster.clone().all(|p| p.index != *i))
            .ok_or(SpecError::Pools(of_cluster.count()))?;
        let pool = NodePool {
            cluster: cluster.to_owned(),
            name: name.to_owned(),
            index,
            count,
            cpus: 0,
            memory_mib: 0,
            max_pods: max_pods_default(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            stopped: Vec::new(),
            host: None,
        };
        pool.check()?;
        Ok(pool)
    }

    /// Refuses what cannot be run.
    pub fn check(&self) -> Result<(), SpecError> {
        check_name(&self.name, 12)?;
        if self.host.is_some() && self.count > 1 {
            return Err(SpecError::OneHost(self.count));
        }
        if let Some(runtime) = self.foreign_runtime()
            && !runtime.starts_with("cri=unix:///")
        {
            return Err(SpecError::Runtime(runtime.to_owned()));
        }
        if self.count > POOL_COUNT_MAX {
            return Err(SpecError::Count(self.count, POOL_COUNT_MAX));
        }
        if (1..MEMORY_MIB_MIN).contains(&self.memory_mib) {
            return Err(SpecError::Memory(self.memory_mib, MEMORY_MIB_MIN));
        }
        if !(1..=PODS_MAX).contains(&self.max_pods) {
            return Err(SpecError::Pods(self.max_pods, PODS_MAX));
        }
        match self.taints.iter().find(|t| !is_taint(t)) {
            Some(taint) => Err(SpecError::Taint(taint.clone())),
            None => Ok(()),
        }
    }

    /// Whether nodes started for `before` must be told something new to be what this pool asks for.
    pub fn differs_inside(&self, before: &NodePool) -> bool {
        let inside = |p: &NodePool| (p.cpus, p.memory_mib, p.max_pods, p.labels.clone(), p.taints.clone());
        inside(self) != inside(before)
    }

    /// The runtime that its node has instead of Kutter's own. Such a node has no supervisor, and no namespaces of its
    /// own, since the runtime has to see its mounts.
    pub fn foreign_runtime(&self) -> Option<&str> {
        self.host.as_ref()?.runtime.as_deref()
    }

    /// Which member of the pool this node is, stopped or not.
    pub fn ordinal_of(&self, node: &str) -> Option<u32> {
        (0..self.count).find(|ordinal| self.member(*ordinal) == node)
    }

    fn member(&self, ordinal: u32) -> String {
        match &self.host {
            Some(host) => host.node.clone(),
            None => local_node_name(&self.cluster, &self.name, ordinal),
        }
    }

    /// The names of the pool's nodes that shall run.
    pub fn node_names(&self) -> Vec<String> {
        (0..self.count)
            .map(|ordinal| self.member(ordinal))
            .filter(|name| !self.stopped.contains(name))
            .collect()
    }
}

/// `CLUSTER-POOL-ORDINAL`, the name of the Node object and of the local node.
pub fn local_node_name(cluster: &str, pool: &str, ordinal: u32) -> String {
    format!("{cluster}-{pool}-{ordinal}")
}

fn is_taint(text: &str) -> bool {
    let Some((key_value, effect)) = text.rsplit_once(':') else { return false };
    let key = key_value.split('=').next().unwrap_or_default();
    !key.is_empty() && ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect)
}

fn check_name(name: &str, max: usize) -> Result<(), SpecError> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let good = !name.is_empty()
        && name.len() <= max
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if good { Ok(()) } else { Err(SpecError::Name(name.to_owned(), max)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "default", "c-1"] {
            assert!(Cluster::new(good, &[], &[]).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", &"x".repeat(41)] {
            assert!(matches!(Cluster::new(bad, &[], &[]), Err(SpecError::Name(..))), "{bad}");
        }
    }

    #[test]
    fn indexes_are_reused_lowest_first() {
        let a = Cluster::new("a", &[], &[]).unwrap();
        let b = Cluster::new("b", std::slice::from_ref(&a), &[]).unwrap();
        assert_eq!((a.index, b.index), (0, 1));
        assert_eq!(Cluster::new("c", &[b], &[]).unwrap().index, 0);
    }

    #[test]
    fn networks_that_the_machine_reaches_are_left_to_it() {
        let index = |reached: &[(Ipv4Addr, u8)]| Cluster::new("a", &[], reached).unwrap().index;
        assert_eq!(index(&[(Ipv4Addr::new(192, 168, 1, 0), 24)]), 0);
        // The first subnet of a cloud's default network; pods of another distribution.
        assert_eq!(index(&[(Ipv4Addr::new(172, 31, 0, 0), 20)]), 16);
        assert_eq!(index(&[(Ipv4Addr::new(10, 42, 0, 0), 24), (Ipv4Addr::new(172, 31, 1, 7), 32)]), 2);
        assert_eq!(index(&[(Ipv4Addr::new(10, 0, 0, 0), 8)]), 0);
    }

    #[test]
    fn pools_refuse_what_cannot_run() {
        let mut pool = NodePool::new("default", "pool", 3, &[]).unwrap();
        assert_eq!(pool.check(), Ok(()));
        pool.taints = vec!["gpu=true:NoSchedule".into()];
        assert_eq!(pool.check(), Ok(()));
        pool.taints = vec!["gpu".into()];
        assert_eq!(pool.check(), Err(SpecError::Taint("gpu".into())));
        pool.taints.clear();
        pool.memory_mib = 64;
        assert_eq!(pool.check(), Err(SpecError::Memory(64, MEMORY_MIB_MIN)));
        pool.memory_mib = 0;
        pool.max_pods = 0;
        assert_eq!(pool.check(), Err(SpecError::Pods(0, PODS_MAX)));
        pool.max_pods = 30;
        pool.count = POOL_COUNT_MAX + 1;
        assert!(matches!(pool.check(), Err(SpecError::Count(..))));
    }

    #[test]
    fn a_stopped_node_is_not_wanted() {
        let mut pool = NodePool::new("default", "pool", 2, &[]).unwrap();
        pool.stopped.push("default-pool-0".into());
        assert_eq!(pool.node_names(), ["default-pool-1"]);
    }
}
