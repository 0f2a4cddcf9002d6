//! HTTP/1.1 to registries: connections over TLS or plain TCP, kept while a pull lasts, and redirects.
//!
//! One connection carries one answer at a time, so layers that arrive side by side have connections of
//! their own. Credentials follow a redirect only to the same scheme, host and port.

use super::Fault;
use super::config::Registries;
use super::proxy::{self, Proxies};
use super::tls;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue, LOCATION, PROXY_AUTHORIZATION, USER_AGENT};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Redirects that are followed for one request.
const REDIRECTS_MAX: usize = 10;
/// Idle connections kept per server.
const IDLE_MAX: usize = 8;
/// Bytes of an error's body that are read for its message.
const MESSAGE_MAX: usize = 8 << 10;

type Sender = http1::SendRequest<Full<Bytes>>;

/// Where connections lead.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Over TLS.
    pub tls: bool,
    /// Name or address, IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Origin {
    /// The origin of a URL; what is wrong with it otherwise.
    pub fn of(url: &Uri) -> Result<Self, Fault> {
        let tls = match url.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(Fault::protocol(format!("address {url} is neither https nor http"))),
        };
        let host = url.host().filter(|h| !h.is_empty());
        let host = host.ok_or_else(|| Fault::protocol(format!("address {url} names no host")))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { tls, host, port: url.port_u16().unwrap_or(if tls { 443 } else { 80 }) })
    }

    /// True for this machine itself.
    pub fn is_loopback(&self) -> bool {
        let address = self.host.parse::<std::net::IpAddr>();
        self.host == "localhost" || address.is_ok_and(|a| a.is_loopback())
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// GET, HEAD or POST.
    pub method: Method,
    /// Whole address.
    pub url: Uri,
    /// Headers beyond `Host`.
    pub headers: HeaderMap,
    /// For POST.
    pub body: Bytes,
}

impl Ask {
    /// A GET without headers.
    pub fn get(url: Uri) -> Self {
        Self { method: Method::GET, url, headers: HeaderMap::new(), body: Bytes::new() }
    }
}

/// Times that bound a request.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// TCP and TLS.
    pub connect: Duration,
    /// From the request to the head of its answer, and between two parts of an answer.
    pub stall: Duration,
}

/// Connections of one pull.
pub struct Http {
    registries: Arc<Registries>,
    times: Times,
    proxies: Proxies,
    idle: Mutex<HashMap<Origin, Vec<Sender>>>,
}

impl Http {
    /// No connection yet.
    pub fn new(registries: Arc<Registries>, proxies: Proxies, times: Times) -> Self {
        Self { registries, times, proxies, idle: Mutex::default() }
    }

    /// How long an answer may stall.
    pub fn stall(&self) -> Duration {
        self.times.stall
    }

    /// Whether the server at the end of `origin` speaks HTTP without TLS. Nothing secret is said to find out.
    ///
    /// Plain HTTP is tried before TLS, because a server that waits for the end of a line may wait for ever in
    /// the beginning of a handshake, while those that want TLS refuse a request at once.
    pub async fn speaks_plain(&self, origin: &Origin, authority: &str) -> Result<bool, Fault> {
        let url = format!("http://{authority}/v2/");
        let url = url.parse().map_err(|_| Fault::protocol(format!("{url:?} is no address")))?;
        let response = match self.once(origin, &Ask::get(url)).await {
            Ok(response) => response,
            Err(Fault::Broken(_)) => return Ok(false),
            Err(other) => return Err(other),
        };
        if response.status() != StatusCode::BAD_REQUEST {
            return Ok(true);
        }
        // How servers say that they want TLS.
        let text = self.refusal(origin, response).await.to_string();
        Ok(!text.to_lowercase().contains("https"))
    }

