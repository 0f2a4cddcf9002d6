//! Address ranges: parsing, containment and the byte form that the kernel's sets use.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The IP family of an address, a rule or a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, in the order in which rules are written.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// The digit that ends the names of sets and maps of this family.
    pub fn digit(self) -> char {
        match self {
            Family::V4 => '4',
            Family::V6 => '6',
        }
    }

    /// The unspecified address of the family.
    pub fn unspecified(self) -> IpAddr {
        match self {
            Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    /// Bits of an address.
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

/// A text is not an address range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parse the address range {0:?}: want ADDRESS/LENGTH")]
pub struct CidrError(pub String);

/// An address range. The address is always the first of the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

impl Cidr {
    /// The range of `length` leading bits that holds `address`. Lengths beyond the family's are cut to it.
    pub fn new(address: IpAddr, length: u8) -> Cidr {
        let length = length.min(Family::of(address).bits());
        Cidr { address: from_number(Family::of(address), number(address) & mask(address, length)), length }
    }

    /// The range of exactly one address.
    pub fn host(address: IpAddr) -> Cidr {
        Cidr { address, length: Family::of(address).bits() }
    }

    /// The first address.
    pub fn first(&self) -> IpAddr {
        self.address
    }

    /// The last address.
    pub fn last(&self) -> IpAddr {
        let all = match self.address {
            IpAddr::V4(_) => u128::from(u32::MAX),
            IpAddr::V6(_) => u128::MAX,
        };
        from_number(self.family(), number(self.address) | (all & !mask(self.address, self.length)))
    }

    /// Leading bits that are fixed.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// The family.
    pub fn family(&self) -> Family {
        Family::of(self.address)
    }

    /// Whether `address` is in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        Family::of(address) == self.family()
            && number(address) & mask(address, self.length) == number(self.address)
    }

    /// Whether all of `other` is in the range.
    pub fn covers(&self, other: &Cidr) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    /// The number of addresses, capped at `u64::MAX`.
    pub fn size(&self) -> u64 {
        1_u64.checked_shl(u32::from(self.family().bits() - self.length)).unwrap_or(u64::MAX)
    }

    /// The address `offset` places after the first, if it is in the range.
    pub fn nth(&self, offset: u64) -> Option<IpAddr> {
        (offset < self.size()).then(|| from_number(self.family(), number(self.address) + u128::from(offset)))
    }

    /// The place of `address` in the range.
    pub fn offset(&self, address: IpAddr) -> Option<u64> {
        self.contains(address).then(|| u64::try_from(number(address) - number(self.address)).ok()).flatten()
    }
}

/// The address as a number.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

/// The address of a number; numbers beyond IPv4's range lose their upper bits in that family.
pub fn from_number(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from((number & u128::from(u32::MAX)) as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

fn mask(address: IpAddr, length: u8) -> u128 {
    let bits = u32::from(Family::of(address).bits());
    let free = bits - u32::from(length);
    let all = if bits == 32 { u128::from(u32::MAX) } else { u128::MAX };
    all & u128::MAX.checked_shl(free).unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Cidr, CidrError> {
        let bad = || CidrError(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let length: u8 = length.parse().map_err(|_| bad())?;
        if length > Family::of(address).bits() {
            return Err(bad());
        }
        Ok(Cidr::new(address, length))
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;

    fn try_from(text: String) -> Result<Cidr, CidrError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> String {
        cidr.to_string()
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// `range` without `except`: the ranges that are left, in order. Used for `ipBlock.except`.
pub fn subtract(range: Cidr, except: &[Cidr]) -> Vec<Cidr> {
    let hit = except.iter().find(|e| e.family() == range.family() && (range.covers(e) || e.covers(&range)));
    match hit {
        None => vec![range],
        Some(e) if e.covers(&range) => Vec::new(),
        Some(_) => {
            let length = range.length + 1;
            let low = Cidr { address: range.address, length };
            let high = Cidr::new(range.last(), length);
            let mut left = subtract(low, except);
            left.extend(subtract(high, except));
            left
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_normalised_and_bounded() {
        let c: Cidr = "10.1.2.3/24".parse().unwrap();
        assert_eq!(c.to_string(), "10.1.2.0/24");
        assert_eq!((c.first().to_string(), c.last().to_string()), ("10.1.2.0".into(), "10.1.2.255".into()));
        assert_eq!(c.nth(255).unwrap().to_string(), "10.1.2.255");
        assert_eq!(c.nth(256), None);
        assert!("10.0.0.0/33".parse::<Cidr>().is_err());
        let all: Cidr = "::/0".parse().unwrap();
        assert!(all.contains("fd00::1".parse().unwrap()));
        assert_eq!(all.size(), u64::MAX);
        let zero: Cidr = "0.0.0.0/0".parse().unwrap();
        assert_eq!(zero.last().to_string(), "255.255.255.255");
    }

    #[test]
    fn exceptions_are_cut_out() {
        let left = subtract("10.0.0.0/30".parse().unwrap(), &["10.0.0.1/32".parse().unwrap()]);
        let text: Vec<String> = left.iter().map(Cidr::to_string).collect();
        assert_eq!(text, ["10.0.0.0/32", "10.0.0.2/31"]);
        assert!(subtract("10.0.0.0/30".parse().unwrap(), &["10.0.0.0/8".parse().unwrap()]).is_empty());
    }
}
