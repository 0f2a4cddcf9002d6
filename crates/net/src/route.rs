//! Links, addresses, routes and neighbours: each function writes one request of rtnetlink.

use std::net::{IpAddr, SocketAddr};

use netplan::Cidr;

use crate::netlink::{Buffer, NetlinkError, Socket, attributes, flags};

/// A hardware address.
pub type Mac = [u8; 6];

/// Marks our routes, so that we know them again and touch no others.
pub const PROTOCOL: u8 = 75;

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const GETROUTE: u16 = 26;
const NEWNEIGH: u16 = 28;
const DELNEIGH: u16 = 29;
const GETNEIGH: u16 = 30;
const NEWQDISC: u16 = 36;

const CREATE: u16 = flags::CREATE | flags::EXCL;
const PUT: u16 = flags::CREATE | flags::REPLACE;

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

fn address(b: &mut Buffer, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(a) => b.bytes(kind, &a.octets()),
        IpAddr::V6(a) => b.bytes(kind, &a.octets()),
    }
}

fn link_header(index: u32, up: bool) -> [u8; 16] {
    let mut h = [0; 16];
    h[4..8].copy_from_slice(&index.to_ne_bytes());
    if up {
        h[8..12].copy_from_slice(&1_u32.to_ne_bytes());
        h[12..16].copy_from_slice(&1_u32.to_ne_bytes());
    }
    h
}

/// One end of a veth pair.
#[derive(Debug, Clone, Copy)]
pub struct VethEnd<'a> {
    /// The interface's name.
    pub name: &'a str,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// An open descriptor of the namespace it goes to; the socket's own when absent.
    pub netns: Option<i32>,
}

fn veth_end(b: &mut Buffer, end: &VethEnd<'_>, mtu: u32) {
    b.text(3, end.name);
    b.u32(4, mtu);
    if let Some(mac) = end.mac {
        b.bytes(1, &mac);
    }
    if let Some(fd) = end.netns {
        b.bytes(28, &fd.to_ne_bytes());
    }
}

/// Creates a veth pair, the near end up. (The kernel makes the far end first and cannot open it without its peer.)
pub fn veth(b: &mut Buffer, near: &VethEnd<'_>, far: &VethEnd<'_>, mtu: u32) {
    b.message(NEWLINK, CREATE, &link_header(0, true), format!("create the link {}", near.name));
    veth_end(b, near, mtu);
    let info = b.nest(18);
    b.bytes(1, b"veth");
    let data = b.nest(2);
    let peer = b.nest(1);
    b.raw(&link_header(0, false));
    veth_end(b, far, mtu);
    b.end(peer);
    b.end(data);
    b.end(info);
}

/// Creates a bridge that is up.
pub fn bridge(b: &mut Buffer, name: &str, mtu: u32) {
    b.message(NEWLINK, CREATE, &link_header(0, true), format!("create the bridge {name}"));
    b.text(3, name);
    b.u32(4, mtu);
    let info = b.nest(18);
    b.bytes(1, b"bridge");
    b.end(info);
}

/// A VXLAN device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vxlan<'a> {
    /// The interface's name.
    pub name: &'a str,
    /// The network's number.
    pub vni: u32,
    /// The UDP port.
    pub port: u16,
    /// The node's address.
    pub local: IpAddr,
    /// The tunnel end's hardware address.
    pub mac: Mac,
    /// Largest packet inside.
    pub mtu: u32,
}

/// Creates a VXLAN device that is up and learns nothing.
pub fn vxlan(b: &mut Buffer, v: &Vxlan<'_>) {
    b.message(NEWLINK, CREATE, &link_header(0, true), format!("create the overlay device {}", v.name));
    b.text(3, v.name);
    b.u32(4, v.mtu);
    b.bytes(1, &v.mac);
    let info = b.nest(18);
    b.bytes(1, b"vxlan");
    let data = b.nest(2);
    b.u32(1, v.vni);
    address(b, if v.local.is_ipv4() { 4 } else { 17 }, v.local);
    b.bytes(7, &[0]);
    // No checksum around packets that have one inside: address translation on the way to a node that is hidden behind
    // its machine gets it wrong when the inner one is still to be filled in by the device.
    b.bytes(18, &[0]);
    b.bytes(15, &v.port.to_be_bytes());
    b.end(data);
    b.end(info);
}

