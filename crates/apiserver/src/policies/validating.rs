//! ValidatingAdmissionPolicies: expressions that refuse, warn, or note.

use cel::{REQUEST_COST_MAX, Value as Cel};
use serde_json::Value;

use super::eval::{self, Hook, Inputs, Variables, run};
use super::plan::{Policy, Validation};
use super::request::{Facts, NULL, is_judged, meets};
use super::{Active, active, params};
use crate::admission::{AdmissionContext, as_version};
use crate::status::{Cause, Status};

/// Longer messages of expressions are not used, in bytes.
const MESSAGE_MAX: usize = 5 << 10;

/// What a policy says of a request with one parameter.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Refusals: reason and message. What to do with them the binding says.
    pub denials: Vec<(String, String)>,
    /// Notes that could not be made: the request is refused, whatever the binding says.
    pub errors: Vec<String>,
}

/// Asks a policy.
pub fn judge(policy: &Policy, inputs: &Inputs<'_>) -> Outcome {
    let mut outcome = Outcome::default();
    let invalid = |cause: String| ("Invalid".to_string(), cause);
    match eval::conditions(&policy.conditions, inputs) {
        Ok(true) => {}
        Ok(false) => return outcome,
        Err(_) if policy.ignores => return outcome,
        Err(cause) => return Outcome { denials: vec![invalid(cause)], ..outcome },
    }
    let variables = Variables::new(&policy.variables, inputs);
    let bindings = variables.bindings();
    let mut left = REQUEST_COST_MAX;
    let mut messages = REQUEST_COST_MAX;
    for validation in &policy.validations {
        match run(&validation.expression, &bindings, &mut left) {
            Ok(Ok(Cel::Bool(true))) => {}
            Ok(Ok(_)) => {
                let message = message(validation, &bindings, &mut messages);
                outcome.denials.push((validation.reason.clone(), message));
            }
            Ok(Err(_)) | Err(_) if policy.ignores => {}
            Ok(Err(cause)) => outcome.denials.push(invalid(cause)),
            Err(spent) => {
                outcome.denials = vec![invalid(spent.to_string())];
                return outcome;
            }
        }
    }
    let mut left = REQUEST_COST_MAX;
    for (_, annotation) in &policy.annotations {
        // There is no audit log; that the value can be computed counts nonetheless.
        match run(annotation, &bindings, &mut left) {
            Ok(Ok(_)) => {}
            _ if policy.ignores => {}
            Ok(Err(cause)) => outcome.errors.push(cause),
            Err(spent) => outcome.errors.push(spent.to_string()),
        }
    }
    outcome
}

/// The message of a refusal: computed, given, or the expression itself.
fn message<'a>(validation: &'a Validation, bindings: &cel::Bindings<'a>, left: &mut u64) -> String {
    let computed = validation.message_expression.as_ref().and_then(|expression| {
        let value = run(expression, bindings, left).ok()?.ok()?;
        let text = value.as_str()?.trim().to_string();
        (!text.is_empty() && text.len() <= MESSAGE_MAX && !text.contains('\n')).then_some(text)
    });
    computed.unwrap_or_else(|| match validation.message.as_str() {
        "" => format!("failed expression: {}", validation.source.trim()),
        message => message.to_string(),
    })
}

/// A refusal of the request, with who refused it.
struct Denial {
    reason: String,
    message: String,
}

impl Denial {
    fn new(policy: &Policy, binding: Option<&Value>, (reason, message): (String, String)) -> Self {
        let name = &policy.name;
        let message = match binding.map(crate::object::name) {
            Some(binding) => {
                format!(
                    "ValidatingAdmissionPolicy '{name}' with binding '{binding}' denied request: {message}"
                )
            }
            None => format!("ValidatingAdmissionPolicy '{name}' denied request: {message}"),
        };
        Self { reason, message }
    }

    fn status(self, context: &AdmissionContext<'_>, object: &Value) -> Status {
        let def = &context.resource.def;
        let name = match context.name {
            "" => crate::object::name(object),
            name => name,
        };
        let mut status = Status::forbidden(&def.group, &def.plural, name, &self.message);
        status.code = match self.reason.as_str() {
            "Forbidden" => 403,
            "Unauthorized" => 401,
            "RequestEntityTooLarge" => 413,
            _ => 422,
        };
        status.reason = self.reason.into();
        if let Some(details) = &mut status.details {
            details.causes.push(Cause::field("", "", self.message));
        }
        status
    }
}

/// Asks all policies that a request meets.
pub async fn validate(object: &Value, context: &mut AdmissionContext<'_>) -> Result<(), Status> {
    let policies = active(context.server, false);
    if policies.is_empty() || !is_judged(context) {
        return Ok(());
    }
    let mut first: Option<Denial> = None;
    for active in &policies {
        let denial = one(active, object, context).await?;
        first = first.or(denial);
    }
    match first {
        Some(denial) => Err(denial.status(context, object)),
        None => Ok(()),
    }
}

/// Asks one policy by each of its bindings; its first refusal.
async fn one(
    active: &Active,
    object: &Value,
    context: &mut AdmissionContext<'_>,
) -> Result<Option<Denial>, Status> {
    let Active { policy, bindings } = active;
    let Some(seen) = meets(&policy.constraints, object, context) else { return Ok(None) };
    let mut first: Option<Denial> = None;
    let mut note = |denial: Denial| first = first.take().or(Some(denial));
    let invalid = |cause: String| ("Invalid".to_string(), cause);
    let shown = as_version(context.server, object, context.resource, &seen).await?;
    let old = match context.old {
        Some(old) => Some(as_version(context.server, old, context.resource, &seen).await?),
        None => None,
    };
    let facts = Facts::of(context, &seen, object);
    for binding in bindings {
        let resources = &binding["spec"]["matchResources"];
        if resources.is_object() && meets(resources, object, context).is_none() {
            continue;
        }
        let params = match params::collect(context.server, policy, binding, context.namespace).await {
            Ok(params) => params,
            Err(_) if policy.ignores => continue,
            Err((true, cause)) => {
                note(Denial::new(policy, None, invalid(format!("failed to configure policy: {cause}"))));
                break;
            }
            Err((false, cause)) => {
                let cause = format!("failed to configure binding: {cause}");
                note(Denial::new(policy, Some(binding), invalid(cause)));
                continue;
            }
        };
        for param in &params {
            let outcome = {
                let hook = Hook { server: context.server, identity: context.identity };
                judge(policy, &facts.inputs(&hook, &shown, old.as_deref().unwrap_or(&NULL), param))
            };
            let actions = binding["spec"]["validationActions"].as_array().map_or(&[][..], Vec::as_slice);
            for denial in outcome.denials {
                if actions.iter().any(|action| action == "Warn") {
                    let name = crate::object::name(binding);
                    context.warnings.push(format!(
                        "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{name}': {}",
                        policy.name, denial.1
                    ));
                }
                if actions.iter().any(|action| action == "Deny") {
                    note(Denial::new(policy, Some(binding), denial));
                }
            }
            for cause in outcome.errors {
                note(Denial::new(policy, Some(binding), invalid(cause)));
            }
        }
    }
    Ok(first)
}
