//! Evictions: a delete that asks the pod's disruption budgets first.

use http::Response;
use serde_json::{Value, json};
use serve::Body;
use store::{Precondition, Range, StoreError, Write};

use crate::answer;
use crate::object::{self, at, set_at};
use crate::server::Call;
use crate::status::Status;

use super::delete::{DeleteOptions, delete_object};
use super::subresource::{body_of, current};

/// Pods that a budget may have under way at once.
const DISRUPTED_MAX: usize = 2000;
/// How often a budget is tried when others change it meanwhile.
const ATTEMPTS_MAX: usize = 20;

/// POST of an eviction.
pub async fn evict(call: &mut Call) -> Result<Response<Body>, Status> {
    let output = call.output()?;
    let eviction = body_of(call, "policy_v1.Eviction", "CreateOptions").await?;
    let name = call.info.name.clone();
    let own = object::name(&eviction);
    if !own.is_empty() && own != name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let text = |path: &str| at(&eviction, path).and_then(Value::as_str).map(str::to_string);
    let mut options = DeleteOptions {
        grace: at(&eviction, "deleteOptions.gracePeriodSeconds").and_then(Value::as_i64),
        uid: text("deleteOptions.preconditions.uid"),
        version: text("deleteOptions.preconditions.resourceVersion"),
        propagation: text("deleteOptions.propagationPolicy"),
        dry_run: call.query.dry_run()?,
    };
    options.dry_run |= at(&eviction, "deleteOptions.dryRun").is_some_and(|list| *list != json!([]));
    let pod = current(call)?;
    if !ignores_budgets(&pod) {
        ask_budget(call, &pod, options.dry_run).await?;
    }
    if !options.dry_run {
        mark(call, &name, &options).await?;
    }
    delete_object(call, &name, &options).await?;
    let done =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(answer::typed(201, output.format, "meta_v1.Status", &done))
}

