//! What a Job's policies make of failed pods and succeeded indexes.

use k8s_openapi::api::batch::v1::{JobSpec, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::Pod;

use super::indexes::Indexes;
use crate::pod;

/// The first rule that matches the failed pod: its action and why it matches.
fn matching(spec: &JobSpec, p: &Pod) -> Option<(String, String)> {
    if pod::phase(p) != "Failed" {
        return None;
    }
    let rules = &spec.pod_failure_policy.as_ref()?.rules;
    rules.iter().enumerate().find_map(|(i, rule)| Some((rule.action.clone(), reason(rule, i, p)?)))
}

fn reason(rule: &PodFailurePolicyRule, at: usize, p: &Pod) -> Option<String> {
    let place = format!("{}/{}", p.metadata.namespace.as_deref().unwrap_or(""), pod::name(p));
    let action = &rule.action;
    if let Some(codes) = &rule.on_exit_codes {
        let status = p.status.as_ref()?;
        let all =
            status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
        let ended = all.filter_map(|s| Some((&s.name, s.state.as_ref()?.terminated.as_ref()?.exit_code)));
        let named =
            ended.filter(|(n, code)| *code != 0 && codes.container_name.as_ref().is_none_or(|c| c == *n));
        let (name, code) =
            { named }.find(|(_, code)| codes.values.contains(code) == (codes.operator == "In"))?;
        return Some(format!(
            "Container {name} for pod {place} failed with exit code {code} matching {action} rule at index {at}"
        ));
    }
    let wanted = rule.on_pod_conditions.as_ref()?;
    let met = wanted.iter().find(|w| {
        let status = w.status.as_deref().unwrap_or("True");
        pod::condition(p, &w.type_).is_some_and(|c| c.status == status)
    })?;
    Some(format!("Pod {place} has condition {} matching {action} rule at index {at}", met.type_))
}

/// Whether the failure does not count.
pub(super) fn is_ignored(spec: &JobSpec, p: &Pod) -> bool {
    matching(spec, p).is_some_and(|(action, _)| action == "Ignore")
}

/// Whether the failure ends the pod's index.
pub(super) fn fails_index(spec: &JobSpec, p: &Pod) -> bool {
    matching(spec, p).is_some_and(|(action, _)| action == "FailIndex")
}

/// Why one of the pods fails the whole Job.
pub(super) fn failing(spec: &JobSpec, pods: &[&Pod]) -> Option<String> {
    let mut all = pods.iter().filter_map(|p| matching(spec, p));
    all.find(|(action, _)| action == "FailJob").map(|(_, why)| why)
}

/// Which rule says that enough indexes have succeeded.
pub(super) fn succeeding(spec: &JobSpec, done: &Indexes, completions: i32) -> Option<String> {
    let rules = &spec.success_policy.as_ref()?.rules;
    let at = rules.iter().position(|rule| {
        let wanted = rule.succeeded_indexes.as_deref().map(|text| Indexes::parse(text, completions));
        let (met, all) = match &wanted {
            Some(wanted) => (wanted.shared(done), wanted.len()),
            None => (done.len(), usize::MAX),
        };
        let enough = rule.succeeded_count.and_then(|n| usize::try_from(n).ok()).unwrap_or(all);
        met >= enough
    })?;
    Some(format!("Matched rules at index {at}"))
}
