//! What a certificate request (PKCS#10) asks for, as those who read it and those who judge it speak of it.

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The subject's common name, or empty.
    pub name: String,
    /// The subject's organizations.
    pub organizations: Vec<String>,
    /// How many DNS names.
    pub dns: usize,
    /// How many addresses.
    pub ips: usize,
    /// The DNS names and addresses themselves.
    pub names: Vec<String>,
    /// How many mail addresses.
    pub emails: usize,
    /// How many URIs.
    pub uris: usize,
}
