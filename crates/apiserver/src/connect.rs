//! Streams to kubelets, pods and services: log, exec, attach, port-forward and proxy are passed through.
//!
//! The server looks up where the other end is, and then copies requests, answers and upgraded connections without
//! understanding them, so that every version of the streaming protocols works.

use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderValue, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use hyper::upgrade::OnUpgrade;
use serde_json::Value;
use serve::Body;
use serve::outbound::{self, ClientTls};

use crate::admission::{self, AdmissionContext, Operation};
use crate::endpoints::endpoint;
use crate::handlers::current;
use crate::object::{at, name};
use crate::rewrite;
use crate::server::Call;
use crate::status::Status;

/// The kubelet's port when a node does not say.
const KUBELET_PORT: u16 = 10_250;

/// How the server reaches kubelets.
#[derive(Debug, Clone, Default)]
pub struct KubeletAccess {
    /// Certificate authorities of the kubelets' serving certificates, PEM; empty to accept any.
    pub authorities: String,
    /// The certificate chain to show, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: String,
}

/// Where a stream goes.
pub struct Backend {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// With TLS, unless absent.
    pub tls: Option<ClientTls>,
    /// Path and query.
    pub path: String,
}

/// Whether a subresource is a stream.
pub fn is_connect(subresource: &str) -> bool {
    matches!(subresource, "log" | "exec" | "attach" | "portforward" | "proxy")
}

/// Connects the client with the other end.
pub async fn connect(call: &mut Call, subresource: &str) -> Result<Response<Body>, Status> {
    let (kind, log) = (call.resource.def.plural.to_string(), subresource == "log");
    if log && !matches!(call.info.verb, "get") {
        return Err(Status::no_method());
    }
    let backend = match (kind.as_str(), subresource) {
        ("pods", "log") => container_backend(call, "containerLogs")?,
        ("pods", "exec") => container_backend(call, "exec")?,
        ("pods", "attach") => container_backend(call, "attach")?,
        ("pods", "portforward") => portforward(call)?,
        ("pods", "proxy") => pod_proxy(call)?,
        ("services", "proxy") => service_proxy(call)?,
        ("nodes", "proxy") => node_proxy(call)?,
        _ => return Err(Status::no_resource()),
    };
    if !log {
        admit(call, subresource).await?;
    }
    if subresource != "proxy" {
        return pass(call, backend).await;
    }
    let (own, own_len) = (call.head.uri.path().to_string(), rest_of(call).len());
    let simple = matches!(call.head.method, http::Method::GET | http::Method::HEAD);
    if own_len == 0 && simple && !call.head.headers.contains_key(UPGRADE) {
        return moved(&own, call.head.uri.query());
    }
    // Only plain text can be rewritten on its way back.
    call.head.headers.remove(http::header::ACCEPT_ENCODING);
    let prefix = own[..own.len() - own_len].to_string();
    let host = format!("{}:{}", backend.host, backend.port);
    Ok(through(pass(call, backend).await?, &prefix, &host))
}

async fn admit(call: &mut Call, subresource: &str) -> Result<(), Status> {
    let plugins = call.server.plugins.read().clone();
    let mut options = options(call, subresource);
    let Call { server, identity, resource, info, warnings, .. } = call;
    let mut context = AdmissionContext {
        server,
        identity,
        operation: Operation::Connect,
        resource,
        subresource,
        namespace: &info.namespace,
        name: &info.name,
        old: None,
        dry_run: false,
        warnings,
    };
    admission::admit(&plugins, &mut options, &mut context).await?;
    admission::validate(&plugins, &options, &mut context).await
}

/// What is asked of the stream, as the object that admission sees.
fn options(call: &Call, subresource: &str) -> Value {
    let kind = match (&*call.resource.def.plural, subresource) {
        ("pods", "exec") => "PodExecOptions",
        ("pods", "attach") => "PodAttachOptions",
        ("pods", "portforward") => "PodPortForwardOptions",
        ("pods", _) => "PodProxyOptions",
        ("services", _) => "ServiceProxyOptions",
        _ => "NodeProxyOptions",
    };
    let mut object = serde_json::json!({"kind": kind, "apiVersion": "v1"});
    match subresource {
        "exec" | "attach" => {
            for stream in ["stdin", "stdout", "stderr", "tty"] {
                if call.query.flag(stream) {
                    object[stream] = true.into();
                }
            }
            object["container"] = call.query.text("container").into();
            let command: Vec<&str> = call.query.all("command").collect();
            if !command.is_empty() {
                object["command"] = command.into();
            }
        }
        "portforward" => {
            let ports: Vec<u64> = call.query.all("ports").filter_map(|port| port.parse().ok()).collect();
            object["ports"] = ports.into();
        }
        _ => object["path"] = rest_of(call).into(),
    }
    object
}

