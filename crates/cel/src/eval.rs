//! Evaluation: walks the planned tree, charges for every step.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::budget::Budget;
use crate::env::Variable;
use crate::error::EvalError;
use crate::plan::{Call, Loop, Node, Pattern, Regular};
use crate::regex::Regex;
use crate::value::{Key, List, Map, Text, Value};

pub(crate) type Out<'a> = Result<Value<'a>, EvalError>;

/// What evaluating a list costs, and a map, and an object.
const LIST_COST: u64 = 10;
const MAP_COST: u64 = 30;
const OBJECT_COST: u64 = 40;

/// One evaluation.
pub(crate) struct Eval<'b, 'a> {
    pub variables: &'b [Variable],
    pub values: Vec<Option<Value<'a>>>,
    pub locals: Vec<Value<'a>>,
    pub budget: &'b mut Budget,
    /// Regular expressions that were made from values, the latest last.
    pub patterns: Vec<(Arc<str>, Arc<Regex>)>,
}

/// How many regular expressions are kept.
const PATTERNS_MAX: usize = 8;

/// An element of a range: its index or key, and itself.
type Item<'a> = (Value<'a>, Value<'a>);

impl<'b, 'a> Eval<'b, 'a> {
    pub(crate) fn eval(&mut self, node: &'a Node) -> Out<'a> {
        match node {
            Node::Const(value) => Ok(value.clone()),
            Node::Variable { index, cost } => self.variable(*index, *cost),
            Node::Local { slot, cost } => {
                self.budget.charge(*cost)?;
                Ok(self.locals[*slot].clone())
            }
            Node::Select { operand, field, test: true, cost, .. } => {
                let of = self.eval(operand)?;
                self.budget.charge(*cost)?;
                self.has(&of, field).map(Value::Bool)
            }
            Node::Select { operand, field, optional, cost, .. } => {
                let of = self.eval(operand)?;
                let value = self.select(of, field, *optional);
                self.looked(*cost, value)
            }
            Node::Index { operand, index, optional, cost } => {
                let of = self.eval(operand)?;
                let index = self.eval(index)?;
                let value = self.index(of, &index, *optional);
                self.looked(*cost, value)
            }
            Node::Member { value, of } => {
                let value = self.eval(value)?;
                Ok(Value::Bool(Key::of(&value).is_some_and(|key| of.contains(&key))))
            }
            Node::And(a, b) => self.logic(a, b, false),
            Node::Or(a, b) => self.logic(a, b, true),
            Node::Choose(parts) => match self.eval(&parts.0)? {
                Value::Bool(true) => self.eval(&parts.1),
                Value::Bool(false) => self.eval(&parts.2),
                _ => Err(EvalError::no_overload()),
            },
            Node::NotStrictlyFalse(inner) => {
                let value = self.eval(inner);
                self.budget.charge(1)?;
                match value {
                    Err(EvalError::Cost) => Err(EvalError::Cost),
                    value => Ok(Value::Bool(!matches!(value, Ok(Value::Bool(false))))),
                }
            }
            Node::OrValue { first, second, optional } => self.or_value(first, second, *optional),
            Node::Call(call) => self.call(call),
            Node::Regular(call) => self.regular(call),
            Node::List(items) => self.list(items),
            Node::Map(entries) => self.map(entries),
            Node::Object(name, fields) => self.object(name, fields),
            Node::Fold(fold) => self.fold(fold),
            Node::Append(slot, item) => self.append(*slot, item),
            Node::Insert(slot, args) => self.insert(*slot, args),
        }
    }

    #[inline(never)]
    fn variable(&mut self, i: usize, cost: u64) -> Out<'a> {
        self.budget.charge(cost)?;
        self.values[i]
            .clone()
            .ok_or_else(|| EvalError::new(format!("no such attribute(s): {}", self.variables[i].name)))
    }

