//! PodDisruptionBudget: how many of the selected pods may be disrupted now. Follows upstream's
//! `pkg/controller/disruption`.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::percent::scaled;
use crate::{Action, Note, Plan, Wake, pod};

/// How long a pod whose eviction was allowed counts as disrupted although it is still there.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
const CONDITION: &str = "DisruptionAllowed";

/// What the plan is made from.
pub struct View<'a> {
    /// The budget.
    pub budget: &'a PodDisruptionBudget,
    /// The pods its selector matches.
    pub pods: Vec<&'a Pod>,
    /// The topmost controller of a controlling owner, by uid, with the replicas it wants.
    pub scale: &'a dyn Fn(&OwnerReference) -> Option<(String, i32)>,
}

struct Counts {
    expected: i32,
    desired: i32,
}

/// Brings the budget's status up to date.
#[must_use]
pub fn plan(view: &View<'_>, now: Timestamp) -> Plan {
    let budget = view.budget;
    let mut plan = Plan::default();
    if view.pods.is_empty() {
        plan.because("no pod is selected");
    }
    let (disrupted, recheck) = disrupted(view, now);
    plan.wake = Wake::OnChange.or_at(recheck);
    let healthy = view.pods.iter().filter(|p| is_healthy(p) && !disrupted.contains_key(pod::name(**p)));
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    let (status, failure) = match counts(view) {
        Ok(counts) => {
            let left = healthy - counts.desired;
            let allowed = if counts.expected <= 0 || left <= 0 { 0 } else { left };
            let (state, reason) =
                if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
            let status = PodDisruptionBudgetStatus {
                conditions: Some(vec![condition(budget, state, reason, "", now)]),
                current_healthy: Some(healthy),
                desired_healthy: Some(counts.desired),
                disrupted_pods: Some(disrupted).filter(|d| !d.is_empty()),
                disruptions_allowed: Some(allowed),
                expected_pods: Some(counts.expected),
                observed_generation: budget.metadata.generation,
            };
            (status, None)
        }
        Err(why) => {
            let old = budget.status.clone().unwrap_or_default();
            let status = PodDisruptionBudgetStatus {
                conditions: Some(vec![condition(budget, "False", "SyncFailed", &why, now)]),
                disruptions_allowed: Some(0),
                observed_generation: budget.metadata.generation,
                ..old
            };
            (status, Some(why))
        }
    };
    if budget.status.as_ref() == Some(&status) {
        plan.because("the status is up to date");
        return plan;
    }
    if let Some(why) = failure {
        let text = format!("Failed to calculate the number of expected pods: {why}");
        plan.actions.push(Action::event(budget, Note::warning("CalculateExpectedPodCountFailed", text)));
    } else if view.pods.is_empty() && budget.status.as_ref().is_none_or(|s| s.expected_pods != Some(0)) {
        plan.actions.push(Action::event(budget, Note::normal("NoPods", "No matching pods found")));
    }
    let new = PodDisruptionBudget { status: Some(status), ..budget.clone() };
    plan.actions.extend(Action::patch_status(budget, &new));
    plan
}

fn is_healthy(p: &Pod) -> bool {
    !pod::is_deleting(p) && pod::is_ready(p)
}

/// The pods on their way out, and when the first of them must be looked at again.
fn disrupted(view: &View<'_>, now: Timestamp) -> (BTreeMap<String, Time>, Option<Timestamp>) {
    let known = view.budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref());
    let mut kept = BTreeMap::new();
    let mut recheck: Option<Timestamp> = None;
    for (name, since) in known.into_iter().flatten() {
        let there = view.pods.iter().any(|p| pod::name(*p) == name && !pod::is_deleting(*p));
        let Ok(until) = since.0.checked_add(DELETION_TIMEOUT) else { continue };
        if there && until > now {
            kept.insert(name.clone(), since.clone());
            recheck = Some(recheck.map_or(until, |at| at.min(until)));
        }
    }
    (kept, recheck)
}

fn counts(view: &View<'_>) -> Result<Counts, String> {
    let spec = view.budget.spec.as_ref();
    let (least, most) =
        (spec.and_then(|s| s.min_available.as_ref()), spec.and_then(|s| s.max_unavailable.as_ref()));
    let share = |value: &IntOrString, total: i32| {
        scaled(value, total, true).ok_or_else(|| "invalid value for IntOrString: invalid type".to_owned())
    };
    match (most, least) {
        (Some(most), _) => {
            let expected = expected(view)?;
            let desired = (expected - share(most, expected)?).max(0);
            Ok(Counts { expected, desired })
        }
        (None, Some(IntOrString::Int(least))) => {
            Ok(Counts { expected: i32::try_from(view.pods.len()).unwrap_or(i32::MAX), desired: *least })
        }
        (None, Some(least)) => {
            let expected = expected(view)?;
            Ok(Counts { expected, desired: share(least, expected)? })
        }
        (None, None) => Ok(Counts { expected: 0, desired: 0 }),
    }
}

