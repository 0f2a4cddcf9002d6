//! The transport over the network: one HTTP/2 connection for everything, HTTP/1.1 where the server knows no
//! better.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderValue};
use http::{Request, Response, Uri};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::{Body, Config, ConfigError, Identity, Transport, TransportError, tls};

/// How long a connection may take, TLS included.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// How long the server may think; it gives up on most requests itself after 60 seconds.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(65);
/// How long an answer that is not a watch may stall.
const STALL_TIME_MAX: Duration = Duration::from_secs(60);
/// How often a quiet connection with requests on it is probed, and how long the probe may take.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIME_MAX: Duration = Duration::from_secs(15);
/// Token files are read anew after this time.
const TOKEN_AGE_MAX: Duration = Duration::from_secs(60);
/// Idle HTTP/1.1 connections that are kept.
const IDLE_MAX: usize = 32;

type H2 = http2::SendRequest<Full<Bytes>>;
type H1 = http1::SendRequest<Full<Bytes>>;

/// One connection, ready for a request.
enum Connection {
    Http2(H2),
    Http1(H1),
}

struct Server {
    host: String,
    port: u16,
    tls: bool,
    /// What the server calls itself in `Host`.
    authority: HeaderValue,
    /// What comes before the path, for servers behind a gateway.
    prefix: String,
}

#[derive(Default)]
struct Pool {
    http2: Option<(H2, usize)>,
    http1: Vec<(H1, usize)>,
}

/// Speaks to one of several servers over TLS or plain TCP.
pub struct HttpsTransport {
    config: Config,
    servers: Vec<Server>,
    /// The server that answered last.
    preferred: AtomicUsize,
    pool: Mutex<Pool>,
    /// Held while connecting, so that many requests at once make one connection.
    connecting: tokio::sync::Mutex<()>,
    token: Mutex<Option<(Instant, HeaderValue)>>,
}

impl HttpsTransport {
    /// Checks the configuration; connects on first use.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        let servers = config.servers.iter().map(|s| Server::parse(s)).collect::<Result<Vec<_>, _>>()?;
        if servers.is_empty() {
            return Err(ConfigError::Invalid("no server address is configured".to_owned()));
        }
        if servers.iter().any(|s| s.tls) {
            tls::client_config(&config)?;
        }
        Ok(Self {
            config,
            servers,
            preferred: AtomicUsize::new(0),
            pool: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            token: Mutex::default(),
        })
    }

    /// Forgets connections and tokens, so that the next request uses renewed certificates. Requests under
    /// way go on.
    pub fn reset(&self) {
        *self.pool.lock() = Pool::default();
        *self.token.lock() = None;
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Body>, TransportError> {
        let endless = is_endless(request.uri());
        let (mut parts, body) = request.into_parts();
        if let Some(value) = self.authorization()? {
            parts.headers.insert(AUTHORIZATION, value);
        }
        // A pooled connection may turn out to be closed before it carried anything; then a new one is tried.
        let mut fresh = false;
        loop {
            let (connection, index) = self.connection(fresh).await?;
            let server = &self.servers[index];
            let request =
                server.address(parts.clone(), body.clone(), matches!(connection, Connection::Http2(_)))?;
            let sent = timeout(ANSWER_TIME_MAX, self.send_on(connection, index, request)).await;
            match sent {
                Err(_) => {
                    self.reset();
                    let what = format!("{} did not answer within {ANSWER_TIME_MAX:?}", server.host);
                    return Err(TransportError { what, source: None });
                }
                Ok(Ok(response)) => return Ok(response.map(|body| bounded(body, endless))),
                Ok(Err(error)) if !fresh && unsent(&error) => fresh = true,
                Ok(Err(error)) => {
                    let what = format!("the connection to {}:{} broke", server.host, server.port);
                    return Err(TransportError { what, source: Some(Box::new(error)) });
                }
            }
        }
    }

    async fn send_on(
        &self,
        connection: Connection,
        index: usize,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<hyper::body::Incoming>, hyper::Error> {
        match connection {
            Connection::Http2(mut sender) => sender.send_request(request).await,
            Connection::Http1(mut sender) => {
                let response = sender.send_request(request).await?;
                let mut pool = self.pool.lock();
                pool.http1.retain(|(s, _)| !s.is_closed());
                if pool.http1.len() < IDLE_MAX {
                    pool.http1.push((sender, index));
                }
                Ok(response)
            }
        }
    }

    /// A pooled connection, or a new one. With `fresh`, pooled HTTP/1.1 connections are passed over.
    async fn connection(&self, fresh: bool) -> Result<(Connection, usize), TransportError> {
        if let Some(found) = self.pooled(fresh) {
            return Ok(found);
        }
        let _one_at_a_time = self.connecting.lock().await;
        if let Some(found) = self.pooled(true) {
            return Ok(found);
        }
        let first = self.preferred.load(Ordering::Relaxed);
        let mut failure = None;
        for offset in 0..self.servers.len() {
            let index = (first + offset) % self.servers.len();
            match self.connect(index).await {
                Ok(connection) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    if let Connection::Http2(sender) = &connection {
                        self.pool.lock().http2 = Some((sender.clone(), index));
                    }
                    return Ok((connection, index));
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| broken("no server is configured", None)))
    }

    fn pooled(&self, http2_only: bool) -> Option<(Connection, usize)> {
        let mut pool = self.pool.lock();
        pool.http2.take_if(|(s, _)| s.is_closed());
        if let Some((sender, index)) = &pool.http2 {
            return Some((Connection::Http2(sender.clone()), *index));
        }
        if http2_only {
            return None;
        }
        let at = pool.http1.iter().position(|(s, _)| s.is_ready())?;
        let (sender, index) = pool.http1.swap_remove(at);
        Some((Connection::Http1(sender), index))
    }

    async fn connect(&self, index: usize) -> Result<Connection, TransportError> {
        let server = &self.servers[index];
        let what = format!("connect to {}:{}", server.host, server.port);
        match timeout(CONNECT_TIME_MAX, self.handshake(server)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(source)) => Err(broken(&what, Some(source))),
            Err(_) => Err(broken(&format!("{what}: no answer within {CONNECT_TIME_MAX:?}"), None)),
        }
    }

    async fn handshake(
        &self,
        server: &Server,
    ) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
        let tcp = TcpStream::connect((server.host.as_str(), server.port)).await?;
        tcp.set_nodelay(true)?;
        if !server.tls {
            return http1_over(TokioIo::new(tcp)).await;
        }
        let config = Arc::new(tls::client_config(&self.config)?);
        let name = self.config.tls_server_name.clone().unwrap_or_else(|| server.host.clone());
        let stream = TlsConnector::from(config).connect(ServerName::try_from(name)?, tcp).await?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return http1_over(TokioIo::new(stream)).await;
        }
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIME_MAX)
            .initial_stream_window_size(2 << 20)
            .initial_connection_window_size(16 << 20)
            .max_header_list_size(1 << 20)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(connection);
        Ok(Connection::Http2(sender))
    }

    /// The `Authorization` header, with token files read anew now and then.
    fn authorization(&self) -> Result<Option<HeaderValue>, TransportError> {
        let Identity::Token(material) = &self.config.identity else { return Ok(None) };
        let mut token = self.token.lock();
        if let Some((read, value)) = &*token
            && read.elapsed() < TOKEN_AGE_MAX
        {
            return Ok(Some(value.clone()));
        }
        let bytes = material.read().map_err(|e| broken("read the bearer token", Some(Box::new(e))))?;
        let text = format!("Bearer {}", String::from_utf8_lossy(&bytes).trim());
        let mut value = HeaderValue::try_from(text)
            .map_err(|e| broken("the bearer token has characters no header can carry", Some(Box::new(e))))?;
        value.set_sensitive(true);
        *token = Some((Instant::now(), value.clone()));
        Ok(Some(value))
    }
}

