//! A request's body to a canonical value: JSON, YAML or protobuf, with the answers clients know for bad input.

use serde_json::{Map, Value};

use crate::canonical::canonicalize;
use crate::error::Path;
use crate::json::{self, MAX_STRICT};
use crate::protobuf;
use crate::types::{Schema, Type};

/// The form of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

/// What the body should hold. A body without `apiVersion` and `kind` is taken to be that.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// API group; empty for core.
    pub group: &'a str,
    /// Version.
    pub version: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// Its schema.
    pub schema: &'a Schema,
}

/// A decoded body.
#[derive(Debug)]
pub struct Decoded {
    /// The canonical value with `apiVersion` and `kind`.
    pub value: Value,
    /// Unknown and duplicate fields, for strict refusals or warnings.
    pub strict: Vec<String>,
}

/// Why a body is refused; the message of a 400 `BadRequest`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

impl Target<'_> {
    fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    fn unrecognized(&self, why: &str, bytes: &[u8]) -> Refusal {
        Refusal(format!(
            "the object provided is unrecognized (must be of type {}): {why} ({})",
            self.kind,
            excerpt(bytes)
        ))
    }

    fn unhandled(&self, kind: &str, version: &str, why: &str) -> Refusal {
        Refusal(format!("{kind} in version {version:?} cannot be handled as a {}: {why}", self.kind))
    }

    /// The refusal of a body with strict errors.
    pub fn strict_refusal(&self, strict: &[String]) -> Refusal {
        self.unhandled(self.kind, self.version, &format!("strict decoding error: {}", strict.join(", ")))
    }
}

/// The first 30 bytes, as text if they begin an object, else in hex.
fn excerpt(bytes: &[u8]) -> String {
    const MAX: usize = 30;
    let short = &bytes[..bytes.len().min(MAX)];
    let more = if bytes.len() > MAX { " ..." } else { "" };
    match bytes.first() {
        None => "<empty>".to_string(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(short)),
        Some(_) => {
            let hex: String = short.iter().map(|b| format!("{b:02x}")).collect();
            format!("{hex}{more}")
        }
    }
}

/// Decodes a body.
pub fn decode(format: Format, bytes: &[u8], target: &Target<'_>) -> Result<Decoded, Refusal> {
    let (mut value, strict) = match format {
        Format::Json => from_json(bytes, target)?,
        Format::Yaml => from_yaml(bytes, target)?,
        Format::Protobuf => (from_protobuf(bytes, target)?, Vec::new()),
    };
    let unhandled = |e: String| target.unhandled(target.kind, target.version, &e);
    canonicalize(target.schema, &mut value).map_err(|e| unhandled(e.to_string()))?;
    if let Value::Object(map) = &mut value {
        map.insert("apiVersion".to_string(), Value::String(target.api_version()));
        map.insert("kind".to_string(), Value::String(target.kind.to_string()));
    }
    Ok(Decoded { value, strict })
}

fn from_json(bytes: &[u8], target: &Target<'_>) -> Result<(Value, Vec<String>), Refusal> {
    let unknown = |why: &str| {
        target.unrecognized(&format!("couldn't get version/kind; json parse error: {why}"), bytes)
    };
    let parsed = json::parse(bytes, Some(target.schema)).map_err(|e| unknown(&e.to_string()))?;
    check_kind(&parsed.value, target, &unknown)?;
    let mut value = parsed.value;
    if value.is_null() {
        value = Value::Object(Map::new());
    }
    Ok((value, parsed.strict))
}

/// The body's own kind, if it has one, must be the target's.
fn check_kind(value: &Value, target: &Target<'_>, unknown: &dyn Fn(&str) -> Refusal) -> Result<(), Refusal> {
    const INTO: &str = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
    let got = |v: &Value| match v {
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        _ => "object",
    };
    let map = match value {
        Value::Object(map) => map,
        Value::Null => return Ok(()),
        other => {
            return Err(unknown(&format!(
                "json: cannot unmarshal {} into Go value of type {INTO}",
                got(other)
            )));
        }
    };
    let mut text = [("apiVersion", ""), ("kind", "")];
    for (name, slot) in &mut text {
        match map.get(*name) {
            None | Some(Value::Null) => {}
            Some(Value::String(s)) => *slot = s,
            Some(other) => {
                let why = format!(
                    "json: cannot unmarshal {} into Go struct field .{name} of type string",
                    got(other)
                );
                return Err(unknown(&why));
            }
        }
    }
    same_kind(text[0].1, text[1].1, target)
}

fn same_kind(api_version: &str, kind: &str, target: &Target<'_>) -> Result<(), Refusal> {
    let own = target.api_version();
    let api_version = if api_version.is_empty() { own.as_str() } else { api_version };
    let kind = if kind.is_empty() { target.kind } else { kind };
    if api_version == own && kind == target.kind {
        return Ok(());
    }
    let version = api_version.rsplit('/').next().unwrap_or(api_version);
    let why = format!("no kind {kind:?} is registered for version {api_version:?} in scheme \"kutter\"");
    Err(target.unhandled(kind, version, &why))
}

