//! CustomResourceDefinitions as kinds: each served version becomes a [`KindDef`] with a compiled schema.

pub mod accept;

use std::sync::Arc;

use schema::{FieldError, Schema, Text, crd};
use serde_json::Value;

use crate::kinds::{Column, FieldForm, Generation, KindDef, ScalePaths, Scope, SelectableField, Subresource};
use crate::types::schema_of;

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_string()
}

fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn texts(value: &Value, pointer: &str) -> Vec<Text> {
    list(value, pointer).filter_map(|v| v.as_str().map(|s| Text::Owned(s.to_string()))).collect()
}

fn metadata() -> Schema {
    let found = schema_of("meta_v1.ObjectMeta");
    found.map_or_else(|| Schema::new(schema::Type::Any), |s| s.as_ref().clone())
}

/// The kinds a definition serves, most preferred version first. Names come from `status.acceptedNames` if given.
pub fn kinds(crd: &Value) -> Vec<KindDef> {
    let names = if text(crd, "/status/acceptedNames/plural").is_empty() {
        &crd["spec"]["names"]
    } else {
        &crd["status"]["acceptedNames"]
    };
    let stored = list(crd, "/spec/versions").find(|v| v["storage"] == true).map(|v| text(v, "/name"));
    let mut versions: Vec<&Value> = list(crd, "/spec/versions").filter(|v| v["served"] == true).collect();
    versions.sort_by(|a, b| by_priority(&text(a, "/name"), &text(b, "/name")));
    let metadata = metadata();
    versions.into_iter().map(|v| kind(crd, names, v, stored.as_deref(), &metadata)).collect()
}

fn kind(crd: &Value, names: &Value, version: &Value, stored: Option<&str>, metadata: &Schema) -> KindDef {
    let (group, name, kind) = (text(crd, "/spec/group"), text(version, "/name"), text(names, "/kind"));
    let empty = serde_json::json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let openapi = version.pointer("/schema/openAPIV3Schema").unwrap_or(&empty);
    let mut schema = crd::compile(&kind, openapi, metadata);
    schema.preserve_unknown |= crd["spec"]["preserveUnknownFields"] == true;
    let mut def = KindDef::custom(&group, &name, &kind, &text(names, "/plural"), Arc::new(schema));
    let or = |given: String, otherwise: Text| if given.is_empty() { otherwise } else { Text::Owned(given) };
    def.list_kind = or(text(names, "/listKind"), def.list_kind);
    def.singular = or(text(names, "/singular"), def.singular);
    def.short_names = texts(names, "/shortNames");
    def.categories = texts(names, "/categories");
    def.scope = if text(crd, "/spec/scope") == "Cluster" { Scope::Cluster } else { Scope::Namespaced };
    def.stored = (Text::Owned(group.clone()), Text::Owned(stored.unwrap_or(&name).to_string()));
    def.conversion = (text(crd, "/spec/conversion/strategy") == "Webhook")
        .then(|| crd.pointer("/spec/conversion/webhook").cloned().map(Arc::new))
        .flatten();
    def.generation = Generation::Content;
    def.columns = columns(version);
    def.selectable = list(version, "/selectableFields").map(selectable).collect();
    let verbs: Vec<Text> = ["get", "patch", "update"].map(Text::Borrowed).to_vec();
    if version.pointer("/subresources/status").is_some_and(|s| !s.is_null()) {
        let kind = (def.group.clone(), def.version.clone(), def.kind.clone());
        def.subresources.push(Subresource { name: Text::Borrowed("status"), kind, verbs: verbs.clone() });
    }
    if let Some(scale) = version.pointer("/subresources/scale").filter(|s| !s.is_null()) {
        let kind = (Text::Borrowed("autoscaling"), Text::Borrowed("v1"), Text::Borrowed("Scale"));
        def.subresources.push(Subresource { name: Text::Borrowed("scale"), kind, verbs });
        let selector = text(scale, "/labelSelectorPath");
        def.scale = Some(ScalePaths {
            spec: text(scale, "/specReplicasPath"),
            status: text(scale, "/statusReplicasPath"),
            selector: (!selector.is_empty()).then_some(selector),
        });
    }
    def
}

fn selectable(field: &Value) -> SelectableField {
    let path = text(field, "/jsonPath").trim_start_matches('.').to_string();
    SelectableField { name: Text::Owned(path.clone()), path: Text::Owned(path), form: FieldForm::Text }
}

/// The name first, then what the definition wants, or the age.
fn columns(version: &Value) -> Vec<Column> {
    let column = |name: &str, ty: &str, format: &str, path: Option<&str>, priority| Column {
        name: Text::Owned(name.to_string()),
        ty: Text::Owned(ty.to_string()),
        format: Text::Owned(format.to_string()),
        priority,
        json_path: path.map(|p| Text::Owned(p.to_string())),
        description: Text::Borrowed(""),
    };
    let mut out = vec![column("Name", "string", "name", None, 0)];
    for given in list(version, "/additionalPrinterColumns") {
        let priority = given["priority"].as_i64().unwrap_or(0) as i32;
        let (name, ty, format) = (text(given, "/name"), text(given, "/type"), text(given, "/format"));
        let mut made = column(&name, &ty, &format, Some(&text(given, "/jsonPath")), priority);
        made.description = Text::Owned(text(given, "/description"));
        out.push(made);
    }
    if out.len() == 1 {
        out.push(column("Age", "date", "", Some(".metadata.creationTimestamp"), 0));
    }
    out
}

/// Kubernetes' order of versions: stable before beta before alpha, then newer first, then the rest by name.
pub fn by_priority(a: &str, b: &str) -> std::cmp::Ordering {
    fn key(version: &str) -> Option<(u8, u32, u32)> {
        let rest = version.strip_prefix('v')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..end].parse().ok()?;
        match &rest[end..] {
            "" => Some((3, major, 0)),
            tail => match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
                (Some(minor), _) => Some((2, major, minor.parse().ok()?)),
                (_, Some(minor)) => Some((1, major, minor.parse().ok()?)),
                _ => None,
            },
        }
    }
    match (key(a), key(b)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// What is wrong with the schemas of a definition.
pub fn check(crd: &Value) -> Vec<FieldError> {
    let metadata = metadata();
    let versions: Vec<&Value> = list(crd, "/spec/versions").collect();
    let schemas: Vec<Option<&Value>> =
        versions.iter().map(|v| v.pointer("/schema/openAPIV3Schema")).collect();
    // A schema that all versions share is reported once, at the place of the old single schema.
    let shared = schemas.windows(2).all(|w| w[0] == w[1]);
    let status = |i: usize| {
        let has = |v: &&Value| v.pointer("/subresources/status").is_some_and(|s| !s.is_null());
        if shared { versions.iter().any(has) } else { versions.get(i).is_some_and(has) }
    };
    let mut out = Vec::new();
    for (i, schema) in schemas.iter().enumerate().take(if shared { 1 } else { usize::MAX }) {
        let path = if shared {
            "spec.validation.openAPIV3Schema".to_string()
        } else {
            format!("spec.versions[{i}].schema.openAPIV3Schema")
        };
        match schema {
            Some(schema) if !schema.is_null() => out.extend(crd::check(schema, &path, &metadata, status(i))),
            _ => {}
        }
    }
    out
}
