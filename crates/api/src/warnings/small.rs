//! Kinds that need few words.

use super::{Found, address, annotation, claim_spec, pod};
use crate::validation::check::At;

const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
const MOUNTABLE_SECRETS: &str = "kubernetes.io/enforce-mountable-secrets";
const INGRESS_CLASS: &str = "kubernetes.io/ingress.class";
const STORAGE_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const MOUNT_OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";

/// A new object.
pub fn create(group: &str, kind: &str, at: &At<'_>, found: &mut Found) {
    let spec = at.get("spec");
    match (group, kind) {
        ("", "ServiceAccount") => mountable(at, found),
        ("", "ResourceQuota") => quota(&spec.get("hard"), found),
        ("networking.k8s.io", "Ingress")
            if annotation(at, INGRESS_CLASS).is_some() && !spec.get("ingressClassName").is_set() =>
        {
            found.push(format!(
                "annotation {INGRESS_CLASS:?} is deprecated, please use 'spec.ingressClassName' instead"
            ));
        }
        _ => both(group, kind, at, found),
    }
}

/// A changed object.
pub fn update(group: &str, kind: &str, at: &At<'_>, old: &At<'_>, found: &mut Found) {
    match (group, kind) {
        ("", "ServiceAccount") if annotation(old, MOUNTABLE_SECRETS).is_none() => mountable(at, found),
        _ => both(group, kind, at, found),
    }
}

/// A written status.
pub fn status(kind: &str, at: &At<'_>, found: &mut Found) {
    let status = at.get("status");
    match kind {
        "Pod" => {
            status.get("podIPs").items().for_each(|ip| address::ip(&ip.get("ip"), found));
            status.get("hostIPs").items().for_each(|ip| address::ip(&ip.get("ip"), found));
        }
        "Service" => {
            let balancer = status.get("loadBalancer");
            balancer.get("ingress").items().filter(|i| i.get("ip").is_set()).for_each(|i| {
                let mut own = Found::new();
                address::ip(&i.get("ip"), &mut own);
                // Upstream names the entry, not its field.
                found.extend(own.into_iter().map(|w| w.replacen("].ip:", "]:", 1)));
            });
        }
        _ => {}
    }
}

fn both(group: &str, kind: &str, at: &At<'_>, found: &mut Found) {
    let spec = at.get("spec");
    match (group, kind) {
        ("", "Service") => service(at, &spec, found),
        ("", "Endpoints") => endpoints(at, found),
        ("", "Node") => node(&spec, found),
        ("", "PersistentVolume") => volume(at, &spec, found),
        ("", "PersistentVolumeClaim") => {
            storage_class(at, found);
            claim_spec(&spec, found);
        }
        ("discovery.k8s.io", "EndpointSlice") => slice(at, found),
        ("networking.k8s.io", "NetworkPolicy") => policy(&spec, found),
        ("storage.k8s.io", "StorageClass") => {
            for topology in at.get("allowedTopologies").items() {
                for expression in topology.get("matchLabelExpressions").items() {
                    let key = expression.get("key");
                    let advice = pod::node_label(key.text());
                    found.extend(advice.map(|advice| format!("{}: {advice}", key.place())));
                }
            }
        }
        ("storage.k8s.io", "CSIStorageCapacity") => {
            let topology = at.get("nodeTopology");
            pod::node_term(&topology, false, found);
            for (key, label) in topology.get("matchLabels").entries() {
                let place = label.place().replacen(&format!("[{key}]"), &format!(".{key}"), 1);
                found.extend(pod::node_label(key).map(|advice| format!("{place}: {advice}")));
            }
        }
        ("node.k8s.io", "RuntimeClass") => {
            for (key, _) in at.get("scheduling").get("nodeSelector").entries() {
                found.extend(pod::node_label(key).map(|advice| format!("scheduling.nodeSelector: {advice}")));
            }
        }
        ("resource.k8s.io", "ResourceSlice") => {
            let driver = spec.get("driver").text();
            if driver.chars().any(char::is_uppercase) {
                found.push(format!(
                    "spec.driver: driver names should be lowercase; {driver:?} contains uppercase characters"
                ));
            }
        }
        _ => {}
    }
}

fn mountable(at: &At<'_>, found: &mut Found) {
    if annotation(at, MOUNTABLE_SECRETS).is_some() {
        found.push(format!(
            "metadata.annotations[{MOUNTABLE_SECRETS}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
        ));
    }
}

fn storage_class(at: &At<'_>, found: &mut Found) {
    if annotation(at, STORAGE_CLASS).is_some() {
        found.push(format!(
            "metadata.annotations[{STORAGE_CLASS}]: deprecated since v1.8; use \"storageClassName\" attribute instead"
        ));
    }
}

