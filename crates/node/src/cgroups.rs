//! The cgroups around pods: each has the sum of what its containers ask for, and those of a quality of service share
//! what is left in proportion to what they ask for, so that pods without requests never slow others down.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use oci::cgroup::Cgroups;
use oci::runtime::Resources;
use pods::resources::{self, Cgroup};

use crate::Options;

/// The least weight: of all pods that ask for nothing together.
const LEAST_SHARES: u64 = 2;

/// Where pods of this quality of service are, and how a pod's own is called there.
pub fn path(options: &Options, pod: &Pod) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or("");
    let class = pod.spec.as_ref().map_or("BestEffort", resources::qos);
    let root = options.cgroup_root.trim_end_matches('/');
    match class {
        "Guaranteed" => format!("{root}/pod{uid}"),
        other => format!("{root}/{}/pod{uid}", other.to_lowercase()),
    }
}

fn limits(options: &Options, c: &Cgroup) -> Resources {
    Resources {
        cpu_shares: Some(c.cpu_shares),
        cpu_quota: Some(options.size.quota(c.cpu_quota).unwrap_or(-1)),
        cpu_period: Some(c.cpu_period),
        memory_limit: Some(c.memory_limit.unwrap_or(0)),
        pids_limit: Some(i64::from(options.pids_max)),
        ..Resources::default()
    }
}

/// Of two limits the wider one; no limit is the widest.
fn wider(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    a.zip(b).map(|(a, b)| a.max(b))
}

fn apply(options: &Options, path: &str, cgroup: &Cgroup) {
    let done = Cgroups::detect().and_then(|c| {
        c.create(path)?;
        c.apply(path, &limits(options, cgroup))
    });
    match done {
        Ok(notes) => {
            notes.iter().for_each(|note| tracing::debug!(path, note, "a pod is not limited in full"))
        }
        // The containers have limits of their own.
        Err(error) => tracing::warn!(%error, path, "a pod's cgroup was not set up"),
    }
}

/// Makes the pod's cgroup with its limits.
pub fn make(options: &Options, pod: &Pod) {
    if let Some(spec) = &pod.spec {
        apply(options, &path(options, pod), &resources::pod_cgroup(spec));
    }
}

/// Before containers are resized: the pod's limits hold both the old and the new ones.
pub fn widen(options: &Options, pod: &Pod, before: &PodSpec) {
    let Some(spec) = &pod.spec else { return };
    let (old, new) = (resources::pod_cgroup(before), resources::pod_cgroup(spec));
    let both = Cgroup {
        cpu_quota: wider(old.cpu_quota, new.cpu_quota),
        memory_limit: wider(old.memory_limit, new.memory_limit),
        ..new
    };
    apply(options, &path(options, pod), &both);
}

/// Removes the cgroup of a pod that is over.
pub fn remove(options: &Options, pod: &Pod) {
    if let Ok(cgroups) = Cgroups::detect() {
        cgroups.remove(&path(options, pod));
    }
}

/// Gives each quality of service its weight, from all pods of the node.
pub fn weigh<'a>(options: &Options, pods: impl Iterator<Item = &'a Pod>) {
    let root = options.cgroup_root.trim_end_matches('/');
    let Ok(cgroups) = Cgroups::detect() else { return };
    for (class, shares) in shares(pods) {
        let path = format!("{root}/{class}");
        let weight = Resources { cpu_shares: Some(shares), ..Resources::default() };
        if let Err(error) = cgroups.create(&path).and_then(|()| cgroups.apply(&path, &weight)) {
            tracing::debug!(%error, path, "a quality of service has no weight of its own");
        }
    }
}

fn shares<'a>(pods: impl Iterator<Item = &'a Pod>) -> BTreeMap<&'static str, u64> {
    let burstable = pods.filter_map(|p| p.spec.as_ref()).filter(|s| resources::qos(s) == "Burstable");
    let asked: u64 = burstable.map(|s| resources::pod_cgroup(s).cpu_shares).sum();
    BTreeMap::from([("besteffort", LEAST_SHARES), ("burstable", asked.max(LEAST_SHARES))])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(resources: serde_json::Value) -> Pod {
        let value = json!({"metadata": {"uid": "u"}, "spec": {"containers": [{"name": "c", "resources": resources}]}});
        serde_json::from_value(value).expect("a pod")
    }

    #[test]
    fn paths_and_weights() {
        let none = pod(json!({}));
        let some = pod(json!({"requests": {"cpu": "500m"}}));
        let all = pod(json!({"limits": {"cpu": "1", "memory": "1Gi"}}));
        let options = Options::new("n", "/data".into());
        let paths: Vec<String> = [&none, &some, &all].iter().map(|p| path(&options, p)).collect();
        assert_eq!(paths, ["/kubepods/besteffort/podu", "/kubepods/burstable/podu", "/kubepods/podu"]);
        let weights = shares([&none, &some, &all, &some].into_iter());
        assert_eq!(weights, BTreeMap::from([("besteffort", 2), ("burstable", 1024)]));
        assert_eq!(shares(std::iter::empty())["burstable"], 2);
    }

    #[test]
    fn wider_limits() {
        assert_eq!(wider(Some(1), Some(2)), Some(2));
        assert_eq!(wider(Some(1), None), None);
    }
}
