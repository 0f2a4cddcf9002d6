//! A policy with its expressions compiled.

use cel::{Env, Type};
use serde_json::Value;

use super::env::{self, Extras};
use super::eval::Compiled;

/// Expressions by name.
pub type Conditions = Vec<(String, Compiled)>;

/// Variables' types by name.
pub type Types = Vec<(String, Type)>;

/// One rule of a validating policy.
pub struct Validation {
    /// What must hold.
    pub expression: Compiled,
    /// The expression as written.
    pub source: String,
    /// Computes the message.
    pub message_expression: Option<Compiled>,
    /// The message, may be empty.
    pub message: String,
    /// The reason of refusals.
    pub reason: String,
}

/// One change of a mutating policy.
pub enum Mutation {
    /// An apply configuration.
    Apply(Compiled),
    /// A JSON patch.
    Patch(Compiled),
}

/// A policy of either kind.
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Whether what cannot be evaluated is let pass.
    pub ignores: bool,
    /// `spec.matchConstraints`.
    pub constraints: Value,
    /// `spec.paramKind`: apiVersion and kind.
    pub param_kind: Option<(String, String)>,
    /// Conditions.
    pub conditions: Conditions,
    /// Variables.
    pub variables: Vec<(String, Compiled)>,
    /// Rules, of validating policies.
    pub validations: Vec<Validation>,
    /// Annotations for the audit, of validating policies.
    pub annotations: Vec<(String, Compiled)>,
    /// Changes, of mutating policies.
    pub mutations: Vec<Mutation>,
    /// Whether it wants to be asked again after others changed the object.
    pub reinvoked: bool,
}

fn list<'a>(spec: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    spec.get(field).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or("")
}

/// Compiles conditions.
pub fn conditions(env: &Env, of: &Value) -> Conditions {
    let entries = of.as_array().into_iter().flatten();
    let compiled = |own: &Value| env::compile(env, text(own, "expression"), &[Type::Bool]);
    entries.map(|own| (text(own, "name").to_string(), compiled(own))).collect()
}

/// Compiles variables one after the other; each sees those before it. Returns their types, too.
pub fn variables(spec: &Value, env: &Env) -> (Conditions, Types) {
    let (mut compiled, mut known): (Conditions, Types) = Default::default();
    for variable in list(spec, "variables") {
        let name = text(variable, "name").to_string();
        let own = env.clone().variable("variables", env::variables(&known));
        let program = env::compile(&own, text(variable, "expression"), &[]);
        let of = program.as_ref().map_or(Type::Dyn, |program| program.output().clone());
        known.push((name.clone(), of));
        compiled.push((name, program));
    }
    (compiled, known)
}

impl Policy {
    /// Compiles a policy. What is wrong with an expression shows when it is to be evaluated.
    pub fn compile(mutating: bool, policy: &Value) -> Self {
        let spec = &policy["spec"];
        let kind = spec.get("paramKind").filter(|kind| kind.is_object());
        let extras = Extras { params: kind.is_some(), authorizer: true, patches: mutating };
        let plain = env::env(Extras { patches: false, ..extras }, None, None);
        let full = env::env(extras, None, None);
        let (variables, known) = variables(spec, &full);
        let declared = env::variables(&known);
        let env = full.variable("variables", declared.clone());
        // Messages and annotations know no authorizer.
        let quiet = env::env(Extras { authorizer: false, patches: false, ..extras }, None, None);
        let quiet = quiet.variable("variables", declared);
        let validation = |own: &Value| Validation {
            expression: env::compile(&env, text(own, "expression"), &[Type::Bool]),
            source: text(own, "expression").to_string(),
            message_expression: Some(text(own, "messageExpression"))
                .filter(|expression| !expression.is_empty())
                .map(|expression| env::compile(&quiet, expression, &[Type::String])),
            message: text(own, "message").trim().to_string(),
            reason: match text(own, "reason") {
                "" => "Invalid".to_string(),
                reason => reason.to_string(),
            },
        };
        let annotation = |own: &Value| {
            let wanted = [Type::String, Type::Null];
            let expression = text(own, "valueExpression");
            (text(own, "key").to_string(), env::compile(&quiet, expression, &wanted))
        };
        let mutation = |own: &Value| match text(own, "patchType") {
            "JSONPatch" => {
                let wanted = Type::list(Type::Object(env::json_patch()));
                Mutation::Patch(env::compile(&env, text(&own["jsonPatch"], "expression"), &[wanted]))
            }
            _ => {
                let wanted = env::apply_configuration();
                let expression = text(&own["applyConfiguration"], "expression");
                Mutation::Apply(env::compile(&env, expression, &[wanted]))
            }
        };
        Self {
            name: crate::object::name(policy).to_string(),
            ignores: text(spec, "failurePolicy") == "Ignore",
            constraints: spec["matchConstraints"].clone(),
            param_kind: kind.map(|kind| (text(kind, "apiVersion").into(), text(kind, "kind").into())),
            conditions: conditions(&plain, &spec["matchConditions"]),
            variables,
            validations: list(spec, "validations").map(validation).collect(),
            annotations: list(spec, "auditAnnotations").map(annotation).collect(),
            mutations: list(spec, "mutations").map(mutation).collect(),
            reinvoked: text(spec, "reinvocationPolicy") == "IfNeeded",
        }
    }
}
