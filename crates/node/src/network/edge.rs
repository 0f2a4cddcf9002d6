//! What faces the world: load balancer addresses and the ingress proxy.
//!
//! One node writes the status of Services and Ingresses: the ready one with the first name. It is no lease; what
//! is written follows from the objects alone, so that two writers for a moment write the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use client::{Cache, Patch};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use net::ingress::State;
use netplan::Cidr;
use netplan::balancers::{announced, assign, is_ready, takes_traffic};
use netplan::routes::{Lookup, RouteTable, is_ours};
use serde_json::json;
use tokio::sync::Notify;

use super::fabric::{BY_SERVICE, Fabric};
use crate::refs::Refs;

/// Changes that come close together are handled together.
const GATHER: Duration = Duration::from_millis(20);
/// A write that failed is tried again with the next change, or after this time.
const RETRY: Duration = Duration::from_secs(5);
/// How long the first reading of a certificate may take.
const SECRET_TIMEOUT: Duration = Duration::from_secs(5);

impl Fabric {
    fn leads(&self) -> bool {
        let nodes = self.nodes.list("");
        let ready = || nodes.iter().filter(|n| is_ready(n));
        // A node that takes no traffic from outside may not even run an ingress.
        let able = ready().filter(|n| takes_traffic(n)).filter_map(|n| n.metadata.name.as_deref()).min();
        let first = able.or_else(|| ready().filter_map(|n| n.metadata.name.as_deref()).min());
        first == Some(self.options.node.as_str())
    }

    async fn assign_balancers(&self, pool: Cidr) -> bool {
        let (changes, full) = assign(&self.services.list(""), &pool);
        for service in full {
            tracing::warn!(service, %pool, "no load balancer address is free");
        }
        let mut fine = true;
        for c in changes {
            let ingress: Vec<_> =
                c.addresses.iter().map(|ip| json!({"ip": ip.to_string(), "ipMode": "VIP"})).collect();
            let patch = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": ingress}}}));
            let done = self.client.patch_status::<Service>(&c.namespace, &c.name, &patch).await;
            if let Err(error) = done {
                tracing::warn!(service = c.name, %error, "a load balancer address could not be written");
                fine = false;
            }
        }
        fine
    }

    async fn announce(&self, pool: Cidr) -> bool {
        let Some(node_ip) = self.options.node_ips.first().copied() else { return true };
        let slices = |s: &Service| {
            let m = &s.metadata;
            let key = format!(
                "{}/{}",
                m.namespace.as_deref().unwrap_or_default(),
                m.name.as_deref().unwrap_or_default()
            );
            self.slices.by_index(BY_SERVICE, &key)
        };
        let services = self.services.list("");
        let wanted = announced(&services, slices, &self.nodes.list(""), &pool, &self.options.node);
        match self.worker.run(move |k| net::announce::apply(&k.route, &pool, &wanted, node_ip)).await {
            Ok(Err(error)) => {
                tracing::warn!(%error, "load balancer addresses could not be set");
                false
            }
            _ => true,
        }
    }
}

/// Follows Services and Nodes: gives addresses, and answers for those that are this node's.
pub(super) async fn balancers(fabric: Weak<Fabric>, pool: Cidr) {
    let Some(f) = fabric.upgrade() else { return };
    let (mut services, mut slices, mut nodes) =
        (f.services.subscribe(), f.slices.subscribe(), f.nodes.subscribe());
    f.services.synced().await;
    f.slices.synced().await;
    f.nodes.synced().await;
    drop(f);
    loop {
        let Some(f) = fabric.upgrade() else { return };
        let written = !f.leads() || f.assign_balancers(pool).await;
        let fine = f.announce(pool).await && written;
        drop(f);
        tokio::select! {
            _ = services.next() => {}
            _ = slices.next() => {}
            _ = nodes.next() => {}
            () = tokio::time::sleep(RETRY), if !fine => {}
        }
        tokio::time::sleep(GATHER).await;
    }
}

struct Caches<'a>(&'a Fabric);

impl Lookup for Caches<'_> {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.0.services.get(namespace, name)
    }

    fn slices(&self, namespace: &str, name: &str) -> Vec<Arc<EndpointSlice>> {
        self.0.slices.by_index(BY_SERVICE, &format!("{namespace}/{name}"))
    }
}

