//! The node's network: pods' links and addresses, the rule table, the cluster DNS and the way to other nodes.
//!
//! The addresses of pods are written to a file before a pod gets them, and the kernel keeps links, routes and rules
//! when this process ends: a restart changes nothing for running pods, with or without an API server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use base::exposition::Text;
use client::{Cache, Client};
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use net::cleanup::DNS_ADDRESS;
use net::dns::{DnsCounts, DnsServer, SharedIndex, Upstream};
use net::overlay::{self, Mode};
use net::pod::{self, PodLink};
use net::worker::Worker;
use netplan::base_rules::{BaseFacts, base_part};
use netplan::dns::Index;
use netplan::ipam::{Ipam, IpamError};
use netplan::pods::HostPort;
use netplan::ruleset::{Part, Proto};
use netplan::services::NodeFacts;
use netplan::table::Table;
use netplan::{Cidr, Family};
use tokio::sync::{Mutex, watch};

use super::{PodNetwork, edge, follow, guard, health, numbers, proxyz};

/// How the node's network is set up.
#[derive(Debug, Clone)]
pub struct NetworkOptions {
    /// The node's name.
    pub node: String,
    /// Where the addresses of pods are remembered (`network.json`).
    pub data_dir: PathBuf,
    /// The node's addresses, the primary one first.
    pub node_ips: Vec<IpAddr>,
    /// The cluster DNS addresses: led to this node's own server.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// Where name servers outside the cluster are listed.
    pub resolv_conf: PathBuf,
    /// How pods of other nodes are reached.
    pub mode: Mode,
    /// The UDP port of the overlay.
    pub overlay_port: u16,
    /// The ranges of all pods of the cluster, if known: they are reached without translation.
    pub cluster_cidrs: Vec<Cidr>,
    /// The ranges of Services, if known: gives the node itself a route to them where it has no default route.
    pub service_cidrs: Vec<Cidr>,
    /// Largest packet of pods.
    pub mtu: u32,
    /// Addresses for Services of type LoadBalancer; none leaves them to somebody else.
    pub load_balancers: Option<Cidr>,
    /// Where this node's machine leads other machines to its tunnel, if it is hidden behind it.
    pub tunnel: Option<SocketAddr>,
    /// Where the ingress proxy listens for HTTP and for HTTPS; none runs no proxy.
    pub ingress: Option<(SocketAddr, SocketAddr)>,
}

impl NetworkOptions {
    /// Defaults for a node.
    pub fn new(node: &str, data_dir: &Path, node_ips: Vec<IpAddr>) -> NetworkOptions {
        NetworkOptions {
            node: node.to_owned(),
            data_dir: data_dir.to_owned(),
            node_ips,
            cluster_dns: vec![IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10))],
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            mode: Mode::Overlay,
            overlay_port: overlay::PORT,
            cluster_cidrs: Vec::new(),
            service_cidrs: Vec::new(),
            mtu: 1450,
            load_balancers: None,
            tunnel: None,
            ingress: None,
        }
    }
}

