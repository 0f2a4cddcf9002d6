//! EndpointSlices: the pods behind a Service in slices of limited size, changed as little as possible; and
//! the mirror image of Endpoints that someone else writes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::endpoints::{
    HEADLESS, address, has_address, hostname, is_candidate, is_selecting, pod_reference, target_port,
};
use crate::hints::hint;
use crate::select::Labels;
use crate::{Action, Plan, Target, names, pod};

/// The label that names a slice's Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that names who keeps a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Who keeps the slices of Services with a selector.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Who keeps the slices that mirror Endpoints.
pub const MIRROR: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
const ENDPOINTS_MAX: usize = 100;

/// Endpoints of one family that share their ports.
struct Group {
    family: &'static str,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
}

/// Keeps the slices of a Service at its pods. `pods` are those its selector selects, `slices` those that
/// name the Service; `zone_of` gives the zone of a node.
#[must_use]
pub fn plan(
    service: &Service,
    pods: &[&Pod],
    slices: &[&EndpointSlice],
    zone_of: &dyn Fn(&str) -> Option<String>,
) -> Plan {
    let slices: Vec<&EndpointSlice> = slices.iter().copied().filter(|s| is_kept_by(s, MANAGER)).collect();
    if pod::is_deleting(service) {
        return Plan::idle("the service is being deleted");
    }
    let Some(spec) = service.spec.as_ref().filter(|_| is_selecting(service)) else {
        return remove(&slices, "the service has no selector");
    };
    let mut groups = Vec::new();
    for family in families(service, pods) {
        let mut by_ports: BTreeMap<String, Group> = BTreeMap::new();
        for p in pods.iter().filter(|p| is_candidate(p, true)) {
            let Some(ip) = address(p, family == "IPv6") else { continue };
            let ports: Vec<EndpointPort> = spec
                .ports
                .iter()
                .flatten()
                .filter_map(|s| {
                    Some(EndpointPort {
                        name: Some(s.name.clone().unwrap_or_default()),
                        port: Some(target_port(p, s)?),
                        protocol: Some(s.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                        app_protocol: s.app_protocol.clone(),
                    })
                })
                .collect();
            let group = by_ports.entry(ports_key(Some(&ports)));
            let group = group.or_insert_with(|| Group { family, ports, endpoints: Vec::new() });
            group.endpoints.push(endpoint(service, p, ip, zone_of));
        }
        // A Service without pods still has a slice that says so.
        let empty = || Group { family, ports: Vec::new(), endpoints: Vec::new() };
        if by_ports.is_empty() {
            by_ports.insert(String::new(), empty());
        }
        groups.extend(by_ports.into_values());
    }
    let mut labels: Labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if !has_address(spec) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    let owner = Target::of(service);
    reconcile(&owner, MANAGER, labels, groups, &slices)
}

/// Keeps slices at what Endpoints say that someone else writes for a Service without a selector.
#[must_use]
pub fn plan_mirror(endpoints: &Endpoints, service: Option<&Service>, slices: &[&EndpointSlice]) -> Plan {
    let slices: Vec<&EndpointSlice> = slices.iter().copied().filter(|s| is_kept_by(s, MIRROR)).collect();
    let labels = endpoints.metadata.labels.clone().unwrap_or_default();
    let skipped = labels.get(SKIP_MIRROR).is_some_and(|v| v == "true");
    let elected = endpoints
        .metadata
        .annotations
        .as_ref()
        .is_some_and(|a| a.contains_key("control-plane.alpha.kubernetes.io/leader"));
    let selecting = service.and_then(|s| s.spec.as_ref()).is_none_or(|s| s.selector.is_some());
    if skipped || elected || selecting {
        return remove(&slices, "these endpoints are not to be mirrored");
    }
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<EndpointPort> = subset
            .ports
            .iter()
            .flatten()
            .map(|p| EndpointPort {
                name: Some(p.name.clone().unwrap_or_default()),
                port: Some(p.port),
                protocol: p.protocol.clone().or_else(|| Some("TCP".to_owned())),
                app_protocol: p.app_protocol.clone(),
            })
            .collect();
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
        for (address, ready) in ready.chain(unready) {
            let family = if address.ip.contains(':') { "IPv6" } else { "IPv4" };
            let key = format!("{family}{}", ports_key(Some(&ports)));
            let group = groups.entry(key);
            let group =
                group.or_insert_with(|| Group { family, ports: ports.clone(), endpoints: Vec::new() });
            group.endpoints.push(mirrored(address, ready));
        }
    }
    let owner = Target::of(endpoints);
    reconcile(&owner, MIRROR, labels, groups.into_values().collect(), &slices)
}

fn mirrored(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn is_kept_by(slice: &EndpointSlice, manager: &str) -> bool {
    slice.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_BY)).is_some_and(|m| m == manager)
}

