//! Certificates made by Kutter itself: an authority, and what it issues. Keys are ECDSA P-256.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SubjectPublicKeyInfo,
};
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;

mod request;
mod subject;

pub use request::read_request;

/// Why a certificate could not be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The generator or parser refused.
    #[error("make certificate for {subject}")]
    Make {
        /// Whose certificate.
        subject: String,
        /// The cause.
        #[source]
        source: rcgen::Error,
    },
    /// A file could not be read or written.
    #[error("access {path}")]
    File {
        /// Which file.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The PEM text holds no certificate that can be parsed.
    #[error("parse certificate: {0}")]
    Parse(String),
}

/// A certificate and its key, both PEM. The certificate may be a chain, leaf first.
#[derive(Debug, Clone)]
pub struct Pair {
    /// PEM of the certificate.
    pub certificate: String,
    /// PEM of the PKCS#8 key.
    pub key: String,
}

/// What a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// Serve TLS.
    Server,
    /// Show to a server.
    Client,
    /// Either.
    Both,
}

/// What a certificate says.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Common name: for clients the user's name.
    pub name: String,
    /// Organizations: for clients the user's groups.
    pub groups: Vec<String>,
    /// DNS names it is good for.
    pub dns: Vec<String>,
    /// Addresses it is good for.
    pub ips: Vec<IpAddr>,
    /// What it may be used for.
    pub usage: Usage,
}

impl Subject {
    /// A client's certificate.
    pub fn client(name: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let groups = groups.into_iter().map(Into::into).collect();
        Self { name: name.into(), groups, dns: Vec::new(), ips: Vec::new(), usage: Usage::Client }
    }

    /// A server's certificate.
    pub fn server(name: impl Into<String>, dns: Vec<String>, ips: Vec<IpAddr>) -> Self {
        Self { name: name.into(), groups: Vec::new(), dns, ips, usage: Usage::Server }
    }
}

/// A certificate authority.
pub struct Authority {
    pair: Pair,
    issuer: Issuer<'static, KeyPair>,
}

/// Ten years: the life of an authority.
pub const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// One year: the life of what it issues by default.
pub const LEAF_LIFE: Duration = Duration::from_secs(365 * 86_400);
/// Certificates begin this much before now, for clocks that lag.
pub const BACKDATE: Duration = Duration::from_secs(300);

impl Authority {
    /// A new self-signed authority.
    pub fn generate(name: &str) -> Result<Self, PkiError> {
        let failed = |source| PkiError::Make { subject: name.to_string(), source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
        validity(&mut params, AUTHORITY_LIFE);
        let certificate = params.self_signed(&key).map_err(failed)?.pem();
        Self::from_pair(Pair { certificate, key: key.serialize_pem() })
    }

    /// An authority from its PEM texts.
    pub fn from_pair(pair: Pair) -> Result<Self, PkiError> {
        let failed = |source| PkiError::Make { subject: "authority".to_string(), source };
        let key = KeyPair::from_pem(&pair.key).map_err(failed)?;
        let issuer = Issuer::from_ca_cert_pem(&pair.certificate, key).map_err(failed)?;
        Ok(Self { pair, issuer })
    }

    /// Reads `NAME.crt` and `NAME.key` in `directory`, or makes and writes them.
    pub fn load_or_generate(directory: &Path, name: &str, common_name: &str) -> Result<Self, PkiError> {
        match Pair::load(directory, name)? {
            Some(pair) => Self::from_pair(pair),
            None => {
                let made = Self::generate(common_name)?;
                made.pair.save(directory, name)?;
                Ok(made)
            }
        }
    }

    /// The authority's certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.pair.certificate
    }

    /// The authority's certificate and key.
    pub fn pair(&self) -> &Pair {
        &self.pair
    }

    /// A new key and a certificate for it.
    pub fn issue(&self, subject: &Subject, life: Duration) -> Result<Pair, PkiError> {
        let failed = |source| PkiError::Make { subject: subject.name.clone(), source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::new(subject.dns.clone()).map_err(failed)?;
        params.subject_alt_names.extend(subject.ips.iter().map(|ip| SanType::IpAddress(*ip)));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = usages(subject.usage);
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, life);
        let name = subject::encode(&subject.name, &subject.groups);
        let certificate = self.certify(params, &key, &name, &subject.name)?;
        Ok(Pair { certificate, key: key.serialize_pem() })
    }