/// The replicas that the controllers of the selected pods want together.
fn expected(view: &View<'_>) -> Result<i32, String> {
    let mut scales: BTreeMap<String, i32> = BTreeMap::new();
    for p in &view.pods {
        let owner = pod::controller_of(&p.metadata)
            .ok_or_else(|| format!("found no controller ref for pod {:?}", pod::name(*p)))?;
        if scales.contains_key(&owner.uid) {
            continue;
        }
        let (uid, replicas) = (view.scale)(owner).ok_or_else(|| {
            format!(
                "unmanaged pods: {}/{} {} of pod {:?} has no scale",
                owner.api_version,
                owner.kind,
                owner.name,
                pod::name(*p)
            )
        })?;
        scales.insert(uid, replicas);
    }
    Ok(scales.values().sum())
}

/// The one condition; its time is that of the last change.
fn condition(
    budget: &PodDisruptionBudget,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Condition {
    let old =
        budget.status.as_ref().and_then(|s| s.conditions.iter().flatten().find(|c| c.type_ == CONDITION));
    let since = old.filter(|c| c.status == status).map_or_else(
        || Time(Timestamp::from_second(now.as_second()).unwrap_or(now)),
        |c| c.last_transition_time.clone(),
    );
    Condition {
        last_transition_time: since,
        message: message.to_owned(),
        observed_generation: budget.metadata.generation,
        reason: reason.to_owned(),
        status: status.to_owned(),
        type_: CONDITION.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pods(ready: usize, waiting: usize) -> Vec<Pod> {
        let state = |i: usize| if i < ready { "True" } else { "False" };
        let make = |i: usize| {
            json!({"metadata": {"name": format!("p{i}"), "uid": i.to_string(), "ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "u", "controller": true}]},
                "status": {"conditions": [{"type": "Ready", "status": state(i)}]}})
        };
        (0..ready + waiting).map(|i| serde_json::from_value(make(i)).expect("pod")).collect()
    }

    #[test]
    fn budgets_by_table() {
        // spec, ready, waiting, replicas wanted; expected, desired, healthy, allowed
        let table: [(Value, usize, usize, i32, [i32; 4]); 7] = [
            (json!({"minAvailable": 2}), 3, 0, 3, [3, 2, 3, 1]),
            (json!({"minAvailable": 3}), 3, 0, 3, [3, 3, 3, 0]),
            (json!({"minAvailable": "50%"}), 2, 1, 5, [5, 3, 2, 0]),
            (json!({"maxUnavailable": 1}), 4, 0, 4, [4, 3, 4, 1]),
            (json!({"maxUnavailable": "30%"}), 9, 1, 10, [10, 7, 9, 2]),
            (json!({"minAvailable": 0}), 0, 0, 0, [0, 0, 0, 0]),
            (json!({"maxUnavailable": 0}), 2, 0, 2, [2, 2, 2, 0]),
        ];
        let now = "2026-01-01T00:00:00Z".parse().expect("time");
        for (spec, ready, waiting, replicas, wanted) in table {
            let budget: PodDisruptionBudget =
                serde_json::from_value(json!({"metadata": {"name": "b", "namespace": "n"}, "spec": spec}))
                    .expect("budget");
            let pods = pods(ready, waiting);
            let scale = |_: &OwnerReference| Some(("d".to_owned(), replicas));
            let view = View { budget: &budget, pods: pods.iter().collect(), scale: &scale };
            let plan = plan(&view, now);
            let status = plan.actions.iter().find_map(|action| match action {
                Action::Patch { patch, .. } => Some(patch["status"].clone()),
                _ => None,
            });
            let status = status.expect("a patch");
            let got = ["expectedPods", "desiredHealthy", "currentHealthy", "disruptionsAllowed"]
                .map(|field| status.get(field).and_then(Value::as_i64).unwrap_or(0));
            assert_eq!(got, wanted.map(i64::from), "{:?}", budget.spec);
        }
    }

    #[test]
    fn evicted_pods_count_until_they_are_gone() {
        let budget: PodDisruptionBudget = serde_json::from_value(json!({"metadata": {"name": "b"},
            "spec": {"minAvailable": 1}, "status": {"currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0,
                "disruptionsAllowed": 0,
                "disruptedPods": {"p0": "2026-01-01T00:00:00Z", "p9": "2026-01-01T00:00:00Z"}}}))
        .expect("budget");
        let pods = pods(2, 0);
        let scale = |_: &OwnerReference| None;
        let view = View { budget: &budget, pods: pods.iter().collect(), scale: &scale };
        let at = |seconds: i64| {
            "2026-01-01T00:00:00Z".parse::<Timestamp>().expect("time") + SignedDuration::from_secs(seconds)
        };
        let (kept, recheck) = disrupted(&view, at(60));
        assert_eq!((kept.len(), recheck), (1, Some(at(120))));
        assert_eq!(disrupted(&view, at(121)).0.len(), 0);
    }
}
