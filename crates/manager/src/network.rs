//! Networks of clusters and their local nodes: the blocking calls of `net::localnode`, off the runtime's thread.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use fleet::AddressPlan;
use net::localnode::{self, ClusterNetwork, LocalNodeError, NodePlace, Tunnel};
use netplan::Cidr;

use crate::ManagerError;
use crate::engine::chain;

/// Makes the cluster's bridge with this machine's address on it, unless it is there, and leads tunnels of other
/// machines to local nodes.
pub async fn ensure_cluster(
    cluster: &str,
    plan: &AddressPlan,
    tunnels: Vec<Tunnel>,
) -> Result<(), ManagerError> {
    let network = ClusterNetwork { tunnels, ..cluster_network(cluster, plan) };
    blocking(cluster, move || localnode::ensure_cluster(&network)).await
}

/// Makes the node's network namespace and link, unless they are there; gives the namespace's path.
pub async fn ensure_node(
    cluster: &str,
    plan: &AddressPlan,
    node: &str,
    address: Ipv4Addr,
) -> Result<PathBuf, ManagerError> {
    let network = cluster_network(cluster, plan);
    let place = NodePlace { node: node.to_owned(), address };
    blocking(node, move || localnode::ensure_node(&network, &place)).await
}

/// Makes this machine's route to the pods of a node.
pub async fn route_pods(cluster: &str, node: Ipv4Addr, pods: (Ipv4Addr, u8)) -> Result<(), ManagerError> {
    let name = cluster.to_owned();
    blocking(cluster, move || localnode::route_pods(&name, node, pods)).await
}

/// The IPv4 networks that this machine has routes to, but for the default route.
pub async fn reached() -> Result<Vec<(Ipv4Addr, u8)>, ManagerError> {
    let routes = blocking("this machine", localnode::reached).await?;
    Ok(routes
        .into_iter()
        .filter_map(|r| match r.first() {
            IpAddr::V4(address) => Some((address, r.length())),
            IpAddr::V6(_) => None,
        })
        .collect())
}

/// Removes what [`ensure_node`] made.
pub async fn remove_node(cluster: &str, node: &str) -> Result<(), ManagerError> {
    let (cluster, name) = (cluster.to_owned(), node.to_owned());
    blocking(node, move || localnode::destroy_node(&cluster, &name)).await
}

/// Removes what a node made in this machine's own network.
pub async fn clear_host(balancers: Option<Cidr>) -> Result<(), ManagerError> {
    let pools: Vec<Cidr> = balancers.into_iter().collect();
    blocking("this machine's node", move || Ok(net::cleanup::node(&pools)?)).await
}

/// Removes what [`ensure_cluster`] made, and whatever is left of its nodes.
pub async fn remove_cluster(cluster: &str) -> Result<(), ManagerError> {
    let name = cluster.to_owned();
    blocking(cluster, move || localnode::destroy_cluster(&name)).await
}

fn cluster_network(cluster: &str, plan: &AddressPlan) -> ClusterNetwork {
    let (cluster, gateway) = (cluster.to_owned(), plan.gateway);
    ClusterNetwork { cluster, gateway, length: plan.node_network.1, tunnels: Vec::new() }
}

async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> Result<T, LocalNodeError> + Send + 'static,
) -> Result<T, ManagerError> {
    let failed = |why: String| ManagerError::Network { what: what.to_owned(), why };
    let done = tokio::task::spawn_blocking(work).await.map_err(|e| failed(e.to_string()))?;
    done.map_err(|e| failed(chain(&e)))
}
