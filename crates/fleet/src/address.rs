//! Which addresses and ports a cluster has on this machine: all derived from its index, so that nothing is
//! remembered and two clusters never meet.

use std::net::{Ipv4Addr, SocketAddr};

use crate::spec::{NodePool, POOL_COUNT_MAX};

/// The addresses of one cluster. Networks are `(address, prefix length)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressPlan {
    /// The network that joins this machine and the cluster's local nodes.
    pub node_network: (Ipv4Addr, u8),
    /// This machine's address on it, where the API server listens besides loopback.
    pub gateway: Ipv4Addr,
    /// Pod addresses; every node gets a /24 of it.
    pub pod_network: (Ipv4Addr, u8),
    /// Service addresses.
    pub service_network: (Ipv4Addr, u8),
    /// Addresses for Services of type LoadBalancer, reachable from this machine.
    pub load_balancer_network: (Ipv4Addr, u8),
    /// The API server on loopback.
    pub api: SocketAddr,
}

/// Port of the first cluster's API server.
const API_PORT_BASE: u16 = 6443;

/// UDP port of this machine that leads to the tunnel of the first cluster's first address.
const TUNNEL_PORT_BASE: u32 = 18_000;
/// Addresses of local nodes that a cluster may have.
const TUNNEL_PORTS: u32 = 192;

/// The addresses of the cluster with this index.
///
/// Nodes are in `172.31.INDEX.0/24` with load balancers in its upper `/26`, pods in a `10.x.0.0/16` of the
/// cluster's own, services in `10.96.0.0/16` for every cluster (they never leave a node).
pub fn address_plan(index: u8) -> AddressPlan {
    AddressPlan {
        node_network: (Ipv4Addr::new(172, 31, index, 0), 24),
        gateway: Ipv4Addr::new(172, 31, index, 1),
        pod_network: (Ipv4Addr::new(10, pod_octet(index), 0, 0), 16),
        service_network: (Ipv4Addr::new(10, 96, 0, 0), 16),
        load_balancer_network: (Ipv4Addr::new(172, 31, index, 192), 26),
        api: SocketAddr::from((Ipv4Addr::LOCALHOST, API_PORT_BASE + u16::from(index))),
    }
}

impl AddressPlan {
    /// The address of a member of a node pool.
    pub fn node(&self, pool: &NodePool, ordinal: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.node_network.0) + 2 + u32::from(pool.index) * POOL_COUNT_MAX + ordinal)
    }

    /// The UDP port of this machine behind which other machines reach the tunnel of a member, for each member of each
    /// cluster another one. The last clusters of a machine have none: their ports would be those of its own programs.
    pub fn tunnel_port(&self, pool: &NodePool, ordinal: u32) -> Option<u16> {
        let host = u32::from(self.node(pool, ordinal)) & 0xff;
        let index = u32::from(self.node_network.0.octets()[2]);
        let port = TUNNEL_PORT_BASE + index * TUNNEL_PORTS + host;
        (port < 32_768).then(|| u16::try_from(port).ok()).flatten()
    }

    /// The pod addresses of a member of a node pool: a /24 of the cluster's pod network.
    pub fn node_pods(&self, pool: &NodePool, ordinal: u32) -> (Ipv4Addr, u8) {
        let member = 1 + u32::from(pool.index) * POOL_COUNT_MAX + ordinal;
        (Ipv4Addr::from(u32::from(self.pod_network.0) + (member << 8)), 24)
    }
}

/// Whether two networks (address and length) have an address in common.
pub(crate) fn overlap(a: (Ipv4Addr, u8), b: (Ipv4Addr, u8)) -> bool {
    let common = u32::from(a.1.min(b.1).min(32));
    let differ = u32::from(a.0) ^ u32::from(b.0);
    differ.checked_shr(32 - common).unwrap_or(0) == 0
}

/// The second octet of the pod network: 10.0 to 10.255 without 10.96, which services use.
fn pod_octet(index: u8) -> u8 {
    let octet = 42u8.wrapping_add(index);
    if (42..96).contains(&octet) { octet } else { octet.wrapping_add(1) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::spec::{CLUSTERS_MAX, POOLS_MAX};

    #[test]
    fn nodes_of_all_pools_stay_below_the_load_balancers() {
        let plan = address_plan(3);
        let mut pool = NodePool::new("c", "p", 1, &[]).unwrap();
        assert_eq!(plan.node(&pool, 0), Ipv4Addr::new(172, 31, 3, 2));
        pool.index = POOLS_MAX as u8 - 1;
        assert!(plan.node(&pool, POOL_COUNT_MAX - 1) < plan.load_balancer_network.0);
    }

    #[test]
    fn tunnels_have_ports_of_their_own() {
        let pool = |index| NodePool { index, ..NodePool::new("c", "p", POOL_COUNT_MAX, &[]).unwrap() };
        let mut seen = BTreeSet::new();
        for cluster in 0..CLUSTERS_MAX as u8 {
            for index in 0..POOLS_MAX as u8 {
                for ordinal in 0..POOL_COUNT_MAX {
                    let port = address_plan(cluster).tunnel_port(&pool(index), ordinal);
                    assert!(port.is_none_or(|p| seen.insert(p)), "{port:?}");
                }
            }
        }
        assert_eq!(address_plan(0).tunnel_port(&pool(0), 0), Some(18_002));
        assert!(seen.len() > 10_000 && *seen.last().unwrap() < 32_768);
    }

    #[test]
    fn no_two_clusters_share_an_address() {
        let plans: Vec<AddressPlan> = (0..CLUSTERS_MAX as u8).map(address_plan).collect();
        let distinct = |f: fn(&AddressPlan) -> String| plans.iter().map(f).collect::<BTreeSet<_>>().len();
        assert_eq!(distinct(|p| p.node_network.0.to_string()), CLUSTERS_MAX);
        assert_eq!(distinct(|p| p.pod_network.0.to_string()), CLUSTERS_MAX);
        assert_eq!(distinct(|p| p.api.to_string()), CLUSTERS_MAX);
        assert!(plans.iter().all(|p| p.pod_network.0 != p.service_network.0));
    }
}
