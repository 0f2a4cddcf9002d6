//! NetworkPolicy v1 compiled for the pods of one node.
//!
//! A pod that policies select in a direction has an element in the map of that direction, leading to a chain: each
//! allowed peer and port returns, the rest is dropped. Pods with the same policies share the chain. Traffic between
//! a pod and its own node is not filtered (it does not pass the forward hook), and replies of allowed connections
//! always pass.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::base_rules::set_name;
use crate::cidr::{Cidr, Family, subtract};
use crate::ruleset::{
    Chain, Data, DataKind, Element, End, Field, KeyBuilder, Part, Proto, Rule, Set, Stmt, Type, Verdict,
};

type Labels = BTreeMap<String, String>;

/// Whether a selector matches labels. An unknown operator matches nothing.
pub fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let all = selector.match_labels.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    all && selector.match_expressions.iter().flatten().all(|e| {
        let have = labels.get(&e.key);
        let listed = have.is_some_and(|v| e.values.iter().flatten().any(|w| w == v));
        match e.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => have.is_some(),
            "DoesNotExist" => have.is_none(),
            _ => false,
        }
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    In,
    Out,
}

impl Direction {
    fn map(self) -> &'static str {
        match self {
            Direction::In => "polin",
            Direction::Out => "polout",
        }
    }

    fn peer(self, f: Family) -> Field {
        match self {
            Direction::In => Field::Saddr(f),
            Direction::Out => Field::Daddr(f),
        }
    }
}

/// A pod as policies see it.
struct Subject<'a> {
    pod: &'a Pod,
    labels: Labels,
    addresses: Vec<IpAddr>,
    local: bool,
}

/// All that policies depend on.
pub struct View<'a> {
    /// The node whose pods are protected.
    pub node: &'a str,
    /// All policies.
    pub policies: &'a [Arc<NetworkPolicy>],
    /// All pods.
    pub pods: &'a [Arc<Pod>],
    /// All namespaces.
    pub namespaces: &'a [Arc<Namespace>],
}

fn subjects<'a>(view: &View<'a>) -> Vec<Subject<'a>> {
    view.pods
        .iter()
        .filter_map(|p| {
            let (spec, status) = (p.spec.as_ref()?, p.status.as_ref()?);
            let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
            if spec.host_network == Some(true) || ended {
                return None;
            }
            let many = status.pod_ips.iter().flatten().map(|i| i.ip.as_str());
            let addresses: BTreeSet<IpAddr> =
                many.chain(status.pod_ip.as_deref()).filter_map(|t| t.parse().ok()).collect();
            Some(Subject {
                pod: p,
                labels: p.metadata.labels.clone().unwrap_or_default(),
                addresses: addresses.into_iter().collect(),
                local: spec.node_name.as_deref() == Some(view.node),
            })
            .filter(|s| !s.addresses.is_empty())
        })
        .collect()
}

fn directions(p: &NetworkPolicy) -> Vec<Direction> {
    let Some(spec) = &p.spec else { return Vec::new() };
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let named = |t: &str| types.iter().any(|x| x == t);
    let ingress = types.is_empty() || named("Ingress");
    let egress = named("Egress") || (types.is_empty() && spec.egress.as_ref().is_some_and(|e| !e.is_empty()));
    [(ingress, Direction::In), (egress, Direction::Out)].into_iter().filter(|x| x.0).map(|x| x.1).collect()
}

fn same_namespace(p: &NetworkPolicy, s: &Subject<'_>) -> bool {
    p.metadata.namespace == s.pod.metadata.namespace
}

fn is_selected(p: &NetworkPolicy, s: &Subject<'_>) -> bool {
    let selector = p.spec.as_ref().and_then(|x| x.pod_selector.as_ref());
    same_namespace(p, s) && selector.is_none_or(|x| selects(x, &s.labels))
}

/// Compiles all policies to one part, and says what was left out.
pub fn compile(view: &View<'_>) -> (Part, Vec<String>) {
    let all = subjects(view);
    let spaces: BTreeMap<&str, Labels> = view
        .namespaces
        .iter()
        .filter_map(|n| Some((n.metadata.name.as_deref()?, n.metadata.labels.clone().unwrap_or_default())))
        .collect();
    let mut c = Compiler { all: &all, spaces, part: Part::default(), why: Vec::new(), done: BTreeSet::new() };
    for subject in all.iter().filter(|s| s.local) {
        for direction in [Direction::In, Direction::Out] {
            let mut policies: Vec<&NetworkPolicy> = view
                .policies
                .iter()
                .map(|p| &**p)
                .filter(|p| directions(p).contains(&direction) && is_selected(p, subject))
                .collect();
            if !policies.is_empty() {
                policies.sort_by_key(|p| p.metadata.name.clone());
                c.protect(subject, direction, &policies);
            }
        }
    }
    c.why.sort();
    c.why.dedup();
    (c.part, c.why)
}

struct Compiler<'a> {
    all: &'a [Subject<'a>],
    spaces: BTreeMap<&'a str, Labels>,
    part: Part,
    why: Vec<String>,
    done: BTreeSet<String>,
}

