//! TLS to registries: the machine's authorities, or those that the configuration names for a host.

use super::Fault;
use super::config::{Registries, Tls};
use super::http::Origin;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where distributions keep the machine's authorities.
const MACHINE_CAS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Shakes hands with the server of `origin`.
pub async fn connect(
    registries: &Registries,
    origin: &Origin,
    tcp: TcpStream,
) -> Result<TlsStream<TcpStream>, Fault> {
    let tls = registries.tls(origin);
    let config = client_config(&tls).map_err(|e| Fault::Setup(format!("set up TLS to {origin}: {e}")))?;
    let name = ServerName::try_from(origin.host.clone())
        .map_err(|_| Fault::protocol(format!("{:?} is no host name", origin.host)))?;
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|e| refused(origin, &e))
}

/// Sorts a failed handshake: no TLS at the other end, a certificate nobody vouches for, or anything else.
fn refused(origin: &Origin, error: &std::io::Error) -> Fault {
    let cause = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidMessage(_)) => Fault::Setup(format!(
            "{origin} does not speak TLS: write it with http:// in the registries file if that is meant"
        )),
        Some(rustls::Error::InvalidCertificate(why)) => Fault::Setup(format!(
            "the certificate of {origin} is refused: {why:?}; name its authority (tls.ca_file) in the registries file"
        )),
        _ => Fault::Unreachable(format!("speak TLS with {origin}: {error}")),
    }
}

fn client_config(tls: &Tls) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = if tls.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(trust::anyone(provider))
    } else {
        builder.with_root_certificates(roots(tls.ca_file.as_deref())?)
    };
    let mut config = match (&tls.cert_file, &tls.key_file) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_slice(&read(key)?)
                .map_err(|e| format!("{} holds no private key: {e}", key.display()))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| format!("client certificate: {e}"))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(named: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    // An authority named for a host counts besides the machine's, so that redirects to public hosts work.
    let told = std::env::var_os("SSL_CERT_FILE").map(std::path::PathBuf::from);
    let known = MACHINE_CAS.iter().map(std::path::PathBuf::from);
    let machine = told.into_iter().chain(known).find(|p| p.exists());
    for path in machine.iter().map(std::path::PathBuf::as_path).chain(named) {
        roots.add_parsable_certificates(certificates(path)?);
    }
    if roots.is_empty() {
        return Err(
            "no certificate authority is known: install ca-certificates, or name one (tls.ca_file)".into()
        );
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(path)?;
    let found = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    found.map_err(|e| format!("{} is not PEM: {e}", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("read {}: {e}", path.display()))
}
