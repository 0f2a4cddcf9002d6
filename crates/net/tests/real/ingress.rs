//! The ingress proxy between real clients and servers on loopback.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use net::ingress::{Ingress, State, certified_key};
use netplan::routes::{Lookup, RouteTable};
use netplan::services::NodeFacts;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Services by name, with their backends' addresses.
struct Services(HashMap<&'static str, Vec<SocketAddr>>);

impl Lookup for Services {
    fn service(&self, _: &str, name: &str) -> Option<Arc<Service>> {
        let value = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80, "name": "http"}]}});
        self.0.contains_key(name).then(|| Arc::new(serde_json::from_value(value).unwrap()))
    }

    fn slices(&self, _: &str, name: &str) -> Vec<Arc<EndpointSlice>> {
        let one = |a: &SocketAddr| {
            let value = json!({"metadata": {}, "addressType": "IPv4",
                "ports": [{"name": "http", "port": a.port(), "protocol": "TCP"}],
                "endpoints": [{"addresses": [a.ip().to_string()]}]});
            Arc::new(serde_json::from_value(value).unwrap())
        };
        self.0.get(name).into_iter().flatten().map(one).collect()
    }
}

fn rule(host: &str, paths: &[(&str, &str, &str)]) -> Value {
    let paths: Vec<Value> = paths
        .iter()
        .map(|(kind, path, service)| {
            json!({"pathType": kind, "path": path,
                "backend": {"service": {"name": service, "port": {"name": "http"}}}})
        })
        .collect();
    json!({"host": host, "http": {"paths": paths}})
}

fn routes(services: &Services, rules: &[Value]) -> RouteTable {
    let ingress = json!({"metadata": {"name": "i", "namespace": "d"},
        "spec": {"rules": rules, "tls": [{"hosts": ["*.secure.test"], "secretName": "cert"}]}});
    let ingress = Arc::new(serde_json::from_value(ingress).unwrap());
    let table = RouteTable::compile(&[ingress], services, &NodeFacts::default());
    assert_eq!(table.why, Vec::<String>::new());
    table
}

/// A server that answers with its name, the path and what it was told of the client; upgrades become an echo.
async fn backend(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut s, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut got = Vec::new();
                let mut b = [0; 4096];
                while !got.windows(4).any(|w| w == b"\r\n\r\n") {
                    let n = s.read(&mut b).await.unwrap_or(0);
                    if n == 0 {
                        return;
                    }
                    got.extend_from_slice(&b[..n]);
                }
                let head = String::from_utf8_lossy(&got).to_lowercase();
                if head.contains("upgrade: echo") {
                    let ok =
                        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
                    s.write_all(ok.as_bytes()).await.unwrap();
                    let n = s.read(&mut b).await.unwrap();
                    s.write_all(&b[..n]).await.unwrap();
                    return;
                }
                let field = |n: &str| {
                    let line = head.lines().find(|l| l.starts_with(n));
                    line.and_then(|l| l.split_once(": ")).map_or("-", |(_, v)| v).to_owned()
                };
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                let (client, proto) = (field("x-forwarded-for"), field("x-forwarded-proto"));
                let text = format!("{name} {path} {} {client} {proto}", field("host"));
                let head =
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", text.len());
                let _ = s.write_all((head + &text).as_bytes()).await;
            });
        }
    });
    at
}

/// An address where nothing listens.
async fn nowhere() -> SocketAddr {
    let l = TcpListener::bind("127.0.0.1:0").await.unwrap();
    l.local_addr().unwrap()
}

async fn get(at: SocketAddr, host: &str, path: &str) -> String {
    let mut s = TcpStream::connect(at).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    s.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    s.read_to_string(&mut text).await.unwrap();
    let status = text.split(' ').nth(1).unwrap_or_default().to_owned();
    format!("{status} {}", text.split("\r\n\r\n").nth(1).unwrap_or_default().trim())
}

