//! What a cluster of ours has beyond what every API server makes: the Service of the cluster's DNS, the class of its
//! ingress and the class of its volumes. All are served by every node. Made when missing, left alone when there.

use std::net::IpAddr;

use client::{ApiResource, Client, Error, Kind, WriteOptions};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::IngressClass;
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

/// Makes what is missing. `dns` is the cluster's DNS address.
pub async fn ensure(client: &Client, dns: IpAddr) -> Result<(), Error> {
    create(client, &Service::resource(), dns_service(dns)).await?;
    create(client, &IngressClass::resource(), ingress_class()).await?;
    create(client, &StorageClass::resource(), storage_class()).await
}

async fn create(client: &Client, resource: &ApiResource, object: Value) -> Result<(), Error> {
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let made: Result<Value, Error> =
        client.create_at(resource, namespace, &object, &WriteOptions::default()).await;
    match made {
        Err(error) if !error.is_already_exists() => Err(error),
        _ => Ok(()),
    }
}

fn dns_service(address: IpAddr) -> Value {
    let port = |name: &str, protocol: &str| json!({"name": name, "port": 53, "protocol": protocol, "targetPort": 53});
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}},
        "spec": {
            "clusterIP": address.to_string(),
            "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
        },
    })
}

fn ingress_class() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {
            "name": "kutter",
            "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"},
        },
        "spec": {"controller": "kutter.dev/ingress"},
    })
}

fn storage_class() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {
            "name": "local",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "kutter.dev/local",
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": true,
    })
}

/// The tenth address of a range: where the cluster's DNS is by convention.
pub fn dns_address(range: &str) -> Option<IpAddr> {
    let first: IpAddr = range.split('/').next()?.parse().ok()?;
    Some(match first {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) + 10).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) + 10).into()),
    })
}

#[cfg(test)]
mod tests {
    use super::dns_address;

    #[test]
    fn the_tenth_address() {
        assert_eq!(dns_address("10.96.0.0/12"), Some([10, 96, 0, 10].into()));
        assert_eq!(dns_address("nonsense"), None);
    }
}
