//! The plugins every server has, decided by the crate `policy` with look-ups in the store.

use std::sync::Arc;

use policy::admission as decide;
use policy::admission::{Lookup, Refusal};
use rand::Rng;
use serde_json::Value;
use store::Range;

use super::{AdmissionContext, Admitted, Operation, Plugin};
use crate::authenticate::Identity;
use crate::authorize::Attributes;
use crate::object;
use crate::server::ApiServer;
use crate::status::{Cause, Status};

/// How often, and with which pause, the default account of a new namespace is waited for.
const ACCOUNT_TRIES: usize = 10;
const ACCOUNT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// All of them.
pub struct Builtin;

/// Reads the store as it is now, for this user.
struct Stored<'a>(&'a ApiServer, &'a Identity);

impl Lookup for Stored<'_> {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let catalog = self.0.catalog();
        let found = self.0.store.get(&catalog.stored(group, plural)?.key(namespace, name))?;
        self.0.trees.of(&found)
    }

    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Value>> {
        let catalog = self.0.catalog();
        let Some(resource) = catalog.stored(group, plural) else { return Vec::new() };
        let namespace = (!namespace.is_empty()).then(|| namespace.into());
        let snapshot = self.0.store.snapshot(&resource.table);
        let objects = snapshot.iter(&Range { namespace, after: None });
        objects.filter_map(|object| self.0.trees.of(object)).collect()
    }

    fn may(&self, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let asked = Attributes {
            verb: verb.into(),
            is_resource: true,
            version: "v1".into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Attributes::default()
        };
        self.0.authorize(self.1, &asked).allowed
    }
}

fn letters() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    (0..5).map(|_| char::from(LETTERS[rng.random_range(0..LETTERS.len())])).collect()
}

fn with_request<T>(
    context: &AdmissionContext<'_>,
    letters: &str,
    run: impl FnOnce(&decide::Request<'_>, &dyn Lookup) -> Result<T, Refusal>,
) -> Result<T, Status> {
    let def = &context.resource.def;
    let request = decide::Request {
        operation: match context.operation {
            Operation::Create => decide::Operation::Create,
            Operation::Update => decide::Operation::Update,
            Operation::Delete => decide::Operation::Delete,
            Operation::Connect => decide::Operation::Connect,
        },
        group: &def.group,
        plural: &def.plural,
        subresource: context.subresource,
        namespace: if def.namespaced() { context.namespace } else { "" },
        name: context.name,
        old: context.old,
        letters,
        user: &context.identity.name,
        groups: &context.identity.groups,
    };
    run(&request, &Stored(context.server, context.identity)).map_err(|refusal| status(context, refusal))
}

fn status(context: &AdmissionContext<'_>, refusal: Refusal) -> Status {
    let def = &context.resource.def;
    let forbidden = |cause: &str| Status::forbidden(&def.group, &def.plural, context.name, cause);
    match &refusal {
        Refusal::Forbidden(cause) => forbidden(cause),
        Refusal::NoNamespace(name) => Status::not_found("", "namespaces", name),
        Refusal::Terminating(name) => {
            let mut status = forbidden(&refusal.to_string());
            let message = format!("namespace {name} is being terminated");
            let cause = Cause::field("NamespaceTerminating", "metadata.namespace", message);
            status.details.get_or_insert_default().causes.push(cause);
            status
        }
    }
}

impl Builtin {
    /// A pod may follow its namespace so closely that the controller has not made the default account yet.
    async fn await_account(object: &Value, context: &AdmissionContext<'_>) {
        let def = &context.resource.def;
        let pods = &*def.plural == "pods" && def.group.is_empty() && context.subresource.is_empty();
        if !pods || context.operation != Operation::Create {
            return;
        }
        let named = object::at(object, "spec.serviceAccountName").and_then(Value::as_str).unwrap_or("");
        if !matches!(named, "" | "default") {
            return;
        }
        let catalog = context.server.catalog();
        let Some(accounts) = catalog.stored("", "serviceaccounts") else { return };
        let Some(namespaces) = catalog.stored("", "namespaces") else { return };
        let store = &context.server.store;
        if store.get(&namespaces.key("", context.namespace)).is_none() {
            return;
        }
        for _ in 0..ACCOUNT_TRIES {
            if store.get(&accounts.key(context.namespace, "default")).is_some() {
                return;
            }
            tokio::time::sleep(ACCOUNT_PAUSE).await;
        }
    }
}

impl Plugin for Builtin {
    fn name(&self) -> &'static str {
        "Builtin"
    }

    fn mutate<'a>(&'a self, object: &'a mut Value, context: &'a mut AdmissionContext<'_>) -> Admitted<'a> {
        Box::pin(async move {
            Self::await_account(object, context).await;
            let letters = letters();
            with_request(context, &letters, |request, lookup| decide::mutate(object, request, lookup))
        })
    }

    fn validate<'a>(&'a self, object: &'a Value, context: &'a mut AdmissionContext<'_>) -> Admitted<'a> {
        Box::pin(async move {
            with_request(context, "", |request, lookup| decide::validate(object, request, lookup))
        })
    }
}
