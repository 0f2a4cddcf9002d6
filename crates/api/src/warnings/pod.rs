//! Pods and the templates they are made from.

use std::collections::BTreeMap;

use base::names;

use super::{Found, address, annotation, claim_spec, overlap, whole_bytes};
use crate::validation::check::At;

/// Labels of nodes that have newer names.
const NODE_LABELS: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];
/// Annotations that fields have taken the place of.
const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
/// Kinds of volumes that nothing mounts any more.
pub(super) const VOLUMES: [(&str, &str); 9] = [
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_ADVICE: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";

/// What to say of a node label, if it is an old one.
pub(super) fn node_label(key: &str) -> Option<&'static str> {
    NODE_LABELS.iter().find(|(label, _)| *label == key).map(|(_, advice)| *advice)
}

/// The way of field names here and upstream's in messages differ for one kind of volume.
pub(super) fn shown(kind: &str) -> &str {
    if kind == "storageos" { "storageOS" } else { kind }
}

/// A pod, or a template of pods.
pub fn pod(at: &At<'_>, template: bool, found: &mut Found) {
    let spec = at.get("spec");
    placement(&spec, found);
    for (key, advice) in ANNOTATIONS.iter().filter(|(key, _)| annotation(at, key).is_some()) {
        found.push(format!("{}: {advice}", at.get("metadata").get("annotations").key(key).place()));
    }
    let volumes = spec.get("volumes");
    for volume in volumes.items() {
        for (kind, advice) in VOLUMES.iter().filter(|(kind, _)| volume.get(kind).is_set()) {
            found.push(format!("{}: {advice}", volume.get(shown(kind)).place()));
        }
        claim_spec(&volume.get("ephemeral").get("volumeClaimTemplate").get("spec"), found);
    }
    overlap::volumes(&volumes, found);
    repeated(&spec.get("hostAliases"), "ip", found);
    repeated(&spec.get("imagePullSecrets"), "name", found);
    for secret in spec.get("imagePullSecrets").items() {
        if secret.get("name").is_empty() {
            found.push(format!("{}: invalid empty name \"\"", secret.get("name").place()));
        }
    }
    for name in ["memory", "ephemeral-storage"] {
        whole_bytes(&spec.get("overhead"), name, found);
    }
    if !spec.get("securityContext").get("seccompProfile").is_set() {
        old_annotation(at, SECCOMP_POD, SECCOMP_ADVICE, found);
    }
    containers(&spec, &mut |c| container(at, c, template, found));
    ports(&spec, found);
    let grace = spec.get("terminationGracePeriodSeconds");
    if grace.int() < 0 {
        found.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            grace.place()
        ));
    }
    affinity(&spec, found);
    spec.get("dnsConfig").get("nameservers").items().for_each(|server| address::ip(&server, found));
    spec.get("hostAliases").items().for_each(|alias| address::ip(&alias.get("ip"), found));
}

/// Every container in the order in which upstream looks at them.
fn containers(spec: &At<'_>, see: &mut dyn FnMut(&At<'_>)) {
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        spec.get(list).items().for_each(|c| see(&c));
    }
}

fn old_annotation(at: &At<'_>, key: &str, advice: &str, found: &mut Found) {
    if annotation(at, key).is_some() {
        found.push(format!("{}: {advice}", at.get("metadata").get("annotations").key(key).place()));
    }
}

fn placement(spec: &At<'_>, found: &mut Found) {
    for (key, at) in spec.get("nodeSelector").entries() {
        if let Some(advice) = node_label(key) {
            found.push(format!("{}: {advice}", at.place()));
        }
    }
    let affinity = spec.get("affinity");
    let node = affinity.get("nodeAffinity");
    let required = node.get("requiredDuringSchedulingIgnoredDuringExecution");
    required.get("nodeSelectorTerms").items().for_each(|term| node_term(&term, false, found));
    let preferred = node.get("preferredDuringSchedulingIgnoredDuringExecution");
    preferred.items().for_each(|term| node_term(&term.get("preference"), true, found));
    for constraint in spec.get("topologySpreadConstraints").items() {
        let key = constraint.get("topologyKey");
        if let Some(advice) = node_label(key.text()) {
            found.push(format!("{}: {} is {advice}", key.place(), key.text()));
        }
        no_selector(&constraint, found);
    }
}

/// A term of a node selector.
pub(super) fn node_term(term: &At<'_>, values: bool, found: &mut Found) {
    for expression in term.get("matchExpressions").items() {
        let key = expression.get("key");
        if let Some(advice) = node_label(key.text()) {
            found.push(format!("{}: {} is {advice}", key.place(), key.text()));
        }
        let listed = expression.get("values");
        for value in listed.items().filter(|_| values) {
            for wrong in names::label_value(value.text()) {
                found.push(format!("{}: {} is invalid, {wrong}", value.place(), value.text()));
            }
        }
    }
}

