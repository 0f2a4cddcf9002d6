//! Shutdown of the node with grace: pods end first, critical ones last, and say why.
//!
//! A node process is told to end in the same way for a restart, which touches no pod. So this happens only where a
//! grace period was given.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use pods::model::End;

use crate::kubelet::Kubelet;

/// From this priority on a pod is critical to the system.
const CRITICAL: i32 = 2_000_000_000;
/// Between two looks at whether pods are over.
const LOOK: Duration = Duration::from_millis(50);

/// How long pods may take to end when the node shuts down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Grace {
    /// All of them; zero leaves pods running.
    pub whole: Duration,
    /// The part of it that is kept for critical ones.
    pub critical: Duration,
}

/// Ends all pods, if there is a grace period for it: those that are not critical, then the others.
pub async fn run(k: &Arc<Kubelet>) {
    let Grace { whole, critical } = k.options.shutdown;
    if whole.is_zero() {
        return;
    }
    tracing::info!("the node shuts down: its pods end first");
    k.shutting_down.store(true, Ordering::Release);
    k.pressed.notify_one();
    let (last, first): (Vec<Pod>, Vec<Pod>) = k.all_pods().into_iter().filter(lives).partition(is_critical);
    for (pods, grace) in [(first, whole.saturating_sub(critical)), (last, critical)] {
        let ending = end(k, &pods, grace);
        if tokio::time::timeout(grace, ending).await.is_err() {
            tracing::warn!(
                seconds = grace.as_secs(),
                "pods took longer to end than the node's shutdown allows"
            );
        }
    }
}

fn lives(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

fn is_critical(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.priority).is_some_and(|p| p >= CRITICAL)
}

async fn end(k: &Arc<Kubelet>, pods: &[Pod], grace: Duration) {
    let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
    let most = SignedDuration::try_from(grace).unwrap_or(SignedDuration::MAX);
    for pod in pods {
        let Some(handle) = k.handle(&uid(pod)) else { continue };
        let own = pod.spec.as_ref().map_or(30, pods::spec::grace_seconds);
        *handle.end.lock() = Some(End {
            reason: "Terminated".into(),
            message: "Pod was terminated in response to imminent node shutdown.".into(),
            grace: Some(most.min(SignedDuration::from_secs(own))),
            disruption: Some("TerminationByKubelet".into()),
        });
        handle.notify.notify_one();
    }
    // Until the API knows: nobody tells it later.
    let told = |pod: &Pod| {
        let m = &pod.metadata;
        let (namespace, name) = (m.namespace.as_deref().unwrap_or(""), m.name.as_deref().unwrap_or(""));
        let known = k.pods.get(namespace, name).filter(|known| known.metadata.uid == m.uid);
        known.is_none_or(|known| !lives(&known))
    };
    while !pods.iter().all(told) {
        tokio::time::sleep(LOOK).await;
    }
}
