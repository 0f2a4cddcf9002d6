//! Gives every node a type, resolves names and calls, and says what does not fit.

use std::collections::HashMap;
use std::sync::Arc;

use crate::ast::{Expr, Fold, Kind, Literal};
use crate::declared::{self, Overload};
use crate::env::Env;
use crate::error::Fault;
use crate::types::{ObjectType, Type};
use crate::unify::{Bound, most_general};

/// What a name or call came to mean.
#[derive(Clone, Debug)]
pub(crate) enum Meaning {
    /// A declared variable, by its place in the environment.
    Variable(usize),
    /// A name that a loop introduced.
    Local,
    /// A type as a value.
    Type(Arc<str>),
    /// A function by its full name and the overloads that may be called. `method` says that the target is an argument.
    Function { name: &'static str, overloads: Vec<&'static Overload>, method: bool },
}

/// What checking found out, by node.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub types: HashMap<u32, Type>,
    pub meanings: HashMap<u32, Meaning>,
}

impl Checked {
    pub(crate) fn ty(&self, expr: &Expr) -> &Type {
        self.types.get(&expr.id).unwrap_or(&Type::Dyn)
    }
}

/// Checks a tree.
pub(crate) fn check(env: &Env, expr: &Expr) -> Result<Checked, Vec<Fault>> {
    let mut checker = Checker {
        env,
        found: Checked::default(),
        bound: Bound::default(),
        locals: Vec::new(),
        faults: Vec::new(),
    };
    checker.check(expr);
    if !checker.faults.is_empty() {
        checker.faults.sort_by_key(|f| f.at);
        return Err(checker.faults);
    }
    let Checker { mut found, bound, .. } = checker;
    for ty in found.types.values_mut() {
        *ty = bound.settle(ty, true);
    }
    Ok(found)
}

struct Checker<'a> {
    env: &'a Env,
    found: Checked,
    bound: Bound,
    locals: Vec<(Arc<str>, Type)>,
    faults: Vec<Fault>,
}

