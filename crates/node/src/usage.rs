//! How full pods' volumes are: `/stats/summary` and `kubelet_volume_stats_*`.
//!
//! Files that come from the API and emptyDirs are counted, persistent volumes are as full as their file system.
//! Counting walks directories, so results are kept for a while.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::claim;
use crate::kubelet::Kubelet;

/// How old a result may be.
const AGE_MAX: Duration = Duration::from_secs(60);

/// How full one volume is.
#[derive(Debug, Clone, PartialEq)]
pub struct Use {
    /// The volume's name in the pod.
    pub name: String,
    /// The claim, where there is one.
    pub claim: Option<String>,
    /// Bytes: available, whole, used; the same of inodes.
    pub amounts: [u64; 6],
    /// When this was measured.
    pub at: Timestamp,
    /// Whether it counts as local storage of the pod: neither a claim's nor memory.
    pub local: bool,
}

/// Results by the pods' uids.
pub type Kept = Mutex<HashMap<String, (Instant, Arc<Vec<Use>>)>>;

/// What is to be measured: the name, the claim, and where the volume is.
type Order = (String, Option<String>, PathBuf, bool);

impl Use {
    /// As `/stats/summary` has it.
    pub fn json(&self, namespace: &str) -> Value {
        let [available, capacity, used, inodes_free, inodes, inodes_used] = self.amounts;
        let mut value = json!({
            "time": self.at, "name": self.name, "availableBytes": available, "capacityBytes": capacity,
            "usedBytes": used, "inodesFree": inodes_free, "inodes": inodes, "inodesUsed": inodes_used,
        });
        if let Some(claim) = &self.claim {
            value["pvcRef"] = json!({"name": claim, "namespace": namespace});
        }
        value
    }
}

/// What of the pod's volumes can be measured.
fn orders(pod: &Pod, paths: &BTreeMap<String, PathBuf>) -> Vec<Order> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let order = |v: &k8s_openapi::api::core::v1::Volume| {
        let path = paths.get(&v.name).filter(|_| v.host_path.is_none())?;
        let claim = claim::name(pod, v).map(|(name, _)| name);
        let memory = v.empty_dir.as_ref().is_some_and(|e| e.medium.as_deref() == Some("Memory"));
        let local = claim.is_none() && !memory;
        Some((v.name.clone(), claim, path.clone(), local))
    };
    volumes.filter_map(order).collect()
}

fn measure((name, claim, path, local): Order) -> Option<Use> {
    let [free, all, inodes_free, inodes] = volumes::scan::file_system(&path)?;
    let (used, inodes_used) = match claim {
        Some(_) => (all.saturating_sub(free), inodes.saturating_sub(inodes_free)),
        None => {
            let counted = volumes::scan::usage(&path);
            (counted.bytes, counted.inodes)
        }
    };
    let amounts = [free, all, used, inodes_free, inodes, inodes_used];
    Some(Use { name, claim, amounts, at: Timestamp::now(), local })
}

/// How full the volumes of every pod are, by the pods' uids.
pub async fn all(k: &Arc<Kubelet>) -> HashMap<String, Arc<Vec<Use>>> {
    let now = Instant::now();
    let mut known = HashMap::new();
    let mut due: Vec<(String, Vec<Order>)> = Vec::new();
    {
        let handles = k.every_handle();
        let mut kept = k.usage.lock();
        kept.retain(|uid, (at, _)| now.duration_since(*at) < AGE_MAX && handles.contains_key(uid));
        for (uid, handle) in handles {
            match kept.get(&uid) {
                Some((_, uses)) => drop(known.insert(uid, uses.clone())),
                None => due.push((uid, orders(&handle.pod.lock(), &handle.volumes.lock()))),
            }
        }
    }
    let measuring = move || -> Vec<(String, Arc<Vec<Use>>)> {
        let of = |orders: Vec<Order>| Arc::new(orders.into_iter().filter_map(measure).collect());
        due.into_iter().map(|(uid, orders)| (uid, of(orders))).collect()
    };
    let measured = tokio::task::spawn_blocking(measuring).await.unwrap_or_default();
    let mut kept = k.usage.lock();
    for (uid, uses) in measured {
        if !uses.is_empty() {
            kept.insert(uid.clone(), (now, uses.clone()));
        }
        known.insert(uid, uses);
    }
    known
}

/// The metrics of volumes with claims: name, help, and which of the amounts it is.
pub const METRICS: [(&str, &str, usize); 6] = [
    ("kubelet_volume_stats_available_bytes", "Number of available bytes in the volume", 0),
    ("kubelet_volume_stats_capacity_bytes", "Capacity in bytes of the volume", 1),
    ("kubelet_volume_stats_used_bytes", "Number of used bytes in the volume", 2),
    ("kubelet_volume_stats_inodes_free", "Number of free inodes in the volume", 3),
    ("kubelet_volume_stats_inodes", "Maximum number of inodes in the volume", 4),
    ("kubelet_volume_stats_inodes_used", "Number of used inodes in the volume", 5),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_named_and_host_paths_left_out() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("f"), [1u8; 8192]).expect("a file");
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [], "volumes": [
                {"name": "empty", "emptyDir": {}},
                {"name": "host", "hostPath": {"path": "/"}},
                {"name": "data", "persistentVolumeClaim": {"claimName": "c"}},
                {"name": "absent", "emptyDir": {}},
            ]}}))
            .expect("a pod");
        let paths = ["empty", "host", "data"].map(|n| (n.to_owned(), dir.path().to_owned())).into();
        let uses: Vec<Use> = orders(&pod, &paths).into_iter().filter_map(measure).collect();
        let told: Vec<_> = uses.iter().map(|u| (u.name.as_str(), u.claim.as_deref())).collect();
        assert_eq!(told, [("empty", None), ("data", Some("c"))]);
        assert!((8192..1 << 20).contains(&uses[0].amounts[2]), "{uses:?}");
        assert_eq!(uses[1].json("ns")["pvcRef"], json!({"name": "c", "namespace": "ns"}));
    }
}
