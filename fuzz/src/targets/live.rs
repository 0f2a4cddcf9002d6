//! What answers on a socket, whole: the API server, DNS, the resolver behind it, the ingress.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use apiserver::{ApiServer, Config, Identity};
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use net::dns::{DnsServer, Upstream};
use net::ingress::{Ingress, State, certified_key};
use netplan::routes::{Lookup, RouteTable};
use netplan::services::NodeFacts;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::objects::samples;
use super::{Run, Target, runtime, split_line};

/// The API server.
pub const REQUEST: Target =
    Target { name: "request", what: "requests to the API server", seeds: request_seeds, start: requests };

/// The DNS server.
pub const DNS: Target = Target { name: "dns", what: "DNS questions", seeds: dns_seeds, start: dns };

/// The resolver.
pub const RESOLVER: Target = Target {
    name: "resolver",
    what: "answers of DNS servers upstream",
    seeds: resolver_seeds,
    start: resolver,
};

/// The ingress on the wire.
pub const INGRESS: Target =
    Target { name: "ingress", what: "HTTP and TLS at the ingress", seeds: ingress_seeds, start: ingress };

/// The ingress's routes.
pub const ROUTES: Target = Target {
    name: "routes",
    what: "Ingress objects, hosts and paths",
    seeds: route_seeds,
    start: || Box::new(routes),
};

/// Longer than any answer takes; a watch or a log would go on.
const PATIENCE: Duration = Duration::from_millis(50);

const REQUESTS: &[&str] = &[
    "GET /api/v1/pods?labelSelector=a%3Db,c!%3Dd&fieldSelector=metadata.name%3Dx&limit=1&resourceVersion=0&resourceVersionMatch=NotOlderThan\naccept: application/json;as=Table;v=v1;g=meta.k8s.io\n\n",
    "GET /api/v1/pods?limit=1&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NSwic3RhcnQiOiJhXHUwMDAwIn0\naccept: application/vnd.kubernetes.protobuf\n\n",
    "GET /api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=0&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\n\n",
    "DELETE /api/v1/namespaces/default/configmaps/c?propagationPolicy=Foreground&gracePeriodSeconds=0\ncontent-type: application/json\n\n{\"kind\":\"DeleteOptions\",\"apiVersion\":\"v1\",\"preconditions\":{\"uid\":\"x\"}}",
    "PATCH /api/v1/namespaces/default/configmaps/c?fieldManager=m&force=true\ncontent-type: application/apply-patch+yaml\n\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\ndata:\n  a: b\n",
    "PATCH /api/v1/namespaces/default/configmaps/c\ncontent-type: application/merge-patch+json\n\n{\"data\":{\"a\":null}}",
    "PATCH /api/v1/namespaces/default\ncontent-type: application/strategic-merge-patch+json\n\n{\"metadata\":{\"labels\":{\"a\":\"b\"}}}",
    "PATCH /api/v1/namespaces/default/configmaps/c\ncontent-type: application/json-patch+json\n\n[{\"op\":\"test\",\"path\":\"/data\",\"value\":{}}]",
    "PUT /apis/apps/v1/namespaces/default/deployments/d/scale\n\n{\"kind\":\"Scale\",\"apiVersion\":\"autoscaling/v1\",\"metadata\":{\"name\":\"d\"},\"spec\":{\"replicas\":3}}",
    "POST /api/v1/namespaces/default/pods/p1/eviction\n\n{\"apiVersion\":\"policy/v1\",\"kind\":\"Eviction\",\"metadata\":{\"name\":\"p1\"}}",
    "POST /api/v1/namespaces/default/pods/p1/binding\n\n{\"apiVersion\":\"v1\",\"kind\":\"Binding\",\"metadata\":{\"name\":\"p1\"},\"target\":{\"kind\":\"Node\",\"name\":\"n1\"}}",
    "POST /api/v1/namespaces/default/serviceaccounts/default/token\n\n{\"apiVersion\":\"authentication.k8s.io/v1\",\"kind\":\"TokenRequest\",\"spec\":{\"audiences\":[\"a\"],\"expirationSeconds\":600}}",
    "POST /apis/authorization.k8s.io/v1/subjectaccessreviews\n\n{\"apiVersion\":\"authorization.k8s.io/v1\",\"kind\":\"SubjectAccessReview\",\"spec\":{\"user\":\"u\",\"groups\":[\"g\"],\"resourceAttributes\":{\"verb\":\"get\",\"resource\":\"pods\"}}}",
    "POST /apis/authentication.k8s.io/v1/tokenreviews\n\n{\"apiVersion\":\"authentication.k8s.io/v1\",\"kind\":\"TokenReview\",\"spec\":{\"token\":\"a.b.c\"}}",
    "GET /api/v1/namespaces\nauthorization: Bearer eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJhIn0.AAAA\n\n",
    "GET /api/v1/namespaces/default\nimpersonate-user: u\nimpersonate-group: g\nimpersonate-extra-a%2fb: c\naccept: application/yaml\n\n",
    "GET /apis\naccept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList\naccept-encoding: gzip\nif-none-match: \"x\"\n\n",
    "GET /openapi/v3/apis/apps/v1?hash=0\n\n",
    "DELETE /api/v1/namespaces/default/pods?labelSelector=a\n\n",
];

