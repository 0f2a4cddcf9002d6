//! Functions of texts, and how values are shown in messages.

use crate::error::EvalError;
use crate::value::Value;

/// A value as messages show it.
pub(crate) fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => u.to_string(),
        Value::Double(d) => show_general(*d),
        Value::String(text) => text.to_string(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Timestamp(time) => crate::times::show_timestamp(*time),
        Value::Duration(nanos) => crate::times::show_duration(*nanos),
        Value::Type(name) => name.to_string(),
        other => other.type_name().into(),
    }
}

/// A number with all its digits and never an exponent.
pub fn show_double(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.into();
    }
    format!("{value}")
}

/// A number as short as it can be told apart, with an exponent where that is shorter.
pub fn show_general(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() || size == 0.0 || (1e-4..1e6).contains(&size) {
        return show_double(value);
    }
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(rest) => ('-', rest),
                None => ('+', exponent),
            };
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => text,
    }
}

/// The byte at which a character stands.
fn byte_of(text: &str, index: i64) -> Option<usize> {
    let index = usize::try_from(index).ok()?;
    if text.is_ascii() {
        return (index <= text.len()).then_some(index);
    }
    text.char_indices().map(|(at, _)| at).chain(std::iter::once(text.len())).nth(index)
}

fn out_of_range<T>(index: i64) -> Result<T, EvalError> {
    Err(EvalError::new(format!("index out of range: {index}")))
}

/// The character at an index, nothing at the very end.
pub(crate) fn char_at(text: &str, index: i64) -> Result<String, EvalError> {
    match byte_of(text, index) {
        Some(at) => Ok(text[at..].chars().next().map(String::from).unwrap_or_default()),
        None => out_of_range(index),
    }
}

/// Characters before a byte.
fn chars_before(text: &str, byte: usize) -> i64 {
    text[..byte].chars().count() as i64
}

/// The first index of a part, from an index on.
pub(crate) fn index_of(text: &str, part: &str, from: i64) -> Result<i64, EvalError> {
    if part.is_empty() {
        return Ok(from);
    }
    if from < 0 {
        return out_of_range(from);
    }
    Ok(byte_of(text, from)
        .and_then(|at| text[at..].find(part).map(|found| chars_before(text, at + found)))
        .unwrap_or(-1))
}

/// The last index of a part, at an index or before.
pub(crate) fn last_index_of(text: &str, part: &str, from: Option<i64>) -> Result<i64, EvalError> {
    let length = text.chars().count() as i64;
    if part.is_empty() {
        return Ok(from.unwrap_or(length));
    }
    let from = match from {
        None => return Ok(text.rfind(part).map_or(-1, |at| chars_before(text, at))),
        Some(from) if from < 0 => return out_of_range(from),
        Some(from) if from >= length => return Ok(-1),
        Some(from) => from,
    };
    let end = byte_of(text, from).map_or(text.len(), |at| (at + part.len()).min(text.len()));
    let mut end = end;
    while !text.is_char_boundary(end) {
        end += 1;
    }
    // A match may reach beyond the index but must start at it or before.
    let mut before = &text[..end];
    while let Some(at) = before.rfind(part) {
        if chars_before(text, at) <= from {
            return Ok(chars_before(text, at));
        }
        let mut end = at + part.len() - 1;
        while !before.is_char_boundary(end) {
            end -= 1;
        }
        before = &before[..end];
    }
    Ok(-1)
}

/// The characters from one index to another.
pub(crate) fn substring(text: &str, start: i64, end: Option<i64>) -> Result<&str, EvalError> {
    if let Some(end) = end
        && start > end
    {
        return Err(EvalError::new(format!("invalid substring range. start: {start}, end: {end}")));
    }
    let Some(from) = byte_of(text, start) else { return out_of_range(start) };
    let Some(end) = end else { return Ok(&text[from..]) };
    match byte_of(text, end) {
        Some(to) => Ok(&text[from..to]),
        None => out_of_range(end),
    }
}

/// Replaces a part, as often as said or, with a negative number, everywhere. An empty part is between all characters.
pub(crate) fn replace(text: &str, part: &str, with: &str, times: i64) -> Result<String, EvalError> {
    let times = usize::try_from(times).unwrap_or(usize::MAX);
    let found = if part.is_empty() { text.chars().count() + 1 } else { text.matches(part).count() };
    let size = text.len().saturating_add(found.min(times).saturating_mul(with.len()));
    if size > crate::types::REQUEST_BYTES_MAX as usize * 8 {
        return Err(EvalError::new("replace: the result is too large"));
    }
    Ok(text.replacen(part, with, times))
}

/// Parts between separators; at most so many, the last one with the rest.
pub(crate) fn split<'t>(text: &'t str, by: &str, most: i64) -> Vec<&'t str> {
    let most = match most {
        0 => return Vec::new(),
        most => usize::try_from(most).unwrap_or(usize::MAX),
    };
    if !by.is_empty() {
        return text.splitn(most, by).collect();
    }
    let mut parts: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if parts.len() + 1 == most {
            parts.push(rest);
            return parts;
        }
        let (one, after) = rest.split_at(c.len_utf8());
        parts.push(one);
        rest = after;
    }
    parts
}

/// The text in quotes, as source text.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
