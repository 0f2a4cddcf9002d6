//! Where the endpoints of Services are, for a server that itself may be on no node.

use rand::seq::IndexedRandom;
use serde_json::Value;
use store::Range;

use crate::server::ApiServer;

/// One of the ready endpoints of a service's port, by chance.
pub fn endpoint(
    server: &ApiServer,
    namespace: &str,
    service: &str,
    port_name: &str,
) -> Option<(String, u16)> {
    let range = Range { namespace: Some(namespace.into()), after: None };
    let mut found: Vec<(String, u16)> = Vec::new();
    for stored in server.store.snapshot("discovery.k8s.io/endpointslices").iter(&range) {
        let owner = stored.index.labels.iter().find(|(key, _)| &**key == "kubernetes.io/service-name");
        if owner.is_none_or(|(_, value)| &**value != service) {
            continue;
        }
        let Ok(slice) = serde_json::from_slice::<Value>(&stored.json) else { continue };
        let list = |field: &str| slice[field].as_array().cloned().unwrap_or_default();
        let port = list("ports").into_iter().find(|p| p["name"].as_str().unwrap_or("") == port_name);
        let Some(port) = port.and_then(|p| u16::try_from(p["port"].as_u64()?).ok()) else { continue };
        for endpoint in list("endpoints").iter().filter(|e| e["conditions"]["ready"] != false) {
            found.extend(endpoint["addresses"][0].as_str().map(|address| (address.to_string(), port)));
        }
    }
    found.choose(&mut rand::rng()).cloned()
}

/// What to dial for a port of a Service; the error is the text for the client.
pub fn service(
    server: &ApiServer,
    (namespace, service): (&str, &str),
    port: u64,
) -> Result<(String, u16), String> {
    let catalog = server.catalog();
    let services = catalog.stored("", "services").ok_or("services are not served")?;
    let found = server.store.get(&services.key(namespace, service));
    let found = found.ok_or_else(|| format!("service {service:?} not found"))?;
    let found: Value = serde_json::from_slice(&found.json).map_err(|cause| cause.to_string())?;
    if let Some(host) = found.pointer("/spec/externalName").and_then(Value::as_str) {
        return Ok((host.to_string(), u16::try_from(port).unwrap_or(443)));
    }
    let ports = found.pointer("/spec/ports").and_then(Value::as_array);
    let own = ports.into_iter().flatten().find(|own| own["port"].as_u64() == Some(port));
    let own = own.ok_or_else(|| format!("no service port {port} found for service {service:?}"))?;
    let port_name = own["name"].as_str().unwrap_or("");
    endpoint(server, namespace, service, port_name)
        .ok_or_else(|| format!("no endpoints available for service {service:?}"))
}
