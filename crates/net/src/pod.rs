//! The network of one pod: a veth pair, routed, with nothing learned at run time.
//!
//! The pod's address has its full length, and its only neighbour is the host's end of the pair, known by a fixed
//! hardware address. So every packet of a pod passes the host's routing and rules, also towards pods of the same
//! node: Services, policies and spoofing checks work without bridge filtering, and nobody resolves addresses.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::Path;

use netplan::Cidr;

use crate::netlink::{Buffer, NetlinkError, Socket};
use crate::netns::{self, NetnsError};
use crate::route::{self, Mac, Route, VethEnd};
use crate::sysctl;

/// How the host's ends of pods' links begin.
pub const PREFIX: &str = "kv";
/// The host's end of every pod's link.
const HOST_MAC: Mac = [0xee; 6];
/// What pods use as gateway. It is never asked for: its hardware address is given.
const GATEWAY4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
/// The link-local address that belongs to `HOST_MAC`.
const GATEWAY6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee));

/// A pod could not be connected or disconnected.
#[derive(Debug, thiserror::Error)]
pub enum PodNetError {
    /// The kernel refused something.
    #[error("set up the pod's network")]
    Kernel(#[from] NetlinkError),
    /// The pod's namespace cannot be used.
    #[error("set up the pod's network")]
    Namespace(#[from] NetnsError),
    /// The link vanished while it was set up.
    #[error("find the link {0} just made for the pod")]
    LinkLost(String),
}

/// What a pod gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodLink {
    /// The pod's uid: names the host's end.
    pub uid: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Largest packet.
    pub mtu: u32,
    /// Bytes per second towards the pod.
    pub ingress_bytes_per_s: Option<u64>,
    /// Bytes per second from the pod.
    pub egress_bytes_per_s: Option<u64>,
}

/// The name of the host's end of a pod's link: fifteen characters at most, the same for the same uid.
pub fn link_name(uid: &str) -> String {
    format!("{PREFIX}{:013x}", fnv(uid) >> 12)
}

/// Whether a link is the host's end of a pod's.
pub fn is_pod_link(name: &str) -> bool {
    let digits = name.strip_prefix(PREFIX).unwrap_or_default();
    digits.len() == 13 && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// The pod's hardware address: made from its first address.
pub fn pod_mac(address: IpAddr) -> Mac {
    match address {
        IpAddr::V4(a) => {
            let o = a.octets();
            [0x0a, 0x58, o[0], o[1], o[2], o[3]]
        }
        IpAddr::V6(a) => {
            let o = a.octets();
            [0x0a, 0x58, o[12], o[13], o[14], o[15]]
        }
    }
}

/// Connects the namespace at `netns` as `eth0`. Repeating it replaces the link.
pub fn attach(host: &Socket, netns: &Path, pod: &PodLink) -> Result<(), PodNetError> {
    let name = link_name(&pod.uid);
    let mac = pod.addresses.first().map_or([0x0a, 0x58, 0, 0, 0, 1], |a| pod_mac(*a));
    let file = File::open(netns).map_err(|source| NetlinkError::Refused {
        what: format!("open the pod's network namespace {}", netns.display()),
        source,
    })?;
    detach(host, &pod.uid)?;
    let mut b = Buffer::new();
    let near = VethEnd { name: &name, mac: Some(HOST_MAC), netns: None };
    let far = VethEnd { name: "eth0", mac: Some(mac), netns: Some(file.as_raw_fd()) };
    route::veth(&mut b, &near, &far, pod.mtu);
    host.call(b)?;
    let index = route::index_of(&name).ok_or_else(|| PodNetError::LinkLost(name.clone()))?;
    let (inside, eth0) = netns::run_in(netns, || {
        let _ = sysctl::set("net/ipv6/conf/eth0/accept_dad", "0");
        (Socket::open(libc::NETLINK_ROUTE), route::index_of("eth0"))
    })?;
    let eth0 = eth0.ok_or_else(|| PodNetError::LinkLost("eth0".into()))?;
    inside?.call(inside_requests(eth0, pod))?;
    host.call(outside_requests(index, mac, pod))?;
    // Only the pod's own addresses may come from its link.
    let _ = sysctl::set(&format!("net/ipv4/conf/{name}/rp_filter"), "1");
    Ok(())
}

fn inside_requests(eth0: u32, pod: &PodLink) -> Buffer {
    let mut b = Buffer::new();
    route::set_up(&mut b, 1);
    route::set_up(&mut b, eth0);
    for a in &pod.addresses {
        route::add_address(&mut b, eth0, *a, Cidr::host(*a).length());
    }
    let families = [(GATEWAY4, Ipv4Addr::UNSPECIFIED.into()), (GATEWAY6, Ipv6Addr::UNSPECIFIED.into())];
    for (gateway, any) in families {
        if !pod.addresses.iter().any(|a| a.is_ipv4() == gateway.is_ipv4()) {
            continue;
        }
        route::put_neighbour(&mut b, eth0, gateway, HOST_MAC);
        if gateway.is_ipv4() {
            route::put_route(&mut b, &Route { to: Cidr::host(gateway), via: None, link: eth0 });
        }
        route::put_route(&mut b, &Route { to: Cidr::new(any, 0), via: Some(gateway), link: eth0 });
    }
    if let Some(rate) = pod.egress_bytes_per_s {
        route::limit(&mut b, eth0, rate);
    }
    b
}

fn outside_requests(index: u32, mac: Mac, pod: &PodLink) -> Buffer {
    let mut b = Buffer::new();
    for a in &pod.addresses {
        route::put_neighbour(&mut b, index, *a, mac);
        route::put_route(&mut b, &Route { to: Cidr::host(*a), via: None, link: index });
    }
    if let Some(rate) = pod.ingress_bytes_per_s {
        route::limit(&mut b, index, rate);
    }
    b
}

/// Disconnects a pod. A pod without a link is fine (the link goes with the pod's namespace).
pub fn detach(host: &Socket, uid: &str) -> Result<(), PodNetError> {
    let Some(index) = route::index_of(&link_name(uid)) else { return Ok(()) };
    let mut b = Buffer::new();
    route::delete_link(&mut b, index);
    match host.call(b) {
        Err(e) if !e.missing() => Err(e.into()),
        _ => Ok(()),
    }
}

/// Removes the links of pods that are not in `keep` (uids). Gives how many.
pub fn sweep(host: &Socket, keep: &[&str]) -> Result<usize, PodNetError> {
    let keep: std::collections::HashSet<String> = keep.iter().map(|u| link_name(u)).collect();
    let mut b = Buffer::new();
    let mut count = 0;
    for l in route::links(host)? {
        if is_pod_link(&l.name) && !keep.contains(&l.name) {
            route::delete_link(&mut b, l.index);
            count += 1;
        }
    }
    host.run(b)?;
    Ok(count)
}
