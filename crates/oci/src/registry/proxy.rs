//! The machine's HTTP proxy, by the usual variables: `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`, in capitals or
//! small letters. This machine itself is never reached through a proxy.

use super::Fault;
use super::http::Origin;
use base64::Engine;
use http::Uri;
use std::net::IpAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes of a proxy's answer to CONNECT.
const ANSWER_MAX: usize = 16 << 10;

/// What the variables say.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    https: Option<Proxy>,
    http: Option<Proxy>,
    not_for: Vec<String>,
}

/// One proxy.
#[derive(Clone)]
pub struct Proxy {
    /// Where it listens; never over TLS.
    pub origin: Origin,
    /// Value of `Proxy-Authorization`.
    pub authorization: Option<String>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl Proxies {
    /// Of this process.
    pub fn of_process() -> Result<Self, Fault> {
        Self::of(|name| std::env::var(name).ok())
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Fault> {
        let get = |name: &str| {
            let value = variable(name).or_else(|| variable(&name.to_lowercase()));
            value.map(|v| v.trim().to_owned()).filter(|v| !v.is_empty())
        };
        let proxy = |name: &str| get(name).map(|text| parse(name, &text)).transpose();
        let not_for = get("NO_PROXY").unwrap_or_default();
        let not_for = not_for.split(',').map(|p| p.trim().to_ascii_lowercase()).filter(|p| !p.is_empty());
        Ok(Self { https: proxy("HTTPS_PROXY")?, http: proxy("HTTP_PROXY")?, not_for: not_for.collect() })
    }

    /// The proxy on the way to `origin`.
    pub fn towards(&self, origin: &Origin) -> Option<&Proxy> {
        let proxy = if origin.tls { self.https.as_ref() } else { self.http.as_ref() };
        proxy.filter(|_| !origin.is_loopback() && !self.not_for.iter().any(|p| excludes(p, origin)))
    }
}

fn parse(name: &str, text: &str) -> Result<Proxy, Fault> {
    let fail = |why: &str| Fault::Setup(format!("the variable {name} {why}"));
    let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url: Uri = whole.parse().map_err(|_| fail("is no address"))?;
    let origin = Origin::of(&url).map_err(|_| fail("is no address of an HTTP proxy"))?;
    if origin.tls {
        return Err(fail("names a proxy over TLS, which is not supported: use http://"));
    }
    let user = url.authority().and_then(|a| a.as_str().rsplit_once('@')).map(|(user, _)| unescape(user));
    let encoded = user.map(|u| base64::engine::general_purpose::STANDARD.encode(u));
    Ok(Proxy { origin, authorization: encoded.map(|e| format!("Basic {e}")) })
}

fn unescape(text: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| *first == b'%');
        let byte = hex.and_then(|h| u8::from_str_radix(std::str::from_utf8(h).ok()?, 16).ok());
        out.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    out
}

/// Whether an entry of `NO_PROXY` covers a host: `*`, an address, a range, a domain with what is below it.
fn excludes(entry: &str, origin: &Origin) -> bool {
    if entry == "*" {
        return true;
    }
    let host = origin.host.to_ascii_lowercase();
    if let (Some((network, bits)), Ok(address)) = (entry.split_once('/'), host.parse::<IpAddr>()) {
        return matches!((network.parse(), bits.parse()), (Ok(network), Ok(bits)) if within(address, network, bits));
    }
    let (entry, port) = match entry.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') => (name, port.parse::<u16>().ok()),
        _ => (entry, None),
    };
    let name = entry.trim_start_matches('*').trim_start_matches('.');
    let covered = host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'));
    covered && !name.is_empty() && port.is_none_or(|p| p == origin.port)
}

fn within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let (a, n, width) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (u128::from(a.to_bits()), u128::from(n.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(n)) => (a.to_bits(), n.to_bits(), 128),
        _ => return false,
    };
    let shift = width - bits.min(width);
    shift == 128 || a >> shift == n >> shift
}

