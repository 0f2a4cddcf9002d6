//! What a process needs before it starts, and what is removed when it will not start again: folders, credentials,
//! networks, limits, and the command line.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::time::Duration;

use fleet::{AddressPlan, Cluster, Desired, NodePool, Remote, Role, Target, address_plan};
use k8s_openapi::api::core::v1::Node;
use net::localnode::Tunnel;
use netplan::Cidr;
use oci::cgroup::Cgroups;
use serde_json::json;
use serve::pki::{Authority, LEAF_LIFE, Pair, Subject, replace_file};

use crate::engine::chain;
use crate::launch::Place;
use crate::process::Command;
use crate::{Layout, ManagerError, foreign, network};

/// Port of a node's HTTPS server.
const KUBELET_PORT: u16 = 10_250;

/// Port of a node's ingress for plain HTTP.
const INGRESS_PORT: u16 = 80;

/// Port of a node's ingress for TLS.
const INGRESS_TLS_PORT: u16 = 443;

/// How long the API server may take to forget a node.
const UNREGISTER_MAX: Duration = Duration::from_secs(2);

/// Prepares and clears what processes need.
pub struct Provision {
    layout: Layout,
}

impl Provision {
    /// For the clusters of one state directory.
    pub fn new(layout: Layout) -> Provision {
        Provision { layout }
    }

    /// Prepares what the process needs and says how to start it.
    pub async fn command(
        &self,
        cluster: &Cluster,
        pools: &[NodePool],
        target: &Target,
        supervisor: Option<i32>,
    ) -> Result<Command, ManagerError> {
        let plan = address_plan(cluster.index);
        if cluster.remote.is_none() {
            network::ensure_cluster(&cluster.name, &plan, tunnels(cluster, pools, &plan)).await?;
        }
        let (place, arguments) = match &target.role {
            Role::ControlPlane => (Place::Machine, self.control_plane_arguments(cluster, &plan)),
            Role::Supervisor { node } => {
                let place = self.place(cluster, pools, node, &plan).await?;
                let runtime = self.layout.node(&cluster.name, node).join("runtime");
                (place, vec!["supervisor".to_owned(), format!("--dir={}", runtime.display())])
            }
            Role::Node { node } => {
                let place = match (pool_of(pools, cluster, node)?.foreign_runtime(), supervisor) {
                    (Some(runtime), _) => {
                        foreign::remember(&self.layout.node(&cluster.name, node), runtime)?;
                        Place::Machine
                    }
                    (None, Some(pid)) => Place::Of(pid),
                    (None, None) => {
                        let name = node.clone();
                        return Err(ManagerError::NotFound { kind: "supervisor of node", name });
                    }
                };
                self.route_members(cluster, pools, None).await?;
                (place, self.node_arguments(cluster, pools, node, &plan)?)
            }
        };
        Ok(Command {
            target: target.clone(),
            place,
            arguments,
            environment: Vec::new(),
            log: self.layout.log(target),
            notify: self.layout.notify_socket(),
        })
    }

    /// The namespaces of a node: those of this machine's network, or a network of its own.
    async fn place(
        &self,
        cluster: &Cluster,
        pools: &[NodePool],
        node: &str,
        plan: &AddressPlan,
    ) -> Result<Place, ManagerError> {
        let pool = pool_of(pools, cluster, node)?;
        if pool.host.is_some() {
            let hostname = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
            return Ok(Place::New { network: None, hostname });
        }
        let ordinal = pool.ordinal_of(node).unwrap_or_default();
        let address = plan.node(pool, ordinal);
        let network = network::ensure_node(&cluster.name, plan, node, address).await?;
        network::route_pods(&cluster.name, address, plan.node_pods(pool, ordinal)).await?;
        Ok(Place::New { network: Some(network), hostname: node.to_owned() })
    }

    /// Leads this machine to the pods on other machines, through one of its local nodes other than `but`.
    async fn route_members(
        &self,
        cluster: &Cluster,
        pools: &[NodePool],
        but: Option<&str>,
    ) -> Result<(), ManagerError> {
        let plan = address_plan(cluster.index);
        let local = pools.iter().filter(|p| p.cluster == cluster.name && p.host.is_none());
        let first = local.flat_map(NodePool::node_names).find(|name| Some(name.as_str()) != but);
        match (cluster.listen, first) {
            (Some(_), Some(node)) => {
                let pool = pool_of(pools, cluster, &node)?;
                let address = plan.node(pool, pool.ordinal_of(&node).unwrap_or_default());
                network::route_pods(&cluster.name, address, plan.pod_network).await
            }
            _ => Ok(()),
        }
    }

