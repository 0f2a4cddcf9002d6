//! A real registry on loopback for tests: it serves images built here, writes down what it was asked, and
//! misbehaves on request.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use oci::images::{Images, digest};
use oci::registry::{Expansion, Limits, Times};
use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;

pub const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub const DOCKER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
pub const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
pub const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What the registry was asked.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub query: String,
    pub authorization: Option<String>,
    pub range: Option<String>,
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Close the connection after as many bytes of the body.
    pub cut: Option<usize>,
}

impl Reply {
    pub fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn cut(mut self, at: usize) -> Self {
        self.cut = Some(at);
        self
    }
}

/// Called first for every request, with how many like it (method and path) came before.
pub type Mood = Box<dyn Fn(&Seen, usize) -> Option<Reply> + Send + Sync>;

#[derive(Default)]
struct State {
    blobs: Mutex<HashMap<String, Vec<u8>>>,
    manifests: Mutex<HashMap<String, (String, Vec<u8>)>>,
    seen: Mutex<Vec<Seen>>,
    mood: Mutex<Option<Mood>>,
}

/// A running registry; it ends when dropped.
pub struct Registry {
    pub address: SocketAddr,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Registry {
    pub async fn plain() -> Self {
        Self::start(None).await
    }

    /// Over TLS; answers with the PEM of its authority too.
    pub async fn tls() -> (Self, String) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        (Self::start(Some(Arc::new(config))).await, made.cert.pem())
    }

    async fn start(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let served = state.clone();
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (state, tls) = (served.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(TokioIo::new(tcp), state).await,
                        Some(tls) => {
                            if let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(tcp).await {
                                serve(TokioIo::new(stream), state).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, state, task }
    }

    /// `127.0.0.1:PORT/name`.
    pub fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    pub fn mood(&self, mood: impl Fn(&Seen, usize) -> Option<Reply> + Send + Sync + 'static) {
        *self.state.mood.lock().unwrap() = Some(Box::new(mood));
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    pub fn forget(&self) {
        self.state.seen.lock().unwrap().clear();
    }

    pub fn blob(&self, bytes: &[u8]) -> String {
        let name = digest(bytes);
        self.state.blobs.lock().unwrap().insert(name.clone(), bytes.to_vec());
        name
    }

    pub fn manifest(&self, tag: &str, media: &str, bytes: &[u8]) -> String {
        let name = digest(bytes);
        let mut all = self.state.manifests.lock().unwrap();
        for key in [tag, &name] {
            all.insert(key.to_owned(), (media.to_owned(), bytes.to_vec()));
        }
        name
    }

    /// An image of these layers under a tag; answers with the manifest's digest.
    pub fn image(&self, tag: &str, media: &str, layers: &[Layer]) -> String {
        let (_, manifest) = self.parts(layers);
        self.manifest(tag, media, manifest.to_string().as_bytes())
    }

    /// Uploads layers and configuration; answers with configuration and manifest.
    pub fn parts(&self, layers: &[Layer]) -> (serde_json::Value, serde_json::Value) {
        let config = serde_json::json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": { "Cmd": ["/bin/app"], "Env": null },
            "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|l| &l.diff_id).collect::<Vec<_>>() },
        });
        let described = layers.iter().map(|l| {
            let name = self.blob(&l.blob);
            serde_json::json!({ "mediaType": l.media, "digest": name, "size": l.blob.len() })
        });
        let described: Vec<_> = described.collect();
        let text = config.to_string();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": self.blob(text.as_bytes()), "size": text.len(),
            },
            "layers": described,
        });
        (config, manifest)
    }
}

