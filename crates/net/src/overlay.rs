//! Paths to the pods of other nodes: through VXLAN, or by plain routes where the nodes share a network.
//!
//! Nothing is learned from packets: each peer's tunnel end has a hardware address made from the peer's own address,
//! so that what the Node objects say is all a node needs to know.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use netplan::Cidr;

use crate::netlink::{Buffer, NetlinkError, Socket};
use crate::route::{self, Mac, Route, Vxlan};

/// How pods of other nodes are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Through a VXLAN device.
    #[default]
    Overlay,
    /// Through routes to the nodes, which must be neighbours.
    Kubenet,
    /// Somebody else does it.
    None,
}

/// The overlay's settings on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// The way.
    pub mode: Mode,
    /// The node's own address.
    pub node_ip: IpAddr,
    /// Its pods' ranges.
    pub pod_cidrs: Vec<Cidr>,
    /// The UDP port of the tunnel.
    pub port: u16,
    /// Largest packet of pods.
    pub mtu: u32,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Its address.
    pub node_ip: IpAddr,
    /// Its pods' ranges.
    pub pod_cidrs: Vec<Cidr>,
    /// How it is reached when its address is known to its machine only.
    pub outside: Option<Outside>,
}

/// A node that is hidden behind its machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outside {
    /// The machine's address and the UDP port that leads to the node's tunnel.
    pub endpoint: SocketAddr,
    /// The machine's address on the network of its nodes.
    pub gateway: Option<IpAddr>,
}

/// The device's name.
pub const DEVICE: &str = "kutter.vx";
const VNI: u32 = 4711;
/// The UDP port unless told otherwise.
pub const PORT: u16 = 8472;

/// The hardware address of a node's tunnel end.
pub fn vtep_mac(node: IpAddr) -> Mac {
    let h = match node {
        IpAddr::V4(a) => a.octets(),
        IpAddr::V6(a) => a.octets().chunks(4).fold([0; 4], |mut f: [u8; 4], c| {
            f.iter_mut().zip(c).for_each(|(x, y)| *x = x.rotate_left(1) ^ y);
            f
        }),
    };
    [0x0e, 0x4b, h[0], h[1], h[2], h[3]]
}

/// Makes the kernel reach exactly these peers. Without peers there is no device.
pub fn apply(host: &Socket, overlay: &Overlay, peers: &[Peer]) -> Result<(), NetlinkError> {
    match overlay.mode {
        Mode::None => Ok(()),
        Mode::Kubenet => apply_routes(host, peers),
        Mode::Overlay if peers.is_empty() => remove(host),
        Mode::Overlay => apply_vxlan(host, overlay, peers),
    }
}

/// Removes the device, and with it all routes over it.
pub fn remove(host: &Socket) -> Result<(), NetlinkError> {
    let Some(index) = route::index_of(DEVICE) else { return Ok(()) };
    let mut b = Buffer::new();
    route::delete_link(&mut b, index);
    host.call(b)
}

fn apply_routes(host: &Socket, peers: &[Peer]) -> Result<(), NetlinkError> {
    let wanted: Vec<Route> = peers
        .iter()
        .flat_map(|p| p.pod_cidrs.iter().map(|c| Route { to: *c, via: Some(p.node_ip), link: 0 }))
        .collect();
    let mut b = Buffer::new();
    for r in route::routes(host)? {
        let kept = wanted.iter().any(|w| w.to == r.to && w.via == r.via);
        if r.via.is_some() && !kept {
            route::delete_route(&mut b, &r);
        }
    }
    wanted.iter().for_each(|r| route::put_route(&mut b, r));
    host.call(b)
}

fn device(host: &Socket, overlay: &Overlay) -> Result<u32, NetlinkError> {
    let mac = vtep_mac(overlay.node_ip);
    let links = route::links(host)?;
    if let Some(l) = links.iter().find(|l| l.name == DEVICE) {
        if l.mac == Some(mac) && l.mtu == overlay.mtu {
            return Ok(l.index);
        }
        // Made for another address of this node.
        remove(host)?;
    }
    let mut b = Buffer::new();
    route::vxlan(
        &mut b,
        &Vxlan { name: DEVICE, vni: VNI, port: overlay.port, local: overlay.node_ip, mac, mtu: overlay.mtu },
    );
    host.call(b)?;
    route::index_of(DEVICE).ok_or(NetlinkError::Garbled("the overlay device vanished"))
}

fn apply_vxlan(host: &Socket, overlay: &Overlay, peers: &[Peer]) -> Result<(), NetlinkError> {
    let index = device(host, overlay)?;
    let mut routes = BTreeSet::new();
    let mut neighbours = BTreeSet::new();
    let mut forwarding = BTreeSet::new();
    let own = route::addresses(host)?;
    let near = |ip: IpAddr| own.iter().any(|(_, a, length)| Cidr::new(*a, *length).contains(ip));
    let mut behind_it = BTreeSet::new();
    for p in peers {
        let mac = vtep_mac(p.node_ip);
        let direct = SocketAddr::new(p.node_ip, overlay.port);
        forwarding.insert((p.outside.as_ref().map_or(direct, |o| o.endpoint), mac));
        if let (Some(outside), Some(range)) = (&p.outside, p.pod_cidrs.first()) {
            // The node and its machine answer from addresses that lead nowhere here but through the tunnel.
            let hidden = std::iter::once(p.node_ip).chain(outside.gateway).filter(|ip| !near(*ip));
            for ip in hidden.filter(|ip| ip.is_ipv4() == range.first().is_ipv4()) {
                if behind_it.insert(ip) {
                    routes.insert(Route { to: Cidr::host(ip), via: Some(range.first()), link: index });
                }
            }
        }
        for c in &p.pod_cidrs {
            neighbours.insert((c.first(), mac));
            routes.insert(Route { to: *c, via: Some(c.first()), link: index });
        }
    }
    let have: BTreeSet<Route> = route::routes(host)?.into_iter().filter(|r| r.link == index).collect();
    let known: BTreeSet<(IpAddr, Mac)> = route::neighbours(host, index)?.into_iter().collect();
    let behind: BTreeSet<(SocketAddr, Mac)> =
        route::forwarding(host, index, overlay.port)?.into_iter().collect();
    let mut gone = Buffer::new();
    have.difference(&routes).for_each(|r| route::delete_route(&mut gone, r));
    known.difference(&neighbours).for_each(|(ip, mac)| route::delete_neighbour(&mut gone, index, *ip, *mac));
    behind
        .difference(&forwarding)
        .for_each(|(end, mac)| route::delete_forwarding(&mut gone, index, *mac, *end));
    host.run(gone)?;
    let mut b = Buffer::new();
    for c in &overlay.pod_cidrs {
        // What the node itself sends to other nodes' pods comes from here.
        route::add_address(&mut b, index, c.first(), Cidr::host(c.first()).length());
    }
    forwarding.difference(&behind).for_each(|(end, mac)| route::put_forwarding(&mut b, index, *mac, *end));
    neighbours.difference(&known).for_each(|(ip, mac)| route::put_neighbour(&mut b, index, *ip, *mac));
    routes.difference(&have).for_each(|r| route::put_route(&mut b, r));
    host.call(b)
}
