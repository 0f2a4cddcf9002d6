//! The schemas of an OpenAPI document: every type its operations reach.

use std::collections::BTreeSet;

use schema::{Emit, Field, ListType, Object, Schema, Type};
use serde_json::{Map, Value, json};

use super::{Edition, builtin, custom_name, definition_name};
use crate::docs::Docs;
use crate::kinds::KindDef;
use crate::registry::Registry;

pub(super) struct Schemas<'a> {
    edition: Edition,
    docs: &'a Docs,
    registry: &'a Registry,
    out: Map<String, Value>,
    /// Built-in types that are referred to and not written yet.
    todo: Vec<String>,
    seen: BTreeSet<String>,
    /// Whether the value at hand is part of a custom kind.
    custom: bool,
}

impl<'a> Schemas<'a> {
    pub(super) fn new(edition: Edition, docs: &'a Docs, registry: &'a Registry) -> Schemas<'a> {
        Schemas {
            edition,
            docs,
            registry,
            out: Map::new(),
            todo: Vec::new(),
            seen: BTreeSet::new(),
            custom: false,
        }
    }

    /// A reference to a built-in type, which the document will have.
    pub(super) fn reference(&mut self, type_name: &str) -> Value {
        if self.seen.insert(type_name.to_string()) {
            self.todo.push(type_name.to_string());
        }
        self.edition.reference(&definition_name(type_name))
    }

    /// References to a kind and to its list.
    pub(super) fn kind(&mut self, kind: &KindDef) -> (Value, Value) {
        if !kind.custom {
            return (self.reference(&kind.type_name), self.reference(&format!("{}List", kind.type_name)));
        }
        let (own, list) = (custom_name(kind, &kind.kind), custom_name(kind, &kind.list_kind));
        let gvk = |name: &str| json!([{"group": kind.group, "kind": name, "version": kind.version}]);
        let mut definition = match kind.schema() {
            // v2 clients would take what is not listed for unknown.
            schema if schema.preserve_unknown && self.edition == Edition::V2 => json!({"type": "object"}),
            schema => self.value(schema),
        };
        self.describe_root(&mut definition);
        definition["x-kubernetes-group-version-kind"] = gvk(&kind.kind);
        let item = self.edition.reference(&own);
        let meta = self.reference("meta_v1.ListMeta");
        let list_definition = json!({"description": format!("{} is a list of {}", kind.list_kind, kind.kind),
            "type": "object", "required": ["items"], "properties": {"apiVersion": {"type": "string"},
            "kind": {"type": "string"}, "metadata": self.nested(meta), "items": {"type": "array", "items": item}},
            "x-kubernetes-group-version-kind": gvk(&kind.list_kind)});
        self.out.insert(own.clone(), definition);
        self.out.insert(list.clone(), list_definition);
        (item, self.edition.reference(&list))
    }

    /// What every kind has in common is described the same for custom kinds.
    fn describe_root(&self, definition: &mut Value) {
        let Some(properties) = definition.get_mut("properties").and_then(Value::as_object_mut) else {
            return;
        };
        for name in ["apiVersion", "kind", "metadata"] {
            let text = self.docs.field("meta_v1", "", name);
            let property = properties.get_mut(name).and_then(Value::as_object_mut);
            if let (Some(property), Some(text)) = (property, text) {
                property.entry("description").or_insert_with(|| text.into());
            }
        }
    }

    /// All schemas, sorted by name.
    pub(super) fn finish(mut self) -> Value {
        while let Some(name) = self.todo.pop() {
            let definition = match special(&name, self.edition) {
                Some(mut definition) => {
                    let text = name.split_once('.').and_then(|(module, ty)| self.docs.ty(module, ty));
                    if let Some(text) = text {
                        definition["description"] = text.into();
                    }
                    definition
                }
                None => {
                    let schema = builtin(&name);
                    schema.object().map_or_else(|| json!({}), |o| self.definition(o))
                }
            };
            self.out.insert(definition_name(&name), definition);
        }
        Value::Object(self.out)
    }

    fn definition(&mut self, object: &Object) -> Value {
        let mut out = Map::new();
        if let Some(text) = self.docs.ty(&object.module, &object.name) {
            out.insert("description".to_string(), text.into());
        }
        out.insert("type".to_string(), "object".into());
        let required: Vec<&str> =
            object.fields.iter().filter(|f| f.required).map(|f| f.name.as_ref()).collect();
        if !required.is_empty() {
            out.insert("required".to_string(), json!(required));
        }
        let mut properties = Map::new();
        for field in &object.fields {
            properties.insert(field.name.to_string(), self.field(object, field));
        }
        if !properties.is_empty() {
            out.insert("properties".to_string(), Value::Object(properties));
        }
        if object.atomic {
            out.insert("x-kubernetes-map-type".to_string(), "atomic".into());
        }
        if object.root
            && let Some((group, version)) = self.group_of(&object.module)
        {
            let gvk = json!([{"group": group, "kind": object.name, "version": version}]);
            out.insert("x-kubernetes-group-version-kind".to_string(), gvk);
        }
        Value::Object(out)
    }

    /// The group and version that a module's kinds are served in.
    fn group_of(&self, module: &str) -> Option<(String, String)> {
        if module == "meta_v1" {
            return Some((String::new(), "v1".to_string()));
        }
        let of = |k: &&std::sync::Arc<KindDef>| k.type_name.split('.').next() == Some(module);
        let kind = self.registry.kinds().iter().find(of)?;
        Some((kind.group.to_string(), kind.version.to_string()))
    }

    fn field(&mut self, object: &Object, field: &Field) -> Value {
        let raw = match (object.module.as_ref(), &field.schema.ty) {
            ("meta_v1", Type::Raw) if field.name == "fieldsV1" => Some("meta_v1.FieldsV1"),
            ("apiextensions_v1", Type::Raw) => Some("apiextensions_v1.JSON"),
            _ => None,
        };
        let mut out = match raw {
            Some(name) => self.reference(name),
            None => self.value(&field.schema),
        };
        // A reference that gets words beside it is nested again.
        let bare = out.get("$ref").is_some();
        if bare && self.edition == Edition::V3 {
            out = self.nested(out);
        }
        let Some(map) = out.as_object_mut() else { return out };
        if let Some(text) = self.docs.field(&object.module, &object.name, &field.name) {
            map.insert("description".to_string(), text.into());
        }
        let structure =
            matches!(field.schema.ty, Type::Object(_)) && !field.pointer && field.emit != Emit::OmitZero;
        if self.edition == Edition::V3 && structure && !map.contains_key("default") {
            map.insert("default".to_string(), json!({}));
        }
        let patch = field.schema.patch();
        let words = [(patch.merge, "merge"), (patch.retain_keys, "retainKeys"), (patch.replace, "replace")];
        let words: Vec<&str> = words.into_iter().filter(|(on, _)| *on).map(|(_, word)| word).collect();
        if !words.is_empty() {
            map.insert("x-kubernetes-patch-strategy".to_string(), words.join(",").into());
        }
        if let Some(key) = field.schema.merge_key() {
            map.insert("x-kubernetes-patch-merge-key".to_string(), key.into());
        }
        plain(out)
    }

    /// In v3 a reference with words beside it is put into `allOf`.
    fn nested(&self, reference: Value) -> Value {
        if self.edition == Edition::V3 { json!({"allOf": [reference]}) } else { reference }
    }

    fn shared(&mut self, name: &str) -> Value {
        let reference = self.reference(name);
        self.nested(reference)
    }

    /// The schema of a value in place.
    fn value(&mut self, schema: &Schema) -> Value {
        let custom = |o: &Object| o.module.is_empty();
        let mut out = match &schema.ty {
            Type::Bool => json!({"type": "boolean"}),
            Type::Int32 => json!({"type": "integer", "format": "int32"}),
            Type::Int64 if schema.rules().format.is_none() && schema.rules.is_some() => {
                json!({"type": "integer"})
            }
            Type::Int64 => json!({"type": "integer", "format": "int64"}),
            Type::Float => json!({"type": "number", "format": "double"}),
            Type::String => json!({"type": "string"}),
            Type::Bytes => json!({"type": "string", "format": "byte"}),
            Type::Quantity => self.shared("meta_v1.Quantity"),
            Type::IntOrString if self.custom => json!({"x-kubernetes-int-or-string": true}),
            Type::IntOrString => self.shared("meta_v1.IntOrString"),
            Type::Time => self.shared("meta_v1.Time"),
            Type::MicroTime => self.shared("meta_v1.MicroTime"),
            Type::Duration => self.shared("meta_v1.Duration"),
            Type::Raw => self.shared("meta_v1.RawExtension"),
            Type::Any => json!({}),
            Type::Either(form, _) => self.shared(match form {
                schema::Either::Bool => "apiextensions_v1.JSONSchemaPropsOrBool",
                schema::Either::Schemas => "apiextensions_v1.JSONSchemaPropsOrArray",
                schema::Either::Strings => "apiextensions_v1.JSONSchemaPropsOrStringArray",
            }),
            Type::Map(item) => json!({"type": "object", "additionalProperties": self.value(item)}),
            Type::List(item) | Type::WrappedStrings(item) => {
                json!({"type": "array", "items": self.value(item)})
            }
            Type::Object(o) if custom(o.get()) => {
                let outside = std::mem::replace(&mut self.custom, true);
                let fields: Map<String, Value> =
                    o.get().fields.iter().map(|f| (f.name.to_string(), self.value(&f.schema))).collect();
                self.custom = outside;
                if fields.is_empty() {
                    json!({"type": "object"})
                } else {
                    json!({"type": "object", "properties": fields})
                }
            }
            Type::Object(o) => self.shared(&format!("{}.{}", o.get().module, o.get().name)),
        };
        if let Some(map) = out.as_object_mut() {
            self.extensions(schema, map);
            self.rules(schema, map);
        }
        plain(out)
    }

    fn extensions(&self, schema: &Schema, map: &mut Map<String, Value>) {
        let mut put = |name: &str, value: Value| map.insert(name.to_string(), value);
        match &schema.list {
            ListType::Map(keys) => {
                put("x-kubernetes-list-map-keys", json!(keys));
                put("x-kubernetes-list-type", "map".into());
            }
            ListType::Set => {
                put("x-kubernetes-list-type", "set".into());
            }
            ListType::Atomic => {}
        }
        if schema.atomic || schema.granular {
            put("x-kubernetes-map-type", if schema.atomic { "atomic" } else { "granular" }.into());
        }
        if schema.preserve_unknown {
            put("x-kubernetes-preserve-unknown-fields", true.into());
        }
        if schema.embedded {
            put("x-kubernetes-embedded-resource", true.into());
        }
        if schema.nullable && self.edition == Edition::V3 {
            put("nullable", true.into());
        }
    }

    fn rules(&mut self, schema: &Schema, map: &mut Map<String, Value>) {
        let Some(rules) = &schema.rules else { return };
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                map.insert(name.to_string(), value);
            }
        };
        let number = |n: Option<f64>| {
            n.map(|n| if n.fract() == 0.0 && n.abs() < 9e15 { Value::from(n as i64) } else { Value::from(n) })
        };
        if self.edition == Edition::V3 {
            put("default", rules.default.clone());
        }
        put("enum", (!rules.enumeration.is_empty()).then(|| json!(rules.enumeration)));
        put("minimum", number(rules.minimum));
        put("maximum", number(rules.maximum));
        put("exclusiveMinimum", rules.exclusive_minimum.then_some(true.into()));
        put("exclusiveMaximum", rules.exclusive_maximum.then_some(true.into()));
        put("multipleOf", number(rules.multiple_of));
        put("minLength", rules.min_length.map(Value::from));
        put("maxLength", rules.max_length.map(Value::from));
        put("minItems", rules.min_items.map(Value::from));
        put("maxItems", rules.max_items.map(Value::from));
        put("minProperties", rules.min_properties.map(Value::from));
        put("maxProperties", rules.max_properties.map(Value::from));
        put("pattern", rules.pattern.as_deref().map(Value::from));
        put("format", rules.format.as_deref().map(Value::from));
        put("required", (!rules.required.is_empty()).then(|| json!(rules.required)));
        put("description", rules.description.as_deref().map(Value::from));
        put("x-kubernetes-validations", (!rules.expressions.is_empty()).then(|| json!(rules.expressions)));
        if self.edition == Edition::V3 && schema.object().is_none_or(|o| o.module.is_empty()) {
            for (name, list) in [("allOf", &rules.all_of), ("anyOf", &rules.any_of), ("oneOf", &rules.one_of)]
            {
                if !list.is_empty() {
                    let shown: Vec<Value> = list.iter().map(|s| self.branch(s)).collect();
                    map.insert(name.to_string(), shown.into());
                }
            }
            if let Some(not) = &rules.not {
                let shown = self.branch(not);
                map.insert("not".to_string(), shown);
            }
        }
    }

    /// Below `allOf` and its kin there are rules only: no types, but those of integers or text.
    fn branch(&mut self, schema: &Schema) -> Value {
        let mut out = self.value(schema);
        let keep = matches!(schema.ty, Type::Int64 | Type::String);
        strip_types(&mut out, keep);
        out
    }
}

