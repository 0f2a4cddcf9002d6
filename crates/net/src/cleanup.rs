//! Leaving no trace: removes everything that a node's network made in its network namespace.

use std::net::{IpAddr, Ipv4Addr};

use netplan::Cidr;

use crate::netlink::{Buffer, NetlinkError, Socket};
use crate::nft::{NODE_TABLE, Nft};
use crate::{localnode, overlay, pod, route};

/// The address of the node's DNS server; it never leaves the node.
pub const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// Removes the rule table, pods' links, the overlay, our routes, the DNS server's address and the load balancer
/// addresses of `pools`, in the calling thread's network namespace. To be called when no node runs there any more;
/// not needed for namespaces that are removed themselves. What is missing is fine.
pub fn node(pools: &[Cidr]) -> Result<(), NetlinkError> {
    Nft::open(NODE_TABLE)?.remove()?;
    let socket = Socket::open(libc::NETLINK_ROUTE)?;
    overlay::remove(&socket)?;
    let mut b = Buffer::new();
    for l in route::links(&socket)?.iter().filter(|l| pod::is_pod_link(&l.name)) {
        route::delete_link(&mut b, l.index);
    }
    socket.run(b)?;
    let mut b = Buffer::new();
    // Routes to local nodes of this machine's clusters are not those of a node.
    let bridges: Vec<u32> =
        route::links(&socket)?.iter().filter(|l| localnode::is_bridge(&l.name)).map(|l| l.index).collect();
    for r in route::routes(&socket)?.into_iter().filter(|r| !bridges.contains(&r.link)) {
        route::delete_route(&mut b, &r);
    }
    for (link, ip, length) in route::addresses(&socket)? {
        let ours = ip == IpAddr::V4(DNS_ADDRESS) || pools.iter().any(|p| p.contains(ip));
        if ours && length == Cidr::host(ip).length() {
            route::delete_address(&mut b, link, ip, length);
        }
    }
    socket.run(b)?.into_iter().find(|e| !e.missing()).map_or(Ok(()), Err)
}
