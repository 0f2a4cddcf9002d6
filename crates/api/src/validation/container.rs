//! Containers: names, ports, environment, mounts, probes, hooks, resources and privileges.

use base::names;
use serde_json::Value;

use super::check::At;
use super::resources;

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const RESTART_RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCE_FIELDS: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const SIZES: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// Which of the three lists of containers is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `containers`
    Main,
    /// `initContainers`
    Init,
    /// `ephemeralContainers`
    Ephemeral,
}

/// What one container needs to know of its pod.
pub struct Around<'a> {
    /// The pod's specification.
    pub spec: At<'a>,
    /// Names of volumes that are usable.
    pub volumes: Vec<(&'a str, &'a Value)>,
    /// Whether the pod shares the host's users.
    pub host_users: bool,
}

/// What all containers have in common.
pub fn common(at: &At<'_>, around: &Around<'_>) {
    at.get("name").need_rule(names::dns1123_label);
    at.get("image").need();
    at.get("terminationMessagePolicy").need_one_of(&["File", "FallbackToLogsOnError"]);
    ports(&at.get("ports"));
    for var in at.get("env").items() {
        env(&var);
    }
    env_files(at, around);
    env_from(&at.get("envFrom"));
    mounts(at, around);
    devices(at, around);
    at.get("imagePullPolicy").need_one_of(&["Always", "IfNotPresent", "Never"]);
    resources::container(&at.get("resources"), &around.spec.get("resourceClaims"));
    resize_policy(&at.get("resizePolicy"), around.spec.get("restartPolicy").text() == "Never");
    security(&at.get("securityContext"), around.host_users);
}

fn ports(at: &At<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for port in at.items() {
        let name = port.value.get("name").and_then(Value::as_str).unwrap_or("");
        if !name.is_empty() {
            let wrong = names::port_name(name);
            if wrong.is_empty() && seen.contains(&name) {
                port.get("name").duplicate();
            } else if wrong.is_empty() {
                seen.push(name);
            } else {
                port.get("name").rule(names::port_name);
            }
        }
        match port.get("containerPort").int() {
            0 => port.get("containerPort").required(""),
            _ => port.get("containerPort").port(),
        }
        if port.get("hostPort").int() != 0 {
            port.get("hostPort").port();
        }
        port.get("protocol").need_one_of(&PROTOCOLS);
    }
}

fn env(at: &At<'_>) {
    at.get("name").need_rule(names::env_var_name);
    let from = at.get("valueFrom");
    if !from.is_set() {
        return;
    }
    let mut count = 0;
    let mut source = |name: &'static str, check: fn(&At<'_>)| {
        let here = from.get(name);
        if here.is_set() {
            count += 1;
            check(&here);
        }
    };
    source("fieldRef", |at| field_ref(at, &ENV_FIELDS));
    source("resourceFieldRef", |at| resource_field_ref(at, false));
    source("configMapKeyRef", key_ref);
    source("secretKeyRef", key_ref);
    source("fileKeyRef", |at| {
        if at.get("key").need() {
            at.get("key").rule(names::env_var_name);
        }
        at.get("volumeName").need();
        if at.get("path").need() {
            super::volume::descending(&at.get("path"));
            super::volume::not_reserved(&at.get("path"));
        }
    });
    if count == 0 {
        from.invalid_as(
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        );
    } else if !at.get("value").is_empty() {
        from.invalid_as("", "may not be specified when `value` is not empty");
    } else if count > 1 {
        from.invalid_as("", "may not have more than one field specified at a time");
    }
}

/// Variables come from files of `emptyDir` volumes only.
fn env_files(container: &At<'_>, around: &Around<'_>) {
    for var in container.get("env").items() {
        let (from, key) = (var.get("valueFrom"), "fileKeyRef");
        let file = from.get(key);
        if !file.is_set() {
            continue;
        }
        let name = file.get("volumeName");
        match around.volumes.iter().find(|(volume, _)| *volume == name.text()) {
            None => name.with(&Value::from(name.text())).not_found(),
            Some((_, volume)) if volume.get("emptyDir").is_none_or(Value::is_null) => {
                name.invalid("referenced volume must be of type emptyDir");
            }
            Some(_) => {}
        }
    }
}

fn key_ref(at: &At<'_>) {
    at.get("name").rule(names::dns1123_subdomain);
    at.get("key").need_rule(names::config_key);
}

