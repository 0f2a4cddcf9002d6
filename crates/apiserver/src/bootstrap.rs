//! What every cluster has from the start: its namespaces, and the Service `kubernetes` with its endpoints.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::bootstrap::{CLUSTER_INFO, KUBECONFIG};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use store::{Precondition, StoreError, Write};

use crate::object;
use crate::server::ApiServer;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// The priority classes of the system's own pods.
const PRIORITY_CLASSES: [(&str, i64, &str); 2] = [
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
];

/// Makes what is missing. Called at the start, before clients are let in.
pub async fn run(server: &Arc<ApiServer>) -> Result<(), StoreError> {
    server.learn_allocations();
    for name in NAMESPACES {
        let mut namespace = json!({"metadata": {"name": name}, "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"}});
        crate::prepare::label_namespace(&mut namespace, name);
        ensure(server, "", "namespaces", "", name, namespace, false).await?;
    }
    for (name, value, description) in PRIORITY_CLASSES {
        let class = json!({"metadata": {"name": name}, "value": value, "description": description,
            "preemptionPolicy": "PreemptLowerPriority"});
        ensure(server, "scheduling.k8s.io", "priorityclasses", "", name, class, false).await?;
    }
    for default in policy::roles::defaults() {
        let policy::roles::Default { plural, namespace, name, object } = default;
        ensure(server, "rbac.authorization.k8s.io", plural, &namespace, &name, object, false).await?;
    }
    service_cidr(server).await?;
    server.rbac.refresh(&*server.store);
    kubernetes(server).await?;
    crate::services::claims::repair(server).await;
    crate::services::shared::repair(server).await;
    server.bootstrapped.store(true, Ordering::Release);
    Ok(())
}

/// The ranges of Service addresses as an object.
async fn service_cidr(server: &Arc<ApiServer>) -> Result<(), StoreError> {
    let cidrs: Vec<String> = server.settings.service_cidrs.iter().map(ToString::to_string).collect();
    let now = object::timestamp(jiff::Timestamp::now());
    let ready = json!({"type": "Ready", "status": "True", "reason": "", "lastTransitionTime": now,
        "message": "Kubernetes default Service CIDR is ready"});
    let object = json!({"metadata": {"name": "kubernetes",
            "finalizers": ["networking.k8s.io/service-cidr-finalizer"]},
        "spec": {"cidrs": cidrs}, "status": {"conditions": [ready]}});
    ensure(server, "networking.k8s.io", "servicecidrs", "", "kubernetes", object, false).await
}

/// Where and what the cluster is, for newcomers: a kubeconfig without users. Its signatures are kept as they are;
/// whoever signs sees that they no longer fit.
pub async fn cluster_info(server: &Arc<ApiServer>, authority: &str) -> Result<(), StoreError> {
    let catalog = server.catalog();
    let Some(resource) = catalog.stored("", "configmaps") else { return Ok(()) };
    let cluster = json!({"certificate-authority-data": STANDARD.encode(authority),
        "server": format!("https://{}", server.settings.advertise)});
    let config = json!({"kind": "Config", "apiVersion": "v1", "clusters": [{"name": "", "cluster": cluster}],
        "contexts": [], "users": [], "preferences": {}, "current-context": ""});
    let current = server.store.get(&resource.key("kube-public", CLUSTER_INFO));
    let current: Value = current.and_then(|own| serde_json::from_slice(&own.json).ok()).unwrap_or_default();
    let mut data = current.get("data").cloned().unwrap_or_else(|| json!({}));
    let same = data.get(KUBECONFIG).and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok());
    if same.as_ref() != Some(&config) {
        data[KUBECONFIG] = config.to_string().into();
    }
    let map = json!({"metadata": {"name": CLUSTER_INFO, "namespace": "kube-public"}, "data": data});
    ensure(server, "", "configmaps", "kube-public", CLUSTER_INFO, map, true).await
}

