//! Services and their EndpointSlices, as seen from one node, compiled to parts of the rule table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::base_rules::{any_frontend, frontend, set_name};
use crate::cidr::{Cidr, Family};
use crate::endpoints::{self, Backend, Choice};
use crate::ruleset::{Chain, Data, Element, End, Field, KeyBuilder, Part, Proto, Rule, Stmt, Verdict};

/// What a node knows of itself, as far as Services depend on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The node's name.
    pub name: String,
    /// Its zone (`topology.kubernetes.io/zone`).
    pub zone: Option<String>,
    /// The ranges of its pods.
    pub pod_cidrs: Vec<Cidr>,
}

/// A flow whose connection tracking entries may be wrong after a change: UDP keeps talking to the old backend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UdpFrontend {
    /// The destination address; `None` for a node port.
    pub address: Option<IpAddr>,
    /// The destination port.
    pub port: u16,
    /// The backends that are in use.
    pub backends: BTreeSet<(IpAddr, u16)>,
}

/// A health check port for outside load balancers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// The port to answer on.
    pub port: u16,
    /// Ready backends on this node.
    pub local_endpoints: usize,
}

/// What one Service comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServicePlan {
    /// Its part of the table.
    pub part: Part,
    /// UDP frontends.
    pub udp: Vec<UdpFrontend>,
    /// The health check port of `externalTrafficPolicy: Local`.
    pub health: Option<HealthCheck>,
    /// Why something was left out.
    pub why: Vec<String>,
}

/// Backends that one frontend may have; more are left out (a bound on what a Service can make the kernel hold).
const BACKENDS_MAX: usize = 5000;
/// Seconds a client is remembered when the Service does not say.
const AFFINITY_DEFAULT_S: u32 = 10_800;

/// Name of the chain that spreads over `count` backends of a frontend with an own address.
pub fn plain_name(family: Family, count: usize) -> String {
    format!("lb{}-{count}", family.digit())
}

/// The chain that spreads over `count` backends of cluster addresses.
pub fn plain_chain(family: Family, count: usize, pod_cidrs: &[Cidr]) -> Chain {
    Shape { family, count, class: Class::Cluster, affinity_s: None }.chain(pod_cidrs)
}

/// Who may use a frontend and what happens to the source address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Cluster addresses: the source is translated only if it is no pod of this node.
    Cluster,
    /// From outside to any backend: always translated.
    External,
    /// From outside to backends of this node: never translated.
    Local,
    /// As `External`, on the node's own addresses.
    NodePort,
    /// As `Local`, on the node's own addresses.
    NodeLocal,
    /// As `Cluster`, on the node's own addresses (own pods and the node itself under the policy `Local`).
    NodeInner,
}

impl Class {
    fn word(self) -> &'static str {
        match self {
            Class::Cluster => "lb",
            Class::External => "ext",
            Class::Local => "loc",
            Class::NodePort => "np",
            Class::NodeLocal => "npl",
            Class::NodeInner => "npi",
        }
    }

    fn key(self, family: Family) -> Vec<Field> {
        match self {
            Class::Cluster | Class::External | Class::Local => frontend(family),
            Class::NodePort | Class::NodeLocal | Class::NodeInner => any_frontend(family),
        }
    }

    fn backends(self) -> &'static str {
        match self {
            Class::Local | Class::NodeLocal => "eploc",
            _ => "ep",
        }
    }
}

/// What makes a spreading chain: all frontends of the same shape share it.
#[derive(Debug, Clone, Copy)]
struct Shape {
    family: Family,
    count: usize,
    class: Class,
    affinity_s: Option<u32>,
}

impl Shape {
    fn name(&self) -> String {
        let plain = format!("{}{}-{}", self.class.word(), self.family.digit(), self.count);
        self.affinity_s.map_or(plain.clone(), |s| format!("{plain}-aff{s}"))
    }

