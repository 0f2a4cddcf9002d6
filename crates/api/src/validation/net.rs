//! Addresses and ranges.

use std::net::{IpAddr, Ipv4Addr};

use super::check::At;

/// What an address has to be.
pub const IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// An address, as new objects have to write it: without leading zeros.
pub fn ip(at: &At<'_>) {
    match at.text().parse::<IpAddr>() {
        Ok(IpAddr::V6(six)) if six.to_ipv4_mapped().is_some() => {
            at.invalid("must not be an IPv4-mapped IPv6 address");
        }
        Ok(_) => {}
        Err(_) if sloppy(at.text()).is_some() => at.invalid("must not have leading 0s"),
        Err(_) => at.invalid_text(IP),
    }
}

/// An address whose parts may have leading zeros.
pub fn sloppy(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    let parts: Vec<u8> = text
        .split('.')
        .filter(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
        .filter_map(|part| part.parse::<u8>().ok())
        .collect();
    match (parts.as_slice(), text.matches('.').count()) {
        ([a, b, c, d], 3) => Some(IpAddr::V4(Ipv4Addr::new(*a, *b, *c, *d))),
        _ => None,
    }
}

/// A range: address and length of the prefix.
pub fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (ip, length) = text.split_once('/')?;
    let ip: IpAddr = ip.parse().ok()?;
    let length: u8 = length.parse().ok().filter(|_| !length.starts_with('+'))?;
    let max = if ip.is_ipv4() { 32 } else { 128 };
    (length <= max).then_some((ip, length))
}

/// A range whose address has no bits beyond the prefix.
pub fn cidr(at: &At<'_>) {
    let Some((ip, length)) = parse_cidr(at.text()) else { return at.invalid_text(CIDR) };
    let base = masked(ip, length);
    if base != ip {
        at.invalid("must not have bits set beyond the prefix length");
    }
}

/// The first address of the range.
pub fn masked(ip: IpAddr, length: u8) -> IpAddr {
    match ip {
        IpAddr::V4(four) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((u32::from(four) & mask).into())
        }
        IpAddr::V6(six) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6((u128::from(six) & mask).into())
        }
    }
}

/// Whether `inner` is a part of `outer`, and not all of it.
pub fn within(outer: (IpAddr, u8), inner: (IpAddr, u8)) -> bool {
    outer.0.is_ipv4() == inner.0.is_ipv4()
        && inner.1 > outer.1
        && masked(inner.0, outer.1) == masked(outer.0, outer.1)
}
