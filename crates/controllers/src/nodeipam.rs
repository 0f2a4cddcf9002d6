//! Ranges of pod addresses for nodes that have none: each gets a part of the cluster's range.
//!
//! Parts are given from the upper end, because nodes that a manager makes bring parts of their own from the lower one.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1::Node;

use crate::action::Note;
use crate::{Action, Plan};

/// Length of a node's range, per family.
const NODE_BITS_V4: u8 = 24;
const NODE_BITS_V6: u8 = 64;

/// The range of all pods of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    first: IpAddr,
    bits: u8,
}

impl Range {
    /// Reads `address/length`; `None` when it is no range or too small to be cut into parts for nodes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Range> {
        let (first, bits) = text.split_once('/')?;
        let range = Range { first: first.parse().ok()?, bits: bits.parse().ok()? };
        (range.bits <= range.node_bits()).then_some(range)
    }

    fn node_bits(self) -> u8 {
        if self.first.is_ipv4() { NODE_BITS_V4 } else { NODE_BITS_V6 }
    }

    /// The part that comes at this place, counted from the upper end.
    fn part(self, place: u64) -> String {
        let count = 1_u64 << (self.node_bits() - self.bits).min(32);
        let index = count - 1 - place;
        let bits = self.node_bits();
        let address = match self.first {
            IpAddr::V4(a) => {
                let offset = u32::try_from(index).unwrap_or(u32::MAX) << (32 - u32::from(bits));
                IpAddr::V4(Ipv4Addr::from(u32::from(a) | offset))
            }
            IpAddr::V6(a) => {
                IpAddr::V6(Ipv6Addr::from(u128::from(a) | (u128::from(index) << (128 - u32::from(bits)))))
            }
        };
        format!("{address}/{bits}")
    }

    /// The first part that nobody has.
    #[must_use]
    pub fn free(self, used: &BTreeSet<String>) -> Option<String> {
        let count = 1_u64 << (self.node_bits() - self.bits).min(32);
        // Among one part more than are used there is a free one.
        (0..count.min(used.len() as u64 + 1)).map(|place| self.part(place)).find(|p| !used.contains(p))
    }
}

/// The ranges a node has.
#[must_use]
pub fn ranges(node: &Node) -> Vec<String> {
    let spec = node.spec.clone().unwrap_or_default();
    let many = spec.pod_cidrs.unwrap_or_default();
    if many.is_empty() { spec.pod_cidr.into_iter().collect() } else { many }
}

/// Gives the node a part of each of the cluster's ranges, if it has none. `used` are the parts others have.
#[must_use]
pub fn plan(node: &Node, cluster: &[Range], used: &BTreeSet<String>) -> Plan {
    if !ranges(node).is_empty() {
        return Plan::idle("the node has a range of addresses");
    }
    if cluster.is_empty() {
        return Plan::idle("the cluster's range of pod addresses is not known");
    }
    let Some(parts) = cluster.iter().map(|r| r.free(used)).collect::<Option<Vec<String>>>() else {
        let note = Note::warning("CIDRNotAvailable", "no range of pod addresses is left for the node");
        return Plan { actions: vec![Action::event(node, note)], ..Plan::idle("no range is left") };
    };
    let mut new = node.clone();
    let spec = new.spec.get_or_insert_default();
    spec.pod_cidr = parts.first().cloned();
    spec.pod_cidrs = Some(parts);
    Plan { actions: Action::patch(node, &new).into_iter().collect(), ..Plan::idle("the node has no range") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_from_the_upper_end() {
        let used = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<BTreeSet<_>>();
        let table: [(&str, &[&str], Option<&str>); 6] = [
            ("10.42.0.0/16", &[], Some("10.42.255.0/24")),
            ("10.42.0.0/16", &["10.42.255.0/24", "10.42.1.0/24"], Some("10.42.254.0/24")),
            ("10.42.0.0/16", &["10.42.254.0/24"], Some("10.42.255.0/24")),
            ("10.42.0.0/24", &[], Some("10.42.0.0/24")),
            ("10.42.0.0/24", &["10.42.0.0/24"], None),
            ("fd00::/48", &[], Some("fd00:0:0:ffff::/64")),
        ];
        for (range, taken, expected) in table {
            let got = Range::parse(range).unwrap().free(&used(taken));
            assert_eq!(got.as_deref(), expected, "{range} without {taken:?}");
        }
        assert!(Range::parse("10.0.0.0/28").is_none() && Range::parse("x/8").is_none());
    }

    #[test]
    fn a_node_with_a_range_keeps_it() {
        let mut node = Node::default();
        node.metadata.name = Some("n".into());
        let cluster = [Range::parse("10.42.0.0/16").unwrap()];
        let given = plan(&node, &cluster, &BTreeSet::new());
        assert_eq!(given.actions.len(), 1, "{given:?}");
        node.spec.get_or_insert_default().pod_cidr = Some("10.42.3.0/24".into());
        assert!(plan(&node, &cluster, &BTreeSet::new()).actions.is_empty());
    }
}
