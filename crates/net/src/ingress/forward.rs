//! One request on its way to a backend and back.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Request, Response, StatusCode, Version};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use netplan::routes::Target;

use super::Shared;
use super::body::Retained;

/// What clients get.
pub(super) type Answer = Response<Either<Incoming, Full<Bytes>>>;

/// Time a backend has to begin its answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);
/// Backends tried for one request.
const TRIES_MAX: usize = 5;

/// Headers that concern one connection only.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

fn text(status: StatusCode, message: &'static str) -> Answer {
    let mut response = Response::new(Either::Right(Full::new(Bytes::from_static(message.as_bytes()))));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// Answers a request.
pub(super) async fn answer(
    shared: &Shared,
    request: Request<Incoming>,
    peer: SocketAddr,
    scheme: &'static str,
) -> Answer {
    let Some(host) = host_of(&request) else {
        return text(StatusCode::BAD_REQUEST, "the request names no host\n");
    };
    let bare = bare_host(&host);
    let Some(target) = shared.state().routes.find(bare, request.uri().path()) else {
        shared.counts.unmatched.fetch_add(1, Ordering::Relaxed);
        return text(StatusCode::NOT_FOUND, "default backend - 404\n");
    };
    let answer = forward(shared, request, &target, &host, peer, scheme).await;
    let count = if answer.is_ok() { &shared.counts.forwarded } else { &shared.counts.failed };
    count.fetch_add(1, Ordering::Relaxed);
    answer.unwrap_or_else(|failure| failure)
}

fn host_of(request: &Request<Incoming>) -> Option<String> {
    let authority = request.uri().authority().map(|a| a.as_str().to_owned());
    let header = || request.headers().get(header::HOST)?.to_str().ok().map(str::to_owned);
    authority.or_else(header).filter(|h| !h.is_empty())
}

/// The host without its port.
fn bare_host(host: &str) -> &str {
    if host.starts_with('[') {
        return host.split(']').next().unwrap_or(host).trim_start_matches('[');
    }
    host.split(':').next().unwrap_or(host)
}

async fn forward(
    shared: &Shared,
    mut request: Request<Incoming>,
    target: &Target,
    host: &str,
    peer: SocketAddr,
    scheme: &'static str,
) -> Result<Answer, Answer> {
    let upgrade = wanted_upgrade(request.headers()).filter(|_| request.version() == Version::HTTP_11);
    let client_side = upgrade.as_ref().map(|_| hyper::upgrade::on(&mut request));
    let (head, body) = request.into_parts();
    let mut headers = head.headers;
    clean(&mut headers);
    describe(&mut headers, host, peer, scheme);
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let body = Retained::new(body);
    let mut failure = text(StatusCode::SERVICE_UNAVAILABLE, "no backend is ready\n");
    let turn = shared.turn.fetch_add(1, Ordering::Relaxed);
    for endpoint in target.order(turn).take(TRIES_MAX) {
        let mut next = Request::new(body.clone());
        *next.method_mut() = head.method.clone();
        *next.headers_mut() = headers.clone();
        let Some(uri) = uri(endpoint, &path) else { break };
        *next.uri_mut() = uri;
        match tokio::time::timeout(ANSWER_PATIENCE, shared.client.request(next)).await {
            Ok(Ok(response)) => return Ok(back(response, client_side)),
            Ok(Err(error)) => {
                tracing::debug!(target = target.name, %endpoint, %error, "a backend failed");
                failure = text(StatusCode::BAD_GATEWAY, "the backend cannot be reached\n");
                // What may have been carried out must not be carried out twice.
                if !(error.is_connect() && body.is_whole()) {
                    break;
                }
                shared.counts.retried.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => return Err(text(StatusCode::GATEWAY_TIMEOUT, "the backend does not answer\n")),
        }
    }
    Err(failure)
}

fn uri(endpoint: SocketAddr, path: &PathAndQuery) -> Option<Uri> {
    let authority = Authority::try_from(endpoint.to_string()).ok()?;
    Uri::builder().scheme(Scheme::HTTP).authority(authority).path_and_query(path.clone()).build().ok()
}

fn wanted_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = headers
        .get_all(header::CONNECTION)
        .iter()
        .any(|v| v.to_str().is_ok_and(|t| t.split(',').any(|p| p.trim().eq_ignore_ascii_case("upgrade"))));
    headers.get(header::UPGRADE).filter(|_| asks).cloned()
}

/// Removes what concerns the client's connection only, also what it names itself.
fn clean(headers: &mut HeaderMap) {
    let trailers = headers.get(header::TE).is_some_and(|v| v == "trailers");
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|t| t.split(',').filter_map(|n| n.trim().parse().ok()))
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Says where the request came from. What the client claims is kept only in the list of addresses.
fn describe(headers: &mut HeaderMap, host: &str, peer: SocketAddr, scheme: &'static str) {
    let ip = peer.ip().to_canonical().to_string();
    let before = headers.get("x-forwarded-for").and_then(|v| v.to_str().ok());
    let list = before.map_or_else(|| ip.clone(), |b| format!("{b}, {ip}"));
    let texts = [("x-forwarded-for", list), ("x-real-ip", ip), ("x-forwarded-host", host.to_owned())];
    for (name, value) in texts {
        if let Ok(v) = HeaderValue::from_str(&value) {
            headers.insert(name, v);
        }
    }
    headers.insert("x-forwarded-proto", HeaderValue::from_static(scheme));
    let port = if scheme == "https" { "443" } else { "80" };
    let own = host.rsplit_once(':').map(|(_, p)| p).filter(|p| p.parse::<u16>().is_ok()).unwrap_or(port);
    if let Ok(v) = HeaderValue::from_str(own) {
        headers.insert("x-forwarded-port", v);
    }
    // The backend sees the host that the client asked for, also where it came as HTTP/2's authority.
    if let Ok(v) = HeaderValue::from_str(host) {
        headers.insert(header::HOST, v);
    }
}

fn back(mut response: Response<Incoming>, client_side: Option<hyper::upgrade::OnUpgrade>) -> Answer {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let backend_side = hyper::upgrade::on(&mut response);
        if let Some(client_side) = client_side {
            tokio::spawn(join(client_side, backend_side));
        }
    } else {
        clean(response.headers_mut());
    }
    // Versions are each connection's own.
    *response.version_mut() = Version::default();
    response.map(Either::Left)
}

/// Carries bytes both ways until one side ends.
async fn join(client: hyper::upgrade::OnUpgrade, backend: hyper::upgrade::OnUpgrade) {
    let (Ok(client), Ok(backend)) = (client.await, backend.await) else { return };
    let (mut a, mut b) = (TokioIo::new(client), TokioIo::new(backend));
    let _ = tokio::io::copy_bidirectional(&mut a, &mut b).await;
}
