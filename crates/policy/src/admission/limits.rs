//! LimitRanger: defaults and bounds of a namespace for containers, pods and claims. Follows upstream's
//! `plugin/pkg/admission/limitranger`.

use std::collections::BTreeMap;

use base::quantity::Quantity;
use serde_json::{Map, Value, json};

use super::{Lookup, Operation, Refusal, Request, text};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";
const LISTS: [&str; 2] = ["containers", "initContainers"];

type Amounts = BTreeMap<String, Quantity>;

fn amounts(object: &Value, pointer: &str) -> Amounts {
    let map = object.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
    map.filter_map(|(name, value)| {
        let parsed = match value {
            Value::String(text) => text.parse().ok(),
            Value::Number(number) => number.to_string().parse().ok(),
            _ => None,
        };
        Some((name.clone(), parsed?))
    })
    .collect()
}

fn items(range: &Value) -> impl Iterator<Item = &Value> {
    range.pointer("/spec/limits").and_then(Value::as_array).into_iter().flatten()
}

fn is_pod(request: &Request<'_>) -> bool {
    request.group.is_empty() && request.plural == "pods"
}

/// Gives containers the defaults of the namespace and says so in an annotation.
pub(super) fn mutate(object: &mut Value, request: &Request<'_>, lookup: &dyn Lookup) {
    if !request.creates("", "pods") {
        return;
    }
    for range in lookup.list("", "limitranges", request.namespace) {
        let (mut requests, mut limits) = (Map::new(), Map::new());
        for item in items(&range).filter(|item| text(item, "/type") == "Container") {
            for (from, to) in [("/defaultRequest", &mut requests), ("/default", &mut limits)] {
                to.extend(item.pointer(from).and_then(Value::as_object).cloned().unwrap_or_default());
            }
        }
        let mut notes = Vec::new();
        for list in LISTS {
            let containers = object.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten() {
                notes.extend(complete(container, list, &requests, &limits));
            }
        }
        if !notes.is_empty() {
            if !object["metadata"]["annotations"].is_object() {
                object["metadata"]["annotations"] = json!({});
            }
            let note = format!("LimitRanger plugin set: {}", notes.join("; "));
            object["metadata"]["annotations"][ANNOTATION] = note.into();
        }
    }
}

/// Fills in what the container does not say; tells what was set.
fn complete(
    container: &mut Value,
    list: &str,
    requests: &Map<String, Value>,
    limits: &Map<String, Value>,
) -> Vec<String> {
    let name = text(container, "/name").to_owned();
    let what = if list == "containers" { "container" } else { "init container" };
    let mut notes = Vec::new();
    for (field, defaults, word) in [("requests", requests, "request"), ("limits", limits, "limit")] {
        let mut set = Vec::new();
        for (resource, amount) in defaults {
            if !container["resources"].is_object() {
                container["resources"] = json!({});
            }
            let own = &mut container["resources"][field];
            if !own.is_object() {
                *own = json!({});
            }
            if own.get(resource).is_none() {
                own[resource] = amount.clone();
                set.push(resource.as_str());
            }
        }
        if !set.is_empty() {
            set.sort_unstable();
            notes.push(format!("{} {word} for {what} {name}", set.join(", ")));
        }
    }
    notes
}

/// Refuses what is outside the namespace's bounds.
pub(super) fn validate(object: &Value, request: &Request<'_>, lookup: &dyn Lookup) -> Result<(), Refusal> {
    let claim = request.group.is_empty() && request.plural == "persistentvolumeclaims";
    let resizes = is_pod(request) && request.subresource == "resize";
    let looks = (is_pod(request) && request.operation == Operation::Create && request.subresource.is_empty())
        || resizes
        || (claim && request.subresource.is_empty() && request.operation != Operation::Delete);
    if !looks {
        return Ok(());
    }
    let mut errors: Vec<String> = Vec::new();
    for range in lookup.list("", "limitranges", request.namespace) {
        for item in items(&range) {
            match text(item, "/type") {
                "Container" if !claim => {
                    for list in LISTS {
                        let containers = object.pointer(&format!("/spec/{list}")).and_then(Value::as_array);
                        for container in containers.into_iter().flatten() {
                            let (requests, limits) = (
                                amounts(container, "/resources/requests"),
                                amounts(container, "/resources/limits"),
                            );
                            bounds(item, "Container", &requests, &limits, &mut errors);
                        }
                    }
                }
                "Pod" if !claim => {
                    let (requests, limits) = (whole(object, "requests"), whole(object, "limits"));
                    bounds(item, "Pod", &requests, &limits, &mut errors);
                }
                "PersistentVolumeClaim" if claim => {
                    let requests = amounts(object, "/spec/resources/requests");
                    let limits = amounts(object, "/spec/resources/limits");
                    bounds_of_claim(item, &requests, &limits, &mut errors);
                }
                _ => {}
            }
        }
    }
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(Refusal::Forbidden(one.clone())),
        _ => Err(Refusal::Forbidden(format!("[{}]", errors.join(", ")))),
    }
}

