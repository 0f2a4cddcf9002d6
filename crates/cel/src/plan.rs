//! From the checked tree to one that is evaluated: names resolved to places, calls to functions, constant regular
//! expressions compiled.

use std::sync::Arc;

use crate::ast::{Expr, Fold, Kind, Literal, RESULT};
use crate::charge::Charge;
use crate::check::{Checked, Meaning};
use crate::error::Fault;
use crate::library::{self, Native};
use crate::regex::Regex;
use crate::types::Type;

/// A node to evaluate.
#[derive(Debug)]
pub(crate) enum Node {
    Const(Literal),
    /// A type as a value.
    Type(Arc<str>),
    Variable(usize),
    Local(usize),
    Select {
        operand: Box<Node>,
        field: Arc<str>,
        /// Only whether it is there.
        test: bool,
        /// The result is optional.
        optional: bool,
    },
    Index {
        operand: Box<Node>,
        index: Box<Node>,
        optional: bool,
    },
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Choose(Box<(Node, Node, Node)>),
    NotStrictlyFalse(Box<Node>),
    OrValue {
        first: Box<Node>,
        second: Box<Node>,
        /// Whether the result stays optional.
        optional: bool,
    },
    Call(Box<Call>),
    /// `pattern` matched against a text.
    Match {
        text: Box<Node>,
        regex: Box<Regex>,
    },
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    Object(Arc<str>, Vec<(Arc<str>, Node, bool)>),
    Fold(Box<Loop>),
    /// Adds to the list in a local.
    Append(usize, Box<Node>),
    /// Adds entries to the map in a local.
    Insert(usize, Vec<Node>),
}

/// A call of a library's function.
#[derive(Debug)]
pub(crate) struct Call {
    pub name: &'static str,
    pub native: Native,
    pub charge: Charge,
    pub args: Vec<Node>,
}

/// A loop; its locals follow those around it: accumulator, first and perhaps second variable.
#[derive(Debug)]
pub(crate) struct Loop {
    pub range: Node,
    pub two: bool,
    pub init: Node,
    pub condition: Node,
    pub step: Node,
    pub result: Node,
}

/// Plans a checked expression.
pub(crate) fn plan(expr: &Expr, checked: &Checked) -> Result<Node, Vec<Fault>> {
    let mut planner = Planner { checked, locals: Vec::new(), faults: Vec::new() };
    let node = planner.node(expr);
    if planner.faults.is_empty() { Ok(node) } else { Err(planner.faults) }
}

struct Planner<'a> {
    checked: &'a Checked,
    locals: Vec<Arc<str>>,
    faults: Vec<Fault>,
}

