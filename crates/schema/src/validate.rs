//! Validates custom resources against their schema, and offers the generic checks for built-in kinds.
//!
//! Messages are those of the OpenAPI validator that clients of Kubernetes know. Expressions
//! (`x-kubernetes-validations`) are not evaluated here; they wait in [`crate::Rules::expressions`].

use regex_automata::meta::Regex;
use regex_automata::util::syntax;
use serde_json::Value;

use crate::error::{FieldError, Path};
use crate::types::{ListType, Rules, Schema, Type};

/// Errors beyond this many are not collected.
const ERRORS_MAX: usize = 200;
/// Largest compiled pattern, bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// Compiles a pattern within a bound on memory.
pub fn compile_pattern(pattern: &str) -> Result<Regex, String> {
    let config =
        Regex::config().nfa_size_limit(Some(PATTERN_BYTES_MAX)).hybrid_cache_capacity(PATTERN_BYTES_MAX);
    let built = Regex::builder()
        .configure(config)
        .syntax(syntax::Config::new())
        .build(&cel::translated_pattern(pattern));
    built.map_err(|e| format!("error parsing regexp: {e}: `{pattern}`"))
}

/// Checks a custom resource. Parts that are equal in `old` are taken as they are.
pub fn validate(schema: &Schema, value: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut out = Vec::new();
    walk(schema, value, old, &Path::Root, true, &mut out);
    out
}

/// An error whose place is only in its words.
fn loose(message: String) -> FieldError {
    FieldError::invalid("<nil>", "", message)
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() && n.as_f64().is_some_and(|f| f.fract() != 0.0) => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The type's name, and whether the value has it.
fn type_fits(schema: &Schema, value: &Value) -> (&'static str, bool) {
    match &schema.ty {
        Type::Bool => ("boolean", value.is_boolean()),
        Type::Int32 | Type::Int64 => ("integer", kind_of(value) == "integer"),
        Type::Float => ("number", value.is_number()),
        Type::IntOrString => ("integer,string", value.is_string() || kind_of(value) == "integer"),
        Type::List(_) | Type::WrappedStrings(_) => ("array", value.is_array()),
        Type::Object(_) | Type::Map(_) => ("object", value.is_object()),
        Type::Any | Type::Raw | Type::Either(..) => ("", true),
        _ => ("string", value.is_string()),
    }
}

fn walk(
    schema: &Schema,
    value: &Value,
    old: Option<&Value>,
    path: &Path<'_>,
    typed: bool,
    out: &mut Vec<FieldError>,
) {
    if out.len() >= ERRORS_MAX || old == Some(value) {
        return;
    }
    if value.is_null() && (schema.nullable || !typed) {
        return;
    }
    let (name, fits) = type_fits(schema, value);
    if typed && !fits {
        let kind = kind_of(value);
        out.push(FieldError::type_invalid(
            path,
            kind,
            format!("{path} in body must be of type {name}: \"{kind}\""),
        ));
    }
    let rules = schema.rules();
    branches(rules, value, path, out);
    match value {
        Value::String(text) => check_text(rules, text, path, out),
        Value::Number(number) => check_number(schema, rules, number, path, out),
        Value::Array(items) => check_items(schema, rules, items, old, path, typed, out),
        _ => {}
    }
    check_enum(rules, value, path, out);
    if let Value::Object(map) = value {
        check_object(schema, rules, map, old, path, typed, out);
    }
}

fn check_text(rules: &Rules, text: &str, path: &Path<'_>, out: &mut Vec<FieldError>) {
    let length = text.chars().count() as u64;
    let pattern = || {
        let regex = rules.regex.get_or_init(|| compile_pattern(rules.pattern.as_deref()?).ok());
        rules.pattern.as_deref().filter(|_| regex.as_ref().is_some_and(|r| !r.is_match(text)))
    };
    // Only the first of these is said.
    if let Some(max) = rules.max_length.filter(|max| length > *max) {
        out.push(FieldError::too_long(path, max as usize));
    } else if let Some(min) = rules.min_length.filter(|min| length < *min) {
        let why = format!("{path} in body should be at least {min} chars long");
        out.push(FieldError::invalid(path, text, why));
    } else if let Some(pattern) = pattern() {
        out.push(FieldError::invalid(path, text, format!("{path} in body should match '{pattern}'")));
    }
    if let Some(format) = rules.format.as_deref().filter(|f| !format_fits(f, text)) {
        let why = format!("{path} in body must be of type {format}: {}", crate::error::go_quote(text));
        out.push(FieldError::type_invalid(path, text, why));
    }
}

/// Formats that are checked; others say nothing.
fn format_fits(format: &str, text: &str) -> bool {
    let all = |ok: fn(char) -> bool| !text.is_empty() && text.chars().all(ok);
    match format {
        "date-time" => base::time::parse(&text.replace(['t', ' '], "T").replace('z', "Z")).is_ok(),
        "date" => base::time::parse(&format!("{text}T00:00:00Z")).is_ok(),
        "duration" => crate::duration::parse(text).is_ok(),
        "byte" => base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => text.split_once('/').is_some_and(|(ip, bits)| {
            let max = ip.parse::<std::net::IpAddr>().map(|ip| if ip.is_ipv4() { 32 } else { 128 });
            max.is_ok_and(|max| bits.parse::<u8>().is_ok_and(|b| b <= max))
        }),
        "uuid" | "uuid3" | "uuid4" | "uuid5" => {
            let hex = text.replace('-', "");
            hex.len() == 32 && hex.chars().all(|c| c.is_ascii_hexdigit())
        }
        "mac" => {
            text.split([':', '-']).count() == 6 && all(|c| c.is_ascii_hexdigit() || c == ':' || c == '-')
        }
        "hostname" => text.len() <= 255 && all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
        "email" => text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty()),
        "uri" => text.contains(':') || text.starts_with('/'),
        "k8s-short-name" => base::names::dns1123_label(text).is_empty(),
        "k8s-long-name" => base::names::dns1123_subdomain(text).is_empty(),
        _ => true,
    }
}