    /// Signs a PKCS#10 request (PEM): its subject, names and key, with the usages and life given here.
    pub fn sign(&self, request_pem: &str, usage: Usage, life: Duration) -> Result<String, PkiError> {
        let key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let mut params = CertificateParams::default();
        params.key_usages = key_usages;
        params.extended_key_usages = usages(usage);
        self.certify_request(request_pem.as_bytes(), params, life)
    }

    /// Signs a PKCS#10 request (PEM) with the usages it was approved for, in the words of
    /// `certificates.k8s.io`. Fails on usages that are not known.
    pub fn sign_request(&self, pem: &[u8], usages: &[String], life: Duration) -> Result<String, PkiError> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::ExplicitNoCa;
        for usage in usages {
            match (key_usage(usage), extended_usage(usage)) {
                (Some(usage), _) => params.key_usages.push(usage),
                (None, Some(usage)) => params.extended_key_usages.push(usage),
                (None, None) => return Err(PkiError::Parse(format!("unrecognized usage {usage:?}"))),
            }
        }
        self.certify_request(pem, params, life)
    }

    /// A certificate for a request's key, with its subject and names, and with what `params` say.
    fn certify_request(
        &self,
        pem: &[u8],
        mut params: CertificateParams,
        life: Duration,
    ) -> Result<String, PkiError> {
        let failed = |source| PkiError::Make { subject: "certificate request".to_string(), source };
        let der = request::request_der(pem)?;
        let request = request::checked_request(&der)?;
        for name in request::requested_names(&request) {
            params.subject_alt_names.push(match name {
                GeneralName::DNSName(name) => SanType::DnsName((*name).try_into().map_err(failed)?),
                GeneralName::RFC822Name(name) => SanType::Rfc822Name((*name).try_into().map_err(failed)?),
                GeneralName::URI(name) => SanType::URI((*name).try_into().map_err(failed)?),
                GeneralName::IPAddress(octets) => SanType::IpAddress(
                    request::address(octets)
                        .ok_or_else(|| PkiError::Parse("an address is malformed".to_string()))?,
                ),
                _ => return Err(PkiError::Parse(request::UNKNOWN_NAME.to_string())),
            });
        }
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, life);
        let info = &request.certification_request_info;
        let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(failed)?;
        self.certify(params, &key, info.subject.as_raw(), "certificate request")
    }

    /// A certificate (PEM) with a subject given as DER; `who` is for errors.
    fn certify(
        &self,
        params: CertificateParams,
        key: &impl PublicKeyData,
        subject: &[u8],
        who: &str,
    ) -> Result<String, PkiError> {
        let failed = |source| PkiError::Make { subject: who.to_string(), source };
        let bare = params.signed_by(key, &self.issuer).map_err(failed)?;
        let der = subject::give(bare.der(), subject, self.issuer.key())
            .ok_or_else(|| PkiError::Parse(format!("the subject of {who} cannot be set")))?;
        Ok(encode_pem("CERTIFICATE", &der))
    }

    /// The pair `NAME` of `directory` if it still is good for `subject`, is of this authority and is not yet due
    /// for renewal; a new one, written there, otherwise.
    pub fn maintain(&self, directory: &Path, name: &str, subject: &Subject) -> Result<Pair, PkiError> {
        if let Some(pair) = Pair::load(directory, name)?
            && self.covers(&pair, subject)
        {
            return Ok(pair);
        }
        let pair = self.issue(subject, LEAF_LIFE)?;
        pair.save(directory, name)?;
        Ok(pair)
    }

    fn covers(&self, pair: &Pair, subject: &Subject) -> bool {
        use x509_parser::prelude::*;
        let Ok((_, pem)) = parse_x509_pem(pair.certificate.as_bytes()) else { return false };
        let Ok(leaf) = pem.parse_x509() else { return false };
        let Ok((_, own)) = parse_x509_pem(self.pair.certificate.as_bytes()) else { return false };
        let Ok(own) = own.parse_x509() else { return false };
        let names = leaf.subject_alternative_name().ok().flatten();
        let said = leaf.subject();
        let name = said.iter_common_name().next().and_then(|name| name.as_str().ok());
        let groups: Vec<&str> = said.iter_organization().filter_map(|group| group.as_str().ok()).collect();
        let has = |wanted: GeneralName<'_>| {
            names.as_ref().is_some_and(|names| names.value.general_names.contains(&wanted))
        };
        let octets = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        !due(&pair.certificate, OffsetDateTime::now_utc()).unwrap_or(true)
            && leaf.verify_signature(Some(own.public_key())).is_ok()
            && name == Some(subject.name.as_str())
            && groups == subject.groups
            && subject.dns.iter().all(|name| has(GeneralName::DNSName(name)))
            && subject.ips.iter().all(|ip| has(GeneralName::IPAddress(&octets(ip))))
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// What is wrong with a chain and its key (PEM), in the words that clients know.
pub fn pair_fault(chain: &[u8], key: &[u8]) -> Option<&'static str> {
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    use x509_parser::prelude::FromDer;
    let Some(Ok(first)) = CertificateDer::pem_slice_iter(chain).next() else {
        return Some("tls: failed to find any PEM data in certificate input");
    };
    let Ok(key) = PrivateKeyDer::from_pem_slice(key) else {
        return Some("tls: failed to find any PEM data in key input");
    };
    let Ok((_, certificate)) = x509_parser::certificate::X509Certificate::from_der(&first) else {
        return Some("x509: malformed certificate");
    };
    let Ok(key) = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key) else {
        return Some("tls: failed to parse private key");
    };
    let public = key.public_key()?;
    if public.as_ref() == certificate.public_key().raw {
        return None;
    }
    let kind = |info: &[u8]| {
        let parsed = x509_parser::x509::SubjectPublicKeyInfo::from_der(info).ok();
        parsed.map(|(_, info)| info.algorithm.algorithm.to_id_string())
    };
    Some(match kind(&public) == kind(certificate.public_key().raw) {
        true => "tls: private key does not match public key",
        false => "tls: private key type does not match public key type",
    })
}

