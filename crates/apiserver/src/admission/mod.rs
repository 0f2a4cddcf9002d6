//! What may change or refuse an object on its way into the store, in a fixed order of plugins.

mod builtin;
mod escalation;
mod podsecurity;
pub mod quota;
mod review;
mod rules;
mod signers;
mod webhooks;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use builtin::Builtin;
use escalation::Escalation;
pub use review::facts as request_facts;
pub use rules::{Place, covers, in_namespace, of_object};
pub use webhooks::as_version;

use crate::authenticate::Identity;
use crate::resource::Resource;
use crate::server::ApiServer;
use crate::status::Status;

/// What happens to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// It is created.
    Create,
    /// It is changed.
    Update,
    /// It is deleted.
    Delete,
    /// A stream is opened to it (exec, attach, port-forward, proxy).
    Connect,
}

impl Operation {
    /// As webhooks and metrics write it.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// What admission knows of a request.
pub struct AdmissionContext<'a> {
    /// The server, for look-ups of other objects.
    pub server: &'a ApiServer,
    /// Who asks.
    pub identity: &'a Identity,
    /// What happens.
    pub operation: Operation,
    /// The kind.
    pub resource: &'a Resource,
    /// Subresource, may be empty.
    pub subresource: &'a str,
    /// Namespace, empty for cluster scope.
    pub namespace: &'a str,
    /// The object's name; empty while a name is still to be generated.
    pub name: &'a str,
    /// The state before, for updates and deletes.
    pub old: Option<&'a Value>,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// Lines for the client's `Warning` headers.
    pub warnings: &'a mut Vec<String>,
}

impl AdmissionContext<'_> {
    /// Notes how long a plugin took.
    fn note(&self, plugin: (usize, &'static str), validating: bool, rejected: bool, began: Instant) {
        self.server.metrics.stages.plugin(plugin, self.operation.name(), validating, rejected, began);
    }
}

/// The plugins of every server, in their order.
pub fn all() -> Vec<Arc<dyn Plugin>> {
    vec![
        Arc::new(Builtin),
        Arc::new(podsecurity::PodSecurity),
        Arc::new(Escalation),
        Arc::new(signers::Signers),
        Arc::new(crate::policies::PolicyPlugin),
        Arc::new(webhooks::Webhooks),
        // Last, so that nothing is counted that is refused afterwards.
        Arc::new(quota::Quota),
    ]
}

/// What a plugin answers with.
pub type Admitted<'a> = Pin<Box<dyn Future<Output = Result<(), Status>> + Send + 'a>>;

/// One admission plugin.
pub trait Plugin: Send + Sync {
    /// Its name, for errors and metrics.
    fn name(&self) -> &'static str;

    /// May change the object; runs before defaults are final and before validation. For deletes the object is
    /// null.
    fn mutate<'a>(&'a self, object: &'a mut Value, context: &'a mut AdmissionContext<'_>) -> Admitted<'a> {
        let _ = (object, context);
        Box::pin(async { Ok(()) })
    }

    /// May refuse the object; runs after validation.
    fn validate<'a>(&'a self, object: &'a Value, context: &'a mut AdmissionContext<'_>) -> Admitted<'a> {
        let _ = (object, context);
        Box::pin(async { Ok(()) })
    }
}

/// Runs the mutating half of all plugins.
pub async fn admit(
    plugins: &[Arc<dyn Plugin>],
    object: &mut Value,
    context: &mut AdmissionContext<'_>,
) -> Result<(), Status> {
    let all = Instant::now();
    let mut result = Ok(());
    for (i, plugin) in plugins.iter().enumerate() {
        let began = Instant::now();
        result = plugin.mutate(object, context).await;
        context.note((i, plugin.name()), false, result.is_err(), began);
        if result.is_err() {
            break;
        }
    }
    context.server.metrics.stages.step(context.operation.name(), false, result.is_err(), all);
    result
}

/// Runs the validating half of all plugins.
pub async fn validate(
    plugins: &[Arc<dyn Plugin>],
    object: &Value,
    context: &mut AdmissionContext<'_>,
) -> Result<(), Status> {
    let all = Instant::now();
    let mut result = Ok(());
    for (i, plugin) in plugins.iter().enumerate() {
        let began = Instant::now();
        result = plugin.validate(object, context).await;
        context.note((i, plugin.name()), true, result.is_err(), began);
        if result.is_err() {
            break;
        }
    }
    context.server.metrics.stages.step(context.operation.name(), true, result.is_err(), all);
    result
}
