//! MutatingAdmissionPolicies: expressions that change objects.

use cel::{REQUEST_COST_MAX, Value as Cel};
use schema::Schema;
use serde_json::Value;

use super::eval::{self, Hook, Variables, run};
use super::plan::{Mutation, Policy};
use super::request::{Facts, NULL, is_judged, meets};
use super::{Active, active, params};
use crate::admission::{AdmissionContext, as_version};
use crate::codec::{self, FieldValidation};
use crate::resource::Resource;
use crate::status::{Cause, Status};

/// What stands in the way of a policy.
struct Trouble {
    policy: String,
    binding: Option<String>,
    message: String,
}

impl Trouble {
    fn text(&self) -> String {
        match &self.binding {
            Some(binding) => {
                format!("policy '{}' with binding '{binding}' denied request: {}", self.policy, self.message)
            }
            None => format!("policy {:?} denied request: {}", self.policy, self.message),
        }
    }
}

/// Applies all policies that a request meets; those that want it once more, when another changed the object after
/// them.
pub async fn mutate(object: &mut Value, context: &mut AdmissionContext<'_>) -> Result<(), Status> {
    let policies = active(context.server, true);
    if policies.is_empty() || !is_judged(context) || !object.is_object() {
        return Ok(());
    }
    let mut troubles = Vec::new();
    let mut last_change = None;
    for (i, active) in policies.iter().enumerate() {
        if one(active, object, context, &mut troubles).await? {
            last_change = Some(i);
        }
    }
    for active in policies.iter().take(last_change.unwrap_or(0)).filter(|active| active.policy.reinvoked) {
        one(active, object, context, &mut troubles).await?;
    }
    refuse(troubles, context, object)
}

/// Applies policies again that want it, after webhooks changed the object.
pub async fn reinvoke(object: &mut Value, context: &mut AdmissionContext<'_>) -> Result<(), Status> {
    let policies = active(context.server, true);
    if !is_judged(context) {
        return Ok(());
    }
    let mut troubles = Vec::new();
    for active in policies.iter().filter(|active| active.policy.reinvoked) {
        one(active, object, context, &mut troubles).await?;
    }
    refuse(troubles, context, object)
}

fn refuse(troubles: Vec<Trouble>, context: &AdmissionContext<'_>, object: &Value) -> Result<(), Status> {
    let Some(first) = troubles.first().map(Trouble::text) else { return Ok(()) };
    let def = &context.resource.def;
    let name = match context.name {
        "" => crate::object::name(object),
        name => name,
    };
    let mut status = Status::forbidden(&def.group, &def.plural, name, "");
    status.message = first;
    status.reason = "Invalid".into();
    if let Some(details) = &mut status.details {
        details.causes = troubles.iter().map(|trouble| Cause::field("", "", trouble.text())).collect();
    }
    Err(status)
}

/// Applies one policy by each of its bindings; whether it changed the object.
async fn one(
    active: &Active,
    object: &mut Value,
    context: &mut AdmissionContext<'_>,
    troubles: &mut Vec<Trouble>,
) -> Result<bool, Status> {
    let Active { policy, bindings } = active;
    let Some(seen) = meets(&policy.constraints, object, context) else { return Ok(false) };
    let mut changed = false;
    let mut trouble = |binding: Option<&Value>, message: String| {
        if !policy.ignores {
            let binding = binding.map(|binding| crate::object::name(binding).to_string());
            troubles.push(Trouble { policy: policy.name.clone(), binding, message });
        }
    };
    for binding in bindings {
        let resources = &binding["spec"]["matchResources"];
        if resources.is_object() && meets(resources, object, context).is_none() {
            continue;
        }
        let params = match params::collect(context.server, policy, binding, context.namespace).await {
            Ok(params) => params,
            Err((true, cause)) => {
                trouble(None, format!("failed to configure policy: {cause}"));
                break;
            }
            Err((false, cause)) => {
                trouble(Some(binding), format!("failed to configure binding: {cause}"));
                continue;
            }
        };
        for param in &params {
            match apply(policy, param, &seen, object, context).await? {
                Ok(own) => changed |= own,
                Err(cause) => trouble(Some(binding), cause),
            }
        }
    }
    Ok(changed)
}

