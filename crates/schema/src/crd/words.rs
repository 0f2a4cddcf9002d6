//! The words of a CustomResourceDefinition's schema, nested rules included: which may stand where, and beside which.

use serde_json::{Map, Value};

use super::check::{Checker, has, is, list, properties, says, schema_at, text};
use crate::error::FieldError;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
/// Words that no schema may have, and how they are refused.
const UNSUPPORTED: [(&str, &str); 6] = [
    ("id", "id is not supported"),
    ("additionalItems", "additionalItems is not supported"),
    ("patternProperties", "patternProperties is not supported"),
    ("definitions", "definitions is not supported"),
    ("dependencies", "dependencies is not supported"),
    ("$ref", "$ref is not supported"),
];
/// What surrounds a schema.
#[derive(Clone, Default)]
pub(super) struct Inside {
    pub(super) root: bool,
    pub(super) metadata: bool,
    /// Why there may be no defaults.
    pub(super) no_defaults: Option<String>,
}

impl Checker<'_> {
    /// Every schema, nested rules included: the words it has.
    pub(super) fn words(&mut self, from: &Value, path: &str, inside: &Inside) {
        self.standard(from, path, inside);
        if is(from, "uniqueItems") {
            let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            self.forbid(path, "uniqueItems", why);
        }
        let below = Inside { root: false, ..inside.clone() };
        if has(from, "additionalProperties")
            && properties(from).next().is_some()
            && !is(from, "additionalProperties")
        {
            let why = "additionalProperties and properties are mutual exclusive";
            self.forbid(path, "additionalProperties", why);
        }
        if let Some(values) = schema_at(from, "additionalProperties") {
            let mut values_inside = below.clone();
            if inside.metadata {
                let why = "inside additionalProperties applying to object metadata";
                values_inside.no_defaults = Some(why.to_string());
            }
            self.words(values, &format!("{path}.additionalProperties"), &values_inside);
        }
        let object = inside.root || is(from, "x-kubernetes-embedded-resource");
        for (name, field) in properties(from) {
            let mut field_inside = below.clone();
            if object && ["metadata", "kind", "apiVersion"].contains(&name.as_str()) {
                field_inside.metadata = true;
                if inside.root {
                    field_inside.no_defaults = Some(format!("in top-level {name}"));
                }
            }
            self.words(field, &format!("{path}.properties[{name}]"), &field_inside);
        }
        if let Some(branch) = schema_at(from, "not") {
            self.words(branch, &format!("{path}.not"), &below);
        }
        for key in ["allOf", "oneOf", "anyOf", "items"] {
            for (i, branch) in list(from, key).iter().enumerate() {
                self.words(branch, &format!("{path}.{key}[{i}]"), &below);
            }
        }
        if let Some(items) = schema_at(from, "items") {
            self.words(items, &format!("{path}.items"), &below);
        }
        self.lists_and_maps(from, path);
        self.expressions(from, path);
    }

    fn standard(&mut self, from: &Value, path: &str, inside: &Inside) {
        let ty = text(from, "type");
        if !ty.is_empty() && !TYPES.contains(&ty) {
            self.out.push(FieldError::not_supported(format!("{path}.type"), ty, TYPES));
        }
        if let Some(why) = inside.no_defaults.as_ref().filter(|_| has(from, "default")) {
            self.forbid(path, "default", &format!("must not be set {why}"));
        }
        for (key, why) in UNSUPPORTED {
            if says(from, key) {
                self.forbid(path, key, why);
            }
        }
        if ty == "null" {
            self.forbid(path, "type", "type cannot be set to null, use nullable as an alternative");
        }
        if !list(from, "items").is_empty() {
            self.forbid(path, "items", "items must be a schema object and not an array");
        }
        if inside.metadata && is(from, "x-kubernetes-embedded-resource") {
            self.forbid(path, "x-kubernetes-embedded-resource", "must not be used inside of resource meta");
        }
    }

    fn lists_and_maps(&mut self, from: &Value, path: &str) {
        let (ty, map, kind) =
            (text(from, "type"), from.get("x-kubernetes-map-type"), from.get("x-kubernetes-list-type"));
        let kept = "x-kubernetes-preserve-unknown-fields";
        if from.get(kept) == Some(&Value::Bool(false)) {
            self.invalid(path, kept, false, "must be true or undefined");
        }
        if let Some(map) = map.and_then(Value::as_str) {
            if ty != "object" {
                self.must_be(path, "type", ty, "must be object if x-kubernetes-map-type is specified");
            }
            if !["atomic", "granular"].contains(&map) {
                let at = format!("{path}.x-kubernetes-map-type");
                self.out.push(FieldError::not_supported(at, map, ["atomic", "granular"]));
            }
        }
        let kind = kind.and_then(Value::as_str);
        if let Some(kind) = kind {
            if ty != "array" {
                self.must_be(path, "type", ty, "must be array if x-kubernetes-list-type is specified");
            } else if kind == "set" {
                self.set_items(from, path);
            }
            if !["atomic", "set", "map"].contains(&kind) {
                let at = format!("{path}.x-kubernetes-list-type");
                self.out.push(FieldError::not_supported(at, kind, ["atomic", "set", "map"]));
            }
        }
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        match kind {
            None if says(from, "x-kubernetes-list-map-keys") => {
                self.require(path, "x-kubernetes-list-type", why);
            }
            Some(kind) if kind != "map" && says(from, "x-kubernetes-list-map-keys") => {
                self.invalid(path, "x-kubernetes-list-type", kind, why);
            }
            _ => {}
        }
        if kind == Some("map") {
            self.map_items(from, path);
        }
        self.keys_are_there(from, kind, path);
    }

    /// The items of a set are compared as a whole.
    fn set_items(&mut self, from: &Value, path: &str) {
        let Some(items) = schema_at(from, "items") else { return };
        let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let (list, map) = (items.get("x-kubernetes-list-type"), text(items, "x-kubernetes-map-type"));
        match text(items, "type") {
            "array" if list.is_some_and(|list| *list != "atomic") => {
                let bad = list.cloned().unwrap_or_default();
                self.invalid(path, "items.x-kubernetes-list-type", bad, why);
            }
            "object" if map != "atomic" => {
                let bad = list.cloned().unwrap_or_default();
                self.invalid(path, "items.x-kubernetes-map-type", bad, why);
            }
            _ => {}
        }
    }

    /// The items of a map are objects, and its keys are among their fields.
    fn map_items(&mut self, from: &Value, path: &str) {
        let keys = list(from, "x-kubernetes-list-map-keys");
        if keys.is_empty() {
            let why = "must not be empty if x-kubernetes-list-type is map";
            self.require(path, "x-kubernetes-list-map-keys", why);
        }
        let items = match from.get("items") {
            None | Some(Value::Null) => {
                return self.require(path, "items", "must have a schema if x-kubernetes-list-type is map");
            }
            Some(items) if !items.is_object() => {
                let why = "must only have a single schema if x-kubernetes-list-type is map";
                return self.invalid(path, "items", items.clone(), why);
            }
            Some(items) => items,
        };
        if text(items, "type") != "object" {
            let why = "must be object if parent array's x-kubernetes-list-type is map";
            return self.invalid(path, "items.type", text(items, "type"), why);
        }
        let mut seen: Vec<&Value> = Vec::new();
        for key in keys {
            let name = key.as_str().unwrap_or("");
            match items.get("properties").and_then(|all| all.get(name)) {
                Some(field) if ["array", "object"].contains(&text(field, "type")) => {
                    let at = format!("{path}.items.properties[{name}]");
                    let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                    self.invalid(&at, "type", text(items, "type"), why);
                }
                Some(_) => {}
                None => {
                    let why = "entries must all be names of item properties";
                    self.invalid(path, "x-kubernetes-list-map-keys", keys, why);
                }
            }
            if seen.contains(&key) {
                self.invalid(path, "x-kubernetes-list-map-keys", keys, "must not contain duplicate entries");
            }
            seen.push(key);
        }
    }

    /// Items of sets and maps are never null, nor are keys, and keys are always there.
    fn keys_are_there(&mut self, from: &Value, kind: Option<&str>, path: &str) {
        let (Some(kind @ ("set" | "map")), Some(items)) = (kind, schema_at(from, "items")) else { return };
        if is(items, "nullable") {
            let why = format!("cannot be nullable when x-kubernetes-list-type is {kind}");
            self.forbid(path, "items.nullable", &why);
        }
        let keys = list(from, "x-kubernetes-list-map-keys").iter().filter(|_| kind == "map");
        for key in keys {
            let name = key.as_str().unwrap_or("");
            let Some(field) = items.get("properties").and_then(|all| all.get(name)) else { continue };
            let at = format!("{path}.items.properties[{name}]");
            if !list(items, "required").contains(key) && !has(field, "default") {
                let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                self.require(&at, "default", why);
            }
            if is(field, "nullable") {
                let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
                self.forbid(&at, "nullable", why);
            }
        }
    }

    /// Expressions are looked at for being there; whether they are CEL is said elsewhere.
    fn expressions(&mut self, from: &Value, path: &str) {
        const REASONS: [&str; 4] =
            ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
        let broken = |text: &str| text.contains(['\n', '\r']);
        for (i, rule) in list(from, "x-kubernetes-validations").iter().enumerate() {
            let at = format!("{path}.x-kubernetes-validations[{i}]");
            let (own, message) = (text(rule, "rule").trim(), text(rule, "message"));
            let empty = "must be non-empty if specified";
            if own.is_empty() {
                self.require(&at, "rule", "rule is not specified");
            } else if !message.is_empty() && message.trim().is_empty() {
                self.invalid(&at, "message", message, empty);
            } else if broken(message.trim()) {
                self.invalid(&at, "message", message, "must not contain line breaks");
            } else if broken(own) && message.trim().is_empty() {
                self.require(&at, "message", "message must be specified if rule contains line breaks");
            }
            let expression = text(rule, "messageExpression");
            if !expression.is_empty() && expression.trim().is_empty() {
                self.require(&at, "messageExpression", "messageExpression must be non-empty if specified");
            }
            if let Some(reason) = rule.get("reason").and_then(Value::as_str)
                && !REASONS.contains(&reason)
            {
                self.out.push(FieldError::not_supported(format!("{at}.reason"), reason, REASONS));
            }
            let field = text(rule, "fieldPath");
            if !field.is_empty() && field.trim().is_empty() {
                self.invalid(&at, "fieldPath", field, empty);
            }
            if broken(field) {
                self.invalid(&at, "fieldPath", field, "must not contain line breaks");
            }
            if !field.is_empty() && !leads_somewhere(from, field) {
                self.invalid(&at, "fieldPath", field, "must be a valid path");
            }
        }
    }
}

/// Whether a path such as `.a.b['c']` leads to a part of the schema.
fn leads_somewhere(from: &Value, path: &str) -> bool {
    let mut here = from;
    let mut rest = path;
    while !rest.is_empty() {
        let name;
        if let Some(quoted) = rest.strip_prefix("['") {
            let Some((inner, after)) = quoted.split_once("']") else { return false };
            (name, rest) = (inner, after);
        } else if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            (name, rest) = after.split_at(end);
        } else {
            return false;
        }
        let field = here
            .get("properties")
            .and_then(Value::as_object)
            .and_then(|all: &Map<String, Value>| all.get(name));
        match field.or_else(|| schema_at(here, "additionalProperties")) {
            Some(next) if !name.is_empty() => here = next,
            _ => return false,
        }
    }
    true
}