fn strip_types(value: &mut Value, keep: bool) {
    let Some(map) = value.as_object_mut() else { return };
    if !keep {
        map.remove("type");
    }
    for v in map.get_mut("properties").and_then(Value::as_object_mut).into_iter().flat_map(|m| m.values_mut())
    {
        strip_types(v, false);
    }
}

/// A nested reference without words beside it is a reference.
fn plain(value: Value) -> Value {
    match value.as_object() {
        Some(map) if map.len() == 1 => match map.get("allOf").and_then(Value::as_array).map(Vec::as_slice) {
            Some([only]) if only.get("$ref").is_some() => only.clone(),
            _ => value,
        },
        _ => value,
    }
}

/// Types that are no structs of the facts.
fn special(name: &str, edition: Edition) -> Option<Value> {
    Some(match name {
        "meta_v1.Time" | "meta_v1.MicroTime" => json!({"type": "string", "format": "date-time"}),
        "meta_v1.Duration" => json!({"type": "string"}),
        "meta_v1.Quantity" if edition == Edition::V2 => json!({"type": "string"}),
        "meta_v1.IntOrString" if edition == Edition::V2 => {
            json!({"type": "string", "format": "int-or-string"})
        }
        "meta_v1.Quantity" | "meta_v1.IntOrString" => {
            if name.ends_with("OrString") {
                json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"})
            } else {
                json!({"oneOf": [{"type": "string"}, {"type": "number"}]})
            }
        }
        "meta_v1.FieldsV1" | "meta_v1.RawExtension" | "meta_v1.Patch" => json!({"type": "object"}),
        "apiextensions_v1.JSON" => json!({}),
        n if n.starts_with("apiextensions_v1.JSONSchemaPropsOr") => json!({}),
        _ => return None,
    })
}
