//! Certificate requests (PKCS#10, PEM): what they ask for, and that their makers hold the key.

use std::net::IpAddr;

use base::certificate::Request;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::AttributeTypeAndValue;

use super::PkiError;

pub(super) const UNKNOWN_NAME: &str = "a kind of subjectAltName that is not known";

pub(super) fn request_der(pem: &[u8]) -> Result<Vec<u8>, PkiError> {
    let (_, pem) =
        x509_parser::pem::parse_x509_pem(pem).map_err(|cause| PkiError::Parse(cause.to_string()))?;
    match pem.label == "CERTIFICATE REQUEST" {
        true => Ok(pem.contents),
        false => Err(PkiError::Parse("PEM block type must be CERTIFICATE REQUEST".to_string())),
    }
}

/// A request whose maker holds its key.
pub(super) fn checked_request(der: &[u8]) -> Result<X509CertificationRequest<'_>, PkiError> {
    let bad = |cause: String| PkiError::Parse(cause);
    let (_, request) = X509CertificationRequest::from_der(der).map_err(|cause| bad(cause.to_string()))?;
    request.verify_signature().map_err(|cause| bad(cause.to_string()))?;
    Ok(request)
}

pub(super) fn requested_names<'a>(request: &'a X509CertificationRequest<'a>) -> Vec<&'a GeneralName<'a>> {
    let extensions = request.requested_extensions().into_iter().flatten();
    let names = extensions.filter_map(|extension| match extension {
        ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
        _ => None,
    });
    names.flatten().collect()
}

pub(super) fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from).ok();
    v4.or_else(|| <[u8; 16]>::try_from(octets).map(IpAddr::from).ok())
}

/// Reads a PKCS#10 request (PEM) and checks that its maker holds the key.
pub fn read_request(pem: &[u8]) -> Result<Request, PkiError> {
    let der = request_der(pem)?;
    let request = checked_request(&der)?;
    let subject = &request.certification_request_info.subject;
    let text = |value: &AttributeTypeAndValue<'_>| {
        value.as_str().map(str::to_owned).map_err(|cause| PkiError::Parse(cause.to_string()))
    };
    let mut asked = Request::default();
    for organization in subject.iter_organization() {
        asked.organizations.push(text(organization)?);
    }
    if let Some(name) = subject.iter_common_name().last() {
        asked.name = text(name)?;
    }
    for name in requested_names(&request) {
        match name {
            GeneralName::DNSName(name) => {
                asked.dns += 1;
                asked.names.push((*name).to_owned());
            }
            GeneralName::IPAddress(octets) => {
                asked.ips += 1;
                asked.names.extend(address(octets).map(|ip| ip.to_string()));
            }
            GeneralName::RFC822Name(_) => asked.emails += 1,
            GeneralName::URI(_) => asked.uris += 1,
            _ => return Err(PkiError::Parse(UNKNOWN_NAME.to_string())),
        }
    }
    Ok(asked)
}
