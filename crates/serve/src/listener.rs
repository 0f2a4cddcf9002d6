//! The accept loop: TLS handshakes with a deadline, HTTP/1.1 and HTTP/2 on one port, and a graceful end.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::{Body, BoxError, ServerTls};

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// The certificate chain it showed, leaf first. It has proved to hold the key, but whether the chain is to
    /// be believed is decided with [`ServerTls::verify_client`].
    pub certificates: Vec<CertificateDer<'static>>,
}

/// Answers requests. A session is made once per connection, so that what follows from the peer alone is worked
/// out once.
pub trait Handler: Send + Sync + 'static {
    /// What is known of one connection.
    type Session: Send + Sync + 'static;

    /// Called once per connection, after the handshake.
    fn open(&self, peer: Peer) -> Self::Session;

    /// Answers one request.
    fn handle(
        self: Arc<Self>,
        session: Arc<Self::Session>,
        request: http::Request<Body>,
    ) -> impl Future<Output = http::Response<Body>> + Send;
}

/// Bounds of a listener.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections open at the same time; more wait in the kernel's backlog.
    pub connections_max: usize,
    /// HTTP/2 streams per connection.
    pub streams_max: u32,
    /// Bytes of the request head.
    pub header_bytes_max: u32,
    /// Time for the TLS handshake.
    pub handshake_timeout: Duration,
    /// Time for an HTTP/1.1 request head to arrive, also between two requests.
    pub header_timeout: Duration,
    /// How often an idle HTTP/2 connection is probed, and how long the answer may take.
    pub keep_alive: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            streams_max: 250,
            header_bytes_max: 1 << 20,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(120),
            keep_alive: Duration::from_secs(30),
        }
    }
}

/// A listener at work. Dropping it does not end it; [`Running::shutdown`] does.
pub struct Running {
    /// The bound address, with the port that was chosen when 0 was asked for.
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Stops accepting, lets open requests end for at most `grace`, then cuts what is left.
    pub async fn shutdown(mut self, grace: Duration) {
        self.stop.send_replace(true);
        if tokio::time::timeout(grace, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

/// Serves `listener` until [`Running::shutdown`]. Without `tls` it speaks plain text.
pub fn serve<H: Handler>(
    listener: TcpListener,
    tls: Option<ServerTls>,
    limits: Limits,
    handler: Arc<H>,
) -> std::io::Result<Running> {
    let address = listener.local_addr()?;
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(accept(listener, tls, limits, handler, stopped));
    Ok(Running { address, stop, task })
}

async fn accept<H: Handler>(
    listener: TcpListener,
    tls: Option<ServerTls>,
    limits: Limits,
    handler: Arc<H>,
    mut stopped: watch::Receiver<bool>,
) {
    let acceptor = tls.map(|tls| TlsAcceptor::from(tls.config()));
    let permits = Arc::new(Semaphore::new(limits.connections_max));
    let protocol = Arc::new(protocol(&limits));
    let graceful = GracefulShutdown::new();
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.changed() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(cause) => {
                tracing::warn!(%cause, "accept connection");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let (acceptor, handler, protocol) = (acceptor.clone(), handler.clone(), protocol.clone());
        let watcher = graceful.watcher();
        let timeout = limits.handshake_timeout;
        connections.spawn(async move {
            let _permit = permit;
            if let Err(cause) =
                connection(stream, address, acceptor, timeout, handler, &protocol, watcher).await
            {
                tracing::debug!(%address, cause, "connection ended");
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

fn protocol(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size((limits.header_bytes_max as usize).max(64 << 10));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(limits.header_bytes_max)
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(1 << 20)
        .max_send_buf_size(256 << 10)
        .keep_alive_interval(limits.keep_alive)
        .keep_alive_timeout(limits.keep_alive)
        .enable_connect_protocol();
    builder
}

async fn connection<H: Handler>(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    handshake_timeout: Duration,
    handler: Arc<H>,
    protocol: &auto::Builder<TokioExecutor>,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<(), String> {
    stream.set_nodelay(true).map_err(|cause| format!("set TCP_NODELAY: {cause}"))?;
    let Some(acceptor) = acceptor else {
        let session = Arc::new(handler.open(Peer { address, certificates: Vec::new() }));
        let service = service_fn(move |request| answer(handler.clone(), session.clone(), request));
        let connection = protocol.serve_connection_with_upgrades(TokioIo::new(stream), service);
        return watcher.watch(connection).await.map_err(|cause| cause.to_string());
    };
    let stream = tokio::time::timeout(handshake_timeout, acceptor.accept(stream))
        .await
        .map_err(|_| "handshake timed out".to_string())?
        .map_err(|cause| format!("handshake: {cause}"))?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificates = certificates.iter().map(|certificate| certificate.clone().into_owned()).collect();
    let session = Arc::new(handler.open(Peer { address, certificates }));
    let service = service_fn(move |request| answer(handler.clone(), session.clone(), request));
    let connection = protocol.serve_connection_with_upgrades(TokioIo::new(stream), service);
    watcher.watch(connection).await.map_err(|cause| cause.to_string())
}

async fn answer<H: Handler>(
    handler: Arc<H>,
    session: Arc<H::Session>,
    request: http::Request<Incoming>,
) -> Result<http::Response<Body>, BoxError> {
    let headless = request.method() == http::Method::HEAD;
    let request = request.map(|body| body.map_err(BoxError::from).boxed_unsync());
    let response = handler.handle(session, request).await;
    // HTTP/2 clients take a body that follows the head of such an answer for a fault.
    Ok(if headless { without_body(response) } else { response })
}

/// Only the head, which still says how long the body would be.
fn without_body(response: http::Response<Body>) -> http::Response<Body> {
    let (mut head, body) = response.into_parts();
    if let Some(bytes) = http_body::Body::size_hint(&body).exact() {
        head.headers.entry(http::header::CONTENT_LENGTH).or_insert(bytes.into());
    }
    http::Response::from_parts(head, crate::empty())
}