/// Says on the pod that it goes because somebody evicted it.
async fn mark(call: &Call, name: &str, options: &DeleteOptions) -> Result<(), Status> {
    let key = call.resource.key(&call.info.namespace, name);
    for _ in 0..ATTEMPTS_MAX {
        let current = call.server.store.get(&key).ok_or_else(|| call.not_found(name))?;
        let mut pod: Value = serde_json::from_slice(&current.json).map_err(Status::internal)?;
        let other = options.uid.as_deref().is_some_and(|uid| uid != object::meta_text(&pod, "uid"));
        if other || options.version.is_some() || object::is_deleting(&pod) {
            // The delete that follows refuses what does not fit; a change here would make a version unfit.
            return Ok(());
        }
        let mut list = at(&pod, "status.conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        list.retain(|condition| condition["type"] != "DisruptionTarget");
        list.push(json!({
            "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting",
            "lastTransitionTime": object::timestamp(jiff::Timestamp::now()),
        }));
        set_at(&mut pod, "status.conditions", list.into());
        let write = Write {
            key: key.clone(),
            precondition: Precondition::Revision(current.modified),
            value: Some(object::draft(&call.resource, &pod)),
            last: None,
        };
        match call.server.store.write(write).await {
            Ok(_) => return Ok(()),
            Err(StoreError::Conflict { .. }) => continue,
            Err(error) => return Err(super::unavailable(error)),
        }
    }
    Err(Status::too_many("couldn't mark the pod as evicted because of conflicts", 10))
}

fn ignores_budgets(pod: &Value) -> bool {
    let phase = at(pod, "status.phase").and_then(Value::as_str).unwrap_or("");
    matches!(phase, "Succeeded" | "Failed" | "Pending") || object::is_deleting(pod)
}

fn is_ready(pod: &Value) -> bool {
    let conditions = at(pod, "status.conditions").and_then(Value::as_array).into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

async fn ask_budget(call: &Call, pod: &Value, dry_run: bool) -> Result<(), Status> {
    let catalog = call.server.catalog();
    let resource =
        catalog.get("policy", "v1", "poddisruptionbudgets").cloned().ok_or_else(Status::no_resource)?;
    for _ in 0..ATTEMPTS_MAX {
        let Some((stored, budget)) = budget_of(call, &resource.table, pod)? else { return Ok(()) };
        let Some(new) = spend(&budget, pod)? else { return Ok(()) };
        if dry_run {
            return Ok(());
        }
        let write = Write {
            key: stored.key.clone(),
            precondition: Precondition::Revision(stored.modified),
            value: Some(object::draft(&resource, &new)),
            last: None,
        };
        match call.server.store.write(write).await {
            Ok(_) => return Ok(()),
            Err(StoreError::Conflict { .. }) => continue,
            Err(error) => return Err(super::unavailable(error)),
        }
    }
    Err(Status::too_many("couldn't update PodDisruptionBudget because of conflicts", 10))
}

/// The one budget that selects the pod.
fn budget_of(
    call: &Call,
    table: &str,
    pod: &Value,
) -> Result<Option<(std::sync::Arc<store::Object>, Value)>, Status> {
    let range = Range { namespace: Some(call.info.namespace.as_str().into()), after: None };
    let labels = pod.pointer("/metadata/labels").cloned().unwrap_or_default();
    let mut found = Vec::new();
    for stored in call.server.store.snapshot(table).iter(&range) {
        let budget: Value = serde_json::from_slice(&stored.json).map_err(Status::internal)?;
        if at(&budget, "spec.selector").is_some_and(|selector| selects(selector, &labels)) {
            found.push((stored.clone(), budget));
        }
    }
    if found.len() > 1 {
        return Err(Status::internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ));
    }
    Ok(found.pop())
}

/// Whether a label selector object selects these labels.
pub fn selects(selector: &Value, labels: &Value) -> bool {
    let label = |key: &str| labels.get(key).and_then(Value::as_str);
    let exact = selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten();
    exact.into_iter().all(|(key, value)| label(key) == value.as_str())
        && selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten().all(|term| {
            let own = label(term["key"].as_str().unwrap_or(""));
            let listed = term["values"].as_array().is_some_and(|values| {
                values.iter().any(|value| value.as_str().is_some_and(|value| Some(value) == own))
            });
            match term["operator"].as_str() {
                Some("In") => listed,
                Some("NotIn") => !listed,
                Some("Exists") => own.is_some(),
                _ => own.is_none(),
            }
        })
}

/// The budget with one disruption less, `None` when this pod costs nothing, or the refusal.
fn spend(budget: &Value, pod: &Value) -> Result<Option<Value>, Status> {
    let name = object::name(budget);
    let number = |path: &str| at(budget, path).and_then(Value::as_i64).unwrap_or(0);
    let ready = is_ready(pod);
    let healthy = number("status.currentHealthy") >= number("status.desiredHealthy");
    let always = at(budget, "spec.unhealthyPodEvictionPolicy").and_then(Value::as_str) == Some("AlwaysAllow");
    if !ready && (always || (healthy && number("status.desiredHealthy") > 0)) {
        return Ok(None);
    }
    let refused = |message: &str, cause: String, retry: u32| {
        Status::too_many(message, retry).with_cause("DisruptionBudget", cause)
    };
    let cannot = "Cannot evict pod as it would violate the pod's disruption budget.";
    if number("status.observedGeneration") < number("metadata.generation") {
        let cause = format!("The disruption budget {name} is still being processed by the server.");
        return Err(refused(cannot, cause, 10));
    }
    if number("status.disruptionsAllowed") < 0 {
        return Err(Status::forbidden(
            "policy",
            "poddisruptionbudgets",
            name,
            "pdb disruptions allowed is negative",
        ));
    }
    let disrupted = at(budget, "status.disruptedPods").and_then(Value::as_object);
    if disrupted.is_some_and(|pods| pods.len() > DISRUPTED_MAX) {
        let cause = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Status::forbidden("policy", "poddisruptionbudgets", name, cause));
    }
    if number("status.disruptionsAllowed") == 0 {
        let cause = format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            number("status.desiredHealthy"),
            number("status.currentHealthy")
        );
        return Err(refused(cannot, cause, 0));
    }
    let mut new = budget.clone();
    set_at(&mut new, "status.disruptionsAllowed", (number("status.disruptionsAllowed") - 1).into());
    let mut pods = disrupted.cloned().unwrap_or_default();
    pods.insert(object::name(pod).to_string(), object::timestamp(jiff::Timestamp::now()).into());
    set_at(&mut new, "status.disruptedPods", pods.into());
    Ok(Some(new))
}