    fn chain(&self, pod_cidrs: &[Cidr]) -> Chain {
        let f = self.family;
        let mut rules = Vec::new();
        match self.class {
            Class::External | Class::NodePort => rules.push(Rule(vec![Stmt::MarkMasquerade])),
            Class::Cluster | Class::NodeInner => {
                let own: Vec<Stmt> = pod_cidrs
                    .iter()
                    .filter(|c| c.family() == f)
                    .map(|c| Stmt::InCidr { field: Field::Saddr(f), cidr: *c, negate: true })
                    .collect();
                if !own.is_empty() {
                    rules.push(Rule(own.into_iter().chain([Stmt::MarkMasquerade]).collect()));
                }
            }
            Class::Local | Class::NodeLocal => {}
        }
        let key = self.class.key(f);
        let backends = set_name(self.class.backends(), f).to_owned();
        let count = u32::try_from(self.count).unwrap_or(u32::MAX);
        match self.affinity_s {
            None => {
                let indexed = key.into_iter().chain([Field::Random(count)]).collect();
                rules.push(Rule(vec![Stmt::DnatMap { family: f, key: indexed, set: backends }]));
            }
            Some(timeout_s) => {
                let set = set_name("aff", f).to_owned();
                rules.push(Rule(vec![Stmt::AffinityHit {
                    family: f,
                    key: key.clone(),
                    set: set.clone(),
                    live: set_name("live", f).to_owned(),
                    timeout_s,
                }]));
                let pick = Stmt::AffinityPick { family: f, key, backends, count, set, timeout_s };
                rules.push(Rule(vec![pick]));
            }
        }
        Chain { name: self.name(), hook: None, rules }
    }
}

/// What one port of a Service writes into.
struct Writer<'a> {
    node: &'a NodeFacts,
    proto: Proto,
    affinity_s: Option<u32>,
    plan: &'a mut ServicePlan,
}

impl Writer<'_> {
    fn key(&self, address: IpAddr, port: u16) -> KeyBuilder {
        KeyBuilder::new().ip(address).proto(self.proto).port(port)
    }

    fn element(&mut self, base: &'static str, family: Family, key: KeyBuilder, data: Data) {
        let set = set_name(base, family).into();
        self.plan.part.elements.push(Element { set, key: key.done(), end: None, data });
    }

    /// Adds one frontend to the verdict map `map`, its backends, and the chain they share.
    fn spread(&mut self, map: &'static str, class: Class, address: IpAddr, port: u16, to: &[Backend]) {
        let family = Family::of(address);
        let shape = Shape { family, count: to.len(), class, affinity_s: self.affinity_s };
        let chain = shape.chain(&self.node.pod_cidrs);
        let key = self.key(address, port);
        self.element(map, family, key.clone(), Data::Verdict(Verdict::Goto(chain.name.clone())));
        if !self.plan.part.chains.iter().any(|c| c.name == chain.name) {
            self.plan.part.chains.push(chain);
        }
        for (i, b) in (0_u32..).zip(to) {
            let value = KeyBuilder::new().ip(b.address).port(b.port);
            self.element(class.backends(), family, key.clone().number(i), Data::Value(value.done()));
            if self.affinity_s.is_some() {
                self.live(family, key.clone().ip(b.address).port(b.port));
            }
        }
    }

    /// A frontend's two views (any backend, backends of this node) may name the same backend.
    fn live(&mut self, family: Family, key: KeyBuilder) {
        let set = set_name("live", family);
        let key = key.done();
        if !self.plan.part.elements.iter().any(|e| e.set == set && e.key == key) {
            self.plan.part.elements.push(Element { set: set.into(), key, end: None, data: Data::None });
        }
    }

    fn refuse(&mut self, address: IpAddr, port: u16) {
        let key = self.key(address, port);
        self.element("noep", Family::of(address), key, Data::None);
    }

    fn udp(&mut self, address: IpAddr, port: u16, to: &[&[Backend]]) {
        if self.proto == Proto::Udp {
            let backends = to.iter().flat_map(|b| b.iter().map(|b| (b.address, b.port))).collect();
            let address = (!address.is_unspecified()).then_some(address);
            self.plan.udp.push(UdpFrontend { address, port, backends });
        }
    }

    fn internal(&mut self, address: IpAddr, port: u16, choice: &Choice, local_only: bool) {
        let to = if local_only { &choice.local } else { &choice.cluster };
        self.udp(address, port, &[to]);
        if !to.is_empty() {
            self.spread("svc", Class::Cluster, address, port, to);
        } else if local_only && choice.any {
            let key = self.key(address, port);
            self.element("svc", Family::of(address), key, Data::Verdict(Verdict::Drop));
        } else {
            self.refuse(address, port);
        }
    }

    /// A frontend reached from outside: `address` is unspecified for a node port.
    fn external(&mut self, address: IpAddr, port: u16, choice: &Choice, local_only: bool) {
        let family = Family::of(address);
        let node_port = address.is_unspecified();
        self.udp(address, port, &[&choice.cluster, &choice.local]);
        if choice.cluster.is_empty() && choice.local.is_empty() {
            self.refuse(address, port);
            return;
        }
        if !local_only {
            let class = if node_port { Class::NodePort } else { Class::External };
            self.spread("svc", class, address, port, &choice.cluster);
            return;
        }
        let (entry, inner, outer) = if node_port {
            ("node-local", Class::NodeInner, Class::NodeLocal)
        } else {
            ("external-local", Class::Cluster, Class::Local)
        };
        let key = self.key(address, port);
        self.element("svc", family, key.clone(), Data::Verdict(Verdict::Goto(entry.into())));
        if !choice.cluster.is_empty() {
            self.spread("svcin", inner, address, port, &choice.cluster);
        }
        if choice.local.is_empty() {
            self.element("svcloc", family, key, Data::Verdict(Verdict::Drop));
        } else {
            self.spread("svcloc", outer, address, port, &choice.local);
        }
    }

    fn source_ranges(&mut self, address: IpAddr, port: u16, ranges: &[Cidr]) {
        let family = Family::of(address);
        let key = self.key(address, port);
        self.element("fw", family, key.clone(), Data::None);
        for r in ranges.iter().filter(|r| r.family() == family) {
            self.plan.part.elements.push(Element {
                set: set_name("fwallow", family).into(),
                key: key.clone().ip(r.first()).done(),
                end: Some(End::Key(key.clone().ip(r.last()).done())),
                data: Data::None,
            });
        }
    }
}

