//! Local nodes: network namespaces of this machine that are joined by a bridge per cluster.
//!
//! Everything has a name made from the cluster and the node, so that nothing is remembered and any part can be made
//! again or removed after a crash. What the machine gets is one bridge, one link per node, and one nftables table
//! per cluster; [`destroy_cluster`] removes all of it.
//!
//! ```no_run
//! # fn f() -> Result<(), net::localnode::LocalNodeError> {
//! use net::localnode::{self, ClusterNetwork, NodePlace};
//! let gateway = [172, 31, 0, 1].into();
//! let network = ClusterNetwork { cluster: "default".into(), gateway, length: 24, tunnels: Vec::new() };
//! localnode::ensure_cluster(&network)?;
//! let node = NodePlace { node: "node-1".into(), address: [172, 31, 0, 2].into() };
//! let netns = localnode::ensure_node(&network, &node)?; // give this path to the process that becomes the node
//! localnode::destroy_node("default", "node-1")?;
//! localnode::destroy_cluster("default")?;
//! # drop(netns); Ok(()) }
//! ```
//!
//! All calls block for some milliseconds and act on the calling thread's network namespace: call them from a
//! blocking task of a process that lives in the machine's namespace.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use netplan::ruleset::{
    Chain, Data, DataKind, Element, Field, Hook, KeyBuilder, Part, Proto, Rule, Set, Stmt, Type,
};
use netplan::table::Table;
use netplan::{Cidr, Family};

use crate::netlink::{Buffer, NetlinkError, Socket};
use crate::netns::{self, NetnsError};
use crate::nft::Nft;
use crate::route::{self, Route, VethEnd};
use crate::sysctl;

/// The network of a cluster's local nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterNetwork {
    /// The cluster's name.
    pub cluster: String,
    /// This machine's address on the network.
    pub gateway: Ipv4Addr,
    /// The network's prefix length.
    pub length: u8,
    /// Where other machines reach the tunnels of local nodes.
    pub tunnels: Vec<Tunnel>,
}

/// An address and UDP port of this machine that leads to a local node's tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// Address and port of this machine.
    pub outside: SocketAddrV4,
    /// The local node.
    pub node: Ipv4Addr,
}

/// A node of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlace {
    /// The node's name.
    pub node: String,
    /// Its address.
    pub address: Ipv4Addr,
}

