//! Field errors: what is wrong with which field, worded as clients of Kubernetes know it.

use std::fmt;

use serde_json::{Value, json};

/// A path into a value, built on the stack while walking and printed only when something is wrong.
#[derive(Clone, Copy, Debug)]
pub enum Path<'a> {
    /// The value itself.
    Root,
    /// A field of an object.
    Child(&'a Path<'a>, &'a str),
    /// An item of a list.
    Index(&'a Path<'a>, usize),
    /// An entry of a map.
    Key(&'a Path<'a>, &'a str),
}

impl<'a> Path<'a> {
    /// A field below this.
    pub fn child(&'a self, name: &'a str) -> Path<'a> {
        Path::Child(self, name)
    }

    /// A list item below this.
    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path::Index(self, index)
    }

    /// A map entry below this.
    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        Path::Key(self, key)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Child(Path::Root, name) => f.write_str(name),
            Path::Child(up, name) => write!(f, "{up}.{name}"),
            Path::Index(up, i) => write!(f, "{up}[{i}]"),
            Path::Key(up, key) => write!(f, "{up}[{key}]"),
        }
    }
}

/// Why a field's value is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A value that refers to something is not there.
    NotFound,
    /// Absent or empty.
    Required,
    /// Must be unique and is not.
    Duplicate,
    /// Malformed or out of bounds.
    Invalid,
    /// Not one of the allowed values.
    NotSupported,
    /// Allowed only under other circumstances.
    Forbidden,
    /// Too long text.
    TooLong,
    /// Too short text.
    TooShort,
    /// Too many items.
    TooMany,
    /// Too few items.
    TooFew,
    /// Of another type.
    TypeInvalid,
    /// The server's fault.
    Internal,
}

impl Reason {
    /// The machine-readable cause.
    pub fn cause(self) -> &'static str {
        match self {
            Reason::NotFound => "FieldValueNotFound",
            Reason::Required => "FieldValueRequired",
            Reason::Duplicate => "FieldValueDuplicate",
            Reason::Invalid => "FieldValueInvalid",
            Reason::NotSupported => "FieldValueNotSupported",
            Reason::Forbidden => "FieldValueForbidden",
            Reason::TooLong => "FieldValueTooLong",
            Reason::TooShort => "FieldValueTooShort",
            Reason::TooMany => "FieldValueTooMany",
            Reason::TooFew => "FieldValueTooFew",
            Reason::TypeInvalid => "FieldValueTypeInvalid",
            Reason::Internal => "InternalError",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Reason::NotFound => "Not found",
            Reason::Required => "Required value",
            Reason::Duplicate => "Duplicate value",
            Reason::Invalid | Reason::TypeInvalid => "Invalid value",
            Reason::NotSupported => "Unsupported value",
            Reason::Forbidden => "Forbidden",
            Reason::TooLong => "Too long",
            Reason::TooShort => "Too short",
            Reason::TooMany => "Too many",
            Reason::TooFew => "Too few",
            Reason::Internal => "Internal error",
        }
    }
}

/// One refused field. `Display` is `path: body`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field}: {}", self.body())]
pub struct FieldError {
    /// Why.
    pub reason: Reason,
    /// Where, such as `spec.containers[0].name`.
    pub field: String,
    /// The refused value; `None` leaves it out of the message.
    pub bad_value: Option<Value>,
    /// More words, may be empty.
    pub detail: String,
}

impl FieldError {
    fn new(
        reason: Reason,
        field: impl fmt::Display,
        bad: Option<Value>,
        detail: impl Into<String>,
    ) -> FieldError {
        FieldError { reason, field: field.to_string(), bad_value: bad, detail: detail.into() }
    }

    /// `Required value[: detail]`.
    pub fn required(field: impl fmt::Display, detail: impl Into<String>) -> FieldError {
        FieldError::new(Reason::Required, field, None, detail)
    }

    /// `Invalid value: VALUE: detail`.
    pub fn invalid(field: impl fmt::Display, bad: impl Into<Value>, detail: impl Into<String>) -> FieldError {
        FieldError::new(Reason::Invalid, field, Some(bad.into()), detail)
    }

    /// Like invalid, for a value of another type than the schema's.
    pub fn type_invalid(
        field: impl fmt::Display,
        bad: impl Into<Value>,
        detail: impl Into<String>,
    ) -> FieldError {
        FieldError::new(Reason::TypeInvalid, field, Some(bad.into()), detail)
    }