fn affinity(spec: &At<'_>, found: &mut Found) {
    let affinity = spec.get("affinity");
    for kind in ["podAffinity", "podAntiAffinity"] {
        let rules = affinity.get(kind);
        let required = rules.get("requiredDuringSchedulingIgnoredDuringExecution");
        required.items().for_each(|term| no_selector(&term, found));
        let preferred = rules.get("preferredDuringSchedulingIgnoredDuringExecution");
        preferred.items().for_each(|term| no_selector(&term.get("podAffinityTerm"), found));
    }
}

fn no_selector(term: &At<'_>, found: &mut Found) {
    let selector = term.get("labelSelector");
    if !selector.is_set() {
        found.push(format!("{}: a null labelSelector results in matching no pod", selector.place()));
    }
}

/// Entries of a list that have the same value in a field.
fn repeated(list: &At<'_>, field: &str, found: &mut Found) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, item) in list.value.as_array().into_iter().flatten().enumerate() {
        let text = item.get(field).and_then(serde_json::Value::as_str).unwrap_or("");
        if seen.contains(&text) {
            found.push(format!("{}: duplicate {field} {text:?}", list.nth(i).get(field).place()));
        } else {
            seen.push(text);
        }
    }
}

fn container(pod: &At<'_>, c: &At<'_>, template: bool, found: &mut Found) {
    let (name, security) = (c.get("name"), c.get("securityContext"));
    let annotated = !pod.get("metadata").get("annotations").is_empty();
    if annotated && !security.get("seccompProfile").is_set() {
        old_annotation(pod, &format!("{SECCOMP_CONTAINER}{}", name.text()), SECCOMP_ADVICE, found);
    }
    let whole = pod.get("spec");
    let whole = whole.get("securityContext");
    if annotated
        && template
        && !security.get("appArmorProfile").is_set()
        && !whole.get("appArmorProfile").is_set()
    {
        let advice = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
        old_annotation(pod, &format!("{APPARMOR}{}", name.text()), advice, found);
    }
    let resources = c.get("resources");
    for amount in ["memory", "ephemeral-storage"] {
        whole_bytes(&resources.get("limits"), amount, found);
        whole_bytes(&resources.get("requests"), amount, found);
    }
    environment(&c.get("env"), found);
}

/// A variable that is set again without making use of what it was.
fn environment(env: &At<'_>, found: &mut Found) {
    if env.len() < 2 {
        return;
    }
    let mut seen = std::collections::HashSet::new();
    for (i, variable) in env.value.as_array().into_iter().flatten().enumerate() {
        let text = |field| variable.get(field).and_then(serde_json::Value::as_str).unwrap_or("");
        let (name, value) = (text("name"), text("value"));
        if seen.insert(name) {
            continue;
        }
        let reference = format!("$({name})");
        if variable.get("valueFrom").is_some() || value == reference || !value.contains(&reference) {
            found.push(format!(
                "{}: hides previous definition of {name:?}, which may be dropped when using apply",
                env.nth(i).place()
            ));
        }
    }
}

/// A port of a container, and where it was found.
struct Port {
    place: String,
    host_ip: String,
    host_port: i64,
}

fn ports(spec: &At<'_>, found: &mut Found) {
    let mut all: BTreeMap<(i64, String), Vec<Port>> = BTreeMap::new();
    containers(spec, &mut |c| {
        for port in c.get("ports").items() {
            let (host_ip, host_port) = (port.get("hostIP").text(), port.get("hostPort").int());
            let (number, protocol) = (port.get("containerPort").int(), port.get("protocol").text());
            if !host_ip.is_empty() && host_port == 0 {
                found.push(format!(
                    "{}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{number} Protocol:{protocol} HostIP:{host_ip}}}",
                    port.place(),
                    port.get("name").text()
                ));
            }
            let others = all.entry((number, protocol.to_owned())).or_default();
            for other in others.iter() {
                let one_open = host_ip.is_empty() != other.host_ip.is_empty();
                let how = if host_ip == other.host_ip && host_port == other.host_port {
                    "duplicate"
                } else if host_port == 0 || other.host_port == 0 {
                    "overlapping"
                } else if host_port == other.host_port && one_open {
                    "dangerously ambiguous"
                } else {
                    continue;
                };
                found.push(format!("{}: {how} port definition with {}", port.place(), other.place));
            }
            others.push(Port { place: port.place(), host_ip: host_ip.to_owned(), host_port });
        }
    });
    port_names(spec, found);
}

fn port_names(spec: &At<'_>, found: &mut Found) {
    let mut named: BTreeMap<String, String> = BTreeMap::new();
    containers(spec, &mut |c| {
        for port in c.get("ports").items() {
            let name = port.get("name");
            match named.get(name.text()) {
                _ if name.is_empty() => {}
                Some(other) => found.push(format!(
                    "{}: duplicate port name {:?} with {other}, services and probes that select ports by name will use {other}",
                    port.place(),
                    name.text()
                )),
                None => drop(named.insert(name.text().to_owned(), port.place())),
            }
        }
    });
}
