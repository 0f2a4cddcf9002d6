//! Changes of objects: JSON, merge and strategic patches, server-side apply, and custom definitions.

use api::{KindDef, Registry};
use schema::fieldset::FieldSet;
use schema::managed::{Actor, apply, track_update};
use serde_json::{Value, json};

use super::objects::{of_kind, samples};
use super::{Run, Target, split_line};

const THING: &str = include_str!("../../../crates/api/src/tests/thing.json");
const RESOURCES: &str = include_str!("../../../crates/api/src/tests/custom_resources.table");
const DEFINITIONS: &str = include_str!("../../../crates/api/src/tests/definitions.table");

/// Patches.
pub const PATCH: Target =
    Target { name: "patch", what: "JSON, merge and strategic patches", seeds: patch_seeds, start: patches };

/// Server-side apply.
pub const APPLY: Target =
    Target { name: "apply", what: "apply and managedFields", seeds: apply_seeds, start: applies };

/// Definitions of custom resources, and objects of them.
pub const CUSTOM: Target = Target {
    name: "custom",
    what: "custom resource definitions",
    seeds: custom_seeds,
    start: || Box::new(custom),
};

const PATCHES: &[(&str, &str, &str)] = &[
    (
        "json",
        "Pod",
        r#"[{"op":"add","path":"/metadata/labels/x","value":"y"},{"op":"remove","path":"/spec/containers/0"}]"#,
    ),
    (
        "json",
        "Pod",
        r#"[{"op":"copy","from":"/spec","path":"/spec/a~1b"},{"op":"test","path":"/kind","value":"Pod"},{"op":"move","from":"/spec","path":"/x"}]"#,
    ),
    ("merge", "Service", r#"{"metadata":{"labels":null},"spec":{"ports":[{"port":1}]}}"#),
    (
        "strategic",
        "Pod",
        r#"{"spec":{"containers":[{"name":"c","image":"2"},{"$patch":"delete","name":"a"}],"$setElementOrder/containers":[{"name":"c"}]}}"#,
    ),
    (
        "strategic",
        "Pod",
        r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["a/b"],"finalizers":["c/d"]},"spec":{"volumes":[{"$patch":"replace"}],"$retainKeys":["a"]}}"#,
    ),
    (
        "strategic",
        "Deployment",
        r#"{"spec":{"strategy":{"$retainKeys":["type"],"type":"Recreate"},"template":{"$patch":"replace"}}}"#,
    ),
];

fn sample(kind: &str) -> &'static str {
    samples().find(|(name, _)| *name == kind).map_or("{}", |(_, text)| text)
}

fn patch_seeds() -> Vec<Vec<u8>> {
    let seed = |(how, kind, patch): &(&str, &str, &str)| format!("{how} {kind}\n{}\n{patch}", sample(kind));
    PATCHES.iter().map(|each| seed(each).into_bytes()).collect()
}

/// The object, then the patch, in a line each.
fn patches() -> Run {
    let registry = Registry::builtin();
    Box::new(move |input| {
        let Some((head, rest)) = split_line(input) else { return };
        let Some((old, patch)) = split_line(rest) else { return };
        let (how, kind) = head.split_once(' ').unwrap_or((head, "Pod"));
        let Some(def) = of_kind(&registry, kind) else { return };
        let Ok(old) = schema::json::parse(old.as_bytes(), None).map(|parsed| parsed.value) else { return };
        let Some(patch) = read_patch(how, patch) else { return };
        use apiserver::handlers::patch;
        let Ok(mut new) = patch::apply(&patch, def.schema(), &old) else { return };
        if schema::canonicalize(def.schema(), &mut new).is_ok() {
            drop(api::validation::update(def, "", &new, &new));
        }
    })
}

fn read_patch(how: &str, patch: &[u8]) -> Option<apiserver::handlers::patch::Patch> {
    use apiserver::handlers::patch::Patch;
    let tree = || schema::json::parse(patch, None).ok().map(|parsed| parsed.value);
    Some(match how {
        "json" => Patch::Json(serde_json::from_slice(patch).ok()?),
        "merge" => Patch::Merge(tree().filter(Value::is_object)?),
        _ => Patch::Strategic(tree()?),
    })
}

