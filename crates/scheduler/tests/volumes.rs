//! Where claims let a pod go, by table.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};
use scheduler::volumes::{Needs, Storage};
use scheduler::{PodInfo, Snapshot, Unschedulable, solve};
use serde_json::{Value, json};

#[derive(Default)]
struct Known {
    claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
    volumes: BTreeMap<String, Arc<PersistentVolume>>,
    used: bool,
}

impl Storage for Known {
    fn claim(&self, _: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.claims.get(name).cloned()
    }

    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.get(name).cloned()
    }

    fn volumes_of(&self, class: &str) -> Vec<Arc<PersistentVolume>> {
        let of = |v: &&Arc<PersistentVolume>| controllers::volume::class_of_volume(v) == class;
        self.volumes.values().filter(of).cloned().collect()
    }

    fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        let (provisioner, mode) = match name {
            "local" => ("kutter.dev/local", "WaitForFirstConsumer"),
            "static" => ("kubernetes.io/no-provisioner", "WaitForFirstConsumer"),
            "now" => ("example.com/now", "Immediate"),
            _ => return None,
        };
        Some(object(
            json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode}),
        ))
    }

    fn csi_node(&self, name: &str) -> Option<Arc<CSINode>> {
        Some(object(json!({"metadata": {"name": name}, "spec": {"drivers": [
            {"name": "csi", "nodeID": name, "allocatable": {"count": i32::from(name == "b")}},
        ]}})))
    }

    fn is_used_by_another(&self, _: &Pod, _: &str) -> bool {
        self.used
    }
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn cluster() -> Snapshot {
    let mut snapshot = Snapshot::new();
    for name in ["a", "b"] {
        let node: Arc<Node> = object(json!({
            "metadata": {"name": name, "labels": {"host": name, "topology.kubernetes.io/zone": name}},
            "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}},
        }));
        snapshot.set_node(node);
    }
    snapshot
}

fn claim(class: &str, extra: Value) -> Value {
    let mut claim = json!({
        "metadata": {"name": "c", "namespace": "ns", "uid": "c"},
        "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Pending"},
    });
    for (pointer, value) in extra.as_object().unwrap() {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        claim.pointer_mut(parent).unwrap()[field] = value.clone();
    }
    claim
}

fn bound(volume: &str) -> Value {
    json!({"/spec/volumeName": volume, "/metadata/annotations": {"pv.kubernetes.io/bind-completed": "yes"}})
}

fn volume(name: &str, class: &str, size: &str, host: Option<&str>) -> Value {
    let mut volume = json!({
        "metadata": {"name": name},
        "spec": {"storageClassName": class, "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"]},
        "status": {"phase": "Available"},
    });
    if let Some(host) = host {
        volume["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "host", "operator": "In", "values": [host]}]},
        ]}});
    }
    volume
}

/// What it is about, the claim, volumes, whether another pod uses the claim, and what comes of it.
type Row = (&'static str, Vec<Value>, Vec<Value>, bool, String);

/// Where the pod with claim `c` goes and what is written first, or why it goes nowhere.
fn decide(claims: Vec<Value>, volumes: Vec<Value>, used: bool) -> String {
    let mut known = Known { used, ..Known::default() };
    for claim in claims {
        known.claims.insert("c".into(), object(claim));
    }
    for volume in volumes {
        known.volumes.insert(volume["metadata"]["name"].as_str().unwrap().into(), object(volume));
    }
    let pod: Arc<Pod> = object(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "p"},
        "spec": {"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]},
    }));
    let mut snapshot = cluster();
    let mut info = PodInfo::of(pod.clone());
    let storage: Arc<dyn Storage> = Arc::new(known);
    let solved = match Needs::of(&pod, &storage) {
        Ok(needs) => {
            info.volumes = needs;
            solve(&mut snapshot, &info)
        }
        Err(why) => Err(Unschedulable::everywhere(&snapshot, why)),
    };
    match solved {
        Ok(placement) => {
            let needs = info.volumes.unwrap();
            let choice = needs.choose(snapshot.node(&placement.node).unwrap()).unwrap();
            let taken: Vec<_> =
                choice.bindings.iter().map(|(v, _)| v.metadata.name.clone().unwrap()).collect();
            format!("{} takes {} makes {}", placement.node, taken.join(","), choice.provisions.len())
        }
        Err(why) => why.to_string(),
    }
}