fn from_yaml(bytes: &[u8], target: &Target<'_>) -> Result<(Value, Vec<String>), Refusal> {
    let wrong = |why: String| target.unrecognized(&format!("yaml: {why}"), bytes);
    let text = std::str::from_utf8(bytes).map_err(|_| wrong("invalid Unicode character".to_string()))?;
    let (value, duplicates) = parse_yaml(text).map_err(wrong)?;
    let mut strict = duplicates;
    let as_json = value.to_string();
    let (value, unknown) = from_json(as_json.as_bytes(), target)
        .map_err(|e| Refusal(e.0.replace(&excerpt(as_json.as_bytes()), &excerpt(bytes))))?;
    strict.extend(unknown);
    Ok((value, strict))
}

/// Parses YAML (of which JSON is a part); the second part tells of keys given twice.
pub fn parse_yaml(text: &str) -> Result<(Value, Vec<String>), String> {
    use serde_saphyr::DuplicateKeyPolicy::{Error, LastWins};
    if text.trim().is_empty() {
        return Ok((Value::Null, Vec::new()));
    }
    // Most programs send JSON, which costs a tenth when it is read as that.
    if text.trim_start().starts_with('{')
        && let Ok(parsed) = json::parse(text.as_bytes(), None)
        && parsed.strict.is_empty()
    {
        return Ok((parsed.value, Vec::new()));
    }
    let strict = serde_saphyr::from_str_with_options::<Value>(text, yaml_options(Error));
    let first = match strict {
        Ok(value) => return Ok((value, Vec::new())),
        Err(e) => e.to_string(),
    };
    let value = serde_saphyr::from_str_with_options::<Value>(text, yaml_options(LastWins)).map_err(|e| {
        let message = e.to_string();
        message.lines().next().unwrap_or("malformed document").trim_start_matches("error: ").to_string()
    })?;
    let line = first.lines().next().unwrap_or("duplicate key").trim_start_matches("error: ");
    let line = already_set(line).unwrap_or_else(|| line.to_string());
    Ok((value, vec![format!("yaml: unmarshal errors:\n  {line}")]))
}

/// The parser's `duplicate mapping key: KEY, … at line N, column M` in the words clients know.
fn already_set(message: &str) -> Option<String> {
    let (key, rest) = message.strip_prefix("duplicate mapping key: ")?.rsplit_once(" at line ")?;
    let key = key.split_once(", set ").map_or(key, |(key, _)| key);
    let line = rest.split(',').next()?;
    Some(format!("line {line}: key {key:?} already set in map"))
}

fn yaml_options(policy: serde_saphyr::DuplicateKeyPolicy) -> serde_saphyr::Options {
    serde_saphyr::options! { duplicate_keys: policy, legacy_octal_numbers: true, with_snippet: false }
}

fn from_protobuf(bytes: &[u8], target: &Target<'_>) -> Result<Value, Refusal> {
    let envelope = protobuf::open(bytes).map_err(|e| target.unrecognized(&e.to_string(), bytes))?;
    same_kind(envelope.api_version, envelope.kind, target)?;
    if !matches!(envelope.content_type, "" | "application/vnd.kubernetes.protobuf") {
        let why = format!("unsupported content type {:?} in the envelope", envelope.content_type);
        return Err(target.unrecognized(&why, bytes));
    }
    let unhandled = |e: protobuf::DecodeError| target.unhandled(target.kind, target.version, &e.to_string());
    protobuf::decode(target.schema, envelope.raw).map_err(unhandled)
}

/// The fields of a value that its schema does not know, as `unknown field "…"`: what a patch brought in.
pub fn unknown_fields(schema: &Schema, value: &Value) -> Vec<String> {
    let mut out = Vec::new();
    find_unknown(schema, value, &Path::Root, &mut out);
    out
}

fn find_unknown(schema: &Schema, value: &Value, path: &Path<'_>, out: &mut Vec<String>) {
    if out.len() >= MAX_STRICT {
        return;
    }
    match (&schema.ty, value) {
        (Type::Object(o) | Type::Either(_, o), Value::Object(map)) => {
            for (name, v) in map {
                match o.get().field(name) {
                    Some(field) => find_unknown(&field.schema, v, &path.child(name), out),
                    None if schema.preserve_unknown => {}
                    None => out.push(format!("unknown field \"{}\"", path.child(name))),
                }
            }
        }
        (Type::Map(item), Value::Object(map)) => {
            for (name, v) in map {
                find_unknown(item, v, &path.child(name), out);
            }
        }
        (Type::List(item), Value::Array(items)) => {
            for (i, v) in items.iter().enumerate() {
                find_unknown(item, v, &path.index(i), out);
            }
        }
        _ => {}
    }
}