/// Where an allowed peer's addresses are.
enum Peers {
    Anyone,
    Set { pods: Vec<IpAddr>, ranges: Vec<Cidr> },
}

impl<'a> Compiler<'a> {
    fn protect(&mut self, subject: &Subject<'a>, direction: Direction, policies: &[&NetworkPolicy]) {
        let named = named_ports(subject.pod);
        let keys: Vec<String> = policies.iter().map(|p| identity(p)).collect();
        for family in Family::ALL {
            let mine: Vec<IpAddr> =
                subject.addresses.iter().copied().filter(|a| Family::of(*a) == family).collect();
            if mine.is_empty() {
                continue;
            }
            // Named ports of ingress rules are those of the protected pod, so they are part of what is shared.
            let what = format!("{direction:?} {keys:?} {named:?}");
            let chain = format!("{}{}-{:016x}", direction.map(), family.digit(), hash(&what));
            for ip in mine {
                self.part.elements.push(Element {
                    set: set_name(direction.map(), family).into(),
                    key: KeyBuilder::new().ip(ip).done(),
                    end: None,
                    data: Data::Verdict(Verdict::Jump(chain.clone())),
                });
            }
            if self.done.insert(chain.clone()) {
                let mut rules = Vec::new();
                for p in policies {
                    self.policy_rules(p, direction, family, &named, &mut rules);
                }
                rules.push(Rule(vec![Stmt::Verdict(Verdict::Drop)]));
                self.part.chains.push(Chain { name: chain, hook: None, rules });
            }
        }
    }

