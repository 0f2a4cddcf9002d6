//! The place of groups and versions in discovery, as their APIService objects say it.

/// A group's priority, and its versions' ones.
type Group = (&'static str, i64, &'static [(&'static str, i64)]);

/// Of the built-in groups. Higher goes first.
const BUILTIN: &[Group] = &[
    ("", 18000, &[("v1", 1)]),
    ("apps", 17800, &[("v1", 15)]),
    ("events.k8s.io", 17750, &[("v1", 15), ("v1beta1", 5)]),
    ("authentication.k8s.io", 17700, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("authorization.k8s.io", 17600, &[("v1", 15)]),
    ("autoscaling", 17500, &[("v2", 30), ("v1", 15)]),
    ("batch", 17400, &[("v1", 15)]),
    ("certificates.k8s.io", 17300, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("networking.k8s.io", 17200, &[("v1", 15), ("v1beta1", 9)]),
    ("policy", 17100, &[("v1", 15)]),
    ("rbac.authorization.k8s.io", 17000, &[("v1", 15)]),
    ("storage.k8s.io", 16800, &[("v1", 15), ("v1beta1", 9), ("v1alpha1", 1)]),
    ("admissionregistration.k8s.io", 16700, &[("v1", 15), ("v1beta1", 12), ("v1alpha1", 9)]),
    ("apiextensions.k8s.io", 16700, &[("v1", 15)]),
    ("scheduling.k8s.io", 16600, &[("v1", 15), ("v1alpha2", 2)]),
    ("coordination.k8s.io", 16500, &[("v1", 15), ("v1beta1", 13), ("v1alpha2", 12)]),
    ("node.k8s.io", 16300, &[("v1", 15)]),
    ("discovery.k8s.io", 16200, &[("v1", 15)]),
    ("resource.k8s.io", 16200, &[("v1", 21), ("v1beta2", 15), ("v1beta1", 9), ("v1alpha3", 1)]),
    ("flowcontrol.apiserver.k8s.io", 16100, &[("v1", 21)]),
    ("internal.apiserver.k8s.io", 16000, &[("v1alpha1", 9)]),
    ("storagemigration.k8s.io", 15800, &[("v1beta1", 9)]),
    ("metrics.k8s.io", 100, &[("v1beta1", 100)]),
];

/// Of the aggregator's own group, which has no APIService.
pub const OWN: i64 = 20000;
/// Of custom groups: (group, version).
pub const CUSTOM: (i64, i64) = (1000, 100);

/// The priorities of a built-in group version; `None` if it has no APIService.
pub fn builtin(group: &str, version: &str) -> Option<(i64, i64)> {
    let (_, priority, versions) = BUILTIN.iter().find(|(name, ..)| *name == group)?;
    let own = versions.iter().find(|(name, _)| *name == version)?;
    Some((*priority, own.1))
}
