//! Evaluation of rules along an object: what they refuse, within the budget of one request.

use cel::{Bindings, Budget, CALL_COST_MAX, EvalError, REQUEST_COST_MAX};
use serde_json::Value;

use super::{Rule, RuleTree};
use crate::error::{FieldError, Path, Reason};

/// Most bytes of a message that an expression makes.
const MESSAGE_BYTES_MAX: usize = 5 * 1024;
const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// What was before, as far as parts of old and new can be matched: those that did not change are not refused.
#[derive(Clone, Copy, Default)]
struct Before<'a> {
    /// The value before.
    current: Option<(&'a Value, &'a Value)>,
    /// The nearest value above that could be matched.
    above: Option<(&'a Value, &'a Value)>,
}

impl<'a> Before<'a> {
    fn unchanged(self) -> bool {
        self.current.or(self.above).is_some_and(|(new, old)| new == old)
    }

    fn part(self, new: &'a Value, old: Option<&'a Value>) -> Before<'a> {
        match self.current {
            None => self,
            Some(_) => Before { current: old.map(|old| (new, old)), above: self.current },
        }
    }

    fn field(self, name: &str, new: &'a Value) -> Before<'a> {
        let Some((_, old)) = self.current else { return self };
        if self.above.is_none() && matches!(name, "apiVersion" | "kind") {
            // Old and new were both made to be of the same version.
            return Before::default();
        }
        self.part(new, old.get(name))
    }
}

/// The rest of the budget is spent: nothing more is evaluated.
struct Stop;

struct Evaluation {
    left: u64,
    out: Vec<FieldError>,
    warnings: Vec<String>,
}

impl RuleTree {
    /// What the rules refuse, and what they would refuse had it not been so before: as warnings.
    pub fn evaluate(&self, object: &Value, old: Option<&Value>) -> (Vec<FieldError>, Vec<String>) {
        let mut evaluation = Evaluation { left: REQUEST_COST_MAX, out: Vec::new(), warnings: Vec::new() };
        let before = Before { current: old.map(|old| (object, old)), above: None };
        // Whether it ran to its end is in the errors.
        let _ = evaluation.visit(self, object, old, before, &Path::Root);
        (evaluation.out, evaluation.warnings)
    }
}

