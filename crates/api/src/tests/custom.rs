//! Custom resources: what v1.36 answers to bad ones and to bad definitions, as tables.

use schema::{aggregate, defaulting::default, prune::prune, validate::validate};
use serde_json::{Value, json};

use crate::custom::{by_priority, check, kinds};

const THING: &str = include_str!("thing.json");
const RESOURCES: &str = include_str!("custom_resources.table");
const DEFINITIONS: &str = include_str!("definitions.table");

#[test]
fn resources() {
    let crd: Value = serde_json::from_str(THING).expect("json");
    let def = kinds(&crd).remove(0);
    for block in RESOURCES.trim().split("\n\n") {
        let (spec, want) = block.split_once('\n').expect("two lines");
        let spec: Value = serde_json::from_str(spec).expect(spec);
        let mut value =
            json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "a"}, "spec": spec});
        prune(def.schema(), &mut value);
        default(def.schema(), &mut value);
        let errors = validate(def.schema(), &value, None);
        let got = if errors.is_empty() { value["spec"].to_string() } else { aggregate(&errors) };
        assert_eq!(got, want, "{spec}");
    }
}

#[test]
fn definitions() {
    for block in DEFINITIONS.trim().split("\n\n") {
        let (schema, want) = block.split_once('\n').expect("two lines");
        let schema: Value = serde_json::from_str(schema).expect(schema);
        let crd = json!({"spec": {"versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": schema}}]}});
        let errors = check(&crd);
        let got = if errors.is_empty() { "OK".to_string() } else { aggregate(&errors) };
        assert_eq!(got, want, "{schema}");
    }
}

#[test]
fn unchanged_parts_are_taken_as_they_are() {
    let crd: Value = serde_json::from_str(THING).expect("json");
    let def = kinds(&crd).remove(0);
    let old = json!({"spec": {"need": "a", "n": 0, "lm": [{"k": "x", "v": "bad"}]}});
    let mut new = old.clone();
    new["spec"]["need"] = json!("b");
    assert!(validate(def.schema(), &new, Some(&old)).is_empty());
    new["spec"]["n"] = json!(-1);
    assert_eq!(validate(def.schema(), &new, Some(&old)).len(), 1);
}

#[test]
fn definition_to_kind() {
    let crd: Value = serde_json::from_str(THING).expect("json");
    let def = kinds(&crd).remove(0);
    assert_eq!((def.resource().as_str(), def.list_kind.as_ref()), ("example.com/things", "ThingList"));
    assert!(def.has_status() && def.scale.as_ref().is_some_and(|s| s.spec == ".spec.replicas"));
    assert_eq!(def.columns.len(), 2);
    assert_eq!(def.schema().at("spec.lm").expect("field").list_keys(), ["k"]);
    let mut versions = ["v1alpha1", "foo1", "v2", "v1", "v1beta2", "v1beta1", "v10", "foo10"];
    versions.sort_by(|a, b| by_priority(a, b));
    assert_eq!(versions, ["v10", "v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "foo1", "foo10"]);
}
