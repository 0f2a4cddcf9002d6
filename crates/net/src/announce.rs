//! Load balancer addresses that this node answers for: addresses of the link that faces the other machines.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netplan::Cidr;

use crate::netlink::{Buffer, NetlinkError, Socket};
use crate::route;

/// Makes the addresses of `pool` that the node has exactly `wanted`; they sit on the link that has `node_ip`, or on
/// the loopback one. Neighbours of new addresses are told at once. Gives the new ones.
pub fn apply(
    host: &Socket,
    pool: &Cidr,
    wanted: &BTreeSet<IpAddr>,
    node_ip: IpAddr,
) -> Result<Vec<IpAddr>, NetlinkError> {
    let all = route::addresses(host)?;
    let link = all.iter().find(|(_, ip, _)| *ip == node_ip).map_or(1, |(link, _, _)| *link);
    let full = |ip: IpAddr| Cidr::host(ip).length();
    let have: Vec<&(u32, IpAddr, u8)> = all
        .iter()
        .filter(|(_, ip, length)| pool.contains(*ip) && *length == full(*ip) && *ip != node_ip)
        .collect();
    let mut b = Buffer::new();
    for (at, ip, length) in &have {
        if !wanted.contains(ip) || *at != link {
            route::delete_address(&mut b, *at, *ip, *length);
        }
    }
    let fresh: Vec<IpAddr> =
        wanted.iter().copied().filter(|ip| !have.iter().any(|(at, h, _)| h == ip && *at == link)).collect();
    fresh.iter().for_each(|ip| route::add_address(&mut b, link, *ip, full(*ip)));
    host.call(b)?;
    for ip in &fresh {
        if let Err(error) = gratuitous(link, *ip) {
            tracing::debug!(%ip, %error, "neighbours could not be told of an address");
        }
    }
    Ok(fresh)
}

/// Broadcasts that an IPv4 address is here, so that neighbours forget where it was.
fn gratuitous(link: u32, ip: IpAddr) -> std::io::Result<()> {
    use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, sendto, socket};
    use std::os::fd::AsRawFd;
    let IpAddr::V4(ip) = ip else { return Ok(()) };
    let Some(mac) = mac_of(link) else { return Ok(()) };
    let arp = u16::to_be(libc::ETH_P_ARP as u16);
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1];
    packet.extend(mac);
    packet.extend(ip.octets());
    packet.extend([0; 6]);
    packet.extend(ip.octets());
    let fd = socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let raw = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: arp,
        sll_ifindex: i32::try_from(link).unwrap_or_default(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
    };
    // SAFETY: `raw` is a whole sockaddr_ll and the length is its own; the family says what it is.
    let to = unsafe {
        <nix::sys::socket::LinkAddr as nix::sys::socket::SockaddrLike>::from_raw(
            (&raw const raw).cast(),
            Some(size_of::<libc::sockaddr_ll>() as u32),
        )
    };
    if let Some(to) = to {
        sendto(fd.as_raw_fd(), &packet, &to, MsgFlags::empty())?;
    }
    Ok(())
}

fn mac_of(link: u32) -> Option<route::Mac> {
    let socket = Socket::open(libc::NETLINK_ROUTE).ok()?;
    route::links(&socket).ok()?.into_iter().find(|l| l.index == link)?.mac.filter(|m| *m != [0; 6])
}
