//! What keeps the schema of a CustomResourceDefinition from being accepted, in upstream's words and order of passes:
//! the root, the structure, the completeness of nested rules, the defaults, and the words themselves.

use serde_json::{Value, json};

use super::Compiler;
use super::words::Inside;
use crate::error::FieldError;
use crate::types::Schema;
use crate::validate::{compile_pattern, validate};

const DEPTH_MAX: usize = 64;
/// Words that may stand at the root beside the subresource status, and upstream's names of them.
const AT_ROOT: [(&str, &str); 22] = [
    ("description", "Description"),
    ("type", "Type"),
    ("format", "Format"),
    ("title", "Title"),
    ("maximum", "Maximum"),
    ("exclusiveMaximum", "ExclusiveMaximum"),
    ("minimum", "Minimum"),
    ("exclusiveMinimum", "ExclusiveMinimum"),
    ("maxLength", "MaxLength"),
    ("minLength", "MinLength"),
    ("pattern", "Pattern"),
    ("maxItems", "MaxItems"),
    ("minItems", "MinItems"),
    ("uniqueItems", "UniqueItems"),
    ("multipleOf", "MultipleOf"),
    ("required", "Required"),
    ("items", "Items"),
    ("properties", "Properties"),
    ("externalDocs", "ExternalDocs"),
    ("example", "Example"),
    ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields"),
    ("x-kubernetes-validations", "XValidations"),
];
const NESTED: [(&str, &str); 13] = [
    ("type", "must be empty to be structural"),
    ("additionalProperties", "must be undefined to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
    ("x-kubernetes-validations", "must be empty to be structural"),
];

/// What is wrong with the schema at `path`; `status` tells whether the version has that subresource.
pub fn check(openapi: &Value, path: &str, metadata: &Schema, status: bool) -> Vec<FieldError> {
    if depth(openapi, 0) > DEPTH_MAX {
        return vec![FieldError::invalid(path, "", format!("schema is nested deeper than {DEPTH_MAX}"))];
    }
    let mut checker = Checker { metadata, out: Vec::new() };
    if status {
        checker.root(openapi, path);
    }
    if is(openapi, "nullable") {
        checker.forbid(path, "nullable", "nullable cannot be true at the root");
    }
    let unstructured = unstructured(openapi);
    if unstructured.is_none() {
        let before = checker.out.len();
        checker.invariants(openapi, Level::Root, path);
        checker.completeness(openapi, openapi, path, path);
        checker.out[before..].sort_by_cached_key(ToString::to_string);
        if checker.out.len() == before {
            checker.defaults(openapi, path, false);
        }
    }
    checker.words(openapi, path, &Inside { root: true, ..Inside::default() });
    if let Some(why) = unstructured.filter(|_| checker.out.is_empty()) {
        checker.out.push(FieldError::invalid(path, "", why));
    }
    if checker.out.is_empty() {
        // Only schemas that hold have types to compile rules against.
        checker.out = crate::expressions::check(openapi, path);
    }
    checker.out
}

/// Where in an object a schema stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

pub(super) struct Checker<'a> {
    metadata: &'a Schema,
    pub(super) out: Vec<FieldError>,
}

pub(super) fn has(from: &Value, key: &str) -> bool {
    from.get(key).is_some_and(|v| !v.is_null())
}

pub(super) fn is(from: &Value, key: &str) -> bool {
    from.get(key) == Some(&Value::Bool(true))
}

pub(super) fn text<'a>(from: &'a Value, key: &str) -> &'a str {
    from.get(key).and_then(Value::as_str).unwrap_or("")
}

/// Whether a word says something: neither null, false, nor empty.
pub(super) fn says(from: &Value, key: &str) -> bool {
    match from.get(key) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(map)) => key == "additionalProperties" || key == "default" || !map.is_empty(),
        Some(_) => true,
    }
}

pub(super) fn list<'a>(from: &'a Value, key: &str) -> &'a [Value] {
    from.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(super) fn properties(from: &Value) -> impl Iterator<Item = (&String, &Value)> {
    from.get("properties").and_then(Value::as_object).into_iter().flatten()
}

pub(super) fn schema_at<'a>(from: &'a Value, key: &str) -> Option<&'a Value> {
    from.get(key).filter(|inner| inner.is_object())
}

/// The schemas below one.
fn inner(from: &Value) -> impl Iterator<Item = &Value> {
    let single = ["items", "additionalProperties", "not"].into_iter().filter_map(|key| schema_at(from, key));
    let many = ["allOf", "anyOf", "oneOf"].into_iter().flat_map(|key| list(from, key));
    single.chain(many).chain(properties(from).map(|(_, schema)| schema))
}

fn depth(from: &Value, above: usize) -> usize {
    if above > DEPTH_MAX {
        return above;
    }
    inner(from).map(|schema| depth(schema, above + 1)).max().unwrap_or(above)
}

