//! Server-side apply.

use http::Response;
use schema::decode::{parse_yaml, unknown_fields};
use schema::managed::{self, Actor, ApplyError};
use serde_json::{Value, json};
use serve::Body;

use crate::answer;
use crate::codec::{self, FieldValidation};
use crate::negotiate::Output;
use crate::object::{self, metadata_mut};
use crate::server::Call;
use crate::status::{Cause, Status};

use super::change::{Changed, Edit, change};
use super::last_applied;

/// PATCH with an apply configuration.
pub async fn apply(
    call: &mut Call,
    subresource: &str,
    body: &[u8],
    validation: FieldValidation,
    output: Output,
    dry_run: bool,
) -> Result<Response<Body>, Status> {
    let manager = call.query.text("fieldManager").to_string();
    if manager.is_empty() {
        let cause = Cause::required("fieldManager", "is required for apply patch");
        return Err(Status::invalid("meta.k8s.io", "PatchOptions", "", vec![cause]));
    }
    let force = call.query.flag("force");
    let config = read(call, body, validation)?;
    let name = call.info.name.clone();
    let def = call.resource.def.clone();
    let version = def.api_version();
    let now = object::timestamp(jiff::Timestamp::now());
    let actor = Actor { manager: &manager, api_version: &version, subresource, now: &now };
    let reset = crate::managed::reset(&def, subresource);
    let merged = |live: &Value| {
        let apply = |force| managed::apply(def.schema(), live, &config, actor, force, &reset);
        let applied =
            apply(force).or_else(|error| match last_applied::settles(&def, &manager, live, error) {
                Ok(()) => apply(true),
                Err(error) => Err(error),
            });
        let mut new = applied.map_err(refused)?;
        last_applied::follow(&manager, &config, &mut new);
        let mut notes = Vec::new();
        codec::settle(&def, Some(live), &mut new, FieldValidation::Ignore, &mut notes)
            .map_err(Status::bad_request)?;
        Ok(new)
    };
    let key = call.resource.key(&call.info.namespace, &name);
    if call.server.store.get(&key).is_none() && subresource.is_empty() {
        if !object::meta_text(&config, "uid").is_empty() {
            let (group, plural) = call.names();
            let cause = format!(
                "uid mismatch: the provided object specified uid {}, and no existing object was found",
                object::meta_text(&config, "uid")
            );
            return Err(Status::conflict(group, plural, &name, &cause));
        }
        let mut new: Value = merged(&json!({}))?;
        metadata_mut(&mut new).insert("name".into(), name.as_str().into());
        match super::create_object(call, new, dry_run, false).await {
            Ok(Changed::Stored(object)) => return answer::stored(201, output, &call.resource, &object),
            Ok(Changed::Value(value)) => return answer::computed(201, output, &call.resource, &value),
            Err(status) if status.reason == "AlreadyExists" => {}
            Err(status) => return Err(status),
        }
    }
    let mut make = |old: &Value| merged(old);
    let edit = Edit { make: &mut make, subresource, put: false, dry_run, track: false };
    match change(call, &name, edit).await? {
        Changed::Stored(object) => answer::stored(200, output, &call.resource, &object),
        Changed::Value(value) => answer::computed(200, output, &call.resource, &value),
    }
}

fn refused(error: ApplyError) -> Status {
    let message = error.to_string();
    match error {
        ApplyError::Conflicts(conflicts) => Status::apply_conflict(message, &conflicts),
        ApplyError::ManagedFields => Status::bad_request(message),
    }
}

/// The configuration as written, not completed: only what it says is owned.
fn read(call: &mut Call, body: &[u8], validation: FieldValidation) -> Result<Value, Status> {
    let def = call.resource.def.clone();
    let text =
        std::str::from_utf8(body).map_err(|_| Status::bad_request("error decoding YAML: invalid UTF-8"))?;
    let (config, strict) =
        parse_yaml(text).map_err(|cause| Status::bad_request(format!("error decoding YAML: {cause}")))?;
    if !config.is_object() {
        return Err(Status::bad_request("error decoding YAML: the configuration is no object"));
    }
    let has = |field: &str| config.get(field).and_then(Value::as_str).unwrap_or("").to_string();
    let (version, kind) = (has("apiVersion"), has("kind"));
    if version.is_empty() || kind.is_empty() {
        let (group, short) = api::kinds::split(&version);
        return Err(Status::bad_request(format!("invalid object type: {group}/{short}, Kind={kind}")));
    }
    if version != def.api_version() || kind != def.kind.as_ref() {
        return Err(Status::bad_request(format!(
            "the kind in the data ({version}, Kind={kind}) does not match the expected kind ({}, Kind={})",
            def.api_version(),
            def.kind
        )));
    }
    let untyped = |cause: &str| {
        let (group, short) = api::kinds::split(&version);
        let (namespace, name) = (object::meta_text(&config, "namespace"), object::name(&config));
        let what = format!("{namespace}/{name}; {group}/{short}, Kind={kind}");
        format!("failed to create typed patch object ({what}): {cause}")
    };
    let unknown = unknown_fields(def.schema(), &config);
    if !unknown.is_empty() {
        return Err(Status::new(500, "", untyped(&undeclared(&unknown))));
    }
    validation.judge(strict, &mut call.warnings).map_err(|strict| {
        Status::bad_request(format!("error strict decoding YAML: {}", strict.join(", ")))
    })?;
    let mut probe = config.clone();
    schema::canonicalize(def.schema(), &mut probe)
        .map_err(|cause| Status::new(500, "", untyped(&cause.to_string())))?;
    Ok(config)
}

/// Unknown fields in the words of a typed patch: whatever the field validation, what has no type has no owner.
fn undeclared(unknown: &[String]) -> String {
    let path = |text: &String| text.trim_start_matches("unknown field ").trim_matches('"').to_string();
    let mut lines: Vec<String> =
        unknown.iter().map(|text| format!(".{}: field not declared in schema", path(text))).collect();
    lines.sort();
    match lines.as_slice() {
        [one] => one.clone(),
        _ => format!("errors:\n  {}", lines.join("\n  ")),
    }
}