impl Checker<'_> {
    fn fault(&mut self, at: u32, message: String) -> Type {
        self.faults.push(Fault { at, message });
        Type::Error
    }

    fn check(&mut self, expr: &Expr) -> Type {
        let ty = match &expr.kind {
            Kind::Literal(literal) => of_literal(literal),
            Kind::Ident(name) => match self.name(expr.id, name) {
                Some(ty) => ty,
                None => self.undeclared(expr.at, name),
            },
            Kind::Select { operand, field, test } => self.select(expr, operand, field, *test),
            Kind::Call { function, target, args } => self.call(expr, function, target.as_deref(), args),
            Kind::List(items) => self.list(items),
            Kind::Map(entries) => self.map(entries),
            Kind::Struct { name, fields } => self.object(expr.at, name, fields),
            Kind::Fold(fold) => self.fold(fold),
        };
        self.found.types.insert(expr.id, ty.clone());
        ty
    }

    fn undeclared(&mut self, at: u32, name: &str) -> Type {
        self.fault(at, format!("undeclared reference to '{name}' (in container '')"))
    }

    /// The type of a name, a dotted one too.
    fn name(&mut self, id: u32, name: &str) -> Option<Type> {
        if let Some((_, ty)) = self.locals.iter().rev().find(|(local, _)| **local == *name) {
            self.found.meanings.insert(id, Meaning::Local);
            return Some(ty.clone());
        }
        if let Some(i) = self.env.variables.iter().position(|v| *v.name == *name) {
            self.found.meanings.insert(id, Meaning::Variable(i));
            return Some(self.env.variables[i].ty());
        }
        let ty = match name {
            "list" => Type::list(Type::Dyn),
            "map" => Type::map(Type::Dyn, Type::Dyn),
            "optional_type" => Type::optional(Type::Dyn),
            "type" => Type::Type(None),
            name => declared::plain(name)?,
        };
        self.found.meanings.insert(id, Meaning::Type(name.into()));
        Some(Type::Type(Some(Arc::new(ty))))
    }

    fn select(&mut self, expr: &Expr, operand: &Expr, field: &str, test: bool) -> Type {
        if !test
            && let Some(name) = expr.dotted()
            && !self.locals.iter().any(|(local, _)| name.split('.').next() == Some(local))
            && let Some(ty) = self.name(expr.id, &name)
        {
            return ty;
        }
        let ty = self.field(expr.at, operand, field, false);
        if test { Type::Bool } else { self.bound.settle(&ty, false) }
    }

    fn field(&mut self, at: u32, operand: &Expr, field: &str, optional: bool) -> Type {
        let of = self.check(operand);
        let of = self.bound.settle(&of, false);
        let (of, is_optional) = unwrap(&of);
        let ty = match of {
            Type::Map(of) => of.1.clone(),
            Type::Object(object) => match object.fields.get(field) {
                Some(field) => field.decl.ty(),
                None => self.fault(at, format!("undefined field '{field}'")),
            },
            Type::Named(name @ ("net.IP" | "net.CIDR")) => {
                self.fault(at, format!("type '{name}' does not support field selection"))
            }
            Type::Named(name) => self.fault(at, format!("unexpected failed resolution of '{name}'")),
            Type::Free(_) => {
                self.bound.agrees(&Type::Dyn, of);
                Type::Dyn
            }
            of if of.is_dyn() => Type::Dyn,
            of => {
                let message = format!("type '{of}' does not support field selection");
                self.fault(at, message);
                Type::Dyn
            }
        };
        if is_optional || optional { Type::optional(ty) } else { ty }
    }

    fn call(&mut self, expr: &Expr, function: &str, target: Option<&Expr>, args: &[Expr]) -> Type {
        if function == "_?._"
            && let [operand, field] = args
        {
            let name = field.text().unwrap_or_default();
            self.found.types.insert(field.id, Type::String);
            let ty = self.field(expr.at, operand, name, true);
            if let Some((name, overloads)) = declared::function("_?._") {
                let overloads = overloads.iter().collect();
                self.found.meanings.insert(expr.id, Meaning::Function { name, overloads, method: false });
            }
            return self.bound.settle(&ty, false);
        }
        let types: Vec<Type> = args.iter().map(|arg| self.check(arg)).collect();
        let Some(target) = target else {
            return match declared::function(function).filter(|_| self.env.has(function)) {
                Some(found) => self.resolve(expr, found, false, types, args),
                None => self.undeclared(expr.at, function),
            };
        };
        if let Some(prefix) = target.dotted()
            && let Some(found) = declared::function(&format!("{prefix}.{function}"))
            && self.env.has(found.0)
        {
            return self.resolve(expr, found, false, types, args);
        }
        let mut all = vec![self.check(target)];
        all.extend(types);
        match declared::function(function).filter(|_| self.env.has(function)) {
            Some(found) => self.resolve(expr, found, true, all, args),
            None => self.undeclared(expr.at, function),
        }
    }

    fn resolve(
        &mut self,
        expr: &Expr,
        (name, overloads): (&'static str, &'static [Overload]),
        method: bool,
        types: Vec<Type>,
        args: &[Expr],
    ) -> Type {
        if matches!(name, "_&&_" | "_||_") {
            for (arg, ty) in args.iter().zip(&types) {
                if !self.bound.agrees(ty, &Type::Bool) {
                    let ty = self.bound.settle(ty, false);
                    self.fault(arg.at, format!("expected type 'bool' but found '{ty}'"));
                }
            }
            let overloads = overloads.iter().collect();
            self.found.meanings.insert(expr.id, Meaning::Function { name, overloads, method });
            return Type::Bool;
        }
        let mut chosen = Vec::new();
        let mut result: Option<Type> = None;
        for overload in overloads.iter().filter(|o| o.method == method && o.args.len() == types.len()) {
            let mut fresh = HashMap::new();
            let expected: Vec<Type> =
                overload.args.iter().map(|t| self.instance(t, overload, &mut fresh)).collect();
            let answer = self.instance(&overload.result, overload, &mut fresh);
            if !self.bound.agree_all(types.iter().zip(&expected)) {
                continue;
            }
            chosen.push(overload);
            let answer = self.bound.settle(&answer, false);
            result = Some(match result {
                None => answer,
                Some(before) if before == Type::Dyn || before == answer => before,
                Some(_) => Type::Dyn,
            });
        }
        let Some(result) = result else {
            let shown: Vec<String> = types.iter().map(|t| self.bound.settle(t, true).to_string()).collect();
            let signature = match shown.split_first() {
                Some((first, rest)) if method => format!("{first}.({})", rest.join(", ")),
                _ => format!("({})", shown.join(", ")),
            };
            return self
                .fault(expr.at, format!("found no matching overload for '{name}' applied to '{signature}'"));
        };
        self.found.meanings.insert(expr.id, Meaning::Function { name, overloads: chosen, method });
        result
    }

    /// A declared type with its parameters as free types.
    fn instance(&mut self, of: &Type, overload: &Overload, fresh: &mut HashMap<char, Type>) -> Type {
        if !overload.generic {
            return of.clone();
        }
        match of {
            Type::Param(c) => fresh.entry(*c).or_insert_with(|| self.bound.fresh()).clone(),
            Type::List(of) => Type::list(self.instance(of, overload, fresh)),
            Type::Optional(of) => Type::optional(self.instance(of, overload, fresh)),
            Type::Map(of) => {
                Type::map(self.instance(&of.0, overload, fresh), self.instance(&of.1, overload, fresh))
            }
            Type::Type(Some(of)) => Type::Type(Some(Arc::new(self.instance(of, overload, fresh)))),
            other => other.clone(),
        }
    }

    /// The common type of the parts of a literal, dyn if they differ.
    fn join(&mut self, before: Option<Type>, ty: Type) -> Option<Type> {
        let Some(before) = before else { return Some(ty) };
        Some(if self.bound.agrees(&before, &ty) { most_general(&before, &ty) } else { Type::Dyn })
    }

    /// The type of an element or entry that `?` marks as one to leave out when missing.
    fn optional_part(&mut self, at: u32, ty: Type, optional: bool) -> Type {
        if !optional {
            return ty;
        }
        let ty = self.bound.settle(&ty, false);
        match unwrap(&ty) {
            (inner, true) => inner.clone(),
            (inner, false) => {
                if !inner.is_dyn() {
                    let message = format!("expected type 'optional_type({inner})' but found '{inner}'");
                    self.fault(at, message);
                }
                inner.clone()
            }
        }
    }

    fn list(&mut self, items: &[(Expr, bool)]) -> Type {
        let mut of = None;
        for (item, optional) in items {
            let ty = self.check(item);
            let ty = self.optional_part(item.at, ty, *optional);
            of = self.join(of, ty);
        }
        Type::list(of.unwrap_or_else(|| self.bound.fresh()))
    }

    fn map(&mut self, entries: &[crate::ast::Entry]) -> Type {
        let (mut keys, mut values) = (None, None);
        for entry in entries {
            let key = self.check(&entry.key);
            keys = self.join(keys, key);
            let value = self.check(&entry.value);
            let value = self.optional_part(entry.value.at, value, entry.optional);
            values = self.join(values, value);
        }
        let keys = keys.unwrap_or_else(|| self.bound.fresh());
        Type::map(keys, values.unwrap_or_else(|| self.bound.fresh()))
    }

    fn object(&mut self, at: u32, name: &Arc<str>, fields: &[crate::ast::Field]) -> Type {
        let known = self.env.object(name);
        if known.is_none() {
            self.undeclared(at, name);
        }
        for field in fields {
            let ty = self.check(&field.value);
            let ty = self.optional_part(field.value.at, ty, field.optional);
            let Some((object, dynamic)) = &known else { continue };
            let expected = match object.fields.get(&field.name) {
                Some(field) => field.decl.ty(),
                None if *dynamic => Type::Dyn,
                None => {
                    self.fault(field.at, format!("undefined field '{}'", field.name));
                    continue;
                }
            };
            if !self.bound.agrees(&expected, &ty) {
                let ty = self.bound.settle(&ty, false);
                self.fault(
                    field.at,
                    format!(
                        "expected type of field '{}' is '{expected}' but provided type is '{ty}'",
                        field.name
                    ),
                );
            }
        }
        known.map_or(Type::Error, |(object, _): (Arc<ObjectType>, bool)| Type::Object(object))
    }

    fn fold(&mut self, fold: &Fold) -> Type {
        let range = self.check(&fold.range);
        let range = self.bound.settle(&range, false);
        let accumulator = self.check(&fold.init);
        let (key, value) = match &range {
            Type::List(of) => (Type::Int, (**of).clone()),
            Type::Map(of) => (of.0.clone(), of.1.clone()),
            Type::Free(_) => {
                self.bound.agrees(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            of if of.is_dyn() => (Type::Dyn, Type::Dyn),
            of => {
                let message = format!(
                    "expression of type '{of}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.fault(fold.range.at, message);
                (Type::Error, Type::Error)
            }
        };
        let single = if matches!(range, Type::Map(_)) { key.clone() } else { value.clone() };
        let before = self.locals.len();
        self.locals.push((fold.accumulator.clone(), accumulator.clone()));
        match &fold.second {
            Some(second) => {
                self.locals.push((fold.first.clone(), key));
                self.locals.push((second.clone(), value));
            }
            None => self.locals.push((fold.first.clone(), single)),
        }
        let condition = self.check(&fold.condition);
        self.expect(&fold.condition, &Type::Bool, &condition);
        let step = self.check(&fold.step);
        self.expect(&fold.step, &accumulator, &step);
        self.locals.truncate(before + 1);
        let result = self.check(&fold.result);
        self.locals.truncate(before);
        self.bound.settle(&result, false)
    }

    fn expect(&mut self, expr: &Expr, expected: &Type, ty: &Type) {
        if !self.bound.agrees(expected, ty) {
            let message = format!(
                "expected type '{}' but found '{}'",
                self.bound.settle(expected, false),
                self.bound.settle(ty, false)
            );
            self.fault(expr.at, message);
        }
    }
}

fn unwrap(of: &Type) -> (&Type, bool) {
    match of {
        Type::Optional(of) => (of, true),
        of => (of, false),
    }
}

fn of_literal(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}
