//! Addresses of the pods of one node: taken from the node's ranges, remembered, and reused as late as possible.
//!
//! The state is a value that the node persists after each change; the same calls on the same state give the same
//! addresses. A freed address is handed out again only after every other free address of the range, so that
//! peers with an old connection or a cached name do not reach a stranger.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;

/// No address can be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// All addresses of a range are in use.
    #[error(
        "allocate a pod address: all {size} addresses of {range} are in use; delete pods or give the node a larger podCIDR"
    )]
    Full {
        /// The exhausted range.
        range: Cidr,
        /// How many addresses pods can have.
        size: u64,
    },
    /// The node has no podCIDR yet.
    #[error("allocate a pod address: the node has no podCIDR yet")]
    NoRange,
}

/// The addresses of one node's pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipam {
    ranges: Vec<RangeState>,
    /// Addresses by owner (a pod's uid).
    owners: BTreeMap<String, Vec<IpAddr>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RangeState {
    range: Cidr,
    /// Offset at which the search for a free address begins.
    cursor: u64,
}

/// Offsets kept free: the range's own address (the VTEP) and the first host (reserved for a gateway).
const RESERVED_LOW: u64 = 2;
/// IPv6 ranges are huge: this many addresses of them are used.
const RANGE_MAX: u64 = 1 << 16;

impl Ipam {
    /// Sets the node's ranges (at most one per family counts). Addresses outside them stay with their owners
    /// until these are released.
    pub fn set_ranges(&mut self, ranges: &[Cidr]) {
        let old = std::mem::take(&mut self.ranges);
        for range in ranges {
            let cursor = old.iter().find(|r| r.range == *range).map_or(RESERVED_LOW, |r| r.cursor);
            if !self.ranges.iter().any(|r| r.range.family() == range.family()) {
                self.ranges.push(RangeState { range: *range, cursor });
            }
        }
    }

    /// The ranges in use.
    pub fn ranges(&self) -> Vec<Cidr> {
        self.ranges.iter().map(|r| r.range).collect()
    }

    /// The addresses of `owner`: one per range. Asking again gives the same.
    pub fn allocate(&mut self, owner: &str) -> Result<Vec<IpAddr>, IpamError> {
        if let Some(have) = self.owners.get(owner) {
            return Ok(have.clone());
        }
        if self.ranges.is_empty() {
            return Err(IpamError::NoRange);
        }
        let taken: std::collections::BTreeSet<IpAddr> = self.owners.values().flatten().copied().collect();
        let mut given = Vec::new();
        let mut cursors = Vec::new();
        for state in &self.ranges {
            let end = last_offset(&state.range);
            let usable = end.saturating_sub(RESERVED_LOW);
            let found = (0..usable)
                .map(|i| RESERVED_LOW + (state.cursor - RESERVED_LOW + i) % usable)
                .find_map(|o| state.range.nth(o).filter(|a| !taken.contains(a)).map(|a| (o, a)));
            let Some((offset, address)) = found else {
                return Err(IpamError::Full { range: state.range, size: usable });
            };
            given.push(address);
            cursors.push(if offset + 1 >= end { RESERVED_LOW } else { offset + 1 });
        }
        for (state, cursor) in self.ranges.iter_mut().zip(cursors) {
            state.cursor = cursor;
        }
        self.owners.insert(owner.to_owned(), given.clone());
        Ok(given)
    }

    /// Records addresses found on a running pod that the state does not know. A conflict leaves the state as is.
    pub fn adopt(&mut self, owner: &str, addresses: &[IpAddr]) -> bool {
        let clash =
            self.owners.iter().any(|(o, have)| o != owner && have.iter().any(|a| addresses.contains(a)));
        if !clash {
            self.owners.insert(owner.to_owned(), addresses.to_vec());
        }
        !clash
    }

    /// Gives the addresses of `owner` back. Unknown owners are fine.
    pub fn release(&mut self, owner: &str) -> Vec<IpAddr> {
        self.owners.remove(owner).unwrap_or_default()
    }

    /// The addresses of `owner`.
    pub fn get(&self, owner: &str) -> Option<&[IpAddr]> {
        self.owners.get(owner).map(Vec::as_slice)
    }

    /// All owners and their addresses.
    pub fn owners(&self) -> impl Iterator<Item = (&str, &[IpAddr])> {
        self.owners.iter().map(|(o, a)| (o.as_str(), a.as_slice()))
    }
}

/// One past the last offset that a pod can have: IPv4's broadcast address stays free.
fn last_offset(range: &Cidr) -> u64 {
    let size = range.size();
    match range.first() {
        IpAddr::V4(_) => size.saturating_sub(1),
        IpAddr::V6(_) => size.min(RANGE_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipam(range: &str) -> Ipam {
        let mut i = Ipam::default();
        i.set_ranges(&[range.parse().unwrap()]);
        i
    }

    #[test]
    fn reuse_is_delayed_and_survives_a_round_trip() {
        let mut i = ipam("10.244.1.0/29");
        let a = i.allocate("a").unwrap();
        assert_eq!(a[0].to_string(), "10.244.1.2");
        assert_eq!(i.allocate("a").unwrap(), a);
        i.release("a");
        let text = serde_json::to_string(&i).unwrap();
        let mut i: Ipam = serde_json::from_str(&text).unwrap();
        let next: Vec<String> =
            (0..5).map(|n| i.allocate(&format!("p{n}")).unwrap()[0].to_string()).collect();
        assert_eq!(next, ["10.244.1.3", "10.244.1.4", "10.244.1.5", "10.244.1.6", "10.244.1.2"]);
        assert!(matches!(i.allocate("more"), Err(IpamError::Full { size: 5, .. })));
    }

    #[test]
    fn dual_stack_gives_one_of_each() {
        let mut i = Ipam::default();
        i.set_ranges(&["10.244.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()]);
        let a = i.allocate("a").unwrap();
        assert_eq!(a.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.244.0.2", "fd00::2"]);
        assert!(!i.adopt("b", &a));
        assert_eq!(Ipam::default().allocate("x"), Err(IpamError::NoRange));
    }
}
