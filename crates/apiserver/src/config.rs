//! What an API server is started with.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::services::Cidr;

/// Where objects live.
#[derive(Debug, Clone, Default)]
pub enum StoreChoice {
    /// In files below the data directory.
    #[default]
    Embedded,
    /// In etcd.
    Etcd(Etcd),
}

/// An etcd and who we are to it.
#[derive(Debug, Clone, Default)]
pub struct Etcd {
    /// URLs of the members of one etcd.
    pub urls: Vec<String>,
    /// Certificates of the authorities its certificates may be of; without them only `http` works.
    pub ca_file: Option<PathBuf>,
    /// Own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// How to start an API server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it keeps its state: `pki/`, `store/`, `admin.kubeconfig`.
    pub data_dir: PathBuf,
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Further addresses it listens on.
    pub also_listen: Vec<SocketAddr>,
    /// Under which address others reach it, when that is not the one it listens on.
    pub advertise: Option<SocketAddr>,
    /// Further names and addresses its certificate is good for.
    pub names: Vec<String>,
    /// Where objects live.
    pub store: StoreChoice,
    /// Ranges of cluster addresses, the primary family first.
    pub service_cidrs: Vec<Cidr>,
    /// First and last node port.
    pub node_ports: (u16, u16),
    /// The cluster's name in the kubeconfig.
    pub cluster_name: String,
    /// What pods are held to where their namespace says nothing, and who is exempt: a `PodSecurityConfiguration`.
    pub pod_security: Option<PathBuf>,
}

impl Config {
    /// The usual choices for this directory and address.
    pub fn new(data_dir: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen,
            also_listen: Vec::new(),
            advertise: None,
            names: Vec::new(),
            store: StoreChoice::Embedded,
            service_cidrs: vec![Cidr::DEFAULT],
            node_ports: (30_000, 32_767),
            cluster_name: "kutter".into(),
            pod_security: None,
        }
    }
}