    fn policy_rules(
        &mut self,
        p: &NetworkPolicy,
        direction: Direction,
        family: Family,
        named: &BTreeMap<(String, Proto), u16>,
        rules: &mut Vec<Rule>,
    ) {
        let Some(spec) = &p.spec else { return };
        type Allowed<'x> = (Option<&'x Vec<NetworkPolicyPeer>>, Option<&'x Vec<NetworkPolicyPort>>);
        let list: Vec<Allowed<'_>> = match direction {
            Direction::In => {
                spec.ingress.iter().flatten().map(|r| (r.from.as_ref(), r.ports.as_ref())).collect()
            }
            Direction::Out => {
                spec.egress.iter().flatten().map(|r| (r.to.as_ref(), r.ports.as_ref())).collect()
            }
        };
        for (i, (peers, ports)) in list.into_iter().enumerate() {
            let base = format!("np{}-{:016x}-{direction:?}{i}", family.digit(), hash(&identity(p)));
            let peers = self.peers(p, peers, family);
            let ports = ports.filter(|p| !p.is_empty());
            let sources = self.peer_statements(&base, &peers, direction, family);
            for source in sources {
                let Some(ports) = ports else {
                    rules.push(allow(source.into_iter().collect()));
                    continue;
                };
                for port in ports {
                    for test in self.port_statements(p, port, direction, family, named, &base, &peers) {
                        rules.push(allow(source.iter().cloned().chain(test).collect()));
                    }
                }
            }
        }
    }

    fn peers(&mut self, p: &NetworkPolicy, peers: Option<&Vec<NetworkPolicyPeer>>, family: Family) -> Peers {
        let Some(list) = peers.filter(|l| !l.is_empty()) else { return Peers::Anyone };
        let (mut pods, mut ranges) = (BTreeSet::new(), Vec::new());
        for peer in list {
            if let Some(block) = &peer.ip_block {
                let Ok(range) = block.cidr.parse::<Cidr>() else {
                    self.why.push(format!("{}: ipBlock {:?} is no range", identity(p), block.cidr));
                    continue;
                };
                let except: Vec<Cidr> =
                    block.except.iter().flatten().filter_map(|t| t.parse().ok()).collect();
                ranges.extend(subtract(range, &except).into_iter().filter(|r| r.family() == family));
                continue;
            }
            let matching = self.all.iter().filter(|s| {
                let inside = match &peer.namespace_selector {
                    Some(selector) => {
                        let name = s.pod.metadata.namespace.as_deref().unwrap_or_default();
                        self.spaces.get(name).is_some_and(|labels| selects(selector, labels))
                    }
                    None => same_namespace(p, s),
                };
                inside && peer.pod_selector.as_ref().is_none_or(|x| selects(x, &s.labels))
            });
            pods.extend(matching.flat_map(|s| &s.addresses).filter(|a| Family::of(**a) == family));
        }
        Peers::Set { pods: pods.into_iter().collect(), ranges: disjoint(ranges) }
    }

    /// Tests of the peer's address: any of them allows. `None` is no test at all.
    fn peer_statements(
        &mut self,
        base: &str,
        peers: &Peers,
        direction: Direction,
        family: Family,
    ) -> Vec<Option<Stmt>> {
        let Peers::Set { pods, ranges } = peers else { return vec![None] };
        let mut out = Vec::new();
        let mut test = |c: &mut Compiler<'a>, name: String, interval, elements: Vec<Element>| {
            c.add_set(
                Set {
                    name: name.clone(),
                    key: vec![Type::Ip(family)],
                    data: DataKind::None,
                    interval,
                    dynamic: false,
                },
                elements,
            );
            out.push(Some(Stmt::InSet { key: vec![direction.peer(family)], set: name, negate: false }));
        };
        if !pods.is_empty() {
            let name = format!("{base}p");
            let elements = pods.iter().map(|ip| plain(&name, KeyBuilder::new().ip(*ip))).collect();
            test(self, name.clone(), false, elements);
        }
        if !ranges.is_empty() {
            let name = format!("{base}r");
            let element = |r: &Cidr| Element {
                end: Some(End::Address(r.last())),
                ..plain(&name, KeyBuilder::new().ip(r.first()))
            };
            let elements = ranges.iter().map(element).collect();
            test(self, name.clone(), true, elements);
        }
        out
    }

    fn add_set(&mut self, set: Set, elements: Vec<Element>) {
        if self.done.insert(set.name.clone()) {
            self.part.sets.push(set);
            self.part.elements.extend(elements);
        }
    }

    /// Tests of protocol and port: each allows.
    #[expect(clippy::too_many_arguments, reason = "one port of one rule, in its whole context")]
    fn port_statements(
        &mut self,
        p: &NetworkPolicy,
        port: &NetworkPolicyPort,
        direction: Direction,
        family: Family,
        named: &BTreeMap<(String, Proto), u16>,
        base: &str,
        peers: &Peers,
    ) -> Vec<Vec<Stmt>> {
        let Some(proto) = Proto::parse(port.protocol.as_deref()) else {
            self.why.push(format!("{}: unknown protocol {:?}", identity(p), port.protocol));
            return Vec::new();
        };
        let number = |n: i32| u16::try_from(n).ok();
        match &port.port {
            None => vec![vec![Stmt::IsProto(proto)]],
            Some(IntOrString::Int(n)) => {
                let last = port.end_port.unwrap_or(*n);
                let (Some(from), Some(to)) = (number(*n), number(last)) else { return Vec::new() };
                vec![vec![Stmt::IsProto(proto), Stmt::DportIn(from, to)]]
            }
            Some(IntOrString::String(name)) if direction == Direction::In => {
                let found = named.get(&(name.clone(), proto));
                found.map(|n| vec![Stmt::IsProto(proto), Stmt::DportIn(*n, *n)]).into_iter().collect()
            }
            Some(IntOrString::String(name)) => {
                vec![vec![self.named_targets(name, proto, family, base, peers)]]
            }
        }
    }

    /// Egress to a named port: each peer has its own number for it.
    fn named_targets(&mut self, name: &str, proto: Proto, family: Family, base: &str, peers: &Peers) -> Stmt {
        let set = format!("{base}n{:08x}", hash(&format!("{name} {proto:?}")) >> 32);
        let mut elements = Vec::new();
        for s in self.all {
            let Some(number) = named_ports(s.pod).get(&(name.to_owned(), proto)).copied() else { continue };
            for ip in s.addresses.iter().filter(|a| Family::of(**a) == family) {
                let wanted = match peers {
                    Peers::Anyone => true,
                    Peers::Set { pods, ranges } => {
                        pods.contains(ip) || ranges.iter().any(|r| r.contains(*ip))
                    }
                };
                if wanted {
                    elements.push(plain(&set, KeyBuilder::new().ip(*ip).proto(proto).port(number)));
                }
            }
        }
        let key = vec![Type::Ip(family), Type::Proto, Type::Port];
        self.add_set(
            Set { name: set.clone(), key, data: DataKind::None, interval: false, dynamic: false },
            elements,
        );
        let key = vec![Field::Daddr(family), Field::L4proto, Field::Dport];
        Stmt::InSet { key, set, negate: false }
    }
}

fn plain(set: &str, key: KeyBuilder) -> Element {
    Element { set: set.to_owned().into(), key: key.done(), end: None, data: Data::None }
}

fn allow(tests: Vec<Stmt>) -> Rule {
    Rule(tests.into_iter().chain([Stmt::Verdict(Verdict::Return)]).collect())
}

fn identity(p: &NetworkPolicy) -> String {
    let m = &p.metadata;
    format!("{}/{}", m.namespace.as_deref().unwrap_or_default(), m.name.as_deref().unwrap_or_default())
}

fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

fn named_ports(pod: &Pod) -> BTreeMap<(String, Proto), u16> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|s| s.init_containers.as_ref()).into_iter().flatten();
    let sidecars = init.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let all = spec.map(|s| s.containers.as_slice()).unwrap_or_default().iter().chain(sidecars);
    all.flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            let proto = Proto::parse(p.protocol.as_deref())?;
            Some(((p.name.clone()?, proto), u16::try_from(p.container_port).ok()?))
        })
        .collect()
}

/// Ranges without those that others cover: interval sets refuse overlaps, and ranges either nest or are apart.
fn disjoint(mut ranges: Vec<Cidr>) -> Vec<Cidr> {
    ranges.sort_by_key(Cidr::length);
    let mut kept: Vec<Cidr> = Vec::new();
    for r in ranges {
        if !kept.iter().any(|k| k.covers(&r)) {
            kept.push(r);
        }
    }
    kept.sort();
    kept
}