    /// Charges for a look at a part; finding out that an optional part is missing is free.
    fn looked(&mut self, cost: u64, value: Out<'a>) -> Out<'a> {
        let missing = matches!(value, Ok(Value::Optional(None)));
        self.budget.charge(cost - u64::from(missing))?;
        value
    }

    #[inline(never)]
    fn has(&mut self, of: &Value<'a>, field: &str) -> Result<bool, EvalError> {
        match of {
            Value::Map(map) => Ok(map.field(field, self.budget)?.is_some()),
            Value::Optional(None) => Ok(false),
            Value::Optional(Some(inner)) => self.has(inner, field),
            _ => Err(EvalError::new("no such overload")),
        }
    }

    #[inline(never)]
    fn select(&mut self, of: Value<'a>, field: &str, optional: bool) -> Out<'a> {
        match of {
            Value::Map(map) => match (map.field(field, self.budget)?, optional) {
                (Some(value), false) => Ok(value),
                (Some(value), true) => Ok(Value::some(value)),
                (None, true) => Ok(Value::Optional(None)),
                (None, false) => Err(EvalError::new(format!("no such key: {field}"))),
            },
            Value::Optional(None) => Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => self.select((*inner).clone(), field, true),
            Value::Null if optional => Ok(Value::Optional(None)),
            _ => Err(EvalError::new(format!("no such key: {field}"))),
        }
    }

    #[inline(never)]
    fn index(&mut self, of: Value<'a>, index: &Value<'a>, optional: bool) -> Out<'a> {
        let found = match &of {
            Value::List(list) => list.get(match index_of(index, list.len(), optional)? {
                Some(i) => i,
                None => return Ok(Value::Optional(None)),
            }),
            Value::Map(map) => {
                if Key::of(index).is_none() {
                    return Err(EvalError::no_overload());
                }
                map.get(index, self.budget)?
            }
            Value::Optional(None) => return Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => return self.index((**inner).clone(), index, true),
            _ => return Err(EvalError::no_overload()),
        };
        match (found, optional) {
            (Some(value), false) => Ok(value),
            (Some(value), true) => Ok(Value::some(value)),
            (None, true) => Ok(Value::Optional(None)),
            (None, false) => Err(EvalError::new(format!("no such key: {}", crate::text::shown(index)))),
        }
    }

    /// `a && b` or `a || b`: the operand that decides wins over an error of the other.
    fn logic(&mut self, a: &'a Node, b: &'a Node, decides: bool) -> Out<'a> {
        let first = match self.eval(a) {
            Ok(Value::Bool(value)) if value == decides => return Ok(Value::Bool(decides)),
            Err(EvalError::Cost) => return Err(EvalError::Cost),
            first => first,
        };
        match (first, self.eval(b)) {
            (_, Err(EvalError::Cost)) => Err(EvalError::Cost),
            (_, Ok(Value::Bool(value))) if value == decides => Ok(Value::Bool(decides)),
            (Err(error), _) | (Ok(Value::Bool(_)), Err(error)) => Err(error),
            (Ok(Value::Bool(_)), Ok(Value::Bool(value))) => Ok(Value::Bool(value)),
            _ => Err(EvalError::no_overload()),
        }
    }

