//! `componentstatuses`: the parts of the control plane this server knows of, as they are now. Nothing is stored.

use http::Response;
use serde_json::{Value, json};
use serve::Body;

use crate::negotiate::View;
use crate::server::{ApiServer, Call};
use crate::status::Status;
use crate::{answer, view};

fn component(name: &str, failure: Option<String>) -> Value {
    let condition = match failure {
        None => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Some(cause) => json!({"type": "Healthy", "status": "False", "message": "", "error": cause}),
    };
    json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name},
        "conditions": [condition]})
}

/// The store, and the roles that run within this process: these are well if the process is.
fn all(server: &ApiServer) -> Vec<Value> {
    let mut names: Vec<&'static str> = server.components.read().clone();
    names.sort_unstable();
    let mut all: Vec<Value> = names.into_iter().map(|name| component(name, None)).collect();
    all.push(component("etcd-0", server.store_failure()));
    all
}

/// GET of one or all.
pub async fn answer(call: &mut Call) -> Result<Response<Body>, Status> {
    let output = call.output()?;
    let items = all(&call.server);
    if !call.info.name.is_empty() {
        let name = call.info.name.as_str();
        let found = items.into_iter().find(|item| crate::object::name(item) == name);
        let found = found.ok_or_else(|| Status::not_found("", "componentstatus", name))?;
        return answer::computed(200, output, &call.resource, &found);
    }
    Ok(match output.view {
        View::Table => {
            let include = call.query.get("includeObject").unwrap_or("Metadata");
            let table = view::table(&call.resource, &items, json!({"resourceVersion": ""}), true, include);
            answer::value(200, output.format, &table)
        }
        View::Metadata => {
            let items: Vec<Value> = items.iter().map(view::partial).collect();
            let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": {}, "items": items});
            answer::typed(200, output.format, "meta_v1.PartialObjectMetadataList", &list)
        }
        View::Whole => {
            let list = json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {},
                "items": items});
            answer::typed(200, output.format, "core_v1.ComponentStatusList", &list)
        }
    })
}
