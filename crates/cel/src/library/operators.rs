//! Arithmetic, comparisons, membership.

use std::cmp::Ordering;
use std::sync::Arc;

use super::{Native, mismatch};
use crate::error::EvalError;
use crate::eval::Out;
use crate::value::{Key, List, Map, Value, equal, numbers};

pub(super) fn native(name: &str) -> Option<Native> {
    Some(match name {
        "!_" => not,
        "-_" => negate,
        "_==_" => |_, args| match args {
            [a, b] => Ok(Value::Bool(equal(a, b))),
            _ => mismatch("_==_"),
        },
        "_!=_" => |_, args| match args {
            [a, b] => Ok(Value::Bool(!equal(a, b))),
            _ => mismatch("_!=_"),
        },
        "_<_" | "_<=_" | "_>_" | "_>=_" => compare,
        "_+_" => add,
        "_-_" => subtract,
        "_*_" | "_/_" | "_%_" => multiply,
        "@in" => contained,
        "size" => size,
        "cel.@mapInsert" => |name, _| mismatch(name),
        _ => return None,
    })
}

fn overflow<'a>(what: &str) -> Out<'a> {
    Err(EvalError::new(format!("{what} overflow")))
}

fn int<'a>(value: Option<i64>) -> Out<'a> {
    value.map_or_else(|| overflow("integer"), |v| Ok(Value::Int(v)))
}

fn uint<'a>(value: Option<u64>) -> Out<'a> {
    value.map_or_else(|| overflow("unsigned integer"), |v| Ok(Value::Uint(v)))
}

fn duration<'a>(value: Option<i64>) -> Out<'a> {
    value.map_or_else(|| overflow("duration"), |v| Ok(Value::Duration(v)))
}

fn not<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    match args {
        [Value::Bool(b)] => Ok(Value::Bool(!b)),
        _ => mismatch(name),
    }
}

fn negate<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    match args {
        [Value::Int(i)] => int(i.checked_neg()),
        [Value::Double(d)] => Ok(Value::Double(-d)),
        [Value::Duration(d)] => duration(d.checked_neg()),
        _ => mismatch(name),
    }
}

/// How two values that have an order compare.
pub(super) fn order(one: &Value<'_>, other: &Value<'_>) -> Result<Ordering, EvalError> {
    Ok(match (one, other) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::String(a), Value::String(b)) => (**a).cmp(b),
        (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
        (Value::Timestamp(a), Value::Timestamp(b)) => a.cmp(b),
        (Value::Duration(a), Value::Duration(b)) => a.cmp(b),
        (a, b) => match numbers(a, b) {
            Some(Some(order)) => order,
            Some(None) => return Err(EvalError::new("NaN values cannot be ordered")),
            None => return Err(EvalError::no_overload()),
        },
    })
}

fn compare<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let [a, b] = args else { return mismatch(name) };
    // A number that is none is neither smaller nor greater than any.
    let order = match order(a, b) {
        Ok(order) => order,
        Err(error) if numbers(a, b).is_none() => return Err(error),
        Err(_) => return Ok(Value::Bool(false)),
    };
    Ok(Value::Bool(match name {
        "_<_" => order.is_lt(),
        "_<=_" => order.is_le(),
        "_>_" => order.is_gt(),
        _ => order.is_ge(),
    }))
}

fn add<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let [a, b] = args else { return mismatch(name) };
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => int(a.checked_add(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_add(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::String(a), Value::String(b)) => Ok(Value::text(format!("{}{}", &**a, &**b))),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(Value::Bytes([&a[..], &b[..]].concat().into())),
        (Value::List(a), Value::List(b)) => Ok(join(a, b)),
        (Value::Duration(a), Value::Duration(b)) => duration(a.checked_add(*b)),
        (Value::Timestamp(t), Value::Duration(d)) | (Value::Duration(d), Value::Timestamp(t)) => {
            moved(*t, *d)
        }
        _ => mismatch(name),
    }
}