fn check_number(
    schema: &Schema,
    rules: &Rules,
    number: &serde_json::Number,
    path: &Path<'_>,
    out: &mut Vec<FieldError>,
) {
    let value = number.as_f64().unwrap_or(0.0);
    let whole = matches!(schema.ty, Type::Int32 | Type::Int64);
    if whole && value.fract() != 0.0 {
        let form = if matches!(schema.ty, Type::Int32) { "with format int32" } else { "(default format)" };
        out.push(loose(format!("Checked value must be of type integer {form} in {path}")));
    } else if matches!(schema.ty, Type::Int32) && (value < f64::from(i32::MIN) || value > f64::from(i32::MAX))
    {
        out.push(loose(format!("Checked value must be of type integer with format int32 in {path}")));
    }
    let mut refuse = |why: String| {
        let bad = Value::Number(number.clone());
        out.push(FieldError::invalid(path, bad, format!("{path} in body should be {why}")));
    };
    if let Some(step) = rules.multiple_of.filter(|step| *step > 0.0) {
        let times = value / step;
        if (times - times.round()).abs() > 1e-9 {
            refuse(format!("a multiple of {step}"));
        }
    }
    match rules.maximum {
        Some(max) if rules.exclusive_maximum && value >= max => refuse(format!("less than {max}")),
        Some(max) if !rules.exclusive_maximum && value > max => {
            refuse(format!("less than or equal to {max}"))
        }
        _ => {}
    }
    match rules.minimum {
        Some(min) if rules.exclusive_minimum && value <= min => refuse(format!("greater than {min}")),
        Some(min) if !rules.exclusive_minimum && value < min => {
            refuse(format!("greater than or equal to {min}"))
        }
        _ => {}
    }
}

fn check_enum(rules: &Rules, value: &Value, path: &Path<'_>, out: &mut Vec<FieldError>) {
    if rules.enumeration.is_empty() || rules.enumeration.contains(value) {
        return;
    }
    let texts = rules.enumeration.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_string));
    out.push(FieldError::not_supported(path, value.clone(), texts));
}

/// The kind of an embedded resource is a label but for its capitals.
fn check_kind(kind: &str, path: &Path<'_>, out: &mut Vec<FieldError>) {
    let wrong = base::names::dns1035_label(&kind.to_lowercase());
    if !wrong.is_empty() {
        let why = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
        out.push(FieldError::invalid(path, kind, why));
    }
}

fn check_items(
    schema: &Schema,
    rules: &Rules,
    items: &[Value],
    old: Option<&Value>,
    path: &Path<'_>,
    typed: bool,
    out: &mut Vec<FieldError>,
) {
    let count = items.len();
    if let Some(min) = rules.min_items.filter(|min| (count as u64) < *min) {
        out.push(FieldError::invalid(
            path,
            count,
            format!("{path} in body should have at least {min} items"),
        ));
    }
    if let Some(max) = rules.max_items.filter(|max| count as u64 > *max) {
        out.push(FieldError::too_many(path, count, max as usize));
    }
    let Some(item) = schema.item() else { return };
    let old_items = old.and_then(Value::as_array);
    for (i, v) in items.iter().enumerate() {
        let before = match &schema.list {
            ListType::Map(keys) => old_items
                .and_then(|o| o.iter().find(|b| keys.iter().all(|k| b.get(k.as_ref()) == v.get(k.as_ref())))),
            _ => None,
        };
        walk(item, v, before, &path.index(i), typed, out);
    }
    check_unique(&schema.list, items, path, out);
}

/// Items of sets and keys of associative lists are unique.
fn check_unique(list: &ListType, items: &[Value], path: &Path<'_>, out: &mut Vec<FieldError>) {
    let mut seen = std::collections::HashSet::new();
    for (i, item) in items.iter().enumerate() {
        let key = match list {
            ListType::Atomic => return,
            ListType::Set => item.clone(),
            ListType::Map(keys) => {
                let fields = keys.iter().filter_map(|k| Some((k.to_string(), item.get(k.as_ref())?.clone())));
                Value::Object(fields.collect())
            }
        };
        if !seen.insert(key.to_string()) {
            out.push(FieldError::duplicate(path.index(i), key));
        }
    }
}

