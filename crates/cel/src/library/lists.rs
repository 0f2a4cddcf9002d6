//! Lists: those functions of Kubernetes, of the lists and sets extensions; optional values.

use std::cmp::Ordering;

use super::operators::order;
use super::{Native, mismatch};
use crate::error::EvalError;
use crate::eval::Out;
use crate::value::{List, Value, equal};

pub(super) fn native(name: &str) -> Option<Native> {
    Some(match name {
        "isSorted" => is_sorted,
        "sum" => sum,
        "min" | "max" => extreme,
        "slice" => slice,
        "flatten" => flatten,
        "sort" => |name, args| match args {
            [Value::List(list)] => sort(list, list),
            _ => mismatch(name),
        },
        "@sortByAssociatedKeys" => |name, args| match args {
            [Value::List(list), Value::List(keys)] => sort(list, keys),
            _ => mismatch(name),
        },
        "lists.range" => |name, args| match args {
            [Value::Int(n)] => Ok(Value::list((0..*n).map(Value::Int).collect())),
            _ => mismatch(name),
        },
        "reverse" => |name, args| match args {
            [Value::List(list)] => {
                let mut all: Vec<Value<'_>> = list.iter().collect();
                all.reverse();
                Ok(Value::list(all))
            }
            _ => mismatch(name),
        },
        "distinct" => distinct,
        "sets.contains" | "sets.intersects" | "sets.equivalent" => sets,
        "optional.of"
        | "optional.ofNonZeroValue"
        | "optional.none"
        | "value"
        | "hasValue"
        | "first"
        | "last" => optional,
        "optional.unwrap" | "unwrapOpt" => unwrap,
        _ => return None,
    })
}

fn is_sorted<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let [Value::List(list)] = args else { return mismatch(name) };
    let mut before: Option<Value<'a>> = None;
    for value in list.iter() {
        if let Some(before) = before
            && order(&before, &value)? == Ordering::Greater
        {
            return Ok(Value::Bool(false));
        }
        before = Some(value);
    }
    Ok(Value::Bool(true))
}

fn sum<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let [Value::List(list)] = args else { return mismatch(name) };
    let Some(add) = super::operators::native("_+_") else { return mismatch(name) };
    let mut total: Option<Value<'a>> = None;
    for value in list.iter() {
        total = Some(match total {
            None => value,
            Some(total) => add("_+_", &[total, value])?,
        });
    }
    Ok(total.unwrap_or(Value::Int(0)))
}

fn extreme<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let [Value::List(list)] = args else { return mismatch(name) };
    let wanted = if name == "min" { Ordering::Less } else { Ordering::Greater };
    let mut found: Option<Value<'a>> = None;
    for value in list.iter() {
        let better = match &found {
            None => true,
            Some(found) => order(&value, found)? == wanted,
        };
        if better {
            found = Some(value);
        }
    }
    found.ok_or_else(|| EvalError::new(format!("{name} called on empty list")))
}

fn slice<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let [Value::List(list), Value::Int(start), Value::Int(end)] = args else { return mismatch(name) };
    let call = format!("cannot slice({start}, {end})");
    if *start < 0 || *end < 0 {
        return Err(EvalError::new(format!("{call}, negative indexes not supported")));
    }
    if start > end {
        return Err(EvalError::new(format!("{call}, start index must be less than or equal to end index")));
    }
    if *end > list.len() as i64 {
        return Err(EvalError::new(format!("{call}, list is length {}", list.len())));
    }
    Ok(Value::list((*start as usize..*end as usize).filter_map(|i| list.get(i)).collect()))
}

fn flatten<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let (list, depth) = match args {
        [Value::List(list)] => (list, 1),
        [Value::List(list), Value::Int(depth)] if *depth < 0 => {
            let _ = list;
            return Err(EvalError::new("level must be non-negative"));
        }
        [Value::List(list), Value::Int(depth)] => (list, *depth),
        _ => return mismatch(name),
    };
    let mut out = Vec::new();
    flatten_into(list, depth, &mut out);
    Ok(Value::list(out))
}