    #[inline(never)]
    fn or_value(&mut self, first: &'a Node, second: &'a Node, optional: bool) -> Out<'a> {
        match self.eval(first)? {
            Value::Optional(Some(value)) if optional => Ok(Value::Optional(Some(value))),
            Value::Optional(Some(value)) => Ok((*value).clone()),
            Value::Optional(None) => self.eval(second),
            // What is no optional value is there.
            value if !optional => Ok(value),
            _ => Err(EvalError::no_overload()),
        }
    }

    #[inline(never)]
    fn call(&mut self, call: &'a Call) -> Out<'a> {
        let mut args = Vec::with_capacity(call.args.len());
        let mut failed = None;
        for arg in &call.args {
            match self.eval(arg) {
                Ok(value) => args.push(value),
                Err(EvalError::Cost) => return Err(EvalError::Cost),
                // The other arguments are evaluated, and charged, all the same.
                Err(error) => {
                    failed = failed.or(Some(error));
                    args.push(Value::Null);
                }
            }
        }
        if let Some(error) = failed {
            self.budget.charge(1)?;
            return Err(error);
        }
        // What is known before the work is done is charged before it.
        self.budget.charge(call.charge.before(call.name, &args))?;
        let value = (call.native)(call.name, &args);
        let result = value.as_ref().unwrap_or(&Value::Null);
        self.budget.charge(call.charge.after(call.name, &args, result))?;
        match value {
            // Operators do not say what they were given.
            Err(error) if error == EvalError::no_overload() && call.name.starts_with(char::is_alphabetic) => {
                let types: Vec<&str> = args.iter().map(Value::type_name).collect();
                Err(EvalError::new(format!("{error}: {}({})", call.name, types.join(", "))))
            }
            value => value,
        }
    }

    /// A regular expression from a value; compiling it is slow, and loops use the same ones again.
    fn pattern(&mut self, source: &str) -> Result<Arc<Regex>, EvalError> {
        if let Some((_, regex)) = self.patterns.iter().find(|(known, _)| **known == *source) {
            return Ok(regex.clone());
        }
        let regex = Arc::new(Regex::new(source).map_err(EvalError::new)?);
        if self.patterns.len() >= PATTERNS_MAX {
            self.patterns.remove(0);
        }
        self.patterns.push((source.into(), regex.clone()));
        Ok(regex)
    }

    #[inline(never)]
    fn regular(&mut self, call: &'a Regular) -> Out<'a> {
        let Value::String(text) = self.eval(&call.text)? else { return Err(EvalError::no_overload()) };
        let size = crate::charge::chars(&text);
        match &call.pattern {
            Pattern::Const(regex) => {
                let most = self.most(call)?;
                self.budget.charge(crate::charge::matching(size, regex.length))?;
                Ok(crate::library::regular(call.name, regex, &text, most))
            }
            Pattern::Node(node) => {
                let Value::String(source) = self.eval(node)? else { return Err(EvalError::no_overload()) };
                let most = self.most(call)?;
                self.budget.charge(crate::charge::matching(size, crate::charge::chars(&source)))?;
                let regex = self.pattern(&source)?;
                Ok(crate::library::regular(call.name, &regex, &text, most))
            }
        }
    }

    fn most(&mut self, call: &'a Regular) -> Result<usize, EvalError> {
        match call.most.as_ref().map(|node| self.eval(node)).transpose()? {
            None => Ok(usize::MAX),
            Some(Value::Int(most)) => Ok(usize::try_from(most).unwrap_or(usize::MAX)),
            Some(_) => Err(EvalError::no_overload()),
        }
    }

    #[inline(never)]
    fn list(&mut self, items: &'a [(Node, bool)]) -> Out<'a> {
        let mut list = Vec::with_capacity(items.len());
        for (item, optional) in items {
            match (self.eval(item)?, optional) {
                (Value::Optional(None), true) => {}
                (Value::Optional(Some(value)), true) => list.push((*value).clone()),
                (other, true) => {
                    let shown = crate::text::shown(&other);
                    let message =
                        format!("cannot initialize optional list element from non-optional value {shown}");
                    return Err(EvalError::new(message));
                }
                (value, false) => list.push(value),
            }
        }
        self.budget.charge(LIST_COST)?;
        Ok(Value::list(list))
    }

    /// The value of an entry, `None` if it is optional and missing.
    fn part(&mut self, name: &str, node: &'a Node, optional: bool) -> Result<Option<Value<'a>>, EvalError> {
        match (self.eval(node)?, optional) {
            (Value::Optional(None), true) => Ok(None),
            (Value::Optional(Some(value)), true) => Ok(Some((*value).clone())),
            (other, true) => Err(EvalError::new(format!(
                "cannot initialize optional entry '{name}' from non-optional value {}",
                crate::text::shown(&other)
            ))),
            (value, false) => Ok(Some(value)),
        }
    }

    #[inline(never)]
    fn map(&mut self, entries: &'a [(Node, Node, bool)]) -> Out<'a> {
        let mut map = BTreeMap::new();
        for (key, value, optional) in entries {
            let key = self.eval(key)?;
            let name = crate::text::shown(&key);
            let value = self.part(&name, value, *optional)?;
            let key = Key::of(&key).ok_or_else(|| EvalError::new("unsupported key type"))?;
            if let Some(value) = value {
                if map.contains_key(&key) {
                    return Err(EvalError::new(format!("Failed with repeated key {name}")));
                }
                map.insert(key, value);
            }
        }
        self.budget.charge(MAP_COST)?;
        Ok(Value::Map(Map::Own(Arc::new(map))))
    }

    #[inline(never)]
    fn object(&mut self, name: &Arc<str>, fields: &'a [(Arc<str>, Node, bool)]) -> Out<'a> {
        let mut map = BTreeMap::new();
        for (field, value, optional) in fields {
            if let Some(value) = self.part(field, value, *optional)? {
                map.insert(Key::String(field.clone()), value);
            }
        }
        self.budget.charge(OBJECT_COST)?;
        Ok(Value::Map(Map::Object(name.clone(), Arc::new(map))))
    }

    #[inline(never)]
    fn fold(&mut self, fold: &'a Loop) -> Out<'a> {
        let range = self.eval(&fold.range)?;
        let base = self.locals.len();
        let init = self.eval(&fold.init)?;
        self.locals.push(init);
        let outcome = self.rounds(fold, base, range);
        self.locals.truncate(base + 1);
        let result = match outcome {
            Ok(()) => self.eval(&fold.result),
            Err(error) => Err(error),
        };
        self.locals.truncate(base);
        result
    }

    /// Goes round until the condition fails. A step that fails leaves its error for later steps to outvote.
    fn rounds(&mut self, fold: &'a Loop, base: usize, range: Value<'a>) -> Result<(), EvalError> {
        let mut failed: Option<EvalError> = None;
        let two = fold.two;
        let items = items(range, two)?;
        for (key, value) in items {
            if two {
                self.locals.push(key);
            }
            self.locals.push(value);
            match self.eval(&fold.condition) {
                Ok(Value::Bool(true)) => {}
                Err(EvalError::Cost) => return Err(EvalError::Cost),
                _ => {
                    self.locals.truncate(base + 1);
                    break;
                }
            }
            let before = failed.is_some().then(|| self.locals[base].clone());
            let stepped = self.eval(&fold.step);
            self.locals.truncate(base + 1);
            match stepped {
                Err(EvalError::Cost) => return Err(EvalError::Cost),
                Ok(value) => {
                    // After an error only a value that decides counts: `true` of exists, `false` of all.
                    let decides = before.as_ref().is_none_or(|b| !crate::value::equal(b, &value));
                    self.locals[base] = value;
                    if decides {
                        failed = None;
                    }
                }
                Err(error) if is_vote(fold) => failed = failed.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    #[inline(never)]
    fn append(&mut self, slot: usize, item: &'a Node) -> Out<'a> {
        let item = self.eval(item)?;
        self.budget.charge(2 + LIST_COST)?;
        match std::mem::replace(&mut self.locals[slot], Value::Null) {
            Value::List(List::Own(mut list)) => {
                Arc::make_mut(&mut list).push(item);
                Ok(Value::List(List::Own(list)))
            }
            _ => Err(EvalError::no_overload()),
        }
    }

    #[inline(never)]
    fn insert(&mut self, slot: usize, args: &'a [Node]) -> Out<'a> {
        let mut values = Vec::with_capacity(args.len());
        for arg in args {
            values.push(self.eval(arg)?);
        }
        self.budget.charge(2)?;
        let Value::Map(Map::Own(mut map)) = std::mem::replace(&mut self.locals[slot], Value::Null) else {
            return Err(EvalError::no_overload());
        };
        let entries = match &mut values[..] {
            [Value::Map(entries)] => entries.entries(),
            [key, value] => {
                let key = Key::of(key).ok_or_else(|| EvalError::new("unsupported key type"))?;
                vec![(key, std::mem::replace(value, Value::Null))]
            }
            _ => return Err(EvalError::no_overload()),
        };
        let target = Arc::make_mut(&mut map);
        for (key, value) in entries {
            if target.contains_key(&key) {
                let key = crate::text::shown(&key.value());
                return Err(EvalError::new(format!("insert failed: key {key} already exists")));
            }
            target.insert(key, value);
        }
        Ok(Value::Map(Map::Own(map)))
    }
}

/// Whether a loop's steps are votes, as those of `all` and `exists`, so that errors may be outvoted.
fn is_vote(fold: &Loop) -> bool {
    matches!(fold.step, Node::And(..) | Node::Or(..))
}

fn items<'a>(range: Value<'a>, two: bool) -> Result<Box<dyn Iterator<Item = Item<'a>> + 'a>, EvalError> {
    Ok(match range {
        Value::List(list) => {
            let mut i = 0;
            Box::new(std::iter::from_fn(move || {
                let value = list.get(i)?;
                i += 1;
                Some((Value::Int(i as i64 - 1), value))
            }))
        }
        Value::Map(Map::Json(map, decl)) => {
            let own = Map::Json(map, decl);
            if matches!(decl.map(|d| &d.kind), Some(crate::types::DeclKind::Object(_))) {
                return Ok(entries(&own, two));
            }
            let of = match decl.map(|d| &d.kind) {
                Some(crate::types::DeclKind::Map(of)) => Some(&**of),
                _ => None,
            };
            Box::new(map.iter().map(move |(key, json)| {
                let key = Value::String(Text::Ref(key));
                let value = if two { Value::json(json, of) } else { key.clone() };
                (key, value)
            }))
        }
        Value::Map(map) => entries(&map, two),
        _ => return Err(EvalError::new("unsupported comprehension range type")),
    })
}

fn entries<'a>(map: &Map<'a>, two: bool) -> Box<dyn Iterator<Item = Item<'a>> + 'a> {
    Box::new(map.entries().into_iter().map(move |(key, value)| {
        let key = key.value();
        let value = if two { value } else { key.clone() };
        (key, value)
    }))
}

fn index_of(index: &Value<'_>, size: usize, optional: bool) -> Result<Option<usize>, EvalError> {
    let i = match index {
        Value::Int(i) => *i,
        Value::Uint(u) => i64::try_from(*u).unwrap_or(i64::MAX),
        Value::Double(d) if d.fract() == 0.0 => *d as i64,
        Value::Double(d) => return Err(EvalError::new(format!("unsupported index value {d} in list"))),
        other => {
            let message = format!("unsupported index type '{}' in list", other.type_name());
            return Err(EvalError::new(message));
        }
    };
    match usize::try_from(i).ok().filter(|i| *i < size) {
        Some(i) => Ok(Some(i)),
        None if optional => Ok(None),
        None => Err(EvalError::new(format!("index out of bounds: {i}"))),
    }
}
