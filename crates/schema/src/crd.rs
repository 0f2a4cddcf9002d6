//! Compiles the `openAPIV3Schema` of a CustomResourceDefinition, and says what keeps it from being structural.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::error::FieldError;
use crate::types::{Field, ListType, Object, ObjectRef, Rules, Schema, Text, Type};
use crate::validate::{compile_pattern, validate};

/// Compiles a schema that [`check`] accepts; what it does not understand it takes as any value. `metadata` is the
/// schema of object metadata, for the root and for embedded resources.
pub fn compile(kind: &str, openapi: &Value, metadata: &Schema) -> Schema {
    let mut schema = Compiler { metadata }.schema(kind, openapi, true);
    if !matches!(schema.ty, Type::Object(_)) {
        schema.ty = Type::Object(ObjectRef::of(Arc::new(new_object(kind, Vec::new()))));
    }
    with_type_meta(&mut schema, metadata);
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

/// What keeps a schema from being structural, and defaults that do not fit. `path` is where the schema is.
pub fn check(openapi: &Value, path: &str, metadata: &Schema) -> Vec<FieldError> {
    let mut out = Vec::new();
    let text = |key: &str| openapi.get(key).and_then(Value::as_str).unwrap_or("");
    match text("type") {
        "" => out.push(FieldError::required(format!("{path}.type"), "must not be empty at the root")),
        "object" => {}
        other => out.push(FieldError::invalid(format!("{path}.type"), other, "must be object at the root")),
    }
    if openapi.get("additionalProperties").is_some() {
        out.push(FieldError::forbidden(
            format!("{path}.additionalProperties"),
            "must not be used at the root",
        ));
    }
    if openapi.get("nullable") == Some(&Value::Bool(true)) {
        out.push(FieldError::forbidden(format!("{path}.nullable"), "nullable cannot be true at the root"));
    }
    let mut checker = Checker { metadata, out, depth: 0 };
    checker.level(openapi, path, true);
    checker.type_meta(openapi, path, false);
    checker.out
}

struct Checker<'a> {
    metadata: &'a Schema,
    out: Vec<FieldError>,
    depth: usize,
}

const UNSUPPORTED: [&str; 7] =
    ["$ref", "additionalItems", "definitions", "dependencies", "id", "patternProperties", "$schema"];
const DEPTH_MAX: usize = 64;