    /// `Duplicate value: VALUE`.
    pub fn duplicate(field: impl fmt::Display, bad: impl Into<Value>) -> FieldError {
        FieldError::new(Reason::Duplicate, field, Some(bad.into()), "")
    }

    /// `Not found: VALUE`.
    pub fn not_found(field: impl fmt::Display, bad: impl Into<Value>) -> FieldError {
        FieldError::new(Reason::NotFound, field, Some(bad.into()), "")
    }

    /// `Forbidden: detail`.
    pub fn forbidden(field: impl fmt::Display, detail: impl Into<String>) -> FieldError {
        FieldError::new(Reason::Forbidden, field, None, detail)
    }

    /// `Unsupported value: VALUE: supported values: "A", "B"`.
    pub fn not_supported<S: AsRef<str>>(
        field: impl fmt::Display,
        bad: impl Into<Value>,
        supported: impl IntoIterator<Item = S>,
    ) -> FieldError {
        let quoted: Vec<String> = supported.into_iter().map(|s| go_quote(s.as_ref())).collect();
        let detail = if quoted.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", quoted.join(", "))
        };
        FieldError::new(Reason::NotSupported, field, Some(bad.into()), detail)
    }

    /// `Too long: may not be more than N bytes`.
    pub fn too_long(field: impl fmt::Display, max_bytes: usize) -> FieldError {
        let unit = if max_bytes == 1 { "byte" } else { "bytes" };
        FieldError::new(Reason::TooLong, field, None, format!("may not be more than {max_bytes} {unit}"))
    }

    /// `Too many: N: must have at most M items`.
    pub fn too_many(field: impl fmt::Display, actual: usize, max: usize) -> FieldError {
        let unit = if max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {max} {unit}");
        FieldError::new(Reason::TooMany, field, Some(actual.into()), detail)
    }

    /// `Internal error: detail`.
    pub fn internal(field: impl fmt::Display, detail: impl Into<String>) -> FieldError {
        FieldError::new(Reason::Internal, field, None, detail)
    }

    /// The message without the path.
    pub fn body(&self) -> String {
        let mut out = self.reason.words().to_string();
        if let Some(bad) = &self.bad_value {
            out.push_str(": ");
            match bad {
                Value::String(text) => out.push_str(&go_quote(text)),
                other => out.push_str(&go_json(other)),
            }
        }
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }

    /// The entry for `status.details.causes`.
    pub fn to_status_cause(&self) -> Value {
        json!({"reason": self.reason.cause(), "message": self.body(), "field": self.field})
    }
}

/// The joint message of several errors: the only one as it is, more in brackets, repetitions once.
pub fn aggregate(errors: &[FieldError]) -> String {
    let mut texts: Vec<String> = Vec::new();
    for text in errors.iter().map(ToString::to_string) {
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match texts.len() {
        1 => texts.remove(0),
        _ => format!("[{}]", texts.join(", ")),
    }
}

/// Text quoted as Go's `%q` does.
pub fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// JSON as Go's encoder writes it: `<`, `>` and `&` escaped.
pub fn go_json(value: &Value) -> String {
    let text = value.to_string();
    if !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return text;
    }
    let escapes = [
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("&", "\\u0026"),
        ("\u{2028}", "\\u2028"),
        ("\u{2029}", "\\u2029"),
    ];
    escapes.iter().fold(text, |t, (from, to)| t.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let spec = Path::Root.child("spec");
        let containers = spec.child("containers");
        let first = containers.index(0);
        let name = first.child("name");
        let required = FieldError::required(name, "");
        assert_eq!(required.to_string(), "spec.containers[0].name: Required value");
        let bad = FieldError::invalid("spec.replicas", -1, "must be greater than or equal to 0");
        assert_eq!(bad.to_string(), "spec.replicas: Invalid value: -1: must be greater than or equal to 0");
        let unsupported = FieldError::not_supported("spec.type", "x", ["A", "B"]);
        assert_eq!(
            unsupported.to_status_cause(),
            json!({"reason": "FieldValueNotSupported", "field": "spec.type",
                "message": "Unsupported value: \"x\": supported values: \"A\", \"B\""})
        );
        assert_eq!(FieldError::invalid("a", Value::Null, "x").to_string(), "a: Invalid value: null: x");
        assert_eq!(
            FieldError::invalid("a", json!({"b": "<"}), "").body(),
            "Invalid value: {\"b\":\"\\u003c\"}"
        );
        assert_eq!(aggregate(&[required.clone(), required.clone()]), required.to_string());
        assert!(aggregate(&[required, bad]).starts_with("[spec.containers[0].name: Required value, spec"));
    }
}
