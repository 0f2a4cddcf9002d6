//! The hook for asking the authorizer: expressions build a question, the caller's [`Authorize`] answers it.

use std::fmt;
use std::sync::Arc;

/// Answers questions of expressions.
pub trait Authorize: Send + Sync {
    /// Whether the request's user, or the service account that the question names, may do this.
    fn authorize(&self, question: &Question) -> Decision;
}

/// A question to the authorizer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Ask for this service account (namespace, name) in place of the request's user.
    pub service_account: Option<(String, String)>,
    /// The path, of a question that is not about a resource.
    pub path: Option<String>,
    /// Verb or, for a path, the method in lower case.
    pub verb: String,
    /// API group.
    pub group: String,
    /// Plural name of the resource.
    pub resource: String,
    /// Subresource, if any.
    pub subresource: String,
    /// Namespace, if any.
    pub namespace: String,
    /// Name, if any.
    pub name: String,
    /// Field selector, as text.
    pub field_selector: Option<String>,
    /// Label selector, as text.
    pub label_selector: Option<String>,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong while deciding.
    pub error: Option<String>,
}

/// The variable `authorizer`, to be bound with `Opaque::Authorizer`.
#[derive(Clone)]
pub struct Authorizer<'a> {
    /// Who answers.
    pub hook: &'a dyn Authorize,
    /// Ask for this service account.
    pub service_account: Option<Arc<(String, String)>>,
}

impl fmt::Debug for Authorizer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorizer({:?})", self.service_account)
    }
}

/// A question in the making.
#[derive(Clone, Debug)]
pub struct Check<'a> {
    /// Who is asked.
    pub authorizer: Authorizer<'a>,
    /// What is known of the question.
    pub question: Question,
}

impl<'a> Check<'a> {
    pub(crate) fn type_name(&self) -> &'static str {
        match (&self.question.path, self.question.resource.is_empty()) {
            (Some(_), _) => "kubernetes.authorization.PathCheck",
            (None, true) => "kubernetes.authorization.GroupCheck",
            (None, false) => "kubernetes.authorization.ResourceCheck",
        }
    }

    /// A question about a resource of a request, for the variable `authorizer.requestResource`.
    pub fn new(hook: &'a dyn Authorize, question: Question) -> Check<'a> {
        Check { authorizer: Authorizer { hook, service_account: None }, question }
    }
}
