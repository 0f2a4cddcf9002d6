//! What the level `baseline` forbids, and with it `restricted`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::checks::Violation;
use super::pod::{Pod, containers, field, list, name, plural, quoted, security, setters, text};

/// Names of containers with values that are forbidden, and these values, sorted.
fn bad_values<'a>(
    pod: Pod<'a>,
    values: impl Fn(&'a Value) -> Vec<&'a str>,
) -> (Vec<&'a str>, BTreeSet<&'a str>) {
    let (mut names, mut all) = (Vec::new(), BTreeSet::new());
    for container in pod.containers() {
        let bad = values(container);
        if !bad.is_empty() {
            names.push(name(container));
            all.extend(bad);
        }
    }
    (names, all)
}

/// As [`bad_values`] for one field of security contexts, the pod's own among them.
fn bad_settings<'a>(
    pod: Pod<'a>,
    path: &[&str],
    is_bad: impl Fn(&str) -> bool,
) -> (Option<String>, BTreeSet<&'a str>) {
    let (parent, last) = (&path[..path.len() - 1], &path[path.len() - 1..]);
    let bad = |found: Option<&'a Value>| {
        found.map(|profile| text(profile, last)).filter(|value| is_bad(value)).into_iter().collect::<Vec<_>>()
    };
    let own = bad(pod.security(parent));
    let (names, mut values) = bad_values(pod, |container| bad(security(container, parent)));
    values.extend(&own);
    (setters(!own.is_empty(), &names), values)
}

const APPARMOR_PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";

pub fn app_armor(pod: Pod<'_>) -> Option<Violation> {
    let (who, types) =
        bad_settings(pod, &["appArmorProfile", "type"], |t| !matches!(t, "RuntimeDefault" | "Localhost"));
    let fine = |value: &str| matches!(value, "" | "runtime/default") || value.starts_with("localhost/");
    let annotations = field(pod.metadata, &["annotations"]).and_then(Value::as_object).into_iter().flatten();
    let mut annotations: Vec<String> = annotations
        .filter(|(key, _)| key.starts_with(APPARMOR_PREFIX))
        .filter_map(|(key, value)| value.as_str().filter(|value| !fine(value)).map(|value| (key, value)))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    annotations.sort();
    let mut who: Vec<String> = who.into_iter().collect();
    if !annotations.is_empty() {
        who.push(plural("annotation", "annotations", annotations.len()).to_owned());
    }
    let values: Vec<String> = types.into_iter().map(str::to_owned).chain(annotations).collect();
    (!who.is_empty()).then(|| {
        let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
        let who = who.join(" and ");
        Violation::new(reason, format!("{who} must not set AppArmor profile type to {}", quoted(&values)))
    })
}

/// What containers have from the start.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

pub fn capabilities(pod: Pod<'_>) -> Option<Violation> {
    let (names, values) = bad_values(pod, |container| {
        let added = security(container, &["capabilities"]).map_or(&[][..], |own| list(own, &["add"]));
        added.iter().filter_map(Value::as_str).filter(|added| !CAPABILITIES.contains(added)).collect()
    });
    (!names.is_empty()).then(|| {
        let detail = format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&names),
            quoted(values)
        );
        Violation::new("non-default capabilities", detail)
    })
}

pub fn host_namespaces(pod: Pod<'_>) -> Option<Violation> {
    let shared = ["hostNetwork", "hostPID", "hostIPC"].into_iter();
    let shared: Vec<String> = shared
        .filter(|key| field(pod.spec, &[key]) == Some(&Value::Bool(true)))
        .map(|key| format!("{key}=true"))
        .collect();
    (!shared.is_empty()).then(|| Violation::new("host namespaces", shared.join(", ")))
}

pub fn host_paths(pod: Pod<'_>) -> Option<Violation> {
    let volumes = list(pod.spec, &["volumes"]).iter();
    let bad: Vec<&str> = volumes.filter(|v| field(v, &["hostPath"]).is_some()).map(name).collect();
    (!bad.is_empty()).then(|| {
        let detail = format!("{} {}", plural("volume", "volumes", bad.len()), quoted(&bad));
        Violation::new("hostPath volumes", detail)
    })
}

