//! Ingress objects compiled to a route table: host, path, backend.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressBackend, IngressClass};

use crate::cidr::Family;
use crate::endpoints;
use crate::ruleset::Proto;
use crate::services::NodeFacts;

/// The name of our IngressClass.
pub const CLASS: &str = "kutter";
/// The name in `IngressClass.spec.controller`.
pub const CONTROLLER: &str = "kutter.dev/ingress";

/// Where requests of a route go.
#[derive(Debug, Default)]
pub struct Target {
    /// `namespace/service:port`, for messages and metrics.
    pub name: String,
    /// The backends that are ready.
    pub endpoints: Vec<SocketAddr>,
}

impl Target {
    /// The backends in the order in which to try them, beginning with the one whose turn it is.
    pub fn order(&self, first: usize) -> impl Iterator<Item = SocketAddr> + '_ {
        let count = self.endpoints.len();
        (0..count).map(move |i| self.endpoints[(first.wrapping_add(i)) % count])
    }
}

#[derive(Debug, Default)]
struct Host {
    exact: HashMap<String, Arc<Target>>,
    /// Prefixes without their trailing slash, longest first.
    prefixes: Vec<(String, Arc<Target>)>,
}

/// The routes of all Ingresses.
#[derive(Debug, Default)]
pub struct RouteTable {
    hosts: HashMap<String, Host>,
    default: Option<Arc<Target>>,
    /// Host (or `*.domain`) to the Secret `namespace/name` with its certificate.
    pub certificates: HashMap<String, String>,
    /// What was left out, and why.
    pub why: Vec<String>,
}

/// What the compiler looks things up in.
pub trait Lookup {
    /// A Service.
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>>;
    /// Its slices.
    fn slices(&self, namespace: &str, name: &str) -> Vec<Arc<EndpointSlice>>;
}

/// Whether an Ingress is ours: by its class, or by the default class when it names none.
pub fn is_ours(ingress: &Ingress, classes: &[Arc<IngressClass>]) -> bool {
    let ours = |c: &IngressClass| c.spec.as_ref().and_then(|s| s.controller.as_deref()) == Some(CONTROLLER);
    let annotation = ingress.metadata.annotations.as_ref().and_then(|a| a.get("kubernetes.io/ingress.class"));
    let named = ingress.spec.as_ref().and_then(|s| s.ingress_class_name.as_ref()).or(annotation);
    match named {
        Some(name) => classes.iter().any(|c| c.metadata.name.as_ref() == Some(name) && ours(c)),
        None => classes.iter().any(|c| {
            let annotations = c.metadata.annotations.as_ref();
            let default = annotations.and_then(|a| a.get("ingressclass.kubernetes.io/is-default-class"));
            ours(c) && default.map(String::as_str) == Some("true")
        }),
    }
}

impl RouteTable {
    /// Compiles Ingresses. Where two claim the same host and path, the older one has it.
    pub fn compile(ingresses: &[Arc<Ingress>], lookup: &dyn Lookup, node: &NodeFacts) -> RouteTable {
        let mut table = RouteTable::default();
        let mut sorted: Vec<&Arc<Ingress>> = ingresses.iter().collect();
        sorted.sort_by_key(|i| {
            let m = &i.metadata;
            (m.creation_timestamp.as_ref().map(|t| t.0), m.namespace.clone(), m.name.clone())
        });
        let mut targets = HashMap::new();
        for ingress in sorted {
            table.add(ingress, lookup, node, &mut targets);
        }
        for h in table.hosts.values_mut() {
            // Stable: of equal prefixes the first, which is the oldest, stays.
            h.prefixes.sort_by_key(|(p, _)| std::cmp::Reverse(p.len()));
            h.prefixes.dedup_by(|later, first| later.0 == first.0);
        }
        table
    }

