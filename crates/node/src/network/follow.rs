//! What keeps the network current: changes of Services, their endpoints, and the nodes.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, Weak};

use client::ObjectKey;
use k8s_openapi::api::core::v1::Node;
use net::overlay::{self, Outside, Overlay, Peer};
use netplan::services::{UdpFrontend, compile};
use netplan::{Cidr, Family};

use super::fabric::{BY_SERVICE, Fabric, first_of, slice_service};

/// Services whose change is sent in one transaction; more wait for the next.
const TOGETHER_MAX: usize = 2000;

/// Services whose slices changed.
#[derive(Default)]
struct Touched {
    keys: parking_lot::Mutex<BTreeSet<ObjectKey>>,
    notify: tokio::sync::Notify,
}

fn split(name: &str) -> Option<ObjectKey> {
    name.split_once('/').map(|(namespace, name)| ObjectKey::new(namespace, name))
}

/// Follows Services and EndpointSlices: rules, names, and UDP flows.
pub(super) async fn services(fabric: Weak<Fabric>) {
    let Some(f) = fabric.upgrade() else { return };
    let mut services = f.services.subscribe();
    let touched = Arc::new(Touched::default());
    let hooked = touched.clone();
    f.slices.hook(move |change| {
        // A slice may change its Service or vanish: both its old and its new one are concerned.
        let both = [change.old, change.new];
        let names = both.into_iter().flatten().flat_map(|s| slice_service(s));
        let keys: Vec<ObjectKey> = names.filter_map(|n| split(&n)).collect();
        hooked.keys.lock().extend(keys);
        hooked.notify.notify_one();
    });
    f.services.synced().await;
    f.slices.synced().await;
    f.change_services(f.services.keys().into_iter().collect()).await;
    f.install().await;
    drop(f);
    loop {
        let mut keys = BTreeSet::new();
        tokio::select! {
            changed = services.next() => keys.extend(changed),
            () = touched.notify.notified() => {}
        }
        keys.append(&mut touched.keys.lock());
        let Some(f) = fabric.upgrade() else { return };
        f.change_services(keys).await;
    }
}

/// Follows Nodes: the podCIDR of this one, and the way to the others.
pub(super) async fn nodes(fabric: Weak<Fabric>) {
    let Some(f) = fabric.upgrade() else { return };
    let mut changes = f.nodes.subscribe();
    f.nodes.synced().await;
    drop(f);
    let mut before = None;
    loop {
        let Some(f) = fabric.upgrade() else { return };
        let all = f.nodes.list("");
        let own = all.iter().find(|n| n.metadata.name.as_deref() == Some(&f.options.node));
        let peers = peers(&all, &f.options.node, f.options.tunnel);
        let zone = own.and_then(|n| n.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").cloned());
        let fresh = f.set_ranges(own.map(|n| pod_cidrs(n)).unwrap_or_default()).await;
        // Nodes write their status often; only what routes depend on counts.
        let now = Some((peers, zone, f.pod_cidrs()));
        if fresh || before != now {
            before = now;
            if let Some((peers, zone, ranges)) = before.clone() {
                f.change_nodes(peers, zone, ranges).await;
            }
        }
        drop(f);
        if changes.next().await.is_empty() {
            return;
        }
    }
}

fn pod_cidrs(node: &Node) -> Vec<Cidr> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let many = spec.pod_cidrs.iter().flatten();
    let one = spec.pod_cidr.iter().filter(|_| spec.pod_cidrs.as_ref().is_none_or(Vec::is_empty));
    many.chain(one).filter_map(|t| t.parse().ok()).collect()
}

/// The annotation of a node that is hidden behind its machine: where the machine leads to its tunnel.
pub const TUNNEL: &str = "kutter.dev/tunnel-endpoint";
/// The machine's address on the network of its nodes.
pub const TUNNEL_GATEWAY: &str = "kutter.dev/tunnel-gateway";

/// How a node is reached from other machines than its own.
fn outside(node: &Node, own: Option<SocketAddr>) -> Option<Outside> {
    let annotations = node.metadata.annotations.as_ref()?;
    let endpoint: SocketAddr = annotations.get(TUNNEL)?.parse().ok()?;
    let gateway = annotations.get(TUNNEL_GATEWAY).and_then(|t| t.parse().ok());
    // Nodes of one machine reach each other without it.
    (own.map(|o| o.ip()) != Some(endpoint.ip())).then_some(Outside { endpoint, gateway })
}

