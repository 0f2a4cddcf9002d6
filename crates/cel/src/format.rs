//! `'%s has %d'.format([…])`.

use crate::error::EvalError;
use crate::text::{show_double, shown};
use crate::value::{List, Map, Value};

/// Most decimals.
const PRECISION_MAX: usize = 100;

/// Fills a template.
pub(crate) fn format(template: &str, args: &List<'_>) -> Result<String, EvalError> {
    let mut out = String::new();
    let mut chars = template.chars().peekable();
    let mut next = 0;
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let mut precision = None;
        if chars.next_if_eq(&'.').is_some() {
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            precision = Some(digits.parse::<usize>().unwrap_or(PRECISION_MAX).min(PRECISION_MAX));
        }
        let Some(clause) = chars.next() else { return Err(EvalError::new("unexpected end of string")) };
        let Some(arg) = args.get(next) else {
            return Err(EvalError::new(format!("index {next} out of range")));
        };
        next += 1;
        clause_of(clause, precision, &arg, &mut out)?;
        if out.len() > crate::types::REQUEST_BYTES_MAX as usize * 8 {
            return Err(EvalError::new("format: the result is too large"));
        }
    }
    Ok(out)
}

fn clause_of(
    clause: char,
    precision: Option<usize>,
    arg: &Value<'_>,
    out: &mut String,
) -> Result<(), EvalError> {
    let refused = |what: &str| {
        EvalError::new(format!(
            "error during formatting: {what} clause can only be used on {}, was given {}",
            allowed(clause),
            arg.type_name()
        ))
    };
    match (clause, arg) {
        ('s', arg) => string(arg, out)?,
        ('d', Value::Int(i)) => out.push_str(&i.to_string()),
        ('d', Value::Uint(u)) => out.push_str(&u.to_string()),
        ('d', Value::Double(d)) if d.is_infinite() || d.is_nan() => out.push_str(&word(*d)),
        ('d', _) => return Err(refused("decimal")),
        ('f' | 'e', arg) => {
            let value = match arg {
                Value::Double(d) => *d,
                Value::Int(i) => *i as f64,
                Value::Uint(u) => *u as f64,
                Value::String(text) if matches!(&**text, "NaN" | "Infinity" | "-Infinity") => {
                    out.push_str(text);
                    return Ok(());
                }
                _ => return Err(refused(if clause == 'f' { "fixed-point" } else { "scientific" })),
            };
            let precision = precision.unwrap_or(6);
            if !value.is_finite() {
                out.push_str(&word(value));
            } else if clause == 'f' {
                out.push_str(&format!("{value:.precision$}"));
            } else {
                let text = format!("{value:.precision$e}");
                let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
                out.push_str(&format!("{digits}e{sign}{exponent:0>2}"));
            }
        }
        ('b', Value::Bool(b)) => out.push_str(if *b { "1" } else { "0" }),
        ('b', Value::Int(i)) => {
            out.push_str(&format!("{}{:b}", if *i < 0 { "-" } else { "" }, i.unsigned_abs()));
        }
        ('b', Value::Uint(u)) => out.push_str(&format!("{u:b}")),
        ('b', _) => return Err(refused("binary")),
        ('o', Value::Int(i)) => {
            out.push_str(&format!("{}{:o}", if *i < 0 { "-" } else { "" }, i.unsigned_abs()));
        }
        ('o', Value::Uint(u)) => out.push_str(&format!("{u:o}")),
        ('o', _) => return Err(refused("octal")),
        ('x' | 'X', arg) => {
            let text = match arg {
                Value::Int(i) => format!("{}{:x}", if *i < 0 { "-" } else { "" }, i.unsigned_abs()),
                Value::Uint(u) => format!("{u:x}"),
                Value::String(text) => hex(text.as_bytes()),
                Value::Bytes(bytes) => hex(bytes),
                _ => return Err(refused("hex")),
            };
            out.push_str(&if clause == 'X' { text.to_uppercase() } else { text });
        }
        (other, _) => {
            return Err(EvalError::new(format!(
                "could not parse formatting clause: unrecognized formatting clause \"{other}\""
            )));
        }
    }
    Ok(())
}

fn allowed(clause: char) -> &'static str {
    match clause {
        'd' | 'o' => "integers",
        'f' | 'e' => "doubles",
        'b' => "integers and bools",
        _ => "integers, byte buffers, and strings",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn word(value: f64) -> String {
    if value.is_nan() {
        "NaN".into()
    } else if value > 0.0 {
        "Infinity".into()
    } else {
        "-Infinity".into()
    }
}

fn string(arg: &Value<'_>, out: &mut String) -> Result<(), EvalError> {
    match arg {
        Value::Double(d) if !d.is_finite() => out.push_str(&word(*d)),
        Value::Double(d) => out.push_str(&show_double(*d)),
        Value::List(list) => {
            out.push('[');
            for (i, value) in list.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                string(&value, out)?;
            }
            out.push(']');
        }
        Value::Map(map) => object(map, out)?,
        Value::Optional(_) | Value::Opaque(_) => {
            let message = "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, \
                           durations, and timestamps, was given ";
            return Err(EvalError::new(format!("error during formatting: {message}{}", arg.type_name())));
        }
        other => out.push_str(&shown(other)),
    }
    Ok(())
}

fn object(map: &Map<'_>, out: &mut String) -> Result<(), EvalError> {
    let mut entries: Vec<(String, Value<'_>)> =
        map.entries().into_iter().map(|(key, value)| (shown(&key.value()), value)).collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    out.push('{');
    for (i, (key, value)) in entries.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        out.push_str(key);
        out.push_str(": ");
        string(value, out)?;
    }
    out.push('}');
    Ok(())
}
