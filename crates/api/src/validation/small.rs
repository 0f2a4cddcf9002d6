//! Kinds with few rules of their own: access, priorities, runtimes, leases, budgets, storage classes.

use base::names;

use super::check::At;
use super::{Create, Rules, Update, csi, meta, placement, resources, workload};

const RBAC: &str = "rbac.authorization.k8s.io";
const USER_PRIORITY_MAX: i64 = 1_000_000_000;

/// The rules of a kind of the smaller groups.
pub fn rules(group: &str, kind: &str) -> Option<Rules> {
    let (create, update): (Create, Update) = match (group, kind) {
        (RBAC, "Role") => (
            |at| role(at, true),
            |new, old, _| {
                role(new, true);
                meta::update(&new.get("metadata"), &old.get("metadata"));
            },
        ),
        (RBAC, "ClusterRole") => (
            |at| role(at, false),
            |new, old, _| {
                role(new, false);
                meta::update(&new.get("metadata"), &old.get("metadata"));
            },
        ),
        (RBAC, "RoleBinding") => (|at| binding(at, true), |new, old, _| binding_update(new, old, true)),
        (RBAC, "ClusterRoleBinding") => {
            (|at| binding(at, false), |new, old, _| binding_update(new, old, false))
        }
        ("scheduling.k8s.io", "PriorityClass") => (priority, priority_update),
        ("node.k8s.io", "RuntimeClass") => (runtime, |new, old, _| {
            meta::update(&new.get("metadata"), &old.get("metadata"));
            runtime(new);
            new.get("handler").immutable(&old.get("handler"));
        }),
        ("coordination.k8s.io", "Lease") => (
            |at| {
                meta::create(&at.get("metadata"), true, names::dns1123_subdomain);
                lease(&at.get("spec"));
            },
            |new, old, _| {
                meta::update(&new.get("metadata"), &old.get("metadata"));
                lease(&new.get("spec"));
            },
        ),
        ("policy", "PodDisruptionBudget") => (
            |at| {
                meta::accessor(&at.get("metadata"), true, names::path_segment);
                budget(&at.get("spec"));
            },
            |new, _, sub| match sub {
                "status" => {
                    let status = new.get("status");
                    for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
                        status.get(field).not_negative();
                    }
                }
                _ => budget(&new.get("spec")),
            },
        ),
        ("storage.k8s.io", "StorageClass") => (storage_class, storage_class_update),
        _ => return None,
    };
    Some(Rules { create, update })
}

fn role(at: &At<'_>, namespaced: bool) {
    meta::create(&at.get("metadata"), namespaced, names::path_segment);
    for rule in at.get("rules").items() {
        let (urls, groups, resources) =
            (rule.get("nonResourceURLs"), rule.get("apiGroups"), rule.get("resources"));
        rule.get("verbs").need_for("verbs must contain at least one value");
        if !urls.is_empty() {
            if namespaced {
                urls.invalid("namespaced rules cannot apply to non-resource URLs");
            }
            if !groups.is_empty() || !resources.is_empty() || !rule.get("resourceNames").is_empty() {
                urls.invalid("rules cannot apply to both regular resources and non-resource URLs");
            }
            continue;
        }
        groups.need_for("resource rules must supply at least one api group");
        resources.need_for("resource rules must supply at least one resource");
    }
    let aggregation = at.get("aggregationRule");
    if aggregation.is_set() && !namespaced {
        let selectors = aggregation.get("clusterRoleSelectors");
        selectors.need_for("at least one clusterRoleSelector required if aggregationRule is non-nil");
        for selector in selectors.items() {
            let before = selector.found();
            meta::selector(&selector);
            if selector.found() > before {
                selector.invalid_as(serde_json::Value::Null, "invalid label selector.");
            }
        }
    }
}

fn binding(at: &At<'_>, namespaced: bool) {
    meta::create(&at.get("metadata"), namespaced, names::path_segment);
    let role = at.get("roleRef");
    role.get("apiGroup").one_of(&[RBAC]);
    match namespaced {
        true => role.get("kind").one_of(&["Role", "ClusterRole"]),
        false => role.get("kind").one_of(&["ClusterRole"]),
    }
    role.get("name").need_rule(names::path_segment);
    for subject in at.get("subjects").items() {
        let (name, group) = (subject.get("name"), subject.get("apiGroup"));
        name.need();
        match subject.get("kind").text() {
            "ServiceAccount" => {
                name.rule_if_set(names::dns1123_subdomain);
                if !group.is_empty() {
                    group.unsupported(&[""]);
                }
                if !namespaced {
                    subject.get("namespace").need();
                }
            }
            "User" | "Group" => group.one_of(&[RBAC]),
            _ => subject.get("kind").unsupported(&["ServiceAccount", "User", "Group"]),
        }
    }
}