/// Follows Ingresses and what they refer to: routes, certificates and status.
pub(super) async fn ingress(fabric: Weak<Fabric>) {
    let Some(f) = fabric.upgrade() else { return };
    let ingresses = Cache::<Ingress>::builder(f.client.clone()).start();
    let classes = Cache::<IngressClass>::builder(f.client.clone()).start();
    let changed = Arc::new(Notify::new());
    let waker = changed.clone();
    let refs = Refs::new(f.client.clone(), Arc::new(move |_| waker.notify_one()));
    let mut held: BTreeSet<String> = BTreeSet::new();
    let fallback = fallback_certificate();
    let (mut services, mut slices, mut nodes) =
        (f.services.subscribe(), f.slices.subscribe(), f.nodes.subscribe());
    let (mut a, mut b) = (ingresses.subscribe(), classes.subscribe());
    f.services.synced().await;
    f.slices.synced().await;
    ingresses.synced().await;
    classes.synced().await;
    drop(f);
    let mut warned: Vec<String> = Vec::new();
    loop {
        let Some(f) = fabric.upgrade() else { return };
        let known = classes.list("");
        let ours: Vec<Arc<Ingress>> = ingresses.list("").into_iter().filter(|i| is_ours(i, &known)).collect();
        let routes = RouteTable::compile(&ours, &Caches(&f), &f.facts());
        if routes.why != warned {
            warned.clone_from(&routes.why);
            warned.iter().for_each(|why| tracing::warn!(why, "a part of an Ingress is left out"));
        }
        let certificates = certificates(&routes, &refs, &mut held).await;
        if let Some(proxy) = &*f.ingress.lock().unwrap_or_else(PoisonError::into_inner) {
            proxy.set(State { routes, certificates, fallback: fallback.clone() });
        }
        let fine = !f.leads() || write_status(&f, &ours).await;
        drop(f);
        tokio::select! {
            _ = services.next() => {}
            _ = slices.next() => {}
            _ = nodes.next() => {}
            _ = a.next() => {}
            _ = b.next() => {}
            () = changed.notified() => {}
            () = tokio::time::sleep(RETRY), if !fine => {}
        }
        tokio::time::sleep(GATHER).await;
    }
}

fn fallback_certificate() -> Option<Arc<rustls::sign::CertifiedKey>> {
    let made = rcgen::generate_simple_self_signed(vec!["ingress.local".to_owned()]).ok()?;
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    net::ingress::certified_key(chain.as_bytes(), key.as_bytes()).ok()
}

/// The certificates that routes name. One watch per Secret, as long as an Ingress names it: a node may read no others.
async fn certificates(
    routes: &RouteTable,
    refs: &Refs,
    held: &mut BTreeSet<String>,
) -> HashMap<String, Arc<rustls::sign::CertifiedKey>> {
    let names: BTreeSet<String> = routes.certificates.values().cloned().collect();
    held.difference(&names).for_each(|gone| refs.release(gone));
    let mut out = HashMap::new();
    for name in &names {
        let Some((namespace, secret)) = name.split_once('/') else { continue };
        let found = tokio::time::timeout(SECRET_TIMEOUT, refs.secret(name, namespace, secret)).await;
        let secret = match found {
            Ok(Ok(Some(secret))) => secret,
            Ok(Ok(None)) => continue,
            Ok(Err(error)) => {
                tracing::warn!(secret = name, error = %error.chain(), "a certificate cannot be read");
                continue;
            }
            Err(_) => {
                tracing::warn!(secret = name, "a certificate was not answered in time");
                continue;
            }
        };
        let data = secret.data.clone().unwrap_or_default();
        let (Some(chain), Some(key)) = (data.get("tls.crt"), data.get("tls.key")) else { continue };
        match net::ingress::certified_key(&chain.0, &key.0) {
            Ok(pair) => _ = out.insert(name.clone(), pair),
            Err(error) => tracing::warn!(secret = name, %error, "a certificate cannot be used"),
        }
    }
    *held = names;
    out
}

/// The addresses of ready nodes, in every Ingress of ours.
async fn write_status(f: &Fabric, ours: &[Arc<Ingress>]) -> bool {
    let nodes = f.nodes.list("");
    let ips: BTreeMap<IpAddr, ()> = nodes
        .iter()
        .filter(|n| is_ready(n))
        .filter_map(|n| {
            let addresses = n.status.as_ref()?.addresses.as_ref()?;
            addresses.iter().find(|a| a.type_ == "InternalIP")?.address.parse().ok().map(|ip| (ip, ()))
        })
        .collect();
    let want: Vec<String> = ips.keys().map(ToString::to_string).collect();
    let mut fine = true;
    for i in ours {
        let have: Vec<String> = i
            .status
            .as_ref()
            .and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref())
            .map(|l| l.iter().filter_map(|e| e.ip.clone()).collect())
            .unwrap_or_default();
        if have == want {
            continue;
        }
        let list: Vec<_> = want.iter().map(|ip| json!({ "ip": ip })).collect();
        let patch = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": list}}}));
        let (namespace, name) =
            (i.metadata.namespace.clone().unwrap_or_default(), i.metadata.name.clone().unwrap_or_default());
        let done = f.client.patch_status::<Ingress>(&namespace, &name, &patch).await;
        if let Err(error) = done {
            tracing::warn!(ingress = name, %error, "the status of an Ingress could not be written");
            fine = false;
        }
    }
    fine
}