/// The other nodes that have an address and pods. `tunnel` is this node's own, if it is hidden.
pub(super) fn peers(nodes: &[Arc<Node>], own: &str, tunnel: Option<SocketAddr>) -> Vec<Peer> {
    let mut out: Vec<Peer> = nodes
        .iter()
        .filter(|n| n.metadata.name.as_deref() != Some(own))
        .filter_map(|n| {
            let addresses = n.status.as_ref()?.addresses.as_ref()?;
            let node_ip =
                addresses.iter().find(|a| a.type_ == "InternalIP").and_then(|a| a.address.parse().ok())?;
            Some(Peer { node_ip, pod_cidrs: pod_cidrs(n), outside: outside(n, tunnel) })
                .filter(|p| !p.pod_cidrs.is_empty())
        })
        .collect();
    out.sort();
    out
}

impl Fabric {
    /// Compiles these Services and sends what changed.
    pub(super) async fn change_services(&self, keys: BTreeSet<ObjectKey>) {
        let facts = self.facts();
        let keys: Vec<ObjectKey> = keys.into_iter().collect();
        for chunk in keys.chunks(TOGETHER_MAX) {
            let mut parts = Vec::with_capacity(chunk.len());
            let mut udp: Vec<UdpFrontend> = Vec::new();
            let mut checks = Vec::with_capacity(chunk.len());
            for key in chunk {
                let service = self.services.get_key(key);
                let owned = self.slices.by_index(BY_SERVICE, &format!("{}/{}", key.namespace, key.name));
                let slices: Vec<_> = owned.iter().map(|s| &**s).collect();
                let mut check = None;
                let part = service.as_deref().map(|s| {
                    let plan = compile(s, &slices, &facts);
                    check = plan.health;
                    for why in &plan.why {
                        tracing::warn!(service = %key, why, "a part of a Service is left out");
                    }
                    udp.extend(plan.udp);
                    plan.part
                });
                let known = service.as_deref().map(|s| (s, slices.as_slice()));
                self.names.write().unwrap_or_else(PoisonError::into_inner).set(
                    &key.namespace,
                    &key.name,
                    known,
                );
                parts.push((format!("svc/{key}"), part));
                checks.push(check);
            }
            self.change(parts).await;
            self.forget_flows(udp).await;
            for (key, check) in chunk.iter().zip(checks) {
                self.checks.set(key, check, &self.options.node_ips).await;
            }
        }
    }

    async fn forget_flows(&self, udp: Vec<UdpFrontend>) {
        if udp.is_empty() {
            return;
        }
        let own = self.options.node_ips.clone();
        let forgotten =
            self.worker.run(move |k| net::conntrack::forget_stale(&k.conntrack, &udp, &own)).await;
        if let Ok(Err(error)) = forgotten {
            tracing::warn!(%error, "stale UDP flows could not be forgotten");
        }
    }

    async fn change_nodes(&self, peers: Vec<Peer>, zone: Option<String>, ranges: Vec<Cidr>) {
        {
            let mut facts = self.facts.write().unwrap_or_else(PoisonError::into_inner);
            facts.zone = zone;
            facts.pod_cidrs.clone_from(&ranges);
        }
        self.write_base().await;
        if self.services.is_synced() {
            self.change_services(self.services.keys().into_iter().collect()).await;
        }
        let primary: Option<IpAddr> =
            first_of(&self.options.node_ips, Family::V4).or(self.options.node_ips.first().copied());
        let Some(node_ip) = primary else { return };
        let wanted = Overlay {
            mode: self.options.mode,
            node_ip,
            pod_cidrs: ranges,
            port: self.options.overlay_port,
            mtu: self.options.mtu,
        };
        let applied = self.worker.run(move |k| overlay::apply(&k.route, &wanted, &peers)).await;
        if let Ok(Err(error)) = applied {
            tracing::error!(%error, cause = ?error.errno(), "the way to other nodes could not be set up");
        }
    }
}
