//! TLS of the ingress: the certificate is chosen by the name the client asks for.

use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::Shared;

/// A Secret holds no usable certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// It is not PEM.
    #[error("read the certificate or key as PEM")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// The key does not work, or does not fit.
    #[error("use the key with its certificate")]
    Key(#[from] rustls::Error),
}

/// A certificate chain and its key, both PEM.
pub fn certified_key(chain: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, CertificateError> {
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key)?;
    let made = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())?;
    Ok(Arc::new(made))
}

struct ByName(Arc<Shared>);

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByName")
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let state = self.0.state();
        let secret = hello.server_name().and_then(|n| state.routes.certificate(n));
        secret.and_then(|s| state.certificates.get(s).cloned()).or_else(|| state.fallback.clone())
    }
}

pub(super) fn acceptor(shared: Arc<Shared>) -> tokio_rustls::TlsAcceptor {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)
        .expect("the provider has the default protocol versions");
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(ByName(shared)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    tokio_rustls::TlsAcceptor::from(Arc::new(config))
}