/// Checks that a text is nothing, or certificates (PEM) alone.
pub fn check_chain(pem: &[u8]) -> Result<(), PkiError> {
    use x509_parser::prelude::*;
    if pem.is_empty() {
        return Ok(());
    }
    let mut blocks = 0;
    for block in Pem::iter_from_buffer(pem) {
        let block = block.map_err(|cause| PkiError::Parse(cause.to_string()))?;
        if block.label != "CERTIFICATE" {
            let what = format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label);
            return Err(PkiError::Parse(what));
        }
        block.parse_x509().map_err(|cause| PkiError::Parse(cause.to_string()))?;
        blocks += 1;
    }
    match blocks {
        0 => Err(PkiError::Parse("must contain at least one CERTIFICATE PEM block".to_string())),
        _ => Ok(()),
    }
}

/// A new key and a PKCS#10 request (PEM) for a certificate of this subject, which has one group at most: request, key.
pub fn request(subject: &Subject) -> Result<(String, String), PkiError> {
    let failed = |source| PkiError::Make { subject: subject.name.clone(), source };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut params = CertificateParams::new(subject.dns.clone()).map_err(failed)?;
    params.subject_alt_names.extend(subject.ips.iter().map(|ip| SanType::IpAddress(*ip)));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject.name.as_str());
    for group in &subject.groups {
        params.distinguished_name.push(DnType::OrganizationName, group.as_str());
    }
    let request = params.serialize_request(&key).and_then(|r| r.pem()).map_err(failed)?;
    Ok((request, key.serialize_pem()))
}

