//! Evaluation: what expressions see of a request, what they may cost, and the variables of a policy.

use std::sync::{Arc, OnceLock};

use cel::{
    Authorize, Authorizer, Bindings, Budget, CALL_COST_MAX, Check, Decision, EvalError, Fields, Lazy, List,
    Map, Opaque, Program, Question, Value as Cel,
};
use serde_json::Value;

use crate::authenticate::Identity;
use crate::authorize::Attributes;
use crate::server::ApiServer;

/// An expression that was compiled, or why it could not be.
pub type Compiled = Result<Program, String>;

/// What all conditions for one request may cost together.
pub const CONDITIONS_COST_MAX: u64 = 2_500_000;

/// Asks the server's authorizers for the user of a request.
pub struct Hook<'a> {
    /// The server.
    pub server: &'a ApiServer,
    /// Whom the questions are about.
    pub identity: &'a Identity,
}

impl Authorize for Hook<'_> {
    fn authorize(&self, question: &Question) -> Decision {
        let account = question.service_account.as_ref().map(|(namespace, name)| {
            let groups =
                ["system:serviceaccounts".to_string(), format!("system:serviceaccounts:{namespace}")];
            Identity::user(format!("system:serviceaccount:{namespace}:{name}"), groups)
        });
        let asked = Attributes {
            verb: question.verb.clone(),
            is_resource: question.path.is_none(),
            group: question.group.clone(),
            version: "*".into(),
            resource: question.resource.clone(),
            subresource: question.subresource.clone(),
            namespace: question.namespace.clone(),
            name: question.name.clone(),
            path: question.path.clone().unwrap_or_default(),
            field_selector: question.field_selector.clone().unwrap_or_default(),
            label_selector: question.label_selector.clone().unwrap_or_default(),
        };
        let decision = self.server.authorize(account.as_ref().unwrap_or(self.identity), &asked);
        Decision { allowed: decision.allowed, reason: decision.reason, error: None }
    }
}

/// What expressions see of a request.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// The object as it is to be, or null.
    pub object: &'a Value,
    /// The object as it was, or null.
    pub old: &'a Value,
    /// The parameter, or null.
    pub params: &'a Value,
    /// The request.
    pub request: &'a Value,
    /// The namespace, or null.
    pub namespace: &'a Value,
    /// Answers questions about access.
    pub hook: &'a Hook<'a>,
    /// The question about the request's own resource, without a verb.
    pub question: &'a Question,
}

impl<'a> Inputs<'a> {
    /// The variables' values.
    pub fn bindings(&self) -> Bindings<'a> {
        let hook: &'a dyn Authorize = self.hook;
        let check = Check::new(hook, self.question.clone());
        Bindings::new()
            .json("object", self.object)
            .json("oldObject", self.old)
            .json("params", self.params)
            .json("request", self.request)
            .json("namespaceObject", self.namespace)
            .value("authorizer", Cel::Opaque(Opaque::Authorizer(Authorizer { hook, service_account: None })))
            .value("authorizer.requestResource", Cel::Opaque(Opaque::Check(Arc::new(check))))
    }
}

/// All that the expressions of a policy may cost for one request was spent.
#[derive(Debug)]
pub struct Spent;

impl std::fmt::Display for Spent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(
            "validation failed due to running out of cost budget, no further validation rules will be run",
        )
    }
}

/// Evaluates within what is left; the inner error is the expression's own.
pub fn run<'a>(
    compiled: &'a Compiled,
    bindings: &Bindings<'a>,
    left: &mut u64,
) -> Result<Result<Cel<'a>, String>, Spent> {
    let program = match compiled {
        Ok(program) => program,
        Err(cause) => return Ok(Err(format!("compilation error: {cause}"))),
    };
    let limit = CALL_COST_MAX.min(*left);
    let mut budget = Budget::new(limit);
    let outcome = program.eval(bindings, &mut budget);
    *left = left.saturating_sub(budget.spent());
    match outcome {
        Err(EvalError::Cost) if limit < CALL_COST_MAX => Err(Spent),
        outcome => {
            Ok(outcome
                .map_err(|cause| format!("expression '{}' resulted in error: {cause}", program.source())))
        }
    }
}

