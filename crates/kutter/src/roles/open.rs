//! What a cluster needs for machines that join it: the roles of bootstrap tokens, the ConfigMap `cluster-info` with the
//! cluster's address and authority, which anybody may read, and what a node must know, which only a token may read.
//! Made when missing, brought up to date when different.

use std::net::{IpAddr, SocketAddr};

use base::bootstrap;
use client::{ApiResource, Client, Error, Kind, WriteOptions};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde_json::{Value, json};

/// What joining nodes are told.
pub struct Joining {
    /// Where they reach the API server.
    pub server: SocketAddr,
    /// The cluster's name.
    pub cluster: String,
    /// The authority of the cluster, PEM.
    pub authority: String,
    /// Addresses of the cluster's DNS.
    pub cluster_dns: Vec<IpAddr>,
    /// Range of all pods.
    pub pod_cidr: String,
    /// Range of Services.
    pub service_cidr: String,
    /// Range of load balancer addresses.
    pub load_balancer_cidr: Option<String>,
}

/// Lets nodes renew their certificates by themselves; every cluster has it.
pub async fn renewal(client: &Client) -> Result<(), Error> {
    let role = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient";
    let binding = cluster_binding("kutter:node-renewal", role, "system:nodes");
    keep(client, &ClusterRoleBinding::resource(), binding).await
}

/// Opens the cluster to whoever has a token.
pub async fn open(client: &Client, joining: &Joining) -> Result<(), Error> {
    let (binding, config) = (ClusterRoleBinding::resource(), ConfigMap::resource());
    let group = cli::JOIN_GROUP;
    let approve = "system:certificates.k8s.io:certificatesigningrequests:nodeclient";
    keep(client, &binding, cluster_binding("kutter:node-bootstrap", "system:node-bootstrapper", group))
        .await?;
    keep(client, &binding, cluster_binding("kutter:node-approval", approve, group)).await?;
    // So that a machine does not take the name of another one.
    let names = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "kutter:node-names"},
        "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}],
    });
    keep(client, &ClusterRole::resource(), names).await?;
    keep(client, &binding, cluster_binding("kutter:node-names", "kutter:node-names", group)).await?;
    let anybody =
        json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:anonymous"});
    readable(client, "kube-public", bootstrap::CLUSTER_INFO, anybody).await?;
    let tokens = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group});
    readable(client, "kube-system", cli::JOIN_CONFIG, tokens).await?;
    keep(client, &config, cluster_info(joining)).await?;
    keep(client, &config, node_config(joining)).await
}

fn cluster_binding(name: &str, role: &str, group: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
    })
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

fn cluster_info(joining: &Joining) -> Value {
    use base64::Engine as _;
    let authority = base64::engine::general_purpose::STANDARD.encode(&joining.authority);
    // Nobody's kubeconfig: where the cluster is and who vouches for it. JSON is YAML, too.
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config",
        "clusters": [{"name": "", "cluster": {
            "certificate-authority-data": authority, "server": format!("https://{}", joining.server),
        }}],
    });
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": bootstrap::CLUSTER_INFO, "namespace": "kube-public"},
        "data": {"kubeconfig": kubeconfig.to_string()},
    })
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
