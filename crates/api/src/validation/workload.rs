//! Workloads of the apps group and replication controllers: selectors, templates, strategies, counts.

use base::names;
use serde_json::{Value, json};

use super::check::At;
use super::{Create, Rules, Update, meta, pod, storage};

const NO_MATCH: &str = "`selector` does not match template `labels`";

/// The rules of a kind of the apps group.
pub fn rules(kind: &str) -> Option<Rules> {
    let (create, update): (Create, Update) = match kind {
        "Deployment" => (
            |at| with_meta(at, deployment),
            |new, old, sub| changed(new, old, sub, deployment, deployment_status),
        ),
        "ReplicaSet" => (
            |at| with_meta(at, replica_set),
            |new, old, sub| changed(new, old, sub, replica_set, replica_set_status),
        ),
        "DaemonSet" => (
            |at| with_meta(at, daemon_set),
            |new, old, sub| changed(new, old, sub, daemon_set, daemon_set_status),
        ),
        "StatefulSet" => (stateful_set_create, stateful_set_update),
        "ControllerRevision" => (revision, |new, old, _| {
            meta::update(&new.get("metadata"), &old.get("metadata"));
            meta::create(&new.get("metadata"), true, names::dns1123_subdomain);
            new.get("revision").not_negative();
            new.get("data").immutable(&old.get("data"));
        }),
        _ => return None,
    };
    Some(Rules { create, update })
}

fn with_meta(at: &At<'_>, spec: fn(&At<'_>)) {
    meta::create(&at.get("metadata"), true, names::dns1123_subdomain);
    spec(&at.get("spec"));
}

/// What changes have in common: the selector stays.
fn changed(new: &At<'_>, old: &At<'_>, subresource: &str, spec: fn(&At<'_>), status: fn(&At<'_>, &At<'_>)) {
    meta::update(&new.get("metadata"), &old.get("metadata"));
    if subresource == "status" {
        return status(&new.get("status"), &old.get("status"));
    }
    spec(&new.get("spec"));
    new.get("spec").get("selector").immutable(&old.get("spec").get("selector"));
}

fn revision(at: &At<'_>) {
    meta::create(&at.get("metadata"), true, names::dns1123_subdomain);
    at.get("revision").not_negative();
    let data = at.get("data");
    if !data.is_set() {
        data.required("data is mandatory");
    } else if !data.value.is_object() {
        data.required("data must be a valid JSON object");
    }
}

/// The selector of a workload, which may not be empty.
fn selector(at: &At<'_>, kind: &str) -> bool {
    if !at.is_set() {
        at.required("");
        return true;
    }
    let before = at.found();
    meta::selector(at);
    let good = at.found() == before;
    if at.get("matchLabels").len() + at.get("matchExpressions").len() == 0 {
        at.invalid(&format!("empty selector is invalid for {kind}"));
    }
    good
}

/// Whether the template's labels fulfil the selector; no selector selects nothing.
fn matches(spec: &At<'_>, template: &At<'_>) {
    let selector = spec.get("selector");
    let some = !selector.get("matchLabels").is_empty() || !selector.get("matchExpressions").is_empty();
    let metadata = template.get("metadata");
    let labels = metadata.get("labels");
    if !selector.is_set() || (some && !meta::selects(&selector, labels.value)) {
        labels.invalid(NO_MATCH);
    }
}

/// Pods of workloads run for ever.
fn for_ever(template: &At<'_>, kind: &str) {
    let spec = template.get("spec");
    if spec.get("restartPolicy").text() != "Always" {
        spec.get("restartPolicy").unsupported(&["Always"]);
    }
    if spec.get("activeDeadlineSeconds").is_set() {
        spec.get("activeDeadlineSeconds")
            .forbidden(&format!("activeDeadlineSeconds in {kind} is not Supported"));
    }
}

fn replicas(spec: &At<'_>) {
    let template = spec.get("template");
    if selector(&spec.get("selector"), "deployment") {
        matches(spec, &template);
        pod::template(&template);
        for_ever(&template, "ReplicaSet");
    } else {
        spec.get("selector").invalid("invalid label selector");
    }
}

fn replica_set(spec: &At<'_>) {
    spec.get("replicas").not_negative();
    spec.get("minReadySeconds").not_negative();
    replicas(spec);
}

fn deployment(spec: &At<'_>) {
    spec.get("replicas").not_negative();
    replicas(spec);
    strategy(&spec.get("strategy"));
    spec.get("minReadySeconds").not_negative();
    spec.get("revisionHistoryLimit").not_negative();
    let deadline = spec.get("progressDeadlineSeconds");
    if deadline.is_set() {
        deadline.not_negative();
        if deadline.int() <= spec.get("minReadySeconds").int() {
            deadline.invalid("must be greater than minReadySeconds");
        }
    }
}

fn strategy(at: &At<'_>) {
    let rolling = at.get("rollingUpdate");
    match at.get("type").text() {
        "Recreate" if rolling.is_set() => {
            rolling.forbidden("may not be specified when strategy `type` is 'Recreate'");
        }
        "Recreate" => {}
        "RollingUpdate" if !rolling.is_set() => {
            rolling.required("this should be defaulted and never be nil");
        }
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            int_or_percent(&unavailable);
            int_or_percent(&surge);
            if number(&unavailable) == 0 && number(&surge) == 0 {
                unavailable.invalid("may not be 0 when `maxSurge` is 0");
            }
            at_most_all(&unavailable);
        }
        _ => at.unsupported(&["Recreate", "RollingUpdate"]),
    }
}

