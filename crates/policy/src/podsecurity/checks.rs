//! The table of checks: which level and version forbids what.

use super::pod::Pod;
use super::{Level, Standard, Version, baseline, restricted};

/// Why a check refuses a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What is wrong, in a few words.
    pub reason: &'static str,
    /// Where.
    pub detail: String,
}

impl Violation {
    pub(super) fn new(reason: &'static str, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// What one version of a check says of a pod; `None` if it has nothing against it.
type Rule = fn(Pod<'_>) -> Option<Violation>;

/// A check: its level, its name, the check it stands in for, and its rules with the first minor version of each.
struct Check {
    level: Level,
    id: &'static str,
    instead_of: &'static str,
    rules: &'static [(u32, Rule)],
}

const fn baseline(id: &'static str, rules: &'static [(u32, Rule)]) -> Check {
    Check { level: Level::Baseline, id, instead_of: "", rules }
}

const fn restricted(id: &'static str, instead_of: &'static str, rules: &'static [(u32, Rule)]) -> Check {
    Check { level: Level::Restricted, id, instead_of, rules }
}

/// In the order in which violations are told.
const CHECKS: &[Check] = &[
    baseline("appArmorProfile", &[(0, baseline::app_armor)]),
    baseline("capabilities_baseline", &[(0, baseline::capabilities)]),
    baseline("hostNamespaces", &[(0, baseline::host_namespaces)]),
    baseline("hostPathVolumes", &[(0, baseline::host_paths)]),
    baseline("hostPorts", &[(0, baseline::host_ports)]),
    baseline("hostProbesAndHostLifecycle", &[(34, baseline::probe_hosts)]),
    baseline("privileged", &[(0, baseline::privileged)]),
    baseline("procMount", &[(0, baseline::proc_mount), (35, baseline::proc_mount_35)]),
    baseline("seLinuxOptions", &[(0, baseline::selinux), (31, baseline::selinux_31)]),
    baseline(
        "seccompProfile_baseline",
        &[(0, baseline::seccomp_annotations), (19, baseline::seccomp_profiles)],
    ),
    baseline(
        "sysctls",
        &[
            (0, baseline::sysctls),
            (27, baseline::sysctls_27),
            (29, baseline::sysctls_29),
            (32, baseline::sysctls_32),
        ],
    ),
    baseline("windowsHostProcess", &[(0, baseline::host_process)]),
    restricted(
        "allowPrivilegeEscalation",
        "",
        &[(8, restricted::escalation), (25, restricted::escalation_25)],
    ),
    restricted(
        "capabilities_restricted",
        "capabilities_baseline",
        &[(22, restricted::capabilities), (25, restricted::capabilities_25)],
    ),
    restricted("procMount_restricted", "procMount", &[(35, baseline::proc_mount)]),
    restricted("restrictedVolumes", "hostPathVolumes", &[(0, restricted::volumes)]),
    restricted("runAsNonRoot", "", &[(0, restricted::non_root), (35, restricted::non_root_35)]),
    restricted("runAsUser", "", &[(23, restricted::user), (35, restricted::user_35)]),
    restricted(
        "seccompProfile_restricted",
        "seccompProfile_baseline",
        &[(19, restricted::seccomp), (25, restricted::seccomp_25)],
    ),
];

impl Check {
    fn rule(&self, standard: Standard) -> Option<Rule> {
        if self.level > standard.level {
            return None;
        }
        let minor = match standard.version {
            Version::Minor(minor) => minor,
            Version::Latest => u32::MAX,
        };
        self.rules.iter().rev().find(|(first, _)| *first <= minor).map(|(_, rule)| *rule)
    }
}

/// What the standard has against a pod, in the order of the table.
pub fn evaluate(standard: Standard, pod: Pod<'_>) -> Vec<Violation> {
    if standard.level == Level::Privileged {
        return Vec::new();
    }
    let at_work = || CHECKS.iter().filter_map(|check| Some((check, check.rule(standard)?)));
    let replaced = |id: &str| at_work().any(|(check, _)| check.instead_of == id);
    at_work().filter(|(check, _)| !replaced(check.id)).filter_map(|(_, rule)| rule(pod)).collect()
}

/// The reasons, for many pods at once.
pub fn reasons(violations: &[Violation]) -> String {
    violations.iter().map(|violation| violation.reason).collect::<Vec<_>>().join(", ")
}

/// The reasons with their details.
pub fn details(violations: &[Violation]) -> String {
    let tell = |violation: &Violation| match violation.detail.as_str() {
        "" => violation.reason.to_owned(),
        detail => format!("{} ({detail})", violation.reason),
    };
    violations.iter().map(tell).collect::<Vec<_>>().join(", ")
}
