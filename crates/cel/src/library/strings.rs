//! Texts: the standard functions, the strings extension, regular expressions.

use super::{Native, mismatch};
use crate::error::EvalError;
use crate::eval::Out;
use crate::regex::Regex;
use crate::text;
use crate::value::{List, Text, Value};

pub(super) fn native(name: &str) -> Option<Native> {
    Some(match name {
        "contains" | "startsWith" | "endsWith" => search,
        "charAt" => char_at,
        "indexOf" | "lastIndexOf" => index_of,
        "lowerAscii" | "upperAscii" | "trim" | "strings.quote" | "jsonpatch.escapeKey" => changed,
        "replace" => replace,
        "split" => split,
        "substring" => substring,
        "join" => join,
        "format" => |name, args| match args {
            [Value::String(template), Value::List(values)] => {
                crate::format::format(template, values).map(Value::text)
            }
            _ => mismatch(name),
        },
        _ => return None,
    })
}

fn search<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let [Value::String(text), Value::String(part)] = args else { return mismatch(name) };
    Ok(Value::Bool(match name {
        "contains" => text.contains(&**part),
        "startsWith" => text.starts_with(&**part),
        _ => text.ends_with(&**part),
    }))
}

/// A part of a text, borrowed if the text is.
fn part<'a>(of: &Text<'a>, part: &str) -> Value<'a> {
    match of {
        Text::Ref(whole) => {
            let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
            match whole.get(start..start.saturating_add(part.len())) {
                Some(part) => Value::String(Text::Ref(part)),
                None => Value::text(part),
            }
        }
        Text::Own(_) => Value::text(part),
    }
}

/// What a regular expression finds: whether, what first, or all.
pub(crate) fn regular<'a>(name: &str, regex: &Regex, text: &Text<'a>, most: usize) -> Value<'a> {
    match name {
        "matches" => Value::Bool(regex.is_match(text)),
        "find" => regex.find(text).map_or_else(|| Value::text(""), |found| part(text, found)),
        _ => Value::list(regex.find_all(text, most).into_iter().map(|found| part(text, found)).collect()),
    }
}

fn char_at<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    match args {
        [Value::String(text), Value::Int(index)] => text::char_at(text, *index).map(Value::text),
        _ => mismatch(name),
    }
}

fn index_of<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let last = name == "lastIndexOf";
    match args {
        [Value::String(text), Value::String(part)] if last => {
            text::last_index_of(text, part, None).map(Value::Int)
        }
        [Value::String(text), Value::String(part)] => text::index_of(text, part, 0).map(Value::Int),
        [Value::String(text), Value::String(part), Value::Int(from)] if last => {
            text::last_index_of(text, part, Some(*from)).map(Value::Int)
        }
        [Value::String(text), Value::String(part), Value::Int(from)] => {
            text::index_of(text, part, *from).map(Value::Int)
        }
        [Value::List(list), item] => {
            let same = |value: Value<'a>| crate::value::equal(&value, item);
            let found = if last {
                (0..list.len()).rev().find(|i| list.get(*i).is_some_and(same))
            } else {
                list.iter().position(same)
            };
            Ok(Value::Int(found.map_or(-1, |i| i as i64)))
        }
        _ => mismatch(name),
    }
}

fn changed<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let [Value::String(of)] = args else { return mismatch(name) };
    Ok(match name {
        "lowerAscii" => Value::text(of.to_ascii_lowercase()),
        "upperAscii" => Value::text(of.to_ascii_uppercase()),
        "trim" => part(of, of.trim()),
        "strings.quote" => Value::text(text::quote(of)),
        _ => Value::text(of.replace('~', "~0").replace('/', "~1")),
    })
}

fn replace<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let (text, old, new, times) = match args {
        [Value::String(text), Value::String(old), Value::String(new)] => (text, old, new, -1),
        [Value::String(text), Value::String(old), Value::String(new), Value::Int(times)] => {
            (text, old, new, *times)
        }
        _ => return mismatch(name),
    };
    text::replace(text, old, new, times).map(Value::text)
}

fn split<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let (text, by, most) = match args {
        [Value::String(text), Value::String(by)] => (text, by, -1),
        [Value::String(text), Value::String(by), Value::Int(most)] => (text, by, *most),
        _ => return mismatch(name),
    };
    Ok(Value::list(text::split(text, by, most).into_iter().map(|p| part(text, p)).collect()))
}

fn substring<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    match args {
        [Value::String(text), Value::Int(start)] => Ok(part(text, text::substring(text, *start, None)?)),
        [Value::String(text), Value::Int(start), Value::Int(end)] => {
            Ok(part(text, text::substring(text, *start, Some(*end))?))
        }
        _ => mismatch(name),
    }
}

fn join<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let (list, by): (&List<'a>, &str) = match args {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::String(by)] => (list, by),
        _ => return mismatch(name),
    };
    let mut out = String::new();
    for (i, value) in list.iter().enumerate() {
        let Value::String(text) = &value else {
            return Err(EvalError::new(format!("join: invalid input: {}", text::shown(&value))));
        };
        if i > 0 {
            out.push_str(by);
        }
        out.push_str(text);
        if out.len() > crate::types::REQUEST_BYTES_MAX as usize * 8 {
            return Err(EvalError::new("join: the result is too large"));
        }
    }
    Ok(Value::text(out))
}
