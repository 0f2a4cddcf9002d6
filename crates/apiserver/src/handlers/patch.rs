//! PATCH: JSON patch and merge patch here; strategic merge and apply by the schema engine.

use http::Response;
use serde_json::Value;
use serve::Body;

use crate::answer;
use crate::codec::{self, FieldValidation};
use crate::negotiate;
use crate::object::set_at;
use crate::server::Call;
use crate::status::{Cause, Status};

use super::change::{Changed, Edit, change};

/// More operations than this in one JSON patch are refused, as upstream does.
const OPERATIONS_MAX: usize = 10_000;

/// A decoded patch.
pub enum Patch {
    /// RFC 6902.
    Json(json_patch::Patch),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' strategic merge.
    Strategic(Value),
}

/// PATCH of the object or of a subresource that takes the object itself.
pub async fn patch(call: &mut Call, subresource: &str) -> Result<Response<Body>, Status> {
    let output = call.output()?;
    let dry_run = call.query.dry_run()?;
    let validation = FieldValidation::parse(&call.query, "PatchOptions")?;
    let body = call.take_body().await?;
    if negotiate::content_type(&call.head.headers) == "application/apply-patch+yaml" {
        return super::apply::apply(call, subresource, &body, validation, output, dry_run).await;
    }
    let patch = decode(call, &body)?;
    let name = call.info.name.clone();
    let def = call.resource.def.clone();
    let mut notes = Vec::new();
    let mut make = |old: &Value| {
        notes.clear();
        let mut new = apply(&patch, def.schema(), old)?;
        set_at(&mut new, "apiVersion", def.api_version().into());
        codec::settle(&def, Some(old), &mut new, validation, &mut notes)
            .map_err(|cause| patch_invalid(&cause))?;
        Ok(new)
    };
    let edit = Edit { make: &mut make, subresource, put: false, dry_run, track: true };
    let changed = change(call, &name, edit).await?;
    call.warnings.append(&mut notes);
    match changed {
        Changed::Stored(object) => answer::stored(200, output, &call.resource, &object),
        Changed::Value(value) => answer::computed(200, output, &call.resource, &value),
    }
}

/// Reads the patch by its media type.
pub fn decode(call: &Call, body: &[u8]) -> Result<Patch, Status> {
    let custom = call.resource.def.custom;
    let merge = || {
        let parsed = schema::json::parse(body, None).map(|parsed| parsed.value);
        parsed.map_err(|cause| Status::bad_request(format!("error decoding patch: {cause}")))
    };
    match negotiate::content_type(&call.head.headers) {
        "application/json-patch+json" => {
            let patch: json_patch::Patch = serde_json::from_slice(body)
                .map_err(|cause| Status::bad_request(format!("error decoding patch: {cause}")))?;
            if patch.0.len() > OPERATIONS_MAX {
                let message = format!(
                    "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {}",
                    patch.0.len()
                );
                return Err(Status::new(413, "RequestEntityTooLarge", message));
            }
            Ok(Patch::Json(patch))
        }
        "application/merge-patch+json" => {
            let patch = merge()?;
            match patch.is_object() {
                true => Ok(Patch::Merge(patch)),
                false => Err(Status::bad_request("error decoding patch: the patch is not an object")),
            }
        }
        "application/strategic-merge-patch+json" if !custom => Ok(Patch::Strategic(merge()?)),
        _ => Err(Status::new(415, "UnsupportedMediaType", "415: Unsupported Media Type").about("", "", "")),
    }
}

/// The patched object.
pub fn apply(patch: &Patch, schema: &schema::Schema, old: &Value) -> Result<Value, Status> {
    let mut new = old.clone();
    match patch {
        Patch::Json(operations) => {
            json_patch::patch(&mut new, operations).map_err(|cause| {
                tracing::debug!(%cause, "json patch refused");
                let text = "the server rejected our request due to an error in our request";
                Status::new(422, "Invalid", text).about("", "", "")
            })?;
        }
        Patch::Merge(patch) => json_patch::merge(&mut new, patch),
        Patch::Strategic(patch) => {
            new = schema::strategic::strategic_merge(schema, old, patch)
                .map_err(|cause| Status::bad_request(cause.to_string()))?;
        }
    }
    Ok(new)
}

fn patch_invalid(cause: &str) -> Status {
    let cause = Cause::field("FieldValueInvalid", "patch", format!("Invalid value: {cause}"));
    Status::invalid("", "", "", vec![cause])
}
