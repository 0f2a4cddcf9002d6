//! What only the level `restricted` forbids.

use std::collections::BTreeSet;

use serde_json::Value;

use super::baseline::is_seccomp;
use super::checks::Violation;
use super::pod::{Pod, containers, field, list, name, plural, quoted, security, setters, text};

/// Volumes that come from the cluster.
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// All others, in the order in which they are looked for.
const RESTRICTED_VOLUMES: [&str; 21] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];

pub fn escalation(pod: Pod<'_>) -> Option<Violation> {
    let allows =
        |container: &&Value| security(container, &["allowPrivilegeEscalation"]) != Some(&Value::Bool(false));
    let bad: Vec<&str> = pod.containers().filter(allows).map(name).collect();
    (!bad.is_empty()).then(|| {
        let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&bad));
        Violation::new("allowPrivilegeEscalation != false", detail)
    })
}

pub fn escalation_25(pod: Pod<'_>) -> Option<Violation> {
    if pod.is_windows() { None } else { escalation(pod) }
}

pub fn capabilities(pod: Pod<'_>) -> Option<Violation> {
    let (mut keeping, mut adding, mut forbidden) = (Vec::new(), Vec::new(), BTreeSet::new());
    for container in pod.containers() {
        let own = security(container, &["capabilities"]).unwrap_or(&Value::Null);
        if !list(own, &["drop"]).iter().any(|dropped| dropped == "ALL") {
            keeping.push(name(container));
        }
        let added = list(own, &["add"]).iter().filter_map(Value::as_str);
        let added: Vec<&str> = added.filter(|added| *added != "NET_BIND_SERVICE").collect();
        if !added.is_empty() {
            adding.push(name(container));
            forbidden.extend(added);
        }
    }
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details
            .push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeping)));
    }
    if !adding.is_empty() {
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&adding),
            quoted(forbidden)
        ));
    }
    (!details.is_empty()).then(|| Violation::new("unrestricted capabilities", details.join("; ")))
}

pub fn capabilities_25(pod: Pod<'_>) -> Option<Violation> {
    if pod.is_windows() { None } else { capabilities(pod) }
}

pub fn volumes(pod: Pod<'_>) -> Option<Violation> {
    let is_any = |volume: &Value, kinds: &[&'static str]| {
        kinds.iter().copied().find(|kind| field(volume, &[kind]).is_some())
    };
    let volumes = list(pod.spec, &["volumes"]).iter();
    let bad: Vec<&Value> = volumes.filter(|volume| is_any(volume, &VOLUMES).is_none()).collect();
    let kinds: BTreeSet<&str> =
        bad.iter().map(|volume| is_any(volume, &RESTRICTED_VOLUMES).unwrap_or("unknown")).collect();
    (!bad.is_empty()).then(|| {
        let detail = format!(
            "{} {} {} {} {}",
            plural("volume", "volumes", bad.len()),
            quoted(bad.iter().map(|volume| name(volume))),
            plural("uses", "use", bad.len()),
            plural("restricted volume type", "restricted volume types", kinds.len()),
            quoted(kinds)
        );
        Violation::new("restricted volume types", detail)
    })
}

pub fn non_root(pod: Pod<'_>) -> Option<Violation> {
    let said = pod.security(&["runAsNonRoot"]).and_then(Value::as_bool);
    let own = |container| security(container, &["runAsNonRoot"]).and_then(Value::as_bool);
    let with = |wanted: Option<bool>| -> Vec<&str> {
        pod.containers().filter(|container| own(container) == wanted).map(name).collect()
    };
    let reason = "runAsNonRoot != true";
    if let Some(who) = setters(said == Some(false), &with(Some(false))) {
        return Some(Violation::new(
            reason,
            format!("{who} must not set securityContext.runAsNonRoot=false"),
        ));
    }
    let silent = with(None);
    (said != Some(true) && !silent.is_empty()).then(|| {
        let detail = format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&silent));
        Violation::new(reason, detail)
    })
}

pub fn non_root_35(pod: Pod<'_>) -> Option<Violation> {
    if pod.has_own_users() { None } else { non_root(pod) }
}

pub fn user(pod: Pod<'_>) -> Option<Violation> {
    let is_root = |user: Option<&Value>| user.and_then(Value::as_i64) == Some(0);
    let bad = pod.containers().filter(|container| is_root(security(container, &["runAsUser"])));
    let bad: Vec<&str> = bad.map(name).collect();
    let who = setters(is_root(pod.security(&["runAsUser"])), &bad)?;
    Some(Violation::new("runAsUser=0", format!("{who} must not set runAsUser=0")))
}

pub fn user_35(pod: Pod<'_>) -> Option<Violation> {
    if pod.has_own_users() { None } else { user(pod) }
}

pub fn seccomp(pod: Pod<'_>) -> Option<Violation> {
    if let Some(violation) = super::baseline::seccomp_profiles(pod) {
        return Some(violation);
    }
    let said = pod.security(&["seccompProfile"]).is_some_and(|profile| is_seccomp(text(profile, &["type"])));
    let silent = pod.containers().filter(|container| security(container, &["seccompProfile"]).is_none());
    let silent: Vec<&str> = silent.map(name).collect();
    (!said && !silent.is_empty()).then(|| {
        let detail = format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            containers(&silent)
        );
        Violation::new("seccompProfile", detail)
    })
}

pub fn seccomp_25(pod: Pod<'_>) -> Option<Violation> {
    if pod.is_windows() { None } else { seccomp(pod) }
}