fn request_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = REQUESTS.iter().map(|text| text.as_bytes().to_vec()).collect();
    let registry = api::Registry::builtin();
    for (kind, text) in samples() {
        let Some(def) = super::objects::of_kind(&registry, kind) else { continue };
        let root = if def.group.is_empty() { "/api".to_string() } else { format!("/apis/{}", def.group) };
        let space = if def.namespaced() { "/namespaces/default" } else { "" };
        seeds.push(
            format!("POST {root}/{}{space}/{}?fieldValidation=Strict\n\n{text}", def.version, def.plural)
                .into_bytes(),
        );
    }
    seeds
}

/// Method and path, headers, an empty line, the body.
fn read_request(input: &[u8]) -> Option<http::Request<serve::Body>> {
    let (first, mut rest) = split_line(input)?;
    let (method, uri) = first.split_once(' ')?;
    let mut request = http::Request::builder().method(method).uri(uri);
    while let Some((line, after)) = split_line(rest) {
        rest = after;
        let Some((name, value)) = line.split_once(": ") else { break };
        request = request.header(name, value);
    }
    let typed = request.headers_ref().is_some_and(|headers| headers.contains_key("content-type"));
    if !typed && !rest.is_empty() {
        request = request.header("content-type", "application/json");
    }
    request.body(serve::full(rest.to_vec())).ok()
}

/// Requests of an administrator, or with the credentials they bring.
fn requests() -> Run {
    let (runtime, dir) = (runtime(), tempfile::tempdir().expect("temporary directory"));
    let config = Config::new(dir.path(), SocketAddr::from(([127, 0, 0, 1], 0)));
    let running = runtime.block_on(ApiServer::start(config)).expect("an API server");
    let admin = Arc::new(Identity::user("fuzz", ["system:masters"]));
    Box::new(move |input| {
        let _ = &dir;
        let Some(request) = read_request(input) else { return };
        let known = (!request.headers().contains_key("authorization")).then_some(&admin);
        runtime.block_on(async {
            let answer = running.server.handle_remote(known, request).await;
            let _ = tokio::time::timeout(PATIENCE, answer.into_body().collect()).await;
        });
    })
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = 7;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message.to_vec().expect("a question")
}

fn dns_seeds() -> Vec<Vec<u8>> {
    use RecordType::{A, AAAA, ANY, PTR, SOA, SRV};
    let names = [
        "web.default.svc.cluster.local.",
        "_http._tcp.web.default.svc.cluster.local.",
        "1.0.0.10.in-addr.arpa.",
        "10-0-0-1.default.pod.cluster.local.",
        "cluster.local.",
        "a.b.c.d.e.f.",
        ".",
    ];
    names.iter().flat_map(|name| [A, AAAA, SRV, PTR, SOA, ANY].map(|kind| question(name, kind))).collect()
}