/// The outcome of conditions: whether all hold, or why that cannot be known. What does not hold decides, whatever
/// else fails.
pub fn conditions(compiled: &[(String, Compiled)], inputs: &Inputs<'_>) -> Result<bool, String> {
    let bindings = inputs.bindings();
    let mut left = CONDITIONS_COST_MAX;
    let mut failed: Vec<String> = Vec::new();
    for (_, condition) in compiled {
        match run(condition, &bindings, &mut left).map_err(|spent| spent.to_string())? {
            Ok(Cel::Bool(false)) => return Ok(false),
            Ok(_) => {}
            Err(cause) => failed.push(cause),
        }
    }
    match failed.as_slice() {
        [] => Ok(true),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

/// The variables of a policy, each evaluated when it is first asked for.
pub struct Variables<'a> {
    compiled: &'a [(String, Compiled)],
    known: Vec<OnceLock<Result<Known, String>>>,
    bindings: Bindings<'a>,
}

/// A value that outlives its evaluation.
enum Known {
    Json(Value),
    Other(Cel<'static>),
    /// To be evaluated each time: it has parts that are no data.
    Again,
}

impl<'a> Variables<'a> {
    /// Variables over what expressions see of a request.
    pub fn new(compiled: &'a [(String, Compiled)], inputs: &Inputs<'a>) -> Self {
        let known = compiled.iter().map(|_| OnceLock::new()).collect();
        Self { compiled, known, bindings: inputs.bindings() }
    }

    /// The bindings for expressions that use the variables.
    pub fn bindings(&self) -> Bindings<'_> {
        self.bindings.clone().value("variables", Cel::Map(Map::Lazy(Lazy(self))))
    }

    fn evaluate(&self, at: usize, budget: &mut Budget) -> Result<Cel<'_>, String> {
        let (name, compiled) = &self.compiled[at];
        let failed = |cause: String| format!("composited variable \"{name}\" fails to evaluate: {cause}");
        let program = compiled.as_ref().map_err(|cause| failed(format!("compilation error: {cause}")))?;
        program
            .eval(&self.bindings(), budget)
            .map_err(|cause| failed(format!("expression '{}' resulted in error: {cause}", program.source())))
    }
}

impl Fields for Variables<'_> {
    fn get<'s>(&'s self, name: &str, budget: &mut Budget) -> Result<Option<Cel<'s>>, EvalError> {
        let Some(at) = self.compiled.iter().position(|(own, _)| own == name) else { return Ok(None) };
        if self.known[at].get().is_none() {
            let value = self.evaluate(at, budget);
            if budget.left() == 0 {
                // Out of budget now says nothing of another time.
                return value.map(Some).map_err(EvalError::new);
            }
            let _ = self.known[at].set(value.map(|value| keep(&value)));
        }
        match self.known[at].get() {
            Some(Ok(Known::Json(json))) => Ok(Some(Cel::json(json, None))),
            Some(Ok(Known::Other(value))) => Ok(Some(value.clone())),
            Some(Err(cause)) => Err(EvalError::new(cause.clone())),
            Some(Ok(Known::Again)) | None => self.evaluate(at, budget).map(Some).map_err(EvalError::new),
        }
    }
}

fn keep(value: &Cel<'_>) -> Known {
    match value {
        Cel::Bool(b) => Known::Other(Cel::Bool(*b)),
        Cel::Int(i) => Known::Other(Cel::Int(*i)),
        Cel::Uint(u) => Known::Other(Cel::Uint(*u)),
        Cel::Double(d) => Known::Other(Cel::Double(*d)),
        Cel::Null => Known::Other(Cel::Null),
        Cel::String(text) => Known::Other(Cel::text(text.to_string())),
        Cel::Timestamp(at) => Known::Other(Cel::Timestamp(*at)),
        Cel::Duration(span) => Known::Other(Cel::Duration(*span)),
        Cel::Bytes(bytes) => Known::Other(Cel::Bytes(bytes.clone())),
        value if is_data(value) => value.to_json().map_or(Known::Again, Known::Json),
        _ => Known::Again,
    }
}

/// Whether JSON tells all of it.
fn is_data(value: &Cel<'_>) -> bool {
    match value {
        Cel::Null | Cel::Bool(_) | Cel::Int(_) | Cel::String(_) => true,
        Cel::List(List::Json(_, None)) | Cel::Map(Map::Json(_, None)) => true,
        Cel::List(list) => list.iter().all(|item| is_data(&item)),
        Cel::Map(Map::Own(entries)) => {
            entries.iter().all(|(key, value)| matches!(key, cel::Key::String(_)) && is_data(value))
        }
        _ => false,
    }
}