fn whole(pod: &Value, which: &str) -> Amounts {
    let mut sum = Amounts::new();
    let list = |list: &str| pod.pointer(&format!("/spec/{list}")).and_then(Value::as_array);
    let mut sidecars = Amounts::new();
    let add = |to: &mut Amounts, from: &Amounts| {
        for (name, amount) in from {
            let slot = to.entry(name.clone()).or_insert(Quantity::from_units(0).with_format(amount.format()));
            *slot = slot.plus(*amount);
        }
    };
    for container in list("containers").into_iter().flatten() {
        add(&mut sum, &amounts(container, &format!("/resources/{which}")));
    }
    for container in list("initContainers").into_iter().flatten() {
        let mut at_once = amounts(container, &format!("/resources/{which}"));
        if text(container, "/restartPolicy") == "Always" {
            add(&mut sum, &at_once);
            add(&mut sidecars, &at_once);
            continue;
        }
        add(&mut at_once, &sidecars);
        for (name, amount) in at_once {
            let most = sum.entry(name).or_insert(amount);
            *most = (*most).max(amount);
        }
    }
    sum.extend(amounts(pod, &format!("/spec/resources/{which}")));
    sum
}

fn bounds(item: &Value, kind: &str, requests: &Amounts, limits: &Amounts, errors: &mut Vec<String>) {
    for (name, least) in amounts(item, "/min") {
        match (requests.get(&name), limits.get(&name)) {
            (None, _) => {
                errors.push(format!("minimum {name} usage per {kind} is {least}.  No request is specified"))
            }
            (Some(asked), _) if *asked < least => {
                errors.push(format!("minimum {name} usage per {kind} is {least}, but request is {asked}"))
            }
            (_, Some(limit)) if *limit < least => {
                errors.push(format!("minimum {name} usage per {kind} is {least}, but limit is {limit}"))
            }
            _ => {}
        }
    }
    for (name, most) in amounts(item, "/max") {
        match (limits.get(&name), requests.get(&name)) {
            (None, _) => {
                errors.push(format!("maximum {name} usage per {kind} is {most}.  No limit is specified"))
            }
            (Some(limit), _) if *limit > most => {
                errors.push(format!("maximum {name} usage per {kind} is {most}, but limit is {limit}"))
            }
            (_, Some(asked)) if *asked > most => {
                errors.push(format!("maximum {name} usage per {kind} is {most}, but request is {asked}"))
            }
            _ => {}
        }
    }
    for (name, most) in amounts(item, "/maxLimitRequestRatio") {
        let given = |list: &Amounts| list.get(&name).copied().filter(|amount| !amount.is_zero());
        match (given(requests), given(limits)) {
            (None, _) => errors.push(format!(
                "{name} max limit to request ratio per {kind} is {most}, but no request is specified or request is 0"
            )),
            (_, None) => errors.push(format!(
                "{name} max limit to request ratio per {kind} is {most}, but no limit is specified or limit is 0"
            )),
            (Some(asked), Some(limit)) => {
                let ratio = limit.to_f64() / asked.to_f64();
                if ratio > most.to_f64() {
                    errors.push(format!(
                        "{name} max limit to request ratio per {kind} is {most}, but provided ratio is {ratio:.6}"
                    ));
                }
            }
        }
    }
}

fn bounds_of_claim(item: &Value, requests: &Amounts, limits: &Amounts, errors: &mut Vec<String>) {
    let kind = "PersistentVolumeClaim";
    for (name, least) in amounts(item, "/min") {
        match requests.get(&name) {
            None => {
                errors.push(format!("minimum {name} usage per {kind} is {least}.  No request is specified"))
            }
            Some(asked) if *asked < least => {
                errors.push(format!("minimum {name} usage per {kind} is {least}, but request is {asked}"))
            }
            Some(_) => {}
        }
    }
    for (name, most) in amounts(item, "/max") {
        match requests.get(&name).or_else(|| limits.get(&name)) {
            None => {
                errors.push(format!("maximum {name} usage per {kind} is {most}.  No request is specified"))
            }
            Some(asked) if *asked > most => {
                errors.push(format!("maximum {name} usage per {kind} is {most}, but request is {asked}"))
            }
            Some(_) => {}
        }
    }
}
