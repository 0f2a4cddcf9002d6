//! Whether another server answers, and what it serves.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, Request};
use serde_json::Value;
use serve::pool::Place;
use store::Range;

use super::proxy::{identify, place};
use super::{Condition, Remote};
use crate::authenticate::{Identity, MASTERS};
use crate::server::ApiServer;

/// How long a server has to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often a server is asked before it counts as away.
const ATTEMPTS: usize = 3;
/// Longer lists of resources are refused, in bytes.
const RESOURCES_MAX: usize = 4 << 20;
/// Longer OpenAPI documents are left out, in bytes.
const OPENAPI_MAX: usize = 32 << 20;

fn no(reason: &'static str, message: String) -> Condition {
    Condition { status: "False", reason, message }
}

/// Asks a server and notes what it serves.
pub async fn check(server: &ApiServer, remote: &mut Remote) -> Condition {
    let condition = match service(server, remote) {
        Ok(address) => ask(server, remote, &address).await,
        Err(condition) => condition,
    };
    remote.available = condition.status == "True";
    condition
}

/// The address of the Service, if it can be reached at all.
fn service(server: &ApiServer, remote: &Remote) -> Result<String, Condition> {
    let (namespace, name, port) = &remote.service;
    let catalog = server.catalog();
    let found = catalog.stored("", "services").and_then(|r| server.store.get(&r.key(namespace, name)));
    let found: Option<Value> = found.and_then(|found| serde_json::from_slice(&found.json).ok());
    let Some(found) = found else {
        let message = format!("service/{name} in {namespace:?} is not present");
        return Err(no("ServiceNotFound", message));
    };
    let spec = &found["spec"];
    if let Some(host) = spec["externalName"].as_str().filter(|_| spec["type"] == "ExternalName") {
        return Ok(format!("{host}:{port}"));
    }
    let address = format!("{}:{port}", spec["clusterIP"].as_str().unwrap_or(""));
    if spec["type"] != "ClusterIP" {
        return Ok(address);
    }
    let mut ports = spec["ports"].as_array().into_iter().flatten();
    let Some(own) = ports.find(|own| own["port"].as_u64() == Some(*port)) else {
        let message = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return Err(no("ServicePortError", message));
    };
    let port_name = own["name"].as_str().unwrap_or("");
    let range = Range { namespace: Some(namespace.as_str().into()), after: None };
    let snapshot = server.store.snapshot("discovery.k8s.io/endpointslices");
    let mut slices = snapshot.iter(&range).filter(|slice| {
        let owner = slice.index.labels.iter().find(|(key, _)| &**key == "kubernetes.io/service-name");
        owner.is_some_and(|(_, owner)| **owner == *name.as_str())
    });
    if slices.next().is_none() {
        let message = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return Err(no("EndpointsNotFound", message));
    }
    match crate::endpoints::endpoint(server, namespace, name, port_name) {
        Some(_) => Ok(address),
        None => {
            let message = format!(
                "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
            );
            Err(no("MissingEndpoints", message))
        }
    }
}

async fn ask(server: &ApiServer, remote: &mut Remote, address: &str) -> Condition {
    let url = format!("https://{address}{}", remote.path());
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        match get(server, remote, &remote.path(), &[], RESOURCES_MAX).await {
            Ok((200..=299, _, body)) => {
                let resources = serde_json::from_slice(&body).unwrap_or_default();
                let new = resources != remote.resources || !remote.available;
                remote.resources = resources;
                documents(server, remote, new).await;
                return Condition {
                    status: "True",
                    reason: "Passed",
                    message: "all checks passed".to_string(),
                };
            }
            Ok((code, ..)) => last = format!("bad status from {url}: {code}"),
            Err(cause) => last = format!("Get {url:?}: {cause}"),
        }
    }
    no("FailedDiscoveryCheck", format!("failing or missing response from {url}: {last}"))
}

/// Brings the OpenAPI documents up to date; without them a server is no less available.
async fn documents(server: &ApiServer, remote: &mut Remote, new: bool) {
    let name = remote.path().trim_start_matches('/').to_string();
    if let Ok((200, _, body)) = get(server, remote, "/openapi/v3", &[], RESOURCES_MAX).await {
        let index: Value = serde_json::from_slice(&body).unwrap_or_default();
        let url = index["paths"][&name]["serverRelativeURL"].as_str();
        remote.openapi_v3 = url.map(|url| match url.split_once("hash=") {
            Some((_, hash)) => hash.split('&').next().unwrap_or("").to_string(),
            None => api::discovery::hash(url.as_bytes()),
        });
    }
    let tag = remote.openapi.as_ref().map(|known| known.1.clone()).filter(|tag| !tag.is_empty() && !new);
    let known = [(IF_NONE_MATCH, tag.clone().unwrap_or_default())];
    let headers = if tag.is_some() { &known[..] } else { &[] };
    if let Ok((200, head, body)) = get(server, remote, "/openapi/v2", headers, OPENAPI_MAX).await {
        let tag = head.get(ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or("").to_string();
        match serde_json::from_slice(&body) {
            Ok(document) => remote.openapi = Some(Arc::new((document, tag))),
            Err(cause) => tracing::debug!(%cause, name = remote.name, "read an OpenAPI document"),
        }
    }
}

type Got = (u16, HeaderMap, bytes::Bytes);

async fn get(
    server: &ApiServer,
    remote: &Remote,
    path: &str,
    headers: &[(http::HeaderName, String)],
    max: usize,
) -> Result<Got, String> {
    let place: Place = place(server, remote)?;
    let mut request = Request::builder().uri(path).header(ACCEPT, "application/json");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let (mut head, ()) = request.body(()).map_err(|cause| cause.to_string())?.into_parts();
    identify(
        &mut head.headers,
        &Identity { groups: vec![MASTERS.into()], ..Identity::system("system:kube-aggregator") },
    )
    .map_err(|cause| cause.to_string())?;
    super::proxy::host(&mut head.headers, remote)?;
    let exchange = async {
        let response = server.outbound.send(&place, head, bytes::Bytes::new()).await;
        let (head, body) = response.map_err(|cause| cause.to_string())?.into_parts();
        let body = serve::limited(body, max).await.map_err(|cause| cause.to_string())?;
        let body = body.ok_or_else(|| format!("the answer has more than {max} bytes"))?;
        Ok((head.status.as_u16(), head.headers, body))
    };
    match tokio::time::timeout(TIMEOUT, exchange).await {
        Ok(outcome) => outcome,
        Err(_) => Err("context deadline exceeded".to_string()),
    }
}