/// A count or a percentage.
pub fn int_or_percent(at: &At<'_>) {
    match at.value {
        Value::String(text) => {
            let digits = text.strip_suffix('%').unwrap_or("");
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                at.invalid(
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                );
            }
        }
        _ => at.not_negative(),
    }
}

fn percent(at: &At<'_>) -> Option<i64> {
    at.value.as_str()?.strip_suffix('%')?.parse().ok()
}

fn number(at: &At<'_>) -> i64 {
    percent(at).unwrap_or_else(|| at.int())
}

/// A percentage of at most a hundred.
pub fn at_most_all(at: &At<'_>) {
    if percent(at).is_some_and(|percent| percent > 100) {
        at.invalid("must not be greater than 100%");
    }
}

fn daemon_set(spec: &At<'_>) {
    let (wanted, template) = (spec.get("selector"), spec.get("template"));
    let before = wanted.found();
    meta::selector(&wanted);
    let metadata = template.get("metadata");
    let labels = metadata.get("labels");
    if wanted.found() == before && (!wanted.is_set() || !meta::selects(&wanted, labels.value)) {
        labels.invalid(NO_MATCH);
    }
    if wanted.is_set() && wanted.get("matchLabels").len() + wanted.get("matchExpressions").len() == 0 {
        wanted.invalid("empty selector is invalid for daemonset");
    }
    pod::template(&template);
    for_ever(&template, "DaemonSet");
    spec.get("minReadySeconds").not_negative();
    daemon_strategy(&spec.get("updateStrategy"));
    spec.get("revisionHistoryLimit").not_negative();
}

fn daemon_strategy(at: &At<'_>) {
    let rolling = at.get("rollingUpdate");
    match at.get("type").text() {
        "OnDelete" => {}
        "RollingUpdate" if !rolling.is_set() => rolling.required(""),
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            int_or_percent(&unavailable);
            int_or_percent(&surge);
            at_most_all(&unavailable);
            at_most_all(&surge);
            match (number(&unavailable) != 0, number(&surge) != 0) {
                (true, true) => surge.invalid("may not be set when maxUnavailable is non-zero"),
                (false, false) => unavailable.required("cannot be 0 when maxSurge is 0"),
                _ => {}
            }
        }
        _ => at.unsupported(&["RollingUpdate", "OnDelete"]),
    }
}