fn kubelet_tls(call: &Call) -> Result<Option<ClientTls>, Status> {
    let Some(access) = &call.server.settings.kubelet else { return Ok(None) };
    let tls = ClientTls::new(&access.authorities, &access.certificate, &access.key);
    tls.map(Some).map_err(Status::internal)
}

/// The kubelet of a node, at a path.
pub fn kubelet(call: &Call, node: &str, path: String) -> Result<Backend, Status> {
    let catalog = call.server.catalog();
    let nodes = catalog.get("", "v1", "nodes").ok_or_else(Status::no_resource)?;
    let stored =
        call.server.store.get(&nodes.key("", node)).ok_or_else(|| Status::not_found("", "nodes", node))?;
    let value: Value = serde_json::from_slice(&stored.json).map_err(Status::internal)?;
    let addresses = at(&value, "status.addresses").and_then(Value::as_array).cloned().unwrap_or_default();
    let of = |kind: &str| {
        addresses
            .iter()
            .find(|address| address["type"] == kind)
            .and_then(|address| address["address"].as_str())
    };
    let host = of("InternalIP").or_else(|| of("ExternalIP")).or_else(|| of("Hostname")).ok_or_else(|| {
        Status::internal(format!("no preferred addresses found; known addresses: {addresses:?}"))
    })?;
    let port = at(&value, "status.daemonEndpoints.kubeletEndpoint.Port").and_then(Value::as_u64);
    let port =
        port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0).unwrap_or(KUBELET_PORT);
    Ok(Backend { host: host.to_string(), port, tls: kubelet_tls(call)?, path })
}

fn node_of(pod: &Value) -> Result<&str, Status> {
    match at(pod, "spec.nodeName").and_then(Value::as_str).unwrap_or("") {
        "" => Err(Status::bad_request(format!("pod {} does not have a host assigned", name(pod)))),
        node => Ok(node),
    }
}

fn names(pod: &Value, list: &str) -> Vec<String> {
    let list = at(pod, list).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|container| container["name"].as_str()).map(str::to_string).collect()
}

/// The container that is asked for, or the only one.
fn container(call: &Call, pod: &Value) -> Result<String, Status> {
    let own = names(pod, "spec.containers");
    let init = names(pod, "spec.initContainers");
    let ephemeral = names(pod, "spec.ephemeralContainers");
    let wanted = call.query.text("container");
    let pod_name = name(pod);
    if wanted.is_empty() {
        if let [only] = own.as_slice() {
            return Ok(only.clone());
        }
        let annotation = pod.pointer("/metadata/annotations/kubectl.kubernetes.io~1default-container");
        if let Some(default) = annotation.and_then(Value::as_str).filter(|name| own.iter().any(|o| o == name))
        {
            return Ok(default.to_string());
        }
        let all: Vec<&str> = init.iter().chain(&own).chain(&ephemeral).map(String::as_str).collect();
        let message = format!(
            "a container name must be specified for pod {pod_name}, choose one of: [{}]",
            all.join(" ")
        );
        return Err(Status::bad_request(message));
    }
    match own.iter().chain(&init).chain(&ephemeral).any(|name| name == wanted) {
        true => Ok(wanted.to_string()),
        false => Err(Status::bad_request(format!("container {wanted} is not valid for pod {pod_name}"))),
    }
}

fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Log, exec and attach: a container behind a kubelet.
fn container_backend(call: &Call, what: &str) -> Result<Backend, Status> {
    let pod = current(call)?;
    let container = container(call, &pod)?;
    let node = node_of(&pod)?;
    let mut query: Vec<String> = Vec::new();
    let mut add = |key: &str, value: &str| query.push(format!("{}={}", encode(key), encode(value)));
    if what == "containerLogs" {
        let passed = [
            "follow",
            "previous",
            "timestamps",
            "sinceSeconds",
            "sinceTime",
            "tailLines",
            "limitBytes",
            "stream",
        ];
        for key in passed {
            if let Some(value) = call.query.get(key) {
                add(key, value);
            }
        }
    } else {
        let streams = [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")];
        if !streams[..3].iter().any(|(own, _)| call.query.flag(own)) {
            return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
        }
        for (own, theirs) in streams {
            if call.query.flag(own) {
                add(theirs, "1");
            }
        }
        let commands: Vec<&str> = call.query.all("command").collect();
        if what == "exec" && commands.is_empty() {
            return Err(Status::bad_request("you must specify at least one command for the container"));
        }
        for command in commands {
            add("command", command);
        }
    }
    let path = format!(
        "/{what}/{}/{}/{}?{}",
        encode(&call.info.namespace),
        encode(&call.info.name),
        encode(&container),
        query.join("&")
    );
    kubelet(call, node, path)
}

fn portforward(call: &Call) -> Result<Backend, Status> {
    let pod = current(call)?;
    let node = node_of(&pod)?;
    let query: Vec<String> = call.query.all("ports").map(|port| format!("port={}", encode(port))).collect();
    let base = format!("/portForward/{}/{}", encode(&call.info.namespace), encode(&call.info.name));
    kubelet(call, node, format!("{base}?{}", query.join("&")))
}

/// Splits `[scheme:]name[:port]`.
fn split_target(text: &str) -> Result<(bool, &str, &str), Status> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [name] => Ok((false, name, "")),
        [name, port] => Ok((false, name, port)),
        ["https", name, port] => Ok((true, name, port)),
        ["" | "http", name, port] => Ok((false, name, port)),
        _ => Err(Status::bad_request(format!("invalid request {text:?}"))),
    }
}

/// What of the path is meant for the other end.
fn rest_of(call: &Call) -> &str {
    // Cut off: /api/v1, the namespace if there is one, plural, name, `proxy`.
    let skip = if call.info.namespace.is_empty() { 5 } else { 7 };
    let raw = call.head.uri.path();
    let from = raw.match_indices('/').nth(skip).map_or(raw.len(), |(at, _)| at);
    &raw[from..]
}

/// A page's own links are relative to a path with a slash at its end.
fn moved(path: &str, query: Option<&str>) -> Result<Response<Body>, Status> {
    let place = format!("{path}/{}", query.map(|query| format!("?{query}")).unwrap_or_default());
    let mut response = Response::new(serve::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let place = HeaderValue::from_str(&place).map_err(Status::internal)?;
    response.headers_mut().insert(http::header::LOCATION, place);
    Ok(response)
}

/// The answer of a proxy, with redirections and links led through the proxy's path.
fn through(mut response: Response<Body>, prefix: &str, host: &str) -> Response<Body> {
    let location = response.headers().get(http::header::LOCATION).and_then(|value| value.to_str().ok());
    if let Some(location) = location.and_then(|url| rewrite::link(url, prefix, host))
        && let Ok(location) = HeaderValue::from_str(&location)
    {
        response.headers_mut().insert(http::header::LOCATION, location);
    }
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let html = header(http::header::CONTENT_TYPE).split(';').next().unwrap_or("").trim() == "text/html";
    let plain = matches!(header(http::header::CONTENT_ENCODING), "" | "identity");
    if !html || !plain || response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return response;
    }
    response.headers_mut().remove(http::header::CONTENT_LENGTH);
    response.map(|body| rewrite::html(body, prefix, host))
}

/// What of the path is meant for the other end, with the query.
fn rest(call: &Call) -> String {
    let path = match rest_of(call) {
        "" => "/",
        path => path,
    };
    match call.head.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_string(),
    }
}

fn any_tls(secure: bool) -> Result<Option<ClientTls>, Status> {
    match secure {
        true => ClientTls::new("", "", "").map(Some).map_err(Status::internal),
        false => Ok(None),
    }
}

