//! Defaults of every kind: a small object and what v1.36 makes of it, without what admission and allocation add.

use schema::{canonicalize, defaulting};
use serde_json::Value;

const TABLE: &str = include_str!("defaults.table");

/// What the server sets besides defaults, per type.
fn drop_server_fields(name: &str, value: &mut Value) {
    let mut drop = |pointer: &str, field: &str| {
        if let Some(map) = value.pointer_mut(pointer).and_then(Value::as_object_mut) {
            map.remove(field);
        }
    };
    match name {
        "core_v1.Pod" => drop("", "status"),
        "core_v1.Namespace" => drop("", "spec"),
        "apiextensions_v1.CustomResourceDefinition" => {
            drop("/status", "conditions");
            drop("/status", "acceptedNames");
        }
        "apiregistration_v1.APIService" => drop("", "status"),
        _ => {}
    }
}

#[test]
fn table() {
    let mut wrong = Vec::new();
    for block in TABLE.trim().split("\n\n") {
        let mut lines = block.lines();
        let mut next = || lines.next().expect("three lines");
        let (name, input, want) = (next(), next(), next());
        let schema = crate::schema_of(name).expect(name);
        let mut got: Value = serde_json::from_str(input).expect(input);
        let mut want: Value = serde_json::from_str(want).expect(want);
        canonicalize(&schema, &mut got).expect(input);
        defaulting::default(&schema, &mut got);
        for field in ["kind", "apiVersion"] {
            want.as_object_mut().expect("object").remove(field);
        }
        drop_server_fields(name, &mut got);
        if got != want {
            wrong.push(format!("{name} {input}\n  got  {got}\n  want {want}"));
        }
        let once = got.clone();
        defaulting::default(&schema, &mut got);
        drop_server_fields(name, &mut got);
        assert_eq!(got, once, "{name}: defaults are stable");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
