//! RuntimeClass: overhead and node selection of the class a pod names.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Lookup, Refusal, Request, items, list_mut, text};

fn class_of(pod: &Value, request: &Request<'_>, lookup: &dyn Lookup) -> Result<Option<Arc<Value>>, Refusal> {
    let name = text(pod, "/spec/runtimeClassName");
    if !request.creates("", "pods") || name.is_empty() {
        return Ok(None);
    }
    match lookup.get("node.k8s.io", "runtimeclasses", "", name) {
        Some(class) => Ok(Some(class)),
        None => Err(Refusal::Forbidden(format!("pod rejected: RuntimeClass {name:?} not found"))),
    }
}

fn overhead(class: &Value) -> Option<&Map<String, Value>> {
    class.pointer("/overhead/podFixed").and_then(Value::as_object)
}

/// Applies the class to the pod.
pub fn mutate(pod: &mut Value, request: &Request<'_>, lookup: &dyn Lookup) -> Result<(), Refusal> {
    let Some(class) = class_of(pod, request, lookup)? else { return Ok(()) };
    let Some(spec) = pod.get_mut("spec") else { return Ok(()) };
    if let Some(fixed) = overhead(&class) {
        let own = spec.get("overhead").and_then(Value::as_object).filter(|own| !own.is_empty());
        if own.is_some_and(|own| !same(own, fixed)) {
            return Err(mismatch());
        }
        spec["overhead"] = Value::Object(fixed.clone());
    }
    for (key, wanted) in
        class.pointer("/scheduling/nodeSelector").and_then(Value::as_object).into_iter().flatten()
    {
        let own = spec.pointer("/nodeSelector").and_then(|selector| selector.get(key));
        if let Some(own) = own.filter(|own| *own != wanted) {
            let (wanted, own) = (wanted.as_str().unwrap_or(""), own.as_str().unwrap_or(""));
            return Err(Refusal::Forbidden(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; pod.spec.nodeSelector[{key}] = {own}"
            )));
        }
        if !spec["nodeSelector"].is_object() {
            spec["nodeSelector"] = Value::Object(Map::new());
        }
        spec["nodeSelector"][key] = wanted.clone();
    }
    for toleration in items(&class, "/scheduling/tolerations") {
        let Some(own) = list_mut(spec, "tolerations") else { continue };
        if !own.contains(toleration) {
            own.push(toleration.clone());
        }
    }
    Ok(())
}

/// The pod's overhead must be its class's.
pub fn validate(pod: &Value, request: &Request<'_>, lookup: &dyn Lookup) -> Result<(), Refusal> {
    if !request.creates("", "pods") {
        return Ok(());
    }
    let own = pod.pointer("/spec/overhead").and_then(Value::as_object).filter(|own| !own.is_empty());
    let class = class_of(pod, request, lookup)?;
    match (own, class.as_deref().and_then(overhead)) {
        (Some(own), Some(fixed)) if same(own, fixed) => Ok(()),
        (None, None) => Ok(()),
        (None, Some(fixed)) if fixed.is_empty() => Ok(()),
        (Some(_), None) => Err(Refusal::Forbidden(
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".into(),
        )),
        _ => Err(mismatch()),
    }
}

fn mismatch() -> Refusal {
    Refusal::Forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into())
}

fn same(one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    let number = |value: &Value| match value {
        Value::String(text) => text.parse::<base::quantity::Quantity>().ok(),
        other => other.to_string().parse::<base::quantity::Quantity>().ok(),
    };
    one.len() == other.len()
        && one.iter().all(|(key, value)| {
            other.get(key).is_some_and(|found| found == value || number(found) == number(value))
        })
}