/// Makes `link` a port of the bridge `master`.
pub fn set_master(b: &mut Buffer, link: u32, master: u32) {
    b.message(NEWLINK, 0, &link_header(link, false), format!("put link {link} on bridge {master}"));
    b.u32(10, master);
}

/// Sets a link up.
pub fn set_up(b: &mut Buffer, link: u32) {
    b.message(NEWLINK, 0, &link_header(link, true), format!("set link {link} up"));
}

/// Deletes a link.
pub fn delete_link(b: &mut Buffer, link: u32) {
    b.message(DELLINK, 0, &link_header(link, false), format!("delete link {link}"));
}

/// Adds an address with a prefix length; one that exists is kept.
pub fn add_address(b: &mut Buffer, link: u32, ip: IpAddr, length: u8) {
    // No duplicate address detection: addresses are allocated, and waiting for it would delay the pod.
    let mut h = vec![family(ip), length, if ip.is_ipv6() { 2 } else { 0 }, 0];
    h.extend(link.to_ne_bytes());
    b.message(NEWADDR, PUT, &h, format!("add the address {ip}/{length} to link {link}"));
    address(b, 2, ip);
    address(b, 1, ip);
}

/// Removes an address.
pub fn delete_address(b: &mut Buffer, link: u32, ip: IpAddr, length: u8) {
    let mut h = vec![family(ip), length, 0, 0];
    h.extend(link.to_ne_bytes());
    b.message(DELADDR, 0, &h, format!("remove the address {ip}/{length} from link {link}"));
    address(b, 2, ip);
    address(b, 1, ip);
}

/// The addresses of all links: link, address, prefix length.
pub fn addresses(socket: &Socket) -> Result<Vec<(u32, IpAddr, u8)>, NetlinkError> {
    let mut b = Buffer::new();
    b.message(GETADDR, 0, &[0; 8], "list addresses");
    let mut out = Vec::new();
    socket.dump(b, |_, body| {
        let Some((head, rest)) = body.split_first_chunk::<8>() else { return };
        let link = u32::from_ne_bytes([head[4], head[5], head[6], head[7]]);
        let (mut local, mut any) = (None, None);
        for (kind, value) in attributes(rest) {
            match kind {
                1 => any = read_address(value),
                2 => local = read_address(value),
                _ => {}
            }
        }
        out.extend(local.or(any).map(|ip| (link, ip, head[1])));
    })?;
    Ok(out)
}

/// A route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Where to.
    pub to: Cidr,
    /// The next hop; on the link itself when absent.
    pub via: Option<IpAddr>,
    /// The link's index; 0 leaves it to the next hop.
    pub link: u32,
}

fn route_message(b: &mut Buffer, kind: u16, flags: u16, r: &Route, verb: &str) {
    let scope = if r.via.is_some() || r.to.first().is_ipv6() { 0 } else { 253 };
    let mut h = vec![family(r.to.first()), r.to.length(), 0, 0, 254, PROTOCOL, scope, 1];
    // On a given link, the next hop need not be in one of its subnets.
    h.extend(if r.via.is_some() && r.link != 0 { 4_u32 } else { 0 }.to_ne_bytes());
    b.message(kind, flags, &h, format!("{verb} the route to {}", r.to));
    if r.to.length() > 0 {
        address(b, 1, r.to.first());
    }
    if r.link != 0 {
        b.u32(4, r.link);
    }
    if let Some(via) = r.via {
        address(b, 5, via);
    }
}

/// Adds or replaces a route.
pub fn put_route(b: &mut Buffer, r: &Route) {
    route_message(b, NEWROUTE, PUT, r, "put");
}

/// Deletes a route.
pub fn delete_route(b: &mut Buffer, r: &Route) {
    route_message(b, DELROUTE, 0, r, "delete");
}

