//! Endpoints, and which pods are behind a Service: shared with EndpointSlices.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service, ServicePort,
    ServiceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::select::Labels;
use crate::{Action, Note, Plan, Report, Target, pod};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// Marks what belongs to a Service without an address of its own.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// The most addresses one Endpoints object may have.
const ADDRESSES_MAX: usize = 1000;

/// Whether the planners here make endpoints for the Service.
#[must_use]
pub fn is_selecting(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    spec.type_.as_deref() != Some("ExternalName") && spec.selector.as_ref().is_some_and(|s| !s.is_empty())
}

/// Whether the Service has an address of its own.
pub(crate) fn has_address(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref().is_some_and(|ip| !ip.is_empty() && ip != "None")
}

/// Whether a pod can be behind a Service at all.
pub(crate) fn is_candidate(p: &Pod, terminating_too: bool) -> bool {
    let status = p.status.as_ref();
    let addressed = status.is_some_and(|s| {
        s.pod_ip.as_deref().is_some_and(|ip| !ip.is_empty())
            || s.pod_ips.as_ref().is_some_and(|i| !i.is_empty())
    });
    addressed && !pod::is_finished(p) && (terminating_too || !pod::is_deleting(p))
}

/// The pod's address of this family.
pub(crate) fn address(p: &Pod, v6: bool) -> Option<String> {
    let status = p.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|i| i.ip.as_str()).chain(status.pod_ip.as_deref());
    all.filter_map(|ip| ip.parse::<IpAddr>().ok()).find(|ip| ip.is_ipv6() == v6).map(|ip| ip.to_string())
}

/// The number of the port the Service means on this pod.
pub(crate) fn target_port(p: &Pod, port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = p.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let same = |c: &&k8s_openapi::api::core::v1::ContainerPort| {
                c.name.as_deref() == Some(name) && c.protocol.as_deref().unwrap_or("TCP") == protocol
            };
            { ports }.find(same).map(|c| c.container_port)
        }
    }
}

/// The name under which DNS knows the pod, if the Service is the one it names.
pub(crate) fn hostname(p: &Pod, service: &Service) -> Option<String> {
    let spec = p.spec.as_ref()?;
    let named = spec.subdomain.as_deref() == service.metadata.name.as_deref();
    spec.hostname.clone().filter(|h| named && !h.is_empty())
}

pub(crate) fn pod_reference(p: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: p.metadata.namespace.clone(),
        name: p.metadata.name.clone(),
        uid: p.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

fn wants_v6(spec: &ServiceSpec) -> bool {
    spec.ip_families.iter().flatten().next().is_some_and(|f| f == "IPv6")
}

type PortKey = Vec<(String, i32, String, Option<String>)>;

/// Keeps the Endpoints of a Service at its pods. `pods` are those its selector selects.
#[must_use]
pub fn plan(service: &Service, pods: &[&Pod], old: Option<&Endpoints>) -> Plan {
    let Some(spec) = service.spec.as_ref().filter(|_| is_selecting(service)) else {
        return Plan::idle("the service has no selector: its endpoints are someone else's");
    };
    if pod::is_deleting(service) {
        return Plan::idle("the service is being deleted");
    }
    let mut meta = old.map(|e| e.metadata.clone()).unwrap_or_else(|| ObjectMeta {
        name: service.metadata.name.clone(),
        namespace: service.metadata.namespace.clone(),
        ..ObjectMeta::default()
    });
    let mut labels: Labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if !has_address(spec) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    meta.labels = Some(labels);
    let (subsets, truncated) = subsets(service, spec, pods);
    let annotations = meta.annotations.get_or_insert_default();
    annotations.remove(OVER_CAPACITY);
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    meta.annotations = meta.annotations.take().filter(|a| !a.is_empty());
    let new = Endpoints { metadata: meta, subsets: (!subsets.is_empty()).then_some(subsets) };
    let about = Target::of(&new);
    let failed = |reason, text: String| Report {
        about: about.clone(),
        done: None,
        failed: Some(Note::warning(reason, text)),
    };
    let place = format!("{}/{}", about.namespace, about.name);
    let action = match old {
        None => {
            let report =
                failed("FailedToCreateEndpoint", format!("Failed to create endpoint for service {place}: "));
            Some(Action::create_reported(&new, Some(report)))
        }
        Some(old) => Action::patch(old, &new).map(|a| {
            a.reported(failed("FailedToUpdateEndpoint", format!("Failed to update endpoint {place}: ")))
        }),
    };
    let why = if action.is_some() { "the endpoints differ" } else { "the endpoints are right" };
    Plan { actions: action.into_iter().collect(), ..Plan::idle(why) }
}

/// Addresses grouped by the ports they share, in a canonical order; and whether some had to be left out.
fn subsets(service: &Service, spec: &ServiceSpec, pods: &[&Pod]) -> (Vec<EndpointSubset>, bool) {
    let unready_too = spec.publish_not_ready_addresses == Some(true);
    let v6 = wants_v6(spec);
    let mut groups: BTreeMap<PortKey, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    let mut count = 0;
    let mut truncated = false;
    // Ready addresses come first, so that they are not the ones left out.
    let mut pods: Vec<&&Pod> = pods.iter().filter(|p| is_candidate(p, unready_too)).collect();
    pods.sort_by_key(|p| !pod::is_ready(p));
    for p in pods {
        let Some(ip) = address(p, v6) else { continue };
        let ports: PortKey = spec
            .ports
            .iter()
            .flatten()
            .filter_map(|s| {
                let name = s.name.clone().unwrap_or_default();
                let protocol = s.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                Some((name, target_port(p, s)?, protocol, s.app_protocol.clone()))
            })
            .collect();
        if ports.is_empty() && (spec.ports.as_ref().is_some_and(|p| !p.is_empty()) || has_address(spec)) {
            continue;
        }
        if count == ADDRESSES_MAX {
            truncated = true;
            break;
        }
        count += 1;
        let target_ref = Some(pod_reference(p));
        let node_name = pod::node(p).map(str::to_owned);
        let entry = EndpointAddress { ip, node_name, target_ref, hostname: hostname(p, service) };
        let group = groups.entry(ports).or_default();
        if pod::is_ready(p) || unready_too { group.0.push(entry) } else { group.1.push(entry) }
    }
    let sorted = |mut list: Vec<EndpointAddress>| {
        list.sort_by(|a, b| a.ip.cmp(&b.ip));
        (!list.is_empty()).then_some(list)
    };
    let subsets = groups.into_iter().map(|(ports, (ready, unready))| EndpointSubset {
        addresses: sorted(ready),
        not_ready_addresses: sorted(unready),
        ports: (!ports.is_empty()).then(|| ports.into_iter().map(port).collect()),
    });
    (subsets.collect(), truncated)
}

fn port((name, port, protocol, app_protocol): (String, i32, String, Option<String>)) -> EndpointPort {
    EndpointPort { name: Some(name).filter(|n| !n.is_empty()), port, protocol: Some(protocol), app_protocol }
}

/// Deletes the Endpoints of a Service that is gone, if they were made here.
#[must_use]
pub fn plan_gone(old: Option<&Endpoints>) -> Plan {
    let ours = old
        .filter(|e| e.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_BY)).is_some_and(|m| m == MANAGER));
    match ours.filter(|e| !pod::is_deleting(*e)) {
        Some(old) => Plan { actions: vec![Action::delete(old)], ..Plan::idle("the service is gone") },
        None => Plan::idle("there is neither service nor endpoints"),
    }
}