fn pod_proxy(call: &mut Call) -> Result<Backend, Status> {
    let whole = call.info.name.clone();
    let (secure, pod_name, port) = split_target(&whole)?;
    call.info.name = pod_name.to_string();
    let pod = current(call)?;
    let host = at(&pod, "status.podIP").and_then(Value::as_str).unwrap_or("");
    if host.is_empty() {
        return Err(Status::bad_request("address not allowed"));
    }
    let first = at(&pod, "spec.containers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find_map(|c| c["ports"].as_array()?.first()?["containerPort"].as_u64());
    let port = match port {
        "" => first.and_then(|port| u16::try_from(port).ok()).unwrap_or(if secure { 443 } else { 80 }),
        text => text
            .parse()
            .map_err(|_| Status::bad_request(format!("invalid pod request {whole:?}: port {text:?}")))?,
    };
    Ok(Backend { host: host.to_string(), port, tls: any_tls(secure)?, path: rest(call) })
}

fn service_proxy(call: &mut Call) -> Result<Backend, Status> {
    let whole = call.info.name.clone();
    let (secure, service_name, port) = split_target(&whole)?;
    call.info.name = service_name.to_string();
    let service = current(call)?;
    let ports = at(&service, "spec.ports").and_then(Value::as_array).cloned().unwrap_or_default();
    let chosen = match port {
        "" if ports.len() == 1 => ports.first(),
        text => ports.iter().find(|p| p["name"] == text || p["port"].as_u64() == text.parse().ok()),
    };
    let none = || Status::unavailable(format!("no endpoints available for service {whole:?}"));
    let port_name = chosen.ok_or_else(none)?["name"].as_str().unwrap_or("");
    let (host, port) =
        endpoint(&call.server, &call.info.namespace, service_name, port_name).ok_or_else(none)?;
    Ok(Backend { host, port, tls: any_tls(secure)?, path: rest(call) })
}

fn node_proxy(call: &mut Call) -> Result<Backend, Status> {
    let whole = call.info.name.clone();
    let (_, node, port) = split_target(&whole)?;
    let mut backend = kubelet(call, node, rest(call))?;
    if let Ok(port) = port.parse() {
        backend.port = port;
    }
    Ok(backend)
}

/// Sends the request on and brings the answer back; upgraded connections are joined.
async fn pass(call: &mut Call, backend: Backend) -> Result<Response<Body>, Status> {
    let client = call.head.extensions.remove::<OnUpgrade>();
    let body = std::mem::replace(call.body.get_mut(), serve::empty());
    let upgrade = call.head.headers.contains_key(UPGRADE);
    let mut request = Request::new(if upgrade { serve::empty() } else { body });
    *request.method_mut() = call.head.method.clone();
    *request.uri_mut() =
        backend.path.parse::<Uri>().map_err(|cause| Status::bad_request(cause.to_string()))?;
    *request.headers_mut() = passed_headers(&call.head.headers, upgrade);
    let host = format!("{}:{}", backend.host, backend.port);
    let host = HeaderValue::from_str(&host).map_err(Status::internal)?;
    request.headers_mut().insert(HOST, host);
    let sent = outbound::send(&backend.host, backend.port, backend.tls.as_ref(), request).await;
    let mut response = sent.map_err(|cause| {
        let message = format!("error dialing backend: {cause}");
        match call.info.subresource.as_str() {
            "proxy" => Status::unavailable(message),
            _ => Status::new(500, "", message),
        }
    })?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = client else {
            return Err(Status::bad_request("the connection cannot be upgraded: use HTTP/1.1"));
        };
        outbound::join(client, hyper::upgrade::on(&mut response));
        let (head, _) = response.into_parts();
        return Ok(Response::from_parts(head, serve::empty()));
    }
    Ok(passed_back(response))
}

/// An answer without what concerned the connection it came over.
pub fn passed_back(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().remove(CONNECTION);
    response.headers_mut().remove("keep-alive");
    response.headers_mut().remove(http::header::TRANSFER_ENCODING);
    response
}

/// Sends a request for an upgrade on a connection of its own, and joins both connections when it is granted.
pub async fn upgraded(
    place: &serve::pool::Place,
    head: http::request::Parts,
    client: Option<OnUpgrade>,
) -> Result<Result<Response<Body>, outbound::OutboundError>, Status> {
    let request = Request::from_parts(head, serve::empty());
    let to = (place.host.as_str(), place.port);
    let mut response = match outbound::send_as(to, &place.server_name, place.tls.as_ref(), request).await {
        Ok(response) => response,
        Err(cause) => return Ok(Err(cause)),
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Ok(passed_back(response)));
    }
    let Some(client) = client else {
        return Err(Status::bad_request("the connection cannot be upgraded: use HTTP/1.1"));
    };
    outbound::join(client, hyper::upgrade::on(&mut response));
    let (head, _) = response.into_parts();
    Ok(Ok(Response::from_parts(head, serve::empty())))
}

/// The headers that are passed on.
pub fn passed_headers(headers: &HeaderMap, upgrade: bool) -> HeaderMap {
    let mut passed = headers.clone();
    passed.remove(AUTHORIZATION);
    passed.remove(HOST);
    if !upgrade {
        for hop in ["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"] {
            passed.remove(hop);
        }
    }
    passed
}