impl Planner<'_> {
    fn boxed(&mut self, expr: &Expr) -> Box<Node> {
        Box::new(self.node(expr))
    }

    fn name(&self, id: u32, name: &str) -> Option<Node> {
        match self.checked.meanings.get(&id)? {
            Meaning::Variable(i) => Some(Node::Variable(*i)),
            Meaning::Local => self.locals.iter().rposition(|local| **local == *name).map(Node::Local),
            Meaning::Type(name) => Some(Node::Type(type_value(name))),
            Meaning::Function { .. } => None,
        }
    }

    fn node(&mut self, expr: &Expr) -> Node {
        match &expr.kind {
            Kind::Literal(literal) => Node::Const(literal.clone()),
            Kind::Ident(name) => self.name(expr.id, name).unwrap_or(Node::Const(Literal::Null)),
            Kind::Select { operand, field, test } => match self.name(expr.id, "") {
                Some(node) => node,
                None => {
                    let operand = self.boxed(operand);
                    Node::Select { operand, field: field.clone(), test: *test, optional: false }
                }
            },
            Kind::Call { function, target, args } => self.call(expr, function, target.as_deref(), args),
            Kind::List(items) => Node::List(items.iter().map(|(item, o)| (self.node(item), *o)).collect()),
            Kind::Map(entries) => Node::Map(
                entries.iter().map(|e| (self.node(&e.key), self.node(&e.value), e.optional)).collect(),
            ),
            Kind::Struct { name, fields } => {
                let fields =
                    fields.iter().map(|f| (f.name.clone(), self.node(&f.value), f.optional)).collect();
                Node::Object(name.clone(), fields)
            }
            Kind::Fold(fold) => self.fold(fold),
        }
    }

    fn fold(&mut self, fold: &Fold) -> Node {
        let range = self.node(&fold.range);
        let init = self.node(&fold.init);
        let before = self.locals.len();
        self.locals.push(fold.accumulator.clone());
        self.locals.push(fold.first.clone());
        self.locals.extend(fold.second.clone());
        let condition = self.node(&fold.condition);
        let step = self.node(&fold.step);
        self.locals.truncate(before + 1);
        let result = self.node(&fold.result);
        self.locals.truncate(before);
        Node::Fold(Box::new(Loop { range, two: fold.second.is_some(), init, condition, step, result }))
    }

    fn call(&mut self, expr: &Expr, function: &str, target: Option<&Expr>, args: &[Expr]) -> Node {
        if let Some(node) = self.special(function, args) {
            return node;
        }
        let Some(Meaning::Function { name, overloads, method }) = self.checked.meanings.get(&expr.id) else {
            return Node::Const(Literal::Null);
        };
        let target = target.filter(|_| *method);
        let all: Vec<&Expr> = target.into_iter().chain(args).collect();
        match (*name, &all[..]) {
            ("matches", [text, pattern]) => {
                if let Some(source) = pattern.text() {
                    return match Regex::new(source) {
                        Ok(regex) => Node::Match { text: self.boxed(text), regex: Box::new(regex) },
                        Err(_) => self.fault(pattern.at, "invalid matches argument"),
                    };
                }
            }
            ("find" | "findAll", [_, pattern, ..]) => {
                if let Some(Err(message)) = pattern.text().map(Regex::new) {
                    return self.fault(pattern.at, &message);
                }
            }
            ("duration", [arg]) if arg.text().is_some_and(|t| crate::times::duration(t).is_none()) => {
                return self.fault(arg.at, "invalid duration argument");
            }
            ("timestamp", [arg]) if arg.text().is_some_and(|t| crate::times::timestamp(t).is_none()) => {
                return self.fault(arg.at, "invalid timestamp argument");
            }
            ("or" | "orValue", [first, second]) => {
                let (first, second) = (self.boxed(first), self.boxed(second));
                return Node::OrValue { first, second, optional: *name == "or" };
            }
            _ => {}
        }
        let charge = Charge::of(name, overloads);
        let args = all.iter().map(|arg| self.node(arg)).collect();
        match library::native(name) {
            Some(native) => Node::Call(Box::new(Call { name, native, charge, args })),
            None => self.fault(expr.at, &format!("no such overload: {name}")),
        }
    }

    fn fault(&mut self, at: u32, message: &str) -> Node {
        self.faults.push(Fault { at, message: message.into() });
        Node::Const(Literal::Null)
    }

    /// Operators that do not evaluate all of their operands, or that are no plain functions.
    fn special(&mut self, function: &str, args: &[Expr]) -> Option<Node> {
        Some(match (function, args) {
            ("_&&_", [a, b]) => Node::And(self.boxed(a), self.boxed(b)),
            ("_||_", [a, b]) => Node::Or(self.boxed(a), self.boxed(b)),
            ("_?_:_", [c, a, b]) => Node::Choose(Box::new((self.node(c), self.node(a), self.node(b)))),
            ("@not_strictly_false", [a]) => Node::NotStrictlyFalse(self.boxed(a)),
            ("_[_]", [a, b]) => Node::Index { operand: self.boxed(a), index: self.boxed(b), optional: false },
            ("_[?_]", [a, b]) => Node::Index { operand: self.boxed(a), index: self.boxed(b), optional: true },
            ("_?._", [a, b]) => Node::Select {
                operand: self.boxed(a),
                field: b.text().unwrap_or_default().into(),
                test: false,
                optional: true,
            },
            ("_+_", [so_far, item]) => match (self.result(so_far), &item.kind) {
                (Some(slot), Kind::List(items)) if items.len() == 1 && !items[0].1 => {
                    Node::Append(slot, self.boxed(&items[0].0))
                }
                _ => return None,
            },
            ("cel.@mapInsert", [so_far, rest @ ..]) => {
                let slot = self.result(so_far)?;
                Node::Insert(slot, rest.iter().map(|r| self.node(r)).collect())
            }
            _ => return None,
        })
    }

    /// The local of the accumulator, if this is its name.
    fn result(&self, expr: &Expr) -> Option<usize> {
        match &expr.kind {
            Kind::Ident(name) if **name == *RESULT => self.locals.iter().rposition(|l| **l == *RESULT),
            _ => None,
        }
    }
}

/// The name that `type(x)` gives for a type known by this name.
fn type_value(name: &str) -> Arc<str> {
    match crate::declared::plain(name) {
        Some(Type::Timestamp) => "google.protobuf.Timestamp".into(),
        Some(Type::Duration) => "google.protobuf.Duration".into(),
        _ => name.into(),
    }
}
