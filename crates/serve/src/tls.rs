//! The server's side of TLS: certificates that can be exchanged while serving, chosen by server name, and
//! client certificates that are asked for but never demanded.
//!
//! A client certificate that does not verify does not end the handshake: whether it is acceptable is a question
//! of authentication, which answers with a status the client can show, not with a broken connection.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The text is not PEM with what is needed.
    #[error("read {what} from PEM: {cause}")]
    Pem {
        /// Certificate or key.
        what: &'static str,
        /// What the parser says.
        cause: String,
    },
    /// Key and certificate do not fit, or the algorithm is not supported.
    #[error("use certificate")]
    Certificate(#[from] rustls::Error),
    /// The certificate authorities cannot be used to verify clients.
    #[error("use client certificate authorities: {0}")]
    Roots(String),
}

/// What a listener needs for TLS. Cheap to clone; all clones share the certificates.
#[derive(Clone)]
pub struct ServerTls {
    certificates: Arc<Certificates>,
    clients: Arc<OptionalClients>,
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// A server with one certificate chain and key (PEM), asking for client certificates of `client_roots`
    /// (PEM, may be empty).
    pub fn new(chain_pem: &str, key_pem: &str, client_roots: &str) -> Result<Self, TlsError> {
        let provider = Arc::new(default_provider());
        let default = certified(&provider, chain_pem, key_pem)?;
        let certificates = Arc::new(Certificates {
            provider: provider.clone(),
            current: RwLock::new(Chosen { default, by_name: HashMap::new() }),
        });
        let clients = Arc::new(OptionalClients {
            provider: provider.clone(),
            inner: RwLock::new(verifier(&provider, client_roots)?),
        });
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients.clone())
            .with_cert_resolver(certificates.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { certificates, clients, config: Arc::new(config) })
    }

    /// Exchanges the default certificate: new connections use it, open ones go on.
    pub fn replace(&self, chain_pem: &str, key_pem: &str) -> Result<(), TlsError> {
        let certified = certified(&self.certificates.provider, chain_pem, key_pem)?;
        write(&self.certificates.current).default = certified;
        Ok(())
    }

    /// Uses this certificate for connections that ask for `server_name`.
    pub fn replace_for(&self, server_name: &str, chain_pem: &str, key_pem: &str) -> Result<(), TlsError> {
        let certified = certified(&self.certificates.provider, chain_pem, key_pem)?;
        write(&self.certificates.current).by_name.insert(server_name.to_ascii_lowercase(), certified);
        Ok(())
    }

    /// Exchanges the authorities whose client certificates are believed.
    pub fn replace_client_roots(&self, client_roots: &str) -> Result<(), TlsError> {
        let inner = verifier(&self.clients.provider, client_roots)?;
        *write(&self.clients.inner) = inner;
        Ok(())
    }

    /// Whether the chain leads to one of the client authorities now. The reason is the verifier's.
    pub fn verify_client(&self, chain: &[CertificateDer<'static>]) -> Result<(), rustls::Error> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(rustls::Error::NoCertificatesPresented);
        };
        match &*read(&self.clients.inner) {
            Some(inner) => inner.verify_client_cert(leaf, intermediates, UnixTime::now()).map(|_| ()),
            None => Err(rustls::Error::General("no client certificate authority is configured".into())),
        }
    }

    /// The rustls configuration a TLS acceptor takes.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn certified(
    provider: &Arc<CryptoProvider>,
    chain_pem: &str,
    key_pem: &str,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|cause| TlsError::Pem { what: "certificate chain", cause: cause.to_string() })?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
        .map_err(|cause| TlsError::Pem { what: "private key", cause: cause.to_string() })?;
    Ok(Arc::new(CertifiedKey::from_der(chain, key, provider)?))
}

fn verifier(
    provider: &Arc<CryptoProvider>,
    roots_pem: &str,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots_pem.as_bytes()) {
        let root =
            root.map_err(|cause| TlsError::Pem { what: "client authority", cause: cause.to_string() })?;
        roots.add(root)?;
    }
    if roots.is_empty() {
        return Ok(None);
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map(Some)
        .map_err(|cause| TlsError::Roots(cause.to_string()))
}

struct Chosen {
    default: Arc<CertifiedKey>,
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

struct Certificates {
    provider: Arc<CryptoProvider>,
    current: RwLock<Chosen>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificates")
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = read(&self.current);
        let named = hello.server_name().and_then(|name| current.by_name.get(&name.to_ascii_lowercase()));
        Some(named.unwrap_or(&current.default).clone())
    }
}

struct OptionalClients {
    provider: Arc<CryptoProvider>,
    inner: RwLock<Option<Arc<dyn ClientCertVerifier>>>,
}

impl std::fmt::Debug for OptionalClients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OptionalClients")
    }
}

impl ClientCertVerifier for OptionalClients {
    fn offer_client_auth(&self) -> bool {
        read(&self.inner).is_some()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let schemes = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, schemes)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let schemes = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