/// Two lists as one. Lists of sets and of entries with keys become one of their kind.
fn join<'a>(a: &List<'a>, b: &List<'a>) -> Value<'a> {
    use crate::types::ListKind;
    match a.kind() {
        Some(ListKind::Set) => {
            let mut all: Vec<Value<'a>> = a.iter().collect();
            let new: Vec<Value<'a>> = b.iter().filter(|v| !all.iter().any(|w| equal(v, w))).collect();
            all.extend(new);
            Value::list(all)
        }
        Some(ListKind::Map(keys)) => {
            let mut all: Vec<Value<'a>> = a.iter().collect();
            let known = all.len();
            for new in b.iter() {
                let same = |old: &Value<'a>| keys.iter().all(|key| crate::value::same_field(old, &new, key));
                match all[..known].iter().position(same) {
                    Some(i) => all[i] = new,
                    None => all.push(new),
                }
            }
            Value::list(all)
        }
        _ if a.is_empty() => Value::List(b.clone()),
        _ if b.is_empty() => Value::List(a.clone()),
        _ => Value::List(List::Joined(Arc::new((a.clone(), b.clone())))),
    }
}

fn moved<'a>(time: jiff::Timestamp, nanos: i64) -> Out<'a> {
    match time.checked_add(jiff::SignedDuration::from_nanos(nanos)) {
        Ok(time) if (-62_135_596_800..=253_402_300_799).contains(&time.as_second()) => {
            Ok(Value::Timestamp(time))
        }
        _ => overflow("timestamp"),
    }
}

fn subtract<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let [a, b] = args else { return mismatch(name) };
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => int(a.checked_sub(*b)),
        (Value::Uint(a), Value::Uint(b)) => uint(a.checked_sub(*b)),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a - b)),
        (Value::Duration(a), Value::Duration(b)) => duration(a.checked_sub(*b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => {
            duration(i64::try_from(a.as_nanosecond() - b.as_nanosecond()).ok())
        }
        (Value::Timestamp(t), Value::Duration(d)) => {
            d.checked_neg().map_or_else(|| overflow("timestamp"), |d| moved(*t, d))
        }
        _ => mismatch(name),
    }
}

fn multiply<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let [a, b] = args else { return mismatch(name) };
    let zero = matches!(b, Value::Int(0) | Value::Uint(0));
    match (name, a, b) {
        ("_*_", Value::Int(a), Value::Int(b)) => int(a.checked_mul(*b)),
        ("_*_", Value::Uint(a), Value::Uint(b)) => uint(a.checked_mul(*b)),
        ("_*_", Value::Double(a), Value::Double(b)) => Ok(Value::Double(a * b)),
        ("_/_", Value::Int(_), Value::Int(_)) | ("_/_", Value::Uint(_), Value::Uint(_)) if zero => {
            Err(EvalError::new("division by zero"))
        }
        ("_%_", Value::Int(_), Value::Int(_)) | ("_%_", Value::Uint(_), Value::Uint(_)) if zero => {
            Err(EvalError::new("modulus by zero"))
        }
        ("_/_", Value::Int(a), Value::Int(b)) => int(a.checked_div(*b)),
        ("_/_", Value::Uint(a), Value::Uint(b)) => Ok(Value::Uint(a / b)),
        ("_/_", Value::Double(a), Value::Double(b)) => Ok(Value::Double(a / b)),
        ("_%_", Value::Int(a), Value::Int(b)) => int(a.checked_rem(*b)),
        ("_%_", Value::Uint(a), Value::Uint(b)) => Ok(Value::Uint(a % b)),
        _ => mismatch(name),
    }
}

fn contained<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    match args {
        [value, Value::List(list)] => Ok(Value::Bool(list.iter().any(|item| equal(value, &item)))),
        [Value::String(field), Value::Map(Map::Lazy(fields))] => {
            Ok(Value::Bool(fields.0.has(field, &mut crate::budget::Budget::default())?))
        }
        [key, Value::Map(map)] => {
            if Key::of(key).is_none() {
                return Ok(Value::Bool(false));
            }
            let budget = &mut crate::budget::Budget::default();
            Ok(Value::Bool(map.get(key, budget)?.is_some()))
        }
        _ => mismatch(name),
    }
}

fn size<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    match args {
        [value @ (Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_))] => {
            Ok(Value::Int(crate::charge::size(value) as i64))
        }
        _ => mismatch(name),
    }
}
