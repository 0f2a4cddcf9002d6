//! HTTP as all parts of the shop use it: a server, a client, and who is answering.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::ShopError;

/// Bytes of a request's or an answer's body.
const BODY_MAX: usize = 1 << 20;
/// Connections at a time; more wait.
const CONNECTIONS_MAX: usize = 1024;
const PEER_TIMEOUT: Duration = Duration::from_secs(5);

/// A request that was read whole.
#[derive(Debug, Clone)]
pub struct Question {
    pub method: Method,
    pub path: String,
    pub query: String,
    pub body: Bytes,
}

/// An answer.
pub type Answer = Response<Full<Bytes>>;

/// Serves until the process ends.
pub async fn serve<F, A>(port: u16, answer: F) -> Result<(), ShopError>
where
    F: Fn(Question) -> A + Send + Sync + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| ShopError::Io { what: format!("listen on {address}"), source })?;
    println!("{} on {} listens on port {port}", pod(), node());
    accept(listener, answer).await
}

async fn accept<F, A>(listener: TcpListener, answer: F) -> Result<(), ShopError>
where
    F: Fn(Question) -> A + Send + Sync + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    let answer = Arc::new(answer);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return Ok(()) };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let answer = Arc::clone(&answer);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answer = Arc::clone(&answer);
                async move { Ok::<_, Infallible>(one(request, answer.as_ref()).await) }
            });
            // A broken connection concerns the client alone.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(30))
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(slot);
        });
    }
}

async fn one<F, A>(request: Request<Incoming>, answer: &F) -> Answer
where
    F: Fn(Question) -> A,
    A: Future<Output = Answer>,
{
    let (parts, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_MAX).collect().await else {
        return text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large\n");
    };
    let question = Question {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        body: body.to_bytes(),
    };
    answer(question).await
}

/// An answer of a type.
pub fn reply(status: StatusCode, kind: &str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    if let Ok(kind) = kind.parse() {
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    }
    response
}

/// Plain text.
pub fn text(status: StatusCode, body: impl Into<String>) -> Answer {
    reply(status, "text/plain; charset=utf-8", body.into())
}

/// JSON.
pub fn json(value: &serde_json::Value) -> Answer {
    reply(StatusCode::OK, "application/json", value.to_string())
}

/// GETs `http://host:port/path`.
pub async fn get(url: &str) -> Result<Bytes, ShopError> {
    send(Method::GET, url, Bytes::new()).await
}

/// Sends a request to another part of the shop; an answer that is no success is an error.
pub async fn send(method: Method, url: &str, body: Bytes) -> Result<Bytes, ShopError> {
    let failed = |reason: String| ShopError::Peer { url: url.to_owned(), reason };
    let rest = url.trim_start_matches("http://");
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let work = async {
        let stream = TcpStream::connect(host).await.map_err(|e| e.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(format!("/{path}"))
            .header("host", host)
            .body(Full::new(body))
            .map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        let bytes = Limited::new(response.into_body(), BODY_MAX).collect().await;
        let bytes = bytes.map_err(|e| e.to_string())?.to_bytes();
        if status.is_success() { Ok(bytes) } else { Err(status.to_string()) }
    };
    match tokio::time::timeout(PEER_TIMEOUT, work).await {
        Ok(result) => result.map_err(failed),
        Err(_) => Err(failed(format!("no answer within {} s", PEER_TIMEOUT.as_secs()))),
    }
}

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).ok().filter(|v| !v.is_empty()).unwrap_or_else(|| default.to_owned())
}

/// Name of this pod.
pub fn pod() -> String {
    variable("POD_NAME", "shop")
}

/// Name of this node.
pub fn node() -> String {
    variable("NODE_NAME", "this machine")
}

/// Version of the shop, as the Deployment says.
pub fn version() -> String {
    variable("SHOP_VERSION", "1")
}

/// Where the back end answers.
pub fn backend() -> String {
    variable("BACKEND_URL", "http://backend:8080")
}

/// Where the database answers.
pub fn database() -> String {
    variable("DATABASE_URL", "http://database:8080")
}
