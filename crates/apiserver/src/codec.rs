//! Bodies in: bytes of any accepted media type to a value of the kind's canonical form, with defaults.

use api::KindDef;
use schema::decode::{Format, Target, unknown_fields};
use serde_json::{Map, Value};

use crate::negotiate::{MEDIA_TYPES, MEDIA_TYPES_CUSTOM};
use crate::query::Query;
use crate::status::{Cause, Status};

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
                let cause = Cause::field("FieldValueNotSupported", "fieldValidation", message);
                Err(Status::invalid("meta.k8s.io", options_kind, "", vec![cause]))
            }
        }
    }

    /// Applies the choice to what a strict reader would refuse.
    pub fn judge(self, strict: Vec<String>, warnings: &mut Vec<String>) -> Result<(), Vec<String>> {
        match self {
            _ if strict.is_empty() => Ok(()),
            Self::Ignore => Ok(()),
            Self::Warn => {
                warnings.extend(strict);
                Ok(())
            }
            Self::Strict => Err(strict),
        }
    }
}

/// The form of a body by its media type.
pub fn form(media: &str, protobuf: bool) -> Result<Format, Status> {
    match media {
        "application/json" => Ok(Format::Json),
        "application/yaml" => Ok(Format::Yaml),
        "application/vnd.kubernetes.protobuf" if protobuf => Ok(Format::Protobuf),
        _ => Err(Status::unsupported_media_type(if protobuf { MEDIA_TYPES } else { MEDIA_TYPES_CUSTOM })),
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
    let target = Target { group: &def.group, version: &def.version, kind: &def.kind, schema: def.schema() };
    decode_as(&target, form(media, !def.custom)?, body, validation, warnings)
}

/// Reads a body as a type that need not be a served kind.
pub fn decode_as(
    target: &Target<'_>,
    format: Format,
    body: &[u8],
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Value, Status> {
    let refused = |refusal: schema::decode::Refusal| Status::bad_request(refusal.to_string());
    let decoded = schema::decode::decode(format, body, target).map_err(refused)?;
    validation.judge(decoded.strict, warnings).map_err(|strict| refused(target.strict_refusal(&strict)))?;
    Ok(decoded.value)
}

/// Brings a computed value into canonical form by its schema, as a typed decoder would. `old` is the stored state
/// it was computed from: what is as it was is in form already.
pub fn settle(
    def: &KindDef,
    old: Option<&Value>,
    value: &mut Value,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    let unchanged = old.filter(|_| !def.custom).map_or_else(Map::new, |old| take_unchanged(old, value));
    let strict = match validation {
        FieldValidation::Ignore => Vec::new(),
        _ => unknown_fields(def.schema(), value),
    };
    validation
        .judge(strict, warnings)
        .map_err(|strict| format!("strict decoding error: {}", strict.join(", ")))?;
    if def.custom {
        schema::prune::prune(def.schema(), value);
    }
    schema::canonicalize(def.schema(), value).map_err(|cause| cause.to_string())?;
    if let Value::Object(map) = value {
        map.extend(unchanged);
    }
    Ok(())
}

/// Takes out the parts of `new` that are as they are in `old`.
fn take_unchanged(old: &Value, new: &mut Value) -> Map<String, Value> {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object_mut()) else { return Map::new() };
    let part = |(_, value): &(&String, &Value)| value.is_object();
    let same = old.iter().filter(part).filter(|(key, value)| new.get(*key) == Some(value));
    let same: Vec<&String> = same.map(|(key, _)| key).collect();
    same.into_iter().filter_map(|key| new.remove_entry(key)).collect()
}

/// Fills in defaults.
pub fn default(def: &KindDef, value: &mut Value) {
    schema::defaulting::default(def.schema(), value);
}
