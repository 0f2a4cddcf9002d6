//! Whether a user may do what a request asks for. Each [`Authorizer`] may allow, deny or have no opinion; the
//! first one with an opinion decides, and without any the request is refused.

mod node;
mod rbac;

use std::sync::Arc;

pub use node::Node;
pub use rbac::Rbac;

use crate::authenticate::{Identity, MASTERS};
use crate::info::RequestInfo;

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The verb.
    pub verb: String,
    /// Whether a resource is asked for, rather than a path.
    pub is_resource: bool,
    /// API group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural name.
    pub resource: String,
    /// Subresource, may be empty.
    pub subresource: String,
    /// Namespace, may be empty.
    pub namespace: String,
    /// Object, may be empty.
    pub name: String,
    /// The path of the request.
    pub path: String,
    /// The field selector of a list, watch or deletecollection.
    pub field_selector: String,
    /// The label selector of a list, watch or deletecollection.
    pub label_selector: String,
}

impl From<&RequestInfo> for Attributes {
    fn from(info: &RequestInfo) -> Self {
        Self {
            verb: info.verb.to_string(),
            is_resource: info.is_resource,
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            path: info.path.clone(),
            ..Self::default()
        }
    }
}

/// An authorizer's opinion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opinion {
    /// Go ahead.
    Allow,
    /// Refuse, whatever others say.
    Deny,
    /// Ask the next.
    None,
}

/// The outcome, with the reason for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request may go on.
    pub allowed: bool,
    /// Why, may be empty.
    pub reason: String,
}

/// Decides on requests from what it has in memory.
pub trait Authorizer: Send + Sync {
    /// Its opinion and the reason for it.
    fn authorize(&self, identity: &Identity, attributes: &Attributes) -> (Opinion, String);
}

/// Asks the authorizers in order.
pub fn decide(authorizers: &[Arc<dyn Authorizer>], identity: &Identity, attributes: &Attributes) -> Decision {
    let mut reasons = Vec::new();
    for authorizer in authorizers {
        match authorizer.authorize(identity, attributes) {
            (Opinion::Allow, reason) => return Decision { allowed: true, reason },
            (Opinion::Deny, reason) => return Decision { allowed: false, reason },
            (Opinion::None, reason) if !reason.is_empty() => reasons.push(reason),
            (Opinion::None, _) => {}
        }
    }
    Decision { allowed: false, reason: reasons.join(", ") }
}

/// Allows everything to `system:masters`.
pub struct Masters;

impl Authorizer for Masters {
    fn authorize(&self, identity: &Identity, _: &Attributes) -> (Opinion, String) {
        match identity.is_in(MASTERS) {
            true => (Opinion::Allow, String::new()),
            false => (Opinion::None, String::new()),
        }
    }
}

/// Allows the paths that are open to all.
pub struct OpenPaths;

impl Authorizer for OpenPaths {
    fn authorize(&self, _: &Identity, attributes: &Attributes) -> (Opinion, String) {
        let open = matches!(attributes.path.as_str(), "/version" | "/version/")
            || ["/healthz", "/livez", "/readyz"].iter().any(|path| {
                attributes
                    .path
                    .strip_prefix(path)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            });
        match open && !attributes.is_resource && attributes.verb == "get" {
            true => (Opinion::Allow, String::new()),
            false => (Opinion::None, String::new()),
        }
    }
}

/// The message of a refusal, in upstream's words.
pub fn refusal(identity: &Identity, attributes: &Attributes, reason: &str) -> String {
    let user = &identity.name;
    let mut text = if attributes.is_resource {
        let resource = match attributes.subresource.as_str() {
            "" => attributes.resource.clone(),
            subresource => format!("{}/{subresource}", attributes.resource),
        };
        let scope = match attributes.namespace.as_str() {
            "" => "at the cluster scope".to_string(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        format!(
            "User {user:?} cannot {} resource {resource:?} in API group {:?} {scope}",
            attributes.verb, attributes.group
        )
    } else {
        format!("User {user:?} cannot {} path {:?}", attributes.verb, attributes.path)
    };
    if !reason.is_empty() {
        text.push_str(": ");
        text.push_str(reason);
    }
    text
}
