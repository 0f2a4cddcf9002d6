//! The protobuf form of the OpenAPI v2 document: the message `openapi.v2.Document` of gnostic's `OpenAPIv2.proto`.
//!
//! Old clients (kubectl before 1.27, client-go's `OpenAPISchema`) ask for nothing else. The messages are a table of
//! JSON name, tag and form; what the document never holds is left out.

use serde_json::{Map, Value};

/// Media type of the answer.
pub const MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// The name under which most clients still ask for it.
pub const MEDIA_TYPE_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The document, given as JSON, as protobuf bytes.
pub fn encode(document: &Value) -> Vec<u8> {
    DOCUMENT.bytes(document)
}

/// A message: its fields, and the tag under which it keeps `x-…` members (0: it keeps none).
struct Message {
    fields: &'static [(&'static str, u32, Form)],
    extensions: u32,
}

/// How a JSON member is written.
enum Form {
    Text,
    Texts,
    Flag,
    Whole,
    Real,
    /// Any JSON value: `Any { yaml }`.
    Free,
    /// A list of any JSON values.
    Frees,
    One(&'static Message),
    /// A list of oneof messages; the function picks tag and message of an element.
    Choices(fn(&Value) -> Choice),
    /// A oneof message.
    Choice(fn(&Value) -> Choice),
    /// An object as a message of `Named { name = 1, value = 2 }` under this tag; the values are oneofs where the
    /// second tag is not 0.
    Named(u32, u32, &'static Message),
    /// Text or texts as a message of `repeated string value = 1`.
    Words,
    /// A schema as a message of `repeated Schema schema = 1`.
    Items,
    /// A schema or a truth: `oneof { schema = 1, boolean = 2 }`.
    Additional,
    /// `repeated SecurityRequirement`.
    Requirements,
}

/// A path of tags into nested oneofs, and the message at its end.
type Choice = (&'static [u32], &'static Message);

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Form::Text),
        ("info", 2, Form::One(&INFO)),
        ("host", 3, Form::Text),
        ("basePath", 4, Form::Text),
        ("schemes", 5, Form::Texts),
        ("consumes", 6, Form::Texts),
        ("produces", 7, Form::Texts),
        ("paths", 8, Form::Named(2, 0, &PATH_ITEM)),
        ("definitions", 9, Form::Named(1, 0, &SCHEMA)),
        ("security", 12, Form::Requirements),
        ("securityDefinitions", 13, Form::Named(1, 2, &API_KEY)),
    ],
    extensions: 16,
};

static INFO: Message = Message {
    fields: &[("title", 1, Form::Text), ("version", 2, Form::Text), ("description", 3, Form::Text)],
    extensions: 7,
};

static API_KEY: Message = Message {
    fields: &[
        ("type", 1, Form::Text),
        ("name", 2, Form::Text),
        ("in", 3, Form::Text),
        ("description", 4, Form::Text),
    ],
    extensions: 5,
};

static PATH_ITEM: Message = Message {
    fields: &[
        ("$ref", 1, Form::Text),
        ("get", 2, Form::One(&OPERATION)),
        ("put", 3, Form::One(&OPERATION)),
        ("post", 4, Form::One(&OPERATION)),
        ("delete", 5, Form::One(&OPERATION)),
        ("options", 6, Form::One(&OPERATION)),
        ("head", 7, Form::One(&OPERATION)),
        ("patch", 8, Form::One(&OPERATION)),
        ("parameters", 9, Form::Choices(parameter)),
    ],
    extensions: 10,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Form::Texts),
        ("summary", 2, Form::Text),
        ("description", 3, Form::Text),
        ("operationId", 5, Form::Text),
        ("produces", 6, Form::Texts),
        ("consumes", 7, Form::Texts),
        ("parameters", 8, Form::Choices(parameter)),
        ("responses", 9, Form::Named(1, 1, &RESPONSE)),
        ("schemes", 10, Form::Texts),
        ("deprecated", 11, Form::Flag),
        ("security", 12, Form::Requirements),
    ],
    extensions: 13,
};

static RESPONSE: Message = Message {
    fields: &[("description", 1, Form::Text), ("schema", 2, Form::Choice(|_| (&[1], &SCHEMA)))],
    extensions: 5,
};

static REFERENCE: Message =
    Message { fields: &[("$ref", 1, Form::Text), ("description", 2, Form::Text)], extensions: 0 };