fn apply_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = samples()
        .map(|(kind, text)| {
            format!("{kind}\n{text}\n{text}\n{{\"metadata\":{{\"labels\":{{\"a\":\"b\"}}}}}}").into_bytes()
        })
        .collect();
    let fields = r#"{"metadata":{"name":"a","managedFields":[{"manager":"m","operation":"Apply","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{}}},"f:list":{"v:\"x\"":{}}}}}]}}"#;
    seeds.push(
        format!("Pod\n{fields}\n{{}}\n{{\"spec\":{{\"containers\":[{{\"name\":\"c\"}}]}}}}").into_bytes(),
    );
    seeds
}

fn actor<'a>(manager: &'a str, def: &'a str) -> Actor<'a> {
    Actor { manager, api_version: def, subresource: "", now: "2026-01-01T00:00:00Z" }
}

/// The live object, then what two managers apply, in a line each. Applying the same again changes nothing.
fn applies() -> Run {
    let registry = Registry::builtin();
    Box::new(move |input| {
        let Some((kind, rest)) = split_line(input) else { return };
        let Some(def) = of_kind(&registry, kind) else { return };
        let mut values = rest.splitn(3, |byte| *byte == b'\n').filter_map(|text| {
            let mut value = schema::json::parse(text, None).ok()?.value;
            schema::canonicalize(def.schema(), &mut value).ok()?;
            value.is_object().then_some(value)
        });
        // What is live was accepted once: what its entries say is read when they are given, and trusted from then on.
        let Some(mut live) = values.next().filter(|live| sets(live).all(|set| set.is_some())) else { return };
        let reset = FieldSet::new();
        for (at, config) in values.enumerate() {
            let actor = actor(["one", "two"][at % 2], "v1");
            // As the server does: what comes out is brought into canonical form.
            let applied = |live: &Value, force| {
                let mut new = apply(def.schema(), live, &config, actor, force, &reset).ok()?;
                schema::canonicalize(def.schema(), &mut new).ok()?;
                Some(new)
            };
            if let Some(new) = applied(&live, true) {
                assert_eq!(applied(&new, false).as_ref(), Some(&new), "applied twice");
                owned(&new);
                live = new;
            }
            let mut updated = config.clone();
            track_update(def.schema(), Some(&live), &mut updated, actor, &reset);
            owned(&updated);
        }
    })
}

/// The field sets of an object's entries, those that are of the right form and written as we write them.
fn sets(object: &Value) -> impl Iterator<Item = Option<FieldSet>> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    entries
        .map(|entry| FieldSet::from_json(&entry["fieldsV1"]).filter(|set| set.to_json() == entry["fieldsV1"]))
}

/// Field sets come back from their own JSON.
fn owned(object: &Value) {
    assert!(sets(object).all(|set| set.is_some()), "{}", object["metadata"]["managedFields"]);
}

fn custom_seeds() -> Vec<Vec<u8>> {
    let thing: Value = serde_json::from_str(THING).unwrap_or_default();
    let objects = RESOURCES.trim().split("\n\n").filter_map(|block| block.split_once('\n'));
    let mut seeds: Vec<Vec<u8>> = objects.map(|(spec, _)| format!("{thing}\n{spec}").into_bytes()).collect();
    for (schema, _) in DEFINITIONS.trim().split("\n\n").filter_map(|block| block.split_once('\n')) {
        let schema: Value = serde_json::from_str(schema).unwrap_or_default();
        let crd = json!({"spec": {"group": "g.io", "names": {"plural": "xs", "kind": "X"}, "versions": [{"name": "v1",
            "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
        seeds.push(format!("{crd}\n{{\"a\":1}}").into_bytes());
    }
    seeds
}

/// A definition, then the spec of an object, in a line each.
fn custom(input: &[u8]) {
    let Some((crd, object)) = split_line(input) else { return };
    let Ok(crd) = schema::json::parse(crd.as_bytes(), None).map(|parsed| parsed.value) else { return };
    if !api::custom::check(&crd).is_empty() {
        return;
    }
    let Ok(spec) = schema::json::parse(object, None).map(|parsed| parsed.value) else { return };
    for def in api::custom::kinds(&crd) {
        object_of(&def, &spec);
    }
}

fn object_of(def: &KindDef, spec: &Value) {
    let mut value = json!({"apiVersion": def.api_version(), "kind": def.kind.as_ref(), "metadata": {"name": "a"}, "spec": spec});
    schema::prune::prune(def.schema(), &mut value);
    schema::defaulting::default(def.schema(), &mut value);
    drop(schema::validate::validate(def.schema(), &value, Some(&value)));
    drop(schema::typed::field_set(def.schema(), &value));
    let merged = schema::typed::merge(def.schema(), &value, &value);
    drop(schema::typed::compare(def.schema(), &value, &merged));
}