fn neighbour_message(b: &mut Buffer, kind: u16, family: u8, link: u32, ip: IpAddr, mac: Mac) {
    let bridge = family == libc::AF_BRIDGE as u8;
    let mut h = vec![family, 0, 0, 0];
    h.extend(link.to_ne_bytes());
    h.extend(0x80_u16.to_ne_bytes());
    h.extend([if bridge { 2 } else { 0 }, 0]);
    let flags = if kind == NEWNEIGH { PUT } else { 0 };
    b.message(kind, flags, &h, format!("set the neighbour {ip} on link {link}"));
    address(b, 1, ip);
    b.bytes(2, &mac);
}

/// Sets the permanent hardware address of a neighbour.
pub fn put_neighbour(b: &mut Buffer, link: u32, ip: IpAddr, mac: Mac) {
    neighbour_message(b, NEWNEIGH, family(ip), link, ip, mac);
}

/// Forgets a neighbour.
pub fn delete_neighbour(b: &mut Buffer, link: u32, ip: IpAddr, mac: Mac) {
    neighbour_message(b, DELNEIGH, family(ip), link, ip, mac);
}

/// Says behind which node, and which UDP port of it, a hardware address of the overlay is.
pub fn put_forwarding(b: &mut Buffer, link: u32, mac: Mac, end: SocketAddr) {
    neighbour_message(b, NEWNEIGH, libc::AF_BRIDGE as u8, link, end.ip(), mac);
    b.bytes(6, &end.port().to_be_bytes());
}

/// Forgets it.
pub fn delete_forwarding(b: &mut Buffer, link: u32, mac: Mac, end: SocketAddr) {
    neighbour_message(b, DELNEIGH, libc::AF_BRIDGE as u8, link, end.ip(), mac);
    b.bytes(6, &end.port().to_be_bytes());
}

/// Limits what leaves a link to `bytes_per_s`, with a token bucket.
pub fn limit(b: &mut Buffer, link: u32, bytes_per_s: u64) {
    let mut h = vec![0; 4];
    h.extend(link.to_ne_bytes());
    h.extend(0x0001_0000_u32.to_ne_bytes());
    h.extend(0xffff_ffff_u32.to_ne_bytes());
    h.extend(0_u32.to_ne_bytes());
    b.message(NEWQDISC, PUT, &h, format!("limit the bandwidth of link {link}"));
    b.text(1, "tbf");
    let options = b.nest(2);
    // The bucket holds 50 ms, at least a few full packets (with segmentation offload they come in 64 KiB pieces).
    let burst = u32::try_from((bytes_per_s / 20).clamp(128 * 1024, 16 << 20)).unwrap_or(u32::MAX);
    let rate = u32::try_from(bytes_per_s).unwrap_or(u32::MAX);
    let mut parameters = rate_spec(rate);
    parameters.extend(rate_spec(0));
    parameters.extend((burst.saturating_mul(4)).to_ne_bytes());
    parameters.extend(transmit_ticks(burst, bytes_per_s).to_ne_bytes());
    parameters.extend(0_u32.to_ne_bytes());
    b.bytes(1, &parameters);
    b.bytes(4, &bytes_per_s.to_ne_bytes());
    b.u32(6, burst);
    b.end(options);
}

/// `struct tc_ratespec`: linkage by Ethernet; the rate tables are obsolete.
fn rate_spec(rate: u32) -> Vec<u8> {
    let mut out = vec![0, if rate == 0 { 0 } else { 1 }, 0, 0, 0, 0, 0, 0];
    out.extend(rate.to_ne_bytes());
    out
}

/// Time to send `bytes`, in the kernel's packet scheduler ticks of 64 ns.
fn transmit_ticks(bytes: u32, bytes_per_s: u64) -> u32 {
    let ns = u64::from(bytes) * 1_000_000_000 / bytes_per_s.max(1);
    u32::try_from(ns / 64).unwrap_or(u32::MAX)
}

/// The index of a link of the current thread's namespace, by name.
pub fn index_of(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

/// A link as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkInfo {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// Largest packet.
    pub mtu: u32,
}