impl Checker<'_> {
    fn forbid(&mut self, path: String, why: &str) {
        self.out.push(FieldError::forbidden(path, why));
    }

    /// A schema that says the form of a value.
    fn level(&mut self, from: &Value, path: &str, root: bool) {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            self.out.push(FieldError::invalid(path, "", format!("schema is nested deeper than {DEPTH_MAX}")));
        } else {
            self.structure(from, path, root);
            self.extensions(from, path);
            self.rules_only(from, path);
            self.below(from, path);
            self.default_fits(from, path);
        }
        self.depth -= 1;
    }

    fn structure(&mut self, from: &Value, path: &str, root: bool) {
        let has = |key: &str| from.get(key).is_some_and(|v| !v.is_null());
        let is = |key: &str| from.get(key) == Some(&Value::Bool(true));
        for key in UNSUPPORTED.into_iter().filter(|k| has(k)) {
            self.forbid(format!("{path}.{key}"), &format!("{key} is not supported"));
        }
        let ty = from.get("type").and_then(Value::as_str).unwrap_or("");
        let loose = is("x-kubernetes-int-or-string") || is("x-kubernetes-preserve-unknown-fields");
        const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
        if ty.is_empty() && !loose && !root && !has("$ref") {
            let what = "must not be empty for specified object fields";
            self.out.push(FieldError::required(format!("{path}.type"), what));
        } else if !ty.is_empty() && !TYPES.contains(&ty) {
            self.out.push(FieldError::not_supported(format!("{path}.type"), ty, TYPES));
        }
        match from.get("items") {
            Some(Value::Array(_)) => {
                self.forbid(format!("{path}.items"), "items must be a schema object and not an array");
            }
            None | Some(Value::Null) if ty == "array" => {
                self.out.push(FieldError::required(format!("{path}.items"), "must be specified"));
            }
            _ => {}
        }
        if has("properties") && has("additionalProperties") && !root {
            let why = "additionalProperties and properties are mutual exclusive";
            self.forbid(format!("{path}.additionalProperties"), why);
        } else if from.get("additionalProperties") == Some(&Value::Bool(false)) && !root {
            self.forbid(format!("{path}.additionalProperties"), "must not be false");
        }
        if is("uniqueItems") {
            let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            self.forbid(format!("{path}.uniqueItems"), why);
        }
        if let Some(pattern) = from.get("pattern").and_then(Value::as_str)
            && let Err(why) = compile_pattern(pattern)
        {
            let why = format!("must be a valid regular expression, but isn't: {why}");
            self.out.push(FieldError::invalid(format!("{path}.pattern"), pattern, why));
        }
    }

    fn extensions(&mut self, from: &Value, path: &str) {
        let text = |key: &str| from.get(key).and_then(Value::as_str).unwrap_or("");
        let is = |key: &str| from.get(key) == Some(&Value::Bool(true));
        let ty = text("type");
        let invalid =
            |key: &str, bad: &str, why: &str| FieldError::invalid(format!("{path}.{key}"), bad, why);
        if from.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
            let at = format!("{path}.x-kubernetes-preserve-unknown-fields");
            self.out.push(FieldError::invalid(at, false, "must be true or undefined"));
        }
        let list = text("x-kubernetes-list-type");
        if !list.is_empty() {
            if ty != "array" {
                self.out.push(invalid("type", ty, "must be array if x-kubernetes-list-type is specified"));
            }
            if !["atomic", "set", "map"].contains(&list) {
                let at = format!("{path}.x-kubernetes-list-type");
                self.out.push(FieldError::not_supported(at, list, ["atomic", "map", "set"]));
            }
        }
        let map = text("x-kubernetes-map-type");
        if !map.is_empty() && ty != "object" {
            self.out.push(invalid("type", ty, "must be object if x-kubernetes-map-type is specified"));
        }
        if !map.is_empty() && !["atomic", "granular"].contains(&map) {
            let at = format!("{path}.x-kubernetes-map-type");
            self.out.push(FieldError::not_supported(at, map, ["atomic", "granular"]));
        }
        let keys =
            from.get("x-kubernetes-list-map-keys").and_then(Value::as_array).cloned().unwrap_or_default();
        self.map_keys(from, path, list, &keys);
        if is("x-kubernetes-embedded-resource") {
            let bare = from.get("properties").and_then(Value::as_object).is_none_or(Map::is_empty);
            if ty != "object" {
                self.out.push(invalid(
                    "type",
                    ty,
                    "must be object if x-kubernetes-embedded-resource is true",
                ));
            }
            if bare && !is("x-kubernetes-preserve-unknown-fields") {
                let what = "must not be empty if x-kubernetes-embedded-resource is true without \
                            x-kubernetes-preserve-unknown-fields";
                self.out.push(FieldError::required(format!("{path}.properties"), what));
            }
            self.type_meta(from, path, true);
        }
    }

    fn map_keys(&mut self, from: &Value, path: &str, list: &str, keys: &[Value]) {
        let at = format!("{path}.x-kubernetes-list-map-keys");
        if list == "map" && keys.is_empty() {
            let what = "must not be empty if x-kubernetes-list-type is map";
            self.out.push(FieldError::required(at, what));
            return;
        }
        if list != "map" && !keys.is_empty() {
            self.forbid(at, "must be empty if x-kubernetes-list-type is not map");
            return;
        }
        let items = from.get("items").unwrap_or(&Value::Null);
        let required = items.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
        for (i, key) in keys.iter().enumerate() {
            let name = key.as_str().unwrap_or("");
            match items.get("properties").and_then(|p| p.get(name)) {
                None => {
                    let why = "entries must all be names of item properties";
                    self.out.push(FieldError::invalid(format!("{at}[{i}]"), name, why));
                }
                Some(property) if property.get("default").is_none() && !required.contains(key) => {
                    let what = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a \
                                required property";
                    let at = format!("{path}.items.properties[{name}].default");
                    self.out.push(FieldError::required(at, what));
                }
                Some(_) => {}
            }
        }
    }

    /// The root and embedded resources may say little of their type and metadata.
    fn type_meta(&mut self, from: &Value, path: &str, embedded: bool) {
        let Some(properties) = from.get("properties").and_then(Value::as_object) else { return };
        for name in ["apiVersion", "kind", "metadata"] {
            let want = if name == "metadata" { "object" } else { "string" };
            let Some(ty) = properties.get(name).map(|p| p.get("type").and_then(Value::as_str).unwrap_or(""))
            else {
                continue;
            };
            if ty != want {
                let at = format!("{path}.properties[{name}].type");
                self.out.push(FieldError::invalid(at, ty, format!("must be {want}")));
            }
        }
        let metadata =
            properties.get("metadata").and_then(|m| m.get("properties")).and_then(Value::as_object);
        if metadata.is_some_and(|m| m.keys().any(|k| k != "name" && k != "generateName")) && !embedded {
            let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
            self.forbid(format!("{path}.properties[metadata]"), why);
        }
    }

    /// Below `allOf` and its kin there are rules only.
    fn rules_only(&mut self, from: &Value, path: &str) {
        for key in ["allOf", "anyOf", "oneOf"] {
            for (i, branch) in from.get(key).and_then(Value::as_array).into_iter().flatten().enumerate() {
                self.branch(branch, &format!("{path}.{key}[{i}]"), from);
            }
        }
        if let Some(branch) = from.get("not").filter(|b| !b.is_null()) {
            self.branch(branch, &format!("{path}.not"), from);
        }
    }

    fn branch(&mut self, branch: &Value, path: &str, parent: &Value) {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            self.depth -= 1;
            return;
        }
        let has = |key: &str| branch.get(key).is_some_and(|v| !v.is_null() && *v != Value::Bool(false));
        let int_or_string = parent.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
        let table = [
            ("additionalProperties", "must be undefined to be structural"),
            ("default", "must be undefined to be structural"),
            ("description", "must be empty to be structural"),
            ("nullable", "must be false to be structural"),
            ("title", "must be empty to be structural"),
            ("type", "must be empty to be structural"),
            ("x-kubernetes-embedded-resource", "must be false to be structural"),
            ("x-kubernetes-int-or-string", "must be false to be structural"),
            ("x-kubernetes-list-map-keys", "must be empty to be structural"),
            ("x-kubernetes-list-type", "must be undefined to be structural"),
            ("x-kubernetes-map-type", "must be undefined to be structural"),
            ("x-kubernetes-preserve-unknown-fields", "must be undefined to be structural"),
        ];
        for (key, why) in table {
            if has(key) && !(key == "type" && int_or_string) {
                self.forbid(format!("{path}.{key}"), why);
            }
        }
        for (name, inner) in branch.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let at = format!("{path}.properties[{name}]");
            let own = parent.get("properties").and_then(|p| p.get(name)).unwrap_or(&Value::Null);
            self.branch(inner, &at, own);
        }
        if let Some(items) = branch.get("items").filter(|i| i.is_object()) {
            self.branch(items, &format!("{path}.items"), parent.get("items").unwrap_or(&Value::Null));
        }
        self.rules_only(branch, path);
        self.depth -= 1;
    }

    fn below(&mut self, from: &Value, path: &str) {
        for (name, inner) in from.get("properties").and_then(Value::as_object).into_iter().flatten() {
            self.level(inner, &format!("{path}.properties[{name}]"), false);
        }
        for key in ["items", "additionalProperties"] {
            if let Some(inner) = from.get(key).filter(|i| i.is_object()) {
                self.level(inner, &format!("{path}.{key}"), false);
            }
        }
    }

    fn default_fits(&mut self, from: &Value, path: &str) {
        let Some(default) = from.get("default").filter(|d| !d.is_null()) else { return };
        let mut bare = from.clone();
        if let Some(map) = bare.as_object_mut() {
            map.remove("default");
        }
        let schema = Compiler { metadata: self.metadata }.schema("", &bare, true);
        let mut value = default.clone();
        crate::defaulting::default(&schema, &mut value);
        for mut error in validate(&schema, &value, None) {
            error.field = match error.field.as_str() {
                "" | "<nil>" => format!("{path}.default"),
                field => format!("{path}.default.{field}"),
            };
            self.out.push(error);
        }
        let mut pruned = default.clone();
        if !crate::prune::prune(&schema, &mut pruned).is_empty() {
            let why = "must not have unknown fields";
            self.out.push(FieldError::invalid(format!("{path}.default"), default.clone(), why));
        }
    }
}
