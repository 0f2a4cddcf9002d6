//! TLS for connections to API servers.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::{Config, ConfigError, Identity, Material};

/// Where Debian and most others keep the machine's authorities.
const MACHINE_CAS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The TLS configuration, with files read anew.
pub(crate) fn client_config(config: &Config) -> Result<ClientConfig, ConfigError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| ConfigError::Invalid(format!("cannot set up TLS: {e}")))?;
    let builder = match config.insecure {
        true => builder.dangerous().with_custom_certificate_verifier(trust::anyone(provider)),
        false => builder.with_root_certificates(roots(config.ca.as_ref())?),
    };
    let mut tls = match &config.identity {
        Identity::Certificate { certificate, key } => {
            let chain = certificates(&certificate.read()?, "the client certificate")?;
            let key = PrivateKeyDer::from_pem_slice(&key.read()?)
                .map_err(|e| ConfigError::Invalid(format!("the client key is not PEM: {e}")))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| ConfigError::Invalid(format!("the client certificate is unusable: {e}")))?
        }
        Identity::Anonymous | Identity::Token(_) => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

fn roots(ca: Option<&Material>) -> Result<RootCertStore, ConfigError> {
    let machine = Material::File(std::env::var_os("SSL_CERT_FILE").map_or(MACHINE_CAS.into(), Into::into));
    let mut roots = RootCertStore::empty();
    let found = certificates(&ca.unwrap_or(&machine).read()?, "the server's authority")?;
    let (added, _) = roots.add_parsable_certificates(found);
    if added == 0 {
        return Err(ConfigError::Invalid("the server's authority has no usable certificate".to_owned()));
    }
    Ok(roots)
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    found.map_err(|e| ConfigError::Invalid(format!("{what} is not PEM: {e}")))
}
