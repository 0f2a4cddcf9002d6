//! Jobs and cron jobs.

use base::names;
use serde_json::Value;

use super::check::At;
use super::{Rules, meta, pod};

const PARALLEL_MAX: i64 = 100_000;
const FAILED_INDEXES_MAX: i64 = 100_000;
const RULES_MAX: usize = 20;
const PATTERNS_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const MANAGED_BY_MAX: usize = 63;
/// A cron job's name leaves room for the eleven characters that its jobs add.
const CRON_NAME_MAX: usize = 52;

/// The rules of a kind of the batch group.
pub fn rules(kind: &str) -> Option<Rules> {
    match kind {
        "Job" => Some(Rules { create: job, update: job_update }),
        "CronJob" => Some(Rules { create: cron_job, update: cron_job_update }),
        _ => None,
    }
}

fn job(at: &At<'_>) {
    let metadata = at.get("metadata");
    meta::create(&metadata, true, names::dns1123_subdomain);
    generated_selector(at);
    whole(&at.get("spec"));
    let spec = at.get("spec");
    if spec.get("completionMode").text() == "Indexed" && spec.get("completions").int() > 0 {
        let last = format!("{}-{}", metadata.get("name").text(), spec.get("completions").int() - 1);
        for what in names::dns1123_label(&last) {
            metadata
                .get("name")
                .invalid(&format!("will not able to create pod with invalid DNS label: {last}"));
            let _ = what;
        }
    }
}

/// Labels and selector that the server makes.
fn generated_selector(at: &At<'_>) {
    let spec = at.get("spec");
    let selector = spec.get("selector");
    if spec.get("manualSelector").truth() || !selector.is_set() {
        return;
    }
    let metadata = at.get("metadata");
    let (uid, name) = (metadata.get("uid").text(), metadata.get("name").text());
    let template = spec.get("template");
    let own = template.get("metadata");
    let labels = own.get("labels");
    let wanted = [
        ("controller-uid", uid),
        ("job-name", name),
        ("batch.kubernetes.io/controller-uid", uid),
        ("batch.kubernetes.io/job-name", name),
    ];
    for (key, value) in wanted {
        let label = labels.key(key);
        if !label.is_set() {
            label.required(&format!("must be '{value}'"));
        } else if label.text() != value {
            label.invalid_as(labels.value.clone(), &format!("must be '{value}'"));
        }
    }
    let expected: serde_json::Map<String, Value> =
        wanted.iter().map(|(key, value)| (key.to_string(), Value::from(*value))).collect();
    if !meta::selects(&selector, &Value::Object(expected)) {
        selector.invalid("`selector` not auto-generated");
    }
}

fn whole(spec: &At<'_>) {
    common(spec);
    let selector = spec.get("selector");
    match selector.is_set() {
        false => selector.required(""),
        true => meta::selector(&selector),
    }
    let template = spec.get("template");
    let metadata = template.get("metadata");
    let labels = metadata.get("labels");
    if !selector.is_set() || !meta::selects(&selector, labels.value) {
        labels.invalid("`selector` does not match template `labels`");
    }
}

fn common(spec: &At<'_>) {
    let (parallelism, completions) = (spec.get("parallelism"), spec.get("completions"));
    let (per_index, failed) = (spec.get("backoffLimitPerIndex"), spec.get("maxFailedIndexes"));
    for field in
        ["parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"]
    {
        spec.get(field).not_negative();
    }
    per_index.not_negative();
    failed.not_negative();
    if failed.is_set() && !per_index.is_set() {
        per_index.required("when maxFailedIndexes is specified");
    }
    let managed = spec.get("managedBy");
    if managed.is_set() {
        domain_path(&managed);
        managed.at_most_bytes(MANAGED_BY_MAX);
    }
    let mode = spec.get("completionMode");
    mode.one_of_if_set(&["NonIndexed", "Indexed"]);
    let indexed = mode.text() == "Indexed";
    if indexed {
        if !completions.is_set() {
            completions.required("when completion mode is Indexed");
        }
        if parallelism.int() > PARALLEL_MAX {
            parallelism.invalid(&format!(
                "must be less than or equal to {PARALLEL_MAX} when completion mode is Indexed"
            ));
        }
        if completions.is_set() && failed.is_set() && failed.int() > completions.int() {
            failed.invalid("must be less than or equal to completions");
        }
        if failed.int() > FAILED_INDEXES_MAX {
            failed.invalid(&format!("must be less than or equal to {FAILED_INDEXES_MAX}"));
        }
    }
    if !mode.is_set() || mode.text() == "NonIndexed" {
        for field in [&per_index, &failed] {
            if field.is_set() {
                field.invalid("requires indexed completion mode");
            }
        }
    }
    let policy = spec.get("podFailurePolicy");
    if policy.is_set() {
        failure_policy(&policy, spec);
    }
    let success = spec.get("successPolicy");
    if success.is_set() {
        match indexed {
            false => success.invalid("requires indexed completion mode"),
            true => success_policy(&success, completions.int()),
        }
    }
    let replacement = spec.get("podReplacementPolicy");
    match policy.is_set() {
        true => replacement.one_of_if_set(&["Failed"]),
        false => replacement.one_of_if_set(&["Failed", "TerminatingOrFailed"]),
    }
    let template = spec.get("template");
    pod::template(&template);
    let template = template.get("spec");
    let restart = template.get("restartPolicy");
    match restart.text() {
        "" | "Always" => restart.required("valid values: \"OnFailure\", \"Never\""),
        "Never" => {}
        "OnFailure" if policy.is_set() => {
            restart.invalid("only \"Never\" is supported when podFailurePolicy is specified");
        }
        "OnFailure" => {}
        _ => restart.unsupported(&["OnFailure", "Never"]),
    }
}