/// The network could not start.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel cannot be asked.
    #[error("start the node's network; it takes CAP_NET_ADMIN")]
    Kernel(#[from] net::netlink::NetlinkError),
    /// The network thread ended.
    #[error("start the node's network")]
    Worker(#[from] net::worker::WorkerGone),
    /// The DNS server cannot listen.
    #[error("start the cluster DNS")]
    Dns(#[from] net::dns::DnsError),
    /// The ingress proxy cannot listen.
    #[error("start the ingress")]
    Ingress(#[from] net::ingress::IngressError),
    /// The remembered addresses cannot be read.
    #[error("read the addresses of pods from {path}; delete the file if no pods run")]
    State {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// The rules as wanted, and whether the kernel has been given them.
#[derive(Default)]
pub(super) struct Rules {
    table: Table,
    installed: bool,
}

/// A node's network.
pub struct Fabric {
    pub(super) options: NetworkOptions,
    pub(super) worker: Worker,
    pub(super) rules: Mutex<Rules>,
    ipam: Mutex<Ipam>,
    ranges: watch::Sender<Vec<Cidr>>,
    pub(super) facts: RwLock<NodeFacts>,
    pub(super) names: SharedIndex,
    pub(super) services: Cache<Service>,
    pub(super) slices: Cache<EndpointSlice>,
    pub(super) nodes: Cache<Node>,
    pub(super) client: Client,
    pub(super) ingress: std::sync::Mutex<Option<net::ingress::Ingress>>,
    pub(super) checks: health::Checks,
    pub(super) state: proxyz::State,
    dns: SocketAddr,
    pub(super) answers: Arc<DnsCounts>,
    tasks: std::sync::Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

/// How long a pod waits for the node to get its podCIDR.
const RANGE_PATIENCE: Duration = Duration::from_secs(30);

/// The index of slices by `namespace/service`.
pub(super) const BY_SERVICE: &str = "service";

pub(super) fn slice_service(slice: &EndpointSlice) -> Vec<String> {
    let labels = slice.metadata.labels.as_ref();
    let name = labels.and_then(|l| l.get("kubernetes.io/service-name"));
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    name.map(|n| format!("{namespace}/{n}")).into_iter().collect()
}

impl Fabric {
    /// Starts the network in the calling process's network namespace: sockets, DNS, and the watches that keep
    /// rules and routes current. Returns at once; pods can be attached as soon as the node has a podCIDR.
    pub async fn start(client: Client, options: NetworkOptions) -> Result<Arc<Fabric>, NetworkError> {
        let worker = Worker::start()?;
        for refused in net::sysctl::prepare_node() {
            tracing::warn!(error = %refused, "a kernel setting that the network needs is refused");
        }
        prepare_host(&worker, options.service_cidrs.clone()).await?;
        let ipam = read_state(&state_path(&options))?;
        let ranges = ipam.ranges();
        let names: SharedIndex = Arc::new(RwLock::new(Index::new(&options.cluster_domain)));
        let server = start_dns(&options, &names).await?;
        let facts = NodeFacts { name: options.node.clone(), zone: None, pod_cidrs: ranges.clone() };
        let dns = server.addresses[0];
        let fabric = Arc::new(Fabric {
            worker,
            rules: Mutex::default(),
            ipam: Mutex::new(ipam),
            ranges: watch::Sender::new(ranges),
            facts: RwLock::new(facts),
            names,
            services: Cache::builder(client.clone()).start(),
            slices: Cache::builder(client.clone()).index(BY_SERVICE, slice_service).start(),
            nodes: Cache::builder(client.clone()).start(),
            client,
            ingress: std::sync::Mutex::default(),
            checks: health::Checks::default(),
            state: proxyz::State::default(),
            dns,
            answers: server.counts.clone(),
            tasks: std::sync::Mutex::default(),
            options,
        });
        fabric.write_base().await;
        let mut tasks = vec![
            tokio::spawn(follow::services(Arc::downgrade(&fabric))),
            tokio::spawn(follow::nodes(Arc::downgrade(&fabric))),
            tokio::spawn(guard::policies(Arc::downgrade(&fabric))),
            tokio::spawn(proxyz::serve(Arc::downgrade(&fabric))),
            tokio::spawn(async move {
                let _server = server;
                std::future::pending::<()>().await;
            }),
        ];
        if let Some(pool) = fabric.options.load_balancers {
            tasks.push(tokio::spawn(edge::balancers(Arc::downgrade(&fabric), pool)));
        }
        if let Some((http, https)) = fabric.options.ingress {
            let mut proxy = net::ingress::Ingress::new();
            proxy.listen_http(http).await?;
            proxy.listen_https(https).await?;
            *fabric.ingress.lock().unwrap_or_else(PoisonError::into_inner) = Some(proxy);
            tasks.push(tokio::spawn(edge::ingress(Arc::downgrade(&fabric))));
        }
        *fabric.tasks.lock().unwrap_or_else(PoisonError::into_inner) = tasks;
        Ok(fabric)
    }

    /// The node's facts as Services see them.
    pub(super) fn facts(&self) -> NodeFacts {
        self.facts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces parts of the rule table, in one transaction.
    pub(super) async fn change(&self, changes: Vec<(String, Option<Part>)>) {
        let mut rules = self.rules.lock().await;
        let batch = rules.table.replace(changes);
        if !rules.installed || batch.is_empty() {
            return;
        }
        self.send(&mut rules, batch).await;
    }

    /// Gives the kernel the whole table for the first time.
    pub(super) async fn install(&self) {
        let mut rules = self.rules.lock().await;
        if !rules.installed {
            rules.installed = true;
            let full = rules.table.full();
            self.send(&mut rules, full).await;
        }
    }

    async fn send(&self, rules: &mut Rules, batch: netplan::table::Batch) {
        // A refused change is followed by the whole table, and a refused table by another attempt with the next
        // change: the kernel keeps what it had.
        let result = self.worker.run(move |k| k.nft.apply(&batch)).await;
        let Ok(Err(error)) = result else {
            return self.state.written(jiff::Timestamp::now());
        };
        tracing::warn!(error = %base_chain(&error), "a rule change was refused, replacing the table");
        let full = rules.table.full();
        match self.worker.run(move |k| k.nft.apply(&full)).await {
            Ok(Err(error)) => {
                tracing::error!(error = %base_chain(&error), "the rule table was refused");
                rules.installed = false;
                self.state.refused();
            }
            _ => self.state.written(jiff::Timestamp::now()),
        }
    }

    /// Writes the part that depends on the node's ranges.
    pub(super) async fn write_base(&self) {
        let ranges = self.ranges.borrow().clone();
        let mut native = self.options.cluster_cidrs.clone();
        native.extend(&ranges);
        native.extend(
            follow::peers(&self.nodes.list(""), &self.options.node, self.options.tunnel)
                .iter()
                .flat_map(|p| &p.pod_cidrs),
        );
        let facts = BaseFacts {
            pod_cidrs: ranges,
            native_cidrs: native,
            dns: vec![self.dns],
            dns_cluster_ips: self.options.cluster_dns.clone(),
        };
        self.change(vec![("base".to_owned(), Some(base_part(&facts)))]).await;
    }

    /// Takes the node's podCIDRs. Gives whether they are new.
    pub(super) async fn set_ranges(&self, ranges: Vec<Cidr>) -> bool {
        if ranges.is_empty() || *self.ranges.borrow() == ranges {
            return false;
        }
        let mut ipam = self.ipam.lock().await;
        ipam.set_ranges(&ranges);
        if let Err(error) = write_state(&state_path(&self.options), &ipam) {
            tracing::warn!(%error, "the node's podCIDR could not be remembered");
        }
        drop(ipam);
        self.ranges.send_replace(ranges);
        true
    }

    /// The ranges of this node's pods.
    pub fn pod_cidrs(&self) -> Vec<Cidr> {
        self.ranges.borrow().clone()
    }

    async fn connect(&self, netns: &Path, pod: &Pod) -> Result<Vec<IpAddr>, String> {
        let uid = pod.metadata.uid.clone().ok_or("the pod has no uid")?;
        let mut ranges = self.ranges.subscribe();
        let ready = tokio::time::timeout(RANGE_PATIENCE, ranges.wait_for(|r| !r.is_empty())).await;
        ready.map_err(|_| IpamError::NoRange.to_string())?.map_err(|_| IpamError::NoRange.to_string())?;
        let addresses = {
            let mut ipam = self.ipam.lock().await;
            let given = ipam.allocate(&uid).map_err(|e| e.to_string())?;
            write_state(&state_path(&self.options), &ipam)
                .map_err(|e| format!("remember the pod's address: {e}"))?;
            given
        };
        let link = PodLink {
            uid: uid.clone(),
            addresses: addresses.clone(),
            mtu: self.options.mtu,
            ingress_bytes_per_s: bandwidth(pod, "kubernetes.io/ingress-bandwidth"),
            egress_bytes_per_s: bandwidth(pod, "kubernetes.io/egress-bandwidth"),
        };
        let netns = netns.to_owned();
        self.worker
            .run(move |k| pod::attach(&k.route, &netns, &link))
            .await
            .map_err(|e| e.to_string())?
            .map_err(|e| base_chain(&e))?;
        let mut part = netplan::pods::part(&addresses);
        let ports = netplan::pods::host_ports(&addresses, &host_ports(pod));
        part.chains = ports.chains;
        part.elements.extend(ports.elements);
        self.change(vec![(format!("pod/{uid}"), Some(part))]).await;
        Ok(addresses)
    }

    async fn disconnect(&self, uid: &str) -> Result<(), String> {
        self.change(vec![(format!("pod/{uid}"), None)]).await;
        let owned = uid.to_owned();
        self.worker
            .run(move |k| pod::detach(&k.route, &owned))
            .await
            .map_err(|e| e.to_string())?
            .map_err(|e| base_chain(&e))?;
        let mut ipam = self.ipam.lock().await;
        if ipam.release(uid).is_empty() {
            return Ok(());
        }
        write_state(&state_path(&self.options), &ipam).map_err(|e| format!("forget the pod's address: {e}"))
    }

    /// Brings the network in line with the pods that run on this node (those with a network of their own): links
    /// and addresses of others are given free, host ports of these come back. To be called once after a start.
    pub async fn reconcile(&self, pods: &[Arc<Pod>]) -> Result<(), String> {
        let uids: Vec<String> = pods.iter().filter_map(|p| p.metadata.uid.clone()).collect();
        let gone: Vec<String> = {
            let ipam = self.ipam.lock().await;
            ipam.owners().map(|(o, _)| o.to_owned()).filter(|o| !uids.contains(o)).collect()
        };
        for uid in gone {
            self.disconnect(&uid).await?;
        }
        let mut parts = Vec::new();
        for p in pods {
            let Some(uid) = &p.metadata.uid else { continue };
            let Some(addresses) = self.ipam.lock().await.get(uid).map(<[IpAddr]>::to_vec) else { continue };
            let mut part = netplan::pods::part(&addresses);
            let ports = netplan::pods::host_ports(&addresses, &host_ports(p));
            part.chains = ports.chains;
            part.elements.extend(ports.elements);
            parts.push((format!("pod/{uid}"), Some(part)));
        }
        self.change(parts).await;
        let sweep = move |k: &net::worker::Kernel| {
            pod::sweep(&k.route, &uids.iter().map(String::as_str).collect::<Vec<_>>())
        };
        self.worker.run(sweep).await.map_err(|e| e.to_string())?.map_err(|e| base_chain(&e))?;
        Ok(())
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        for t in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            t.abort();
        }
    }
}

impl PodNetwork for Fabric {
    fn attach<'a>(&'a self, netns: &'a Path, pod: &'a Pod) -> BoxFuture<'a, Result<Vec<IpAddr>, String>> {
        Box::pin(self.connect(netns, pod))
    }

    fn detach<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.disconnect(uid))
    }

    fn adopt<'a>(&'a self, pods: &'a [Arc<Pod>]) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.reconcile(pods))
    }

    fn show(&self, out: &mut Text) {
        numbers::show(self, out);
    }
}

/// An error with its causes, in one line.
fn base_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(e) = next {
        text.push_str(": ");
        text.push_str(&e.to_string());
        next = e.source();
    }
    text
}

