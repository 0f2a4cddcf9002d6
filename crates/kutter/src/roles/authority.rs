//! The cluster's certificate authority as the controllers use it.

use std::time::Duration;

use base::certificate::Request;
use k8s_openapi::jiff::Timestamp;
use serve::pki;

/// Certificates of less than this life are not shortened by the time they are dated back.
const SHORT: Duration = Duration::from_secs(8 * 3600);

/// Signs with an authority of Kutter's own.
#[derive(Debug)]
pub struct Signer(pub pki::Authority);

fn text(error: &pki::PkiError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl drive::Authority for Signer {
    fn read(&self, request: &[u8]) -> Result<Request, String> {
        pki::read_request(request).map_err(|e| text(&e))
    }

    fn sign(&self, request: &[u8], usages: &[String], life: Duration) -> Result<String, String> {
        let life = if life < SHORT { life } else { life.saturating_sub(pki::BACKDATE) };
        self.0.sign_request(request, usages, life).map_err(|e| text(&e))
    }

    fn expiry(&self, certificate: &[u8]) -> Option<Timestamp> {
        Timestamp::from_second(pki::expiry(certificate).ok()?.unix_timestamp()).ok()
    }
}