pub fn host_ports(pod: Pod<'_>) -> Option<Violation> {
    let (mut names, mut ports) = (Vec::new(), BTreeSet::new());
    for container in pod.containers() {
        let used = list(container, &["ports"]).iter();
        let used = used.filter_map(|port| field(port, &["hostPort"])?.as_i64()).filter(|port| *port != 0);
        let used: Vec<String> = used.map(|port| port.to_string()).collect();
        if !used.is_empty() {
            names.push(name(container));
            ports.extend(used);
        }
    }
    (!names.is_empty()).then(|| {
        let detail = format!(
            "{} {} {} {}",
            containers(&names),
            plural("uses", "use", names.len()),
            plural("hostPort", "hostPorts", ports.len()),
            ports.into_iter().collect::<Vec<_>>().join(", ")
        );
        Violation::new("hostPort", detail)
    })
}

const PROBES: [&[&str]; 5] = [
    &["livenessProbe"],
    &["readinessProbe"],
    &["startupProbe"],
    &["lifecycle", "postStart"],
    &["lifecycle", "preStop"],
];

pub fn probe_hosts(pod: Pod<'_>) -> Option<Violation> {
    let (names, hosts) = bad_values(pod, |container| {
        let handlers = PROBES.iter().filter_map(|path| field(container, path));
        let hosts =
            handlers.flat_map(|handler| ["httpGet", "tcpSocket"].map(|way| text(handler, &[way, "host"])));
        hosts.filter(|host| !host.is_empty()).collect()
    });
    (!names.is_empty()).then(|| {
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        let detail = format!(
            "{} {} {} {}",
            containers(&sorted),
            plural("uses", "use", sorted.len()),
            plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len()),
            quoted(hosts)
        );
        Violation::new("probe or lifecycle host", detail)
    })
}

pub fn privileged(pod: Pod<'_>) -> Option<Violation> {
    let is_bad = |container: &&Value| security(container, &["privileged"]) == Some(&Value::Bool(true));
    let bad: Vec<&str> = pod.containers().filter(is_bad).map(name).collect();
    (!bad.is_empty()).then(|| {
        let detail = format!("{} must not set securityContext.privileged=true", containers(&bad));
        Violation::new("privileged", detail)
    })
}

pub fn proc_mount(pod: Pod<'_>) -> Option<Violation> {
    let (names, values) = bad_values(pod, |container| {
        let mount = security(container, &["procMount"]).and_then(Value::as_str);
        mount.filter(|mount| *mount != "Default").into_iter().collect()
    });
    (!names.is_empty()).then(|| {
        let detail =
            format!("{} must not set securityContext.procMount to {}", containers(&names), quoted(values));
        Violation::new("procMount", detail)
    })
}

pub fn proc_mount_35(pod: Pod<'_>) -> Option<Violation> {
    if pod.has_own_users() { None } else { proc_mount(pod) }
}

const SELINUX_TYPES: [&str; 5] =
    ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

pub fn selinux(pod: Pod<'_>) -> Option<Violation> {
    selinux_of(pod, &SELINUX_TYPES[..4])
}

pub fn selinux_31(pod: Pod<'_>) -> Option<Violation> {
    selinux_of(pod, &SELINUX_TYPES)
}