/// Why a schema cannot be read as a structural one at all.
fn unstructured(from: &Value) -> Option<String> {
    if from.get("items").is_some_and(Value::is_array) {
        return Some("OpenAPIV3Schema 'items' must be a schema, but is an array".to_string());
    }
    for (key, shown) in [
        ("id", "id"),
        ("$schema", "schema"),
        ("$ref", "$ref"),
        ("patternProperties", "patternProperties"),
        ("dependencies", "dependencies"),
        ("additionalItems", "additionalItems"),
        ("definitions", "definitions"),
    ] {
        if says(from, key) {
            return Some(format!("OpenAPIV3Schema '{shown}' is not supported"));
        }
    }
    let key = "x-kubernetes-preserve-unknown-fields";
    if from.get(key) == Some(&Value::Bool(false)) {
        return Some(format!("internal error: '{key}' must be true or undefined"));
    }
    inner(from).find_map(unstructured)
}

fn is_int_or_string(branches: &[Value]) -> bool {
    branches == [json!({"type": "integer"}), json!({"type": "string"})]
}

impl Checker<'_> {
    pub(super) fn forbid(&mut self, path: &str, key: &str, why: &str) {
        self.out.push(FieldError::forbidden(format!("{path}.{key}"), why));
    }

    pub(super) fn require(&mut self, path: &str, key: &str, why: &str) {
        self.out.push(FieldError::required(format!("{path}.{key}"), why));
    }

    pub(super) fn invalid(&mut self, path: &str, key: &str, bad: impl Into<Value>, why: &str) {
        self.out.push(FieldError::invalid(format!("{path}.{key}"), bad, why));
    }

    /// `Required value` for a word that is missing, `Invalid value` for another one.
    pub(super) fn must_be(&mut self, path: &str, key: &str, bad: &str, why: &str) {
        match bad {
            "" => self.require(path, key, why),
            bad => self.invalid(path, key, bad, why),
        }
    }

    fn root(&mut self, from: &Value, path: &str) {
        let ty = text(from, "type");
        if !ty.is_empty() && ty != "object" {
            let why = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
            return self.invalid(path, "type", ty, why);
        }
        let unknown = |(key, _): &(&String, &Value)| {
            says(from, key) && !AT_ROOT.iter().any(|(allowed, _)| allowed == key)
        };
        if from.as_object().into_iter().flatten().any(|pair| unknown(&pair)) {
            let names: Vec<&str> = AT_ROOT.iter().map(|(_, name)| *name).collect();
            let why = format!(
                "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
                names.join(" ")
            );
            self.out.push(FieldError::invalid(path, from.clone(), why));
        }
    }

    /// What holds of every structural schema.
    fn invariants(&mut self, from: &Value, level: Level, path: &str) {
        let ty = text(from, "type");
        if ty == "array" && !has(from, "items") {
            self.require(path, "items", "must be specified");
        }
        if let Some(items) = schema_at(from, "items") {
            self.invariants(items, Level::Item, &format!("{path}.items"));
        }
        for (name, field) in properties(from) {
            self.invariants(field, Level::Field, &format!("{path}.properties[{name}]"));
        }
        if has(from, "additionalProperties") {
            if level == Level::Root {
                self.forbid(path, "additionalProperties", "must not be used at the root");
            }
            if let Some(values) = schema_at(from, "additionalProperties") {
                self.invariants(values, Level::Field, &format!("{path}.additionalProperties"));
            }
        }
        let skip_any = is_int_or_string(list(from, "anyOf"));
        let first = list(from, "allOf").first();
        let skip_first = first.is_some_and(|first| is_int_or_string(list(first, "anyOf")));
        self.rules(from, (skip_any, skip_first), path);
        self.extensions(from, level, path);
        if level == Level::Root && !ty.is_empty() && ty != "object" {
            self.invalid(path, "type", ty, "must be object at the root");
        }
        self.type_meta(from, level, path);
    }

    fn extensions(&mut self, from: &Value, level: Level, path: &str) {
        let (embedded, kept) =
            (is(from, "x-kubernetes-embedded-resource"), is(from, "x-kubernetes-preserve-unknown-fields"));
        let either = is(from, "x-kubernetes-int-or-string");
        for (on, key) in
            [(kept, "x-kubernetes-preserve-unknown-fields"), (embedded, "x-kubernetes-embedded-resource")]
        {
            if either && on {
                self.invalid(path, key, true, "must be false if x-kubernetes-int-or-string is true");
            }
        }
        let ty = text(from, "type");
        if embedded && ty != "object" {
            self.must_be(path, "type", ty, "must be object if x-kubernetes-embedded-resource is true");
        } else if ty.is_empty() && !either && !kept {
            let why = match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            };
            self.require(path, "type", why);
        }
        if embedded && has(from, "additionalProperties") {
            let why = "must not be used if x-kubernetes-embedded-resource is set";
            self.forbid(path, "additionalProperties", why);
        }
        if embedded && !kept && properties(from).next().is_none() {
            let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
            self.require(path, "properties", why);
        }
    }

    /// The root and embedded resources may say little of their type and metadata.
    fn type_meta(&mut self, from: &Value, level: Level, path: &str) {
        let object = level == Level::Root || is(from, "x-kubernetes-embedded-resource");
        for (name, field) in properties(from).filter(|(name, _)| object || *name == "metadata") {
            let want = match name.as_str() {
                "apiVersion" | "kind" => "string",
                "metadata" => "object",
                _ => continue,
            };
            let at = format!("{path}.properties[{name}]");
            if object && text(field, "type") != want {
                self.invalid(&at, "type", text(field, "type"), &format!("must be {want}"));
            }
            let known = |key: &str| ["name", "generateName"].contains(&key);
            let bare = |key: &str| match key {
                "type" | "default" => true,
                "properties" => properties(field).all(|(name, _)| known(name)),
                key => !says(field, key),
            };
            let all_bare = field.as_object().is_none_or(|map| map.keys().all(|key| bare(key)));
            if name == "metadata" && level == Level::Root && !all_bare {
                let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
                self.out.push(FieldError::forbidden(at, why));
            }
        }
    }

    /// The rules of a value: nested ones may say nothing of its form.
    fn rules(&mut self, from: &Value, (skip_any, skip_first): (bool, bool), path: &str) {
        for (i, branch) in list(from, "anyOf").iter().enumerate().filter(|_| !skip_any) {
            self.nested(branch, (false, false), &format!("{path}.anyOf[{i}]"));
        }
        for (i, branch) in list(from, "allOf").iter().enumerate() {
            self.nested(branch, (skip_first && i == 0, false), &format!("{path}.allOf[{i}]"));
        }
        for (i, branch) in list(from, "oneOf").iter().enumerate() {
            self.nested(branch, (false, false), &format!("{path}.oneOf[{i}]"));
        }
        if let Some(branch) = schema_at(from, "not") {
            self.nested(branch, (false, false), &format!("{path}.not"));
        }
        let pattern = text(from, "pattern");
        if !pattern.is_empty()
            && let Err(why) = compile_pattern(pattern)
        {
            let why = format!("must be a valid regular expression, but isn't: {why}");
            self.invalid(path, "pattern", pattern, &why);
        }
    }

    fn nested(&mut self, from: &Value, skip: (bool, bool), path: &str) {
        self.rules(from, skip, path);
        if let Some(items) = schema_at(from, "items") {
            self.nested(items, (false, false), &format!("{path}.items"));
        }
        for (name, field) in properties(from) {
            self.nested(field, (false, false), &format!("{path}.properties[{name}]"));
            if name == "metadata" {
                let at = format!("{path}.properties[metadata]");
                self.out.push(FieldError::forbidden(at, "must not be specified in a nested context"));
            }
        }
        for (key, why) in NESTED {
            if says(from, key) || (key == "x-kubernetes-list-type" && has(from, key)) {
                self.forbid(path, key, why);
            }
        }
    }

    /// What nested rules speak of has to be described outside of them too.
    fn completeness(&mut self, rules: &Value, structure: &Value, at: &str, from: &str) {
        let many = ["allOf", "anyOf", "oneOf"].into_iter();
        let many = many.flat_map(|key| {
            list(rules, key).iter().enumerate().map(move |(i, b)| (format!("{key}[{i}]"), b))
        });
        let branches: Vec<(String, &Value)> =
            many.chain(schema_at(rules, "not").map(|branch| ("not".to_string(), branch))).collect();
        for (key, branch) in branches {
            self.nested_completeness(branch, structure, at, &format!("{from}.{key}"));
        }
    }

    fn nested_completeness(&mut self, rules: &Value, structure: &Value, at: &str, from: &str) {
        self.completeness(rules, structure, at, from);
        let fields = properties(rules).map(|(name, field)| {
            let own = structure.get("properties").and_then(|all| all.get(name));
            (format!("properties[{name}]"), field, own)
        });
        let items = schema_at(rules, "items")
            .map(|items| ("items".to_string(), items, schema_at(structure, "items")));
        for (key, inner, own) in fields.chain(items).collect::<Vec<_>>() {
            let (at, from) = (format!("{at}.{key}"), format!("{from}.{key}"));
            match own {
                Some(own) => self.nested_completeness(inner, own, &at, &from),
                None => self.out.push(FieldError::required(at, format!("because it is defined in {from}"))),
            }
        }
    }

    /// Defaults keep the rules they stand beside; those of metadata are looked at when they are used.
    fn defaults(&mut self, from: &Value, path: &str, metadata: bool) {
        let embedded = is(from, "x-kubernetes-embedded-resource");
        if has(from, "default") && (embedded || !metadata) {
            self.default_fits(from, path);
        }
        if let Some(items) = schema_at(from, "items") {
            self.defaults(items, &format!("{path}.items"), metadata);
        }
        for (name, field) in properties(from) {
            let meta = embedded && ["apiVersion", "kind", "metadata"].contains(&name.as_str());
            self.defaults(field, &format!("{path}.properties[{name}]"), metadata || meta);
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
        let mut pruned = default.clone();
        if !crate::prune::prune(&schema, &mut pruned).is_empty() {
            self.invalid(path, "default", default.clone(), "must not have unknown fields");
        }
        for mut error in validate(&schema, &value, None) {
            error.field = match error.field.as_str() {
                "" | "<nil>" => format!("{path}.default"),
                field => format!("{path}.default.{field}"),
            };
            self.out.push(error);
        }
    }
}
