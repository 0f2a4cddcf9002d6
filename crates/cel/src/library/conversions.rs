//! Conversions between types, timestamps and durations.

use jiff::Timestamp;

use super::{Native, mismatch};
use crate::error::EvalError;
use crate::eval::Out;
use crate::opaque::Opaque;
use crate::times;
use crate::value::{Text, Value};

pub(super) fn native(name: &str) -> Option<Native> {
    Some(match name {
        "type" => |name, args| match args {
            [value] => Ok(Value::Type(value.type_name().into())),
            _ => mismatch(name),
        },
        "dyn" => |name, args| match args {
            [value] => Ok(value.clone()),
            _ => mismatch(name),
        },
        "bool" => to_bool,
        "bytes" => to_bytes,
        "double" => to_double,
        "int" => to_int,
        "uint" => to_uint,
        "string" => to_string,
        "duration" => to_duration,
        "timestamp" => to_timestamp,
        "getFullYear" | "getMonth" | "getDayOfYear" | "getDayOfMonth" | "getDate" | "getDayOfWeek"
        | "getHours" | "getMinutes" | "getSeconds" | "getMilliseconds" => part_of_time,
        _ => return None,
    })
}

fn failed<'a>(from: &str, to: &str) -> Out<'a> {
    Err(EvalError::new(format!("type conversion error from '{from}' to '{to}'")))
}

fn overflow<'a>(what: &str) -> Out<'a> {
    Err(EvalError::new(format!("{what} overflow")))
}

fn to_bool<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    match args {
        [Value::Bool(b)] => Ok(Value::Bool(*b)),
        [Value::String(text)] => match &**text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => failed("string", "bool"),
        },
        _ => mismatch(name),
    }
}

fn to_bytes<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    match args {
        [Value::Bytes(bytes)] => Ok(Value::Bytes(bytes.clone())),
        [Value::String(text)] => Ok(Value::Bytes(text.as_bytes().into())),
        _ => mismatch(name),
    }
}

fn to_double<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    match args {
        [Value::Double(d)] => Ok(Value::Double(*d)),
        [Value::Int(i)] => Ok(Value::Double(*i as f64)),
        [Value::Uint(u)] => Ok(Value::Double(*u as f64)),
        [Value::String(text)] => {
            text.parse().map_or_else(|_| failed("string", "double"), |d| Ok(Value::Double(d)))
        }
        _ => mismatch(name),
    }
}

fn to_int<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    match args {
        [Value::Int(i)] => Ok(Value::Int(*i)),
        [Value::Uint(u)] => i64::try_from(*u).map_or_else(|_| overflow("integer"), |i| Ok(Value::Int(i))),
        [Value::Double(d)] if *d > -(2f64.powi(63)) && *d < 2f64.powi(63) => Ok(Value::Int(*d as i64)),
        [Value::Double(_)] => overflow("integer"),
        [Value::String(text)] => text.parse().map_or_else(|_| failed("string", "int"), |i| Ok(Value::Int(i))),
        [Value::Timestamp(time)] => Ok(Value::Int(time.as_nanosecond().div_euclid(1_000_000_000) as i64)),
        [Value::Duration(nanos)] => Ok(Value::Int(*nanos)),
        _ => mismatch(name),
    }
}

fn to_uint<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    match args {
        [Value::Uint(u)] => Ok(Value::Uint(*u)),
        [Value::Int(i)] => {
            u64::try_from(*i).map_or_else(|_| overflow("unsigned integer"), |u| Ok(Value::Uint(u)))
        }
        [Value::Double(d)] if *d >= 0.0 && *d < 2f64.powi(64) => Ok(Value::Uint(*d as u64)),
        [Value::Double(_)] => overflow("unsigned integer"),
        [Value::String(text)] => {
            text.parse().map_or_else(|_| failed("string", "uint"), |u| Ok(Value::Uint(u)))
        }
        _ => mismatch(name),
    }
}

fn to_string<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let [value] = args else { return mismatch(name) };
    Ok(Value::text(match value {
        Value::String(text) => return Ok(Value::String(text.clone())),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => return Ok(Value::String(Text::Own(text.into()))),
            Err(_) => return Err(EvalError::new("invalid UTF-8 in bytes, cannot convert to string")),
        },
        Value::Bool(_)
        | Value::Int(_)
        | Value::Uint(_)
        | Value::Double(_)
        | Value::Timestamp(_)
        | Value::Duration(_) => crate::text::shown(value),
        Value::Opaque(Opaque::Ip(ip)) => ip.to_string(),
        Value::Opaque(Opaque::Cidr(cidr)) => cidr.to_string(),
        _ => return mismatch(name),
    }))
}

fn to_duration<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    match args {
        [Value::Duration(d)] => Ok(Value::Duration(*d)),
        [Value::Int(_)] => failed("int", "google.protobuf.Duration"),
        [Value::String(text)] => times::duration(text)
            .map_or_else(|| failed("string", "google.protobuf.Duration"), |d| Ok(Value::Duration(d))),
        _ => mismatch(name),
    }
}

fn to_timestamp<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    match args {
        [Value::Timestamp(time)] => Ok(Value::Timestamp(*time)),
        [Value::Int(seconds)] => match Timestamp::from_second(*seconds) {
            Ok(time) if *seconds >= -62_135_596_800 => Ok(Value::Timestamp(time)),
            _ => overflow("timestamp"),
        },
        [Value::String(text)] => times::timestamp(text)
            .map_or_else(|| failed("string", "google.protobuf.Timestamp"), |t| Ok(Value::Timestamp(t))),
        _ => mismatch(name),
    }
}

fn part_of_time<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    match args {
        [Value::Timestamp(time)] => times::field(*time, name, None).map(Value::Int),
        [Value::Timestamp(time), Value::String(zone)] => {
            times::field(*time, name, Some(zone)).map(Value::Int)
        }
        [Value::Duration(nanos)] => Ok(Value::Int(match name {
            "getHours" => nanos / 3_600_000_000_000,
            "getMinutes" => nanos / 60_000_000_000,
            "getSeconds" => nanos / 1_000_000_000,
            "getMilliseconds" => nanos / 1_000_000,
            _ => return mismatch(name),
        })),
        _ => mismatch(name),
    }
}
