//! Answers of the cluster DNS: an index over Services and EndpointSlices and a pure look-up, to the specification of
//! Kubernetes' DNS-based service discovery (version 1.1.0).

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::services::cluster_ips;

/// Seconds an answer of the cluster's zone may be kept.
pub const TTL_S: u32 = 5;

/// The kinds of question the zone knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Ports and targets.
    Srv,
    /// The name of an address.
    Ptr,
    /// Text.
    Txt,
    /// All there is.
    Any,
    /// Anything else: names exist, data does not.
    Other,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The owner, without a trailing dot.
    pub name: String,
    /// The data.
    pub data: RecordData,
}

/// The data of a record. Names are without a trailing dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordData {
    /// An address, of either family.
    Address(IpAddr),
    /// A port of a target; weights are even.
    Srv {
        /// The weight among the records of the question.
        weight: u16,
        /// The port.
        port: u16,
        /// The host.
        target: String,
    },
    /// The name of an address.
    Ptr(String),
    /// Another name.
    Cname(String),
    /// A text.
    Txt(String),
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Records; `extra` has the addresses of SRV targets.
    Records {
        /// The answer section.
        answers: Vec<Record>,
        /// The additional section.
        extra: Vec<Record>,
    },
    /// The name exists, but has no such data.
    NoData,
    /// There is no such name in the cluster's zone.
    NxDomain,
    /// The name is not the cluster's: ask upstream.
    NotOurs,
    /// The name is another one outside the cluster: ask upstream for it and answer with both.
    Alias(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Entry {
    cluster_ips: Vec<IpAddr>,
    external_name: Option<String>,
    ports: Vec<Port>,
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Port {
    name: String,
    proto: String,
    number: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Endpoint {
    label: String,
    named: bool,
    address: IpAddr,
    ports: Vec<Port>,
}

/// The names of the cluster.
#[derive(Debug, Clone, Default)]
pub struct Index {
    zone: String,
    namespaces: HashMap<String, BTreeMap<String, Entry>>,
    reverse: HashMap<IpAddr, Vec<String>>,
}

impl Index {
    /// An index for the zone (`cluster.local`).
    pub fn new(zone: &str) -> Index {
        Index { zone: zone.trim_matches('.').to_lowercase(), ..Index::default() }
    }

    /// The zone.
    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// Number of Services.
    pub fn len(&self) -> usize {
        self.namespaces.values().map(BTreeMap::len).sum()
    }

    /// No Services.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts a Service and its slices in place of what is known of it; `None` forgets it.
    pub fn set(&mut self, namespace: &str, name: &str, service: Option<(&Service, &[&EndpointSlice])>) {
        if let Some(old) = self.namespaces.get_mut(namespace).and_then(|n| n.remove(name)) {
            for (ip, host) in self.reverse_names(namespace, name, &old) {
                if let Some(names) = self.reverse.get_mut(&ip) {
                    names.retain(|n| *n != host);
                    if names.is_empty() {
                        self.reverse.remove(&ip);
                    }
                }
            }
        }
        if let Some((service, slices)) = service {
            let entry = entry(service, slices);
            for (ip, host) in self.reverse_names(namespace, name, &entry) {
                let names = self.reverse.entry(ip).or_default();
                if !names.contains(&host) {
                    names.push(host);
                }
            }
            self.namespaces.entry(namespace.to_owned()).or_default().insert(name.to_owned(), entry);
        }
        if self.namespaces.get(namespace).is_some_and(BTreeMap::is_empty) {
            self.namespaces.remove(namespace);
        }
    }

    fn reverse_names(&self, namespace: &str, name: &str, e: &Entry) -> Vec<(IpAddr, String)> {
        let full = format!("{name}.{namespace}.svc.{}", self.zone);
        let own = e.cluster_ips.iter().map(|ip| (*ip, full.clone()));
        let headless = e.endpoints.iter().filter(|_| e.cluster_ips.is_empty());
        own.chain(headless.map(|p| (p.address, format!("{}.{full}", p.label)))).collect()
    }

    /// Answers a question. Names are compared without regard to case; a trailing dot is optional.
    pub fn answer(&self, name: &str, kind: Kind) -> Answer {
        let name = name.trim_end_matches('.').to_lowercase();
        if let Some(ip) = reverse_address(&name) {
            return self.pointer(&name, ip, kind);
        }
        let Some(rest) = name.strip_suffix(self.zone.as_str()) else { return Answer::NotOurs };
        if rest.is_empty() {
            return Answer::NoData;
        }
        let Some(rest) = rest.strip_suffix('.') else { return Answer::NotOurs };
        let labels: Vec<&str> = rest.split('.').collect();
        match labels.as_slice() {
            ["dns-version"] => match kind {
                Kind::Txt | Kind::Any => one(&name, RecordData::Txt("1.1.0".into())),
                _ => Answer::NoData,
            },
            ["svc" | "pod"] => Answer::NoData,
            [namespace, "svc" | "pod"] => self.known(namespace),
            [pod, namespace, "pod"] => self.pod(&name, pod, namespace, kind),
            [.., service, namespace, "svc"] => {
                let found = self.namespaces.get(*namespace).and_then(|n| n.get(*service));
                let Some(entry) = found else { return Answer::NxDomain };
                self.service(&name, entry, &labels[..labels.len() - 3], kind)
            }
            _ => Answer::NxDomain,
        }
    }

    fn known(&self, namespace: &str) -> Answer {
        if self.namespaces.contains_key(namespace) { Answer::NoData } else { Answer::NxDomain }
    }

    fn pointer(&self, name: &str, ip: IpAddr, kind: Kind) -> Answer {
        let Some(names) = self.reverse.get(&ip) else { return Answer::NotOurs };
        if !matches!(kind, Kind::Ptr | Kind::Any) {
            return Answer::NoData;
        }
        let record = |n: &String| Record { name: name.to_owned(), data: RecordData::Ptr(n.clone()) };
        Answer::Records { answers: names.iter().map(record).collect(), extra: Vec::new() }
    }

    fn pod(&self, name: &str, pod: &str, namespace: &str, kind: Kind) -> Answer {
        if !self.namespaces.contains_key(namespace) {
            return Answer::NxDomain;
        }
        let dotted = pod.replace('-', ".").parse::<std::net::Ipv4Addr>().map(IpAddr::from);
        let address =
            dotted.or_else(|_| pod.replace('-', ":").parse::<std::net::Ipv6Addr>().map(IpAddr::from));
        match address {
            Ok(ip) => addresses(name, [ip].iter(), kind),
            Err(_) => Answer::NxDomain,
        }
    }

    fn service(&self, name: &str, e: &Entry, front: &[&str], kind: Kind) -> Answer {
        if let Some(target) = &e.external_name {
            return if front.is_empty() { Answer::Alias(target.clone()) } else { Answer::NxDomain };
        }
        let headless = e.cluster_ips.is_empty();
        match front {
            [] if kind == Kind::Srv => self.ports(name, name, e, None),
            [] if headless => addresses(name, e.endpoints.iter().map(|p| &p.address), kind),
            [] => addresses(name, e.cluster_ips.iter(), kind),
            [label] if headless && !label.starts_with('_') => {
                let mine: Vec<IpAddr> =
                    e.endpoints.iter().filter(|p| p.label == *label).map(|p| p.address).collect();
                if mine.is_empty() { Answer::NxDomain } else { addresses(name, mine.iter(), kind) }
            }
            [port, proto] => {
                let (Some(port), Some(proto)) = (port.strip_prefix('_'), proto.strip_prefix('_')) else {
                    return Answer::NxDomain;
                };
                let base = name.splitn(3, '.').nth(2).unwrap_or(name);
                match self.ports(name, base, e, Some((port, proto))) {
                    Answer::NoData => Answer::NxDomain,
                    found if matches!(kind, Kind::Srv | Kind::Any) => found,
                    _ => Answer::NoData,
                }
            }
            _ => Answer::NxDomain,
        }
    }

    /// SRV records of the Service `base`, all or those of one named port.
    fn ports(&self, name: &str, base: &str, e: &Entry, only: Option<(&str, &str)>) -> Answer {
        let wanted = |p: &&Port| match only {
            Some((port, proto)) => p.name == port && p.proto == proto,
            None => true,
        };
        let (mut answers, mut extra) = (Vec::new(), Vec::new());
        let mut srv = |port: u16, target: &str| {
            let data = RecordData::Srv { weight: 0, port, target: target.to_owned() };
            let record = Record { name: name.to_owned(), data };
            if !answers.contains(&record) {
                answers.push(record);
            }
        };
        let host = |name: &str, ip: IpAddr| Record { name: name.to_owned(), data: RecordData::Address(ip) };
        if e.cluster_ips.is_empty() {
            for p in &e.endpoints {
                let target = format!("{}.{base}", p.label);
                let mut any = false;
                for port in p.ports.iter().filter(wanted) {
                    srv(port.number, &target);
                    any = true;
                }
                if any {
                    extra.push(host(&target, p.address));
                }
            }
        } else {
            e.ports.iter().filter(wanted).for_each(|p| srv(p.number, base));
            extra.extend(e.cluster_ips.iter().map(|ip| host(base, *ip)));
        }
        if answers.is_empty() {
            return Answer::NoData;
        }
        let weight = u16::try_from(100 / answers.len()).unwrap_or(1).max(1);
        for a in &mut answers {
            if let RecordData::Srv { weight: w, .. } = &mut a.data {
                *w = weight;
            }
        }
        Answer::Records { answers, extra }
    }
}

fn one(name: &str, data: RecordData) -> Answer {
    Answer::Records { answers: vec![Record { name: name.to_owned(), data }], extra: Vec::new() }
}

fn addresses<'a>(name: &str, all: impl Iterator<Item = &'a IpAddr>, kind: Kind) -> Answer {
    let fits = |ip: &&IpAddr| match kind {
        Kind::A => ip.is_ipv4(),
        Kind::Aaaa => ip.is_ipv6(),
        Kind::Any => true,
        _ => false,
    };
    let record = |ip: &IpAddr| Record { name: name.to_owned(), data: RecordData::Address(*ip) };
    let answers: Vec<Record> = all.filter(fits).map(record).collect();
    if answers.is_empty() { Answer::NoData } else { Answer::Records { answers, extra: Vec::new() } }
}

fn entry(service: &Service, slices: &[&EndpointSlice]) -> Entry {
    let Some(spec) = &service.spec else { return Entry::default() };
    if spec.type_.as_deref() == Some("ExternalName") {
        let target = spec.external_name.as_deref().unwrap_or_default().trim_end_matches('.');
        return Entry { external_name: Some(target.to_lowercase()), ..Entry::default() };
    }
    let port = |name: Option<&str>, proto: Option<&str>, number: i32| {
        Some(Port {
            name: name.unwrap_or_default().to_owned(),
            proto: proto.unwrap_or("TCP").to_lowercase(),
            number: u16::try_from(number).ok()?,
        })
    };
    let ports = spec.ports.iter().flatten();
    let cluster_ips = cluster_ips(spec);
    let mut endpoints: Vec<Endpoint> = Vec::new();
    // Endpoints have names of their own only under headless Services.
    for slice in slices.iter().filter(|_| cluster_ips.is_empty()) {
        let ports: Vec<Port> = slice
            .ports
            .iter()
            .flatten()
            .filter_map(|p| port(p.name.as_deref(), p.protocol.as_deref(), p.port?))
            .collect();
        for e in slice.endpoints.iter().flatten() {
            let ready = e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
            let Some(address) = e.addresses.first().and_then(|a| a.parse::<IpAddr>().ok()) else { continue };
            if !ready && spec.publish_not_ready_addresses != Some(true) {
                continue;
            }
            let label = e.hostname.clone().unwrap_or_else(|| dashed(address));
            endpoints.push(Endpoint { label, named: e.hostname.is_some(), address, ports: ports.clone() });
        }
    }
    endpoints.sort_by(|a, b| (b.named, a.address).cmp(&(a.named, b.address)));
    endpoints.dedup_by(|a, b| a.address == b.address && a.label == b.label);
    Entry {
        cluster_ips,
        external_name: None,
        ports: ports.filter_map(|p| port(p.name.as_deref(), p.protocol.as_deref(), p.port)).collect(),
        endpoints,
    }
}

fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for.
fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(v4) = name.strip_suffix(".in-addr.arpa") {
        let mut parts: Vec<&str> = v4.split('.').collect();
        parts.reverse();
        return parts.join(".").parse().ok().filter(IpAddr::is_ipv4);
    }
    let digits: Vec<&str> = name.strip_suffix(".ip6.arpa")?.split('.').collect();
    if digits.len() != 32 || digits.iter().any(|d| d.len() != 1) {
        return None;
    }
    let text: String = digits.into_iter().rev().collect();
    u128::from_str_radix(&text, 16).ok().map(|n| IpAddr::V6(n.into()))
}
