//! Addresses of Services of type LoadBalancer: who gets which, and which node answers for it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::cidr::Cidr;

/// The class of balancers that are ours; Services without a class are ours, too.
pub const CLASS: &str = "kutter.dev/balancer";

/// A change of a Service's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The Service's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its addresses; none takes them away.
    pub addresses: Vec<IpAddr>,
}

fn is_ours(s: &Service) -> bool {
    let spec = s.spec.as_ref();
    let class = spec.and_then(|s| s.load_balancer_class.as_deref());
    spec.and_then(|s| s.type_.as_deref()) == Some("LoadBalancer")
        && s.metadata.deletion_timestamp.is_none()
        && class.is_none_or(|c| c == CLASS)
}

/// The addresses in a Service's status.
pub fn assigned(s: &Service) -> Vec<IpAddr> {
    let ingress = s.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref());
    ingress.into_iter().flatten().filter_map(|i| i.ip.as_deref()?.parse().ok()).collect()
}

/// What must change so that every LoadBalancer has one address of the pool that no other has. Services keep what
/// they have; new ones get the address they ask for, if it is free, or the lowest free one. Gives also the names
/// of Services for which there is none.
pub fn assign(services: &[Arc<Service>], pool: &Cidr) -> (Vec<Assignment>, Vec<String>) {
    let mut sorted: Vec<&Arc<Service>> = services.iter().collect();
    sorted.sort_by_key(|s| {
        let m = &s.metadata;
        (m.creation_timestamp.as_ref().map(|t| t.0), m.namespace.clone(), m.name.clone())
    });
    let mut taken: BTreeSet<IpAddr> = BTreeSet::new();
    let mut open = Vec::new();
    let mut changes = Vec::new();
    let change = |s: &Service, addresses| Assignment {
        namespace: s.metadata.namespace.clone().unwrap_or_default(),
        name: s.metadata.name.clone().unwrap_or_default(),
        addresses,
    };
    for s in sorted {
        let have = assigned(s);
        if !is_ours(s) {
            // A Service that is no balancer any more gives its address back.
            let was_ours = have.iter().any(|ip| pool.contains(*ip));
            let type_ = s.spec.as_ref().and_then(|s| s.type_.as_deref());
            if was_ours && type_ != Some("LoadBalancer") {
                changes.push(change(s, Vec::new()));
            }
            continue;
        }
        let mine: Vec<IpAddr> = have.iter().copied().filter(|ip| pool.contains(*ip)).collect();
        match mine.as_slice() {
            [ip] if have.len() == 1 && taken.insert(*ip) => {}
            _ => open.push(s),
        }
    }
    let mut full = Vec::new();
    for s in open {
        let wish = s.spec.as_ref().and_then(|s| s.load_balancer_ip.as_deref()?.parse().ok());
        let wished = wish.filter(|ip| pool.contains(*ip) && !taken.contains(ip));
        // The first and last addresses of a range may be those of the network itself.
        let lowest = || (1..pool.size() - 1).filter_map(|i| pool.nth(i)).find(|ip| !taken.contains(ip));
        match wished.or_else(lowest) {
            Some(ip) => {
                taken.insert(ip);
                changes.push(change(s, vec![ip]));
            }
            None => full.push(format!(
                "{}/{}",
                s.metadata.namespace.as_deref().unwrap_or_default(),
                s.metadata.name.as_deref().unwrap_or_default()
            )),
        }
    }
    (changes, full)
}

/// Whether a node is ready.
pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Whether a node may answer for load balancer addresses.
pub fn takes_traffic(node: &Node) -> bool {
    let excluded = "node.kubernetes.io/exclude-from-external-load-balancers";
    node.metadata.labels.as_ref().is_none_or(|l| !l.contains_key(excluded))
}