    /// Sends a request and follows redirects; answers with the head of a 2xx answer and its body.
    pub async fn send(&self, mut ask: Ask) -> Result<Response<Incoming>, Fault> {
        let first = Origin::of(&ask.url)?;
        for _ in 0..=REDIRECTS_MAX {
            let origin = Origin::of(&ask.url)?;
            let response = self.once(&origin, &ask).await?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if !status.is_redirection() || status == StatusCode::NOT_MODIFIED {
                return Err(self.refusal(&origin, response).await);
            }
            let to = response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
            let to = to.ok_or_else(|| Fault::protocol(format!("{origin} redirects to nowhere")))?;
            let url = join(&ask.url, to)?;
            let next = Origin::of(&url)?;
            if first.tls && !next.tls {
                return Err(Fault::protocol(format!("{origin} redirects from https to http ({next})")));
            }
            if next != origin {
                ask.headers.remove(AUTHORIZATION);
            }
            ask.url = url;
        }
        Err(Fault::protocol(format!("{first} redirects more than {REDIRECTS_MAX} times")))
    }

    async fn once(&self, origin: &Origin, ask: &Ask) -> Result<Response<Incoming>, Fault> {
        // A kept connection may have been closed by the server meanwhile; then a new one is tried.
        if let Some(sender) = self.kept(origin) {
            match self.exchange(origin, sender, ask).await {
                Err(Fault::Broken(_)) => {}
                other => return other,
            }
        }
        let sender = self.connect(origin).await?;
        self.exchange(origin, sender, ask).await
    }

    async fn exchange(
        &self,
        origin: &Origin,
        mut sender: Sender,
        ask: &Ask,
    ) -> Result<Response<Incoming>, Fault> {
        let mut request = Request::new(Full::new(ask.body.clone()));
        *request.method_mut() = ask.method.clone();
        *request.headers_mut() = ask.headers.clone();
        *request.uri_mut() = match self.proxies.towards(origin) {
            // A proxy for plain HTTP is told the whole address.
            Some(proxy) if !origin.tls => {
                let value = proxy.authorization.as_ref().and_then(|a| HeaderValue::try_from(a).ok());
                request.headers_mut().extend(value.map(|v| (PROXY_AUTHORIZATION, v)));
                ask.url.clone()
            }
            _ => {
                let path = ask.url.path_and_query().map_or("/", |p| p.as_str());
                path.parse().map_err(|_| Fault::protocol(format!("path {path:?} is no URL")))?
            }
        };
        let host = ask.url.authority().map_or("", |a| a.as_str());
        let host = host.rsplit('@').next().unwrap_or(host);
        let host = HeaderValue::try_from(host).map_err(|_| Fault::protocol("the host is unusable".into()))?;
        request.headers_mut().insert(HOST, host);
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        match timeout(self.times.stall, sender.send_request(request)).await {
            Err(_) => Err(Fault::Broken(format!("{origin} did not answer in {:?}", self.times.stall))),
            Ok(Err(e)) => Err(Fault::Broken(format!("the connection to {origin} broke: {e}"))),
            Ok(Ok(response)) => {
                self.keep(origin, sender);
                Ok(response)
            }
        }
    }

    fn kept(&self, origin: &Origin) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let list = idle.get_mut(origin)?;
        list.retain(|s| !s.is_closed());
        let at = list.iter().position(http1::SendRequest::is_ready)?;
        Some(list.swap_remove(at))
    }

    fn keep(&self, origin: &Origin, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let list = idle.entry(origin.clone()).or_default();
        list.retain(|s| !s.is_closed());
        if list.len() < IDLE_MAX {
            list.push(sender);
        }
    }

    async fn connect(&self, origin: &Origin) -> Result<Sender, Fault> {
        match timeout(self.times.connect, self.handshake(origin)).await {
            Ok(done) => done,
            Err(_) => {
                let limit = self.times.connect;
                Err(Fault::Unreachable(format!("connect to {origin}: no answer in {limit:?}")))
            }
        }
    }

    async fn handshake(&self, origin: &Origin) -> Result<Sender, Fault> {
        let broken = |e: &dyn std::fmt::Display| Fault::Unreachable(format!("connect to {origin}: {e}"));
        let proxy = self.proxies.towards(origin);
        let first = proxy.map_or(origin, |p| &p.origin);
        let tcp = TcpStream::connect((first.host.as_str(), first.port)).await;
        let mut tcp = tcp.map_err(|e| Fault::Unreachable(format!("connect to {first}: {e}")))?;
        tcp.set_nodelay(true).map_err(|e| broken(&e))?;
        if !origin.tls {
            return over(TokioIo::new(tcp)).await.map_err(|e| broken(&e));
        }
        if let Some(proxy) = proxy {
            proxy::tunnel(proxy, origin, &mut tcp).await?;
        }
        let stream = tls::connect(&self.registries, origin, tcp).await?;
        over(TokioIo::new(stream)).await.map_err(|e| broken(&e))
    }

    /// What an answer that is no success means.
    async fn refusal(&self, origin: &Origin, response: Response<Incoming>) -> Fault {
        let (head, body) = response.into_parts();
        let read = http_body_util::Limited::new(body, MESSAGE_MAX).collect();
        let text = match timeout(self.times.stall, read).await {
            Ok(Ok(all)) => message(&all.to_bytes()),
            _ => String::new(),
        };
        let text = if text.is_empty() {
            format!("{origin} answered {}", head.status)
        } else {
            format!("{origin} answered {}: {text}", head.status)
        };
        let from = origin.to_string();
        Fault::Status { code: head.status.as_u16(), text, from, headers: Box::new(head.headers) }
    }
}

