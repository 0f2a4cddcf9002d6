//! What calls cost while they are evaluated.

use crate::declared::Overload;
use crate::types::Type;
use crate::value::{List, Value};

/// How the cost of a function's calls is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Charge {
    /// Nothing is known of it, or it takes the same time always.
    One,
    /// By sizes, as the functions below say.
    Sizes,
}

/// Tenths of a unit per character that is looked at.
pub(crate) fn tenth(size: u64) -> u64 {
    size.div_ceil(10)
}

/// Characters of a text.
pub(crate) fn chars(text: &str) -> u64 {
    if text.is_ascii() { text.len() as u64 } else { text.chars().count() as u64 }
}

/// Matching a text of so many characters against an expression of so many.
pub(crate) fn matching(text: u64, pattern: u64) -> u64 {
    tenth(text.saturating_add(1)).saturating_mul(pattern.div_ceil(4))
}

/// The size of a value; one of those without size.
pub(crate) fn size(value: &Value<'_>) -> u64 {
    match value {
        Value::String(text) => chars(text),
        Value::Bytes(bytes) => bytes.len() as u64,
        Value::List(list) => list.len() as u64,
        Value::Map(map) => map.len() as u64,
        Value::Optional(Some(inner)) => size(inner),
        Value::Opaque(crate::opaque::Opaque::Ip(ip)) => ip.size(),
        Value::Opaque(crate::opaque::Opaque::Cidr(cidr)) => cidr.size(),
        _ => 1,
    }
}

/// Looking at everything in a value.
fn traversal(value: &Value<'_>) -> u64 {
    match value {
        Value::String(text) => text.len() as u64 / 10,
        Value::Bytes(bytes) => bytes.len() as u64 / 10,
        Value::List(list) => list.iter().map(|v| traversal(&v)).sum(),
        Value::Map(map) => map.entries().iter().map(|(k, v)| traversal(&k.value()) + traversal(v)).sum(),
        _ => 1,
    }
}

/// Making a list of so many elements.
fn making(factor: f64, size: u64) -> u64 {
    ((size as f64 * factor) as u64).saturating_add(11)
}

/// Comparing all elements of a list with each other.
fn comparing(list: &Value<'_>) -> u64 {
    let size = size(list);
    let text = match list {
        Value::List(list) => matches!(List::get(list, 0), Some(Value::String(_) | Value::Bytes(_))),
        _ => false,
    };
    making(if text { 2.1 } else { 2.0 }, size.saturating_mul(size))
}

impl Charge {
    /// How calls of these overloads are charged: those whose cost goes by the overload cost one unit if it is not
    /// known before which one is called.
    pub(crate) fn of(name: &str, overloads: &[&Overload]) -> Charge {
        let by_overload = matches!(
            name,
            "_<_"
                | "_<=_"
                | "_>_"
                | "_>=_"
                | "_+_"
                | "startsWith"
                | "endsWith"
                | "contains"
                | "matches"
                | "bytes"
                | "string"
                | "@in"
                | "slice"
                | "flatten"
                | "lists.range"
                | "distinct"
                | "sort"
                | "@sortByAssociatedKeys"
        );
        match overloads {
            [_] => {}
            _ if by_overload => return Charge::One,
            _ => {}
        }
        match (name, overloads) {
            // Texts are reversed in one step.
            ("reverse", [overload]) if overload.args.first() == Some(&Type::String) => Charge::One,
            _ => Charge::Sizes,
        }
    }

    /// What is charged before the call.
    pub(crate) fn before(self, name: &str, args: &[Value<'_>]) -> u64 {
        if self == Charge::One {
            return 1;
        }
        let of = |i: usize| args.get(i).map_or(1, size);
        match name {
            "startsWith"
            | "endsWith"
            | "strings.quote"
            | "format"
            | "url"
            | "lowerAscii"
            | "upperAscii"
            | "substring"
            | "trim"
            | "jsonpatch.escapeKey"
            | "cidr"
            | "isIP"
            | "isCIDR"
            | "quantity"
            | "isQuantity"
            | "semver"
            | "isSemver" => tenth(of(0)),
            "bytes" if matches!(args, [Value::String(_)]) => tenth(of(0)),
            "string" if matches!(args, [Value::Bytes(_)]) => tenth(of(0)),
            "ip" => match args {
                [Value::String(_)] => tenth(of(0)),
                _ => 1,
            },
            "replace" | "split" | "ip.isCanonical" => (of(0) * 2).div_ceil(10),
            "@in" => match args {
                [_, Value::List(list)] => list.len() as u64,
                _ => 1,
            },
            "_==_" | "_!=_" if matches!(args, [Value::Opaque(_), _]) => 1,
            "_==_" | "_!=_" => tenth(of(0).min(of(1))),
            "_<_" | "_<=_" | "_>_" | "_>=_" => match args {
                [Value::String(_) | Value::Bytes(_), _] => tenth(of(0).min(of(1))),
                _ => 1,
            },
            "_+_" => match args {
                [Value::String(_) | Value::Bytes(_), _] => tenth(of(0) + of(1)),
                _ => 1,
            },
            "matches" | "find" | "findAll" => matching(of(0), of(1)),
            "contains" => tenth(of(0)).saturating_mul(tenth(of(1))),
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
                args.first().map_or(0, traversal)
            }
            "containsIP" | "containsCIDR" => contains(name, args),
            "validate" => match args {
                [Value::Opaque(crate::opaque::Opaque::Format(format)), text] => {
                    matching(size(text), format.weight())
                }
                _ => 1,
            },
            "check" => 350_000,
            "fieldSelector" | "labelSelector" => 10 + tenth(of(1)) + of(1).div_ceil(2) * 50,
            "flatten" => making(
                args.get(1).map_or(1.0, |d| if let Value::Int(d) = d { *d as f64 } else { 1.0 }),
                of(0),
            ),
            "distinct" | "sort" => args.first().map_or(1, comparing),
            "@sortByAssociatedKeys" => args.get(1).map_or(1, comparing),
            "reverse" => making(1.0, of(0)),
            "lists.range" => match args {
                [Value::Int(n)] => making(1.0, u64::try_from(*n).unwrap_or(0)),
                _ => 1,
            },
            "slice" | "join" => 0,
            "sets.contains" | "sets.intersects" => of(0).saturating_mul(of(1)).saturating_add(1),
            "sets.equivalent" => of(0).saturating_mul(of(1)).saturating_mul(2).saturating_add(1),
            _ => 1,
        }
    }

    /// What is charged by the result.
    pub(crate) fn after(self, name: &str, args: &[Value<'_>], result: &Value<'_>) -> u64 {
        match (self, name) {
            (Charge::Sizes, "slice") => making(1.0, size(result)),
            (Charge::Sizes, "join") => (size(result) * 2).div_ceil(10).max(u64::from(args.is_empty())),
            _ => 0,
        }
    }
}

fn contains(name: &str, args: &[Value<'_>]) -> u64 {
    let [network, other] = args else { return 1 };
    let network = size(network);
    let mut cost = tenth(network * 2);
    if name == "containsCIDR" {
        cost += tenth(network) + 1;
    }
    if matches!(other, Value::String(_)) {
        cost += tenth(size(other));
    }
    cost
}