fn quota(hard: &At<'_>, found: &mut Found) {
    for name in ["cpu", "memory", "storage", "ephemeral-storage"] {
        let (requests, limits) = (format!("requests.{name}"), format!("limits.{name}"));
        let bare = matches!(name, "cpu" | "memory") && !hard.key(&requests).is_set();
        let request = if bare { name } else { &requests };
        if let (Some(asked), Some(limit)) = (hard.key(request).quantity(), hard.key(&limits).quantity())
            && asked > limit
        {
            found.push(format!("ResourceQuota {request} ({asked}) should be less than {limits} ({limit})"));
        }
    }
}

fn service(at: &At<'_>, spec: &At<'_>, found: &mut Found) {
    if annotation(at, TOPOLOGY_HINTS).is_some() {
        found.push(format!("annotation {TOPOLOGY_HINTS} is deprecated, please use {TOPOLOGY_MODE} instead"));
    }
    let kind = spec.get("type").text();
    let headless = kind == "ClusterIP" && spec.get("clusterIP").text() == "None";
    let (external, balancer) = (spec.get("externalIPs"), spec.get("loadBalancerIP"));
    if !headless && kind != "ExternalName" {
        spec.get("clusterIPs").items().for_each(|ip| address::ip(&ip, found));
    }
    if headless {
        let mut say = |text: &str| found.push(text.to_owned());
        if !balancer.is_empty() {
            say("spec.loadBalancerIP is ignored for headless services");
        }
        if !external.is_empty() {
            say("spec.externalIPs is ignored for headless services");
        }
        if spec.get("sessionAffinity").text() != "None" {
            say("spec.SessionAffinity is ignored for headless services");
        }
    }
    external.items().for_each(|ip| address::ip(&ip, found));
    if !external.is_empty() && !headless && kind != "ExternalName" {
        found.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".into());
    }
    if !balancer.is_empty() {
        address::ip(&balancer, found);
    }
    spec.get("loadBalancerSourceRanges").items().for_each(|range| address::cidr(&range, found));
    if kind == "ExternalName" && !external.is_empty() {
        found.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".into());
    }
    if kind != "ExternalName" && !spec.get("externalName").is_empty() {
        found.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".into());
    }
    if spec.get("trafficDistribution").text() == "PreferClose" {
        found.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".into());
    }
}

/// Whether the controllers of this project wrote it: they write addresses as they should be.
fn by_controller(at: &At<'_>, key: &str, names: &[&str]) -> bool {
    let metadata = at.get("metadata");
    names.contains(&metadata.get("labels").get(key).text())
}

fn endpoints(at: &At<'_>, found: &mut Found) {
    if by_controller(at, "endpoints.kubernetes.io/managed-by", &["endpoint-controller"]) {
        return;
    }
    for subset in at.get("subsets").items() {
        for list in ["addresses", "notReadyAddresses"] {
            subset.get(list).items().for_each(|a| address::ip(&a.get("ip"), found));
        }
    }
}

fn slice(at: &At<'_>, found: &mut Found) {
    let address_type = at.get("addressType");
    if address_type.text() == "FQDN" {
        found.push("spec.addressType: FQDN endpoints are deprecated".into());
    }
    let controllers = ["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];
    if address_type.text() == "FQDN"
        || by_controller(at, "endpointslice.kubernetes.io/managed-by", &controllers)
    {
        return;
    }
    for endpoint in at.get("endpoints").items() {
        endpoint.get("addresses").items().for_each(|a| address::ip(&a, found));
    }
}

fn node(spec: &At<'_>, found: &mut Found) {
    if spec.get("configSource").is_set() {
        found.push("spec.configSource: the feature is removed".into());
    }
    if !spec.get("externalID").is_empty() {
        found.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".into());
    }
    spec.get("podCIDRs").items().for_each(|range| address::cidr(&range, found));
}

fn policy(spec: &At<'_>, found: &mut Found) {
    for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.get(rules).items() {
            for peer in rule.get(peers).items() {
                let block = peer.get("ipBlock");
                address::cidr(&block.get("cidr"), found);
                block.get("except").items().for_each(|range| address::cidr(&range, found));
            }
        }
    }
}

fn volume(at: &At<'_>, spec: &At<'_>, found: &mut Found) {
    storage_class(at, found);
    if annotation(at, MOUNT_OPTIONS).is_some() {
        found.push(format!(
            "metadata.annotations[{MOUNT_OPTIONS}]: deprecated since v1.31; use \"mountOptions\" attribute instead"
        ));
    }
    if spec.get("persistentVolumeReclaimPolicy").text() == "Recycle" {
        found.push(
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning."
                .into(),
        );
    }
    let required = spec.get("nodeAffinity");
    let required = required.get("required");
    required.get("nodeSelectorTerms").items().for_each(|term| pod::node_term(&term, false, found));
    for (kind, advice) in pod::VOLUMES {
        if !matches!(kind, "gitRepo" | "flocker" | "quobyte") && spec.get(kind).is_set() {
            found.push(format!("{}: {advice}", spec.get(pod::shown(kind)).place()));
        }
    }
}
