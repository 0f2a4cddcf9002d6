//! Outgoing HTTP/1.1 requests that may be upgraded: how streams are passed on to kubelets and pods.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{Body, BoxError, TlsError};

/// Time for the connection and its handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a request did not reach the other end.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// No connection.
    #[error("dial tcp {address}: {cause}")]
    Dial {
        /// Whereto.
        address: String,
        /// Why not.
        cause: String,
    },
    /// No answer.
    #[error("request to {address}: {cause}")]
    Request {
        /// Whereto.
        address: String,
        /// Why not.
        cause: String,
    },
}

/// The client's side of TLS: what it shows, and whom it believes.
#[derive(Clone)]
pub struct ClientTls(Arc<ClientConfig>);

impl ClientTls {
    /// Shows `chain` and `key` (PEM; none if empty). Believes servers of `authorities` (PEM), or any if empty.
    pub fn new(authorities: &str, chain: &str, key: &str) -> Result<Self, TlsError> {
        let provider = Arc::new(default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
            let pem = |cause: rustls_pki_types::pem::Error| TlsError::Pem {
                what: "authority",
                cause: cause.to_string(),
            };
            roots.add(root.map_err(pem)?)?;
        }
        let builder = match roots.is_empty() {
            false => builder.with_root_certificates(roots),
            true => builder.dangerous().with_custom_certificate_verifier(trust::anyone(provider)),
        };
        let config = match chain.is_empty() {
            true => builder.with_no_client_auth(),
            false => {
                let pem = |what| {
                    move |cause: rustls_pki_types::pem::Error| TlsError::Pem {
                        what,
                        cause: cause.to_string(),
                    }
                };
                let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(pem("certificate chain"))?;
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(pem("private key"))?;
                builder.with_client_auth_cert(chain, key)?
            }
        };
        Ok(Self(Arc::new(config)))
    }

    /// Tells one from another while both live.
    pub(crate) fn address(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }
}

/// Sends one request on a connection of its own. The answer may be an upgrade (`hyper::upgrade::on`).
pub async fn send(
    host: &str,
    port: u16,
    tls: Option<&ClientTls>,
    request: Request<Body>,
) -> Result<Response<Body>, OutboundError> {
    send_as((host, port), host, tls, request).await
}

/// Like [`send`], to a server that shows its certificate by another name than its address.
pub async fn send_as(
    (host, port): (&str, u16),
    server_name: &str,
    tls: Option<&ClientTls>,
    request: Request<Body>,
) -> Result<Response<Body>, OutboundError> {
    let failed = |cause: hyper::Error| OutboundError::Request {
        address: format!("{host}:{port}"),
        cause: cause.to_string(),
    };
    let mut sender = open((host, port), server_name, tls).await?;
    let response = sender.send_request(request).await.map_err(failed)?;
    Ok(response.map(|body| body.map_err(BoxError::from).boxed_unsync()))
}

/// A new connection.
pub(crate) async fn open(
    (host, port): (&str, u16),
    server_name: &str,
    tls: Option<&ClientTls>,
) -> Result<SendRequest<Body>, OutboundError> {
    let address = format!("{host}:{port}");
    let dial = |cause: String| OutboundError::Dial { address: address.clone(), cause };
    let connect = async {
        let stream = TcpStream::connect((host, port)).await.map_err(|cause| dial(cause.to_string()))?;
        stream.set_nodelay(true).map_err(|cause| dial(cause.to_string()))?;
        let Some(tls) = tls else { return Ok(Either::Plain(stream)) };
        let name = ServerName::try_from(server_name.to_string()).map_err(|cause| dial(cause.to_string()))?;
        let connector = TlsConnector::from(tls.0.clone());
        let secured = connector.connect(name, stream).await.map_err(|cause| dial(cause.to_string()))?;
        Ok(Either::Tls(Box::new(secured)))
    };
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect)
        .await
        .map_err(|_| dial("i/o timeout".to_string()))??;
    let outcome = match stream {
        Either::Plain(stream) => handshake(stream).await,
        Either::Tls(stream) => handshake(*stream).await,
    };
    outcome.map_err(|cause| OutboundError::Request { address: address.clone(), cause: cause.to_string() })
}

enum Either {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<SendRequest<Body>, hyper::Error> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(cause) = connection.with_upgrades().await {
            tracing::debug!(%cause, "outgoing connection ended");
        }
    });
    Ok(sender)
}

/// Passes bytes both ways between two upgraded connections until either ends.
pub fn join(client: hyper::upgrade::OnUpgrade, backend: hyper::upgrade::OnUpgrade) {
    tokio::spawn(async move {
        let (client, backend) = match tokio::try_join!(client, backend) {
            Ok(both) => both,
            Err(cause) => {
                tracing::debug!(%cause, "upgrade for pass-through");
                return;
            }
        };
        let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
        if let Err(cause) = tokio::io::copy_bidirectional(&mut client, &mut backend).await {
            tracing::debug!(%cause, "pass-through ended");
        }
    });
}