const AGENT: &str = concat!("kutter/", env!("CARGO_PKG_VERSION"));

async fn over<I>(io: I) -> Result<Sender, hyper::Error>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new().max_buf_size(1 << 18).handshake(io).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// The message of a registry's error document, or the text itself when it is a short plain one.
fn message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Document {
        #[serde(default)]
        errors: Vec<One>,
        #[serde(default)]
        details: String,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let text = match serde_json::from_slice::<Document>(body) {
        Ok(document) if !document.errors.is_empty() => {
            let each = document.errors.iter().map(|e| format!("{}: {}", e.code.to_lowercase(), e.message));
            each.collect::<Vec<_>>().join("; ")
        }
        Ok(document) => document.details,
        Err(_) => String::from_utf8_lossy(body).lines().next().unwrap_or_default().to_owned(),
    };
    text.chars().filter(|c| !c.is_control()).take(300).collect::<String>().trim().to_owned()
}

/// The address that `to` means on a page at `base`.
pub fn join(base: &Uri, to: &str) -> Result<Uri, Fault> {
    let to = to.split('#').next().unwrap_or_default();
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base.authority().map_or("", |a| a.as_str());
    let whole = if to.contains("://") && !to.starts_with('/') {
        to.to_owned()
    } else if to.starts_with("//") {
        format!("{scheme}:{to}")
    } else if to.starts_with('/') {
        format!("{scheme}://{authority}{to}")
    } else {
        let path = base.path();
        let folder = path.rfind('/').map_or("/", |i| &path[..=i]);
        format!("{scheme}://{authority}{folder}{to}")
    };
    whole.parse().map_err(|_| Fault::protocol(format!("redirected to {to:?}, which is no URL")))
}

/// Escapes what may not stand in a query's value.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_resolved() {
        let base: Uri = "https://r.example:5000/v2/a/blobs/x?q=1".parse().unwrap();
        for (to, want) in [
            ("https://cdn.example/b", "https://cdn.example/b"),
            ("//cdn.example/b", "https://cdn.example/b"),
            ("/b?x=https://c", "https://r.example:5000/b?x=https://c"),
            ("y", "https://r.example:5000/v2/a/blobs/y"),
        ] {
            assert_eq!(join(&base, to).unwrap().to_string(), want, "{to}");
        }
        assert!(join(&base, "http://[").is_err());
    }

    #[test]
    fn messages_of_registries() {
        let document = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no such tag"}]}"#;
        assert_eq!(message(document), "manifest_unknown: no such tag");
        assert_eq!(
            message(br#"{"details":"incorrect username or password"}"#),
            "incorrect username or password"
        );
        assert_eq!(message(b"busy\n\x1b[31m"), "busy");
    }

    #[test]
    fn escapes() {
        assert_eq!(escape("repository:a/b:pull"), "repository%3Aa%2Fb%3Apull");
    }
}
