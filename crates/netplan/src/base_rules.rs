//! The fixed part of the table: hooks, the maps that Services fill, masquerading and the guard rules.
//!
//! Services have no chains of their own. A frontend (address, protocol, port) is one element of a verdict map that
//! leads to a chain shared by all frontends with the same number of backends; that chain picks a random index and
//! looks up (frontend, index) in the map of backends. So an endpoint is one element and a change touches only
//! elements, and the kernel's walk over chains stays short whatever the number of Services.
//!
//! Frontends that accept any of the node's addresses (node ports, host ports) use the unspecified address as key.

use crate::cidr::{Cidr, Family};
use crate::ruleset::{Chain, DataKind, Element, Field, Hook, Part, Rule, Set, Stmt, Type, Verdict};
use crate::ruleset::{Data, End, KeyBuilder};

/// What the base part depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BaseFacts {
    /// The ranges of this node's pods.
    pub pod_cidrs: Vec<Cidr>,
    /// Ranges that pods reach with their own address: the pods of the whole cluster.
    pub native_cidrs: Vec<Cidr>,
    /// Where the node's DNS server listens, per family, and its port.
    pub dns: Vec<std::net::SocketAddr>,
    /// The cluster DNS addresses that are led to it, on port 53.
    pub dns_cluster_ips: Vec<std::net::IpAddr>,
}