    fn control_plane_arguments(&self, cluster: &Cluster, plan: &AddressPlan) -> Vec<String> {
        let (service, service_bits) = plan.service_network;
        let (pods, pod_bits) = plan.pod_network;
        let (balancers, balancer_bits) = plan.load_balancer_network;
        let external = cluster.listen.map(|address| format!("--external={address}"));
        let arguments = [
            "controlplane".to_owned(),
            format!("--data-dir={}", self.layout.control_plane(&cluster.name).display()),
            format!("--listen={}", plan.api),
            format!("--listen={}", SocketAddr::from((plan.gateway, plan.api.port()))),
            format!("--service-cidr={service}/{service_bits}"),
            format!("--pod-cidr={pods}/{pod_bits}"),
            format!("--load-balancer-cidr={balancers}/{balancer_bits}"),
            format!("--cluster-name={}", cluster.name),
        ];
        arguments.into_iter().chain(external).collect()
    }

    fn node_arguments(
        &self,
        cluster: &Cluster,
        pools: &[NodePool],
        node: &str,
        plan: &AddressPlan,
    ) -> Result<Vec<String>, ManagerError> {
        let dir = self.layout.node(&cluster.name, node);
        let pool = pool_of(pools, cluster, node)?;
        let address = node_address(plan, pools, cluster, node)?;
        let mut arguments = vec![
            "node".to_owned(),
            format!("--name={node}"),
            format!("--data-dir={}", dir.display()),
            format!("--ip={address}"),
            format!("--listen={}", SocketAddr::from((address, KUBELET_PORT))),
            format!("--cgroup-root={}", self.layout.cgroup(node)),
            format!("--max-pods={}", pool.max_pods),
            "--rotate-certificates".to_owned(),
            "--rotate-server-certificates".to_owned(),
            format!("--label=kutter.dev/nodepool={}", pool.name),
        ];
        match &cluster.remote {
            Some(remote) => arguments.extend(self.member_arguments(cluster, node, remote)),
            None => arguments.extend(self.own_arguments(cluster, pool, node, plan)?),
        }
        arguments.extend(pool.labels.iter().map(|(k, v)| format!("--label={k}={v}")));
        arguments.extend(pool.taints.iter().map(|t| format!("--taint={t}")));
        arguments.extend(pool.foreign_runtime().map(|runtime| format!("--runtime={runtime}")));
        if pool.cpus > 0 {
            arguments.push(format!("--cpus={}", pool.cpus));
        }
        if pool.memory_mib > 0 {
            arguments.push(format!("--memory-mib={}", pool.memory_mib));
        }
        Ok(arguments)
    }

    /// What a node of a cluster of this machine is told besides.
    fn own_arguments(
        &self,
        cluster: &Cluster,
        pool: &NodePool,
        node: &str,
        plan: &AddressPlan,
    ) -> Result<Vec<String>, ManagerError> {
        let ordinal = pool.ordinal_of(node).unwrap_or_default();
        let (pods, pod_bits) = plan.node_pods(pool, ordinal);
        let range = |(address, bits): (Ipv4Addr, u8)| format!("{address}/{bits}");
        let ca = self.layout.control_plane(&cluster.name).join("pki/ca.crt");
        let address = address_of(cluster, pool, ordinal, plan);
        let mut arguments = vec![
            format!("--kubeconfig={}", self.node_kubeconfig(cluster, node, plan)?),
            format!("--client-ca={}", ca.display()),
            format!("--pod-cidr={pods}/{pod_bits}"),
            format!("--cluster-cidr={}", range(plan.pod_network)),
            format!("--service-cidr={}", range(plan.service_network)),
            format!("--load-balancer-cidr={}", range(plan.load_balancer_network)),
            "--ingress".to_owned(),
            SocketAddr::from((address, INGRESS_PORT)).to_string(),
            SocketAddr::from((address, INGRESS_TLS_PORT)).to_string(),
        ];
        if let Some(tunnel) = tunnel(cluster, pool, ordinal, plan) {
            arguments.push(format!("--tunnel={}", tunnel.outside));
            arguments.push(format!("--tunnel-gateway={}", plan.gateway));
        }
        Ok(arguments)
    }

    /// What a node of a cluster on another machine is told besides. It got its kubeconfig when it joined.
    fn member_arguments(&self, cluster: &Cluster, node: &str, remote: &Remote) -> Vec<String> {
        let dns: Vec<String> = remote.cluster_dns.iter().map(ToString::to_string).collect();
        let kubeconfig = self.layout.node(&cluster.name, node).join("kubeconfig");
        let services: Vec<&str> = std::iter::once(&remote.service_cidr)
            .chain(&remote.load_balancer_cidr)
            .map(String::as_str)
            .collect();
        let balancers = remote.load_balancer_cidr.as_ref().map(|r| format!("--load-balancer-cidr={r}"));
        let arguments = [
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--client-ca={}", self.layout.member_ca(&cluster.name).display()),
            format!("--cluster-dns={}", dns.join(",")),
            format!("--cluster-cidr={}", remote.pod_cidr),
            // Load balancer addresses are met by this node's own rules, too.
            format!("--service-cidr={}", services.join(",")),
            // Load balancer addresses are on the network of the control plane's machine.
            "--label=node.kubernetes.io/exclude-from-external-load-balancers=true".to_owned(),
        ];
        arguments.into_iter().chain(balancers).collect()
    }

