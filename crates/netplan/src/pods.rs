//! What a node's own pods add to the rule table: hairpin marks and host ports.

use std::net::IpAddr;

use crate::base_rules::{any_frontend, frontend, set_name};
use crate::cidr::Family;
use crate::ruleset::{Chain, Data, Element, Field, KeyBuilder, Part, Proto, Rule, Stmt, Verdict};

/// The part that lets pods reach themselves through a Service: replies must come back through the host.
pub fn part(addresses: &[IpAddr]) -> Part {
    let elements = addresses
        .iter()
        .map(|a| Element {
            set: set_name("local", Family::of(*a)).into(),
            key: KeyBuilder::new().ip(*a).ip(*a).done(),
            end: None,
            data: Data::None,
        })
        .collect();
    Part { elements, ..Part::default() }
}

/// A port of the host that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The host's address; any of its addresses when absent.
    pub host_ip: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The protocol.
    pub proto: Proto,
    /// The pod's port.
    pub pod_port: u16,
}

/// The part of one pod's host ports.
pub fn host_ports(addresses: &[IpAddr], ports: &[HostPort]) -> Part {
    let mut part = Part::default();
    for address in addresses {
        let family = Family::of(*address);
        for p in ports {
            let host = p.host_ip.filter(|ip| !ip.is_unspecified());
            if host.is_some_and(|ip| Family::of(ip) != family) {
                continue;
            }
            let (word, fields) = match host {
                Some(_) => ("host", frontend(family)),
                None => ("hostany", any_frontend(family)),
            };
            let chain = Chain {
                name: format!("{word}{}", family.digit()),
                hook: None,
                rules: vec![Rule(vec![Stmt::DnatMap {
                    family,
                    key: fields.into_iter().chain([Field::Random(1)]).collect(),
                    set: set_name("ep", family).into(),
                }])],
            };
            let key =
                KeyBuilder::new().ip(host.unwrap_or(family.unspecified())).proto(p.proto).port(p.host_port);
            part.elements.push(Element {
                set: set_name("svc", family).into(),
                key: key.clone().done(),
                end: None,
                data: Data::Verdict(Verdict::Goto(chain.name.clone())),
            });
            part.elements.push(Element {
                set: set_name("ep", family).into(),
                key: key.number(0).done(),
                end: None,
                data: Data::Value(KeyBuilder::new().ip(*address).port(p.pod_port).done()),
            });
            if !part.chains.contains(&chain) {
                part.chains.push(chain);
            }
        }
    }
    part
}

/// Bytes per second of a bandwidth annotation (a quantity in bits per second); `None` if it is none or too small.
pub fn bytes_per_s(text: &str) -> Option<u64> {
    const UNITS: [(&str, f64); 8] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
    ];
    let text = text.trim();
    let unit = UNITS.iter().find_map(|(u, f)| Some((text.strip_suffix(u)?, *f)));
    let (number, factor) = unit.unwrap_or((text, 1.0));
    let bits = number.parse::<f64>().ok()? * factor;
    // Upstream's limits: 1k to 1P bits per second.
    (1e3..=1e15).contains(&bits).then_some((bits / 8.0) as u64)
}