/// How servers behind this one know who asks: the authorities of clients and of this server as their front.
pub async fn extension_authentication(
    server: &Arc<ApiServer>,
    clients: &str,
    front: &str,
) -> Result<(), StoreError> {
    let list = |entries: &[&str]| json!(entries).to_string();
    let data = json!({
        "client-ca-file": clients,
        "requestheader-allowed-names": list(crate::authenticate::front::ALLOWED),
        "requestheader-client-ca-file": front,
        "requestheader-extra-headers-prefix": list(&["X-Remote-Extra-"]),
        "requestheader-group-headers": list(&["X-Remote-Group"]),
        "requestheader-uid-headers": list(&["X-Remote-Uid"]),
        "requestheader-username-headers": list(&["X-Remote-User"]),
    });
    let name = "extension-apiserver-authentication";
    let map = json!({"metadata": {"name": name, "namespace": "kube-system"}, "data": data});
    ensure(server, "", "configmaps", "kube-system", name, map, true).await
}

/// The Service through which pods reach this server.
async fn kubernetes(server: &Arc<ApiServer>) -> Result<(), StoreError> {
    let Some(address) = server.allocation.api_address() else { return Ok(()) };
    let advertise = server.settings.advertise;
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {
            "clusterIP": address.to_string(),
            "clusterIPs": [address.to_string()],
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": [family],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": advertise.port()}],
            "sessionAffinity": "None",
            "type": "ClusterIP",
        },
        "status": {"loadBalancer": {}},
    });
    ensure(server, "", "services", "default", "kubernetes", service, false).await?;
    let ip = advertise.ip().to_string();
    let endpoints = json!({
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": ip}],
            "ports": [{"name": "https", "port": advertise.port(), "protocol": "TCP"}]}],
    });
    ensure(server, "", "endpoints", "default", "kubernetes", endpoints, true).await?;
    let slice = json!({
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if advertise.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": advertise.port(), "protocol": "TCP"}],
    });
    ensure(server, "discovery.k8s.io", "endpointslices", "default", "kubernetes", slice, true).await
}

/// Creates the object if it is missing; `upkeep` also replaces it when it says something else.
async fn ensure(
    server: &Arc<ApiServer>,
    group: &str,
    plural: &str,
    namespace: &str,
    name: &str,
    mut wanted: Value,
    upkeep: bool,
) -> Result<(), StoreError> {
    let catalog = server.catalog();
    let Some(resource) = catalog.stored(group, plural) else { return Ok(()) };
    let key = resource.key(namespace, name);
    let current = server.store.get(&key);
    let precondition = match &current {
        Some(_) if !upkeep => return Ok(()),
        Some(current) => {
            let own: Value = serde_json::from_slice(&current.json).unwrap_or_default();
            let fields = wanted.as_object().into_iter().flatten();
            if fields.filter(|(key, _)| *key != "metadata").all(|(key, value)| own.get(key) == Some(value)) {
                return Ok(());
            }
            for field in ["uid", "creationTimestamp", "generation"] {
                if let Some(value) = own.pointer(&format!("/metadata/{field}")) {
                    wanted["metadata"][field] = value.clone();
                }
            }
            Precondition::Revision(current.modified)
        }
        None => {
            let metadata = object::metadata_mut(&mut wanted);
            metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
            metadata.insert("creationTimestamp".into(), object::timestamp(jiff::Timestamp::now()).into());
            if resource.def.generation != api::Generation::None {
                metadata.insert("generation".into(), 1.into());
            }
            Precondition::Absent
        }
    };
    let value = Some(object::draft(resource, &wanted));
    match server.store.write(Write { key, precondition, value, last: None }).await {
        Ok(_) | Err(StoreError::Conflict { .. }) => {
            server.after_write(resource, None, Some(&wanted));
            Ok(())
        }
        Err(error) => Err(error),
    }
}
