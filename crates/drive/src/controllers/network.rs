//! Endpoints and EndpointSlices.

use std::sync::Arc;

use client::{Cache, Change, ObjectKey};
use controllers::select::matches_map;
use controllers::{Plan, endpoints, endpointslice, pod};
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::workloads::refs;
use crate::shell::{Pass, Planner, Wiring};

const ZONE: &str = "topology.kubernetes.io/zone";
/// The index of slices by the Service they name.
const BY_SERVICE: &str = "service";

/// Wakes the Services that select the pod, before or after, if anything changed that endpoints show.
fn wake_services(services: &Cache<Service>, change: &Change<'_, Pod>, wake: &mut dyn FnMut(ObjectKey)) {
    let face = |p: &Arc<Pod>| {
        let ips = p.status.as_ref().map(|s| (s.pod_ip.clone(), s.pod_ips.clone()));
        let state =
            (pod::is_ready(p), pod::is_finished(p), pod::is_deleting(&**p), pod::node(p).map(str::to_owned));
        (p.metadata.uid.clone(), p.metadata.labels.clone(), ips, state)
    };
    if let (Some(old), Some(new)) = (change.old, change.new)
        && face(old) == face(new)
    {
        return;
    }
    for service in services.list(&change.key.namespace) {
        let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
        let mut pods = [change.old, change.new].into_iter().flatten();
        if pods.any(|p| matches_map(selector, p.metadata.labels.as_ref())) {
            wake(ObjectKey::of(&*service));
        }
    }
}

fn selected(pods: &Cache<Pod>, service: &Service, namespace: &str) -> Vec<Arc<Pod>> {
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
    let mut all = pods.list(namespace);
    all.retain(|p| matches_map(selector, p.metadata.labels.as_ref()));
    all
}

pub(super) fn endpoints(wiring: &mut Wiring) -> Planner {
    let services = wiring.own::<Service>();
    let known = services.clone();
    let pods = wiring.on_change::<Pod>(move |change, wake| wake_services(&known, change, wake));
    let current = wiring.own::<Endpoints>();
    Planner::local(move |pass: &Pass<'_>| {
        let old = current.get_key(pass.key);
        let Some(service) = services.get_key(pass.key) else {
            return endpoints::plan_gone(old.as_deref());
        };
        let pods = selected(&pods, &service, &pass.key.namespace);
        endpoints::plan(&service, &refs(&pods), old.as_deref())
    })
}

fn slices(wiring: &mut Wiring) -> Cache<EndpointSlice> {
    let slices = wiring.on::<EndpointSlice>(|slice, wake| {
        if let Some(name) = slice.metadata.labels.as_ref().and_then(|l| l.get(endpointslice::SERVICE_NAME)) {
            wake(ObjectKey::new(slice.metadata.namespace.as_deref().unwrap_or(""), name));
        }
    });
    slices.add_index(BY_SERVICE, |slice| {
        let name = slice.metadata.labels.as_ref().and_then(|l| l.get(endpointslice::SERVICE_NAME));
        name.map(|n| format!("{}/{n}", slice.metadata.namespace.as_deref().unwrap_or("")))
            .into_iter()
            .collect()
    });
    slices
}

pub(super) fn endpointslice(wiring: &mut Wiring) -> Planner {
    let services = wiring.own::<Service>();
    let known = services.clone();
    let pods = wiring.on_change::<Pod>(move |change, wake| wake_services(&known, change, wake));
    let slices = slices(wiring);
    let nodes = wiring.cache::<Node>();
    Planner::local(move |pass: &Pass<'_>| {
        let found = slices.by_index(BY_SERVICE, &pass.key.to_string());
        // The slices of a Service that is gone are collected as garbage.
        let Some(service) = services.get_key(pass.key) else { return Plan::idle("the service is gone") };
        let pods = selected(&pods, &service, &pass.key.namespace);
        let zone_of = |node: &str| nodes.get("", node)?.metadata.labels.as_ref()?.get(ZONE).cloned();
        endpointslice::plan(&service, &refs(&pods), &refs(&found), &zone_of)
    })
}

pub(super) fn mirror(wiring: &mut Wiring) -> Planner {
    let endpoints = wiring.own::<Endpoints>();
    let services = wiring.own::<Service>();
    let slices = slices(wiring);
    Planner::local(move |pass: &Pass<'_>| {
        let found = slices.by_index(BY_SERVICE, &pass.key.to_string());
        let service = services.get_key(pass.key);
        match endpoints.get_key(pass.key) {
            Some(e) => endpointslice::plan_mirror(&e, service.as_deref(), &refs(&found)),
            None => endpointslice::plan_unmirrored(&refs(&found)),
        }
    })
}