    fn add(
        &mut self,
        ingress: &Ingress,
        lookup: &dyn Lookup,
        node: &NodeFacts,
        targets: &mut HashMap<String, Arc<Target>>,
    ) {
        let namespace = ingress.metadata.namespace.as_deref().unwrap_or_default();
        let Some(spec) = &ingress.spec else { return };
        for tls in spec.tls.iter().flatten() {
            let Some(secret) = tls.secret_name.as_ref().filter(|s| !s.is_empty()) else { continue };
            for host in tls.hosts.iter().flatten() {
                let secret = format!("{namespace}/{secret}");
                self.certificates.entry(host.to_lowercase()).or_insert(secret);
            }
        }
        let mut target = |b: &IngressBackend, why: &mut Vec<String>| {
            let (key, found) = resolve(namespace, b, lookup, node);
            if let Err(e) = &found {
                why.push(format!(
                    "{namespace}/{}: {e}",
                    ingress.metadata.name.as_deref().unwrap_or_default()
                ));
            }
            let endpoints = found.unwrap_or_default();
            let make = || Arc::new(Target { name: key.clone(), endpoints });
            targets.entry(key.clone()).or_insert_with(make).clone()
        };
        if let Some(b) = &spec.default_backend {
            let t = target(b, &mut self.why);
            if spec.rules.as_ref().is_none_or(Vec::is_empty) || self.default.is_none() {
                self.default.get_or_insert(t);
            }
        }
        for rule in spec.rules.iter().flatten() {
            let host = rule.host.as_deref().unwrap_or_default().to_lowercase();
            for p in rule.http.iter().flat_map(|h| &h.paths) {
                let t = target(&p.backend, &mut self.why);
                let path = p.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
                let entry = self.hosts.entry(host.clone()).or_default();
                if p.path_type == "Exact" {
                    entry.exact.entry(path.to_owned()).or_insert(t);
                } else {
                    entry.prefixes.push((path.trim_end_matches('/').to_owned(), t));
                }
            }
        }
    }

    /// The target of a request: the exact host before a wildcard (of one label) before rules without a host; an
    /// exact path before the longest prefix, in whole path elements.
    pub fn find(&self, host: &str, path: &str) -> Option<Arc<Target>> {
        let host = host.to_lowercase();
        let wildcard = host.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        let names = [Some(host), wildcard, Some(String::new())];
        names
            .into_iter()
            .flatten()
            .find_map(|n| self.hosts.get(&n)?.find(path))
            .or_else(|| self.default.clone())
    }

    /// All hosts that have rules, and the wildcards.
    pub fn hosts(&self) -> BTreeSet<&str> {
        self.hosts.keys().map(String::as_str).collect()
    }

    /// The Secret with the certificate for a host.
    pub fn certificate(&self, host: &str) -> Option<&String> {
        let host = host.to_lowercase();
        let wildcard = || Some(format!("*.{}", host.split_once('.')?.1));
        self.certificates.get(&host).or_else(|| self.certificates.get(&wildcard()?))
    }
}

impl Host {
    fn find(&self, path: &str) -> Option<Arc<Target>> {
        if let Some(t) = self.exact.get(path) {
            return Some(t.clone());
        }
        let fits =
            |p: &str| path.strip_prefix(p).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.prefixes.iter().find(|(p, _)| fits(p)).map(|(_, t)| t.clone())
    }
}

fn resolve(
    namespace: &str,
    backend: &IngressBackend,
    lookup: &dyn Lookup,
    node: &NodeFacts,
) -> (String, Result<Vec<SocketAddr>, String>) {
    let Some(b) = &backend.service else {
        return (format!("{namespace}/(resource)"), Err("resource backends are not supported".into()));
    };
    let wanted = b.port.clone().unwrap_or_default();
    let shown = wanted.name.clone().or_else(|| wanted.number.map(|n| n.to_string())).unwrap_or_default();
    let key = format!("{namespace}/{}:{shown}", b.name);
    let Some(service) = lookup.service(namespace, &b.name) else {
        return (key, Err(format!("there is no Service {:?}", b.name)));
    };
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let fits = |p: &&k8s_openapi::api::core::v1::ServicePort| match (&wanted.name, wanted.number) {
        (Some(name), _) if !name.is_empty() => p.name.as_ref() == Some(name),
        (_, Some(number)) => p.port == number,
        _ => false,
    };
    let Some(port) = ports.iter().find(fits) else {
        return (key, Err(format!("the Service {:?} has no port {shown:?}", b.name)));
    };
    let owned = lookup.slices(namespace, &b.name);
    let slices: Vec<&EndpointSlice> = owned.iter().map(|s| &**s).collect();
    let name = port.name.as_deref().unwrap_or_default();
    let choose = |f| endpoints::choose(&slices, f, name, Proto::Tcp, node).cluster;
    let found = Family::ALL.into_iter().map(choose).find(|c| !c.is_empty()).unwrap_or_default();
    (key, Ok(found.iter().map(|b| SocketAddr::new(b.address, b.port)).collect()))
}
