//! NamespaceLifecycle: nothing is made in a namespace that is absent or going away.

use super::{Lookup, Operation, Refusal, Request, text};

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Checks the namespace of the request.
pub fn lifecycle(request: &Request<'_>, lookup: &dyn Lookup) -> Result<(), Refusal> {
    let namespaces = request.group.is_empty() && request.plural == "namespaces";
    if namespaces {
        return match request.operation {
            Operation::Delete if IMMORTAL.contains(&request.name) => {
                Err(Refusal::Forbidden("this namespace may not be deleted".into()))
            }
            _ => Ok(()),
        };
    }
    let checked = matches!(request.operation, Operation::Create | Operation::Update);
    if request.namespace.is_empty() || !checked || request.plural == "localsubjectaccessreviews" {
        return Ok(());
    }
    let Some(namespace) = lookup.get("", "namespaces", "", request.namespace) else {
        return Err(Refusal::NoNamespace(request.namespace.to_string()));
    };
    let terminating = text(&namespace, "/status/phase") == "Terminating";
    match request.operation {
        Operation::Create if terminating => Err(Refusal::Terminating(request.namespace.to_string())),
        _ => Ok(()),
    }
}
