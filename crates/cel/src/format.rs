//! `'%s has %d'.format([…])`.

use crate::error::EvalError;
use crate::text::{quote, show_general, shown};
use crate::types::Type;
use crate::value::{List, Map, Value};

/// Most decimals.
const PRECISION_MAX: usize = 100;

/// What stands between plain texts.
enum Piece {
    Text(char),
    /// The letter of a clause and its decimals.
    Clause(char, Option<usize>),
}

fn pieces(template: &str) -> Result<Vec<Piece>, String> {
    let mut out = Vec::new();
    let mut chars = template.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' || chars.next_if_eq(&'%').is_some() {
            out.push(Piece::Text(c));
            continue;
        }
        let parse = |what: String| Err(format!("could not parse formatting clause: {what}"));
        let mut precision = None;
        if chars.next_if_eq(&'.').is_some() {
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            if digits.is_empty() {
                return parse(
                    "error while parsing precision: error while converting precision to integer: strconv.Atoi: \
                     parsing \"\": invalid syntax"
                        .into(),
                );
            }
            precision = Some(digits.parse::<usize>().unwrap_or(PRECISION_MAX).min(PRECISION_MAX));
        }
        match chars.next() {
            Some(c @ ('s' | 'd' | 'f' | 'e' | 'b' | 'o' | 'x' | 'X')) => {
                out.push(Piece::Clause(c, precision))
            }
            Some(c) => return parse(format!("unrecognized formatting clause \"{c}\"")),
            None => return Err("unexpected end of string".into()),
        }
    }
    Ok(out)
}

/// What is wrong with a template and the types of its arguments: with the argument of that index, or the call.
pub(crate) fn check(template: &str, args: &[&Type]) -> Result<(), (Option<usize>, String)> {
    let mut used = 0;
    for piece in pieces(template).map_err(|what| (None, what))? {
        let Piece::Clause(clause, _) = piece else { continue };
        let Some(arg) = args.get(used) else { return Err((None, format!("index {used} out of range"))) };
        let fits = match arg {
            Type::Dyn | Type::Error | Type::Free(_) | Type::Param(_) => true,
            arg => match clause {
                's' => !matches!(arg, Type::Optional(_) | Type::Named(_) | Type::Object(_)),
                'd' | 'o' => matches!(arg, Type::Int | Type::Uint),
                'f' | 'e' => matches!(arg, Type::Double | Type::String),
                'b' => matches!(arg, Type::Int | Type::Uint | Type::Bool),
                _ => matches!(arg, Type::Int | Type::Uint | Type::String | Type::Bytes),
            },
        };
        if !fits {
            let name = match arg {
                Type::Optional(_) => "optional_type".into(),
                Type::List(_) => "list".into(),
                Type::Map(_) => "map".into(),
                Type::Type(_) => "type".into(),
                Type::Timestamp => "google.protobuf.Timestamp".into(),
                Type::Duration => "google.protobuf.Duration".into(),
                Type::Null => "null_type".into(),
                other => other.to_string(),
            };
            return Err((Some(used), refusal(clause, &name)));
        }
        used += 1;
    }
    if used < args.len() {
        let message =
            format!("too many arguments supplied to string.format (expected {used}, got {})", args.len());
        return Err((None, message));
    }
    Ok(())
}

fn refusal(clause: char, given: &str) -> String {
    let (name, on) = match clause {
        's' => {
            ("string", "strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps")
        }
        'd' => ("decimal", "integers"),
        'o' => ("octal", "integers"),
        'f' => ("fixed-point", "doubles"),
        'e' => ("scientific", "doubles"),
        'b' => ("only integers and bools can be formatted as binary, was given", ""),
        _ => ("hex", "integers, byte buffers, and strings"),
    };
    match clause {
        'b' => format!("error during formatting: {name} {given}"),
        'x' | 'X' => format!(
            "error during formatting: only integers, byte buffers, and strings can be formatted as hex, was given \
             {given}"
        ),
        'o' => {
            format!("error during formatting: octal clause can only be used on integers, was given {given}")
        }
        _ => format!("error during formatting: {name} clause can only be used on {on}, was given {given}"),
    }
}

/// Fills a template.
pub(crate) fn format(template: &str, args: &List<'_>) -> Result<String, EvalError> {
    let mut out = String::new();
    let mut next = 0;
    for piece in pieces(template).map_err(EvalError::new)? {
        let (clause, precision) = match piece {
            Piece::Text(c) => {
                out.push(c);
                continue;
            }
            Piece::Clause(clause, precision) => (clause, precision),
        };
        let Some(arg) = args.get(next) else {
            return Err(EvalError::new(format!("index {next} out of range")));
        };
        next += 1;
        fill(clause, precision, &arg, &mut out)?;
        if out.len() > crate::types::REQUEST_BYTES_MAX as usize * 8 {
            return Err(EvalError::new("format: the result is too large"));
        }
    }
    Ok(out)
}

