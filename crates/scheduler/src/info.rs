//! A pod as the scheduler sees it: what it asks for, worked out once.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::resources::Resources;
use crate::volumes::Needs;

/// A host port a pod takes: protocol, address, port. The address 0.0.0.0 means all.
pub type HostPort = (String, String, i32);

/// A pod and what follows from it.
#[derive(Debug, Clone)]
pub struct PodInfo {
    /// The pod itself.
    pub pod: Arc<Pod>,
    /// What it asks for.
    pub requested: Resources,
    /// What it counts for in scores.
    pub likely: Resources,
    /// Host ports it takes.
    pub ports: Vec<HostPort>,
    /// What its volumes demand; absent for pods that are placed and for volumes that demand nothing.
    pub volumes: Option<Arc<Needs>>,
    /// Which pods it is spread among if it has no spread constraints: those of its Services and its controller.
    pub spread_by: Option<LabelSelector>,
    /// The terms it holds, once it is placed.
    pub(crate) held: Vec<usize>,
}

impl PodInfo {
    /// Works out what the pod asks for.
    pub fn of(pod: Arc<Pod>) -> PodInfo {
        let none = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&none);
        PodInfo {
            requested: Resources::requested_by(spec),
            likely: Resources::likely_used_by(spec),
            ports: host_ports(spec),
            volumes: None,
            spread_by: None,
            held: Vec::new(),
            pod,
        }
    }

    /// Its uid.
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// Its spec.
    pub fn spec(&self) -> &PodSpec {
        static NONE: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
        self.pod.spec.as_ref().unwrap_or(&NONE)
    }

    /// Whether it has come to its end and holds nothing any more.
    pub fn is_over(&self) -> bool {
        is_over(&self.pod)
    }
}

/// Whether a pod has come to its end and holds nothing any more.
pub fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let port = p.host_port.filter(|p| *p > 0)?;
            let address = p.host_ip.clone().filter(|a| !a.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
            Some((p.protocol.clone().unwrap_or_else(|| "TCP".into()), address, port))
        })
        .collect()
}