fn check_object(
    schema: &Schema,
    rules: &Rules,
    map: &serde_json::Map<String, Value>,
    old: Option<&Value>,
    path: &Path<'_>,
    typed: bool,
    out: &mut Vec<FieldError>,
) {
    let count = map.len();
    if let Some(min) = rules.min_properties.filter(|min| (count as u64) < *min) {
        out.push(FieldError::invalid(
            path,
            count,
            format!("{path} in body should have at least {min} properties"),
        ));
    }
    if let Some(max) = rules.max_properties.filter(|max| count as u64 > *max) {
        out.push(FieldError::too_many(path, count, max as usize));
    }
    for name in rules.required.iter().filter(|n| !map.contains_key(n.as_ref())) {
        out.push(FieldError::required(path.child(name), ""));
    }
    if typed && schema.embedded {
        for name in ["apiVersion", "kind"] {
            let here = path.child(name);
            match map.get(name).and_then(Value::as_str) {
                None => out.push(FieldError::required(here, "")),
                Some("") => out.push(FieldError::invalid(here, "", "must not be empty")),
                Some(kind) if name == "kind" => check_kind(kind, &here, out),
                Some(_) => {}
            }
        }
    }
    for (name, v) in map {
        let Some(below) = schema.field(name) else { continue };
        let builtin = below.object().is_some_and(|o| !o.module.is_empty());
        let before = old.and_then(|o| o.get(name));
        let here = path.child(name);
        // Metadata has its form from the decoder; only rules given for it are left to check.
        if builtin {
            let rules = below.rules();
            rules.all_of.iter().for_each(|rule| walk(rule, v, before, &here, false, out));
        } else {
            walk(below, v, before, &here, typed, out);
        }
    }
}

fn branches(rules: &Rules, value: &Value, path: &Path<'_>, out: &mut Vec<FieldError>) {
    let run = |schema: &Schema| {
        let mut errors = Vec::new();
        walk(schema, value, None, path, false, &mut errors);
        errors
    };
    if !rules.any_of.is_empty() {
        let tried: Vec<Vec<FieldError>> = rules.any_of.iter().map(run).collect();
        if tried.iter().all(|errors| !errors.is_empty()) {
            out.push(loose(format!("\"{path}\" must validate at least one schema (anyOf)")));
            out.extend(tried.into_iter().next().unwrap_or_default());
        }
    }
    if !rules.one_of.is_empty() {
        let tried: Vec<Vec<FieldError>> = rules.one_of.iter().map(run).collect();
        let valid = tried.iter().filter(|errors| errors.is_empty()).count();
        let words = format!("\"{path}\" must validate one and only one schema (oneOf).");
        if valid == 0 {
            out.push(loose(format!("{words} Found none valid")));
            out.extend(tried.into_iter().next().unwrap_or_default());
        } else if valid > 1 {
            out.push(loose(format!("{words} Found {valid} valid alternatives")));
        }
    }
    if !rules.all_of.is_empty() {
        let errors: Vec<FieldError> = rules.all_of.iter().flat_map(run).collect();
        if !errors.is_empty() {
            out.extend(errors);
            out.push(loose(format!("\"{path}\" must validate all the schemas (allOf)")));
        }
    }
    if rules.not.as_deref().is_some_and(|schema| run(schema).is_empty()) {
        out.push(loose(format!("\"{path}\" must not validate the schema (not)")));
    }
}

/// The generic part of validating a built-in kind: values outside their enumeration, and required texts and lists
/// that are empty, outside `status`.
pub fn validate_builtin(schema: &Schema, value: &Value) -> Vec<FieldError> {
    let mut out = Vec::new();
    builtin(schema, value, &Path::Root, &mut out);
    out
}

fn builtin(schema: &Schema, value: &Value, path: &Path<'_>, out: &mut Vec<FieldError>) {
    match (&schema.ty, value) {
        (Type::Object(o), Value::Object(map)) => {
            for field in &o.get().fields {
                let here = path.child(&field.name);
                if matches!(path, Path::Root) && ["metadata", "status"].contains(&field.name.as_ref()) {
                    continue;
                }
                let value = map.get(field.name.as_ref()).unwrap_or(&Value::Null);
                let empty = match value {
                    Value::Null => true,
                    Value::String(s) => s.is_empty(),
                    Value::Array(a) => a.is_empty(),
                    _ => false,
                };
                if empty {
                    let wanted = matches!(field.schema.ty, Type::String | Type::List(_) | Type::Object(_));
                    if field.required && wanted && !field.pointer {
                        out.push(FieldError::required(here, ""));
                    }
                } else {
                    builtin(&field.schema, value, &here, out);
                }
            }
        }
        (Type::Map(item), Value::Object(map)) => {
            map.iter().for_each(|(k, v)| builtin(item, v, &path.key(k), out))
        }
        (Type::List(item), Value::Array(items)) => {
            items.iter().enumerate().for_each(|(i, v)| builtin(item, v, &path.index(i), out));
        }
        _ => check_enum(schema.rules(), value, path, out),
    }
}