/// Deletes slices that should not be.
#[must_use]
pub fn remove(slices: &[&EndpointSlice], why: &'static str) -> Plan {
    let alive = slices.iter().filter(|s| !pod::is_deleting(**s));
    Plan { actions: alive.map(|s| Action::delete(*s)).collect(), ..Plan::idle(why) }
}

/// Deletes the mirror slices of Endpoints that are gone.
#[must_use]
pub fn plan_unmirrored(slices: &[&EndpointSlice]) -> Plan {
    let slices: Vec<&EndpointSlice> = slices.iter().copied().filter(|s| is_kept_by(s, MIRROR)).collect();
    remove(&slices, "the endpoints are gone")
}

/// The address families of a Service; a headless one without any takes those of its pods.
fn families(service: &Service, pods: &[&Pod]) -> Vec<&'static str> {
    let named = service.spec.as_ref().and_then(|s| s.ip_families.clone()).unwrap_or_default();
    let known = |f: &str| if f == "IPv6" { "IPv6" } else { "IPv4" };
    if !named.is_empty() {
        return named.iter().map(|f| known(f)).collect();
    }
    let v6_only =
        pods.iter().any(|p| address(p, true).is_some()) && pods.iter().all(|p| address(p, false).is_none());
    vec![if v6_only { "IPv6" } else { "IPv4" }]
}