#[test]
fn decisions() {
    let all = |reason: &str| format!("0/2 nodes are available: {reason}.");
    let each = |reason: &str| format!("0/2 nodes are available: 2 {reason}.");
    let csi = |mut v: Value, handle: &str| {
        v["spec"]["csi"] = json!({"driver": "csi", "volumeHandle": handle});
        v
    };
    let zone = |mut v: Value, zone: &str| {
        v["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": zone});
        v
    };
    let kept = |mut v: Value, uid: &str| {
        v["spec"]["claimRef"] = json!({"namespace": "ns", "name": "c", "uid": uid});
        v
    };
    let once_pod = json!({"/spec/accessModes": ["ReadWriteOncePod"]});
    let chosen = json!({"/metadata/annotations": {"volume.kubernetes.io/selected-node": "b"}});
    let lost = json!({"/status/phase": "Lost", "/spec/volumeName": "x"});
    let gone = json!({"/metadata/deletionTimestamp": "2026-01-01T00:00:00Z"});
    let table: Vec<Row> = vec![
        ("no claim", vec![], vec![], false, all("persistentvolumeclaim \"c\" not found")),
        (
            "lost",
            vec![claim("local", lost)],
            vec![],
            false,
            all("persistentvolumeclaim \"c\" bound to non-existent persistentvolume \"x\""),
        ),
        (
            "going",
            vec![claim("local", gone)],
            vec![],
            false,
            all("persistentvolumeclaim \"c\" is being deleted"),
        ),
        (
            "immediate",
            vec![claim("now", json!({}))],
            vec![],
            false,
            all("pod has unbound immediate PersistentVolumeClaims"),
        ),
        ("made for the node", vec![claim("local", json!({}))], vec![], false, "a takes  makes 1".into()),
        ("made where it was begun", vec![claim("local", chosen)], vec![], false, "b takes  makes 1".into()),
        (
            "nothing to take",
            vec![claim("static", json!({}))],
            vec![volume("small", "static", "1Mi", None), volume("other", "other", "2Gi", None)],
            false,
            each("node(s) didn't find available persistent volumes to bind"),
        ),
        (
            "the smallest that is reachable",
            vec![claim("static", json!({}))],
            vec![volume("big", "static", "3Gi", Some("b")), volume("fits", "static", "2Gi", Some("b"))],
            false,
            "b takes fits makes 0".into(),
        ),
        (
            "the one that is kept for it",
            vec![claim("static", json!({}))],
            vec![
                kept(volume("big", "static", "3Gi", None), "c"),
                kept(volume("fits", "static", "2Gi", None), "d"),
            ],
            false,
            "a takes big makes 0".into(),
        ),
        (
            "bound to a node",
            vec![claim("local", bound("v"))],
            vec![volume("v", "local", "1Gi", Some("b"))],
            false,
            "b takes  makes 0".into(),
        ),
        (
            "bound to a node that is not there",
            vec![claim("local", bound("v"))],
            vec![volume("v", "local", "1Gi", Some("x"))],
            false,
            each("node(s) didn't match PersistentVolume's node affinity"),
        ),
        (
            "bound to nothing",
            vec![claim("local", bound("v"))],
            vec![],
            false,
            each("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"),
        ),
        (
            "for one pod only",
            vec![claim("local", once_pod)],
            vec![],
            true,
            each(
                "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod",
            ),
        ),
        (
            "a driver's limit",
            vec![claim("x", bound("v"))],
            vec![csi(volume("v", "x", "1Gi", None), "h")],
            false,
            "b takes  makes 0".into(),
        ),
        (
            "in another zone",
            vec![claim("x", bound("v"))],
            vec![zone(volume("v", "x", "1Gi", None), "c__d")],
            false,
            each("node(s) had no available volume zone"),
        ),
        (
            "in one of the zones",
            vec![claim("x", bound("v"))],
            vec![zone(volume("v", "x", "1Gi", None), "b__c")],
            false,
            "b takes  makes 0".into(),
        ),
    ];
    for (what, claims, volumes, used, want) in table {
        assert_eq!(decide(claims, volumes, used), want, "{what}");
    }
}
