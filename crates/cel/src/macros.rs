//! Macros: `has`, the loops over lists and maps, and those of optional values.

use std::sync::Arc;

use crate::ast::{Expr, Fold, Kind, Literal, RESULT};
use crate::error::Fault;
use crate::parse::Maker;

/// What became of a method call: expanded, or what it was made of.
pub(crate) enum Expanded {
    Yes(Expr),
    No(Expr, Vec<Expr>),
}

/// Expands `has(a.b)`; anything else comes back as its arguments.
pub(crate) fn function(
    maker: &mut Maker,
    at: u32,
    name: &str,
    mut args: Vec<Expr>,
) -> Result<Result<Expr, Vec<Expr>>, Fault> {
    if name != "has" || args.len() != 1 {
        return Ok(Err(args));
    }
    let arg = args.remove(0);
    match arg.kind {
        Kind::Select { operand, field, test: false } => {
            Ok(Ok(maker.make(at, Kind::Select { operand, field, test: true })))
        }
        _ => Err(Fault { at: arg.at, message: "invalid argument to has() macro".into() }),
    }
}

/// Expands the macros that look like methods.
pub(crate) fn method(
    maker: &mut Maker,
    at: u32,
    target: Expr,
    name: &str,
    args: Vec<Expr>,
) -> Result<Expanded, Fault> {
    let two = match (name, args.len()) {
        ("all" | "exists" | "exists_one" | "existsOne" | "filter" | "optMap" | "optFlatMap", 2) => false,
        ("map", 2 | 3) => false,
        ("bind", 3) if maker.bindings && matches!(&target.kind, Kind::Ident(name) if **name == *"cel") => {
            let mut args = args.into_iter();
            let name = variable(args.next())?;
            let (Some(value), Some(expr)) = (args.next(), args.next()) else {
                return Ok(Expanded::No(target, Vec::new()));
            };
            return Ok(Expanded::Yes(bind(maker, at, &name, value, expr)));
        }
        ("sortBy", 2) => return sort_by(maker, at, target, args).map(Expanded::Yes),
        ("all" | "exists" | "existsOne" | "exists_one", 3) => true,
        ("transformList" | "transformMap", 3 | 4) => true,
        ("transformMapEntry", 3 | 4) => true,
        _ => return Ok(Expanded::No(target, args)),
    };
    let mut args = args.into_iter();
    let first = variable(args.next())?;
    let second = if two { Some(variable(args.next())?) } else { None };
    if second.as_ref() == Some(&first) {
        return Err(Fault { at, message: format!("duplicate variable name: {first}") });
    }
    let (Some(one), other) = (args.next(), args.next()) else { return Ok(Expanded::No(target, Vec::new())) };
    let m = &mut Making { maker, at, first, second };
    Ok(Expanded::Yes(match name {
        "all" => m.all(target, one),
        "exists" => m.exists(target, one),
        "exists_one" | "existsOne" => m.exists_one(target, one),
        "filter" => {
            let item = m.maker.name(at, &m.first.clone());
            m.gather(target, Some(one), item)
        }
        "map" | "transformList" => match other {
            Some(item) => m.gather(target, Some(one), item),
            None => m.gather(target, None, one),
        },
        "transformMap" | "transformMapEntry" => {
            let entry = name == "transformMapEntry";
            match other {
                Some(value) => m.insert(target, Some(one), value, entry),
                None => m.insert(target, None, one, entry),
            }
        }
        "optMap" => m.optional(target, one, true)?,
        _ => m.optional(target, one, false)?,
    }))
}

fn variable(arg: Option<Expr>) -> Result<Arc<str>, Fault> {
    match arg {
        Some(Expr { kind: Kind::Ident(name), .. }) => Ok(name),
        Some(other) => Err(Fault { at: other.at, message: "argument must be a simple name".into() }),
        None => Err(Fault { at: 0, message: "argument must be a simple name".into() }),
    }
}

/// What a loop is being made of.
struct Making<'a> {
    maker: &'a mut Maker,
    at: u32,
    first: Arc<str>,
    second: Option<Arc<str>>,
}

