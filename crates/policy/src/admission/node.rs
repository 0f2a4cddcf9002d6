//! NodeRestriction: a kubelet changes its own node and the pods on it, and nothing else. Follows upstream's
//! `plugin/pkg/admission/noderestriction`.

use serde_json::Value;

use super::{Lookup, Operation, Refusal, Request, text};
use crate::node::name_of;

/// The audience of tokens for the API server itself.
const API_AUDIENCE: &str = "https://kubernetes.default.svc.cluster.local";
const AUDIENCE_VERB: &str = "request-serviceaccounts-token-audience";
const MIRROR: &str = "/metadata/annotations/kubernetes.io~1config.mirror";
/// Labels of the system's domains that a node may set on itself.
const OWN_LABELS: [&str; 10] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
];
const OWN_LABEL_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// Refuses what a node may not do. The object is null for deletes.
pub(super) fn restrict(object: &Value, request: &Request<'_>, lookup: &dyn Lookup) -> Result<(), Refusal> {
    let Some(node) = name_of(request.user, request.groups) else { return Ok(()) };
    let refuse = |cause: String| Err(Refusal::Forbidden(cause));
    match (request.group, request.plural, request.subresource) {
        ("", "pods", "") => match request.operation {
            Operation::Create => mirror(object, node),
            Operation::Delete => {
                let pod = lookup.get("", "pods", request.namespace, request.name);
                match pod.is_none_or(|pod| text(&pod, "/spec/nodeName") == node) {
                    true => Ok(()),
                    false => {
                        refuse(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
                    }
                }
            }
            _ => {
                refuse(format!("unexpected operation, node {node:?} can only create and delete mirror pods"))
            }
        },
        ("", "pods", "status") => status(object, request, node),
        ("", "pods", "eviction") => {
            let pod = lookup.get("", "pods", request.namespace, request.name);
            match pod.is_none_or(|pod| text(&pod, "/spec/nodeName") == node) {
                true => Ok(()),
                false => {
                    refuse(format!("node {node:?} can only evict pods with spec.nodeName set to itself"))
                }
            }
        }
        ("", "nodes", _) => own_node(object, request, node),
        ("", "serviceaccounts", "token") => token(object, request, node, lookup),
        ("coordination.k8s.io", "leases", _) if request.namespace != "kube-node-lease" => {
            refuse("can only access leases in the \"kube-node-lease\" system namespace".into())
        }
        ("coordination.k8s.io", "leases", _) if request.name != node => {
            refuse("can only access node lease with the same name as the requesting node".into())
        }
        ("storage.k8s.io", "csinodes", _) if request.name != node => {
            refuse("can only access CSINode with the same name as the requesting node".into())
        }
        _ => Ok(()),
    }
}

/// Nodes make pods only as mirrors of static ones.
fn mirror(pod: &Value, node: &str) -> Result<(), Refusal> {
    let refuse = |cause: String| Err(Refusal::Forbidden(cause));
    if pod.pointer(MIRROR).is_none() {
        return refuse(format!(
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
        ));
    }
    if text(pod, "/spec/nodeName") != node {
        return refuse(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owners = pod.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    for owner in owners.into_iter().flatten() {
        if text(owner, "/kind") != "Node" || text(owner, "/name") != node {
            return refuse(format!(
                "node {node:?} can only create pods with an owner reference set to itself"
            ));
        }
    }
    if !text(pod, "/spec/serviceAccountName").is_empty() {
        return refuse(format!("node {node:?} can not create pods that reference a service account"));
    }
    let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array);
    for volume in volumes.into_iter().flatten() {
        let has = |field: &str| volume.get(field).is_some_and(|v| !v.is_null());
        for (field, what) in [
            ("secret", "secrets"),
            ("configMap", "configmaps"),
            ("persistentVolumeClaim", "persistentvolumeclaims"),
        ] {
            if has(field) {
                return refuse(format!("node {node:?} can not create pods that reference {what}"));
            }
        }
    }
    Ok(())
}

fn status(object: &Value, request: &Request<'_>, node: &str) -> Result<(), Refusal> {
    let old = request.old.unwrap_or(object);
    let refuse = |cause: String| Err(Refusal::Forbidden(cause));
    if request.operation != Operation::Update {
        return refuse(format!("unexpected operation, node {node:?} can only update pod status"));
    }
    if text(old, "/spec/nodeName") != node {
        return refuse(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    match old.pointer("/metadata/labels") == object.pointer("/metadata/labels") {
        true => Ok(()),
        false => refuse(format!("node {node:?} cannot update labels through pod status")),
    }
}

fn own_node(object: &Value, request: &Request<'_>, node: &str) -> Result<(), Refusal> {
    let name = match request.name {
        "" => text(object, "/metadata/name"),
        name => name,
    };
    let refuse = |cause: String| Err(Refusal::Forbidden(cause));
    if name != node {
        return refuse(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    if !object.is_object() {
        return Ok(());
    }
    let labels = |of: &Value, key: &str| of.pointer("/metadata/labels").and_then(|map| map.get(key)).cloned();
    let keys = |of: &Value| -> Vec<String> {
        let map = of.pointer("/metadata/labels").and_then(Value::as_object);
        map.into_iter().flat_map(|map| map.keys().cloned()).collect()
    };
    let Some(old) = request.old else {
        let mut foreign: Vec<String> = keys(object).into_iter().filter(|key| !is_own_label(key)).collect();
        foreign.sort();
        return match foreign.as_slice() {
            [] => Ok(()),
            _ => refuse(format!(
                "node {node:?} is not allowed to set the following labels: {}",
                foreign.join(", ")
            )),
        };
    };
    if object.pointer("/spec/taints") != old.pointer("/spec/taints") {
        return refuse(format!("node {node:?} is not allowed to modify taints"));
    }
    if object.pointer("/metadata/ownerReferences") != old.pointer("/metadata/ownerReferences") {
        return refuse(format!("node {node:?} is not allowed to modify ownerReferences"));
    }
    let mut changed: Vec<String> = keys(object);
    changed.extend(keys(old));
    changed.retain(|key| labels(object, key) != labels(old, key) && !is_own_label(key));
    changed.sort();
    changed.dedup();
    match changed.as_slice() {
        [] => Ok(()),
        _ => refuse(format!("node {node:?} is not allowed to modify labels: {}", changed.join(", "))),
    }
}

/// Labels outside the system's domains are free, but those kept for isolating nodes.
fn is_own_label(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let within = |of: &str| domain == of || domain.ends_with(&format!(".{of}"));
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    !(within("kubernetes.io") || within("k8s.io"))
        || OWN_LABELS.contains(&key)
        || key == "beta.kubernetes.io/arch"
        || OWN_LABEL_DOMAINS.iter().any(|of| within(of))
}

fn token(object: &Value, request: &Request<'_>, node: &str, lookup: &dyn Lookup) -> Result<(), Refusal> {
    let refuse = |cause: &str| Err(Refusal::Forbidden(cause.into()));
    let bound = |field: &str| text(object, &format!("/spec/boundObjectRef/{field}"));
    if bound("kind") != "Pod" || bound("name").is_empty() {
        return refuse("node requested token not bound to a pod");
    }
    if bound("uid").is_empty() {
        return refuse("node requested token with a pod binding without a uid");
    }
    let Some(pod) = lookup.get("", "pods", request.namespace, bound("name")) else {
        return refuse("node requested token bound to a pod that does not exist");
    };
    if text(&pod, "/metadata/uid") != bound("uid") {
        return refuse("node requested token bound to a pod with another uid");
    }
    if text(&pod, "/spec/nodeName") != node {
        return refuse("node requested token bound to a pod scheduled on a different node");
    }
    audience(object, &pod, request, lookup).map_err(Refusal::Forbidden)
}

/// A node gets tokens for whom the pod's volumes name, or for whom it has the right to.
fn audience(object: &Value, pod: &Value, request: &Request<'_>, lookup: &dyn Lookup) -> Result<(), String> {
    let asked = super::items(object, "/spec/audiences");
    let [asked] = asked else {
        let fine = asked.is_empty();
        return fine.then_some(()).ok_or_else(|| "node may only request 0 or 1 audiences".into());
    };
    let asked = asked.as_str().unwrap_or("");
    // A volume that names nobody means the API server.
    let fits = |named: &str| named == asked || (named.is_empty() && asked == API_AUDIENCE);
    let volumes = super::items(pod, "/spec/volumes").iter();
    let named = volumes.flat_map(|volume| audiences(volume, pod, lookup)).any(|named| fits(&named));
    if named || lookup.may(AUDIENCE_VERB, asked, request.namespace, request.name) {
        return Ok(());
    }
    Err(format!(
        "audience {asked:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
        request.user
    ))
}

/// For whom a volume needs tokens of the pod's account, empty for the API server.
fn audiences(volume: &Value, pod: &Value, lookup: &dyn Lookup) -> Vec<String> {
    let sources = super::items(volume, "/projected/sources").iter();
    let tokens = sources.filter_map(|source| source.get("serviceAccountToken"));
    let mut named: Vec<String> = tokens.map(|token| text(token, "/audience").to_owned()).collect();
    let claim = match volume.get("ephemeral").is_some_and(Value::is_object) {
        true => format!("{}-{}", text(pod, "/metadata/name"), text(volume, "/name")),
        false => text(volume, "/persistentVolumeClaim/claimName").to_owned(),
    };
    let driver = match claim.is_empty() {
        true => text(volume, "/csi/driver").to_owned(),
        false => {
            let get = |plural: &str, namespace: &str, name: &str| lookup.get("", plural, namespace, name);
            let claim = get("persistentvolumeclaims", text(pod, "/metadata/namespace"), &claim);
            let bound =
                claim.and_then(|claim| get("persistentvolumes", "", text(&claim, "/spec/volumeName")));
            bound.map(|bound| text(&bound, "/spec/csi/driver").to_owned()).unwrap_or_default()
        }
    };
    if !driver.is_empty()
        && let Some(driver) = lookup.get("storage.k8s.io", "csidrivers", "", &driver)
    {
        let requests = super::items(&driver, "/spec/tokenRequests").iter();
        named.extend(requests.map(|request| text(request, "/audience").to_owned()));
    }
    named
}