/// Applies the mutations of a policy one after the other.
async fn apply(
    policy: &Policy,
    param: &Value,
    seen: &Resource,
    object: &mut Value,
    context: &AdmissionContext<'_>,
) -> Result<Result<bool, String>, Status> {
    let server = context.server;
    let hook = Hook { server, identity: context.identity };
    let old = match context.old {
        Some(old) => Some(as_version(server, old, context.resource, seen).await?),
        None => None,
    };
    let old = old.as_deref().unwrap_or(&NULL);
    let mut shown = as_version(server, object, context.resource, seen).await?.into_owned();
    let facts = Facts::of(context, seen, object);
    match eval::conditions(&policy.conditions, &facts.inputs(&hook, &shown, old, param)) {
        Ok(true) => {}
        Ok(false) => return Ok(Ok(false)),
        Err(cause) => return Ok(Err(cause)),
    }
    let before = shown.clone();
    let mut failed = None;
    for mutation in &policy.mutations {
        let patch = {
            let inputs = facts.inputs(&hook, &shown, old, param);
            let variables = Variables::new(&policy.variables, &inputs);
            changed_by(mutation, &variables, seen.def.schema(), &shown)
        };
        match patch {
            Ok(mut new) => {
                let mut notes = Vec::new();
                codec::settle(&seen.def, None, &mut new, FieldValidation::Ignore, &mut notes)
                    .map_err(Status::internal)?;
                codec::default(&seen.def, &mut new);
                shown = new;
            }
            Err(cause) => failed = failed.or(Some(cause)),
        }
    }
    let changed = shown != before;
    if changed {
        *object = as_version(server, &shown, seen, context.resource).await?.into_owned();
    }
    Ok(failed.map_or(Ok(changed), Err))
}

/// The object as one mutation makes it.
fn changed_by(
    mutation: &Mutation,
    variables: &Variables<'_>,
    schema: &Schema,
    object: &Value,
) -> Result<Value, String> {
    let bindings = variables.bindings();
    let mut left = REQUEST_COST_MAX;
    let compiled = match mutation {
        Mutation::Apply(compiled) | Mutation::Patch(compiled) => compiled,
    };
    if let Err(cause) = compiled {
        return Err(cause.clone());
    }
    let value = run(compiled, &bindings, &mut left).map_err(|spent| spent.to_string())??;
    match mutation {
        Mutation::Apply(_) => {
            check_names(&value, "Object")?;
            let mut config =
                value.to_json().ok_or("unsupported return type from ApplyConfiguration expression")?;
            config["apiVersion"] = object["apiVersion"].clone();
            config["kind"] = object["kind"].clone();
            let atomic = schema::typed::atomics(schema, &config);
            if !atomic.is_empty() {
                let paths = atomic.join(", ");
                return Err(format!(
                    "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {paths}"
                ));
            }
            Ok(schema::typed::merge(schema, object, &config))
        }
        Mutation::Patch(_) => {
            let Cel::List(list) = &value else {
                return Err("type mismatch: JSONPatchType.expression should evaluate to array".into());
            };
            let mut operations = Vec::new();
            for item in list.iter() {
                if let Cel::Map(map) = &item {
                    for (_, part) in map.entries() {
                        if let Cel::Map(cel::Map::Object(name, _)) = &part {
                            check_names(&part, name)?;
                        }
                    }
                }
                let mut operation = item
                    .to_json()
                    .ok_or("JSONPath valueExpression evaluated to a type that could not marshal to JSON")?;
                if let Some(fields) = operation.as_object_mut()
                    && matches!(fields.get("op").and_then(Value::as_str), Some("add" | "replace" | "test"))
                {
                    fields.entry("value").or_insert(Value::Null);
                }
                operations.push(operation);
            }
            patched(object, Value::Array(operations))
        }
    }
}

fn patched(object: &Value, operations: Value) -> Result<Value, String> {
    let patch: json_patch::Patch =
        serde_json::from_value(operations).map_err(|cause| format!("JSON Patch: {cause}"))?;
    let mut new = object.clone();
    match json_patch::patch(&mut new, &patch) {
        Ok(()) => Ok(new),
        // A test that fails is a condition that does not hold.
        Err(cause) if matches!(cause.kind, json_patch::PatchErrorKind::TestFailed) => Ok(object.clone()),
        Err(cause) => Err(format!("JSON Patch: {cause}")),
    }
}

/// Objects within an object are named by the path they are at.
fn check_names(value: &Cel<'_>, expected: &str) -> Result<(), String> {
    match value {
        Cel::Map(cel::Map::Object(name, fields)) => {
            if **name != *expected {
                return Err(format!(
                    "type mismatch: unexpected type name {name:?}, expected {expected:?}, which matches field name path from root Object type"
                ));
            }
            fields.iter().try_for_each(|(key, field)| match key {
                cel::Key::String(key) => check_names(field, &format!("{expected}.{key}")),
                _ => Ok(()),
            })
        }
        Cel::List(list) => list.iter().try_for_each(|item| check_names(&item, expected)),
        _ => Ok(()),
    }
}
