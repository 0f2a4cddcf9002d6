//! Values of the libraries of Kubernetes: quantities, addresses, URLs, versions, formats, the authorizer.

use std::sync::Arc;

use base::quantity::Quantity;

use crate::authorizer::{Authorizer, Check, Decision};
use crate::formats::Format;
use crate::net::{Cidr, Ip};
use crate::semver::Semver;
use crate::url::Url;

/// A value of a library.
#[derive(Clone, Debug)]
pub enum Opaque<'a> {
    /// `quantity('1Gi')`
    Quantity(Quantity),
    /// `ip('::1')`
    Ip(Ip),
    /// `cidr('10.0.0.0/8')`
    Cidr(Cidr),
    /// `url('https://…')`
    Url(Arc<Url>),
    /// `semver('1.2.3')`
    Semver(Arc<Semver>),
    /// `format.dns1123Label()`
    Format(Format),
    /// `authorizer`
    Authorizer(Authorizer<'a>),
    /// `authorizer.path('/healthz')`, `authorizer.group('').resource('pods')`
    Check(Arc<Check<'a>>),
    /// What the authorizer said.
    Decision(Arc<Decision>),
}

impl Opaque<'_> {
    /// The name of the type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Opaque::Quantity(_) => "kubernetes.Quantity",
            Opaque::Ip(_) => "net.IP",
            Opaque::Cidr(_) => "net.CIDR",
            Opaque::Url(_) => "kubernetes.URL",
            Opaque::Semver(_) => "kubernetes.Semver",
            Opaque::Format(_) => "kubernetes.NamedFormat",
            Opaque::Authorizer(_) => "kubernetes.authorization.Authorizer",
            Opaque::Check(check) => check.type_name(),
            Opaque::Decision(_) => "kubernetes.authorization.Decision",
        }
    }

    pub(crate) fn same(&self, other: &Opaque<'_>) -> bool {
        match (self, other) {
            (Opaque::Quantity(a), Opaque::Quantity(b)) => a == b,
            (Opaque::Ip(a), Opaque::Ip(b)) => a == b,
            (Opaque::Cidr(a), Opaque::Cidr(b)) => a == b,
            (Opaque::Url(a), Opaque::Url(b)) => a == b,
            (Opaque::Semver(a), Opaque::Semver(b)) => a == b,
            (Opaque::Format(a), Opaque::Format(b)) => a == b,
            (Opaque::Decision(a), Opaque::Decision(b)) => a == b,
            _ => false,
        }
    }
}