/// The network of a local node could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum LocalNodeError {
    /// The kernel refused something.
    #[error("set up the network of local nodes; it takes CAP_NET_ADMIN")]
    Kernel(#[from] NetlinkError),
    /// A namespace could not be made.
    #[error("set up the network of local nodes; it takes CAP_SYS_ADMIN")]
    Namespace(#[from] NetnsError),
    /// Forwarding could not be switched on.
    #[error("let packets of local nodes pass this machine")]
    Forwarding(#[from] sysctl::SysctlError),
}

const MTU: u32 = 1500;

/// Networks that this machine has routes to, but for default routes.
pub fn reached() -> Result<Vec<Cidr>, LocalNodeError> {
    Ok(route::reached(&Socket::open(libc::NETLINK_ROUTE)?)?)
}

fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// The cluster's bridge.
pub fn bridge_name(cluster: &str) -> String {
    format!("kb{:012x}", hash(cluster) >> 16)
}

/// Whether a link of this machine is some cluster's bridge.
pub fn is_bridge(name: &str) -> bool {
    name.len() == 14 && name.strip_prefix("kb").is_some_and(|h| h.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The machine's end of a node's link.
pub fn link_name(cluster: &str, node: &str) -> String {
    format!("kn{:012x}", hash(&format!("{cluster}/{node}")) >> 16)
}

/// The name of a node's network namespace.
pub fn netns_name(cluster: &str, node: &str) -> String {
    format!("kutter-{cluster}-{node}")
}

/// The path of a node's network namespace.
pub fn netns_path(cluster: &str, node: &str) -> PathBuf {
    Path::new(netns::NAMED).join(netns_name(cluster, node))
}

/// The cluster's nftables table.
pub fn table_name(cluster: &str) -> String {
    format!("kutter-{:012x}", hash(cluster) >> 16)
}

impl ClusterNetwork {
    /// The network's range.
    pub fn range(&self) -> Cidr {
        Cidr::new(IpAddr::V4(self.gateway), self.length)
    }
}

fn index(name: &str) -> Result<u32, NetlinkError> {
    route::index_of(name).ok_or(NetlinkError::Garbled("a link vanished"))
}

/// Makes the cluster's bridge, its address and the rule that lets nodes reach the world. Repeating it is fine.
pub fn ensure_cluster(network: &ClusterNetwork) -> Result<(), LocalNodeError> {
    let socket = Socket::open(libc::NETLINK_ROUTE)?;
    let name = bridge_name(&network.cluster);
    if route::index_of(&name).is_none() {
        let mut b = Buffer::new();
        route::bridge(&mut b, &name, MTU);
        socket.call(b)?;
    }
    let bridge = index(&name)?;
    let mut b = Buffer::new();
    route::set_up(&mut b, bridge);
    route::add_address(&mut b, bridge, IpAddr::V4(network.gateway), network.length);
    socket.call(b)?;
    sysctl::set("net/ipv4/ip_forward", "1")?;
    let mut table = Table::new();
    table.replace([("host".to_owned(), Some(host_part(network)))]);
    Nft::open(&table_name(&network.cluster))?.apply(&table.full())?;
    Ok(())
}

fn host_part(network: &ClusterNetwork) -> Part {
    let range = network.range();
    let rule = Rule(vec![
        Stmt::InCidr { field: Field::Saddr(range.family()), cidr: range, negate: false },
        Stmt::InCidr { field: Field::Daddr(range.family()), cidr: range, negate: true },
        Stmt::Masquerade,
    ]);
    let mut chains = vec![Chain { name: "post-nat".into(), hook: Some(Hook::PostNat), rules: vec![rule] }];
    if network.tunnels.is_empty() {
        return Part { chains, ..Part::default() };
    }
    let (name, family) = ("tunnels", Family::V4);
    let (ip, key) = (Type::Ip(family), vec![Field::Daddr(family), Field::Dport]);
    let udp = vec![Stmt::IsFamily(family), Stmt::IsProto(Proto::Udp)];
    let lead = Rule(udp.into_iter().chain([Stmt::DnatMap { family, key, set: name.into() }]).collect());
    chains.push(Chain { name: "pre-nat".into(), hook: Some(Hook::PreNat), rules: vec![lead] });
    let set = Set {
        name: name.into(),
        key: vec![ip, Type::Port],
        data: DataKind::Value(vec![ip, Type::Port]),
        interval: false,
        dynamic: false,
    };
    let register = |address: Ipv4Addr, port| KeyBuilder::new().ip(IpAddr::V4(address)).port(port).done();
    let element = |t: &Tunnel| Element {
        set: name.into(),
        key: register(*t.outside.ip(), t.outside.port()),
        end: None,
        data: Data::Value(register(t.node, crate::overlay::PORT)),
    };
    Part { sets: vec![set], chains, elements: network.tunnels.iter().map(element).collect() }
}

/// Makes a node's namespace with its link to the bridge, its address as `eth0` and a default route. Gives the
/// namespace's path. Repeating it is fine and disturbs no running node.
pub fn ensure_node(network: &ClusterNetwork, node: &NodePlace) -> Result<PathBuf, LocalNodeError> {
    let path = netns::create(&netns_name(&network.cluster, &node.node))?;
    let name = link_name(&network.cluster, &node.node);
    let socket = Socket::open(libc::NETLINK_ROUTE)?;
    let connected = netns::run_in(&path, || route::index_of("eth0").is_some())?;
    if !connected {
        if let Some(stale) = route::index_of(&name) {
            let mut b = Buffer::new();
            route::delete_link(&mut b, stale);
            socket.call(b)?;
        }
        let file = File::open(&path).map_err(NetlinkError::Socket)?;
        let mut b = Buffer::new();
        let near = VethEnd { name: &name, mac: None, netns: None };
        let far = VethEnd { name: "eth0", mac: None, netns: Some(file.as_raw_fd()) };
        route::veth(&mut b, &near, &far, MTU);
        socket.call(b)?;
    }
    let mut b = Buffer::new();
    route::set_master(&mut b, index(&name)?, index(&bridge_name(&network.cluster))?);
    socket.call(b)?;
    netns::run_in(&path, || {
        let socket = Socket::open(libc::NETLINK_ROUTE)?;
        let eth0 = index("eth0")?;
        let mut b = Buffer::new();
        route::set_up(&mut b, 1);
        route::set_up(&mut b, eth0);
        route::add_address(&mut b, eth0, IpAddr::V4(node.address), network.length);
        let world = Cidr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        route::put_route(&mut b, &Route { to: world, via: Some(IpAddr::V4(network.gateway)), link: eth0 });
        socket.call(b)
    })??;
    Ok(path)
}

/// Makes this machine's route to the pods of a node, over which the API server reaches them. It goes with the node.
pub fn route_pods(cluster: &str, node: Ipv4Addr, pods: (Ipv4Addr, u8)) -> Result<(), LocalNodeError> {
    let link = index(&bridge_name(cluster))?;
    let mut b = Buffer::new();
    let to = Cidr::new(IpAddr::V4(pods.0), pods.1);
    route::put_route(&mut b, &Route { to, via: Some(IpAddr::V4(node)), link });
    Ok(Socket::open(libc::NETLINK_ROUTE)?.call(b)?)
}

/// Removes the routes that [`route_pods`] made for a node.
fn forget_pods(cluster: &str, node: &str) -> Result<(), LocalNodeError> {
    let path = netns_path(cluster, node);
    if !netns::is_namespace(&path) {
        return Ok(());
    }
    let own = netns::run_in(&path, || route::addresses(&Socket::open(libc::NETLINK_ROUTE)?))??;
    let socket = Socket::open(libc::NETLINK_ROUTE)?;
    let mut b = Buffer::new();
    let stale = route::routes(&socket)?;
    let stale: Vec<_> = stale.iter().filter(|r| own.iter().any(|(_, ip, _)| r.via == Some(*ip))).collect();
    if stale.is_empty() {
        return Ok(());
    }
    for r in stale {
        route::delete_route(&mut b, r);
    }
    Ok(socket.call(b)?)
}

/// Removes a node's namespace and link. A node that does not exist is fine. Processes in the namespace keep it
/// alive without a name: end them first.
pub fn destroy_node(cluster: &str, node: &str) -> Result<(), LocalNodeError> {
    forget_pods(cluster, node)?;
    if let Some(link) = route::index_of(&link_name(cluster, node)) {
        let mut b = Buffer::new();
        route::delete_link(&mut b, link);
        match Socket::open(libc::NETLINK_ROUTE)?.call(b) {
            Err(e) if !e.missing() => return Err(e.into()),
            _ => {}
        }
    }
    netns::remove(&netns_name(cluster, node))?;
    Ok(())
}

/// Removes everything of a cluster on this machine: remaining nodes, the bridge and the table.
pub fn destroy_cluster(cluster: &str) -> Result<(), LocalNodeError> {
    for node in nodes(cluster) {
        destroy_node(cluster, &node)?;
    }
    if let Some(bridge) = route::index_of(&bridge_name(cluster)) {
        let mut b = Buffer::new();
        route::delete_link(&mut b, bridge);
        Socket::open(libc::NETLINK_ROUTE)?.call(b)?;
    }
    Nft::open(&table_name(cluster))?.remove()?;
    Ok(())
}

/// The nodes of a cluster that have a namespace and a link on this machine.
pub fn nodes(cluster: &str) -> Vec<String> {
    let prefix = format!("kutter-{cluster}-");
    let entries = std::fs::read_dir(netns::NAMED).into_iter().flatten().flatten();
    let mut found: Vec<String> = entries
        .filter_map(|e| e.file_name().to_str()?.strip_prefix(&prefix).map(str::to_owned))
        // A cluster's name may begin like another's: the link tells whose node it is.
        .filter(|n| route::index_of(&link_name(cluster, n)).is_some())
        .collect();
    found.sort();
    found
}