async fn serve<I>(io: I, state: Arc<State>)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let answer = move |request: Request<Incoming>| {
        let state = state.clone();
        async move { Ok::<_, std::convert::Infallible>(send(state.answer(request).await)) }
    };
    // What a client does to a connection is the client's affair.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(io, hyper::service::service_fn(answer))
        .await;
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Reply {
        let (head, body) = request.into_parts();
        let _ = body.collect().await;
        let header =
            |name| head.headers.get(name).map(|v: &http::HeaderValue| v.to_str().unwrap().to_owned());
        let seen = Seen {
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            authorization: header("authorization"),
            range: header("range"),
        };
        // How clients find out whether this is a registry without TLS.
        if seen.path == "/v2/" {
            return Reply::new(200);
        }
        let before = {
            let mut all = self.seen.lock().unwrap();
            let alike = |s: &&Seen| s.path == seen.path && s.method == seen.method;
            let before = all.iter().filter(alike).count();
            all.push(seen.clone());
            before
        };
        let mood = self.mood.lock().unwrap();
        let reply = mood.as_ref().and_then(|m| m(&seen, before));
        let mut reply = reply.unwrap_or_else(|| self.regular(&seen));
        if seen.method == "HEAD" {
            reply.body.clear();
        }
        reply
    }

    fn regular(&self, seen: &Seen) -> Reply {
        let name = seen.path.rsplit('/').next().unwrap_or_default();
        if seen.path.contains("/manifests/") {
            let all = self.manifests.lock().unwrap();
            let Some((media, bytes)) = all.get(name) else {
                return Reply::new(404)
                    .body(r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#);
            };
            return Reply::new(200)
                .with("content-type", media)
                .with("docker-content-digest", digest(bytes))
                .body(bytes.clone());
        }
        let all = self.blobs.lock().unwrap();
        let Some(bytes) = all.get(name) else { return Reply::new(404) };
        let range = seen.range.as_deref().and_then(|r| r.strip_prefix("bytes="));
        let start = range.and_then(|r| r.trim_end_matches('-').parse::<usize>().ok());
        match start {
            None => Reply::new(200).body(bytes.clone()),
            Some(at) if at < bytes.len() => Reply::new(206)
                .with("content-range", format!("bytes {at}-{}/{}", bytes.len() - 1, bytes.len()))
                .body(&bytes[at..]),
            Some(_) => Reply::new(416),
        }
    }
}

fn send(reply: Reply) -> Response<UnsyncBoxBody<Bytes, std::io::Error>> {
    let mut response = Response::builder().status(StatusCode::from_u16(reply.status).unwrap());
    for (name, value) in &reply.headers {
        response = response.header(name, value);
    }
    let length = reply.body.len();
    let mut parts: Vec<Result<Frame<Bytes>, std::io::Error>> = Vec::new();
    let shown = &reply.body[..reply.cut.unwrap_or(length).min(length)];
    parts.extend(shown.chunks(16 << 10).map(|c| Ok(Frame::data(Bytes::copy_from_slice(c)))));
    if reply.cut.is_some() {
        parts.push(Err(std::io::Error::other("cut")));
    }
    if reply.status != 204 && (reply.cut.is_some() || length > 0) {
        response = response.header("content-length", length);
    }
    // What came before a cut has to leave the server's buffers first.
    let paced = stream::iter(parts).then(|part| async move {
        if part.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        part
    });
    response.body(StreamBody::new(paced).boxed_unsync()).unwrap()
}

/// A layer as it is served.
#[derive(Clone)]
pub struct Layer {
    pub media: &'static str,
    pub blob: Vec<u8>,
    pub diff_id: String,
}

impl Layer {
    /// A layer of files.
    pub fn of(media: &'static str, files: &[(&str, &[u8])]) -> Self {
        Self::packed(media, &tar(files))
    }

    /// A layer out of a tar.
    pub fn packed(media: &'static str, tar: &[u8]) -> Self {
        let blob = match media {
            ZSTD => zstd::encode_all(tar, 3).unwrap(),
            TAR => tar.to_vec(),
            _ => {
                let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                out.write_all(tar).unwrap();
                out.finish().unwrap()
            }
        };
        Self { media, blob, diff_id: digest(tar) }
    }
}

/// A tar of files; names are taken as they are, however bad.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = header(name, tar::EntryType::Regular);
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A tar header with a name as it is.
pub fn header(name: &str, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_mode(0o644);
    header.set_size(0);
    header.set_cksum();
    header
}

/// Bounds for tests: little patience, little room.
pub fn limits() -> Limits {
    let mut limits = Limits {
        attempts: 3,
        pause: Duration::from_millis(1),
        times: Times { connect: Duration::from_secs(20), stall: Duration::from_secs(20) },
        ..Limits::default()
    };
    limits.unpack = Expansion { floor: 8 << 20, ratio: 10 };
    limits
}

/// Images of their own below a directory.
pub fn store(dir: &Path) -> Images {
    let mut images = Images::open(dir).unwrap();
    images.limits = limits();
    images
}