fn selinux_of(pod: Pod<'_>, types: &[&str]) -> Option<Violation> {
    let (mut kinds, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut is_bad = |options: &Value| {
        let kind = text(options, &["type"]);
        let sets = [
            !types.contains(&kind),
            !text(options, &["user"]).is_empty(),
            !text(options, &["role"]).is_empty(),
        ];
        if sets[0] {
            kinds.insert(kind.to_owned());
        }
        user |= sets[1];
        role |= sets[2];
        sets.contains(&true)
    };
    let own = pod.security(&["seLinuxOptions"]).is_some_and(&mut is_bad);
    let bad = pod.containers().filter(|c| security(c, &["seLinuxOptions"]).is_some_and(&mut is_bad));
    let bad: Vec<&str> = bad.map(name).collect();
    let who = setters(own, &bad)?;
    let mut what = Vec::new();
    if !kinds.is_empty() {
        what.push(format!("{} {}", plural("type", "types", kinds.len()), quoted(kinds)));
    }
    for (set, key) in [(user, "user"), (role, "role")] {
        if set {
            what.push(format!("{key} may not be set"));
        }
    }
    let detail = format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; "));
    Some(Violation::new("seLinuxOptions", detail))
}

const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_PREFIX: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// The rule for versions in which profiles were annotations.
pub fn seccomp_annotations(pod: Pod<'_>) -> Option<Violation> {
    let fine = |value: &str| {
        matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/")
    };
    let keys = pod.containers().map(|container| format!("{SECCOMP_PREFIX}{}", name(container)));
    let bad: BTreeSet<String> = std::iter::once(SECCOMP_POD.to_owned())
        .chain(keys)
        .filter_map(|key| {
            let value = pod.annotation(&key).filter(|value| !fine(value))?;
            Some(format!("{key}={value:?}"))
        })
        .collect();
    (!bad.is_empty()).then(|| {
        let count = plural("annotation", "annotations", bad.len());
        let list = bad.into_iter().collect::<Vec<_>>().join(", ");
        Violation::new("seccompProfile", format!("forbidden {count} {list}"))
    })
}

/// Whether it is a profile that restricts.
pub fn is_seccomp(profile: &str) -> bool {
    matches!(profile, "RuntimeDefault" | "Localhost")
}

pub fn seccomp_profiles(pod: Pod<'_>) -> Option<Violation> {
    let (who, values) = bad_settings(pod, &["seccompProfile", "type"], |profile| !is_seccomp(profile));
    let values = quoted(values);
    who.map(|who| {
        let detail = format!("{who} must not set securityContext.seccompProfile.type to {values}");
        Violation::new("seccompProfile", detail)
    })
}

/// Sysctls that touch nothing outside of the pod, with the first minor version that knows so.
const SYSCTLS: [(u32, &str); 12] = [
    (0, "kernel.shm_rmid_forced"),
    (0, "net.ipv4.ip_local_port_range"),
    (0, "net.ipv4.tcp_syncookies"),
    (0, "net.ipv4.ping_group_range"),
    (0, "net.ipv4.ip_unprivileged_port_start"),
    (27, "net.ipv4.ip_local_reserved_ports"),
    (29, "net.ipv4.tcp_keepalive_time"),
    (29, "net.ipv4.tcp_fin_timeout"),
    (29, "net.ipv4.tcp_keepalive_intvl"),
    (29, "net.ipv4.tcp_keepalive_probes"),
    (32, "net.ipv4.tcp_rmem"),
    (32, "net.ipv4.tcp_wmem"),
];

fn sysctls_of(pod: Pod<'_>, minor: u32) -> Option<Violation> {
    let set = pod.security(&["sysctls"]).and_then(Value::as_array).into_iter().flatten();
    let fine = |sysctl: &str| SYSCTLS.iter().any(|(first, own)| *first <= minor && *own == sysctl);
    let bad: Vec<&str> = set.map(name).filter(|sysctl| !fine(sysctl)).collect();
    (!bad.is_empty()).then(|| Violation::new("forbidden sysctls", bad.join(", ")))
}

pub fn sysctls(pod: Pod<'_>) -> Option<Violation> {
    sysctls_of(pod, 0)
}

pub fn sysctls_27(pod: Pod<'_>) -> Option<Violation> {
    sysctls_of(pod, 27)
}

pub fn sysctls_29(pod: Pod<'_>) -> Option<Violation> {
    sysctls_of(pod, 29)
}

pub fn sysctls_32(pod: Pod<'_>) -> Option<Violation> {
    sysctls_of(pod, 32)
}

pub fn host_process(pod: Pod<'_>) -> Option<Violation> {
    let path = ["windowsOptions", "hostProcess"];
    let is_set = |value: Option<&Value>| value == Some(&Value::Bool(true));
    let bad = pod.containers().filter(|container| is_set(security(container, &path)));
    let bad: Vec<&str> = bad.map(name).collect();
    let who = setters(is_set(pod.security(&path)), &bad)?;
    let detail = format!("{who} must not set securityContext.windowsOptions.hostProcess=true");
    Some(Violation::new("hostProcess", detail))
}
