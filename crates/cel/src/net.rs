//! IP addresses and networks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address without zone; IPv4 in the form of IPv6 is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip(pub IpAddr);

/// An address and how many of its bits are the network's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address as written.
    pub addr: IpAddr,
    /// Bits of the network.
    pub bits: u8,
}

impl Ip {
    /// Reads an address.
    pub fn parse(text: &str) -> Result<Ip, String> {
        if text.contains(':') && text.contains('%') {
            return Err(format!("IP address {text:?} with zone value is not allowed"));
        }
        let addr: IpAddr = text.parse().map_err(|_| {
            format!(
                "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): {}",
                address_fault(text)
            )
        })?;
        if mapped(addr) {
            return Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"));
        }
        Ok(Ip(addr))
    }

    /// Bytes of the address.
    pub(crate) fn size(self) -> u64 {
        if self.0.is_ipv4() { 4 } else { 16 }
    }

    pub(crate) fn link_local_unicast(self) -> bool {
        match self.0 {
            IpAddr::V4(a) => a.is_link_local(),
            IpAddr::V6(a) => a.segments()[0] & 0xffc0 == 0xfe80,
        }
    }

    pub(crate) fn link_local_multicast(self) -> bool {
        match self.0 {
            IpAddr::V4(a) => a.octets()[..3] == [224, 0, 0],
            IpAddr::V6(a) => a.segments()[0] & 0xff0f == 0xff02,
        }
    }

    pub(crate) fn global_unicast(self) -> bool {
        let broadcast = self.0 == IpAddr::V4(Ipv4Addr::BROADCAST);
        !(self.0.is_unspecified()
            || self.0.is_loopback()
            || self.0.is_multicast()
            || broadcast
            || self.link_local_unicast())
    }
}

fn mapped(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V6(a) if a.to_ipv4_mapped().is_some())
}

/// What is wrong with an address, in the words users know.
fn address_fault(text: &str) -> &'static str {
    if text.contains(':') {
        return "each colon-separated field must have at least one digit";
    }
    if !text.contains('.') {
        return "unable to parse IP";
    }
    let fields: Vec<&str> = text.split('.').collect();
    if text.bytes().any(|b| !b.is_ascii_digit() && b != b'.') {
        return "unexpected character";
    }
    if fields.iter().any(|f| f.is_empty()) {
        return "IPv4 field must have at least one digit";
    }
    if fields.iter().any(|f| f.len() > 1 && f.starts_with('0')) {
        return "IPv4 field has octet with leading zero";
    }
    if fields.iter().any(|f| f.parse::<u8>().is_err()) {
        return "IPv4 field has value >255";
    }
    if fields.len() < 4 { "IPv4 address too short" } else { "IPv4 address too long" }
}

impl fmt::Display for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Cidr {
    /// Reads `address/bits`.
    pub fn parse(text: &str) -> Result<Cidr, String> {
        let fail = |why: &str| {
            let inner = format!("netip.ParsePrefix({text:?}): {why}");
            format!("network address parse error during conversion from string: {inner}")
        };
        let (addr, bits) = text.rsplit_once('/').ok_or_else(|| fail("no '/'"))?;
        if addr.contains('%') {
            return Err(fail("IPv6 zones cannot be present in a prefix"));
        }
        let parsed: IpAddr =
            addr.parse().map_err(|_| fail(&format!("ParseAddr({addr:?}): {}", address_fault(addr))))?;
        let form = !bits.is_empty()
            && bits.bytes().all(|b| b.is_ascii_digit())
            && (bits.len() == 1 || !bits.starts_with('0'));
        let most = if parsed.is_ipv4() { 32 } else { 128 };
        if !form {
            return Err(fail(&format!("bad bits after slash: {bits:?}")));
        }
        let bits = bits
            .parse::<u8>()
            .ok()
            .filter(|b| *b <= most)
            .ok_or_else(|| fail("prefix length out of range"))?;
        if mapped(parsed) {
            return Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"));
        }
        Ok(Cidr { addr: parsed, bits })
    }

    /// The network's address with its bits.
    pub fn masked(self) -> Cidr {
        let addr = match self.addr {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(a) & mask))
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(a) & mask))
            }
        };
        Cidr { addr, bits: self.bits }
    }

    /// Whether an address is in the network.
    pub fn contains(self, ip: Ip) -> bool {
        let of = Cidr { addr: ip.0, bits: self.bits };
        self.addr.is_ipv4() == ip.0.is_ipv4() && self.masked().addr == of.masked().addr
    }

    /// Whether a network is within this one.
    pub fn covers(self, other: Cidr) -> bool {
        self.bits <= other.bits && self.contains(Ip(other.addr))
    }

    pub(crate) fn size(self) -> u64 {
        u64::from(self.bits).div_ceil(8)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.bits)
    }
}
