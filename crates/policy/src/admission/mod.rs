//! What may change or refuse an object before it is stored. Each plugin is a function of the object, the request
//! and what can be looked up; the server gives the look-ups, random letters and the order of calls.

mod limits;
mod namespace;
mod node;
mod pod;
mod priority;
mod runtime;
mod service_account;
mod storage;

use std::sync::Arc;

use serde_json::Value;

/// What happens to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// It is created.
    Create,
    /// It is changed.
    Update,
    /// It is deleted.
    Delete,
    /// A stream is opened to it.
    Connect,
}

/// A request as plugins see it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What happens.
    pub operation: Operation,
    /// API group.
    pub group: &'a str,
    /// Plural name of the resource.
    pub plural: &'a str,
    /// Subresource, may be empty.
    pub subresource: &'a str,
    /// Namespace, empty for cluster scope.
    pub namespace: &'a str,
    /// The object's name, may be empty.
    pub name: &'a str,
    /// The state before, for changes.
    pub old: Option<&'a Value>,
    /// Letters for generated names.
    pub letters: &'a str,
    /// The user who asks.
    pub user: &'a str,
    /// The user's groups.
    pub groups: &'a [String],
}

impl Request<'_> {
    fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural && self.subresource.is_empty()
    }

    fn creates(&self, group: &str, plural: &str) -> bool {
        self.operation == Operation::Create && self.is(group, plural)
    }
}

/// Looks up other objects, from memory.
pub trait Lookup {
    /// One object; `namespace` is empty for cluster scope.
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Value>>;
    /// All objects of a namespace, or of all with an empty one.
    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Value>>;
    /// Whether the user of the request has a further right: a verb on a named resource of the core group.
    fn may(&self, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let _ = (verb, resource, namespace, name);
        false
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 403 with this cause.
    #[error("{0}")]
    Forbidden(String),
    /// 403: the namespace is being deleted.
    #[error("unable to create new content in namespace {0} because it is being terminated")]
    Terminating(String),
    /// 404 on the namespace.
    #[error("namespaces {0:?} not found")]
    NoNamespace(String),
}

/// May change the object; called before validation. The object is null for deletes and connects.
pub fn mutate(object: &mut Value, request: &Request<'_>, lookup: &dyn Lookup) -> Result<(), Refusal> {
    namespace::lifecycle(request, lookup)?;
    if !object.is_object() {
        return Ok(());
    }
    limits::mutate(object, request, lookup);
    service_account::mutate(object, request, lookup)?;
    pod::taint_node(object, request);
    priority::mutate(object, request, lookup)?;
    pod::default_tolerations(object, request);
    storage::default_class(object, request, lookup);
    storage::protect(object, request);
    runtime::mutate(object, request, lookup)?;
    storage::default_ingress_class(object, request, lookup)
}

/// May refuse the object; called after validation.
pub fn validate(object: &Value, request: &Request<'_>, lookup: &dyn Lookup) -> Result<(), Refusal> {
    node::restrict(object, request, lookup)?;
    if !object.is_object() {
        return Ok(());
    }
    limits::validate(object, request, lookup)?;
    service_account::validate(object, request, lookup)?;
    priority::validate(object, request, lookup)?;
    storage::resize(object, request, lookup)?;
    runtime::validate(object, request, lookup)
}

/// The text at a JSON pointer, empty when absent.
fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The list at a JSON pointer, empty when absent.
fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The list under a key, made if absent.
fn list_mut<'a>(object: &'a mut Value, key: &str) -> Option<&'a mut Vec<Value>> {
    let map = object.as_object_mut()?;
    let list = map.entry(key).or_insert_with(|| Value::Array(Vec::new()));
    if list.is_null() {
        *list = Value::Array(Vec::new());
    }
    list.as_array_mut()
}

#[cfg(test)]
mod tests;
