//! What a process needs before it starts, and what is removed when it will not start again: folders, credentials,
//! networks, limits, and the command line.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use fleet::{AddressPlan, Cluster, Desired, NodePool, Role, Target, address_plan};
use k8s_openapi::api::core::v1::Node;
use oci::cgroup::Cgroups;
use serde_json::json;
use serve::pki::{Authority, LEAF_LIFE, Pair, Subject, replace_file};

use crate::engine::chain;
use crate::launch::Place;
use crate::process::Command;
use crate::{Layout, ManagerError, network};

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
        let (place, arguments) = match &target.role {
            Role::ControlPlane => {
                network::ensure_cluster(&cluster.name, &plan).await?;
                (Place::Machine, self.control_plane_arguments(cluster, &plan))
            }
            Role::Supervisor { node } => {
                network::ensure_cluster(&cluster.name, &plan).await?;
                let address = node_address(&plan, pools, cluster, node)?;
                let network = network::ensure_node(&cluster.name, &plan, node, address).await?;
                let pool = pool_of(pools, cluster, node)?;
                let pods = plan.node_pods(pool, pool.ordinal_of(node).unwrap_or_default());
                network::route_pods(&cluster.name, address, pods).await?;
                let runtime = self.layout.node(&cluster.name, node).join("runtime");
                let arguments = vec!["supervisor".to_owned(), format!("--dir={}", runtime.display())];
                (Place::New { network, hostname: node.clone() }, arguments)
            }
            Role::Node { node } => {
                let Some(pid) = supervisor else {
                    return Err(ManagerError::NotFound { kind: "supervisor of node", name: node.clone() });
                };
                (Place::Of(pid), self.node_arguments(cluster, pools, node, &plan)?)
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

    fn control_plane_arguments(&self, cluster: &Cluster, plan: &AddressPlan) -> Vec<String> {
        let (service, service_bits) = plan.service_network;
        let (pods, pod_bits) = plan.pod_network;
        let (balancers, balancer_bits) = plan.load_balancer_network;
        vec![
            "controlplane".to_owned(),
            format!("--data-dir={}", self.layout.control_plane(&cluster.name).display()),
            format!("--listen={}", plan.api),
            format!("--listen={}", SocketAddr::from((plan.gateway, plan.api.port()))),
            format!("--service-cidr={service}/{service_bits}"),
            format!("--pod-cidr={pods}/{pod_bits}"),
            format!("--load-balancer-cidr={balancers}/{balancer_bits}"),
            format!("--cluster-name={}", cluster.name),
        ]
    }

    fn node_arguments(
        &self,
        cluster: &Cluster,
        pools: &[NodePool],
        node: &str,
        plan: &AddressPlan,
    ) -> Result<Vec<String>, ManagerError> {
        let dir = self.layout.node(&cluster.name, node);
        let kubeconfig = self.node_kubeconfig(cluster, node, plan)?;
        let address = node_address(plan, pools, cluster, node)?;
        let pool = pool_of(pools, cluster, node)?;
        let (pods, pod_bits) = plan.node_pods(pool, pool.ordinal_of(node).unwrap_or_default());
        let range = |(address, bits): (Ipv4Addr, u8)| format!("{address}/{bits}");
        let ca = self.layout.control_plane(&cluster.name).join("pki/ca.crt");
        let mut arguments = vec![
            "node".to_owned(),
            format!("--name={node}"),
            format!("--kubeconfig={kubeconfig}"),
            format!("--data-dir={}", dir.display()),
            format!("--ip={address}"),
            format!("--listen={address}:10250"),
            format!("--client-ca={}", ca.display()),
            format!("--pod-cidr={pods}/{pod_bits}"),
            format!("--cluster-cidr={}", range(plan.pod_network)),
            format!("--service-cidr={}", range(plan.service_network)),
            format!("--load-balancer-cidr={}", range(plan.load_balancer_network)),
            "--ingress".to_owned(),
            format!("{address}:{INGRESS_PORT}"),
            format!("{address}:{INGRESS_TLS_PORT}"),
            format!("--cgroup-root={}", self.layout.cgroup(node)),
            format!("--max-pods={}", pool.max_pods),
            format!("--label=kutter.dev/nodepool={}", pool.name),
        ];
        arguments.extend(pool.labels.iter().map(|(k, v)| format!("--label={k}={v}")));
        arguments.extend(pool.taints.iter().map(|t| format!("--taint={t}")));
        if pool.cpus > 0 {
            arguments.push(format!("--cpus={}", pool.cpus));
        }
        if pool.memory_mib > 0 {
            arguments.push(format!("--memory-mib={}", pool.memory_mib));
        }
        Ok(arguments)
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
        let config = kubeconfig(&cluster.name, &server, authority.certificate(), &issued);
        let path = self.layout.node(&cluster.name, node).join("kubeconfig");
        private_dir(&self.layout.node(&cluster.name, node))?;
        replace_file(&path, config.to_string().as_bytes(), 0o600).map_err(|e| failed(chain(&e)))?;
        Ok(path.display().to_string())
    }

    /// Where the ingress of each running node answers.
    pub fn ingress_targets(&self, cluster: &Cluster, pools: &[NodePool]) -> Vec<SocketAddr> {
        let plan = address_plan(cluster.index);
        pools
            .iter()
            .filter(|p| p.cluster == cluster.name)
            .flat_map(NodePool::node_names)
            .filter_map(|node| node_address(&plan, pools, cluster, &node).ok())
            .map(|address| SocketAddr::from((address, INGRESS_PORT)))
            .collect()
    }

    /// Removes a stopped node's network and cgroup, and with `gone` its data and its Node object too.
    pub async fn clear_node(&self, cluster: &Cluster, node: &str, gone: bool) -> Result<(), ManagerError> {
        network::remove_node(&cluster.name, node).await?;
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
        if cluster.desired == Desired::Running {
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
        network::remove_cluster(&cluster.name).await?;
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
) -> Result<Ipv4Addr, ManagerError> {
    let pool = pool_of(pools, cluster, node)?;
    Ok(plan.node(pool, pool.ordinal_of(node).unwrap_or_default()))
}

fn kubeconfig(cluster: &str, server: &str, ca: &str, pair: &Pair) -> serde_json::Value {
    use base64::Engine as _;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": {"server": server, "certificate-authority-data": encode(ca)}}],
        "users": [{"name": "node", "user": {
            "client-certificate-data": encode(&pair.certificate),
            "client-key-data": encode(&pair.key),
        }}],
        "contexts": [{"name": "node", "context": {"cluster": cluster, "user": "node"}}],
        "current-context": "node",
    })
}

fn private_dir(path: &Path) -> Result<(), ManagerError> {
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