/// A field of the pod, as the downward API names it.
pub fn field_ref(at: &At<'_>, allowed: &[&str]) {
    let (version, path) = (at.get("apiVersion"), at.get("fieldPath"));
    if !version.need() || !path.need() {
        return;
    }
    let unknown = |what: String| path.invalid(&format!("error converting fieldPath: {what}"));
    if version.text() != "v1" {
        return unknown(format!("unsupported pod version: {}", version.text()));
    }
    let text = path.text();
    let subscript =
        text.strip_suffix("']").and_then(|head| head.split_once("['")).filter(|(head, _)| !head.is_empty());
    match subscript {
        Some(("metadata.annotations", key)) => {
            for what in names::qualified_name(&key.to_ascii_lowercase()) {
                at.invalid_as(key.to_ascii_lowercase(), &what);
            }
        }
        Some(("metadata.labels", key)) => {
            for what in names::qualified_name(key) {
                at.invalid_as(key, &what);
            }
        }
        Some((head, _)) => unknown(format!("field label does not support subscript: {head}")),
        None => {
            let known = ENV_FIELDS.contains(&text)
                || ["metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName"]
                    .contains(&text)
                || ["status.phase", "spec.host", "status.nominatedNodeName", "spec.hostNetwork"]
                    .contains(&text);
            let text = if text == "spec.host" { "spec.nodeName" } else { text };
            if !known {
                unknown(format!("field label not supported: {text}"));
            } else if !allowed.contains(&text) {
                let mut sorted = allowed.to_vec();
                sorted.sort_unstable();
                path.with(&Value::from(text)).unsupported(&sorted);
            }
        }
    }
}

/// A request or limit of a container, as the downward API names it.
pub fn resource_field_ref(at: &At<'_>, volume: bool) {
    let resource = at.get("resource");
    let huge = ["limits.hugepages-", "requests.hugepages-"];
    if volume && at.get("containerName").is_empty() {
        at.get("containerName").required("");
    } else if resource.need() && !huge.iter().any(|prefix| resource.text().starts_with(prefix)) {
        resource.one_of(&RESOURCE_FIELDS);
    }
    let divisor = at.get("divisor");
    let amount = divisor.quantity().filter(|amount| !amount.is_zero());
    let Some(amount) = amount else { return };
    let text = amount.to_string();
    let name = resource.text();
    let (allowed, what): (&[&str], &str) = match name.split_once('.').map_or("", |(_, kind)| kind) {
        "cpu" => (&["1m", "1"], "cpu"),
        "memory" => (&SIZES, "memory"),
        "ephemeral-storage" => (&SIZES, "local ephemeral storage"),
        kind if kind.starts_with("hugepages-") => (&SIZES, "hugepages"),
        _ => return,
    };
    if !allowed.contains(&text.as_str()) {
        let list = if what == "cpu" { "1m and 1".to_string() } else { SIZES.join(", ") };
        divisor.invalid_as(
            name,
            &format!("only divisor's values {list} are supported with the {what} resource"),
        );
    }
}

