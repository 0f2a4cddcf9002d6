//! What the standards of a namespace mean for a request.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::checks::{details, evaluate, reasons};
use super::pod::{Pod, list, text};
use super::{BadLabel, Level, Policy, Standard};

/// How many pods of a namespace are looked at when its labels change.
const PODS_MAX: usize = 3000;

/// Subresources of pods that change nothing of what they may do.
const IGNORED: [&str; 8] = ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

/// What follows for a pod or the template of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Why it is forbidden, if it is.
    pub refused: Option<String>,
    /// What to warn of.
    pub warnings: Vec<String>,
    /// What to note in the audit, key and value.
    pub notes: Vec<(&'static str, String)>,
}

/// What follows for a change of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamespaceAnswer {
    /// Nothing.
    Fine,
    /// Its labels say nothing known.
    Invalid(Vec<BadLabel>),
    /// Pods there may be against what it now enforces: see [`existing`].
    Check(Standard),
}

/// Whether requests to this subresource of pods are looked at.
pub fn is_looked_at(subresource: &str) -> bool {
    !IGNORED.contains(&subresource)
}

/// Whether a change of a pod may make it do what it could not.
pub fn is_significant(old: &Value, new: &Value) -> bool {
    let (old, new) = (&old["spec"], &new["spec"]);
    let image = |container: &Value| text(container, &["image"]).to_owned();
    let images = |spec: &Value, key| list(spec, &[key]).iter().map(image).collect::<Vec<_>>();
    if ["containers", "initContainers"].iter().any(|key| images(old, key) != images(new, key)) {
        return true;
    }
    let before = list(old, &["ephemeralContainers"]);
    list(new, &["ephemeralContainers"]).iter().any(|container| {
        let own = before.iter().find(|own| own["name"] == container["name"]);
        own.is_none_or(|own| image(own) != image(container))
    })
}

/// The template within a workload, if it has one.
pub fn template<'a>(group: &str, plural: &str, object: &'a Value) -> Option<Pod<'a>> {
    let at = match (group, plural) {
        ("", "podtemplates") => "/template",
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => "/spec/template",
        ("batch", "cronjobs") => "/spec/jobTemplate/spec/template",
        _ => return None,
    };
    object.pointer(at).filter(|template| template.is_object()).map(Pod::of)
}

/// Judges a pod that is made or significantly changed.
pub fn pod(policy: &Policy, bad: &[BadLabel], pod: Pod<'_>) -> Answer {
    judge(policy, bad, pod, true)
}

/// Judges the template of a workload: nothing is refused, its pods will be.
pub fn controller(policy: &Policy, bad: &[BadLabel], pod: Pod<'_>) -> Answer {
    if bad.is_empty() && [policy.warn, policy.audit].iter().all(|s| s.level == Level::Privileged) {
        return Answer::default();
    }
    judge(policy, bad, pod, false)
}

fn judge(policy: &Policy, bad: &[BadLabel], pod: Pod<'_>, enforce: bool) -> Answer {
    let mut answer = Answer::default();
    if !bad.is_empty() {
        let errors: Vec<String> =
            bad.iter().map(|bad| format!("{}: {}", bad.field(), bad.message())).collect();
        let errors = match errors.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        answer.notes.push(("error", format!("Failed to parse policy: {errors}")));
    }
    if enforce {
        answer.notes.push(("enforce-policy", policy.enforce.to_string()));
        let against = evaluate(policy.enforce, pod);
        if !against.is_empty() {
            let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, details(&against));
            answer.refused = Some(why);
        }
    }
    let would = |standard: Standard| {
        let against = evaluate(standard, pod);
        let tell = || format!("would violate PodSecurity \"{standard}\": {}", details(&against));
        (!against.is_empty()).then(tell)
    };
    answer.notes.extend(would(policy.audit).map(|violations| ("audit-violations", violations)));
    if answer.refused.is_none() {
        answer.warnings.extend(would(policy.warn));
    }
    answer
}

/// A label of an object.
fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get("labels")?.get(key)?.as_str()
}

/// Judges a namespace that is made (without `old`) or changed.
pub fn namespace(defaults: &Policy, old: Option<&Value>, new: &Value) -> NamespaceAnswer {
    let (policy, bad) = Policy::of(defaults, |key| label(new, key));
    let Some(old) = old else {
        return if bad.is_empty() { NamespaceAnswer::Fine } else { NamespaceAnswer::Invalid(bad) };
    };
    let (before, bad_before) = Policy::of(defaults, |key| label(old, key));
    if !bad.is_empty() && bad != bad_before {
        return NamespaceAnswer::Invalid(bad);
    }
    let (now, before) = (policy.enforce, before.enforce);
    let relaxed = now.version == before.version && now.level <= before.level;
    match now == before || now.level == Level::Privileged || relaxed {
        true => NamespaceAnswer::Fine,
        false => NamespaceAnswer::Check(now),
    }
}

/// Warnings about pods of a namespace that are against what it enforces from now on. One pod per owner is looked
/// at before any second one.
pub fn existing(namespace: &str, enforce: Standard, pods: &[Value]) -> Vec<String> {
    let mut owners = BTreeSet::new();
    let (mut first, second): (Vec<&Value>, Vec<&Value>) = pods.iter().partition(|pod| {
        let references = list(pod, &["metadata", "ownerReferences"]);
        let owner = references.iter().find(|owner| owner["controller"] == true);
        owner.is_none_or(|owner| owners.insert(text(owner, &["uid"])))
    });
    first.extend(second);
    let mut found: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for pod in first.iter().take(PODS_MAX) {
        let against = evaluate(enforce, Pod::of(pod));
        if !against.is_empty() {
            found.entry(reasons(&against)).or_default().push(text(pod, &["metadata", "name"]));
        }
    }
    let mut warnings = Vec::new();
    if first.len() > PODS_MAX {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {PODS_MAX} of {} existing pods",
            first.len()
        ));
    }
    if !found.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{enforce}\""
        ));
    }
    let mut lines: Vec<String> = found.iter().map(|(reasons, names)| line(reasons, names)).collect();
    lines.sort();
    warnings.extend(lines);
    warnings
}

fn line(reasons: &str, names: &[&str]) -> String {
    let name = names.iter().min().copied().unwrap_or_default();
    match names.len() {
        0 | 1 => format!("{name}: {reasons}"),
        2 => format!("{name} (and 1 other pod): {reasons}"),
        many => format!("{name} (and {} other pods): {reasons}", many - 1),
    }
}