/// All links.
pub fn links(socket: &Socket) -> Result<Vec<LinkInfo>, NetlinkError> {
    let mut b = Buffer::new();
    b.message(GETLINK, 0, &link_header(0, false), "list links");
    let mut out = Vec::new();
    socket.dump(b, |_, body| {
        let Some((head, rest)) = body.split_first_chunk::<16>() else { return };
        let index = u32::from_ne_bytes([head[4], head[5], head[6], head[7]]);
        let mut link = LinkInfo { index, name: String::new(), mac: None, mtu: 0 };
        for (kind, value) in attributes(rest) {
            match kind {
                1 => link.mac = value.try_into().ok(),
                3 => link.name = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned(),
                4 => link.mtu = value.try_into().map(u32::from_ne_bytes).unwrap_or_default(),
                _ => {}
            }
        }
        out.push(link);
    })?;
    Ok(out)
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Our routes.
pub fn routes(socket: &Socket) -> Result<Vec<Route>, NetlinkError> {
    routes_that(socket, |head| head[5] == PROTOCOL)
}

/// Where the main table leads, but for default routes.
pub fn reached(socket: &Socket) -> Result<Vec<Cidr>, NetlinkError> {
    let routes = routes_that(socket, |head| head[4] == libc::RT_TABLE_MAIN)?;
    Ok(routes.into_iter().map(|r| r.to).filter(|to| to.length() > 0).collect())
}

/// The routes whose header (`struct rtmsg` of rtnetlink(7)) is wanted.
fn routes_that(socket: &Socket, wanted: fn(&[u8; 12]) -> bool) -> Result<Vec<Route>, NetlinkError> {
    let mut b = Buffer::new();
    b.message(GETROUTE, 0, &[0; 12], "list routes");
    let mut out = Vec::new();
    socket.dump(b, |_, body| {
        let Some((head, rest)) = body.split_first_chunk::<12>() else { return };
        if !wanted(head) {
            return;
        }
        let (mut to, mut via, mut link) = (None, None, 0);
        for (kind, value) in attributes(rest) {
            match kind {
                1 => to = read_address(value),
                4 => link = value.try_into().map(u32::from_ne_bytes).unwrap_or_default(),
                5 => via = read_address(value),
                _ => {}
            }
        }
        if let Some(to) = to {
            out.push(Route { to: Cidr::new(to, head[1]), via, link });
        }
    })?;
    Ok(out)
}

/// Permanent neighbours of a link: address and hardware address.
pub fn neighbours(socket: &Socket, link: u32) -> Result<Vec<(IpAddr, Mac)>, NetlinkError> {
    let all = neighbour_entries(socket, link, 0)?;
    Ok(all.into_iter().map(|(ip, _, mac)| (ip, mac)).collect())
}

/// The forwarding table of the overlay's link; an entry without a port of its own has `port`.
pub fn forwarding(socket: &Socket, link: u32, port: u16) -> Result<Vec<(SocketAddr, Mac)>, NetlinkError> {
    let all = neighbour_entries(socket, link, libc::AF_BRIDGE as u8)?;
    Ok(all.into_iter().map(|(ip, own, mac)| (SocketAddr::new(ip, own.unwrap_or(port)), mac)).collect())
}

fn neighbour_entries(
    socket: &Socket,
    link: u32,
    family: u8,
) -> Result<Vec<(IpAddr, Option<u16>, Mac)>, NetlinkError> {
    let mut b = Buffer::new();
    let mut h = vec![family, 0, 0, 0];
    h.extend([0; 8]);
    b.message(GETNEIGH, 0, &h, "list neighbours");
    let mut out = Vec::new();
    socket.dump(b, |_, body| {
        let Some((head, rest)) = body.split_first_chunk::<12>() else { return };
        let index = u32::from_ne_bytes([head[4], head[5], head[6], head[7]]);
        let state = u16::from_ne_bytes([head[8], head[9]]);
        if index != link || state & 0x80 == 0 {
            return;
        }
        let (mut ip, mut mac, mut port) = (None, None, None);
        for (kind, value) in attributes(rest) {
            match kind {
                1 => ip = read_address(value),
                2 => mac = value.try_into().ok(),
                6 => port = value.try_into().map(u16::from_be_bytes).ok(),
                _ => {}
            }
        }
        out.extend(ip.zip(mac).map(|(ip, mac)| (ip, port, mac)));
    })?;
    Ok(out)
}
