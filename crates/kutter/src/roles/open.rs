//! What machines that join a cluster need besides what every cluster has: what a node must know, for who shows a token
//! to read. Made when missing, brought up to date when different.

use std::net::IpAddr;

use client::{ApiResource, Client, Error, Kind, WriteOptions};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde_json::{Value, json};

/// What joining nodes are told.
pub struct Joining {
    /// The cluster's name.
    pub cluster: String,
    /// Addresses of the cluster's DNS.
    pub cluster_dns: Vec<IpAddr>,
    /// Range of all pods.
    pub pod_cidr: String,
    /// Range of Services.
    pub service_cidr: String,
    /// Range of load balancer addresses.
    pub load_balancer_cidr: Option<String>,
}

/// Tells what nodes must know to whoever has a token.
pub async fn open(client: &Client, joining: &Joining) -> Result<(), Error> {
    // So that a machine does not take the name of another one.
    let names = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "kutter:node-names"},
        "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}],
    });
    let group = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": cli::JOIN_GROUP});
    let bound = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "kutter:node-names"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "kutter:node-names"},
        "subjects": [group],
    });
    keep(client, &ClusterRole::resource(), names).await?;
    keep(client, &ClusterRoleBinding::resource(), bound).await?;
    readable(client, "kube-system", cli::JOIN_CONFIG, group).await?;
    keep(client, &ConfigMap::resource(), node_config(joining)).await
}

/// Lets the subject read one ConfigMap.
async fn readable(client: &Client, namespace: &str, config: &str, subject: Value) -> Result<(), Error> {
    let name = format!("kutter:{config}");
    let meta = json!({"name": name, "namespace": namespace});
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta,
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [config], "verbs": ["get"]}],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": meta,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [subject],
    });
    keep(client, &Role::resource(), role).await?;
    keep(client, &RoleBinding::resource(), binding).await
}

fn node_config(joining: &Joining) -> Value {
    let node = json!({
        "clusterName": joining.cluster,
        "clusterDns": joining.cluster_dns,
        "podCidr": joining.pod_cidr,
        "serviceCidr": joining.service_cidr,
        "loadBalancerCidr": joining.load_balancer_cidr,
    });
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": cli::JOIN_CONFIG, "namespace": "kube-system"},
        "data": {"node": node.to_string()},
    })
}

/// Creates the object, or puts its own fields into the one that is there; what others added stays.
async fn keep(client: &Client, resource: &ApiResource, object: Value) -> Result<(), Error> {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text("namespace"), text("name"));
    let made: Result<Value, Error> =
        client.create_at(resource, &namespace, &object, &WriteOptions::default()).await;
    match made {
        Err(error) if error.is_already_exists() => {
            let mut patch = object;
            if let Some(fields) = patch.as_object_mut() {
                fields.retain(|key, _| matches!(key.as_str(), "data" | "rules" | "subjects"));
            }
            let patch = client::Patch::Merge(patch);
            let done: Result<Value, Error> =
                client.patch_at(resource, (&namespace, &name), None, &patch, &WriteOptions::default()).await;
            done.map(drop)
        }
        other => other.map(drop),
    }
}