/// Labels of Services and EndpointSlices that are not this proxy's: another one serves them, or nobody should.
const NOT_OURS: [&str; 2] = ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];

fn is_ours(metadata: &ObjectMeta) -> bool {
    !metadata.labels.as_ref().is_some_and(|labels| NOT_OURS.iter().any(|name| labels.contains_key(*name)))
}

/// Compiles one Service. `slices` are the EndpointSlices that carry its name.
pub fn compile(service: &Service, slices: &[&EndpointSlice], node: &NodeFacts) -> ServicePlan {
    let mut plan = ServicePlan::default();
    let Some(spec) = service.spec.as_ref().filter(|_| is_ours(&service.metadata)) else { return plan };
    let slices: Vec<&EndpointSlice> = slices.iter().copied().filter(|s| is_ours(&s.metadata)).collect();
    let cluster_ips = cluster_ips(spec);
    if spec.type_.as_deref() == Some("ExternalName") || cluster_ips.is_empty() {
        return plan;
    }
    // Ports of these addresses that no Service has are refused instead of reaching the node.
    for ip in cluster_ips.iter().chain(&balancer_ips(service, spec)) {
        plan.part.elements.push(Element {
            set: set_name("ips", Family::of(*ip)).into(),
            key: KeyBuilder::new().ip(*ip).done(),
            end: None,
            data: Data::None,
        });
    }
    let mut locals: BTreeSet<IpAddr> = BTreeSet::new();
    for port in spec.ports.as_deref().unwrap_or_default() {
        compile_port(service, spec, port, &slices, node, &mut plan, &mut locals);
    }
    let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
    if let (true, Some(port)) = (external_local, spec.health_check_node_port.and_then(as_port)) {
        plan.health = Some(HealthCheck { port, local_endpoints: locals.len() });
    }
    plan
}