impl Making<'_> {
    fn result(&mut self) -> Expr {
        self.maker.name(self.at, RESULT)
    }

    fn literal(&mut self, literal: Literal) -> Expr {
        self.maker.literal(self.at, literal)
    }

    fn call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        self.maker.call(self.at, function, args)
    }

    fn fold(&mut self, range: Expr, init: Expr, condition: Expr, step: Expr, result: Expr) -> Expr {
        let fold = Fold {
            range,
            first: self.first.clone(),
            second: self.second.clone(),
            accumulator: RESULT.into(),
            init,
            condition,
            step,
            result,
        };
        self.maker.make(self.at, Kind::Fold(Box::new(fold)))
    }

    fn all(&mut self, range: Expr, predicate: Expr) -> Expr {
        let init = self.literal(Literal::Bool(true));
        let (so_far, before, result) = (self.result(), self.result(), self.result());
        let condition = self.call("@not_strictly_false", vec![so_far]);
        let step = self.call("_&&_", vec![before, predicate]);
        self.fold(range, init, condition, step, result)
    }

    fn exists(&mut self, range: Expr, predicate: Expr) -> Expr {
        let init = self.literal(Literal::Bool(false));
        let (so_far, before, result) = (self.result(), self.result(), self.result());
        let not = self.call("!_", vec![so_far]);
        let condition = self.call("@not_strictly_false", vec![not]);
        let step = self.call("_||_", vec![before, predicate]);
        self.fold(range, init, condition, step, result)
    }

    fn exists_one(&mut self, range: Expr, predicate: Expr) -> Expr {
        let init = self.literal(Literal::Int(0));
        let condition = self.literal(Literal::Bool(true));
        let (more, same, last) = (self.result(), self.result(), self.result());
        let one = self.literal(Literal::Int(1));
        let more = self.call("_+_", vec![more, one]);
        let step = self.call("_?_:_", vec![predicate, more, same]);
        let one = self.literal(Literal::Int(1));
        let result = self.call("_==_", vec![last, one]);
        self.fold(range, init, condition, step, result)
    }

    fn gather(&mut self, range: Expr, filter: Option<Expr>, item: Expr) -> Expr {
        let init = self.maker.make(self.at, Kind::List(Vec::new()));
        let so_far = self.result();
        let item = self.maker.make(self.at, Kind::List(vec![(item, false)]));
        let step = self.call("_+_", vec![so_far, item]);
        self.gathered(range, init, filter, step)
    }

    fn insert(&mut self, range: Expr, filter: Option<Expr>, value: Expr, entry: bool) -> Expr {
        let init = self.maker.make(self.at, Kind::Map(Vec::new()));
        let mut args = vec![self.result()];
        if !entry {
            let key = self.first.clone();
            args.push(self.maker.name(self.at, &key));
        }
        args.push(value);
        let step = self.call("cel.@mapInsert", args);
        self.gathered(range, init, filter, step)
    }

    fn gathered(&mut self, range: Expr, init: Expr, filter: Option<Expr>, step: Expr) -> Expr {
        let condition = self.literal(Literal::Bool(true));
        let step = match filter {
            Some(filter) => {
                let same = self.result();
                self.call("_?_:_", vec![filter, step, same])
            }
            None => step,
        };
        let result = self.result();
        self.fold(range, init, condition, step, result)
    }

    fn optional(&mut self, target: Expr, expr: Expr, wrap: bool) -> Result<Expr, Fault> {
        if !matches!(target.kind, Kind::Ident(_) | Kind::Select { .. } | Kind::Call { .. }) {
            let message = "optMap() and optFlatMap() take a name, a field or a call as their target".into();
            return Err(Fault { at: target.at, message });
        }
        let again = self.maker.copy(&target);
        let has = self.maker.method(self.at, target, "hasValue", Vec::new());
        let value = self.maker.method(self.at, again, "value", Vec::new());
        let bound = bind(self.maker, self.at, &self.first.clone(), value, expr);
        let some = if wrap { self.call("optional.of", vec![bound]) } else { bound };
        let none = self.call("optional.none", Vec::new());
        Ok(self.call("_?_:_", vec![has, some, none]))
    }
}

/// `expr` with a name for a value.
fn bind(maker: &mut Maker, at: u32, name: &str, value: Expr, expr: Expr) -> Expr {
    let range = maker.make(at, Kind::List(Vec::new()));
    let condition = maker.literal(at, Literal::Bool(false));
    let step = maker.name(at, name);
    let fold = Fold {
        range,
        first: "#unused".into(),
        second: None,
        accumulator: name.into(),
        init: value,
        condition,
        step,
        result: expr,
    };
    maker.make(at, Kind::Fold(Box::new(fold)))
}

/// `list.sortBy(x, key)`: the list put in the order of its elements' keys.
fn sort_by(maker: &mut Maker, at: u32, target: Expr, mut args: Vec<Expr>) -> Result<Expr, Fault> {
    let Some(key) = args.pop() else { return Ok(target) };
    let first = variable(args.pop())?;
    if !matches!(
        target.kind,
        Kind::List(_) | Kind::Ident(_) | Kind::Select { .. } | Kind::Call { .. } | Kind::Fold(_)
    ) {
        let message =
            "sortBy can only be applied to a list, identifier, comprehension, call or select expression";
        return Err(Fault { at: target.at, message: message.into() });
    }
    let name = "@__sortBy_input__";
    let range = maker.name(at, name);
    let keys = Making { maker, at, first, second: None }.gather(range, None, key);
    let input = maker.name(at, name);
    let sorted = maker.method(at, input, "@sortByAssociatedKeys", vec![keys]);
    Ok(bind(maker, at, name, target, sorted))
}
