//! What the kubelet needs of the pod network.

mod edge;
pub mod fabric;
mod follow;
mod guard;
mod health;
mod numbers;
mod proxyz;

pub use follow::{TUNNEL, TUNNEL_GATEWAY};

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use base::exposition::Text;
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;

/// Plugs pods into the network. Both calls are idempotent.
pub trait PodNetwork: Send + Sync + 'static {
    /// Gives the network namespace an interface, and answers with the pod's addresses, the primary one first.
    fn attach<'a>(&'a self, netns: &'a Path, pod: &'a Pod) -> BoxFuture<'a, Result<Vec<IpAddr>, String>>;
    /// Gives the pod's addresses and host ports free.
    fn detach<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), String>>;
    /// Called once after a start with the pods that have a network here: what belongs to others is given free.
    fn adopt<'a>(&'a self, pods: &'a [Arc<Pod>]) -> BoxFuture<'a, Result<(), String>> {
        let _ = pods;
        Box::pin(async { Ok(()) })
    }
    /// Adds what it counts to the node's metrics.
    fn show(&self, out: &mut Text) {
        let _ = out;
    }
}

/// A node without a pod network: pods see only their own loopback.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoNetwork;

impl PodNetwork for NoNetwork {
    fn attach<'a>(&'a self, _: &'a Path, _: &'a Pod) -> BoxFuture<'a, Result<Vec<IpAddr>, String>> {
        Box::pin(async { Ok(vec![IpAddr::from([127, 0, 0, 1])]) })
    }

    fn detach<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}
