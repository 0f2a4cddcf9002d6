//! From the checked tree to one that is evaluated: names resolved to places, calls to functions, constant regular
//! expressions compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ast::{Expr, Fold, Kind, Literal, RESULT};
use crate::charge::Charge;
use crate::check::{Checked, Meaning};
use crate::error::Fault;
use crate::library::{self, Native};
use crate::regex::Regex;
use crate::types::Type;
use crate::value::{Key, List, Map, Text, Value};

/// A node to evaluate. `cost` is what looking at a name or at a part costs; nothing where it is the part of a larger
/// look, which is one step with it.
#[derive(Debug)]
pub(crate) enum Node {
    Const(Value<'static>),
    Variable {
        index: usize,
        cost: u64,
    },
    Local {
        slot: usize,
        cost: u64,
    },
    Select {
        operand: Box<Node>,
        field: Arc<str>,
        /// Only whether it is there.
        test: bool,
        /// The result is optional.
        optional: bool,
        cost: u64,
    },
    Index {
        operand: Box<Node>,
        index: Box<Node>,
        optional: bool,
        cost: u64,
    },
    /// Whether a value is one of some constants.
    Member {
        value: Box<Node>,
        of: BTreeSet<Key>,
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
    Regular(Box<Regular>),
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

/// A call of a function of regular expressions.
#[derive(Debug)]
pub(crate) struct Regular {
    /// `matches`, `find` or `findAll`.
    pub name: &'static str,
    pub text: Node,
    pub pattern: Pattern,
    /// How many matches are wanted at most.
    pub most: Option<Node>,
}

/// A regular expression, compiled if it is constant.
#[derive(Debug)]
pub(crate) enum Pattern {
    Const(Regex),
    Node(Node),
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
            Meaning::Variable(i) => Some(Node::Variable { index: *i, cost: 1 }),
            Meaning::Local => {
                let slot = self.locals.iter().rposition(|local| **local == *name)?;
                Some(Node::Local { slot, cost: 1 })
            }
            Meaning::Type(name) => Some(Node::Const(Value::Type(type_value(name)))),
            Meaning::Function { .. } => None,
        }
    }

    fn node(&mut self, expr: &Expr) -> Node {
        match &expr.kind {
            Kind::Literal(literal) => Node::Const(literal_value(literal)),
            Kind::Ident(name) => self.name(expr.id, name).unwrap_or(Node::Const(Value::Null)),
            Kind::Select { operand, field, test } => match self.name(expr.id, "") {
                Some(node) => node,
                None => self.select(operand, field, *test, false),
            },
            Kind::Call { function, target, args } => self.call(expr, function, target.as_deref(), args),
            Kind::List(items) => constant_list(items.iter().map(|(item, o)| (self.node(item), *o)).collect()),
            Kind::Map(entries) => constant_map(
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
            return Node::Const(Value::Null);
        };
        let target = target.filter(|_| *method);
        let all: Vec<&Expr> = target.into_iter().chain(args).collect();
        match (*name, &all[..]) {
            ("matches" | "find" | "findAll", [text, pattern, rest @ ..]) => {
                let compiled = match pattern.text().map(Regex::new) {
                    Some(Ok(regex)) => Pattern::Const(regex),
                    Some(Err(message)) => return self.fault(pattern.at, &message),
                    None => Pattern::Node(self.node(pattern)),
                };
                let (text, most) = (self.node(text), rest.first().map(|most| self.node(most)));
                return Node::Regular(Box::new(Regular { name, text, pattern: compiled, most }));
            }
            ("or" | "orValue", [first, second]) => {
                let (first, second) = (self.boxed(first), self.boxed(second));
                return Node::OrValue { first, second, optional: *name == "or" };
            }
            _ => {}
        }
        let charge = Charge::of(name, overloads);
        let args: Vec<Node> = all.iter().map(|arg| self.node(arg)).collect();
        let Some(native) = library::native(name) else {
            return self.fault(expr.at, &format!("no such overload: {name}"));
        };
        match (*name, &args[..]) {
            // Conversions of constants are made once.
            (
                "bool" | "bytes" | "double" | "duration" | "dyn" | "int" | "string" | "timestamp" | "type"
                | "uint",
                [Node::Const(value)],
            ) => match native(name, std::slice::from_ref(value)) {
                Ok(value) => Node::Const(value),
                Err(error) => self.fault(expr.at, &error.to_string()),
            },
            ("@in", [_, Node::Const(Value::List(list))]) => {
                match list.iter().map(|v| Key::of(&v)).collect() {
                    Some(of) => {
                        let value = args.into_iter().next().unwrap_or(Node::Const(Value::Null));
                        Node::Member { value: Box::new(value), of }
                    }
                    None => Node::Call(Box::new(Call { name, native, charge, args })),
                }
            }
            _ => Node::Call(Box::new(Call { name, native, charge, args })),
        }
    }

    /// A look at a field.
    fn select(&mut self, operand: &Expr, field: &Arc<str>, test: bool, optional: bool) -> Node {
        let operand = self.boxed(operand);
        let cost = u64::from(!is_look(&operand)) + u64::from(!test);
        Node::Select { operand, field: field.clone(), test, optional, cost }
    }

    fn index(&mut self, operand: &Expr, index: &Expr, optional: bool) -> Node {
        let operand = self.boxed(operand);
        let mut index = self.boxed(index);
        free(&mut index);
        let cost = 1 + u64::from(!is_look(&operand));
        Node::Index { operand, index, optional, cost }
    }

    fn fault(&mut self, at: u32, message: &str) -> Node {
        self.faults.push(Fault { at, message: message.into() });
        Node::Const(Value::Null)
    }

    /// Operators that do not evaluate all of their operands, or that are no plain functions.
    fn special(&mut self, function: &str, args: &[Expr]) -> Option<Node> {
        Some(match (function, args) {
            ("_&&_", [a, b]) => Node::And(self.boxed(a), self.boxed(b)),
            ("_||_", [a, b]) => Node::Or(self.boxed(a), self.boxed(b)),
            ("_?_:_", [c, a, b]) => {
                let (c, mut a, mut b) = (self.node(c), self.node(a), self.node(b));
                free(&mut a);
                free(&mut b);
                Node::Choose(Box::new((c, a, b)))
            }
            ("@not_strictly_false", [a]) => Node::NotStrictlyFalse(self.boxed(a)),
            ("_[_]", [a, b]) => self.index(a, b, false),
            ("_[?_]", [a, b]) => self.index(a, b, true),
            ("_?._", [a, b]) => self.select(a, &b.text().unwrap_or_default().into(), false, true),
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

/// Whether a node looks at data step by step, so that a further step is part of the same look.
fn is_look(node: &Node) -> bool {
    matches!(
        node,
        Node::Variable { .. }
            | Node::Local { .. }
            | Node::Select { test: false, .. }
            | Node::Index { .. }
            | Node::Choose(_)
    )
}

/// Makes a look the part of a larger one: what it starts from costs nothing then.
fn free(node: &mut Node) {
    match node {
        Node::Variable { cost, .. } | Node::Local { cost, .. } => *cost = 0,
        Node::Select { operand, test: false, cost, .. } | Node::Index { operand, cost, .. } => {
            if is_look(operand) {
                free(operand);
            } else {
                *cost = cost.saturating_sub(1);
            }
        }
        _ => {}
    }
}

/// A list, made once if all of it is constant.
fn constant_list(items: Vec<(Node, bool)>) -> Node {
    let constant = |(node, optional): &(Node, bool)| match node {
        Node::Const(value) if !optional => Some(value.clone()),
        _ => None,
    };
    match items.iter().map(constant).collect::<Option<Vec<_>>>() {
        Some(values) => Node::Const(Value::List(List::Own(Arc::new(values)))),
        None => Node::List(items),
    }
}

/// A map, made once if all of it is constant.
fn constant_map(entries: Vec<(Node, Node, bool)>) -> Node {
    let mut map = BTreeMap::new();
    for (key, value, optional) in &entries {
        let (Node::Const(key), Node::Const(value), false) = (key, value, optional) else {
            return Node::Map(entries);
        };
        match Key::of(key) {
            Some(key) if !map.contains_key(&key) => map.insert(key, value.clone()),
            _ => return Node::Map(entries),
        };
    }
    Node::Const(Value::Map(Map::Own(Arc::new(map))))
}

fn literal_value(literal: &Literal) -> Value<'static> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(b) => Value::Bool(*b),
        Literal::Int(i) => Value::Int(*i),
        Literal::Uint(u) => Value::Uint(*u),
        Literal::Double(d) => Value::Double(*d),
        Literal::String(text) => Value::String(Text::Own(text.clone())),
        Literal::Bytes(bytes) => Value::Bytes(bytes.clone()),
    }
}