fn fill(clause: char, precision: Option<usize>, arg: &Value<'_>, out: &mut String) -> Result<(), EvalError> {
    let sign = |i: i64| if i < 0 { "-" } else { "" };
    match (clause, arg) {
        ('s', Value::Optional(_) | Value::Opaque(_)) => {
            return Err(EvalError::new(refusal(clause, arg.type_name())));
        }
        ('s', arg) => string(arg, out)?,
        ('d', Value::Int(i)) => out.push_str(&i.to_string()),
        ('d', Value::Uint(u)) => out.push_str(&u.to_string()),
        ('f', Value::Double(d)) if d.is_finite() => {
            out.push_str(&grouped(&format!("{d:.*}", precision.unwrap_or(6))))
        }
        ('e', Value::Double(d)) if d.is_finite() => {
            let text = format!("{d:.6e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let (sign, exponent) = exponent.strip_prefix('-').map_or(("", exponent), |e| ("⁻", e));
            out.push_str(&format!("{digits}×10{sign}{}", raised(&format!("{exponent:0>2}"))));
        }
        ('f' | 'e', Value::Double(d)) => out.push_str(match (d.is_nan(), *d > 0.0) {
            (true, _) => "NaN",
            (false, true) => "∞",
            (false, false) => "-∞",
        }),
        ('f' | 'e', Value::String(text)) if &**text == "NaN" => out.push_str("NaN"),
        ('f' | 'e', Value::String(text)) if &**text == "Infinity" => out.push('∞'),
        ('f' | 'e', Value::String(text)) if &**text == "-Infinity" => out.push_str("-∞"),
        ('b', Value::Bool(b)) => out.push_str(if *b { "1" } else { "0" }),
        ('b', Value::Int(i)) => out.push_str(&format!("{}{:b}", sign(*i), i.unsigned_abs())),
        ('b', Value::Uint(u)) => out.push_str(&format!("{u:b}")),
        ('o', Value::Int(i)) => out.push_str(&format!("{}{:o}", sign(*i), i.unsigned_abs())),
        ('o', Value::Uint(u)) => out.push_str(&format!("{u:o}")),
        ('x' | 'X', arg) => {
            let text = match arg {
                Value::Int(i) => format!("{}{:x}", sign(*i), i.unsigned_abs()),
                Value::Uint(u) => format!("{u:x}"),
                Value::String(text) => hex(text.as_bytes()),
                Value::Bytes(bytes) => hex(bytes),
                _ => return Err(EvalError::new(refusal(clause, arg.type_name()))),
            };
            out.push_str(&if clause == 'X' { text.to_uppercase() } else { text });
        }
        (clause, arg) => return Err(EvalError::new(refusal(clause, arg.type_name()))),
    }
    Ok(())
}

/// Digits before the point in groups of three.
fn grouped(number: &str) -> String {
    let (sign, rest) = number.strip_prefix('-').map_or(("", number), |rest| ("-", rest));
    let whole = rest.find('.').unwrap_or(rest.len());
    let mut out = String::from(sign);
    for (i, c) in rest.chars().enumerate() {
        if i > 0 && i < whole && (whole - i) % 3 == 0 {
            out.push(',');
        }
        out.push(c);
    }
    out
}

fn raised(digits: &str) -> String {
    const RAISED: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    digits.chars().filter_map(|c| RAISED.get(c.to_digit(10)? as usize)).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn string(arg: &Value<'_>, out: &mut String) -> Result<(), EvalError> {
    match arg {
        Value::Double(d) => out.push_str(&show_general(*d)),
        Value::List(list) => {
            out.push('[');
            for (i, value) in list.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                part(&value, out)?;
            }
            out.push(']');
        }
        Value::Map(map) => object(map, out)?,
        other => out.push_str(&shown(other)),
    }
    Ok(())
}

/// A value within a list or map, as source text.
fn part(value: &Value<'_>, out: &mut String) -> Result<(), EvalError> {
    match value {
        Value::String(text) => out.push_str(&quote(text)),
        Value::Bytes(_) => out.push_str(&format!("b{}", quote(&shown(value)))),
        Value::Duration(_) => out.push_str(&format!("duration({})", quote(&shown(value)))),
        Value::Timestamp(_) => out.push_str(&format!("timestamp({})", quote(&shown(value)))),
        Value::Double(d) if d.is_finite() => out.push_str(&format!("{d:.6}")),
        Value::Optional(_) | Value::Opaque(_) => {
            let message = format!("no formatting function for {}", value.type_name());
            return Err(EvalError::new(message));
        }
        other => string(other, out)?,
    }
    Ok(())
}

fn object(map: &Map<'_>, out: &mut String) -> Result<(), EvalError> {
    let mut entries: Vec<(String, Value<'_>)> = Vec::new();
    for (key, value) in map.entries() {
        let mut text = String::new();
        part(&key.value(), &mut text)?;
        entries.push((text, value));
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    out.push('{');
    for (i, (key, value)) in entries.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        out.push_str(key);
        out.push(':');
        part(value, out)?;
    }
    out.push('}');
    Ok(())
}
