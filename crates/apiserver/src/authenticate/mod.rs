//! Who sends a request. The first credential that an [`Authenticator`] knows decides.

pub mod bootstrap;
mod certificate;
pub mod front;
mod impersonate;
pub mod token;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub use certificate::identity as certificate_identity;
pub use impersonate::impersonate;

/// A user as far as access is concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// User name.
    pub name: String,
    /// Unique id, may be empty.
    pub uid: String,
    /// Groups, `system:authenticated` or `system:unauthenticated` among them.
    pub groups: Vec<String>,
    /// Further facts, such as the pod a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The group of those who may do anything.
pub const MASTERS: &str = "system:masters";

impl Identity {
    /// A user with these groups and `system:authenticated`.
    pub fn user(name: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        if !groups.iter().any(|group| group == "system:authenticated") {
            groups.push("system:authenticated".into());
        }
        Self { name: name.into(), groups, ..Self::default() }
    }

    /// The API server itself, and roles within its process that are given everything.
    pub fn system(name: impl Into<String>) -> Self {
        Self::user(name, [MASTERS])
    }

    /// Nobody in particular.
    pub fn anonymous() -> Self {
        let groups = vec!["system:unauthenticated".to_string()];
        Self { name: "system:anonymous".into(), groups, ..Self::default() }
    }

    /// Whether it is of this group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}

/// What an authenticator says of a request.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It carries no credential of this kind.
    Unknown,
    /// It is this user.
    Known(Arc<Identity>),
    /// Its credential is wrong: 401.
    Refused(String),
}

/// Knows one kind of credential carried in a request's head.
pub trait Authenticator: Send + Sync {
    /// Judges the request. Must not read the body, and must answer within a bounded time.
    fn authenticate<'a>(
        &'a self,
        head: &'a http::request::Parts,
    ) -> Pin<Box<dyn Future<Output = Verdict> + Send + 'a>>;
}