fn stateful_set_create(at: &At<'_>) {
    meta::create(&at.get("metadata"), true, names::dns1123_label);
    stateful_set(&at.get("spec"), true);
}

fn stateful_set(spec: &At<'_>, create: bool) {
    let policy = spec.get("podManagementPolicy");
    if policy.need() && !matches!(policy.text(), "OrderedReady" | "Parallel") {
        policy.invalid("must be 'OrderedReady' or 'Parallel'");
    }
    stateful_strategy(&spec.get("updateStrategy"));
    let retention = spec.get("persistentVolumeClaimRetentionPolicy");
    if retention.is_set() {
        for field in ["whenDeleted", "whenScaled"] {
            retention.get(field).one_of(&["Retain", "Delete"]);
        }
    }
    for claim in spec.get("volumeClaimTemplates").items().filter(|_| create) {
        storage::claim_spec(&claim.get("spec"));
    }
    spec.get("replicas").not_negative();
    spec.get("minReadySeconds").not_negative();
    if spec.get("ordinals").get("start").int() < 0 {
        let start = spec.get("ordinals").get("start").int();
        spec.get("ordinals.start").invalid_as(start, "must be greater than or equal to 0");
    }
    if create {
        spec.get("serviceName").rule_if_set(names::dns1123_label);
    }
    let template = spec.get("template");
    if selector(&spec.get("selector"), "statefulset") {
        matches(spec, &template);
        match with_claims(spec) {
            None => pod::template(&template),
            Some(value) => pod::template(&template.with(&value)),
        }
    } else {
        spec.get("selector").invalid("");
    }
    for_ever(&template, "StatefulSet");
}

/// The template with the volumes that its claims become, when there are any.
fn with_claims(spec: &At<'_>) -> Option<Value> {
    let claims = spec.get("volumeClaimTemplates");
    let own = spec.get("template");
    let own = own.get("spec");
    if claims.is_empty() && own.get("hostname").is_empty() && own.get("subdomain").is_empty() {
        return None;
    }
    let mut template = spec.get("template").value.clone();
    let pod = template.get_mut("spec")?.as_object_mut()?;
    pod.remove("hostname");
    pod.remove("subdomain");
    if !claims.is_empty() {
        let names: Vec<&Value> = claims.value.as_array()?.iter().map(|c| &c["metadata"]["name"]).collect();
        let volume = |name: &&Value| json!({"name": name, "persistentVolumeClaim": {"claimName": name}});
        let distinct = names.iter().enumerate().filter(|(i, name)| !names[..*i].contains(name));
        let mut volumes: Vec<Value> = distinct.map(|(_, name)| volume(name)).collect();
        let given = pod.get("volumes").and_then(Value::as_array).cloned().unwrap_or_default();
        volumes.extend(given.into_iter().filter(|volume| !names.contains(&&volume["name"])));
        pod.insert("volumes".to_string(), Value::Array(volumes));
    }
    Some(template)
}

fn stateful_strategy(at: &At<'_>) {
    let rolling = at.get("rollingUpdate");
    match at.get("type").text() {
        "" => at.required(""),
        "OnDelete" if rolling.is_set() => {
            rolling.invalid("only allowed for updateStrategy 'RollingUpdate'");
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            rolling.get("partition").not_negative();
            let unavailable = rolling.get("maxUnavailable");
            if unavailable.is_set() {
                int_or_percent(&unavailable);
                at_most_all(&unavailable);
                if number(&unavailable) == 0 {
                    unavailable.invalid("cannot be 0");
                }
            }
        }
        _ => at.invalid("must be 'RollingUpdate' or 'OnDelete'"),
    }
}

