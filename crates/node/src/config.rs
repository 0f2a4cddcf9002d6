//! What a node process is told when it starts.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use pods::threshold::Rules;

use crate::shutdown::Grace;
use crate::size::Size;

/// Options of the kubelet.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the Node object.
    pub name: String,
    /// Pods, volumes and certificates of this node live below.
    pub data_dir: PathBuf,
    /// Log files of containers live below, as `NAMESPACE_NAME_UID/CONTAINER/N.log`.
    pub log_dir: PathBuf,
    /// Labels to register with, besides the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// Taints to register with.
    pub taints: Vec<Taint>,
    /// Addresses of the node, the primary one first.
    pub ips: Vec<IpAddr>,
    /// Where the HTTPS server listens; port 0 takes a free one.
    pub listen: std::net::SocketAddr,
    /// Addresses of the cluster's DNS.
    pub cluster_dns: Vec<String>,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// Directory of static pod manifests.
    pub static_pods: Option<PathBuf>,
    /// File with the client's certificate and key, to be renewed there; none leaves that to somebody else.
    pub client_pem: Option<PathBuf>,
    /// Have the server's certificate signed by the cluster.
    pub signed_serving: bool,
    /// Annotations to register with; those without a value are taken away.
    pub annotations: BTreeMap<String, Option<String>>,
    /// How much of the machine the node is.
    pub size: Size,
    /// Most pods at once.
    pub max_pods: u32,
    /// Most processes and threads of one pod; 0 for no limit.
    pub pids_max: u32,
    /// Images that are pulled at once; 1 pulls them one after another, as upstream does unless told otherwise.
    pub pulls_at_once: usize,
    /// PEM file of the authority that signs clients of the HTTPS server; none refuses everyone.
    pub client_ca: Option<PathBuf>,
    /// Cgroup below which pods get theirs.
    pub cgroup_root: String,
    /// The host's resolv.conf.
    pub resolv_conf: PathBuf,
    /// Range of the addresses of this node's pods, when nobody else gives it one.
    pub pod_cidr: Option<String>,
    /// `providerID` of the Node object.
    pub provider_id: Option<String>,
    /// What must stay free of the node's resources.
    pub eviction: Rules,
    /// How long pods have to end when the node shuts down.
    pub shutdown: Grace,
    /// How long a condition of pressure stays after the pressure.
    pub pressure_hold: Duration,
    /// An image that was used within this time is not collected.
    pub image_age: Duration,
    /// Kernel parameters that pods may set besides the safe ones; a `*` at the end stands for anything.
    pub allowed_sysctls: Vec<String>,
}

impl Options {
    /// Defaults for a node of this name with its data in this directory.
    pub fn new(name: &str, data_dir: PathBuf) -> Options {
        Options {
            name: name.to_lowercase(),
            log_dir: data_dir.join("log/pods"),
            data_dir,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            ips: vec![IpAddr::from([127, 0, 0, 1])],
            listen: ([0, 0, 0, 0], 10250).into(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            static_pods: None,
            client_pem: None,
            signed_serving: false,
            annotations: BTreeMap::new(),
            size: Size::default(),
            max_pods: 110,
            pids_max: 4096,
            pulls_at_once: 1,
            client_ca: None,
            cgroup_root: "/kubepods".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            pod_cidr: None,
            provider_id: None,
            eviction: Rules::default(),
            shutdown: Grace::default(),
            pressure_hold: Duration::from_secs(300),
            image_age: Duration::from_secs(120),
            allowed_sysctls: Vec::new(),
        }
    }

    /// The node's addresses as text.
    pub fn ip_texts(&self) -> Vec<String> {
        self.ips.iter().map(ToString::to_string).collect()
    }
}