impl Transport for HttpsTransport {
    fn send(
        &self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Body>, TransportError>> + Send + '_>> {
        Box::pin(self.exchange(request))
    }
}

impl Server {
    fn parse(address: &str) -> Result<Self, ConfigError> {
        let invalid = |why: &str| ConfigError::Invalid(format!("server address {address:?} {why}"));
        let full = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
        let uri: Uri = full.parse().map_err(|_| invalid("is not a URL"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(invalid("is neither https nor http")),
        };
        let authority = uri.authority().ok_or_else(|| invalid("has no host"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let authority =
            HeaderValue::try_from(authority.as_str()).map_err(|_| invalid("has no usable host"))?;
        Ok(Self { host, port, tls, authority, prefix: uri.path().trim_end_matches('/').to_owned() })
    }

    /// Completes a request whose URI has only path and query.
    fn address(
        &self,
        mut parts: http::request::Parts,
        body: Bytes,
        http2: bool,
    ) -> Result<Request<Full<Bytes>>, TransportError> {
        let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
        let mut uri = Uri::builder().path_and_query(format!("{}{path}", self.prefix));
        if http2 {
            uri = uri.scheme(if self.tls { "https" } else { "http" }).authority(self.authority.as_bytes());
        } else {
            parts.headers.insert(HOST, self.authority.clone());
        }
        parts.uri = uri.build().map_err(|e| broken("build the request's URI", Some(Box::new(e))))?;
        Ok(Request::from_parts(parts, Full::new(body)))
    }
}

async fn http1_over<I>(io: I) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(io).await?;
    tokio::spawn(connection.with_upgrades());
    Ok(Connection::Http1(sender))
}

/// Nothing of the request reached the server, so that it may be sent again.
fn unsent(error: &hyper::Error) -> bool {
    error.is_canceled() || error.is_closed()
}

fn broken(what: &str, source: Option<Box<dyn std::error::Error + Send + Sync>>) -> TransportError {
    TransportError { what: what.to_owned(), source }
}

/// Watches, followed logs and proxied connections last as long as they like.
fn is_endless(uri: &Uri) -> bool {
    let query = uri.query().unwrap_or("");
    let asked = query.split('&').any(|p| matches!(p, "watch=true" | "watch=1" | "follow=true" | "follow=1"));
    asked || uri.path().contains("/proxy/")
}

fn bounded(body: hyper::body::Incoming, endless: bool) -> Body {
    let sleep = (!endless).then(|| Box::pin(tokio::time::sleep(STALL_TIME_MAX)));
    Bounded { body, sleep }.boxed_unsync()
}

/// A body that may not stall.
struct Bounded {
    body: hyper::body::Incoming,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = TransportError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TransportError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            if let Some(sleep) = &mut self.sleep {
                sleep.as_mut().reset(tokio::time::Instant::now() + STALL_TIME_MAX);
            }
            let failed = |e| broken("the connection broke within an answer", Some(Box::new(e)));
            return Poll::Ready(frame.map(|f| f.map_err(failed)));
        }
        let stalled = self.sleep.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready());
        if stalled {
            let what = format!("an answer stalled for {STALL_TIME_MAX:?}");
            return Poll::Ready(Some(Err(broken(&what, None))));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
