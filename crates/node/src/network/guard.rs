//! Network policies: followed by every node; pods and namespaces of the cluster only while there are policies.

use std::sync::{Arc, Weak};
use std::time::Duration;

use client::{Cache, Subscription};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use netplan::policy::{View, compile};

use super::fabric::Fabric;

/// Changes that come close together are compiled together.
const GATHER: Duration = Duration::from_millis(20);
const PART: &str = "policies";

struct World {
    pods: Cache<Pod>,
    namespaces: Cache<Namespace>,
    pods_changed: Subscription,
    namespaces_changed: Subscription,
}

/// What policies look at of a pod.
fn trim(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    pod.metadata.annotations = None;
    if let Some(spec) = &mut pod.spec {
        let every = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
        for c in every {
            let ports = c.ports.take();
            let restart_policy = c.restart_policy.take();
            *c = k8s_openapi::api::core::v1::Container { ports, restart_policy, ..Default::default() };
        }
        spec.volumes = None;
    }
    if let Some(status) = &mut pod.status {
        status.container_statuses = None;
        status.init_container_statuses = None;
        status.conditions = None;
    }
}

async fn world(f: &Arc<Fabric>) -> World {
    let pods = Cache::<Pod>::builder(f.client.clone()).trim(trim).start();
    let namespaces = Cache::<Namespace>::builder(f.client.clone()).start();
    let (pods_changed, namespaces_changed) = (pods.subscribe(), namespaces.subscribe());
    pods.synced().await;
    namespaces.synced().await;
    World { pods, namespaces, pods_changed, namespaces_changed }
}

/// Follows policies.
pub(super) async fn policies(fabric: Weak<Fabric>) {
    let Some(f) = fabric.upgrade() else { return };
    let policies = Cache::<NetworkPolicy>::builder(f.client.clone()).start();
    let mut changed = policies.subscribe();
    policies.synced().await;
    drop(f);
    let mut around: Option<World> = None;
    let mut warned: Vec<String> = Vec::new();
    loop {
        let Some(f) = fabric.upgrade() else { return };
        let all = policies.list("");
        if all.is_empty() {
            around = None;
            f.change(vec![(PART.to_owned(), None)]).await;
        } else {
            let w = match around.take() {
                Some(w) => w,
                None => world(&f).await,
            };
            let (pods, namespaces) = (w.pods.list(""), w.namespaces.list(""));
            let view = View { node: &f.options.node, policies: &all, pods: &pods, namespaces: &namespaces };
            let (part, why) = compile(&view);
            if why != warned {
                warned = why;
                warned.iter().for_each(|why| tracing::warn!(why, "a part of a NetworkPolicy is left out"));
            }
            f.change(vec![(PART.to_owned(), Some(part))]).await;
            around = Some(w);
        }
        drop(f);
        match &mut around {
            None => {
                if changed.next().await.is_empty() {
                    return;
                }
            }
            Some(w) => tokio::select! {
                _ = changed.next() => {}
                _ = w.pods_changed.next() => {}
                _ = w.namespaces_changed.next() => {}
            },
        }
        tokio::time::sleep(GATHER).await;
    }
}