fn endpoint(service: &Service, p: &Pod, ip: String, zone_of: &dyn Fn(&str) -> Option<String>) -> Endpoint {
    let serving = pod::is_ready(p);
    let terminating = pod::is_deleting(p);
    let always = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true);
    let mut made = Endpoint {
        addresses: vec![ip],
        conditions: Some(EndpointConditions {
            ready: Some(always || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(p, service),
        node_name: pod::node(p).map(str::to_owned),
        target_ref: Some(pod_reference(p)),
        zone: pod::node(p).and_then(zone_of),
        ..Endpoint::default()
    };
    hint(service, &mut made);
    made
}

fn ports_key(ports: Option<&Vec<EndpointPort>>) -> String {
    let mut keys: Vec<String> = ports
        .into_iter()
        .flatten()
        .map(|p| format!("{:?}/{:?}/{:?}/{:?}", p.name, p.port, p.protocol, p.app_protocol))
        .collect();
    keys.sort();
    keys.join(",")
}

/// What tells endpoints apart from one pass to the next.
fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint.target_ref.as_ref().and_then(|r| r.uid.clone());
    uid.unwrap_or_else(|| endpoint.addresses.first().cloned().unwrap_or_default())
}

/// Brings the slices to the groups: what is in a slice stays in it, what is new goes where there is room.
fn reconcile(
    owner: &Target,
    manager: &str,
    mut labels: Labels,
    groups: Vec<Group>,
    slices: &[&EndpointSlice],
) -> Plan {
    labels.insert(SERVICE_NAME.to_owned(), owner.name.clone());
    labels.insert(MANAGED_BY.to_owned(), manager.to_owned());
    let mut unused: Vec<&EndpointSlice> = slices.iter().copied().filter(|s| !pod::is_deleting(*s)).collect();
    let taken: Vec<String> = slices.iter().map(|s| pod::name(*s).to_owned()).collect();
    let mut contents: Vec<(Option<&EndpointSlice>, &Group, Vec<Endpoint>)> = Vec::new();
    for group in &groups {
        let key = ports_key(Some(&group.ports));
        let (matching, rest): (Vec<_>, Vec<_>) = unused
            .into_iter()
            .partition(|s| s.address_type == group.family && ports_key(s.ports.as_ref()) == key);
        unused = rest;
        let (filled, spare) = fill(group, matching);
        contents.extend(filled);
        unused.extend(spare);
    }
    let missing = contents.iter().filter(|c| c.0.is_none()).count();
    let mut fresh =
        names::children(&owner.name, &owner.uid, manager, missing, |n| taken.iter().any(|t| t == n))
            .into_iter();
    let mut plan = Plan::default();
    for (old, group, endpoints) in contents {
        let metadata = match old {
            Some(old) => ObjectMeta { labels: Some(labels.clone()), ..old.metadata.clone() },
            None => ObjectMeta {
                name: fresh.next(),
                generate_name: Some(format!("{}-", owner.name)),
                namespace: Some(owner.namespace.clone()),
                labels: Some(labels.clone()),
                owner_references: Some(vec![owner.controller_reference()]),
                ..ObjectMeta::default()
            },
        };
        let ports = old.map_or_else(|| Some(group.ports.clone()), |o| o.ports.clone());
        // An empty list may come back as none; that is no change.
        let endpoints = match old {
            Some(old) if endpoints.is_empty() && old.endpoints.is_none() => None,
            _ => Some(endpoints),
        };
        let new = EndpointSlice { metadata, address_type: group.family.to_owned(), endpoints, ports };
        match old {
            None => plan.actions.push(Action::create(&new)),
            Some(old) => plan.actions.extend(Action::patch(old, &new)),
        }
    }
    plan.actions.extend(unused.into_iter().map(Action::delete));
    plan.because(if plan.actions.is_empty() { "the slices are right" } else { "the slices differ" });
    plan
}

type Filled<'a, 'g> = Vec<(Option<&'a EndpointSlice>, &'g Group, Vec<Endpoint>)>;

/// Distributes a group over the slices it has; gives the slices that are left without endpoints.
fn fill<'a, 'g>(
    group: &'g Group,
    slices: Vec<&'a EndpointSlice>,
) -> (Filled<'a, 'g>, Vec<&'a EndpointSlice>) {
    let mut wanted: BTreeMap<String, &Endpoint> = group.endpoints.iter().map(|e| (identity(e), e)).collect();
    let mut filled: Filled<'a, 'g> = Vec::new();
    for slice in slices {
        let kept =
            slice.endpoints.iter().flatten().filter_map(|e| wanted.remove(&identity(e)).cloned()).collect();
        filled.push((Some(slice), group, kept));
    }
    // The fullest slice with room takes the new ones first, so that few slices change.
    let mut new = wanted.into_values().cloned().peekable();
    let mut order: Vec<usize> = (0..filled.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(filled[*i].2.len()));
    for i in order {
        let room = ENDPOINTS_MAX.saturating_sub(filled[i].2.len());
        filled[i].2.extend(new.by_ref().take(room));
    }
    while new.peek().is_some() {
        filled.push((None, group, new.by_ref().take(ENDPOINTS_MAX).collect()));
    }
    if group.endpoints.is_empty() && filled.is_empty() {
        filled.push((None, group, Vec::new()));
    }
    // Of empty slices none is kept, but for the one that says that there is nothing.
    let keep_one = group.endpoints.is_empty();
    let mut spare = Vec::new();
    let mut kept = 0;
    filled.retain(|(old, _, endpoints)| {
        let keep = !endpoints.is_empty() || (keep_one && kept == 0);
        kept += usize::from(keep);
        if !keep {
            spare.extend(*old);
        }
        keep
    });
    (filled, spare)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(i: usize, ready: bool) -> Pod {
        let ready = if ready { "True" } else { "False" };
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": format!("p{i}"), "namespace": "n", "uid": format!("u{i}")},
            "spec": {"nodeName": "a", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"podIP": format!("10.0.{}.{}", i / 250, i % 250), "phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap_or_default()
    }

    fn service() -> Service {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "n", "uid": "s", "labels": {"a": "b"}},
            "spec": {"selector": {"app": "web"}, "clusterIP": "10.96.0.9", "ipFamilies": ["IPv4"], "ports": [{"port": 80, "targetPort": "http", "protocol": "TCP"}]},
        }))
        .unwrap_or_default()
    }

    /// Carries out the creations and patches of a plan on the slices.
    fn carry_out(plan: &Plan, slices: &mut Vec<EndpointSlice>) -> String {
        let mut log = String::new();
        for action in &plan.actions {
            match action {
                Action::Create { object, .. } => {
                    log.push('+');
                    slices.push(serde_json::from_value((**object).clone()).unwrap());
                }
                Action::Patch { target, patch, .. } => {
                    log.push('~');
                    let slice = slices.iter_mut().find(|s| pod::name(*s) == target.name).unwrap();
                    if let Some(endpoints) = patch.get("endpoints") {
                        slice.endpoints = serde_json::from_value(endpoints.clone()).unwrap();
                    }
                }
                Action::Delete { target, .. } => {
                    log.push('-');
                    slices.retain(|s| pod::name(s) != target.name);
                }
                other => log.push_str(&format!("{other:?}")),
            }
        }
        log
    }

    #[test]
    fn few_slices_change() {
        let service = service();
        let mut slices = Vec::new();
        let mut step = |count: std::ops::Range<usize>| {
            let pods: Vec<Pod> = count.map(|i| pod(i, true)).collect();
            let current = slices.clone();
            let plan = plan(
                &service,
                &pods.iter().collect::<Vec<_>>(),
                &current.iter().collect::<Vec<_>>(),
                &|_| None,
            );
            let log = carry_out(&plan, &mut slices);
            let mut sizes: Vec<usize> =
                slices.iter().map(|s| s.endpoints.as_ref().map_or(0, Vec::len)).collect();
            sizes.sort_unstable();
            format!("{log} {sizes:?}")
        };
        assert_eq!(step(0..0), "+ [0]");
        assert_eq!(step(0..0), " [0]");
        assert_eq!(step(0..3), "+- [3]");
        assert_eq!(step(0..250), "~++ [50, 100, 100]");
        assert_eq!(step(0..250), " [50, 100, 100]");
        assert_eq!(step(0..251), "~ [51, 100, 100]");
        assert_eq!(step(0..0), "+--- [0]");
    }
}