/// A question of known good follows each input: its answer says that the input was dealt with.
fn dns() -> Run {
    let runtime = runtime();
    let mut index = netplan::dns::Index::new("cluster.local");
    let service: Service = serde_json::from_str(
        r#"{"metadata":{"name":"web","namespace":"default"},"spec":{"clusterIP":"10.0.0.1","clusterIPs":["10.0.0.1"],"ports":[{"name":"http","port":80,"protocol":"TCP"}]}}"#,
    )
    .expect("a Service");
    index.set("default", "web", Some((&service, &[])));
    let (server, socket) = runtime.block_on(async {
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let index = Arc::new(RwLock::new(index));
        let server = DnsServer::start(&[any], index, Upstream::new(&[])).await.expect("a DNS server");
        let socket = UdpSocket::bind(any).await.expect("a socket");
        socket.connect(server.addresses[0]).await.expect("connect");
        (server, socket)
    });
    let mut fence = question("web.default.svc.cluster.local.", RecordType::A);
    let mut turn = 0u16;
    Box::new(move |input| {
        let _ = &server;
        let mut input = input.to_vec();
        input.truncate(1400);
        turn = turn.wrapping_add(2);
        fence[..2].copy_from_slice(&(turn | 1).to_be_bytes());
        if let Some(id) = input.get_mut(..2) {
            id.copy_from_slice(&turn.to_be_bytes());
        }
        runtime.block_on(async {
            let _ = socket.send(&input).await;
            let _ = socket.send(&fence).await;
            let mut buffer = [0; 4096];
            let answered = async {
                while let Ok(count) = socket.recv(&mut buffer).await {
                    if buffer[..count].starts_with(&fence[..2]) {
                        return;
                    }
                }
            };
            let end = Duration::from_secs(5);
            tokio::time::timeout(end, answered).await.expect("the server answers no more");
        });
    })
}

fn resolver_seeds() -> Vec<Vec<u8>> {
    // Flags and counts, then the answer: an address, an alias, a text, the end of a zone.
    let head = |answers: u8| vec![0x81, 0x80, 0, 1, 0, answers, 0, 0, 0, 0];
    let record =
        |kind: u8, data: &[u8]| [&[0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, data.len() as u8], data].concat();
    vec![
        [head(1), record(1, &[1, 2, 3, 4])].concat(),
        [head(2), record(5, &[1, b'a', 0]), record(28, &[0; 16])].concat(),
        [head(1), record(16, b"\x02ab")].concat(),
        [head(1), record(33, &[0, 0, 0, 1, 0, 80, 1, b'a', 0])].concat(),
        vec![0x81, 0x83, 0, 1, 0, 0, 0, 0, 0, 0],
    ]
}

/// The input answers a question, with its id and its name: what a server upstream may say.
fn resolver() -> Run {
    let runtime = runtime();
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let socket = runtime.block_on(UdpSocket::bind(any)).expect("a socket");
    let upstream = Upstream::new(&[socket.local_addr().expect("its address")]);
    let mut turn = 0u64;
    Box::new(move |input| {
        turn += 1;
        let name = Name::from_ascii(format!("n{turn}.example.")).expect("a name");
        runtime.block_on(async {
            let answer = async {
                let mut asked = [0; 512];
                let Ok((count, from)) = socket.recv_from(&mut asked).await else { return };
                // The name ends with a zero byte; type and class follow.
                let end = asked[12..count].iter().position(|byte| *byte == 0).map_or(count, |at| 12 + at + 5);
                let (head, rest) = input.split_at(input.len().min(10));
                let told = [&asked[..2], head, &asked[12..end], rest].concat();
                let _ = socket.send_to(&told[..told.len().min(4096)], from).await;
                std::future::pending::<()>().await;
            };
            let asked = tokio::time::timeout(Duration::from_millis(3), upstream.ask(&name, RecordType::A));
            tokio::select! {
                found = asked => drop(found),
                () = answer => {}
            }
        });
    })
}

fn ingress_seeds() -> Vec<Vec<u8>> {
    let requests = [
        "GET /a/b?c=d HTTP/1.1\r\nHost: shop.localhost:80\r\nConnection: close\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n",
        "POST /api HTTP/1.1\r\nHost: SHOP.localhost.\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi",
        "GET http://shop.localhost/ HTTP/1.0\r\nConnection: upgrade, x\r\nUpgrade: websocket\r\nTE: trailers\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\n\r\n",
    ];
    let preface = b"http\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x12\x01\x05\0\0\0\x01\x82\x86\x84\x41\x0eshop.localhost";
    let plain = requests.iter().map(|text| format!("http\n{text}").into_bytes());
    plain.chain([preface.to_vec(), [&b"https\n"[..], &hello()].concat()]).collect()
}

/// The first message of a TLS client that asks for a name.
fn hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(rustls::DEFAULT_VERSIONS).expect("versions");
    let config = builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let name = "shop.localhost".try_into().expect("a name");
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).expect("write to memory");
    bytes
}

/// One Service with one backend.
struct One(SocketAddr);