/// The addresses of the pool for which `own` answers. Among the ready nodes (with the policy `Local`: those with a
/// ready endpoint) the one with the highest hash of node and address does, so that addresses spread and few move.
pub fn announced(
    services: &[Arc<Service>],
    slices: impl Fn(&Service) -> Vec<Arc<EndpointSlice>>,
    nodes: &[Arc<Node>],
    pool: &Cidr,
    own: &str,
) -> BTreeSet<IpAddr> {
    let ready: Vec<&str> = nodes
        .iter()
        .filter(|n| is_ready(n) && takes_traffic(n))
        .filter_map(|n| n.metadata.name.as_deref())
        .collect();
    let mut out = BTreeSet::new();
    for s in services.iter().filter(|s| is_ours(s)) {
        let local = s.spec.as_ref().and_then(|s| s.external_traffic_policy.as_deref()) == Some("Local");
        let owned = if local { slices(s) } else { Vec::new() };
        let hosts: BTreeSet<&str> = owned
            .iter()
            .flat_map(|s| s.endpoints.iter().flatten())
            .filter(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true))
            .filter_map(|e| e.node_name.as_deref())
            .collect();
        for ip in assigned(s).into_iter().filter(|ip| pool.contains(*ip)) {
            let able = ready.iter().filter(|n| !local || hosts.contains(**n));
            if able.max_by_key(|n| (weight(n, ip), **n)).is_some_and(|n| *n == own) {
                out.insert(ip);
            }
        }
    }
    out
}

fn weight(node: &str, ip: IpAddr) -> u64 {
    let text = format!("{node} {ip}");
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn balancer(name: &str, kind: &str, ip: Option<&str>) -> Arc<Service> {
        let ingress: Vec<_> = ip.iter().map(|i| json!({"ip": i})).collect();
        let value = json!({"metadata": {"name": name, "namespace": "d"}, "spec": {"type": kind},
            "status": {"loadBalancer": {"ingress": ingress}}});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn text(services: &[Arc<Service>]) -> Vec<String> {
        let (changes, full) = assign(services, &"10.9.0.0/29".parse().unwrap());
        let line = |a: Assignment| format!("{} {:?}", a.name, a.addresses);
        changes.into_iter().map(line).chain(full.into_iter().map(|f| format!("full {f}"))).collect()
    }

    #[test]
    fn everyone_gets_one_address_and_keeps_it() {
        let all = [
            balancer("a", "LoadBalancer", None),
            balancer("b", "LoadBalancer", Some("10.9.0.1")),
            balancer("c", "ClusterIP", Some("10.9.0.3")),
            balancer("d", "LoadBalancer", Some("10.9.0.1")),
            balancer("e", "ClusterIP", None),
        ];
        assert_eq!(text(&all), ["c []", "a [10.9.0.2]", "d [10.9.0.3]"]);
        let many: Vec<_> = (0..7).map(|i| balancer(&format!("s{i}"), "LoadBalancer", None)).collect();
        assert_eq!(text(&many).last().unwrap(), "full d/s6");
    }

    #[test]
    fn exactly_one_ready_node_answers() {
        let services = [balancer("a", "LoadBalancer", Some("10.9.0.1"))];
        let node = |name: &str, ready: &str| {
            let status = json!({"conditions": [{"type": "Ready", "status": ready}]});
            Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap())
        };
        let pool = "10.9.0.0/29".parse().unwrap();
        let holders = |nodes: &[Arc<Node>]| -> Vec<&str> {
            let holds = |n: &&str| !announced(&services, |_| vec![], nodes, &pool, n).is_empty();
            ["n1", "n2", "n3"].into_iter().filter(|n| holds(n)).collect()
        };
        let first = holders(&[node("n1", "True"), node("n2", "True"), node("n3", "True")]);
        assert_eq!(first.len(), 1);
        let state = |n: &str| if n == first[0] { "False" } else { "True" };
        let second = holders(&[node("n1", state("n1")), node("n2", state("n2")), node("n3", state("n3"))]);
        assert_eq!(second.len(), 1);
        assert_ne!(first, second);
    }
}
