//! A compiled expression.

use crate::alike;
use crate::budget::Budget;
use crate::check::{self, Meaning};
use crate::cost::{self, CostEstimate};
use crate::env::{Env, Variable};
use crate::error::{CompileErrors, EvalError};
use crate::eval::Eval;
use crate::parse;
use crate::plan::{self, Node};
use crate::types::Type;
use crate::value::Value;

/// An expression that was checked and may be evaluated any number of times.
#[derive(Debug)]
pub struct Program {
    source: String,
    pub(crate) node: Node,
    pub(crate) variables: Vec<Variable>,
    used: Vec<bool>,
    output: Type,
    cost: CostEstimate,
}

/// Values of variables for one evaluation.
#[derive(Clone, Debug, Default)]
pub struct Bindings<'a> {
    values: Vec<(&'a str, Binding<'a>)>,
}

#[derive(Clone, Debug)]
enum Binding<'a> {
    Json(&'a serde_json::Value),
    Optional(Option<&'a serde_json::Value>),
    Value(Value<'a>),
}

impl<'a> Bindings<'a> {
    /// No values.
    pub fn new() -> Bindings<'a> {
        Bindings::default()
    }

    /// JSON for a variable, seen as its declaration says.
    pub fn json(mut self, name: &'a str, json: &'a serde_json::Value) -> Bindings<'a> {
        self.values.push((name, Binding::Json(json)));
        self
    }

    /// JSON or nothing for a variable declared as optional.
    pub fn optional(mut self, name: &'a str, json: Option<&'a serde_json::Value>) -> Bindings<'a> {
        self.values.push((name, Binding::Optional(json)));
        self
    }

    /// A value for a variable.
    pub fn value(mut self, name: &'a str, value: Value<'a>) -> Bindings<'a> {
        self.values.push((name, Binding::Value(value)));
        self
    }
}

impl Program {
    pub(crate) fn compile(env: &Env, source: &str) -> Result<Program, CompileErrors> {
        let expr = parse::parse(source, env.bindings)?;
        let errors = |faults| CompileErrors { text: source.to_owned(), faults };
        let checked = check::check(env, &expr).map_err(errors)?;
        let faults = alike::faults(&expr, &checked);
        if !faults.is_empty() {
            return Err(errors(faults));
        }
        let node = plan::plan(&expr, &checked).map_err(errors)?;
        let cost = cost::estimate(env, &expr, &checked);
        let mut used = vec![false; env.variables.len()];
        for meaning in checked.meanings.values() {
            if let Meaning::Variable(i) = meaning {
                used[*i] = true;
            }
        }
        let output = checked.ty(&expr).clone();
        Ok(Program { source: source.to_owned(), node, variables: env.variables.clone(), used, output, cost })
    }

    /// The text it was compiled from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The type of its results.
    pub fn output(&self) -> &Type {
        &self.output
    }

    /// Least and most it may cost, by the sizes that declarations allow.
    pub fn cost_estimate(&self) -> CostEstimate {
        self.cost
    }

    /// Whether the expression mentions a variable.
    pub fn uses(&self, variable: &str) -> bool {
        self.variables.iter().zip(&self.used).any(|(v, used)| *used && *v.name == *variable)
    }

    /// The result with these values, within a budget. Results may borrow from the bindings and from the program.
    pub fn eval<'a>(&'a self, bindings: &Bindings<'a>, budget: &mut Budget) -> Result<Value<'a>, EvalError> {
        let values = self
            .variables
            .iter()
            .map(|variable| {
                let (_, binding) = bindings.values.iter().rev().find(|(name, _)| **name == *variable.name)?;
                Some(match binding {
                    Binding::Json(json) if variable.optional => {
                        Value::some(Value::json(json, Some(&*variable.decl)))
                    }
                    Binding::Json(json) => Value::json(json, Some(&*variable.decl)),
                    Binding::Optional(Some(json)) => Value::some(Value::json(json, Some(&*variable.decl))),
                    Binding::Optional(None) => Value::Optional(None),
                    Binding::Value(value) => value.clone(),
                })
            })
            .collect();
        let mut eval =
            Eval { variables: &self.variables, values, locals: Vec::new(), budget, patterns: Vec::new() };
        eval.eval(&self.node)
    }
}
