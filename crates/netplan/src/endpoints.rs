//! Which endpoints of a Service port a node uses: readiness, termination, topology hints and locality.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::cidr::Family;
use crate::ruleset::Proto;
use crate::services::NodeFacts;

/// One address and port to send to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// The backends of one Service port in one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// For traffic that may go anywhere.
    pub cluster: Vec<Backend>,
    /// For traffic that must stay on this node.
    pub local: Vec<Backend>,
    /// Addresses of this node that are ready (not merely draining).
    pub local_ready: BTreeSet<IpAddr>,
    /// There is some usable endpoint somewhere.
    pub any: bool,
}

#[derive(Clone)]
struct Candidate {
    backend: Backend,
    ready: bool,
    draining: bool,
    local: bool,
    zones: Option<Vec<String>>,
    nodes: Option<Vec<String>>,
}

/// Chooses the backends of port `name` for `node`. Ready endpoints are used; if there are none, those that still
/// serve while terminating (so that a rolling update with short-lived gaps loses nothing).
pub fn choose(
    slices: &[&EndpointSlice],
    family: Family,
    name: &str,
    proto: Proto,
    node: &NodeFacts,
) -> Choice {
    let all = candidates(slices, family, name, proto, node);
    let ready: Vec<&Candidate> = all.iter().filter(|c| c.ready).collect();
    let cluster = if ready.is_empty() {
        all.iter().filter(|c| c.draining).map(|c| c.backend).collect()
    } else {
        near(&ready, node)
    };
    let local_ready: Vec<&Candidate> = ready.iter().filter(|c| c.local).copied().collect();
    let local = if local_ready.is_empty() {
        all.iter().filter(|c| c.local && c.draining).map(|c| c.backend).collect()
    } else {
        local_ready.iter().map(|c| c.backend).collect()
    };
    Choice {
        any: all.iter().any(|c| c.ready || c.draining),
        cluster,
        local,
        local_ready: local_ready.iter().map(|c| c.backend.address).collect(),
    }
}

/// The ready endpoints hinted at this node or its zone; all of them when any lacks a hint or none is for us.
fn near(ready: &[&Candidate], node: &NodeFacts) -> Vec<Backend> {
    let pick = |wanted: &dyn Fn(&Candidate) -> Option<bool>| -> Option<Vec<Backend>> {
        let mut out = Vec::new();
        for c in ready {
            if wanted(c)? {
                out.push(c.backend);
            }
        }
        (!out.is_empty()).then_some(out)
    };
    let by_node = pick(&|c| c.nodes.as_ref().map(|n| n.contains(&node.name)));
    let by_zone = || {
        let zone = node.zone.as_ref()?;
        pick(&|c| c.zones.as_ref().map(|z| z.contains(zone)))
    };
    by_node.or_else(by_zone).unwrap_or_else(|| ready.iter().map(|c| c.backend).collect())
}

fn candidates(
    slices: &[&EndpointSlice],
    family: Family,
    name: &str,
    proto: Proto,
    node: &NodeFacts,
) -> Vec<Candidate> {
    let kind = if family == Family::V4 { "IPv4" } else { "IPv6" };
    let mut found: BTreeMap<Backend, Candidate> = BTreeMap::new();
    for slice in slices.iter().filter(|s| s.address_type == kind) {
        for port in slice.ports.iter().flatten() {
            if port.name.as_deref().unwrap_or_default() != name
                || Proto::parse(port.protocol.as_deref()) != Some(proto)
            {
                continue;
            }
            let Some(number) = port.port.and_then(|p| u16::try_from(p).ok()) else { continue };
            for e in slice.endpoints.iter().flatten() {
                let Some(c) = candidate(e, number, node) else { continue };
                // The same endpoint in two slices while it moves between them: the ready one counts.
                let have = found.entry(c.backend).or_insert_with(|| c.clone());
                if c.ready && !have.ready {
                    *have = c;
                }
            }
        }
    }
    found.into_values().collect()
}

fn candidate(e: &Endpoint, port: u16, node: &NodeFacts) -> Option<Candidate> {
    let address = e.addresses.first()?.parse().ok()?;
    let conditions = e.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let serving = conditions.serving.unwrap_or(ready);
    let terminating = conditions.terminating.unwrap_or(false);
    let hints = e.hints.as_ref();
    let zones = hints.and_then(|h| h.for_zones.as_ref()).filter(|z| !z.is_empty());
    let nodes = hints.and_then(|h| h.for_nodes.as_ref()).filter(|n| !n.is_empty());
    Some(Candidate {
        backend: Backend { address, port },
        ready,
        draining: serving && terminating,
        local: e.node_name.as_deref() == Some(node.name.as_str()),
        zones: zones.map(|z| z.iter().map(|z| z.name.clone()).collect()),
        nodes: nodes.map(|n| n.iter().map(|n| n.name.clone()).collect()),
    })
}