fn flatten_into<'a>(list: &List<'a>, depth: i64, out: &mut Vec<Value<'a>>) {
    for value in list.iter() {
        match value {
            Value::List(inner) if depth > 0 => flatten_into(&inner, depth - 1, out),
            value => out.push(value),
        }
    }
}

fn sort<'a>(list: &List<'a>, keys: &List<'a>) -> Out<'a> {
    if list.len() != keys.len() {
        let message = format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} \
             elements respectively",
            list.len(),
            keys.len()
        );
        return Err(EvalError::new(message));
    }
    let mut all: Vec<(Value<'a>, Value<'a>)> = keys.iter().zip(list.iter()).collect();
    if let Some((first, _)) = all.first() {
        if order(first, first).is_err() {
            return Err(EvalError::new("list elements must be comparable"));
        }
        let kind = std::mem::discriminant(first);
        if all.iter().any(|(key, _)| std::mem::discriminant(key) != kind) {
            return Err(EvalError::new("list elements must have the same type"));
        }
    }
    all.sort_by(|a, b| order(&a.0, &b.0).unwrap_or(Ordering::Equal));
    Ok(Value::list(all.into_iter().map(|(_, value)| value).collect()))
}

fn distinct<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let [Value::List(list)] = args else { return mismatch(name) };
    let mut out: Vec<Value<'a>> = Vec::new();
    for value in list.iter() {
        if !out.iter().any(|seen| equal(seen, &value)) {
            out.push(value);
        }
    }
    Ok(Value::list(out))
}

fn sets<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let [Value::List(one), Value::List(other)] = args else { return mismatch(name) };
    let has = |list: &List<'a>, value: &Value<'a>| list.iter().any(|v| equal(&v, value));
    let all = |list: &List<'a>, of: &List<'a>| of.iter().all(|v| has(list, &v));
    Ok(Value::Bool(match name {
        "sets.contains" => all(one, other),
        "sets.intersects" => one.iter().any(|v| has(other, &v)),
        _ => all(one, other) && all(other, one),
    }))
}

fn optional<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    Ok(match (name, args) {
        ("optional.of", [value]) => Value::some(value.clone()),
        ("optional.ofNonZeroValue", [value]) if is_zero(value) => Value::Optional(None),
        ("optional.ofNonZeroValue", [value]) => Value::some(value.clone()),
        ("optional.none", []) => Value::Optional(None),
        ("value", [Value::Optional(Some(value))]) => (**value).clone(),
        ("value", [Value::Optional(None)]) => return Err(EvalError::new("optional.none() dereference")),
        ("hasValue", [Value::Optional(value)]) => Value::Bool(value.is_some()),
        ("first", [Value::List(list)]) => list.get(0).map_or(Value::Optional(None), Value::some),
        ("last", [Value::List(list)]) => {
            let last = list.len().checked_sub(1).and_then(|i| list.get(i));
            last.map_or(Value::Optional(None), Value::some)
        }
        _ => return mismatch(name),
    })
}

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null | Value::Optional(None) => true,
        Value::Bool(b) => !b,
        Value::Int(i) => *i == 0,
        Value::Uint(u) => *u == 0,
        Value::Double(d) => *d == 0.0,
        Value::String(text) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::List(list) => list.is_empty(),
        Value::Map(map) => map.is_empty(),
        Value::Duration(d) => *d == 0,
        _ => false,
    }
}

fn unwrap<'a>(name: &str, args: &[Value<'a>]) -> Out<'a> {
    let [Value::List(list)] = args else { return mismatch(name) };
    let mut out = Vec::new();
    for value in list.iter() {
        match value {
            Value::Optional(Some(value)) => out.push((*value).clone()),
            Value::Optional(None) => {}
            other => {
                let shown = crate::text::shown(&other);
                return Err(EvalError::new(format!("value {shown} is not optional")));
            }
        }
    }
    Ok(Value::list(out))
}