/// The SHA-256 of the public key (SubjectPublicKeyInfo) of a certificate (PEM), in hexadecimal: what joining machines
/// are told of an authority, so that they know it when they see it.
pub fn key_hash(certificate_pem: &str) -> Result<String, PkiError> {
    use x509_parser::prelude::*;
    let (_, pem) =
        parse_x509_pem(certificate_pem.as_bytes()).map_err(|cause| PkiError::Parse(cause.to_string()))?;
    let leaf = pem.parse_x509().map_err(|cause| PkiError::Parse(cause.to_string()))?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leaf.public_key().raw);
    Ok(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// When a certificate (PEM) ends.
pub fn expiry(certificate_pem: &[u8]) -> Result<OffsetDateTime, PkiError> {
    use x509_parser::prelude::*;
    let (_, pem) = parse_x509_pem(certificate_pem).map_err(|cause| PkiError::Parse(cause.to_string()))?;
    let leaf = pem.parse_x509().map_err(|cause| PkiError::Parse(cause.to_string()))?;
    Ok(leaf.validity().not_after.to_datetime())
}

fn key_usage(name: &str) -> Option<KeyUsagePurpose> {
    Some(match name {
        "signing" | "digital signature" => KeyUsagePurpose::DigitalSignature,
        "content commitment" => KeyUsagePurpose::ContentCommitment,
        "key encipherment" => KeyUsagePurpose::KeyEncipherment,
        "key agreement" => KeyUsagePurpose::KeyAgreement,
        "data encipherment" => KeyUsagePurpose::DataEncipherment,
        "cert sign" => KeyUsagePurpose::KeyCertSign,
        "crl sign" => KeyUsagePurpose::CrlSign,
        "encipher only" => KeyUsagePurpose::EncipherOnly,
        "decipher only" => KeyUsagePurpose::DecipherOnly,
        _ => return None,
    })
}

fn extended_usage(name: &str) -> Option<ExtendedKeyUsagePurpose> {
    Some(match name {
        "any" => ExtendedKeyUsagePurpose::Any,
        "server auth" => ExtendedKeyUsagePurpose::ServerAuth,
        "client auth" => ExtendedKeyUsagePurpose::ClientAuth,
        "code signing" => ExtendedKeyUsagePurpose::CodeSigning,
        "email protection" | "s/mime" => ExtendedKeyUsagePurpose::EmailProtection,
        "timestamping" => ExtendedKeyUsagePurpose::TimeStamping,
        "ocsp signing" => ExtendedKeyUsagePurpose::OcspSigning,
        _ => return None,
    })
}

impl Pair {
    /// Reads `NAME.crt` and `NAME.key` of `directory`; `None` when either is absent.
    pub fn load(directory: &Path, name: &str) -> Result<Option<Self>, PkiError> {
        let certificate = read(&directory.join(format!("{name}.crt")))?;
        let key = read(&directory.join(format!("{name}.key")))?;
        Ok(certificate.zip(key).map(|(certificate, key)| Self { certificate, key }))
    }

    /// Writes `NAME.crt` (0644) and `NAME.key` (0600) into `directory`, each at once.
    pub fn save(&self, directory: &Path, name: &str) -> Result<(), PkiError> {
        replace_file(&directory.join(format!("{name}.key")), self.key.as_bytes(), 0o600)?;
        replace_file(&directory.join(format!("{name}.crt")), self.certificate.as_bytes(), 0o644)
    }
}

/// Whether more than two thirds of the certificate's life are over at `now`.
pub fn due(certificate_pem: &str, now: OffsetDateTime) -> Result<bool, PkiError> {
    use x509_parser::prelude::*;
    let (_, pem) =
        parse_x509_pem(certificate_pem.as_bytes()).map_err(|cause| PkiError::Parse(cause.to_string()))?;
    let leaf = pem.parse_x509().map_err(|cause| PkiError::Parse(cause.to_string()))?;
    let (from, to) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    Ok(now.unix_timestamp() > from + (to - from) / 3 * 2)
}

/// [`due`] at a Unix time in seconds.
pub fn due_at(certificate_pem: &str, now: i64) -> Result<bool, PkiError> {
    let now = OffsetDateTime::from_unix_timestamp(now).map_err(|cause| PkiError::Parse(cause.to_string()))?;
    due(certificate_pem, now)
}

/// Writes a file with this mode, so that readers see either the old or the new content.
pub fn replace_file(path: &Path, content: &[u8], mode: u32) -> Result<(), PkiError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |source| PkiError::File { path: path.display().to_string(), source };
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    match std::fs::remove_file(&temporary) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(failed(cause)),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .map_err(failed)?;
    file.write_all(content).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File { path: path.display().to_string(), source }),
    }
}

fn encode_pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn usages(usage: Usage) -> Vec<ExtendedKeyUsagePurpose> {
    match usage {
        Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Usage::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
    }
}

fn validity(params: &mut CertificateParams, life: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATE;
    params.not_after = now + life;
}

#[cfg(test)]
mod tests;