/// A path that begins with a domain.
pub fn domain_path(at: &At<'_>) {
    let text = at.text();
    match text.split_once('/') {
        _ if text.is_empty() => at.required(""),
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() => {
            for what in names::dns1123_subdomain(domain) {
                at.invalid_as(domain, &what);
            }
        }
        _ => at.invalid("must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
}

fn failure_policy(at: &At<'_>, spec: &At<'_>) {
    let rules = at.get("rules");
    rules.at_most(RULES_MAX);
    for rule in rules.items() {
        let action = rule.get("action");
        match action.text() {
            "" => action.required("valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]"),
            "FailIndex" if !spec.get("backoffLimitPerIndex").is_set() => {
                action.invalid("requires the backoffLimitPerIndex to be set");
            }
            _ => action.one_of(&["Count", "FailIndex", "FailJob", "Ignore"]),
        }
        let (codes, conditions) = (rule.get("onExitCodes"), rule.get("onPodConditions"));
        if codes.is_set() {
            exit_codes(&codes, &spec.get("template").get("spec"));
        }
        conditions.at_most(PATTERNS_MAX);
        for pattern in conditions.items() {
            pattern.get("type").rule(names::qualified_name);
            let status = pattern.get("status");
            if status.need_for("valid values: [\"False\" \"True\" \"Unknown\"]") {
                status.one_of(&["False", "True", "Unknown"]);
            }
        }
        let omitted = |what: &str| {
            let mut error = schema::FieldError::invalid(rule.place(), Value::Null, what);
            error.bad_value = None;
            rule.push(error);
        };
        match (codes.is_set(), !conditions.is_empty()) {
            (true, true) => omitted("specifying both OnExitCodes and OnPodConditions is not supported"),
            (false, false) => omitted("specifying one of OnExitCodes and OnPodConditions is required"),
            _ => {}
        }
    }
}

fn exit_codes(at: &At<'_>, pod: &At<'_>) {
    let (operator, values, name) = (at.get("operator"), at.get("values"), at.get("containerName"));
    if operator.need_for("valid values: [\"In\" \"NotIn\"]") {
        operator.one_of(&["In", "NotIn"]);
    }
    let known = ["containers", "initContainers"]
        .iter()
        .any(|list| pod.get(list).items().any(|c| c.get("name").text() == name.text()));
    if name.is_set() && !known {
        name.invalid("must be one of the container or initContainer names in the pod template");
    }
    if values.is_empty() {
        values.invalid("at least one value is required");
    }
    values.at_most(EXIT_CODES_MAX);
    let mut seen: Vec<i64> = Vec::new();
    for value in values.items() {
        if operator.text() == "In" && value.int() == 0 {
            value.invalid("must not be 0 for the In operator");
        }
        if seen.contains(&value.int()) {
            value.duplicate();
        }
        seen.push(value.int());
    }
    if !seen.is_sorted() {
        values.invalid("must be ordered");
    }
}

fn success_policy(at: &At<'_>, completions: i64) {
    let rules = at.get("rules");
    if rules.is_empty() {
        return rules.required("at least one rules must be specified when the successPolicy is specified");
    }
    rules.at_most(RULES_MAX);
    for rule in rules.items() {
        let (count, indexes) = (rule.get("succeededCount"), rule.get("succeededIndexes"));
        if !count.is_set() && !indexes.is_set() {
            rule.required("at least one of succeededCount or succeededIndexes must be specified");
        }
        if count.is_set() {
            count.not_negative();
            if count.int() > completions {
                count.invalid(&format!(
                    "must be less than or equal to {completions} (the number of specified completions)"
                ));
            }
        }
    }
}

fn job_update(new: &At<'_>, old: &At<'_>, subresource: &str) {
    meta::update(&new.get("metadata"), &old.get("metadata"));
    let (spec, before) = (new.get("spec"), old.get("spec"));
    if subresource == "status" {
        let status = new.get("status");
        for field in ["active", "succeeded", "failed", "ready", "terminating"] {
            status.get(field).not_negative();
        }
        return;
    }
    whole(&spec);
    let (completions, had) = (spec.get("completions"), before.get("completions"));
    if spec.get("completionMode").text() == "Indexed" {
        if completions.int() != had.int() && completions.int() != spec.get("parallelism").int() {
            completions.invalid("can only be modified in tandem with parallelism");
        }
    } else {
        completions.immutable(&had);
    }
    spec.get("selector").immutable(&before.get("selector"));
    let (template, had) = (spec.get("template"), before.get("template"));
    let status = old.get("status");
    let is_suspended = |c: &At<'_>| c.get("type").text() == "Suspended" && c.get("status").text() == "True";
    let waits =
        !status.get("startTime").is_set() || status.get("conditions").items().any(|c| is_suspended(&c));
    if !(before.get("suspend").truth() && waits && status.get("active").int() == 0) {
        if !template.same(&had) {
            template.invalid("field is immutable");
        }
    } else if rest_of_template(template.value) != rest_of_template(had.value) {
        template.get("spec").invalid("field is immutable");
    }
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        spec.get(field).immutable(&before.get(field));
    }
}

/// The template without what may change while the job is suspended: where its pods go, and what they get there.
fn rest_of_template(template: &Value) -> Value {
    let mut copy = template.clone();
    if let Some(metadata) = copy.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("annotations");
        metadata.remove("labels");
    }
    if let Some(spec) = copy.get_mut("spec").and_then(Value::as_object_mut) {
        for field in ["nodeSelector", "tolerations", "schedulingGates"] {
            spec.remove(field);
        }
        for list in ["containers", "initContainers"] {
            let containers = spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
            containers.filter_map(Value::as_object_mut).for_each(|c| drop(c.remove("resources")));
        }
        if let Some(affinity) = spec.get_mut("affinity").and_then(Value::as_object_mut) {
            affinity.remove("nodeAffinity");
            if affinity.is_empty() {
                spec.remove("affinity");
            }
        }
    }
    copy
}

