//! Client certificates: the common name is the user, the organizations are the groups.

use std::collections::BTreeMap;

use super::Identity;

/// The identity of a certificate (DER) whose chain has been verified; `None` without a common name.
pub fn identity(der: &[u8]) -> Option<Identity> {
    use x509_parser::prelude::*;
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_string();
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok());
    let mut identity = Identity::user(name, groups);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
    let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let key = "authentication.kubernetes.io/credential-id".to_string();
    identity.extra = BTreeMap::from([(key, vec![format!("X509SHA256={digest}")])]);
    Some(identity)
}