async fn prepare_host(worker: &Worker, services: Vec<Cidr>) -> Result<(), NetworkError> {
    worker
        .run(move |k| {
            let mut b = net::netlink::Buffer::new();
            net::route::set_up(&mut b, 1);
            net::route::add_address(&mut b, 1, IpAddr::V4(DNS_ADDRESS), 32);
            for to in services {
                // Only to find a way out at all: destination translation chooses the real one.
                net::route::put_route(&mut b, &net::route::Route { to, via: None, link: 1 });
            }
            k.route.call(b)
        })
        .await??;
    Ok(())
}

async fn start_dns(options: &NetworkOptions, names: &SharedIndex) -> Result<DnsServer, NetworkError> {
    let conf = tokio::fs::read_to_string(&options.resolv_conf).await.unwrap_or_default();
    let own = [options.cluster_dns.as_slice(), &[IpAddr::V4(DNS_ADDRESS)]].concat();
    let upstream = Upstream::new(&net::dns::nameservers(&conf, &own));
    let at = |port| [SocketAddr::new(IpAddr::V4(DNS_ADDRESS), port)];
    // Another server may hold port 53 on all addresses; the rules lead to whichever port we get.
    match DnsServer::start(&at(53), names.clone(), upstream.clone()).await {
        Ok(s) => Ok(s),
        Err(_) => Ok(DnsServer::start(&at(0), names.clone(), upstream).await?),
    }
}

