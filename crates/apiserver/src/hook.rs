//! Calls of webhooks, whatever they are asked: JSON there and back over HTTPS, to a Service or a URL.

use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{Method, Request, Uri};
use serde_json::Value;
use serve::pool::Place;

use crate::endpoints;
use crate::server::ApiServer;

/// Where Linux distributions keep the certificate authorities of the machine.
const MACHINE_AUTHORITIES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Where a webhook is: what to dial, its name in TLS, and how messages call it.
struct Target {
    host: String,
    port: u16,
    name: String,
    url: String,
    path: String,
}

/// Why a webhook gave no answer; `Display` is the text for the client, which begins with the URL where it is known.
type Failure = String;

fn target(server: &ApiServer, config: &Value, seconds: u64) -> Result<Target, Failure> {
    let query = format!("timeout={seconds}s");
    if let Some(url) = config.get("url").and_then(Value::as_str) {
        let uri: Uri = url.parse().map_err(|cause| format!("Post {url:?}: {cause}"))?;
        let host = uri.host().unwrap_or("").trim_matches(['[', ']']).to_string();
        let path = match uri.query() {
            Some(own) => format!("{}?{own}&{query}", uri.path()),
            None => format!("{}?{query}", uri.path()),
        };
        let port = uri.port_u16().unwrap_or(443);
        return Ok(Target { name: host.clone(), host, port, url: format!("{url}?{query}"), path });
    }
    let text = |field: &str| config["service"][field].as_str().unwrap_or("");
    let (namespace, service) = (text("namespace"), text("name"));
    let port = config["service"]["port"].as_u64().unwrap_or(443);
    let path = format!("/{}?{query}", text("path").trim_start_matches('/'));
    let name = format!("{service}.{namespace}.svc");
    let url = format!("https://{name}:{port}{path}");
    let place = endpoints::service(server, (namespace, service), port);
    let (host, port) = place.map_err(|cause| format!("Post {url:?}: {cause}"))?;
    Ok(Target { host, port, name, url, path })
}

/// Sends a body to the webhook of a `clientConfig` and reads an answer of at most `max` bytes.
pub async fn call(
    server: &ApiServer,
    config: &Value,
    seconds: u64,
    body: Vec<u8>,
    max: usize,
) -> Result<Bytes, Failure> {
    let target = target(server, config, seconds)?;
    let failed = |cause: String| format!("Post {:?}: {cause}", target.url);
    match tokio::time::timeout(Duration::from_secs(seconds), post(server, &target, config, body, max)).await {
        Ok(body) => body.map_err(failed),
        Err(_) => Err(failed("context deadline exceeded".into())),
    }
}

fn authorities(config: &Value) -> Result<String, Failure> {
    let bundle = config.get("caBundle").and_then(Value::as_str).unwrap_or("");
    let bundle = STANDARD.decode(bundle).map_err(|cause| format!("caBundle: {cause}"))?;
    let bundle = String::from_utf8_lossy(&bundle);
    if !bundle.trim().is_empty() {
        return Ok(bundle.into_owned());
    }
    machine_authorities()
}

/// The certificate authorities that the machine believes, PEM.
pub fn machine_authorities() -> Result<String, Failure> {
    static MACHINE: OnceLock<String> = OnceLock::new();
    let read = || MACHINE_AUTHORITIES.iter().find_map(|path| std::fs::read_to_string(path).ok());
    let machine = MACHINE.get_or_init(|| read().unwrap_or_default());
    match machine.is_empty() {
        true => Err("x509: certificate signed by unknown authority: there is no caBundle".into()),
        false => Ok(machine.clone()),
    }
}

async fn post(
    server: &ApiServer,
    target: &Target,
    config: &Value,
    body: Vec<u8>,
    max: usize,
) -> Result<Bytes, Failure> {
    let tls = server.outbound.tls(&authorities(config)?, "", "").map_err(|cause| cause.to_string())?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(&target.path)
        .header(HOST, format!("{}:{}", target.name, target.port))
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json, */*")
        .header(CONTENT_LENGTH, body.len())
        .body(())
        .map_err(|cause| cause.to_string())?;
    let place = Place {
        host: target.host.clone(),
        port: target.port,
        server_name: target.name.clone(),
        tls: Some(tls),
    };
    let response = server.outbound.send(&place, request.into_parts().0, body.into()).await;
    let response = response.map_err(|cause| cause.to_string())?;
    let code = response.status();
    let body = serve::limited(response.into_body(), max).await.map_err(|cause| cause.to_string())?;
    let body = body.ok_or_else(|| format!("the answer has more than {max} bytes"))?;
    match code.is_success() {
        true => Ok(body),
        false => Err(format!("the server answered with {code}")),
    }
}
