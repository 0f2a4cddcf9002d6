//! What an expression may cost at least and at most, by the sizes that declarations allow.
//!
//! The figures are part of the API: they decide which rules a definition may have.

use std::collections::HashMap;
use std::sync::Arc;

use crate::ast::{Expr, Fold, Kind, Literal, RESULT};
use crate::check::{Checked, Meaning};
use crate::declared::Overload;
use crate::env::Env;
use crate::types::{Decl, DeclKind, Type};

mod calls;

/// Least and most, of a cost or a size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CostEstimate {
    /// At least.
    pub min: u64,
    /// At most; `u64::MAX` if there is no bound.
    pub max: u64,
}

/// A range of costs or of sizes.
pub(crate) type Range = CostEstimate;

/// Nothing is known.
const UNKNOWN: Range = Range { min: 0, max: u64::MAX };

impl Range {
    pub(crate) fn fixed(n: u64) -> Range {
        Range { min: n, max: n }
    }

    fn plus(self, other: Range) -> Range {
        Range { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    fn times(self, other: Range) -> Range {
        Range { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    /// Times a factor, rounded up.
    fn scaled(self, factor: f64) -> Range {
        // Casts to integers saturate.
        let scale = |n: u64| (n as f64 * factor).ceil() as u64;
        Range { min: scale(self.min), max: scale(self.max) }
    }

    fn union(self, other: Range) -> Range {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// Sizes of the parts of a list or map.
#[derive(Clone, Copy, Debug)]
struct Parts {
    list: bool,
    key: Range,
    value: Range,
}

/// A name that a loop introduced.
#[derive(Clone, Debug, Default)]
struct Local {
    path: Vec<Arc<str>>,
    size: Option<Range>,
    parts: Option<Parts>,
}

/// Estimates a checked expression.
pub(crate) fn estimate(env: &Env, expr: &Expr, checked: &Checked) -> CostEstimate {
    let mut coster = Coster {
        env,
        checked,
        sizes: HashMap::new(),
        parts: HashMap::new(),
        paths: HashMap::new(),
        locals: Vec::new(),
    };
    coster.cost(expr)
}

struct Coster<'a> {
    env: &'a Env,
    checked: &'a Checked,
    sizes: HashMap<u32, Range>,
    parts: HashMap<u32, Parts>,
    /// How data is reached: variable, fields, `@items`, `@values`, `@keys`.
    paths: HashMap<u32, Vec<Arc<str>>>,
    locals: Vec<(Arc<str>, Local)>,
}

impl Coster<'_> {
    fn cost(&mut self, e: &Expr) -> Range {
        match &e.kind {
            Kind::Literal(_) => Range::default(),
            Kind::Ident(name) => self.name(e, name),
            Kind::Select { operand, field, test } => self.select(e, operand, field, *test),
            Kind::Call { target, args, .. } => self.call(e, target.as_deref(), args),
            Kind::List(items) => self.list(e, items),
            Kind::Map(entries) => self.map(e, entries),
            Kind::Struct { fields, .. } => {
                let sum = fields.iter().fold(Range::default(), |sum, f| sum.plus(self.cost(&f.value)));
                sum.plus(Range::fixed(40))
            }
            Kind::Fold(fold) if is_binding(fold) => self.binding(e, fold),
            Kind::Fold(fold) => self.fold(e, fold),
        }
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|(local, _)| **local == *name).map(|(_, local)| local)
    }

    fn name(&mut self, e: &Expr, name: &Arc<str>) -> Range {
        let path = self.local(name).map_or_else(|| vec![name.clone()], |local| local.path.clone());
        self.paths.insert(e.id, path);
        Range::fixed(1)
    }

    fn select(&mut self, e: &Expr, operand: &Expr, field: &Arc<str>, test: bool) -> Range {
        if let Some(Meaning::Variable(i)) = self.checked.meanings.get(&e.id) {
            self.paths.insert(e.id, vec![self.env.variables[*i].name.clone()]);
            return Range::fixed(1);
        }
        let sum = self.cost(operand);
        if test {
            return sum;
        }
        let mut path = self.path(operand);
        path.push(field.clone());
        self.paths.insert(e.id, path);
        match self.checked.ty(operand) {
            Type::Map(_) | Type::Object(_) | Type::Free(_) | Type::Param(_) => sum.plus(Range::fixed(1)),
            _ => sum,
        }
    }

    fn path(&self, e: &Expr) -> Vec<Arc<str>> {
        if let Kind::Ident(name) = &e.kind
            && let Some(local) = self.local(name)
        {
            return local.path.clone();
        }
        self.paths.get(&e.id).cloned().unwrap_or_default()
    }

    /// The most that declarations allow for what a path leads to.
    fn declared(&self, path: &[Arc<str>]) -> Option<Range> {
        let (first, rest) = path.split_first()?;
        let variable = self.env.variables.iter().find(|v| v.name == *first).or(self.env.variables.first())?;
        let mut decl: &Decl = &variable.decl;
        for name in rest {
            if **name == *"@keys" {
                return decl.step("@values").map(|_| Range::default());
            }
            decl = match (decl.step(name), &decl.kind) {
                (Some(inner), _) => inner,
                // A map's entry looked at as a field counts for selectors only.
                (None, DeclKind::Map(of)) if self.env.bindings => of,
                _ => return None,
            };
        }
        (decl.size_max != u64::MAX).then_some(Range { min: 0, max: decl.size_max })
    }

    fn size(&mut self, e: &Expr) -> Option<Range> {
        if let Some(size) = self.sizes.get(&e.id) {
            return Some(*size);
        }
        if let Some(size) = own_size(e) {
            return Some(Range::fixed(size));
        }
        if let Some(size) = self.declared(&self.path(e)) {
            self.sizes.insert(e.id, size);
            return Some(size);
        }
        if self.checked.ty(e).is_scalar() {
            return Some(Range::fixed(1));
        }
        match &e.kind {
            Kind::Ident(name) => self.local(name).and_then(|local| local.size),
            _ => None,
        }
    }

    fn size_or_unknown(&mut self, e: &Expr) -> Range {
        self.size(e).unwrap_or(UNKNOWN)
    }

    fn parts(&self, e: &Expr) -> Option<Parts> {
        if let Some(parts) = self.parts.get(&e.id) {
            return Some(*parts);
        }
        match &e.kind {
            Kind::Ident(name) => self.local(name).and_then(|local| local.parts),
            _ => None,
        }
    }

    fn list(&mut self, e: &Expr, items: &[(Expr, bool)]) -> Range {
        let mut sum = Range::default();
        let mut size = Range { min: if items.is_empty() { 0 } else { u64::MAX }, max: 0 };
        for (item, _) in items {
            sum = sum.plus(self.cost(item));
            size = size.union(self.size_or_unknown(item));
        }
        self.parts.insert(e.id, Parts { list: true, key: Range::fixed(1), value: size });
        sum.plus(Range::fixed(10))
    }

    fn map(&mut self, e: &Expr, entries: &[crate::ast::Entry]) -> Range {
        let mut sum = Range::default();
        let none = Range { min: if entries.is_empty() { 0 } else { u64::MAX }, max: 0 };
        let (mut key, mut value) = (none, none);
        for entry in entries {
            sum = sum.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
            key = key.union(self.size_or_unknown(&entry.key));
            value = value.union(self.size_or_unknown(&entry.value));
        }
        self.parts.insert(e.id, Parts { list: false, key, value });
        sum.plus(Range::fixed(30))
    }

    /// A name for a value, as some macros make it.
    fn binding(&mut self, e: &Expr, fold: &Fold) -> Range {
        let sum = self.cost(&fold.range).plus(self.cost(&fold.init));
        self.push_value(&fold.accumulator, &fold.init);
        let sum = sum.plus(self.cost(&fold.result));
        self.locals.pop();
        if let Some(size) = self.size(&fold.result) {
            self.sizes.insert(e.id, size);
        }
        if let Some(parts) = self.parts(&fold.result) {
            self.parts.insert(e.id, parts);
        }
        sum
    }

    fn push_value(&mut self, name: &Arc<str>, value: &Expr) {
        let local = Local { path: self.path(value), size: self.size(value), parts: self.parts(value) };
        self.locals.push((name.clone(), local));
    }

    /// Introduces the variable of a loop: of what it runs over, the keys or the values.
    fn push_part(&mut self, name: &Arc<str>, range: &Expr, keys: bool) {
        let parts = self.parts(range);
        let list = parts.map_or(matches!(self.checked.ty(range), Type::List(_)), |p| p.list);
        let step = match (keys, list) {
            (true, true) => "@indices",
            (true, false) => "@keys",
            (false, true) => "@items",
            (false, false) => "@values",
        };
        let mut path = self.path(range);
        path.push(step.into());
        let size = parts.map(|p| if keys { p.key } else { p.value });
        self.locals.push((name.clone(), Local { path, size, parts: None }));
    }

    fn fold(&mut self, e: &Expr, fold: &Fold) -> Range {
        let mut sum = self.cost(&fold.range).plus(self.cost(&fold.init));
        let before = self.locals.len();
        self.push_value(&fold.accumulator, &fold.init);
        match &fold.second {
            Some(second) => {
                self.push_part(&fold.first, &fold.range, true);
                self.push_part(second, &fold.range, false);
            }
            None => {
                let list = self
                    .parts(&fold.range)
                    .map_or(matches!(self.checked.ty(&fold.range), Type::List(_)), |p| p.list);
                self.push_part(&fold.first, &fold.range, !list);
            }
        }
        let round = self.cost(&fold.condition).plus(self.cost(&fold.step));
        self.locals.truncate(before + 1);
        sum = sum.plus(self.cost(&fold.result));
        self.locals.truncate(before);
        let rounds = self.size_or_unknown(&fold.range);
        sum = sum.plus(rounds.times(round));
        match &fold.init.kind {
            Kind::Literal(_) => {
                if let Some(size) = self.size(&fold.init) {
                    self.sizes.insert(e.id, size);
                }
            }
            Kind::List(_) | Kind::Map(_) => {
                self.sizes.insert(e.id, rounds);
                if let Some(parts) = self.parts(&fold.step) {
                    self.parts.insert(e.id, parts);
                }
            }
            _ => {}
        }
        sum
    }

    fn call(&mut self, e: &Expr, target: Option<&Expr>, args: &[Expr]) -> Range {
        let Some(Meaning::Function { name, overloads, method }) = self.checked.meanings.get(&e.id).cloned()
        else {
            return Range::default();
        };
        if name == "dyn"
            && let [arg] = args
        {
            let cost = self.cost(arg).plus(Range::fixed(1));
            if let Some(size) = self.size(arg) {
                self.sizes.insert(e.id, size);
            }
            if let Some(parts) = self.parts(arg) {
                self.parts.insert(e.id, parts);
            }
            return cost;
        }
        let costs: Vec<Range> = args.iter().map(|arg| self.cost(arg)).collect();
        let mut sum = Range::default();
        let target = target.filter(|_| method);
        if let Some(target) = target {
            sum = self.cost(target);
        }
        let mut cost: Option<Range> = None;
        let mut size: Option<Range> = None;
        for overload in overloads {
            let (one, result) = self.overload(e, name, overload, target, args, &costs);
            cost = Some(cost.map_or(one, |c| c.union(one)));
            if let Some(result) = result {
                size = Some(size.map_or(result, |s| s.union(result)));
            }
            if name == "_[_]"
                && let Some(of) = args.first()
                && let Some(step) = match &overload.args[0] {
                    Type::List(_) => Some("@items"),
                    Type::Map(_) => Some("@values"),
                    _ => None,
                }
            {
                size = self.parts(of).map(|p| p.value);
                let mut path = self.path(of);
                path.push(step.into());
                self.paths.insert(e.id, path);
            }
            if size.is_none() {
                size = self.size(e);
            }
        }
        if let Some(size) = size {
            self.sizes.insert(e.id, size);
        }
        sum.plus(cost.unwrap_or_default())
    }

    /// What one overload costs with its arguments, and how large its result is.
    fn overload(
        &mut self,
        e: &Expr,
        name: &str,
        overload: &Overload,
        target: Option<&Expr>,
        args: &[Expr],
        costs: &[Range],
    ) -> (Range, Option<Range>) {
        let arguments = costs.iter().fold(Range::default(), |sum, cost| sum.plus(*cost));
        if let Some((cost, size)) = self.library(name, overload, target, args) {
            return (cost.plus(arguments), size);
        }
        match (name, args) {
            ("_||_" | "_&&_", [_, _]) => {
                (Range { min: costs[0].min, max: costs[0].max.saturating_add(costs[1].max) }, None)
            }
            ("_?_:_", [_, yes, no]) => {
                let size = self.size_or_unknown(yes).union(self.size_or_unknown(no));
                if let (Some(a), Some(b)) = (self.parts(yes), self.parts(no)) {
                    self.parts.insert(e.id, both(a, b));
                }
                (costs[0].plus(costs[1].union(costs[2])), Some(size))
            }
            ("_+_", [a, b]) if matches!(overload.args[0], Type::String | Type::Bytes | Type::List(_)) => {
                let size = self.size_or_unknown(a).plus(self.size_or_unknown(b));
                if let (Some(a), Some(b)) = (self.parts(a), self.parts(b)) {
                    self.parts.insert(e.id, both(a, b));
                }
                let own = match overload.args[0] {
                    Type::List(_) => Range::fixed(1),
                    _ => size.scaled(0.1),
                };
                (own.plus(arguments), Some(size))
            }
            _ => {
                let (cost, size) = self.standard(name, overload, target, args);
                (cost.plus(arguments), size)
            }
        }
    }
}

fn both(a: Parts, b: Parts) -> Parts {
    Parts { list: a.list, key: a.key.union(b.key), value: a.value.union(b.value) }
}

/// The size of what is written in the source.
fn own_size(e: &Expr) -> Option<u64> {
    Some(match &e.kind {
        Kind::Literal(Literal::String(text)) => crate::charge::chars(text),
        Kind::Literal(Literal::Bytes(bytes)) => bytes.len() as u64,
        Kind::Literal(_) => 1,
        Kind::List(items) => items.len() as u64,
        Kind::Map(entries) => entries.len() as u64,
        _ => return None,
    })
}

/// Whether a loop only gives a value a name.
fn is_binding(fold: &Fold) -> bool {
    matches!(&fold.range.kind, Kind::List(items) if items.is_empty())
        && matches!(&fold.condition.kind, Kind::Literal(Literal::Bool(false)))
        && *fold.accumulator != *RESULT
}