static BODY: Message = Message {
    fields: &[
        ("description", 1, Form::Text),
        ("name", 2, Form::Text),
        ("in", 3, Form::Text),
        ("required", 4, Form::Flag),
        ("schema", 5, Form::One(&SCHEMA)),
    ],
    extensions: 6,
};

/// Header and path parameters have the same fields.
static PATH_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Form::Flag),
        ("in", 2, Form::Text),
        ("description", 3, Form::Text),
        ("name", 4, Form::Text),
        ("type", 5, Form::Text),
        ("format", 6, Form::Text),
        ("uniqueItems", 19, Form::Flag),
    ],
    extensions: 22,
};

static QUERY_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Form::Flag),
        ("in", 2, Form::Text),
        ("description", 3, Form::Text),
        ("name", 4, Form::Text),
        ("allowEmptyValue", 5, Form::Flag),
        ("type", 6, Form::Text),
        ("format", 7, Form::Text),
        ("uniqueItems", 20, Form::Flag),
    ],
    extensions: 23,
};

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Form::Text),
        ("format", 2, Form::Text),
        ("title", 3, Form::Text),
        ("description", 4, Form::Text),
        ("default", 5, Form::Free),
        ("multipleOf", 6, Form::Real),
        ("maximum", 7, Form::Real),
        ("exclusiveMaximum", 8, Form::Flag),
        ("minimum", 9, Form::Real),
        ("exclusiveMinimum", 10, Form::Flag),
        ("maxLength", 11, Form::Whole),
        ("minLength", 12, Form::Whole),
        ("pattern", 13, Form::Text),
        ("maxItems", 14, Form::Whole),
        ("minItems", 15, Form::Whole),
        ("uniqueItems", 16, Form::Flag),
        ("maxProperties", 17, Form::Whole),
        ("minProperties", 18, Form::Whole),
        ("required", 19, Form::Texts),
        ("enum", 20, Form::Frees),
        ("additionalProperties", 21, Form::Additional),
        ("type", 22, Form::Words),
        ("items", 23, Form::Items),
        ("allOf", 24, Form::Choices(|_| (&[], &SCHEMA))),
        ("properties", 25, Form::Named(1, 0, &SCHEMA)),
        ("example", 30, Form::Free),
    ],
    extensions: 31,
};

/// `ParametersItem { parameter = 1 { body = 1, non_body = 2 { header = 1, query = 3, path = 4 } }, reference = 2 }`.
fn parameter(value: &Value) -> Choice {
    match value.get("in").and_then(Value::as_str) {
        None => (&[2], &REFERENCE),
        Some("body") => (&[1, 1], &BODY),
        Some("query") => (&[1, 2, 3], &QUERY_PARAMETER),
        Some("header") => (&[1, 2, 1], &PATH_PARAMETER),
        Some(_) => (&[1, 2, 4], &PATH_PARAMETER),
    }
}

impl Message {
    fn bytes(&self, value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, tag, form) in self.fields {
            if let Some(member) = value.get(name) {
                form.write(&mut out, *tag, member);
            }
        }
        if self.extensions != 0 {
            for (name, member) in members(value).filter(|(name, _)| name.starts_with("x-")) {
                write_bytes(&mut out, self.extensions, &named(name, &free(member)));
            }
        }
        out
    }
}