    /// Writes the node's kubeconfig with a client certificate of its own, made anew at each start (so it is
    /// renewed long before it ends); gives the path.
    fn node_kubeconfig(
        &self,
        cluster: &Cluster,
        node: &str,
        plan: &AddressPlan,
    ) -> Result<String, ManagerError> {
        let failed = |why: String| ManagerError::Credentials { what: format!("node {node}"), why };
        let pki = self.layout.control_plane(&cluster.name).join("pki");
        let pair = Pair::load(&pki, "ca")
            .map_err(|e| failed(chain(&e)))?
            .ok_or_else(|| failed(format!("{} has no ca.crt and ca.key", pki.display())))?;
        let authority = Authority::from_pair(pair).map_err(|e| failed(chain(&e)))?;
        let subject = Subject::client(format!("system:node:{node}"), ["system:nodes"]);
        let issued = authority.issue(&subject, LEAF_LIFE).map_err(|e| failed(chain(&e)))?;
        let server = format!("https://{}", SocketAddr::from((plan.gateway, plan.api.port())));
        let dir = self.layout.node(&cluster.name, node);
        keep_credentials(&dir, &cluster.name, &server, authority.certificate(), &issued)
            .map_err(|e| failed(chain(&*e)))?;
        Ok(dir.join("kubeconfig").display().to_string())
    }

    /// Keeps what a member got when it joined.
    pub fn keep_member(
        &self,
        cluster: &str,
        node: &str,
        server: &str,
        authority: &str,
        pair: &Pair,
    ) -> Result<(), ManagerError> {
        let failed = |why: String| ManagerError::Credentials { what: format!("node {node}"), why };
        let dir = self.layout.node(cluster, node);
        keep_credentials(&dir, cluster, server, authority, pair).map_err(|e| failed(chain(&*e)))?;
        replace_file(&self.layout.member_ca(cluster), authority.as_bytes(), 0o644)
            .map_err(|e| failed(chain(&e)))
    }

    /// Where the ingress of each running node answers.
    pub fn ingress_targets(&self, cluster: &Cluster, pools: &[NodePool]) -> Vec<SocketAddr> {
        let plan = address_plan(cluster.index);
        if cluster.remote.is_some() {
            return Vec::new();
        }
        pools
            .iter()
            .filter(|p| p.cluster == cluster.name)
            .flat_map(NodePool::node_names)
            .filter_map(|node| node_address(&plan, pools, cluster, &node).ok())
            .map(|address| SocketAddr::from((address, INGRESS_PORT)))
            .collect()
    }

    /// Removes a stopped node's network and cgroup, and with `gone` its data and its Node object too.
    pub async fn clear_node(
        &self,
        cluster: &Cluster,
        pools: &[NodePool],
        node: &str,
        gone: bool,
    ) -> Result<(), ManagerError> {
        foreign::clear(&self.layout.node(&cluster.name, node), &self.layout.cgroup(node)).await;
        let own = pools.iter().find(|p| p.cluster == cluster.name && p.ordinal_of(node).is_some());
        // The pool may be gone already: a local node has a namespace with its name.
        let local = net::localnode::netns_path(&cluster.name, node).exists();
        match own.map_or(!local, |p| p.host.is_some()) {
            true => network::clear_host(balancers(cluster)).await?,
            false => network::remove_node(&cluster.name, node).await?,
        }
        if cluster.desired == Desired::Running {
            self.route_members(cluster, pools, Some(node)).await?;
        }
        if !Cgroups::detect().is_ok_and(|c| c.remove(&self.layout.cgroup(node))) {
            tracing::warn!(
                cluster = cluster.name,
                node,
                cgroup = self.layout.cgroup(node),
                "a cgroup is left"
            );
        }
        if !gone {
            return Ok(());
        }
        if cluster.desired == Desired::Running && cluster.remote.is_none() {
            self.unregister(cluster, node).await;
        }
        remove_dir(&self.layout.node(&cluster.name, node))
    }