/// The name of a set of a family.
pub fn set_name(base: &'static str, family: Family) -> &'static str {
    match (base, family) {
        ("svc", Family::V4) => "svc4",
        ("svc", Family::V6) => "svc6",
        ("svcin", Family::V4) => "svcin4",
        ("svcin", Family::V6) => "svcin6",
        ("svcloc", Family::V4) => "svcloc4",
        ("svcloc", Family::V6) => "svcloc6",
        ("ep", Family::V4) => "ep4",
        ("ep", Family::V6) => "ep6",
        ("eploc", Family::V4) => "eploc4",
        ("eploc", Family::V6) => "eploc6",
        ("aff", Family::V4) => "aff4",
        ("aff", Family::V6) => "aff6",
        ("live", Family::V4) => "live4",
        ("live", Family::V6) => "live6",
        ("fw", Family::V4) => "fw4",
        ("fw", Family::V6) => "fw6",
        ("fwallow", Family::V4) => "fwallow4",
        ("fwallow", Family::V6) => "fwallow6",
        ("ips", Family::V4) => "ips4",
        ("ips", Family::V6) => "ips6",
        ("noep", Family::V4) => "noep4",
        ("noep", Family::V6) => "noep6",
        ("local", Family::V4) => "local4",
        ("local", Family::V6) => "local6",
        ("native", Family::V4) => "native4",
        ("native", Family::V6) => "native6",
        ("polin", Family::V4) => "polin4",
        ("polin", Family::V6) => "polin6",
        ("polout", Family::V4) => "polout4",
        _ => "polout6",
    }
}

/// The key of a frontend in packets: destination address, protocol, port.
pub fn frontend(family: Family) -> Vec<Field> {
    vec![Field::Daddr(family), Field::L4proto, Field::Dport]
}

/// The key of a frontend on any of the node's addresses.
pub fn any_frontend(family: Family) -> Vec<Field> {
    vec![Field::Any(family), Field::L4proto, Field::Dport]
}

/// The sets every table has.
pub fn base_sets() -> Vec<Set> {
    let mut sets = Vec::new();
    for f in Family::ALL {
        let ip = Type::Ip(f);
        let frontend = vec![ip, Type::Proto, Type::Port];
        let with = |more: &[Type]| frontend.iter().chain(more).copied().collect::<Vec<_>>();
        let backend = DataKind::Value(vec![ip, Type::Port]);
        let mut add = |base, key: Vec<Type>, data: DataKind, interval, dynamic| {
            sets.push(Set { name: set_name(base, f).into(), key, data, interval, dynamic });
        };
        for base in ["svc", "svcin", "svcloc"] {
            add(base, frontend.clone(), DataKind::Verdict, false, false);
        }
        for base in ["ep", "eploc"] {
            add(base, with(&[Type::Number]), backend.clone(), false, false);
        }
        add("aff", with(&[ip]), backend, false, true);
        add("live", with(&[ip, Type::Port]), DataKind::None, false, false);
        add("fw", frontend.clone(), DataKind::None, false, false);
        add("fwallow", with(&[ip]), DataKind::None, true, false);
        add("ips", vec![ip], DataKind::None, false, false);
        add("noep", frontend.clone(), DataKind::None, false, false);
        add("local", vec![ip, ip], DataKind::None, false, false);
        add("native", vec![ip], DataKind::None, true, false);
        add("polin", vec![ip], DataKind::Verdict, false, false);
        add("polout", vec![ip], DataKind::Verdict, false, false);
    }
    sets
}

fn in_set(key: Vec<Field>, base: &'static str, f: Family, negate: bool) -> Stmt {
    Stmt::InSet { key, set: set_name(base, f).into(), negate }
}

fn vmap(key: Vec<Field>, base: &'static str, f: Family) -> Stmt {
    Stmt::VerdictMap { key, set: set_name(base, f).into() }
}

fn chain(name: &str, hook: Option<Hook>, rules: Vec<Rule>) -> Chain {
    Chain { name: name.into(), hook, rules }
}

/// The base part.
pub fn base_part(facts: &BaseFacts) -> Part {
    let jump = |c: &str| Rule(vec![Stmt::Verdict(Verdict::Jump(c.into()))]);
    let mut services = Vec::new();
    let mut external_local = Vec::new();
    let mut node_local = Vec::new();
    let mut guard = Vec::new();
    let mut refuse = Vec::new();
    for f in Family::ALL {
        let own = |key: Vec<Field>, out: &mut Vec<Rule>| {
            for c in facts.pod_cidrs.iter().filter(|c| c.family() == f) {
                let from_pod = Stmt::InCidr { field: Field::Saddr(f), cidr: *c, negate: false };
                out.push(Rule(vec![from_pod, vmap(key.clone(), "svcin", f)]));
            }
            let from_node = vec![Stmt::IsFamily(f), Stmt::SaddrIsLocal, Stmt::MarkMasquerade];
            out.push(Rule(from_node.into_iter().chain([vmap(key.clone(), "svcin", f)]).collect()));
            out.push(Rule(vec![vmap(key, "svcloc", f)]));
        };
        services.push(Rule(vec![vmap(frontend(f), "svc", f)]));
        services.push(Rule(vec![Stmt::IsFamily(f), Stmt::DaddrIsLocal, vmap(any_frontend(f), "svc", f)]));
        own(frontend(f), &mut external_local);
        own(any_frontend(f), &mut node_local);
        let outside = in_set([frontend(f), vec![Field::Saddr(f)]].concat(), "fwallow", f, true);
        guard.push(Rule(vec![in_set(frontend(f), "fw", f, false), outside, Stmt::Verdict(Verdict::Drop)]));
        refuse.push(Rule(vec![in_set(frontend(f), "noep", f, false), Stmt::Reject]));
        refuse.push(Rule(vec![Stmt::DaddrIsLocal, in_set(any_frontend(f), "noep", f, false), Stmt::Reject]));
        refuse.push(Rule(vec![in_set(vec![Field::Daddr(f)], "ips", f, false), Stmt::Reject]));
    }
    let loopback = Cidr::new([127, 0, 0, 0].into(), 8);
    let martian = Rule(vec![
        Stmt::InCidr { field: Field::Daddr(Family::V4), cidr: loopback, negate: false },
        Stmt::NotFromLoopback,
        Stmt::Verdict(Verdict::Drop),
    ]);
    let chains = vec![
        chain("services", None, services),
        chain("external-local", None, external_local),
        chain("node-local", None, node_local),
        chain("guard", None, guard),
        chain("refuse", None, refuse),
        chain("pre-filter", Some(Hook::PreFilter), vec![martian, jump("guard")]),
        chain("out-filter", Some(Hook::OutFilter), vec![jump("guard")]),
        chain("pre-nat", Some(Hook::PreNat), vec![jump("services")]),
        chain("out-nat", Some(Hook::OutNat), vec![jump("services")]),
        chain("pre-refuse", Some(Hook::PostDnat), vec![jump("refuse")]),
        chain("out-refuse", Some(Hook::OutPostDnat), vec![jump("refuse")]),
        chain("forward", Some(Hook::Forward), forward_rules()),
        chain("post-nat", Some(Hook::PostNat), masquerade_rules(facts, loopback)),
    ];
    let mut elements = native_elements(&facts.native_cidrs);
    elements.extend(dns_elements(facts));
    let mut part = Part { sets: base_sets(), chains, elements };
    part.chains.push(crate::services::plain_chain(Family::V4, 1, &facts.pod_cidrs));
    part.chains.push(crate::services::plain_chain(Family::V6, 1, &facts.pod_cidrs));
    part
}

fn forward_rules() -> Vec<Rule> {
    let mut rules = vec![Rule(vec![Stmt::Established, Stmt::Verdict(Verdict::Accept)])];
    for f in Family::ALL {
        rules.push(Rule(vec![vmap(vec![Field::Saddr(f)], "polout", f)]));
        rules.push(Rule(vec![vmap(vec![Field::Daddr(f)], "polin", f)]));
    }
    rules
}

fn masquerade_rules(facts: &BaseFacts, loopback: Cidr) -> Vec<Rule> {
    let mut rules = vec![Rule(vec![Stmt::TakeMasqueradeMark, Stmt::Masquerade])];
    let from_loopback = Stmt::InCidr { field: Field::Saddr(Family::V4), cidr: loopback, negate: false };
    rules.push(Rule(vec![Stmt::WasDnat, from_loopback, Stmt::Masquerade]));
    for f in Family::ALL {
        let pair = vec![Field::Saddr(f), Field::Daddr(f)];
        rules.push(Rule(vec![Stmt::WasDnat, in_set(pair, "local", f, false), Stmt::Masquerade]));
        for c in facts.pod_cidrs.iter().filter(|c| c.family() == f) {
            let from_pod = Stmt::InCidr { field: Field::Saddr(f), cidr: *c, negate: false };
            let abroad = in_set(vec![Field::Daddr(f)], "native", f, true);
            rules.push(Rule(vec![from_pod, abroad, Stmt::Masquerade]));
        }
    }
    rules
}

fn native_elements(cidrs: &[Cidr]) -> Vec<Element> {
    let mut kept: Vec<Cidr> = Vec::new();
    let mut sorted = cidrs.to_vec();
    sorted.sort_by_key(|c| c.length());
    for c in sorted {
        if !kept.iter().any(|k| k.covers(&c)) {
            kept.push(c);
        }
    }
    kept.iter()
        .map(|c| Element {
            set: set_name("native", c.family()).into(),
            key: KeyBuilder::new().ip(c.first()).done(),
            end: Some(End::Address(c.last())),
            data: Data::None,
        })
        .collect()
}

/// The cluster DNS addresses lead to the node's own server, whatever the Service's endpoints say.
fn dns_elements(facts: &BaseFacts) -> Vec<Element> {
    use crate::ruleset::Proto;
    let mut out = Vec::new();
    for ip in &facts.dns_cluster_ips {
        let family = Family::of(*ip);
        let Some(server) = facts.dns.iter().find(|s| Family::of(s.ip()) == family) else { continue };
        for proto in [Proto::Udp, Proto::Tcp] {
            let key = KeyBuilder::new().ip(*ip).proto(proto).port(53);
            out.push(Element {
                set: set_name("svc", family).into(),
                key: key.clone().done(),
                end: None,
                data: Data::Verdict(Verdict::Goto(crate::services::plain_name(family, 1))),
            });
            out.push(Element {
                set: set_name("ep", family).into(),
                key: key.number(0).done(),
                end: None,
                data: Data::Value(KeyBuilder::new().ip(server.ip()).port(server.port()).done()),
            });
        }
    }
    out
}
