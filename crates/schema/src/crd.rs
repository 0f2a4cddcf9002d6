//! Compiles the `openAPIV3Schema` of a CustomResourceDefinition, and says what keeps it from being structural.

mod check;
mod words;

pub use check::check;

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::types::{Field, ListType, Object, ObjectRef, Rules, Schema, Text, Type};

/// Compiles a schema that [`check`] accepts; what it does not understand it takes as any value. `metadata` is the
/// schema of object metadata, for the root and for embedded resources.
pub fn compile(kind: &str, openapi: &Value, metadata: &Schema) -> Schema {
    let mut schema = Compiler { metadata }.schema(kind, openapi, true);
    if !matches!(schema.ty, Type::Object(_)) {
        schema.ty = Type::Object(ObjectRef::of(Arc::new(new_object(kind, Vec::new()))));
    }
    with_type_meta(&mut schema, metadata);
    if let Some(tree) = crate::expressions::Lazy::new(openapi) {
        schema.rules_mut().rule_tree = Some(Arc::new(tree));
    }
    schema
}

fn new_object(name: &str, fields: Vec<Field>) -> Object {
    Object::new(Text::Owned(name.to_string()), Text::Borrowed(""), fields, Vec::new())
}

fn new_field(owner: &str, name: &str, required: bool, schema: Schema) -> Field {
    Field {
        name: Text::Owned(name.to_string()),
        tag: 0,
        pointer: true,
        emit: Default::default(),
        required,
        owner: Text::Owned(owner.to_string()),
        schema,
    }
}

/// Adds `apiVersion`, `kind` and `metadata` to a root or embedded object.
fn with_type_meta(schema: &mut Schema, metadata: &Schema) {
    let Type::Object(o) = &schema.ty else { return };
    let object = o.get();
    let known = |f: &&Field| !["apiVersion", "kind", "metadata"].contains(&f.name.as_ref());
    let mut fields: Vec<Field> = object.fields.iter().filter(known).cloned().collect();
    for name in ["apiVersion", "kind"] {
        let own = object.field(name).map(|f| f.schema.clone());
        fields.push(new_field(&object.name, name, false, own.unwrap_or_else(|| Schema::new(Type::String))));
    }
    let mut meta = metadata.clone();
    if let Some(own) = object.field("metadata") {
        // Of metadata only the rules of name and generateName may be given.
        meta.rules_mut().all_of.push(own.schema.clone());
    }
    fields.push(new_field(&object.name, "metadata", false, meta));
    schema.ty = Type::Object(ObjectRef::of(Arc::new(new_object(&object.name, fields))));
}

struct Compiler<'a> {
    metadata: &'a Schema,
}

impl Compiler<'_> {
    /// `typed` is off below `allOf` and its kin, where only rules are given.
    fn schema(&self, name: &str, from: &Value, typed: bool) -> Schema {
        let is = |key: &str| from.get(key) == Some(&Value::Bool(true));
        let text = |key: &str| from.get(key).and_then(Value::as_str).unwrap_or("");
        let mut schema = Schema::new(self.ty(name, from, typed));
        schema.nullable = is("nullable");
        schema.preserve_unknown = is("x-kubernetes-preserve-unknown-fields");
        schema.embedded = is("x-kubernetes-embedded-resource");
        schema.atomic = text("x-kubernetes-map-type") == "atomic";
        schema.list = match text("x-kubernetes-list-type") {
            "set" => ListType::Set,
            "map" => {
                let keys = from.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
                let keys = keys.into_iter().flatten().filter_map(Value::as_str);
                ListType::Map(keys.map(|k| Text::Owned(k.to_string())).collect())
            }
            _ => ListType::Atomic,
        };
        schema.rules = self.rules(name, from);
        if schema.embedded {
            with_type_meta(&mut schema, self.metadata);
        }
        schema
    }

    fn ty(&self, name: &str, from: &Value, typed: bool) -> Type {
        if from.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
            return Type::IntOrString;
        }
        let ty = from.get("type").and_then(Value::as_str).unwrap_or("");
        let format = from.get("format").and_then(Value::as_str).unwrap_or("");
        let properties = from.get("properties").and_then(Value::as_object);
        match ty {
            "string" => Type::String,
            "boolean" => Type::Bool,
            "number" => Type::Float,
            "integer" if format == "int32" => Type::Int32,
            "integer" => Type::Int64,
            "array" => Type::List(Arc::new(self.item(name, from.get("items"), typed))),
            "object" => match (properties, from.get("additionalProperties")) {
                (None, Some(value @ Value::Object(_))) => {
                    Type::Map(Arc::new(self.schema(name, value, typed)))
                }
                (None, Some(Value::Bool(true))) => Type::Map(Arc::new(any())),
                _ => self.object(name, properties, typed),
            },
            _ if properties.is_some() => self.object(name, properties, typed),
            _ if from.get("items").is_some() => {
                Type::List(Arc::new(self.item(name, from.get("items"), typed)))
            }
            _ => Type::Any,
        }
    }

    fn item(&self, name: &str, items: Option<&Value>, typed: bool) -> Schema {
        items.map_or_else(any, |i| self.schema(name, i, typed))
    }

    fn object(&self, name: &str, properties: Option<&Map<String, Value>>, typed: bool) -> Type {
        let fields = properties.into_iter().flatten();
        let fields = fields.map(|(key, v)| new_field(name, key, false, self.schema(key, v, typed))).collect();
        Type::Object(ObjectRef::of(Arc::new(new_object(name, fields))))
    }

    fn rules(&self, name: &str, from: &Value) -> Option<Box<Rules>> {
        let map = from.as_object()?;
        let count = |key: &str| map.get(key).and_then(Value::as_u64);
        let number = |key: &str| map.get(key).and_then(Value::as_f64);
        let is = |key: &str| map.get(key) == Some(&Value::Bool(true));
        let owned = |key: &str| map.get(key).and_then(Value::as_str).map(|t| Text::Owned(t.to_string()));
        let list = |key: &str| map.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        let below = |key: &str| list(key).iter().map(|s| self.schema(name, s, false)).collect::<Vec<_>>();
        let texts = |key: &str| {
            list(key)
                .iter()
                .filter_map(|v| v.as_str().map(|t| Text::Owned(t.to_string())))
                .collect::<Vec<_>>()
        };
        let rules = Rules {
            default: map.get("default").filter(|d| !d.is_null()).cloned(),
            enumeration: list("enum"),
            minimum: number("minimum"),
            maximum: number("maximum"),
            exclusive_minimum: is("exclusiveMinimum"),
            exclusive_maximum: is("exclusiveMaximum"),
            multiple_of: number("multipleOf"),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            pattern: owned("pattern"),
            regex: Default::default(),
            format: owned("format"),
            required: texts("required"),
            immutable: false,
            unique_items: is("uniqueItems"),
            all_of: below("allOf"),
            any_of: below("anyOf"),
            one_of: below("oneOf"),
            not: map.get("not").map(|s| Box::new(self.schema(name, s, false))),
            expressions: list("x-kubernetes-validations"),
            rule_tree: None,
            description: owned("description"),
        };
        Some(Box::new(rules))
    }
}

fn any() -> Schema {
    let mut schema = Schema::new(Type::Any);
    schema.preserve_unknown = true;
    schema
}
