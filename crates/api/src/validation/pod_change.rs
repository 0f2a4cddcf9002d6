//! Pods as objects: creation and the few changes they allow.

use base::names;
use serde_json::{Value, json};

use super::check::At;
use super::{meta, net, pod};

/// Changes to pods that are no status.
const UPDATABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// A new pod.
pub fn create(at: &At<'_>) {
    whole(at);
    let spec = at.get("spec");
    if !spec.get("ephemeralContainers").is_empty() {
        spec.get("ephemeralContainers").forbidden("cannot be set on create");
    }
    if !spec.get("schedulingGates").is_empty() && !spec.get("nodeName").is_empty() {
        spec.get("nodeName").forbidden("cannot be set until all schedulingGates have been cleared");
    }
}

/// Metadata and specification of a pod.
fn whole(at: &At<'_>) {
    let (metadata, spec) = (at.get("metadata"), at.get("spec"));
    meta::create(&metadata, true, names::dns1123_subdomain);
    pod::annotations(&metadata.get("annotations"), &spec);
    pod::spec(&spec, metadata.get("name").text(), true);
    if spec.get("serviceAccountName").is_empty() {
        for volume in spec.get("volumes").items() {
            for source in volume.get("projected").get("sources").items() {
                let token = source.get("serviceAccountToken");
                if token.is_set() {
                    token.forbidden("must not be specified when serviceAccountName is not set");
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        spec.get(list).items().for_each(|one| pod::trimmed_image(&one));
    }
}

/// A changed pod, main resource or subresource.
pub fn update(new: &At<'_>, old: &At<'_>, subresource: &str) {
    match subresource {
        "status" => return status(new, old),
        "ephemeralcontainers" => return ephemeral(new, old),
        "binding" => return,
        _ => {}
    }
    meta::update(&new.get("metadata"), &old.get("metadata"));
    whole(new);
    kept_annotations(new, old);
    let (spec, before) = (new.get("spec"), old.get("spec"));
    if subresource == "resize" {
        return resize(&spec, &before);
    }
    for list in ["containers", "initContainers"] {
        let (list, had) = (spec.get(list), before.get(list));
        if list.len() != had.len() {
            return list.forbidden("pod updates may not add or remove containers");
        }
        for one in list.items() {
            one.get("image").need();
            pod::trimmed_image(&one);
        }
    }
    if !deadline(&spec.get("activeDeadlineSeconds"), &before.get("activeDeadlineSeconds")) {
        return;
    }
    tolerations(&spec.get("tolerations"), &before.get("tolerations"));
    let had = before.get("schedulingGates");
    for gate in spec.get("schedulingGates").items() {
        let name = gate.get("name");
        if !had.items().any(|old| old.get("name").text() == name.text()) {
            let what = format!("only deletion is allowed, but found new scheduling gate '{}'", name.text());
            name.forbidden(&what);
        }
    }
    if spec.value != before.value {
        rest(&spec, &before);
    }
}

/// Everything else of the specification stays as it was.
fn rest(spec: &At<'_>, before: &At<'_>) {
    let mut munged = spec.value.clone();
    for list in ["containers", "initContainers"] {
        let own = munged.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for (one, had) in own.zip(before.get(list).items()) {
            one["image"] = had.get("image").value.clone();
        }
    }
    let keep = |munged: &mut Value, field: &str| {
        let Some(map) = munged.as_object_mut() else { return };
        match before.value.get(field) {
            Some(value) => map.insert(field.to_string(), value.clone()),
            None => map.remove(field),
        };
    };
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        keep(&mut munged, field);
    }
    let grace = "terminationGracePeriodSeconds";
    if before.get(grace).int() < 0 && munged.get(grace).and_then(Value::as_i64) == Some(1) {
        keep(&mut munged, grace);
    }
    if !before.get("schedulingGates").is_empty() {
        gated(spec, before);
        keep(&mut munged, "nodeSelector");
        let had = before.value.pointer("/affinity/nodeAffinity").cloned();
        if spec.value.pointer("/affinity/nodeAffinity") != had.as_ref() {
            let affinity = munged.get_mut("affinity").filter(|affinity| affinity.is_object());
            match (affinity, had) {
                (Some(affinity), Some(had)) => affinity["nodeAffinity"] = had,
                (Some(affinity), None) => {
                    if let Some(map) = affinity.as_object_mut() {
                        map.remove("nodeAffinity");
                        if map.is_empty() && before.value.get("affinity").is_none() {
                            keep(&mut munged, "affinity");
                        }
                    }
                }
                (None, Some(had)) => munged["affinity"] = json!({"nodeAffinity": had}),
                (None, None) => {}
            }
        }
    }
    if munged != *before.value {
        spec.forbidden(&format!("{UPDATABLE}\n{}", difference(before.value, &munged)));
    }
}

/// Pods that wait at a gate may be narrowed down further.
fn gated(spec: &At<'_>, before: &At<'_>) {
    let selector = spec.get("nodeSelector");
    let lost = |(key, value): (&str, At<'_>)| selector.key(key).value != value.value;
    if before.get("nodeSelector").entries().any(lost) {
        selector.invalid("only additions to spec.nodeSelector are allowed (no mutations or deletions)");
    }
    let terms = |at: &At<'_>| -> Vec<Value> {
        let path = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
        at.value.pointer(path).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let (now, had) = (terms(spec), terms(before));
    let affinity = spec.get("affinity");
    let node = affinity.get("nodeAffinity");
    let required = node.get("requiredDuringSchedulingIgnoredDuringExecution");
    let list = required.get("nodeSelectorTerms");
    if had.is_empty() {
        return;
    }
    if now.len() != had.len() {
        return list
            .invalid_as(now, "no additions/deletions to non-empty NodeSelectorTerms list are allowed");
    }
    for (index, (now, had)) in now.iter().zip(&had).enumerate() {
        let begins = ["matchExpressions", "matchFields"].iter().all(|field| {
            let list = |term: &Value| term.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
            list(now).starts_with(&list(had))
        });
        if !begins || (had.as_object().is_some_and(|map| map.is_empty()) && now != had) {
            list.nth(index).invalid("only additions are allowed (no mutations or deletions)");
        }
    }
}

/// The fields that differ, one per line.
fn difference(old: &Value, new: &Value) -> String {
    let empty = serde_json::Map::new();
    let (old, new) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut lines = Vec::new();
    for key in keys.into_iter().filter(|key| old.get(*key) != new.get(*key)) {
        let text = |value: Option<&Value>| value.map_or("<absent>".to_string(), Value::to_string);
        lines.push(format!("- {key}: {}\n+ {key}: {}", text(old.get(key)), text(new.get(key))));
    }
    lines.join("\n")
}

fn deadline(new: &At<'_>, old: &At<'_>) -> bool {
    if !new.is_set() {
        if old.is_set() {
            new.invalid("must not update from a positive integer to nil value");
        }
        return true;
    }
    let before = new.found();
    new.range(0, i64::from(i32::MAX));
    if new.found() == before && old.is_set() && old.int() < new.int() {
        new.invalid("must be less than or equal to previous value");
    }
    new.found() == before
}

fn tolerations(new: &At<'_>, old: &At<'_>) {
    let bare = |value: &Value| {
        let mut copy = value.clone();
        if let Some(map) = copy.as_object_mut() {
            map.remove("tolerationSeconds");
        }
        copy
    };
    for had in old.items() {
        let kept = bare(had.value);
        if !new.items().any(|now| bare(now.value) == kept) {
            new.forbidden("existing toleration can not be modified except its tolerationSeconds");
        }
    }
}

fn kept_annotations(new: &At<'_>, old: &At<'_>) {
    const MIRROR: &str = "kubernetes.io/config.mirror";
    let (metadata, before) = (new.get("metadata"), old.get("metadata"));
    let annotations = metadata.get("annotations");
    let (now, had) = (annotations.key(MIRROR), before.get("annotations"));
    let had = had.key(MIRROR);
    if had.is_set() && !now.same(&had) {
        now.forbidden("may not remove or update mirror pod annotation");
    } else if now.is_set() && !had.is_set() {
        now.forbidden("may not add mirror pod annotation");
    }
}

/// Containers for debugging are only ever added.
fn ephemeral(new: &At<'_>, old: &At<'_>) {
    meta::update(&new.get("metadata"), &old.get("metadata"));
    whole(new);
    let spec = new.get("spec");
    let list = spec.get("ephemeralContainers");
    for had in old.get("spec").get("ephemeralContainers").items() {
        let name = had.get("name").text();
        match list.items().find(|now| now.get("name").text() == name) {
            None => list.forbidden(&format!("existing ephemeral containers {name:?} may not be removed\n")),
            Some(now) if now.value != had.value => list.forbidden(&format!(
                "existing ephemeral containers {name:?} may not be changed\n{}",
                difference(had.value, now.value)
            )),
            Some(_) => {}
        }
    }
}

/// Other amounts of processor and memory for running containers.
fn resize(spec: &At<'_>, before: &At<'_>) {
    let mut others = false;
    for list in ["containers", "initContainers"] {
        let (now, had) = (spec.get(list), before.get(list));
        if now.len() != had.len() {
            now.forbidden(&format!("{list} may not be added or removed on resize"));
            others = true;
            continue;
        }
        for (now, had) in now.items().zip(had.items()) {
            if now.get("name").text() != had.get("name").text() {
                now.get("name").forbidden(&format!("{list} may not be renamed or reordered on resize"));
                others = true;
            }
        }
    }
    if others {
        return;
    }
    for list in ["containers", "initContainers"] {
        for (now, had) in spec.get(list).items().zip(before.get(list).items()) {
            let (now, had) = (now.get("resources"), had.get("resources"));
            for (kind, word) in [("requests", "requests"), ("limits", "limits")] {
                let gone = had.get(kind).entries().any(|(name, _)| !now.get(kind).key(name).is_set());
                if gone {
                    now.get(kind).forbidden(&format!("resource {word} cannot be removed"));
                }
            }
            let other = |at: &At<'_>| {
                let mut copy = at.value.clone();
                for kind in ["requests", "limits"] {
                    if let Some(map) = copy.get_mut(kind).and_then(Value::as_object_mut) {
                        map.remove("cpu");
                        map.remove("memory");
                    }
                    if copy.get(kind).and_then(Value::as_object).is_some_and(|map| map.is_empty())
                        && let Some(map) = copy.as_object_mut()
                    {
                        map.remove(kind);
                    }
                }
                copy
            };
            if other(&now) != other(&had) {
                spec.forbidden("only cpu and memory resources are mutable");
            }
        }
    }
}

fn status(new: &At<'_>, old: &At<'_>) {
    meta::update(&new.get("metadata"), &old.get("metadata"));
    kept_annotations(new, old);
    let (at, before) = (new.get("status"), old.get("status"));
    for condition in at.get("conditions").items() {
        let generation = condition.get("observedGeneration");
        if generation.int() < 0 {
            generation.invalid("must be a non-negative integer");
        }
        let own = ["PodScheduled", "Ready", "Initialized", "ContainersReady"];
        if !own.contains(&condition.get("type").text()) {
            condition.get("Type").with(condition.get("type").value).rule(names::qualified_name);
        }
    }
    let (nominated, had) = (at.get("nominatedNodeName"), before.get("nominatedNodeName"));
    if !nominated.is_empty() && nominated.text() != had.text() {
        nominated.rule(names::dns1123_subdomain);
        if !old.get("spec").get("nodeName").is_empty() {
            nominated.forbidden("may not be set on pods that are already bound to a node");
        }
    }
    if at.get("observedGeneration").int() < 0 {
        at.get("observedGeneration").invalid("must be a non-negative integer");
    }
    if at.get("qosClass").text() != before.get("qosClass").text() {
        at.get("qosClass").invalid_text("field is immutable");
    }
    let spec = old.get("spec");
    for (list, of) in [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")] {
        transitions(&at.get(list), &before.get(list), &spec, of);
    }
    transitions(&at.get("ephemeralContainerStatuses"), &before.get("ephemeralContainerStatuses"), &spec, "");
    addresses(&at.get("podIPs"), &before.get("podIPs"), false);
    let hosts = at.get("hostIPs");
    if !hosts.is_empty() && hosts.nth(0).get("ip").text() != at.get("hostIP").text() {
        let first = hosts.nth(0);
        first.get("ip").invalid("must be equal to `hostIP`");
    }
    addresses(&hosts, &before.get("hostIPs"), true);
}

fn addresses(at: &At<'_>, old: &At<'_>, below: bool) {
    let mut families = Vec::new();
    for item in at.items() {
        let ip = item.get("ip");
        if !old.items().any(|had| had.get("ip").text() == ip.text()) {
            if below { net::ip(&ip) } else { net::ip(&item.with(ip.value)) }
        }
        families.push(ip.text().contains(':'));
    }
    if families.len() > 2 || (families.len() == 2 && families[0] == families[1]) {
        at.invalid("may specify no more than one IP for each IP family");
    }
}

/// Containers that ended for good do not run again.
fn transitions(new: &At<'_>, old: &At<'_>, spec: &At<'_>, list: &str) {
    // Where one container's end may restart them all, each may come back.
    let restarts_all = |of: &str| {
        let containers = spec.get(of);
        let of_all = |c: At<'_>| {
            c.get("restartPolicyRules").items().any(|r| r.get("action").text() == "RestartAllContainers")
        };
        containers.items().any(of_all)
    };
    if !list.is_empty() && ["containers", "initContainers"].into_iter().any(restarts_all) {
        return;
    }
    for (index, had) in old.items().enumerate() {
        let ended = had.get("state");
        let ended = ended.get("terminated");
        if !ended.is_set() {
            continue;
        }
        let name = had.get("name").text();
        let now = new.items().find(|now| now.get("name").text() == name);
        let back = now.is_some_and(|now| !now.get("state").get("terminated").is_set());
        if back && !may_restart(spec, list, name, ended.get("exitCode").int()) {
            new.nth(index).get("state").forbidden("may not be transitioned to non-terminated state");
        }
    }
}

fn may_restart(spec: &At<'_>, list: &str, name: &str, code: i64) -> bool {
    if list.is_empty() {
        return false;
    }
    let containers = spec.get(list);
    let Some(own) = containers.items().find(|c| c.get("name").text() == name) else { return false };
    for rule in own.get("restartPolicyRules").items() {
        let codes = rule.get("exitCodes");
        let among = codes.get("values").items().any(|value| value.int() == code);
        if among == (codes.get("operator").text() == "In") {
            return true;
        }
    }
    let policy = match own.get("restartPolicy").text() {
        "" => spec.get("restartPolicy").text(),
        own => own,
    };
    match policy {
        "Always" => true,
        "OnFailure" => code != 0,
        _ => false,
    }
}
