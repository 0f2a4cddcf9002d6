//! The ingress proxy: hosts and paths to backends, over HTTP/1.1, HTTP/2 and TLS.
//!
//! The route table and the certificates are one immutable value, swapped as a whole: a request sees the old or the
//! new one, and no connection is closed by a change. Backends are pods, addressed directly; one that cannot be
//! reached is passed over for the next.

mod body;
mod forward;
mod tls;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use netplan::routes::RouteTable;
use rustls::sign::CertifiedKey;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

pub use tls::certified_key;

/// The proxy cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("listen for requests on {address}; choose another port for the ingress if it is taken")]
pub struct IngressError {
    /// The address.
    pub address: SocketAddr,
    /// The cause.
    #[source]
    pub source: std::io::Error,
}

/// Routes and certificates, as of one moment.
#[derive(Default)]
pub struct State {
    /// Where requests go.
    pub routes: RouteTable,
    /// Certificates by Secret (`namespace/name`).
    pub certificates: HashMap<String, Arc<CertifiedKey>>,
    /// For names without a certificate.
    pub fallback: Option<Arc<CertifiedKey>>,
}

/// Counts of requests.
#[derive(Debug, Default)]
pub struct IngressCounts {
    /// Answered by a backend.
    pub forwarded: AtomicU64,
    /// Answered with "not found": no rule.
    pub unmatched: AtomicU64,
    /// Answered with an error: no backend, or none that works.
    pub failed: AtomicU64,
    /// Backends passed over because they could not be reached.
    pub retried: AtomicU64,
}

/// Connections at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 10_000;
/// Time a backend has to accept a connection.
const CONNECT_PATIENCE: Duration = Duration::from_millis(1000);
/// Time a client has to send its request head, and to finish its TLS handshake.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);
/// Idle connections kept for each backend.
const IDLE_MAX: usize = 64;

pub(crate) struct Shared {
    state: RwLock<Arc<State>>,
    client: Client<HttpConnector, body::Retained>,
    counts: IngressCounts,
    turn: AtomicUsize,
}

impl Shared {
    pub(crate) fn state(&self) -> Arc<State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The proxy. Dropping it closes the listeners; requests under way end by themselves.
pub struct Ingress {
    shared: Arc<Shared>,
    listeners: Vec<tokio::task::JoinHandle<()>>,
}

impl Default for Ingress {
    fn default() -> Ingress {
        Ingress::new()
    }
}

impl Ingress {
    /// A proxy without routes or listeners.
    pub fn new() -> Ingress {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_PATIENCE));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(IDLE_MAX)
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            // A pooled connection may have been closed by its backend; try again on a fresh one.
            .retry_canceled_requests(true)
            .build(connector);
        let shared = Shared {
            state: RwLock::default(),
            client,
            counts: IngressCounts::default(),
            turn: AtomicUsize::new(0),
        };
        Ingress { shared: Arc::new(shared), listeners: Vec::new() }
    }

    /// Replaces routes and certificates.
    pub fn set(&self, state: State) {
        *self.shared.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state);
    }

    /// Counts of requests.
    pub fn counts(&self) -> &IngressCounts {
        &self.shared.counts
    }

    /// Listens for plain HTTP. Gives the address; port 0 takes a free one.
    pub async fn listen_http(&mut self, address: SocketAddr) -> Result<SocketAddr, IngressError> {
        self.listen(address, None).await
    }

    /// Listens for HTTP over TLS.
    pub async fn listen_https(&mut self, address: SocketAddr) -> Result<SocketAddr, IngressError> {
        let acceptor = tls::acceptor(self.shared.clone());
        self.listen(address, Some(acceptor)).await
    }

    async fn listen(
        &mut self,
        address: SocketAddr,
        tls: Option<tokio_rustls::TlsAcceptor>,
    ) -> Result<SocketAddr, IngressError> {
        let fail = |source| IngressError { address, source };
        let listener = TcpListener::bind(address).await.map_err(fail)?;
        let at = listener.local_addr().map_err(fail)?;
        self.listeners.push(tokio::spawn(accept(self.shared.clone(), listener, tls)));
        Ok(at)
    }
}

impl Drop for Ingress {
    fn drop(&mut self) {
        self.listeners.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, tls: Option<tokio_rustls::TlsAcceptor>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(a) => a,
            Err(error) => {
                // Out of descriptors, or the client is gone already.
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (shared, tls) = (shared.clone(), tls.clone());
        tokio::spawn(async move {
            let _permit = permit;
            match tls {
                None => serve(shared, TokioIo::new(stream), peer, "http").await,
                Some(acceptor) => {
                    let handshake = tokio::time::timeout(HEAD_PATIENCE, acceptor.accept(stream)).await;
                    if let Ok(Ok(stream)) = handshake {
                        serve(shared, TokioIo::new(stream), peer, "https").await;
                    }
                }
            }
        });
    }
}

async fn serve<I>(shared: Arc<Shared>, io: I, peer: SocketAddr, scheme: &'static str)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(256).keep_alive_interval(HEAD_PATIENCE);
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, std::convert::Infallible>(forward::answer(&shared, request, peer, scheme).await) }
    });
    if let Err(error) = builder.serve_connection_with_upgrades(io, service).await {
        tracing::debug!(error, %peer, "a connection ended early");
    }
}