impl Evaluation {
    fn visit<'a>(
        &mut self,
        tree: &RuleTree,
        value: &'a Value,
        old: Option<&'a Value>,
        before: Before<'a>,
        path: &Path<'_>,
    ) -> Result<(), Stop> {
        if value.is_null() {
            return Ok(());
        }
        let old = old.filter(|old| !old.is_null());
        for rule in &tree.rules {
            self.rule(tree, rule, value, old, before, path)?;
        }
        for inner in &tree.all_of {
            self.visit(inner, value, old, Before { current: None, above: before.above }, path)?;
        }
        match value {
            Value::Array(items) => {
                let Some(inner) = &tree.items else { return Ok(()) };
                let old = old.and_then(Value::as_array);
                for (i, item) in items.iter().enumerate() {
                    let was = old.and_then(|old| old.iter().find(|o| same_item(tree, item, o)));
                    self.visit(inner, item, was, before.part(item, was), &path.index(i))?;
                }
            }
            Value::Object(fields) => {
                let was = |name: &str| old.and_then(|old| old.get(name));
                for (name, field) in fields {
                    let before = before.field(name, field);
                    if let Some(inner) = &tree.additional {
                        self.visit(inner, field, was(name), before, &path.key(name))?;
                    }
                    if let Some(inner) = tree.properties.get(name) {
                        self.visit(inner, field, was(name), before, &path.child(name))?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn rule<'a>(
        &mut self,
        tree: &RuleTree,
        rule: &Rule,
        value: &'a Value,
        old: Option<&'a Value>,
        before: Before<'a>,
        path: &Path<'_>,
    ) -> Result<(), Stop> {
        let shown =
            |path: &Path<'_>| if matches!(path, Path::Root) { "<nil>".into() } else { path.to_string() };
        let at = shown(path);
        let invalid = |why: String| FieldError::invalid(&at, tree.ty.as_str(), why);
        if self.left == 0 {
            self.out.push(invalid(OUT_OF_BUDGET.into()));
            return Err(Stop);
        }
        let program = match &rule.program {
            Ok(program) => program,
            Err(why) => {
                self.out.push(invalid(format!("rule compile error: {why}")));
                return Ok(());
            }
        };
        let uses_old = program.uses("oldSelf");
        if uses_old && old.is_none() && !rule.optional_old {
            return Ok(());
        }
        let bindings = Bindings::new().json("self", value);
        let bindings = match (rule.optional_old, old) {
            (true, old) => bindings.optional("oldSelf", old),
            (false, Some(old)) => bindings.json("oldSelf", old),
            (false, None) => bindings,
        };
        let name = if rule.message.is_empty() { &rule.source } else { &rule.message };
        let why = match self.run(program, &bindings) {
            Ok(answer) if answer.as_bool() == Some(true) => return Ok(()),
            Ok(_) => None,
            Err(Spent::All) => {
                self.out.push(invalid(OUT_OF_BUDGET.into()));
                return Err(Stop);
            }
            Err(Spent::Call(EvalError::Cost)) => {
                self.out.push(invalid(format!(
                    "'{}': no further validation rules will be run due to call cost exceeds limit for rule: {name}",
                    EvalError::Cost
                )));
                return Err(Stop);
            }
            Err(Spent::Call(error)) => Some(error.to_string()),
        };
        if let Some(why) = why {
            self.out.push(invalid(match why.starts_with("no such overload") {
                true => format!(
                    "'{why}': call arguments did not match a supported operator, function or macro signature for rule: \
                     {name}"
                ),
                false => format!("{why} evaluating rule: {name}"),
            }));
            return Ok(());
        }
        let place = match (&rule.field, path) {
            (Some(field), Path::Root) => field.clone(),
            (Some(field), path) => format!("{path}.{field}"),
            (None, _) => at.clone(),
        };
        let kept = !uses_old && before.unchanged();
        let detail = match self.words(rule, &bindings) {
            Ok(words) => words,
            Err(why) => {
                self.refuse(FieldError::invalid(place, tree.ty.as_str(), why), kept);
                return Err(Stop);
            }
        };
        let detail = detail.unwrap_or_else(|| match rule.message.as_str() {
            "" => format!("failed rule: {}", rule.source),
            message => message.to_string(),
        });
        self.refuse(refusal(rule, tree, place, value, detail), kept);
        Ok(())
    }

    fn refuse(&mut self, error: FieldError, kept: bool) {
        match kept {
            true => self.warnings.push(error.to_string()),
            false => self.out.push(error),
        }
    }

    fn run<'a>(
        &mut self,
        program: &'a cel::Program,
        bindings: &Bindings<'a>,
    ) -> Result<cel::Value<'a>, Spent> {
        let mut budget = Budget::new(CALL_COST_MAX);
        let answer = program.eval(bindings, &mut budget);
        match self.left.checked_sub(budget.spent()) {
            Some(left) => self.left = left,
            None => return Err(Spent::All),
        }
        answer.map_err(Spent::Call)
    }

    /// The message that the rule's expression makes, `None` if there is no fit one; an error if it cost too much.
    fn words<'a>(&mut self, rule: &'a Rule, bindings: &Bindings<'a>) -> Result<Option<String>, String> {
        let Some(Ok(program)) = &rule.words else { return Ok(None) };
        match self.run(program, bindings) {
            Ok(value) => {
                let text = value.as_str().map(str::trim).unwrap_or_default();
                let fit = !text.is_empty() && text.len() <= MESSAGE_BYTES_MAX && !text.contains('\n');
                Ok(fit.then(|| text.to_string()))
            }
            Err(Spent::All) => {
                let why = "messageExpression evaluation failed due to running out of cost budget, no further validation \
                           rules will be run";
                Err(why.into())
            }
            Err(Spent::Call(EvalError::Cost)) => Err(format!(
                "no further validation rules will be run due to call cost exceeds limit for messageExpression: {:?}",
                program.source()
            )),
            Err(Spent::Call(_)) => Ok(None),
        }
    }
}

/// Why an evaluation has no result.
enum Spent {
    /// Nothing is left of the request's budget.
    All,
    Call(EvalError),
}

fn refusal(rule: &Rule, tree: &RuleTree, place: String, value: &Value, detail: String) -> FieldError {
    let shown = Some(value).filter(|_| !matches!(tree.ty.as_str(), "object" | "array")).cloned();
    match rule.reason.as_deref() {
        Some("FieldValueForbidden") => FieldError::forbidden(place, detail),
        Some("FieldValueRequired") => FieldError::required(place, detail),
        Some("FieldValueDuplicate") => {
            FieldError { reason: Reason::Duplicate, field: place, bad_value: shown, detail: String::new() }
        }
        _ => FieldError { reason: Reason::Invalid, field: place, bad_value: shown, detail },
    }
}

/// Whether an item of a list with keys is the same one as before; items of other lists cannot be told.
fn same_item(tree: &RuleTree, item: &Value, old: &Value) -> bool {
    tree.keys.as_ref().is_some_and(|keys| keys.iter().all(|key| item.get(key) == old.get(key)))
}
