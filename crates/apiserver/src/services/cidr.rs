//! Ranges of addresses of either family.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    base: IpAddr,
    bits: u8,
}

/// The text is no range.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0:?} is not an address range such as 10.96.0.0/12")]
pub struct CidrError(String);

impl Cidr {
    /// The range Services have when nothing else is said.
    pub const DEFAULT: Self = Self { base: IpAddr::V4(Ipv4Addr::new(10, 96, 0, 0)), bits: 12 };

    /// `IPv4` or `IPv6`.
    pub fn family(&self) -> &'static str {
        if self.base.is_ipv4() { "IPv4" } else { "IPv6" }
    }

    /// How many addresses can be given: without the first, and for IPv4 without the last; at most 2^32.
    pub fn size(&self) -> u64 {
        let width = if self.base.is_ipv4() { 32 } else { 128 };
        let host = u32::from(width - self.bits).min(32);
        let all = 1u64 << host;
        if self.base.is_ipv4() { all.saturating_sub(1).max(1) } else { all }
    }

    /// The address this far into the range.
    pub fn address(&self, offset: u64) -> IpAddr {
        match self.base {
            IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from(u32::from(base).wrapping_add(offset as u32))),
            IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from(u128::from(base).wrapping_add(u128::from(offset)))),
        }
    }

    /// Whether the address lies within.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                u32::from(base) & mask == u32::from(address) & mask
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                u128::from(base) & mask == u128::from(address) & mask
            }
            _ => false,
        }
    }

    /// Whether the address is one that can be given: not the first, and for IPv4 not the last.
    pub fn holds(&self, address: IpAddr) -> bool {
        let last = IpAddr::V4(match self.base {
            IpAddr::V4(base) => {
                Ipv4Addr::from(u32::from(base) | u32::MAX.checked_shr(u32::from(self.bits)).unwrap_or(0))
            }
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        });
        self.contains(address) && address != self.base && address != last
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || CidrError(text.to_string());
        let (base, bits) = text.split_once('/').ok_or_else(wrong)?;
        let base: IpAddr = base.parse().map_err(|_| wrong())?;
        let bits: u8 = bits.parse().map_err(|_| wrong())?;
        if bits > if base.is_ipv4() { 32 } else { 128 } {
            return Err(wrong());
        }
        let base = match base {
            IpAddr::V4(base) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(base) & mask))
            }
            IpAddr::V6(base) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(base) & mask))
            }
        };
        Ok(Self { base, bits })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let cidr: Cidr = "10.96.0.7/12".parse().expect("range");
        assert_eq!(cidr.to_string(), "10.96.0.0/12");
        assert_eq!(cidr.address(1).to_string(), "10.96.0.1");
        assert!(cidr.contains("10.111.255.255".parse().expect("address")));
        assert!(!cidr.contains("10.112.0.0".parse().expect("address")));
        assert!(cidr.holds("10.96.0.1".parse().expect("address")));
        assert!(!cidr.holds("10.96.0.0".parse().expect("address")));
        assert!(!cidr.holds("10.111.255.255".parse().expect("address")));
        let six: Cidr = "fd00::/108".parse().expect("range");
        assert_eq!((six.family(), six.size()), ("IPv6", 1 << 20));
        assert!("10.0.0.0/33".parse::<Cidr>().is_err());
    }
}
