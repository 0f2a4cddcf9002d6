//! One connection to the server: requests one after the other.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use client::{Config, Identity};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::BenchError;

/// Where the server is and how to speak to it.
pub struct Endpoint {
    authority: String,
    name: ServerName<'static>,
    tls: TlsConnector,
    token: Option<String>,
}

fn io<E: Into<Box<dyn std::error::Error + Send + Sync>>>(what: &'static str) -> impl FnOnce(E) -> BenchError {
    move |source| BenchError::Io { what, source: source.into() }
}

impl Endpoint {
    /// Reads the current context of a kubeconfig.
    pub fn from_kubeconfig(path: &Path) -> Result<Endpoint, BenchError> {
        let config = Config::from_kubeconfig(path, None)?;
        let server = config.servers.first().cloned().unwrap_or_default();
        let authority = server.trim_start_matches("https://").trim_end_matches('/').to_owned();
        let host = authority.rsplit_once(':').map_or(authority.as_str(), |(host, _)| host);
        let name = ServerName::try_from(host.to_owned()).map_err(io("read the server's name"))?;
        let mut roots = rustls::RootCertStore::empty();
        if let Some(ca) = &config.ca {
            for certificate in CertificateDer::pem_slice_iter(&ca.read()?) {
                let certificate = certificate.map_err(io("read the authority"))?;
                roots.add(certificate).map_err(io("read the authority"))?;
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io("set up TLS"))?
            .with_root_certificates(roots);
        let mut token = None;
        let tls = match &config.identity {
            Identity::Certificate { certificate, key } => {
                let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate.read()?).collect();
                let key = PrivateKeyDer::from_pem_slice(&key.read()?).map_err(io("read the key"))?;
                builder
                    .with_client_auth_cert(chain.map_err(io("read the certificate"))?, key)
                    .map_err(io("use the certificate"))?
            }
            Identity::Token(material) => {
                token = Some(String::from_utf8_lossy(&material.read()?).trim().to_owned());
                builder.with_no_client_auth()
            }
            Identity::Anonymous => builder.with_no_client_auth(),
        };
        Ok(Endpoint { authority, name, tls: TlsConnector::from(Arc::new(tls)), token })
    }

    /// Opens a connection.
    pub async fn connect(self: &Arc<Self>) -> Result<Worker, BenchError> {
        let tcp = TcpStream::connect(&self.authority).await.map_err(io("connect"))?;
        tcp.set_nodelay(true).map_err(io("connect"))?;
        let tls = self.tls.connect(self.name.clone(), tcp).await.map_err(io("shake hands"))?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(io("speak HTTP"))?;
        tokio::spawn(connection);
        Ok(Worker { endpoint: Arc::clone(self), sender })
    }
}

/// One connection.
pub struct Worker {
    endpoint: Arc<Endpoint>,
    sender: SendRequest<Full<Bytes>>,
}

impl Worker {
    /// Sends a request and reads the whole answer; gives its size. An answer outside 2xx is an error.
    pub async fn call(
        &mut self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<usize, BenchError> {
        let what = format!("{method} {path}");
        let (status, mut body) = self.open(method, path, content_type, body).await?;
        if !status.is_success() {
            let text = body.collect().await.map_err(io("read the answer"))?.to_bytes();
            let body = String::from_utf8_lossy(&text).chars().take(400).collect();
            return Err(BenchError::Refused { what, status: status.as_u16(), body });
        }
        let mut size = 0;
        while let Some(frame) = body.frame().await {
            size += frame.map_err(io("read the answer"))?.data_ref().map_or(0, Bytes::len);
        }
        Ok(size)
    }

    /// Sends a request and gives the answer as it arrives.
    pub async fn open(
        &mut self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Incoming), BenchError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.endpoint.authority)
            .header("user-agent", "kutter-bench")
            .header("accept", "application/json")
            .header("content-type", content_type);
        if let Some(token) = &self.endpoint.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).map_err(io("build the request"))?;
        self.sender.ready().await.map_err(io("wait for the connection"))?;
        let response = self.sender.send_request(request).await.map_err(io("send the request"))?;
        Ok((response.status(), response.into_body()))
    }
}
