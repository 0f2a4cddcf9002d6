//! Whether the expressions of policies and conditions can be compiled, when they are written.

use api::KindDef;
use cel::{Env, Type};
use serde_json::Value;

use super::env::{self, Extras};
use super::plan;
use crate::status::Cause;

/// What is wrong with the expressions of an object of `admissionregistration.k8s.io`. Objects whose expressions have
/// not changed are taken as they are.
pub fn check(def: &KindDef, old: Option<&Value>, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    match def.kind.as_ref() {
        "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy"
            if old.is_none_or(|old| old["spec"] != object["spec"]) =>
        {
            policy(object, def.kind == "MutatingAdmissionPolicy", &mut causes);
        }
        "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => {
            let env = env::env(Extras { authorizer: true, ..Extras::default() }, None, None);
            for (i, hook) in object["webhooks"].as_array().into_iter().flatten().enumerate() {
                let before = old.map(|old| &old["webhooks"][i]["matchConditions"]);
                if before != Some(&hook["matchConditions"]) {
                    let path = format!("webhooks[{i}].matchConditions");
                    conditions(&env, &path, &hook["matchConditions"], &mut causes);
                }
            }
        }
        _ => {}
    }
    causes
}

fn one(env: &Env, path: String, value: &Value, wanted: &[Type], causes: &mut Vec<Cause>) {
    // What is missing has been told already.
    let Some(text) = value.as_str().filter(|text| !text.trim().is_empty()) else { return };
    if let Err(cause) = env::compile(env, text, wanted) {
        causes.push(Cause::invalid(path, value, &cause));
    }
}

fn conditions(env: &Env, path: &str, list: &Value, causes: &mut Vec<Cause>) {
    for (i, condition) in list.as_array().into_iter().flatten().enumerate() {
        one(env, format!("{path}[{i}].expression"), &condition["expression"], &[Type::Bool], causes);
    }
}

fn policy(policy: &Value, mutating: bool, causes: &mut Vec<Cause>) {
    let spec = &policy["spec"];
    let params = spec["paramKind"].is_object();
    let extras = Extras { params, authorizer: true, patches: mutating };
    let plain = env::env(Extras { patches: false, ..extras }, None, None);
    conditions(&plain, "spec.matchConditions", &spec["matchConditions"], causes);
    let full = env::env(extras, None, None);
    let (variables, known) = plan::variables(spec, &full);
    for (i, (_, compiled)) in variables.iter().enumerate() {
        if let Err(cause) = compiled {
            let value = &spec["variables"][i]["expression"];
            if value.as_str().is_some_and(|text| !text.trim().is_empty()) {
                causes.push(Cause::invalid(format!("spec.variables[{i}].expression"), value, cause));
            }
        }
    }
    let declared = env::variables(&known);
    let env = full.variable("variables", declared.clone());
    let quiet = env::env(Extras { authorizer: false, patches: false, ..extras }, None, None);
    let quiet = quiet.variable("variables", declared);
    let list = |field: &str| spec[field].as_array().map_or(&[][..], Vec::as_slice);
    for (i, validation) in list("validations").iter().enumerate() {
        let path = format!("spec.validations[{i}]");
        one(&env, format!("{path}.expression"), &validation["expression"], &[Type::Bool], causes);
        let message = &validation["messageExpression"];
        one(&quiet, format!("{path}.messageExpression"), message, &[Type::String], causes);
    }
    for (i, annotation) in list("auditAnnotations").iter().enumerate() {
        let path = format!("spec.auditAnnotations[{i}].valueExpression");
        one(&quiet, path, &annotation["valueExpression"], &[Type::String, Type::Null], causes);
    }
    for (i, mutation) in list("mutations").iter().enumerate() {
        let (apply, patch) =
            (&mutation["applyConfiguration"]["expression"], &mutation["jsonPatch"]["expression"]);
        let path = format!("spec.mutations[{i}]");
        one(
            &env,
            format!("{path}.applyConfiguration.expression"),
            apply,
            &[env::apply_configuration()],
            causes,
        );
        let wanted = [Type::list(Type::Object(env::json_patch()))];
        one(&env, format!("{path}.jsonPatch.expression"), patch, &wanted, causes);
    }
}
