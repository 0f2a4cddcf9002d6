//! The table and the facts are whole: every kind has a type, every reference resolves.

mod custom;
mod decode;
mod defaults;
mod docs;
mod documents;
mod roundtrip;

use schema::{ListType, Schema, Type};

use crate::{Generation, Registry, types};

fn check(schema: &Schema, at: &str) {
    match &schema.ty {
        Type::Object(o) | Type::Either(_, o) => {
            assert!(types::object(o.name()).is_some(), "{at}: {}", o.name())
        }
        Type::List(i) | Type::Map(i) | Type::WrappedStrings(i) => check(i, at),
        _ => {}
    }
    if let ListType::Map(keys) = &schema.list {
        for key in keys {
            assert!(schema.item().is_some_and(|i| i.field(key).is_some()), "{at}: key {key}");
        }
    }
}

#[test]
fn every_type_parses_and_refers_to_types() {
    let all = types::all();
    assert!(all.len() > 600, "{}", all.len());
    for name in all {
        let object = types::object(&name).unwrap_or_else(|| panic!("{name} does not parse"));
        for field in &object.fields {
            check(&field.schema, &format!("{name}.{}", field.name));
        }
    }
}

#[test]
fn every_kind_has_a_schema_and_its_list() {
    let registry = Registry::builtin();
    assert!(registry.kinds().len() > 60);
    for kind in registry.kinds() {
        assert!(types::object(&kind.type_name).is_some_and(|o| o.root), "{}", kind.type_name);
        for field in &kind.selectable {
            for path in field.path.split('|') {
                assert!(kind.schema().at(path).is_some(), "{} {path}", kind.kind);
            }
        }
        for sub in &kind.subresources {
            let found = registry.by_kind(&sub.kind.0, &sub.kind.1, &sub.kind.2).is_some();
            let known = ["Scale", "Eviction", "TokenRequest"].contains(&sub.kind.2.as_ref());
            assert!(found || known || sub.kind.2.ends_with("Options"), "{:?}", sub.kind);
        }
    }
}

#[test]
fn lookups() {
    let registry = Registry::builtin();
    let deployments = registry.by_path("apps", "v1", "deployments").expect("deployments");
    assert_eq!(deployments.generation, Generation::Annotations);
    assert_eq!(deployments.resource(), "apps/deployments");
    let containers = deployments.schema().at("spec.template.spec.containers").expect("containers");
    assert_eq!(containers.merge_key(), Some("name"));
    assert_eq!(containers.list_keys(), ["name"]);
    let ports = containers.item().and_then(|c| c.field("ports")).expect("ports");
    assert_eq!(ports.list_keys(), ["containerPort", "protocol"]);
    let volume = deployments.schema().at("spec.template.spec.volumes[].configMap.name");
    assert!(volume.is_some());
    let events = registry.by_path("events.k8s.io", "v1", "events").expect("events");
    assert_eq!(events.resource(), "core/events");
    assert!(registry.by_kind("", "v1", "Pod").expect("pod").selects("spec.nodeName"));
}