impl Lookup for One {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        let text = serde_json::json!({"metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": "10.0.0.1", "ports": [{"name": "http", "port": 80}]}});
        serde_json::from_value(text).ok().map(Arc::new)
    }

    fn slices(&self, namespace: &str, name: &str) -> Vec<Arc<EndpointSlice>> {
        let text = serde_json::json!({"metadata": {"name": name, "namespace": namespace}, "addressType": "IPv4",
            "ports": [{"name": "http", "port": self.0.port(), "protocol": "TCP"}],
            "endpoints": [{"addresses": [self.0.ip().to_string()], "conditions": {"ready": true}}]});
        serde_json::from_value(text).ok().map(Arc::new).into_iter().collect()
    }
}

const INGRESS_TEXT: &str = r#"{"metadata":{"name":"i","namespace":"default"},"spec":{"defaultBackend":{"service":{"name":"s","port":{"number":80}}},"tls":[{"hosts":["shop.localhost","*.x.y"],"secretName":"t"}],"rules":[{"host":"shop.localhost","http":{"paths":[{"path":"/","pathType":"Prefix","backend":{"service":{"name":"s","port":{"name":"http"}}}},{"path":"/api","pathType":"Exact","backend":{"service":{"name":"s","port":{"number":80}}}}]}}]}}"#;

fn compiled(text: &str, backend: SocketAddr) -> Option<RouteTable> {
    let ingress = serde_json::from_str(text).ok()?;
    let node = NodeFacts { name: "n".into(), zone: None, pod_cidrs: Vec::new() };
    Some(RouteTable::compile(&[Arc::new(ingress)], &One(backend), &node))
}

fn ingress() -> Run {
    let runtime = runtime();
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let (ingress, plain, tls) = runtime.block_on(async {
        let backend = TcpListener::bind(any).await.expect("a backend");
        let address = backend.local_addr().expect("its address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = backend.accept().await {
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                    }
                });
            }
        });
        let authority = serve::pki::Authority::generate("fuzz").expect("an authority");
        let subject =
            serve::pki::Subject::server("shop.localhost", vec!["shop.localhost".into()], Vec::new());
        let pair = authority.issue(&subject, Duration::from_secs(3600)).expect("a certificate");
        let key = certified_key(pair.certificate.as_bytes(), pair.key.as_bytes()).expect("a key");
        let mut ingress = Ingress::new();
        let routes = compiled(INGRESS_TEXT, address).expect("routes");
        let certificates = HashMap::from([("default/t".to_string(), key)]);
        ingress.set(State { routes, certificates, fallback: None });
        let plain = ingress.listen_http(any).await.expect("listen");
        let tls = ingress.listen_https(any).await.expect("listen");
        (ingress, plain, tls)
    });
    Box::new(move |input| {
        let _ = &ingress;
        let Some((scheme, bytes)) = split_line(input) else { return };
        let address = if scheme == "https" { tls } else { plain };
        runtime.block_on(async {
            let Ok(mut stream) = TcpStream::connect(address).await else { return };
            // No trace of the connection is to stay in the kernel: there would soon be too many.
            let _ = stream.set_zero_linger();
            let _ = stream.write_all(bytes).await;
            let mut buffer = Vec::new();
            let _ = tokio::time::timeout(Duration::from_millis(2), stream.read_to_end(&mut buffer)).await;
        });
    })
}

fn route_seeds() -> Vec<Vec<u8>> {
    let asked = ["shop.localhost /", "a.x.y /api/", "SHOP.LOCALHOST:80 /api?x"];
    let ingresses = samples().filter(|(kind, _)| *kind == "Ingress").map(|(_, text)| text);
    let all = ingresses.chain([INGRESS_TEXT]);
    all.flat_map(|text| asked.map(|asked| format!("{asked}\n{text}").into_bytes())).collect()
}

fn routes(input: &[u8]) {
    let Some((asked, ingress)) = split_line(input) else { return };
    let (host, path) = asked.split_once(' ').unwrap_or((asked, "/"));
    let Ok(ingress) = std::str::from_utf8(ingress) else { return };
    let Some(routes) = compiled(ingress, ([127, 0, 0, 1], 1).into()) else { return };
    drop(routes.find(host, path));
    drop(routes.certificate(host).cloned());
    assert!(routes.hosts().iter().all(|host| *host == host.to_lowercase()));
}
