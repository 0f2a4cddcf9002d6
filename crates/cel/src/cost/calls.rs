//! What single calls may cost, by the sizes of their arguments, and how large their results may be.

use std::sync::Arc;

use super::{Coster, Range, UNKNOWN};
use crate::ast::{Expr, Kind, Literal};
use crate::declared::Overload;
use crate::types::Type;

/// Cost, and the size of the result if it is known.
type Estimate = (Range, Option<Range>);

impl Coster<'_> {
    /// Functions of the standard library.
    pub(super) fn standard(
        &mut self,
        name: &str,
        overload: &Overload,
        target: Option<&Expr>,
        args: &[Expr],
    ) -> Estimate {
        let one = (Range::fixed(1), None);
        match (name, target, args) {
            ("format", Some(target), _) => (self.size_or_unknown(target).scaled(0.1), None),
            ("bytes", None, [arg]) if overload.args[0] == Type::String => {
                let size = self.size_or_unknown(arg);
                (size.scaled(0.1), Some(Range { min: size.min, max: size.max.saturating_mul(4) }))
            }
            ("string", None, [arg]) if overload.args[0] == Type::Bytes => {
                let size = self.size_or_unknown(arg);
                (size.scaled(0.1), Some(Range { min: size.min / 4, max: size.max }))
            }
            ("strings.quote", None, [arg]) => {
                let size = self.size_or_unknown(arg);
                let result = size.plus(Range { min: 0, max: size.max }).plus(Range::fixed(2));
                (size.scaled(0.1), Some(result))
            }
            ("startsWith" | "endsWith", Some(_), [part]) => (self.size_or_unknown(part).scaled(0.1), None),
            ("@in", None, [_, list]) if matches!(overload.args[1], Type::List(_)) => {
                (self.size_or_unknown(list), None)
            }
            ("matches", Some(text), [pattern]) | ("matches", None, [text, pattern]) => {
                (self.matching(text, pattern), None)
            }
            ("contains", Some(text), [part]) => {
                let text = self.size_or_unknown(text).scaled(0.1);
                (text.times(self.size_or_unknown(part).scaled(0.1)), None)
            }
            ("_<_" | "_<=_" | "_>_" | "_>=_", None, [a, b])
                if matches!(overload.args[0], Type::String | Type::Bytes) =>
            {
                (self.comparing(a, b), None)
            }
            ("_==_" | "_!=_", None, [a, b]) => (self.comparing(a, b), None),
            _ => one,
        }
    }

    fn matching(&mut self, text: &Expr, pattern: &Expr) -> Range {
        let text = self.size_or_unknown(text).plus(Range::fixed(1)).scaled(0.1);
        text.times(self.size_or_unknown(pattern).scaled(0.25))
    }

    fn comparing(&mut self, a: &Expr, b: &Expr) -> Range {
        let max = self.size_or_unknown(a).max.min(self.size_or_unknown(b).max);
        Range { min: u64::from(max > 0), max }.scaled(0.1)
    }

    /// Functions of the extensions and of Kubernetes, `None` for others.
    pub(super) fn library(
        &mut self,
        name: &str,
        overload: &Overload,
        target: Option<&Expr>,
        args: &[Expr],
    ) -> Option<Estimate> {
        if let Some(estimate) = self.lists(name, overload, target, args) {
            return Some(estimate);
        }
        let one = Some((Range::fixed(1), None));
        match (name, target, args) {
            ("check", ..) => Some((Range::fixed(350_000), None)),
            ("fieldSelector" | "labelSelector", _, [selector]) => {
                let size = self.size_or_unknown(selector);
                let requirements = size.scaled(0.5).scaled(50.0);
                Some((Range::fixed(10).plus(size.scaled(0.1)).plus(requirements), None))
            }
            ("url" | "jsonpatch.escapeKey", _, [text]) => {
                let size = self.size_or_unknown(text);
                Some((size.scaled(0.1), Some(size)))
            }
            ("lowerAscii" | "upperAscii" | "substring" | "trim", Some(text), _) => {
                let size = self.size_or_unknown(text);
                Some((size.scaled(0.1), Some(size)))
            }
            ("replace", Some(text), [old, new, ..]) => {
                let size = self.size_or_unknown(text);
                let result = replaced(size, self.size_or_unknown(old), self.size_or_unknown(new));
                Some((size.scaled(0.2), Some(result)))
            }
            ("split", Some(text), _) => {
                let size = self.size_or_unknown(text);
                let max = args.get(1).and_then(int_literal).map_or(size.max, |n| n as u64);
                Some((size.scaled(0.2), Some(Range { min: 0, max })))
            }
            ("join", Some(list), _) => Some(self.join(list, args.first())),
            ("find" | "findAll", Some(text), [pattern, ..]) => {
                let max = self.size_or_unknown(text).max;
                Some((self.matching(text, pattern), Some(Range { min: 0, max })))
            }
            ("ip", Some(_), []) => one,
            (
                "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver",
                _,
                [text, ..],
            ) => Some((self.size_or_unknown(text).scaled(0.1), None)),
            ("ip.isCanonical", _, [text]) => Some((self.size_or_unknown(text).scaled(0.2), None)),
            ("containsIP" | "containsCIDR", Some(_), [other]) => {
                Some((self.network(name, overload, other), None))
            }
            ("validate", Some(_), [text]) => {
                // The longest of all formats: 128 characters of a regular expression.
                Some((self.size_or_unknown(text).scaled(0.1).scaled(32.0), None))
            }
            ("_==_", None, [a, b]) => self.same(a, b).map(|cost| (cost, None)),
            _ => None,
        }
    }

    /// Equality of values of libraries.
    fn same(&mut self, a: &Expr, b: &Expr) -> Option<Range> {
        let (Type::Named(one), Type::Named(other)) = (self.checked.ty(a), self.checked.ty(b)) else {
            return None;
        };
        if one != other {
            return None;
        }
        Some(match *one {
            "kubernetes.NamedFormat" => Range { min: 1, max: 64 }.scaled(0.1),
            "kubernetes.URL" => {
                let max = self.size(b).map_or(1, |size| size.max);
                Range { min: 1, max }.scaled(0.1)
            }
            _ => Range::fixed(1),
        })
    }

    fn network(&mut self, name: &str, overload: &Overload, other: &Expr) -> Range {
        let address = Range { min: 4, max: 16 };
        let mut cost = address.plus(address).scaled(0.1);
        if name == "containsCIDR" {
            cost = cost.plus(address.scaled(0.1)).plus(Range::fixed(1));
        }
        if overload.args[1] == Type::String {
            cost = cost.plus(self.size_or_unknown(other).scaled(0.1));
        }
        cost
    }

    /// The type of a list's elements and the most of their size.
    fn element(&mut self, list: &Expr) -> Option<(Type, Range)> {
        let of = match self.checked.ty(list) {
            Type::List(of) => (**of).clone(),
            Type::Map(of) => of.0.clone(),
            _ => return None,
        };
        let mut path = self.path(list);
        let mut size = UNKNOWN;
        if !path.is_empty() {
            path.push(Arc::from("@items"));
            size = self.declared(&path).unwrap_or(UNKNOWN);
        }
        Some((of, size))
    }

    fn join(&mut self, list: &Expr, by: Option<&Expr>) -> Estimate {
        let length = self.size_or_unknown(list);
        let mut size = self.element(list).map_or(Range::default(), |(_, element)| length.times(element));
        if let Some(by) = by {
            let between = Range { min: length.min.saturating_sub(1), max: length.max.saturating_sub(1) };
            size = size.plus(self.size_or_unknown(by).times(between));
        }
        (size.scaled(0.1), Some(size))
    }

    fn lists(
        &mut self,
        name: &str,
        overload: &Overload,
        target: Option<&Expr>,
        args: &[Expr],
    ) -> Option<Estimate> {
        let making =
            |factor: f64, size: Range| Some((size.scaled(factor).plus(Range::fixed(11)), Some(size)));
        match (name, target, args) {
            ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", Some(list), _) => {
                let length = self.size_or_unknown(list);
                let Some((of, size)) = self.element(list) else { return Some((length.scaled(0.1), None)) };
                let mut each = Range::fixed(1);
                if matches!(of, Type::String | Type::Bytes) {
                    each = each.plus(size.scaled(0.1));
                }
                Some((length.times(each), None))
            }
            ("slice", Some(list), [start, end]) => {
                let start = int_or(start, 0);
                let end = int_or(end, self.size_or_unknown(list).max);
                making(1.0, Range::fixed(end.wrapping_sub(start)))
            }
            ("lists.range", None, [n]) => making(1.0, Range::fixed(int_or(n, u64::MAX))),
            ("reverse", Some(list), []) if matches!(overload.args[0], Type::List(_)) => {
                let size = self.size_or_unknown(list);
                making(1.0, size)
            }
            ("flatten", Some(list), _) => {
                let depth = args.first().map_or(1, |depth| int_or(depth, u64::MAX));
                let size = self.size_or_unknown(list);
                making(depth as f64, size)
            }
            ("distinct", Some(list), []) => {
                let size = self.size_or_unknown(list);
                making(2.0, size.times(size))
            }
            ("sort", Some(by), []) | ("@sortByAssociatedKeys", Some(_), [by]) => {
                let size = self.size_or_unknown(by);
                let text = match overload.args.last() {
                    Some(Type::List(of)) => matches!(**of, Type::String | Type::Bytes),
                    _ => false,
                };
                making(if text { 2.1 } else { 2.0 }, size.times(size))
            }
            ("sets.contains" | "sets.intersects" | "sets.equivalent", None, [a, b]) => {
                let factor = if name == "sets.equivalent" { 2.0 } else { 1.0 };
                let product = self.size_or_unknown(a).times(self.size_or_unknown(b));
                Some((product.scaled(factor).plus(Range::fixed(1)), None))
            }
            _ => None,
        }
    }
}

fn int_literal(e: &Expr) -> Option<i64> {
    match e.kind {
        Kind::Literal(Literal::Int(i)) => Some(i),
        _ => None,
    }
}

fn int_or(e: &Expr, otherwise: u64) -> u64 {
    int_literal(e).map_or(otherwise, |i| u64::try_from(i).unwrap_or(0))
}

/// The size of a text in which parts were replaced.
fn replaced(text: Range, old: Range, new: Range) -> Range {
    let (mut count, mut kept) = (Range::default(), Range::default());
    // Longest: the shortest parts become the longest, as often as possible. An empty part is between all characters.
    if old.min == 0 {
        count.max = text.max.saturating_add(1);
        kept.max = text.max;
    } else if new.max <= old.min {
        kept.max = text.max;
    } else {
        count.max = (text.max as f64 / old.min as f64).ceil() as u64;
    }
    if old.max == 0 {
        count.min = text.min.saturating_add(1);
        kept.min = text.min;
    } else if old.max <= new.min {
        kept.min = text.min;
    } else {
        count.min = (text.min as f64 / old.max as f64).ceil() as u64;
    }
    count.times(new).plus(kept)
}