fn binding_update(new: &At<'_>, old: &At<'_>, namespaced: bool) {
    binding(new, namespaced);
    meta::update(&new.get("metadata"), &old.get("metadata"));
    if !new.get("roleRef").same(&old.get("roleRef")) {
        new.get("roleRef").invalid("cannot change roleRef");
    }
}

fn priority(at: &At<'_>) {
    meta::create(&at.get("metadata"), false, names::dns1123_subdomain);
    let name = at.get("metadata");
    let name = name.get("name");
    let value = at.get("value").int();
    if name.text().starts_with("system-") {
        let known = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
        let why = match known.iter().find(|(known, _)| *known == name.text()) {
            None => Some(format!("{} is not a known system priority class", name.text())),
            Some((_, wanted)) if *wanted != value => {
                Some(format!("value of {} PriorityClass must be {wanted}", name.text()))
            }
            Some(_) if at.get("globalDefault").truth() => {
                Some(format!("globalDefault of {} PriorityClass must be false", name.text()))
            }
            Some(_) => None,
        };
        if let Some(why) = why {
            name.forbidden(&format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
            ));
        }
    } else if value > USER_PRIORITY_MAX {
        at.get("value")
            .forbidden(&format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}"));
    }
    let policy = at.get("preemptionPolicy");
    if policy.is_set() {
        policy.need_one_of(&["PreemptLowerPriority", "Never"]);
    }
}

fn priority_update(new: &At<'_>, old: &At<'_>, _: &str) {
    meta::update(&new.get("metadata"), &old.get("metadata"));
    if new.get("value").int() != old.get("value").int() {
        new.get("value").forbidden("may not be changed in an update.");
    }
    new.get("preemptionPolicy").immutable(&old.get("preemptionPolicy"));
}

fn runtime(at: &At<'_>) {
    meta::create(&at.get("metadata"), false, names::dns1123_subdomain);
    at.get("handler").need_rule(names::dns1123_label);
    let overhead = at.get("overhead");
    let limits = overhead.get("limits");
    for (key, amount) in limits.with(overhead.get("podFixed").value).entries() {
        resources::container_name(key, &amount);
        resources::amount(key, &amount);
    }
    let scheduling = at.get("scheduling");
    meta::labels(&scheduling.get("nodeSelector"));
    let tolerations = scheduling.get("tolerations");
    placement::tolerations(&tolerations);
    let keys =
        |at: &At<'_>| ["key", "operator", "value", "effect"].map(|field| at.get(field).text().to_string());
    let mut seen = Vec::new();
    for toleration in tolerations.items() {
        let keys = keys(&toleration);
        if seen.contains(&keys) {
            toleration.duplicate();
        }
        seen.push(keys);
    }
}

fn lease(spec: &At<'_>) {
    let duration = spec.get("leaseDurationSeconds");
    if duration.is_set() && duration.int() <= 0 {
        duration.invalid("must be greater than 0");
    }
    spec.get("leaseTransitions").not_negative();
    if !spec.get("preferredHolder").is_empty() && spec.get("strategy").is_empty() {
        spec.get("preferredHolder").forbidden("may only be specified if `strategy` is defined");
    }
}

fn budget(spec: &At<'_>) {
    let (min, max) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
    if min.is_set() && max.is_set() {
        spec.invalid("minAvailable and maxUnavailable cannot be both set");
    }
    for bound in [min, max] {
        if bound.is_set() {
            workload::int_or_percent(&bound);
            workload::at_most_all(&bound);
        }
    }
    meta::selector(&spec.get("selector"));
    spec.get("unhealthyPodEvictionPolicy").one_of_if_set(&["AlwaysAllow", "IfHealthyBudget"]);
}

fn storage_class(at: &At<'_>) {
    meta::create(&at.get("metadata"), false, names::dns1123_subdomain);
    csi::provisioner(&at.get("provisioner"));
    csi::parameters(&at.get("parameters"));
    if !at.get("reclaimPolicy").is_empty() {
        at.get("reclaimPolicy").one_of(&["Delete", "Retain"]);
    }
    match at.get("volumeBindingMode").is_set() {
        true => at.get("volumeBindingMode").one_of(&["Immediate", "WaitForFirstConsumer"]),
        false => at.get("volumeBindingMode").required(""),
    }
}

fn storage_class_update(new: &At<'_>, old: &At<'_>, _: &str) {
    meta::update(&new.get("metadata"), &old.get("metadata"));
    for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
        new.get(field).immutable(&old.get(field));
    }
}