fn compile_port(
    service: &Service,
    spec: &ServiceSpec,
    port: &ServicePort,
    slices: &[&EndpointSlice],
    node: &NodeFacts,
    plan: &mut ServicePlan,
    locals: &mut BTreeSet<IpAddr>,
) {
    let name = port.name.as_deref().unwrap_or_default();
    let (Some(proto), Some(number)) = (Proto::parse(port.protocol.as_deref()), as_port(port.port)) else {
        plan.why.push(format!("port {name:?}: unknown protocol or port"));
        return;
    };
    let internal_local = spec.internal_traffic_policy.as_deref() == Some("Local");
    let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let ranges = source_ranges(spec, plan);
    let balancers = balancer_ips(service, spec);
    let affinity_s = affinity(spec);
    let families: BTreeMap<char, Family> =
        cluster_ips(spec).iter().map(|ip| (Family::of(*ip).digit(), Family::of(*ip))).collect();
    let mut choices: BTreeMap<Family, Choice> = BTreeMap::new();
    for f in families.values() {
        let mut choice = endpoints::choose(slices, *f, name, proto, node);
        for list in [&mut choice.cluster, &mut choice.local] {
            if list.len() > BACKENDS_MAX {
                plan.why.push(format!("port {name:?}: only {BACKENDS_MAX} of {} endpoints used", list.len()));
                list.truncate(BACKENDS_MAX);
            }
        }
        locals.extend(choice.local_ready.iter());
        choices.insert(*f, choice);
    }
    let mut w = Writer { node, proto, affinity_s, plan };
    let mut seen = BTreeSet::new();
    for ip in cluster_ips(spec) {
        if let Some(c) = choices.get(&Family::of(ip)).filter(|_| seen.insert(ip)) {
            w.internal(ip, number, c, internal_local);
        }
    }
    let external: Vec<IpAddr> = spec.external_ips.iter().flatten().filter_map(|t| t.parse().ok()).collect();
    for ip in external.iter().chain(&balancers) {
        if let Some(c) = choices.get(&Family::of(*ip)).filter(|_| seen.insert(*ip)) {
            w.external(*ip, number, c, external_local);
            if balancers.contains(ip) && !ranges.is_empty() {
                w.source_ranges(*ip, number, &ranges);
            }
        }
    }
    if let Some(node_port) = port.node_port.and_then(as_port) {
        for (f, c) in &choices {
            w.external(f.unspecified(), node_port, c, external_local);
        }
    }
}

fn as_port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|p| *p > 0)
}

/// The cluster addresses of a Service; none when headless.
pub fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let many = spec.cluster_ips.iter().flatten();
    let one = spec.cluster_ip.iter().filter(|_| spec.cluster_ips.as_ref().is_none_or(Vec::is_empty));
    many.chain(one).filter_map(|t| t.parse().ok()).collect()
}

fn balancer_ips(service: &Service, spec: &ServiceSpec) -> Vec<IpAddr> {
    if spec.type_.as_deref() != Some("LoadBalancer") {
        return Vec::new();
    }
    let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let ingress = status.and_then(|l| l.ingress.as_deref()).unwrap_or_default();
    let direct = ingress.iter().filter(|i| i.ip_mode.as_deref() != Some("Proxy"));
    direct.filter_map(|i| i.ip.as_deref()?.parse().ok()).collect()
}

fn source_ranges(spec: &ServiceSpec, plan: &mut ServicePlan) -> Vec<Cidr> {
    let mut out = Vec::new();
    for text in spec.load_balancer_source_ranges.iter().flatten() {
        match text.trim().parse() {
            Ok(c) => out.push(c),
            Err(e) => plan.why.push(format!("loadBalancerSourceRanges: {e}")),
        }
    }
    out
}

fn affinity(spec: &ServiceSpec) -> Option<u32> {
    (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
        config
            .and_then(|c| c.timeout_seconds)
            .and_then(|s| u32::try_from(s).ok())
            .filter(|s| *s > 0)
            .unwrap_or(AFFINITY_DEFAULT_S)
    })
}
