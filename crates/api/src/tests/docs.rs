//! Descriptions: every type and field has one, and none describes what is not there.

use schema::Object;

use crate::docs::Docs;
use crate::types::{all, object};

fn objects() -> Vec<std::sync::Arc<Object>> {
    all().iter().filter_map(|name| object(name)).collect()
}

/// Forms that are no objects in the facts, but definitions in the documents.
const SPECIAL: [&str; 11] = [
    "Duration",
    "FieldsV1",
    "IntOrString",
    "JSON",
    "JSONSchemaPropsOrArray",
    "JSONSchemaPropsOrBool",
    "JSONSchemaPropsOrStringArray",
    "MicroTime",
    "Patch",
    "Quantity",
    "Time",
];

#[test]
fn every_type_and_field_is_described() {
    let docs = Docs::load();
    let (mut fields, mut described, mut bare) = (0, 0, Vec::new());
    for object in objects() {
        if docs.ty(&object.module, &object.name).is_none() {
            bare.push(format!("{}.{}", object.module, object.name));
        }
        for field in &object.fields {
            fields += 1;
            match docs.field(&object.module, &object.name, &field.name) {
                Some(_) => described += 1,
                None => bare.push(format!("{}.{}.{}", object.module, object.name, field.name)),
            }
        }
    }
    println!("{described} of {fields} fields are described");
    assert!(bare.is_empty(), "without description: {bare:#?}");
    assert!(fields > 2_500, "only {fields} fields were looked at");
}

#[test]
fn descriptions_describe_what_there_is() {
    let objects = objects();
    for (module, ty, field) in Docs::load().paths() {
        let has = |o: &Object| field.is_empty() || o.fields.iter().any(|f| f.name == field);
        let of_module = |o: &&std::sync::Arc<Object>| o.module == module;
        let known = match ty {
            "*" => objects.iter().any(|o| (module == "meta_v1" || o.module == module) && has(o)),
            ty if SPECIAL.contains(&ty) || ty == "RawExtension" => field.is_empty(),
            ty => objects.iter().filter(of_module).any(|o| o.name == ty && has(o)),
        };
        assert!(known, "{module}: {ty} {field} is described but does not exist");
    }
}

#[test]
fn sentences_are_sentences() {
    let docs = Docs::load();
    for (module, ty, field) in docs.paths() {
        let text = match field {
            "" => docs.ty(module, ty),
            _ => docs.field(module, ty, field).map(str::to_string),
        };
        let text = text.expect("described");
        assert!(text.ends_with('.'), "{module}: {ty} {field}: {text:?} ends without a stop");
        assert!(text.len() < 300, "{module}: {ty} {field} is too long");
    }
}
