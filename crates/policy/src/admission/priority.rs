//! Priority: the class a pod names becomes a number and a preemption policy.

use std::sync::Arc;

use serde_json::Value;

use super::{Lookup, Operation, Refusal, Request, text};

const GROUP: &str = "scheduling.k8s.io";

/// Fills in a pod's priority.
pub fn mutate(pod: &mut Value, request: &Request<'_>, lookup: &dyn Lookup) -> Result<(), Refusal> {
    if !request.is("", "pods") {
        return Ok(());
    }
    match request.operation {
        Operation::Create => create(pod, lookup),
        Operation::Update => {
            carry(pod, request.old);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn carry(pod: &mut Value, old: Option<&Value>) {
    for field in ["priority", "preemptionPolicy"] {
        let kept = old.and_then(|old| old.get("spec")?.get(field)).filter(|value| !value.is_null());
        let Some((kept, spec)) = kept.zip(pod.get_mut("spec").and_then(Value::as_object_mut)) else {
            continue;
        };
        if spec.get(field).is_none_or(Value::is_null) {
            spec.insert(field.into(), kept.clone());
        }
    }
}

fn create(pod: &mut Value, lookup: &dyn Lookup) -> Result<(), Refusal> {
    let named = text(pod, "/spec/priorityClassName").to_string();
    let class = match named.as_str() {
        "" => default_class(lookup),
        name => match lookup.get(GROUP, "priorityclasses", "", name) {
            Some(class) => Some(class),
            None => return Err(Refusal::Forbidden(format!("no PriorityClass with name {name} was found"))),
        },
    };
    let value = class.as_ref().and_then(|class| class.get("value")?.as_i64()).unwrap_or(0);
    let policy = match &class {
        Some(class) => match text(class, "/preemptionPolicy") {
            "" => "PreemptLowerPriority",
            policy => policy,
        },
        None => "PreemptLowerPriority",
    };
    if let Some(own) = pod.pointer("/spec/priority").and_then(Value::as_i64).filter(|own| *own != value) {
        return Err(Refusal::Forbidden(format!(
            "the integer value of priority ({own}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        )));
    }
    let own = text(pod, "/spec/preemptionPolicy");
    if !own.is_empty() && own != policy {
        return Err(Refusal::Forbidden(format!(
            "the string value of PreemptionPolicy ({own}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        )));
    }
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
    if let Some(class) = class.as_ref().filter(|_| named.is_empty()) {
        spec.insert("priorityClassName".into(), text(class, "/metadata/name").into());
    }
    spec.insert("priority".into(), value.into());
    spec.insert("preemptionPolicy".into(), policy.into());
    Ok(())
}

/// The default class with the lowest value, as upstream chooses.
fn default_class(lookup: &dyn Lookup) -> Option<Arc<Value>> {
    let classes = lookup.list(GROUP, "priorityclasses", "");
    let defaults = classes.into_iter().filter(|class| class["globalDefault"] == true);
    defaults.min_by_key(|class| class.get("value").and_then(Value::as_i64).unwrap_or(0))
}

/// Only one class may be the default.
pub fn validate(class: &Value, request: &Request<'_>, lookup: &dyn Lookup) -> Result<(), Refusal> {
    let changes = matches!(request.operation, Operation::Create | Operation::Update);
    if !changes || !request.is(GROUP, "priorityclasses") || class["globalDefault"] != true {
        return Ok(());
    }
    match default_class(lookup) {
        Some(other) if text(&other, "/metadata/name") != text(class, "/metadata/name") => {
            let name = text(&other, "/metadata/name");
            Err(Refusal::Forbidden(format!(
                "PriorityClass {name} is already marked as default. Only one default can exist"
            )))
        }
        _ => Ok(()),
    }
}
