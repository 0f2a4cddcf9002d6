//! Which pods a pod belongs with: those of its Services and of its controller. Pods that say nothing themselves are
//! spread among these.

use std::collections::BTreeMap;

use client::Cache;
use k8s_openapi::Resource;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::caches::Caches;

/// What selects pods.
pub(super) struct Kin {
    services: Cache<Service>,
    controllers: Cache<ReplicationController>,
    replica_sets: Cache<ReplicaSet>,
    stateful_sets: Cache<StatefulSet>,
}

impl Kin {
    pub(super) fn new(caches: &Caches) -> Self {
        Self {
            services: caches.get(),
            controllers: caches.get(),
            replica_sets: caches.get(),
            stateful_sets: caches.get(),
        }
    }

    pub(super) async fn synced(&self) {
        self.services.synced().await;
        self.controllers.synced().await;
        self.replica_sets.synced().await;
        self.stateful_sets.synced().await;
    }

    /// What selects the pods that this one belongs with; `None` if nothing does, or if the pod has constraints of its
    /// own.
    pub(super) fn selector(&self, pod: &Pod) -> Option<LabelSelector> {
        let constraints = pod.spec.as_ref().and_then(|s| s.topology_spread_constraints.as_deref());
        if constraints.is_some_and(|c| !c.is_empty()) {
            return None;
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut labels: BTreeMap<String, String> = BTreeMap::new();
        if let Some(own) = &pod.metadata.labels {
            for service in self.services.list(namespace) {
                let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
                let Some(selector) = selector else { continue };
                if selector.iter().all(|(key, value)| own.get(key) == Some(value)) {
                    labels.extend(selector.clone());
                }
            }
        }
        let mut expressions = Vec::new();
        let mut more = None;
        if let Some(owner) = controllers::pod::controller_of(&pod.metadata) {
            let is = |kind: &str, version: &str| owner.kind == kind && owner.api_version == version;
            if is(ReplicationController::KIND, "v1") {
                let found = self.controllers.get(namespace, &owner.name);
                labels.extend(found.and_then(|c| c.spec.clone()?.selector).unwrap_or_default());
            } else if is(ReplicaSet::KIND, "apps/v1") {
                let found = self.replica_sets.get(namespace, &owner.name);
                more = found.and_then(|c| Some(c.spec.as_ref()?.selector.clone()));
            } else if is(StatefulSet::KIND, "apps/v1") {
                let found = self.stateful_sets.get(namespace, &owner.name);
                more = found.and_then(|c| Some(c.spec.as_ref()?.selector.clone()));
            }
        }
        if let Some(more) = more {
            labels.extend(more.match_labels.unwrap_or_default());
            expressions.extend(more.match_expressions.unwrap_or_default());
        }
        if labels.is_empty() && expressions.is_empty() {
            return None;
        }
        let match_expressions = Some(expressions).filter(|e| !e.is_empty());
        Some(LabelSelector { match_labels: Some(labels), match_expressions })
    }
}
