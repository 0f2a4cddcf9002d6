//! The words in which rules are written: a value with its place, and a list of what is wrong.
//!
//! [`At`] lives on the stack; a path becomes text only when something is wrong.

use std::cell::RefCell;

use base::quantity::Quantity;
use schema::{FieldError, Path};
use serde_json::Value;

/// Stands for what is absent.
static NULL: Value = Value::Null;

/// The errors found so far.
pub type Errors = RefCell<Vec<FieldError>>;

/// A value and its place in the object.
#[derive(Clone, Copy)]
pub struct At<'a> {
    /// The value; null when absent.
    pub value: &'a Value,
    path: Path<'a>,
    out: &'a Errors,
}

impl<'a> At<'a> {
    /// The whole object.
    pub fn root(value: &'a Value, out: &'a Errors) -> At<'a> {
        At { value, path: Path::Root, out }
    }

    /// The same place with another value.
    pub fn with(&self, value: &'a Value) -> At<'a> {
        At { value, ..*self }
    }

    /// A field below this.
    pub fn get<'b>(&'b self, name: &'b str) -> At<'b> {
        At {
            value: self.value.get(name).unwrap_or(&NULL),
            path: Path::Child(&self.path, name),
            out: self.out,
        }
    }

    /// A list item below this, null when there is none.
    pub fn nth(&self, index: usize) -> At<'_> {
        At {
            value: self.value.get(index).unwrap_or(&NULL),
            path: Path::Index(&self.path, index),
            out: self.out,
        }
    }

    /// A map entry below this.
    pub fn key<'b>(&'b self, key: &'b str) -> At<'b> {
        At { value: self.value.get(key).unwrap_or(&NULL), path: Path::Key(&self.path, key), out: self.out }
    }

    /// The items of a list.
    pub fn items(&self) -> impl Iterator<Item = At<'_>> {
        let list = self.value.as_array().map_or(&[][..], Vec::as_slice);
        list.iter().enumerate().map(|(i, value)| At {
            value,
            path: Path::Index(&self.path, i),
            out: self.out,
        })
    }

    /// The entries of a map.
    pub fn entries(&self) -> impl Iterator<Item = (&str, At<'_>)> {
        self.value
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.as_str(), At { value, path: Path::Key(&self.path, key), out: self.out }))
    }

    /// How many items or entries there are.
    pub fn len(&self) -> usize {
        match self.value {
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            _ => 0,
        }
    }

    /// Whether the value is there, however empty.
    pub fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Whether there is nothing: absent, an empty text, list or map.
    pub fn is_empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        }
    }

    /// The text, empty when absent.
    pub fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or("")
    }

    /// The text of a field, empty when absent; it lives as long as the object.
    pub fn text_of(&self, field: &str) -> &'a str {
        self.value.get(field).and_then(Value::as_str).unwrap_or("")
    }

    /// The number, 0 when absent.
    pub fn int(&self) -> i64 {
        self.value.as_i64().unwrap_or(0)
    }

    /// Whether the value is true.
    pub fn truth(&self) -> bool {
        self.value.as_bool() == Some(true)
    }

    /// The amount, when the value is one.
    pub fn quantity(&self) -> Option<Quantity> {
        match self.value {
            Value::String(text) => text.parse().ok(),
            Value::Number(number) => number.to_string().parse().ok(),
            _ => None,
        }
    }

    /// Whether the value equals the other; absent and null are the same.
    pub fn same(&self, other: &At<'_>) -> bool {
        self.value == other.value
    }

    /// Adds a finding.
    pub fn push(&self, error: FieldError) {
        self.out.borrow_mut().push(error);
    }

    /// How many findings there are.
    pub fn found(&self) -> usize {
        self.out.borrow().len()
    }

    /// The place as text.
    pub fn place(&self) -> String {
        self.path.to_string()
    }

    /// `Required value`.
    pub fn required(&self, detail: &str) {
        self.push(FieldError::required(self.path, detail));
    }

    /// `Invalid value` with this value; an absent text reads as empty.
    pub fn invalid(&self, detail: &str) {
        self.invalid_as(self.value.clone(), detail);
    }

    /// `Invalid value` of a text field, empty when absent.
    pub fn invalid_text(&self, detail: &str) {
        self.invalid_as(self.text(), detail);
    }

    /// `Invalid value` with another value.
    pub fn invalid_as(&self, bad: impl Into<Value>, detail: &str) {
        self.push(FieldError::invalid(self.path, bad, detail));
    }

    /// `Forbidden`.
    pub fn forbidden(&self, detail: &str) {
        self.push(FieldError::forbidden(self.path, detail));
    }

    /// `Duplicate value`.
    pub fn duplicate(&self) {
        self.duplicate_of(self.value.clone());
    }

    /// `Duplicate value` of something else than the value.
    pub fn duplicate_of(&self, bad: impl Into<Value>) {
        self.push(FieldError::duplicate(self.path, bad));
    }

    /// `Not found`.
    pub fn not_found(&self) {
        self.push(FieldError::not_found(self.path, self.value.clone()));
    }

    /// `Unsupported value`.
    pub fn unsupported(&self, allowed: &[&str]) {
        let bad = if self.is_set() { self.value.clone() } else { Value::from("") };
        self.unsupported_as(bad, allowed);
    }

    /// `Unsupported value` of something else than the value.
    pub fn unsupported_as(&self, bad: impl Into<Value>, allowed: &[&str]) {
        self.push(FieldError::not_supported(self.path, bad, allowed));
    }

    /// `Too long` unless at most so many bytes.
    pub fn at_most_bytes(&self, max: usize) {
        if self.text().len() > max {
            self.push(FieldError::too_long(self.path, max));
        }
    }

    /// `Too many` unless at most so many items.
    pub fn at_most(&self, max: usize) {
        if self.len() > max {
            self.push(FieldError::too_many(self.path, self.len(), max));
        }
    }

    /// Says whether there is something, and complains if not.
    pub fn need(&self) -> bool {
        self.need_for("")
    }

    /// Like [`At::need`], with a reason.
    pub fn need_for(&self, detail: &str) -> bool {
        let empty = self.is_empty();
        if empty {
            self.required(detail);
        }
        !empty
    }

    /// The text keeps a rule that lists what is wrong.
    pub fn rule(&self, rule: fn(&str) -> Vec<String>) {
        for what in rule(self.text()) {
            self.invalid_text(&what);
        }
    }

    /// Like [`At::rule`] when there is a text.
    pub fn rule_if_set(&self, rule: fn(&str) -> Vec<String>) {
        if !self.text().is_empty() {
            self.rule(rule);
        }
    }

    /// Like [`At::rule`] for a text that has to be there.
    pub fn need_rule(&self, rule: fn(&str) -> Vec<String>) {
        if self.need() {
            self.rule(rule);
        }
    }

    /// One of these texts.
    pub fn one_of(&self, allowed: &[&str]) {
        if !allowed.contains(&self.text()) {
            self.unsupported(allowed);
        }
    }

    /// One of these texts or absent.
    pub fn one_of_if_set(&self, allowed: &[&str]) {
        if self.is_set() {
            self.one_of(allowed);
        }
    }

    /// One of these texts, and not empty.
    pub fn need_one_of(&self, allowed: &[&str]) {
        if self.need() {
            self.one_of(allowed);
        }
    }

    /// 0 or more.
    pub fn not_negative(&self) {
        if self.int() < 0 {
            self.invalid("must be greater than or equal to 0");
        }
    }

    /// 1 or more; absent passes.
    pub fn positive(&self) {
        if self.is_set() && self.int() <= 0 {
            self.invalid("must be greater than zero");
        }
    }

    /// Within bounds; absent passes.
    pub fn range(&self, low: i64, high: i64) {
        if self.is_set() && !(low..=high).contains(&self.int()) {
            self.invalid(&format!("must be between {low} and {high}, inclusive"));
        }
    }

    /// A port number; absent is 0.
    pub fn port(&self) {
        if !(1..=65535).contains(&self.int()) {
            self.invalid_as(self.int(), "must be between 1 and 65535, inclusive");
        }
    }

    /// A port number or the name of a port.
    pub fn port_or_name(&self) {
        match self.value {
            Value::String(_) => self.rule(base::names::port_name),
            _ => self.port(),
        }
    }

    /// Unchanged since `old`.
    pub fn immutable(&self, old: &At<'_>) {
        if !self.same(old) {
            self.invalid("field is immutable");
        }
    }
}
