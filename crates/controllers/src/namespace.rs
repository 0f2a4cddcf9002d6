//! The end of a namespace: its pods go first, then everything else, then the namespace itself.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{Action, Plan, Resource, Target, diff, pod};

/// The finalizer that stands for "its content is not gone yet".
const FINALIZER: &str = "kubernetes";
/// How long to wait before looking again at content that is slow to go, in seconds.
const AGAIN_S: i64 = 5;

/// What is left of one resource.
#[derive(Clone, Debug)]
pub struct Remaining {
    /// The resource.
    pub resource: Resource,
    /// How many objects there are.
    pub count: usize,
    /// How many of them have not been asked to go.
    pub untouched: usize,
    /// How many objects each finalizer keeps.
    pub finalizers: BTreeMap<String, usize>,
}

/// What the planner is told: read from the API itself, because the end of a namespace is final.
pub struct View<'a> {
    /// The namespace.
    pub namespace: &'a Namespace,
    /// What is left, of resources of which something is.
    pub remaining: &'a [Remaining],
    /// Which APIs could not be asked, and why.
    pub discovery_failure: Option<&'a str>,
    /// What could not be deleted or listed, and why.
    pub content_failure: Option<&'a str>,
}

/// Whether the namespace still waits for its content to go.
#[must_use]
pub fn is_unfinished(namespace: &Namespace) -> bool {
    let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.as_ref());
    pod::is_deleting(namespace) && finalizers.is_some_and(|f| f.iter().any(|f| f == FINALIZER))
}

/// Deletes the content, says how far that is, and lets the namespace go when nothing is left.
#[must_use]
pub fn plan(view: &View<'_>, now: Timestamp) -> Plan {
    let namespace = view.namespace;
    if !is_unfinished(namespace) {
        return Plan::idle("the namespace is not being deleted, or its content is gone");
    }
    let mut plan = Plan::default();
    let pods = view.remaining.iter().find(|r| r.resource.plural == "pods" && r.resource.group.is_empty());
    let in_turn = view.remaining.iter().filter(|r| pods.is_none_or(|p| p.resource == r.resource));
    let name = pod::name(namespace).to_owned();
    for remaining in in_turn.filter(|r| r.untouched > 0) {
        plan.actions
            .push(Action::DeleteAll { resource: remaining.resource.clone(), namespace: name.clone() });
    }
    let conditions = conditions(view, now);
    let mut new = namespace.clone();
    let status = new.status.get_or_insert_default();
    status.conditions = Some(conditions);
    status.phase = Some("Terminating".to_owned());
    // What has not been asked to go is asked before anything is said of what stays.
    let progressing = !plan.actions.is_empty();
    let empty =
        view.remaining.is_empty() && view.discovery_failure.is_none() && view.content_failure.is_none();
    if !progressing && !empty {
        plan.actions.extend(Action::patch_status(namespace, &new));
    }
    if empty {
        plan.because("nothing is left");
        plan.actions.push(finalize(namespace));
        return plan;
    }
    let count: usize = view.remaining.iter().map(|r| r.count).sum();
    plan.because(format!("{count} objects of {} kinds are left", view.remaining.len()));
    let wait =
        if progressing { SignedDuration::from_millis(100) } else { SignedDuration::from_secs(AGAIN_S) };
    plan.wake = plan.wake.or_at(Some(now + wait));
    plan
}

fn finalize(namespace: &Namespace) -> Action {
    let mut new = namespace.clone();
    if let Some(finalizers) = new.spec.get_or_insert_default().finalizers.as_mut() {
        finalizers.retain(|f| f != FINALIZER);
    }
    let object = Box::new(diff::value(&new));
    Action::Replace { target: Target::of(namespace), subresource: "finalize", object }
}

fn conditions(view: &View<'_>, now: Timestamp) -> Vec<NamespaceCondition> {
    let resources: Vec<String> = view
        .remaining
        .iter()
        .map(|r| format!("{}.{} has {} resource instances", r.resource.plural, r.resource.group, r.count))
        .collect();
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, count) in view.remaining.iter().flat_map(|r| &r.finalizers) {
        *finalizers.entry(name).or_default() += count;
    }
    let finalizers: Vec<String> =
        finalizers.iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect();
    let listed = |prefix: &str, items: Vec<String>| {
        (!items.is_empty()).then(|| format!("{prefix}: {}", sorted(items).join(", ")))
    };
    let found: [(&str, Option<String>, [&str; 3]); 5] = [
        (
            "NamespaceDeletionDiscoveryFailure",
            view.discovery_failure.map(str::to_owned),
            ["DiscoveryFailed", "ResourcesDiscovered", "All resources successfully discovered"],
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ["GroupVersionParsingFailed", "ParsedGroupVersions", "All legacy kube types successfully parsed"],
        ),
        (
            "NamespaceDeletionContentFailure",
            view.content_failure.map(|e| format!("Failed to delete all resource types, 1 remaining: {e}")),
            [
                "ContentDeletionFailed",
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ],
        ),
        (
            "NamespaceContentRemaining",
            listed("Some resources are remaining", resources),
            ["SomeResourcesRemain", "ContentRemoved", "All content successfully removed"],
        ),
        (
            "NamespaceFinalizersRemaining",
            listed("Some content in the namespace has finalizers remaining", finalizers),
            ["SomeFinalizersRemain", "ContentHasNoFinalizers", "All content-preserving finalizers finished"],
        ),
    ];
    let old = view.namespace.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    found
        .into_iter()
        .map(|(kind, trouble, [bad, good, fine])| {
            let status = if trouble.is_some() { "True" } else { "False" };
            let before = old.iter().find(|c| c.type_ == kind && c.status == status);
            NamespaceCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(if trouble.is_some() { bad } else { good }.to_owned()),
                message: Some(trouble.unwrap_or_else(|| fine.to_owned())),
                last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or(Some(Time(now))),
            }
        })
        .collect()
}

fn sorted(mut items: Vec<String>) -> Vec<String> {
    items.sort();
    items
}