fn env_from(at: &At<'_>) {
    for source in at.items() {
        source.get("prefix").rule_if_set(names::env_var_name);
        let mut count = 0;
        for name in ["configMapRef", "secretRef"] {
            let here = source.get(name);
            if here.is_set() {
                count += 1;
                here.get("name").need_rule(names::dns1123_subdomain);
            }
        }
        match count {
            0 => at.invalid_as("", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => at.invalid_as("", "may not have more than one field specified at a time"),
        }
    }
}

fn mounts(container: &At<'_>, around: &Around<'_>) {
    let list = container.get("volumeMounts");
    let devices = container.get("volumeDevices");
    let device = |field: &str, text: &str| devices.items().any(|d| d.get(field).text() == text);
    let mut seen: Vec<&str> = Vec::new();
    for mount in list.items() {
        let (name, path) = (mount.get("name"), mount.get("mountPath"));
        name.need();
        if !around.volumes.iter().any(|(volume, _)| *volume == name.text()) {
            name.with(&Value::from(name.text())).not_found();
        }
        path.need();
        let text = mount.value.get("mountPath").and_then(Value::as_str).unwrap_or("");
        if seen.contains(&text) {
            path.invalid_text("must be unique");
        }
        seen.push(text);
        if device("name", name.text()) {
            name.invalid("must not already exist in volumeDevices");
        }
        if device("devicePath", path.text()) {
            path.invalid("must not already exist as a path in volumeDevices");
        }
        let (sub, expression) = (mount.get("subPath").text(), mount.get("subPathExpr"));
        if !sub.is_empty() {
            super::volume::descending(&list.get("subPath").with(&Value::from(sub)));
        }
        if !expression.is_empty() {
            if !sub.is_empty() {
                expression.invalid("subPathExpr and subPath are mutually exclusive");
            }
            super::volume::descending(&list.get("subPathExpr").with(expression.value));
        }
        propagation(&mount, &list, container);
    }
}

fn propagation(mount: &At<'_>, list: &At<'_>, container: &At<'_>) {
    let mode = mount.get("mountPropagation");
    if mode.is_set() {
        let here = list.get("mountPropagation");
        let here = here.with(mode.value);
        here.one_of(&["Bidirectional", "HostToContainer", "None"]);
        let privileged = container.get("securityContext").get("privileged").truth();
        if mode.text() == "Bidirectional" && !privileged {
            here.forbidden("Bidirectional mount propagation is available only to privileged containers");
        }
    }
    let recursive = mount.get("recursiveReadOnly");
    let here = list.get("recursiveReadOnly");
    match recursive.value {
        Value::Null => {}
        Value::String(text) if text == "Disabled" => {}
        Value::String(text) if text == "Enabled" || text == "IfPossible" => {
            if !mount.get("readOnly").truth() {
                here.forbidden("may only be specified when readOnly is true");
            }
            if mode.is_set() && mode.text() != "None" {
                here.forbidden("may only be specified when mountPropagation is None or not specified");
            }
        }
        other => here.with(other).unsupported(&["Disabled", "Enabled", "IfPossible"]),
    }
}

fn devices(container: &At<'_>, around: &Around<'_>) {
    let mounts = container.get("volumeMounts");
    let mounted = |field: &str, text: &str| mounts.items().any(|m| m.get(field).text() == text);
    let (mut names, mut paths): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for device in container.get("volumeDevices").items() {
        let (name, path) = (device.get("name"), device.get("devicePath"));
        name.need();
        if names.iter().any(|seen| seen == name.text()) {
            name.invalid_text("must be unique");
        }
        match around.volumes.iter().find(|(volume, _)| *volume == name.text()) {
            None => name.with(&Value::from(name.text())).not_found(),
            Some((_, volume)) => {
                if volume.get("persistentVolumeClaim").is_none() && volume.get("ephemeral").is_none() {
                    let what = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                    name.invalid(what);
                }
            }
        }
        path.need();
        if paths.iter().any(|seen| seen == path.text()) {
            path.invalid_text("must be unique");
        }
        if path.text().contains("..") {
            path.invalid("can not contain backsteps ('..')");
        } else {
            paths.push(path.text().to_string());
        }
        if mounted("name", name.text()) {
            name.invalid("must not already exist in volumeMounts");
        }
        if mounted("mountPath", path.text()) {
            path.invalid("must not already exist as a path in volumeMounts");
        }
        if !name.is_empty() {
            names.push(name.text().to_string());
        }
    }
}

fn resize_policy(at: &At<'_>, never: bool) {
    let mut seen: Vec<String> = Vec::new();
    for policy in at.items() {
        let (name, restart) = (policy.get("resourceName"), policy.get("restartPolicy"));
        if seen.iter().any(|s| s == name.text()) {
            policy.duplicate_of(name.text());
        }
        seen.push(name.text().to_string());
        if name.is_empty() {
            at.required("");
        } else if !matches!(name.text(), "cpu" | "memory") {
            at.with(name.value).unsupported(&["cpu", "memory"]);
        }
        if restart.is_empty() {
            at.required("");
        } else if !matches!(restart.text(), "NotRequired" | "RestartContainer") {
            at.with(restart.value).unsupported(&["NotRequired", "RestartContainer"]);
        }
        if never && restart.text() != "NotRequired" {
            at.invalid_as(restart.text(), "must be 'NotRequired' when pod `restartPolicy` is 'Never'");
        }
    }
}

/// What a container may do on its node.
pub fn security(at: &At<'_>, host_users: bool) {
    if !at.is_set() {
        return;
    }
    for field in ["runAsUser", "runAsGroup"] {
        id(&at.get(field));
    }
    let mount = at.get("procMount");
    if mount.is_set() {
        if !matches!(mount.text(), "Default" | "Unmasked") {
            mount.unsupported(&["Default", "Unmasked"]);
        } else if mount.text() == "Unmasked" && host_users {
            mount.invalid("`hostUsers` must be false to use `Unmasked`");
        }
    }
    super::pod::seccomp(&at.get("seccompProfile"));
    if at.get("allowPrivilegeEscalation").value.as_bool() == Some(false) {
        if at.get("privileged").truth() {
            at.invalid("cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        if at.get("capabilities").get("add").items().any(|cap| cap.text() == "CAP_SYS_ADMIN") {
            at.invalid("cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN");
        }
    }
    super::pod::app_armor(&at.get("appArmorProfile"));
}

/// A user or group.
pub fn id(at: &At<'_>) {
    at.range(0, i64::from(i32::MAX));
}

/// The rule of a container's own restarts.
pub fn restarts(at: &At<'_>) {
    let (policy, rules) = (at.get("restartPolicy"), at.get("restartPolicyRules"));
    if !policy.is_set() {
        if !rules.is_empty() {
            policy.required("must specify restartPolicy when restart rules are used");
        }
        return;
    }
    policy.one_of(&["Always", "Never", "OnFailure"]);
    rules.at_most(RESTART_RULES_MAX);
    for rule in rules.items() {
        rule.get("action").one_of(&["Restart", "RestartAllContainers"]);
        let codes = rule.get("exitCodes");
        if codes.is_set() {
            codes.get("operator").one_of(&["In", "NotIn"]);
            codes.get("values").at_most(EXIT_CODES_MAX);
        } else {
            codes.required("must be specified");
        }
    }
}