fn stateful_set_update(new: &At<'_>, old: &At<'_>, subresource: &str) {
    meta::update(&new.get("metadata"), &old.get("metadata"));
    if subresource == "status" {
        let status = new.get("status");
        counts(
            &status,
            &["replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"],
        );
        status.get("observedGeneration").not_negative();
        status.get("collisionCount").not_negative();
        at_most_replicas(
            &status,
            &["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"],
        );
        if status.get("availableReplicas").int() > status.get("readyReplicas").int() {
            status.get("availableReplicas").invalid("cannot be greater than status.readyReplicas");
        }
        return collisions(&status, &old.get("status"));
    }
    let spec = new.get("spec");
    stateful_set(&spec, false);
    let mutable = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let rest = |at: &At<'_>| -> Vec<(String, Value)> {
        let fields = at.value.as_object().into_iter().flatten();
        fields.filter(|(k, _)| !mutable.contains(&k.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    if rest(&spec) != rest(&old.get("spec")) {
        spec.forbidden(
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}

fn counts(status: &At<'_>, fields: &[&str]) {
    for field in fields {
        status.get(field).not_negative();
    }
}

fn at_most_replicas(status: &At<'_>, fields: &[&str]) {
    let all = status.get("replicas").int();
    for field in fields {
        if status.get(field).int() > all {
            let count = status.get(field);
            count.invalid_as(count.int(), "cannot be greater than status.replicas");
        }
    }
}

fn collisions(new: &At<'_>, old: &At<'_>) {
    let (now, before) = (new.get("collisionCount"), old.get("collisionCount"));
    if before.is_set() && now.int() < before.int() {
        now.invalid_as(now.int(), "cannot be decremented");
    }
}

fn deployment_status(new: &At<'_>, old: &At<'_>) {
    counts(
        new,
        &[
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "terminatingReplicas",
            "collisionCount",
        ],
    );
    at_most_replicas(new, &["updatedReplicas", "readyReplicas", "availableReplicas"]);
    ready_enough(new);
    collisions(new, old);
}

fn ready_enough(status: &At<'_>) {
    if status.get("availableReplicas").int() > status.get("readyReplicas").int() {
        status.get("availableReplicas").invalid("cannot be greater than readyReplicas");
    }
}

fn replica_set_status(new: &At<'_>, _: &At<'_>) {
    counts(
        new,
        &[
            "replicas",
            "fullyLabeledReplicas",
            "readyReplicas",
            "availableReplicas",
            "observedGeneration",
            "terminatingReplicas",
        ],
    );
    at_most_replicas(new, &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"]);
    ready_enough(new);
}

fn daemon_set_status(new: &At<'_>, old: &At<'_>) {
    counts(
        new,
        &[
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ],
    );
    collisions(new, old);
}

/// The older sort of replica set, whose selector is a map.
pub mod replication_controller {
    use super::*;

    /// A new controller.
    pub fn create(at: &At<'_>) {
        with_meta(at, spec);
    }

    /// A changed controller.
    pub fn update(new: &At<'_>, old: &At<'_>, subresource: &str) {
        meta::update(&new.get("metadata"), &old.get("metadata"));
        match subresource {
            "status" => replica_set_status(&new.get("status"), &old.get("status")),
            _ => spec(&new.get("spec")),
        }
    }

    fn spec(at: &At<'_>) {
        at.get("minReadySeconds").not_negative();
        let selector = at.get("selector");
        if selector.is_empty() {
            selector.required("");
        }
        if !at.get("replicas").is_set() {
            at.get("replicas").required("");
        }
        at.get("replicas").not_negative();
        let template = at.get("template");
        if !template.is_set() {
            return template.required("");
        }
        let metadata = template.get("metadata");
        let labels = metadata.get("labels");
        if selector.entries().any(|(key, value)| labels.key(key).text() != value.text()) {
            labels.invalid(NO_MATCH);
        }
        pod::template(&template);
        for_ever(&template, "ReplicationController");
    }
}