#[tokio::test]
async fn hosts_and_paths_lead_to_their_backends() {
    let (web, api, wild) = (backend("web").await, backend("api").await, backend("wild").await);
    let services = Services(HashMap::from([
        ("web", vec![web]),
        ("api", vec![api]),
        ("wild", vec![wild]),
        ("down", vec![nowhere().await]),
        ("half", vec![nowhere().await, api, nowhere().await]),
        ("empty", vec![]),
    ]));
    let rules = [
        rule("shop.test", &[("Prefix", "/", "web"), ("Prefix", "/api", "api"), ("Exact", "/api/x", "wild")]),
        rule("*.wild.test", &[("ImplementationSpecific", "/", "wild")]),
        rule(
            "bad.test",
            &[("Prefix", "/down", "down"), ("Prefix", "/empty/", "empty"), ("Prefix", "/half", "half")],
        ),
    ];
    let mut ingress = Ingress::new();
    let at = ingress.listen_http("127.0.0.1:0".parse().unwrap()).await.unwrap();
    assert_eq!(get(at, "shop.test", "/").await, "404 default backend - 404");
    ingress.set(State { routes: routes(&services, &rules), ..State::default() });
    let table = [
        ("shop.test", "/", "200 web / shop.test 127.0.0.1 http"),
        ("SHOP.test:8080", "/apix?q=1", "200 web /apix?q=1 shop.test:8080 127.0.0.1 http"),
        ("shop.test", "/api", "200 api /api shop.test 127.0.0.1 http"),
        ("shop.test", "/api/y", "200 api /api/y shop.test 127.0.0.1 http"),
        ("shop.test", "/api/x", "200 wild /api/x shop.test 127.0.0.1 http"),
        ("a.wild.test", "/z", "200 wild /z a.wild.test 127.0.0.1 http"),
        ("a.b.wild.test", "/z", "404 default backend - 404"),
        ("other.test", "/", "404 default backend - 404"),
        ("bad.test", "/down", "502 the backend cannot be reached"),
        ("bad.test", "/empty", "503 no backend is ready"),
        ("bad.test", "/half", "200 api /half bad.test 127.0.0.1 http"),
        ("bad.test", "/half", "200 api /half bad.test 127.0.0.1 http"),
    ];
    for (host, path, want) in table {
        assert_eq!(get(at, host, path).await, want, "{host}{path}");
    }
    assert!(ingress.counts().retried.load(Ordering::Relaxed) >= 2);
}

#[tokio::test]
async fn upgraded_connections_outlive_a_change_of_routes() {
    let services = Services(HashMap::from([("web", vec![backend("web").await])]));
    let mut ingress = Ingress::new();
    let at = ingress.listen_http("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let all = [rule("shop.test", &[("Prefix", "/", "web")])];
    ingress.set(State { routes: routes(&services, &all), ..State::default() });
    let mut s = TcpStream::connect(at).await.unwrap();
    s.write_all(b"GET /ws HTTP/1.1\r\nhost: shop.test\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n")
        .await
        .unwrap();
    let mut b = [0; 1024];
    let n = s.read(&mut b).await.unwrap();
    let head = String::from_utf8_lossy(&b[..n]).to_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: echo"), "{head}");
    ingress.set(State::default());
    s.write_all(b"still here").await.unwrap();
    let n = s.read(&mut b).await.unwrap();
    assert_eq!(&b[..n], b"still here");
    assert_eq!(get(at, "shop.test", "/").await, "404 default backend - 404");
}

#[tokio::test]
async fn no_request_is_lost_while_routes_change() {
    let services = Services(HashMap::from([("web", vec![backend("web").await, backend("web").await])]));
    let mut ingress = Ingress::new();
    let at = ingress.listen_http("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let all = [rule("shop.test", &[("Prefix", "/", "web")])];
    let set = || ingress.set(State { routes: routes(&services, &all), ..State::default() });
    set();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn(async move {
                for _ in 0..50 {
                    assert_eq!(get(at, "shop.test", "/").await, "200 web / shop.test 127.0.0.1 http");
                }
            })
        })
        .collect();
    while !clients.iter().all(tokio::task::JoinHandle::is_finished) {
        set();
        tokio::task::yield_now().await;
    }
    for c in clients {
        c.await.unwrap();
    }
}

#[tokio::test]
async fn names_choose_certificates_and_http2_is_spoken() {
    let services = Services(HashMap::from([("web", vec![backend("web").await])]));
    let mut ingress = Ingress::new();
    let at = ingress.listen_https("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["a.secure.test".to_owned()]).unwrap();
    let pair =
        certified_key(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes()).unwrap();
    ingress.set(State {
        routes: routes(&services, &[rule("a.secure.test", &[("Prefix", "/", "web")])]),
        certificates: HashMap::from([("d/cert".to_owned(), pair)]),
        fallback: None,
    });
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let connect = async |name: &'static str| {
        connector.connect(name.try_into().unwrap(), TcpStream::connect(at).await.unwrap()).await
    };
    assert!(connect("b.other.test").await.is_err());
    let stream = connect("a.secure.test").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let io = TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request =
        hyper::Request::get("https://a.secure.test/two").body(Empty::<bytes::Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let text = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(&text[..], b"web /two a.secure.test 127.0.0.1 https");
}