fn state_path(options: &NetworkOptions) -> PathBuf {
    options.data_dir.join("network.json")
}

fn read_state(path: &Path) -> Result<Ipam, NetworkError> {
    let fail = |source| NetworkError::State { path: path.to_owned(), source };
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| fail(e.into())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Ipam::default()),
        Err(e) => Err(fail(e)),
    }
}

/// Replaces the file as a whole. Losing the last write in a power failure is fine: the pods are gone with it.
fn write_state(path: &Path, ipam: &Ipam) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let next = path.with_extension("next");
    std::fs::write(&next, serde_json::to_vec(ipam)?)?;
    std::fs::rename(next, path)
}

fn bandwidth(pod: &Pod, annotation: &str) -> Option<u64> {
    let text = pod.metadata.annotations.as_ref()?.get(annotation)?;
    netplan::pods::bytes_per_s(text)
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|s| s.init_containers.as_ref()).into_iter().flatten();
    let sidecars = init.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let all = spec.map(|s| s.containers.as_slice()).unwrap_or_default().iter().chain(sidecars);
    all.flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            Some(HostPort {
                host_ip: p.host_ip.as_deref().and_then(|t| t.parse().ok()),
                host_port: u16::try_from(p.host_port?).ok().filter(|n| *n > 0)?,
                proto: Proto::parse(p.protocol.as_deref())?,
                pod_port: u16::try_from(p.container_port).ok()?,
            })
        })
        .collect()
}

/// The primary address of a family among `ips`.
pub(super) fn first_of(ips: &[IpAddr], family: Family) -> Option<IpAddr> {
    ips.iter().copied().find(|ip| Family::of(*ip) == family)
}