impl Form {
    fn write(&self, out: &mut Vec<u8>, tag: u32, value: &Value) {
        match self {
            Self::Text => write_bytes(out, tag, value.as_str().unwrap_or("").as_bytes()),
            Self::Texts => elements(value).for_each(|text| Self::Text.write(out, tag, text)),
            Self::Flag => write_number(out, tag, u64::from(value.as_bool().unwrap_or(false))),
            Self::Whole => write_number(out, tag, value.as_u64().unwrap_or(0)),
            Self::Real => {
                write_varint(out, u64::from(tag) << 3 | 1);
                out.extend_from_slice(&value.as_f64().unwrap_or(0.0).to_le_bytes());
            }
            Self::Free => write_bytes(out, tag, &free(value)),
            Self::Frees => elements(value).for_each(|one| write_bytes(out, tag, &free(one))),
            Self::One(message) => write_bytes(out, tag, &message.bytes(value)),
            Self::Choice(pick) => write_bytes(out, tag, &chosen(*pick, value)),
            Self::Choices(pick) => {
                elements(value).for_each(|one| write_bytes(out, tag, &chosen(*pick, one)));
            }
            Self::Named(under, oneof, message) => {
                let mut list = Vec::new();
                for (name, member) in members(value) {
                    let mut bytes = message.bytes(member);
                    if *oneof != 0 {
                        bytes = wrapped(*oneof, &bytes);
                    }
                    write_bytes(&mut list, *under, &named(name, &bytes));
                }
                write_bytes(out, tag, &list);
            }
            Self::Words => {
                let mut words = Vec::new();
                match value {
                    Value::Array(_) => Self::Texts.write(&mut words, 1, value),
                    _ => Self::Text.write(&mut words, 1, value),
                }
                write_bytes(out, tag, &words);
            }
            Self::Items => write_bytes(out, tag, &wrapped(1, &SCHEMA.bytes(value))),
            Self::Additional => {
                let mut choice = Vec::new();
                match value.as_bool() {
                    Some(truth) => write_number(&mut choice, 2, u64::from(truth)),
                    None => write_bytes(&mut choice, 1, &SCHEMA.bytes(value)),
                }
                write_bytes(out, tag, &choice);
            }
            Self::Requirements => {
                for requirement in elements(value) {
                    let mut list = Vec::new();
                    for (name, scopes) in members(requirement) {
                        let mut texts = Vec::new();
                        Self::Texts.write(&mut texts, 1, scopes);
                        write_bytes(&mut list, 1, &named(name, &texts));
                    }
                    write_bytes(out, tag, &list);
                }
            }
        }
    }
}

fn elements(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

/// `Any { yaml }`: JSON is YAML.
fn free(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write_bytes(&mut out, 2, format!("{value}\n").as_bytes());
    out
}

fn named(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_bytes(&mut out, 1, name.as_bytes());
    write_bytes(&mut out, 2, value);
    out
}

fn wrapped(tag: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 8);
    write_bytes(&mut out, tag, bytes);
    out
}

fn chosen(pick: fn(&Value) -> Choice, value: &Value) -> Vec<u8> {
    let (path, message) = pick(value);
    path.iter().rev().fold(message.bytes(value), |bytes, tag| wrapped(*tag, &bytes))
}

fn write_bytes(out: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    write_varint(out, u64::from(tag) << 3 | 2);
    write_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn write_number(out: &mut Vec<u8>, tag: u32, number: u64) {
    write_varint(out, u64::from(tag) << 3);
    write_varint(out, number);
}

fn write_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::encode;
    use serde_json::json;

    #[test]
    fn a_small_document_has_the_bytes_of_its_messages() {
        let document = json!({
            "swagger": "2.0",
            "paths": {"/a": {"get": {"operationId": "o", "parameters": [{"in": "query", "name": "q", "type": "string"}]}}},
            "definitions": {"D": {"type": "object", "x-y": [1], "additionalProperties": {"type": "string"}}},
        });
        let text = |tag: u8, text: &str| [&[tag << 3 | 2, text.len() as u8], text.as_bytes()].concat();
        let wrap = |tag: u8, bytes: Vec<u8>| [vec![tag << 3 | 2, bytes.len() as u8], bytes].concat();
        let query = [text(2, "query"), text(4, "q"), text(6, "string")].concat();
        let get = [text(5, "o"), wrap(8, wrap(1, wrap(2, wrap(3, query))))].concat();
        let path = [text(1, "/a"), wrap(2, wrap(2, get))].concat();
        // Tags from 16 on take two bytes.
        let long = |tag: u16, bytes: Vec<u8>| {
            let key = tag << 3 | 2;
            [vec![key as u8 | 0x80, (key >> 7) as u8, bytes.len() as u8], bytes].concat()
        };
        let of_string = wrap(1, long(22, text(1, "string")));
        let extension = [text(1, "x-y"), wrap(2, text(2, "[1]\n"))].concat();
        let schema = [long(21, of_string), long(22, text(1, "object")), long(31, extension)].concat();
        let definition = [text(1, "D"), wrap(2, schema)].concat();
        let wanted = [text(1, "2.0"), wrap(8, wrap(2, path)), wrap(9, wrap(1, definition))].concat();
        assert_eq!(encode(&document), wanted);
    }
}
