//! What is done for a request, generic over kinds.

mod alarm;
mod apply;
mod change;
mod create;
mod delete;
mod eviction;
mod get;
mod last_applied;
mod list;
pub mod patch;
mod scale;
mod subresource;
mod token;
mod update;
mod watch;

use http::Response;
use serve::Body;
use store::StoreError;

use crate::server::Call;
use crate::status::Status;

pub use change::{Edit, store_error};
pub use create::create_object;
pub use delete::{DeleteOptions, delete_object};
pub use eviction::selects;
pub use subresource::current;

/// Chooses the handler by verb and subresource.
pub async fn dispatch(call: &mut Call) -> Result<Response<Body>, Status> {
    if !call.resource.def.namespaced()
        && !call.info.namespace.is_empty()
        && call.info.resource != "namespaces"
    {
        return Err(Status::no_resource());
    }
    let named = !call.info.name.is_empty();
    let whole = call.info.subresource.is_empty() && call.resource.def.is_stored();
    match call.info.verb {
        "get" if named && whole => get::get(call).await,
        // The state of all others is large, and that of a request is moved whole before it begins.
        _ => Box::pin(dispatch_other(call)).await,
    }
}

/// Everything but reading one object.
async fn dispatch_other(call: &mut Call) -> Result<Response<Body>, Status> {
    if !call.info.subresource.is_empty() {
        return subresource::dispatch(call).await;
    }
    if !call.resource.def.is_stored() {
        return match call.info.verb {
            "get" | "list" if call.resource.def.group == "metrics.k8s.io" => crate::usage::answer(call).await,
            "get" | "list" if call.resource.def.kind == "ComponentStatus" => {
                crate::components::answer(call).await
            }
            "create" if call.info.name.is_empty() => subresource::review(call).await,
            _ => Err(Status::no_method()),
        };
    }
    let named = !call.info.name.is_empty();
    match call.info.verb {
        "create" if !named && scoped(call) => create::create(call).await,
        "list" => list::list(call).await,
        "watch" => watch::watch(call).await,
        "update" if named => update::update(call).await,
        "patch" if named => patch::patch(call, "").await,
        "delete" if named => delete::delete(call).await,
        "deletecollection" if scoped(call) => delete::delete_collection(call).await,
        _ => Err(Status::no_method()),
    }
}

/// Adds warnings; a request that is tried again says them once.
fn warn(warnings: &mut Vec<String>, new: Vec<String>) {
    for one in new {
        if !warnings.contains(&one) {
            warnings.push(one);
        }
    }
}

/// What is doubtful about data that only this crate can read: a TLS secret whose key is another certificate's.
fn doubts(resource: &crate::resource::Resource, object: &serde_json::Value) -> Vec<String> {
    use base64::Engine;
    let is_secret = resource.def.group.is_empty() && resource.def.kind == "Secret";
    if !is_secret || object["type"] != "kubernetes.io/tls" {
        return Vec::new();
    }
    let data = |key: &str| {
        let text = object["data"][key].as_str().unwrap_or("");
        base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default()
    };
    serve::pki::pair_fault(&data("tls.crt"), &data("tls.key")).map(str::to_owned).into_iter().collect()
}

/// Whether the path names a namespace where the kind needs one.
fn scoped(call: &Call) -> bool {
    !call.resource.def.namespaced() || !call.info.namespace.is_empty()
}

/// What a store's refusal means to a client who asked for no version in particular.
pub fn unavailable(error: StoreError) -> Status {
    match error {
        StoreError::Future { requested, latest } => Status::too_large_revision(requested, latest),
        StoreError::Expired { .. } => {
            Status::expired("The resourceVersion for the provided list is too old.")
        }
        StoreError::NoSpace(cause) => Status::internal(format!("no space: {cause}")),
        other => Status::unavailable(other.to_string()),
    }
}

/// How long a read waits for a revision that has not come yet.
const REACH_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);

/// Waits for a revision, but not for ever.
pub async fn reach(store: &dyn store::Store, revision: Option<u64>) -> Result<(), Status> {
    match tokio::time::timeout(REACH_TIMEOUT, store.reach(revision)).await {
        Ok(reached) => reached.map(|_| ()).map_err(unavailable),
        Err(_) => Err(Status::too_large_revision(revision.unwrap_or(0), store.revision())),
    }
}
