//! API objects in their three forms: decoded, completed, validated, encoded again.

use std::sync::Arc;

use api::{KindDef, Registry};
use schema::decode::{Format, Target as Wanted, decode};
use schema::{canonicalize, json, protobuf};
use serde_json::Value;

use super::{Run, Target, split_line};

/// Objects of every kind, each with most of its fields.
const TABLE: &str = include_str!("../../../crates/api/tests/validation.table");
/// Objects before and after defaults.
const DEFAULTS: &str = include_str!("../../../crates/api/src/tests/defaults.table");

/// JSON without a schema.
pub const JSON: Target =
    Target { name: "json", what: "JSON values", seeds: json_seeds, start: || Box::new(read_json) };

/// Objects with a schema.
pub const OBJECT: Target =
    Target { name: "object", what: "bodies in JSON, YAML and protobuf", seeds: object_seeds, start: objects };

/// The objects of the validation table, by kind.
pub fn samples() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = TABLE.lines().filter(|line| !line.starts_with("create ") && !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).filter(|(_, object)| object.starts_with('{'))
}

fn json_seeds() -> Vec<Vec<u8>> {
    let odd = [
        "1.5e3",
        "[1,{\"a\":\"\\ud83d\\ude00\"}]",
        "{\"a\":1,\"a\":2}",
        " null ",
        "-0.0",
        "9223372036854775808",
    ];
    let defaults = DEFAULTS.lines().filter(|line| line.starts_with('{') && line.len() < 400);
    odd.into_iter().chain(defaults).map(|text| text.as_bytes().to_vec()).collect()
}

/// What was read once is read again from its own text.
fn read_json(input: &[u8]) {
    let Ok(first) = json::parse(input, None) else { return };
    let text = first.value.to_string();
    let second = json::parse(text.as_bytes(), None).expect("JSON of our own");
    assert_eq!(first.value, second.value, "JSON changes on its second way");
    assert!(second.strict.is_empty(), "strict complaints about our own: {:?}", second.strict);
}

fn object_seeds() -> Vec<Vec<u8>> {
    let registry = Registry::builtin();
    let mut seeds = Vec::new();
    for (kind, text) in samples() {
        seeds.push(format!("{kind} json\n{text}").into_bytes());
        let mut value: Value = serde_json::from_str(text).expect("a sample is JSON");
        let def = of_kind(&registry, kind).expect("a sample's kind is known");
        canonicalize(def.schema(), &mut value).expect("a sample is canonical");
        let bytes = protobuf::encode_object(def.schema(), &def.api_version(), kind, &value);
        seeds.push([format!("{kind} protobuf\n").as_bytes(), &bytes].concat());
        seeds.push(format!("{kind} yaml\n{}", yaml(&value, 0)).into_bytes());
    }
    seeds
}

/// The kind of this name in its group's best version.
pub fn of_kind<'a>(registry: &'a Registry, kind: &str) -> Option<&'a Arc<KindDef>> {
    registry.kinds().iter().find(|def| def.kind.as_ref() == kind)
}

/// Block YAML of a value.
fn yaml(value: &Value, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) if !map.is_empty() => {
            map.iter().map(|(key, value)| format!("\n{indent}{key}: {}", yaml(value, depth + 1))).collect()
        }
        Value::Array(list) if !list.is_empty() => {
            list.iter().map(|value| format!("\n{indent}- {}", yaml(value, depth + 1))).collect()
        }
        other => other.to_string(),
    }
}

fn objects() -> Run {
    let registry = Registry::builtin();
    Box::new(move |input| {
        let Some((head, body)) = split_line(input) else { return };
        let (kind, form) = head.split_once(' ').unwrap_or((head, "json"));
        let Some(def) = of_kind(&registry, kind) else { return };
        let format = match form {
            "protobuf" => Format::Protobuf,
            "yaml" => Format::Yaml,
            _ => Format::Json,
        };
        through(def, format, body);
    })
}

/// The way of a created object; what it ends as is stable in every form.
fn through(def: &KindDef, format: Format, body: &[u8]) {
    let target = Wanted { group: &def.group, version: &def.version, kind: &def.kind, schema: def.schema() };
    let Ok(mut decoded) = decode(format, body, &target) else { return };
    schema::defaulting::default(def.schema(), &mut decoded.value);
    let value = decoded.value;
    let mut again = value.clone();
    canonicalize(def.schema(), &mut again).expect("defaults keep to the schema");
    drop(api::validation::create(def, &value));
    drop(api::validation::update(def, "", &value, &again));
    drop(schema::typed::field_set(def.schema(), &value));
    let text = value.to_string();
    let back = decode(Format::Json, text.as_bytes(), &target).expect("JSON of our own");
    assert_eq!(back.value, again, "{}: JSON and back", def.kind);
    let bytes = protobuf::encode_object(def.schema(), &def.api_version(), &def.kind, &again);
    let wire = decode(Format::Protobuf, &bytes, &target).expect("protobuf of our own");
    let bytes_again = protobuf::encode_object(def.schema(), &def.api_version(), &def.kind, &wire.value);
    assert_eq!(bytes, bytes_again, "{}: protobuf and back", def.kind);
}
