//! Objects of every type, made from its schema with a seeded generator, go through protobuf and come back.

use schema::{Either, Schema, Type, canonicalize, protobuf};
use serde_json::{Map, Value, json};

use crate::types;

/// A small generator of numbers, the same on every run.
struct Seed(u64);

impl Seed {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn text(&mut self) -> String {
        let words = ["", "a", "kube-system", "ä€😀", "\"\\\n", "x".repeat(200).leak()];
        words[self.next(words.len() as u64) as usize].to_string()
    }
}

fn make(schema: &Schema, seed: &mut Seed, depth: usize) -> Value {
    match &schema.ty {
        Type::Bool => Value::Bool(seed.next(2) == 1),
        Type::Int32 => json!(seed.next(1 << 32) as u32 as i32),
        Type::Int64 => json!(seed.next(1 << 31) as i64 * if seed.next(2) == 0 { 1 << 30 } else { -1 }),
        Type::Float => json!(seed.next(1000) as f64 / 8.0),
        Type::String => Value::String(seed.text()),
        Type::Bytes => json!(["", "AA==", "AAEC", "/+8="][seed.next(4) as usize]),
        Type::Quantity => json!(["0", "100m", "1536Mi", "1e3", "-5", "12E"][seed.next(6) as usize]),
        Type::IntOrString => [json!(0), json!(-1), json!("25%"), json!("")][seed.next(4) as usize].clone(),
        Type::Time => json!(["2026-01-02T03:04:05Z", "1969-12-31T23:59:59Z"][seed.next(2) as usize]),
        Type::MicroTime => {
            json!(["2026-01-02T03:04:05.000006Z", "1969-12-31T23:59:59.999999Z"][seed.next(2) as usize])
        }
        Type::Duration => json!(["0s", "1m30s", "1.5ms"][seed.next(3) as usize]),
        Type::Raw => [json!({"a": [1, "b", null]}), json!("x"), json!(1)][seed.next(3) as usize].clone(),
        Type::List(item) | Type::WrappedStrings(item) => {
            let count = seed.next(if depth > 6 { 1 } else { 3 });
            (0..count).map(|_| make(item, seed, depth + 1)).collect()
        }
        Type::Map(item) => {
            let count = seed.next(if depth > 6 { 1 } else { 3 });
            let entries = (0..count).map(|i| (format!("k{i}"), make(item, seed, depth + 1)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
        Type::Either(Either::Bool, _) => Value::Bool(seed.next(2) == 1),
        Type::Either(Either::Strings, _) => json!(["a", "b"]),
        Type::Either(Either::Schemas, _) => json!([{"type": "string"}, {"title": "x"}]),
        Type::Any => Value::Null,
        Type::Object(o) => {
            let mut map = Map::new();
            for field in &o.get().fields {
                // What has no tag is not on the wire: apiVersion and kind travel in the envelope.
                if field.tag != 0 && depth < 9 && seed.next(4) != 0 {
                    map.insert(field.name.to_string(), make(&field.schema, seed, depth + 1));
                }
            }
            Value::Object(map)
        }
    }
}

/// Types without a protobuf form, in whole or in part.
fn json_only(name: &str) -> bool {
    let types = ["Table", "TableRow", "TableColumnDefinition", "TableRowCondition", "InternalEvent"];
    types.iter().any(|t| name.ends_with(&format!(".{t}")))
}

#[test]
fn protobuf_and_back() {
    let mut seed = Seed(36);
    for name in types::all().into_iter().filter(|n| !json_only(n)) {
        let schema = types::schema_of_owned(&name);
        for _ in 0..8 {
            let mut value = make(&schema, &mut seed, 0);
            canonicalize(&schema, &mut value).unwrap_or_else(|e| panic!("{name}: {e}"));
            let bytes = protobuf::encode(&schema, &value);
            let mut back = protobuf::decode(&schema, &bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
            canonicalize(&schema, &mut back).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(back, value, "{name}");
            assert_eq!(protobuf::encode(&schema, &back), bytes, "{name}: encoding is stable");
        }
    }
}

#[test]
fn broken_bytes_end_in_an_answer() {
    let mut seed = Seed(1);
    let schema = types::schema_of_owned("core_v1.Pod");
    let mut value = make(&schema, &mut seed, 0);
    canonicalize(&schema, &mut value).expect("canonical");
    let bytes = protobuf::encode_object(&schema, "v1", "Pod", &value);
    for _ in 0..2000 {
        let mut broken = bytes.clone();
        for _ in 0..=seed.next(3) {
            let at = seed.next(broken.len() as u64) as usize;
            broken[at] = seed.next(256) as u8;
        }
        broken.truncate(seed.next(broken.len() as u64 + 1) as usize);
        if let Ok(envelope) = protobuf::open(&broken) {
            drop(protobuf::decode(&schema, envelope.raw));
        }
    }
}
