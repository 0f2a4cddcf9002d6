//! Subresources: those that are the object itself, and those with a kind of their own.

use http::Response;
use schema::decode::Target;
use serde_json::{Value, json};
use serve::Body;

use crate::codec::{self, FieldValidation};
use crate::object::{self, at, set_at};
use crate::server::Call;
use crate::status::{Cause, Status};
use crate::{answer, negotiate};

use super::change::{Changed, Edit, change, value_of};
use super::{eviction, patch, scale, update};

/// Chooses by the subresource's name.
pub async fn dispatch(call: &mut Call) -> Result<Response<Body>, Status> {
    let name = call.info.subresource.clone();
    let Some(subresource) = call.resource.def.subresource(&name).cloned() else {
        return Err(Status::no_resource());
    };
    if crate::connect::is_connect(&name) && call.resource.def.group.is_empty() {
        return crate::connect::connect(call, &name).await;
    }
    let verb = call.info.verb;
    if !subresource.verbs.iter().any(|allowed| allowed == verb) {
        return Err(Status::no_method());
    }
    match (name.as_str(), verb) {
        ("scale", "get") => scale::get(call).await,
        ("scale", "update" | "patch") => scale::change_scale(call).await,
        ("binding", "create") => binding(call).await,
        ("eviction", "create") => eviction::evict(call).await,
        (_, "get") => super::get::get(call).await,
        (_, "update") => update::put(call, &name).await,
        (_, "patch") => patch::patch(call, &name).await,
        ("token", "create") => super::token::create(call).await,
        _ => Err(Status::no_method()),
    }
}

/// POST to a kind that is answered instead of stored (reviews).
pub async fn review(call: &mut Call) -> Result<Response<Body>, Status> {
    if call.resource.def.kind == "Binding" {
        return binding(call).await;
    }
    crate::review::answer(call).await
}

/// Reads the body as a subresource's kind.
pub async fn body_of(
    call: &mut Call,
    type_name: &'static str,
    options: &'static str,
) -> Result<Value, Status> {
    let schema = api::schema_of(type_name).ok_or_else(|| Status::internal(format!("no type {type_name}")))?;
    let validation = FieldValidation::parse(&call.query, options)?;
    let name = call.info.subresource.clone();
    let (group, version, kind) = match call.resource.def.subresource(&name) {
        Some(subresource) => subresource.kind.clone(),
        None => {
            let def = &call.resource.def;
            (def.group.clone(), def.version.clone(), def.kind.clone())
        }
    };
    let body = call.take_body().await?;
    let format = codec::form(negotiate::content_type(&call.head.headers), true)?;
    let target = Target { group: &group, version: &version, kind: &kind, schema: &schema };
    codec::decode_as(&target, format, &body, validation, &mut call.warnings)
}

/// POST of a binding: the scheduler's decision.
async fn binding(call: &mut Call) -> Result<Response<Body>, Status> {
    let output = call.output()?;
    let dry_run = call.query.dry_run()?;
    let binding = body_of(call, "core_v1.Binding", "CreateOptions").await?;
    let name = match call.info.name.is_empty() {
        true => object::name(&binding).to_string(),
        false => call.info.name.clone(),
    };
    if call.resource.def.plural != "pods" {
        let catalog = call.server.catalog();
        call.resource = catalog.get("", "v1", "pods").cloned().ok_or_else(Status::no_resource)?;
    }
    let target = at(&binding, "target.name").and_then(Value::as_str).unwrap_or("").to_string();
    let kind = at(&binding, "target.kind").and_then(Value::as_str).unwrap_or("");
    if target.is_empty() || !matches!(kind, "" | "Node") {
        let cause = match target.is_empty() {
            true => Cause::required("target.name", ""),
            false => Cause::field(
                "FieldValueNotSupported",
                "target.kind",
                format!("Unsupported value: {kind:?}: supported values: \"Node\", \"<empty>\""),
            ),
        };
        return Err(Status::invalid("", "Binding", &name, vec![cause]));
    }
    let uid = object::meta_text(&binding, "uid").to_string();
    let (group, plural) = ("", "pods");
    let annotations = binding.pointer("/metadata/annotations").and_then(Value::as_object).cloned();
    let mut make = |old: &Value| {
        let refuse = |cause: String| Status::conflict(group, plural, &name, &cause);
        if !uid.is_empty() && uid != object::meta_text(old, "uid") {
            let had = object::meta_text(old, "uid");
            return Err(refuse(format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {had}"
            )));
        }
        if object::is_deleting(old) {
            return Err(refuse(format!("pod {name} is being deleted, cannot be assigned to a host")));
        }
        let node = at(old, "spec.nodeName").and_then(Value::as_str).unwrap_or("");
        if !node.is_empty() {
            return Err(refuse(format!("pod {name} is already assigned to node {node:?}")));
        }
        if at(old, "spec.schedulingGates").and_then(Value::as_array).is_some_and(|gates| !gates.is_empty()) {
            return Err(refuse(format!("pod {name} has non-empty .spec.schedulingGates")));
        }
        let mut new = old.clone();
        set_at(&mut new, "spec.nodeName", target.as_str().into());
        for (key, value) in annotations.iter().flatten() {
            let own = object::metadata_mut(&mut new).entry("annotations").or_insert_with(|| json!({}));
            own[key] = value.clone();
        }
        scheduled(&mut new);
        Ok(new)
    };
    let edit = Edit { make: &mut make, subresource: "binding", put: false, dry_run, track: false };
    change(call, &name, edit).await?;
    let done =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(answer::typed(201, output.format, "meta_v1.Status", &done))
}

/// The condition that says that the pod has a node.
fn scheduled(pod: &mut Value) {
    let now = object::timestamp(jiff::Timestamp::now());
    let mut conditions = at(pod, "status.conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": now});
    match conditions.iter_mut().find(|condition| condition["type"] == "PodScheduled") {
        Some(own) if own["status"] == "True" => {}
        Some(own) => *own = condition,
        None => conditions.push(condition),
    }
    set_at(pod, "status.conditions", conditions.into());
}

/// The object of the request as a value.
pub fn current(call: &Call) -> Result<Value, Status> {
    let key = call.resource.key(&call.info.namespace, &call.info.name);
    let object = call.server.store.get(&key).ok_or_else(|| call.not_found(&call.info.name))?;
    value_of(call, &object)
}

/// The value of a change, stored or not.
pub fn changed_value(call: &Call, changed: Changed) -> Result<Value, Status> {
    match changed {
        Changed::Stored(object) => value_of(call, &object),
        Changed::Value(value) => Ok(value),
    }
}