    /// Takes the Node object of a node that will not come back out of the API, so that no pod waits for it. Without
    /// an API server there is nothing to do it with, and a person may do it later.
    async fn unregister(&self, cluster: &Cluster, node: &str) {
        let path = self.layout.admin_kubeconfig(&cluster.name);
        let deleting = async {
            let config = client::Config::from_kubeconfig(&path, None).map_err(|e| e.to_string())?;
            let client = client::Client::from_config(config).map_err(|e| e.to_string())?;
            match client.delete::<Node>("", node, &client::DeleteOptions::default()).await {
                Err(error) if !error.is_not_found() => Err(error.chain()),
                _ => Ok(()),
            }
        };
        let done = tokio::time::timeout(UNREGISTER_MAX, deleting).await;
        if let Err(error) = done.unwrap_or_else(|_| Err("no answer".to_owned())) {
            tracing::warn!(cluster = cluster.name, node, error, "the Node object was not deleted");
        }
    }

    /// Removes everything of a cluster: nothing of it runs.
    pub async fn clear_cluster(&self, cluster: &Cluster) -> Result<(), ManagerError> {
        if cluster.remote.is_none() {
            network::remove_cluster(&cluster.name).await?;
        }
        remove_dir(&self.layout.cluster(&cluster.name))
    }
}

fn pool_of<'a>(pools: &'a [NodePool], cluster: &Cluster, node: &str) -> Result<&'a NodePool, ManagerError> {
    let of_cluster = || pools.iter().filter(|p| p.cluster == cluster.name);
    of_cluster()
        .find(|p| p.ordinal_of(node).is_some())
        .ok_or_else(|| ManagerError::NotFound { kind: "node", name: node.to_owned() })
}

fn node_address(
    plan: &AddressPlan,
    pools: &[NodePool],
    cluster: &Cluster,
    node: &str,
) -> Result<IpAddr, ManagerError> {
    let pool = pool_of(pools, cluster, node)?;
    Ok(address_of(cluster, pool, pool.ordinal_of(node).unwrap_or_default(), plan))
}

/// A member's address. This machine as a node has the one that other machines know, or, where there are none, the one
/// that only this machine has.
fn address_of(cluster: &Cluster, pool: &NodePool, ordinal: u32, plan: &AddressPlan) -> IpAddr {
    match &pool.host {
        Some(host) => {
            let known = host.address.or(cluster.listen.map(|l| l.ip()));
            known.unwrap_or(IpAddr::V4(plan.gateway))
        }
        None => IpAddr::V4(plan.node(pool, ordinal)),
    }
}

/// Where other machines reach a local node's tunnel, if the cluster is open to them.
fn tunnel(cluster: &Cluster, pool: &NodePool, ordinal: u32, plan: &AddressPlan) -> Option<Tunnel> {
    let IpAddr::V4(outside) = cluster.listen?.ip() else { return None };
    let port = plan.tunnel_port(pool, ordinal).filter(|_| pool.host.is_none())?;
    Some(Tunnel { outside: SocketAddrV4::new(outside, port), node: plan.node(pool, ordinal) })
}

fn tunnels(cluster: &Cluster, pools: &[NodePool], plan: &AddressPlan) -> Vec<Tunnel> {
    let own = pools.iter().filter(|p| p.cluster == cluster.name);
    own.flat_map(|p| (0..p.count).filter_map(|ordinal| tunnel(cluster, p, ordinal, plan))).collect()
}

/// The range of load balancer addresses that a node of this machine may have taken.
fn balancers(cluster: &Cluster) -> Option<Cidr> {
    if cluster.remote.is_some() {
        return None;
    }
    let (address, bits) = address_plan(cluster.index).load_balancer_network;
    Some(Cidr::new(IpAddr::V4(address), bits))
}

/// Writes a node's kubeconfig and, in one file that the node replaces when it renews them, its certificate and key.
fn keep_credentials(
    dir: &Path,
    cluster: &str,
    server: &str,
    ca: &str,
    pair: &Pair,
) -> Result<(), Box<dyn std::error::Error>> {
    use base64::Engine as _;
    let ca = base64::engine::general_purpose::STANDARD.encode(ca);
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": {"server": server, "certificate-authority-data": ca}}],
        "users": [{"name": "node", "user": {"client-certificate": "client.pem", "client-key": "client.pem"}}],
        "contexts": [{"name": "node", "context": {"cluster": cluster, "user": "node"}}],
        "current-context": "node",
    });
    private_dir(dir)?;
    replace_file(&dir.join("client.pem"), format!("{}{}", pair.certificate, pair.key).as_bytes(), 0o600)?;
    Ok(replace_file(&dir.join("kubeconfig"), config.to_string().as_bytes(), 0o600)?)
}

pub(crate) fn private_dir(path: &Path) -> Result<(), ManagerError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(ManagerError::file("create", path))
}

fn remove_dir(path: &Path) -> Result<(), ManagerError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(ManagerError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}