/// Asks the proxy at the other end of `tcp` for a way to `origin`.
pub async fn tunnel(proxy: &Proxy, origin: &Origin, tcp: &mut TcpStream) -> Result<(), Fault> {
    let at = if origin.host.contains(':') {
        format!("[{}]:{}", origin.host, origin.port)
    } else {
        origin.to_string()
    };
    let authorization = proxy.authorization.as_ref();
    let authorization = authorization.map_or(String::new(), |a| format!("Proxy-Authorization: {a}\r\n"));
    let ask = format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n{authorization}\r\n");
    let broken = |e: std::io::Error| Fault::Broken(format!("the proxy {} broke off: {e}", proxy.origin));
    tcp.write_all(ask.as_bytes()).await.map_err(broken)?;
    let mut head = Vec::new();
    // Byte by byte, because what follows the head belongs to the tunnel.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > ANSWER_MAX {
            return Err(Fault::protocol(format!("the proxy {} answers without end", proxy.origin)));
        }
        head.push(tcp.read_u8().await.map_err(broken)?);
    }
    let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
    match line.split(' ').nth(1).and_then(|s| s.parse::<u16>().ok()) {
        Some(200..=299) => Ok(()),
        Some(502..=504) => Err(Fault::Unreachable(format!("the proxy {} answered {line:?}", proxy.origin))),
        _ => Err(Fault::Setup(format!("the proxy {} answered {line:?}", proxy.origin))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Origin {
        Origin::of(&url.parse().expect("url")).expect("origin")
    }

    /// What the proxy says to CONNECT, and what comes of it.
    #[tokio::test]
    async fn tunnels() {
        for (answer, want) in [
            ("HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n", ""),
            ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407"),
            ("HTTP/1.1 502 Bad Gateway\r\n\r\n", "502"),
            ("HTTP/1.1 200", "broke off"),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listen");
            let origin =
                Origin { tls: false, ..of(&format!("http://{}", listener.local_addr().expect("address"))) };
            let proxy = Proxy { origin: origin.clone(), authorization: Some("Basic x".into()) };
            let server = async {
                let (mut tcp, _) = listener.accept().await.expect("accept");
                let mut ask = vec![0; 1024];
                let length = tcp.read(&mut ask).await.expect("read");
                tcp.write_all(answer.as_bytes()).await.expect("write");
                String::from_utf8_lossy(&ask[..length]).into_owned()
            };
            let client = async {
                let mut tcp =
                    TcpStream::connect(listener.local_addr().expect("address")).await.expect("connect");
                tunnel(&proxy, &of("https://[fd00::1]"), &mut tcp).await
            };
            let (ask, done) = tokio::join!(server, client);
            assert_eq!(
                ask,
                "CONNECT [fd00::1]:443 HTTP/1.1\r\nHost: [fd00::1]:443\r\nProxy-Authorization: Basic x\r\n\r\n"
            );
            match done {
                Ok(()) => assert_eq!(want, ""),
                Err(fault) => assert!(!want.is_empty() && fault.to_string().contains(want), "{fault}"),
            }
        }
    }

    #[test]
    fn who_goes_through_a_proxy() {
        let proxies = Proxies::of(|name| match name {
            "https_proxy" => Some("http://u%40x:p@proxy.example:3128".into()),
            "HTTP_PROXY" => Some("10.0.0.1:80".into()),
            "NO_PROXY" => Some("internal.example, .svc,10.0.0.0/8,r.io:5000,*.lan".into()),
            _ => None,
        });
        let proxies = proxies.expect("proxies");
        for (url, want) in [
            ("https://r.io", Some("proxy.example:3128")),
            ("http://r.io", Some("10.0.0.1:80")),
            ("https://r.io:5000", None),
            ("https://localhost:1", None),
            ("https://[::1]:1", None),
            ("https://internal.example", None),
            ("https://a.internal.example", None),
            ("https://notinternal.example", Some("proxy.example:3128")),
            ("https://x.svc", None),
            ("https://x.lan", None),
            ("http://10.9.9.9", None),
            ("http://11.9.9.9", Some("10.0.0.1:80")),
        ] {
            let got = proxies.towards(&of(url)).map(|p| p.origin.to_string());
            assert_eq!(got.as_deref(), want, "{url}");
        }
        let user = proxies.towards(&of("https://r.io")).and_then(|p| p.authorization.clone());
        assert_eq!(user.as_deref(), Some("Basic dUB4OnA="));
        assert!(Proxies::of(|_| Some("https://p".into())).is_err());
        assert!(Proxies::of(|_| None).expect("none").towards(&of("https://r.io")).is_none());
    }
}