fn cron_job(at: &At<'_>) {
    let name = at.get("metadata");
    meta::create(&name, true, names::dns1123_subdomain);
    cron_spec(&at.get("spec"), None);
    if name.get("name").text().len() > CRON_NAME_MAX {
        name.get("name").invalid("must be no more than 52 characters");
    }
}

/// Older schedules may begin with a time zone.
fn without_zone(text: &str) -> &str {
    let dated = text.starts_with("TZ=") || text.starts_with("CRON_TZ=");
    text.split_once(' ').filter(|_| dated).map_or(text, |(_, rest)| rest.trim())
}

fn time_zone(at: &At<'_>) {
    let text = at.text();
    if text.is_empty() {
        return at.invalid("timeZone must be nil or non-empty string");
    }
    let unknown = format!("unknown time zone {text}");
    let char_known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+');
    let wrong = |part: &str| {
        matches!(part, "" | "." | "..")
            || part.starts_with('-')
            || part.len() > 14
            || !part.bytes().all(char_known)
    };
    if text.split('/').any(wrong) {
        return at.invalid(&unknown);
    }
    if text.eq_ignore_ascii_case("local") {
        at.invalid("timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones");
    }
    if text != "Local" && base::cron::zone(text).is_none() {
        at.invalid(&unknown);
    }
}

fn cron_spec(spec: &At<'_>, old: Option<&At<'_>>) {
    let (schedule, zone) = (spec.get("schedule"), spec.get("timeZone"));
    if schedule.need() {
        if let Err(why) = base::cron::parse(without_zone(schedule.text())) {
            schedule.invalid(&why);
        }
        let dated = schedule.text().contains("TZ");
        if dated && zone.is_set() {
            zone.invalid_as(schedule.text(), "cannot use both timeZone field and TZ or CRON_TZ in schedule");
        } else if dated && !old.is_some_and(|old| old.get("schedule").text().contains("TZ")) {
            schedule.invalid("cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
        }
    }
    spec.get("startingDeadlineSeconds").not_negative();
    if zone.is_set() {
        time_zone(&zone);
    }
    spec.get("concurrencyPolicy").need_one_of(&["Allow", "Forbid", "Replace"]);
    let template = spec.get("jobTemplate");
    let job = template.get("spec");
    if job.get("manualSelector").truth() {
        job.get("manualSelector").unsupported(&["nil", "false"]);
    }
    common(&job);
    spec.get("successfulJobsHistoryLimit").not_negative();
    spec.get("failedJobsHistoryLimit").not_negative();
}

fn cron_job_update(new: &At<'_>, old: &At<'_>, subresource: &str) {
    meta::update(&new.get("metadata"), &old.get("metadata"));
    if subresource != "status" {
        cron_spec(&new.get("spec"), Some(&old.get("spec")));
    }
}
