//! Claims and volumes by table: what is there, and what the binder does about it in one line.

use controllers::volume::local::{self, Demand};
use controllers::volume::{claim, expand, reclaim};
use controllers::{Action, Plan};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// Sets fields by JSON pointer.
fn with(mut object: Value, fields: Value) -> Value {
    for (pointer, value) in fields.as_object().unwrap() {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[field] = value.clone();
    }
    object
}

fn a_claim(fields: Value) -> PersistentVolumeClaim {
    let claim = json!({
        "metadata": {"name": "c", "namespace": "ns", "uid": "u", "resourceVersion": "1", "annotations": {}},
        "spec": {"storageClassName": "fast", "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "2Gi"}}},
        "status": {"phase": "Pending"},
    });
    object(with(claim, fields))
}

fn a_volume(name: &str, fields: Value) -> PersistentVolume {
    let volume = json!({
        "metadata": {"name": name, "uid": name, "resourceVersion": "1", "annotations": {}},
        "spec": {"storageClassName": "fast", "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"]},
        "status": {"phase": "Available"},
    });
    object(with(volume, fields))
}

fn kept_for(uid: &str) -> Value {
    json!({"/spec/claimRef": {"namespace": "ns", "name": "c", "uid": uid}})
}

fn class(name: &str, provisioner: &str, mode: &str) -> StorageClass {
    object(json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode}))
}

/// Every action in a few words.
fn told(plan: &Plan) -> String {
    let said = plan.actions.iter().map(|action| match action {
        Action::Patch { target, subresource, patch, .. } => {
            let mut patch = (**patch).clone();
            if let Some(meta) = patch["metadata"].as_object_mut() {
                meta.remove("uid");
                meta.remove("resourceVersion");
                if meta.is_empty() {
                    patch.as_object_mut().unwrap().remove("metadata");
                }
            }
            format!("{} {}: {patch}", target.name, if subresource.is_empty() { "is" } else { subresource })
        }
        Action::Event { about, note } => format!("{} {}: {}", about.name, note.reason, note.message),
        Action::Create { object, .. } => format!("create {}", object["metadata"]["name"]),
        Action::Delete { target, .. } => format!("delete {}", target.name),
        other => format!("{other:?}"),
    });
    said.collect::<Vec<_>>().join("\n")
}

fn claims(fields: Value, class: Option<&StorageClass>, volumes: &[PersistentVolume]) -> String {
    let claim = a_claim(fields);
    let name = claim.spec.as_ref().and_then(|s| s.volume_name.clone());
    let named = volumes.iter().find(|v| v.metadata.name == name && name.is_some());
    let default = self::class("usual", "p", "Immediate");
    told(&claim::plan(&claim::View {
        claim: &claim,
        class,
        default: Some(&default),
        named,
        volumes: volumes.iter().collect(),
        waiting_pods: Vec::new(),
    }))
}

#[test]
fn claims_without_a_volume() {
    let (now, later) =
        (class("fast", "example.com/p", "Immediate"), class("fast", "p", "WaitForFirstConsumer"));
    let old = class("fast", "kubernetes.io/no-provisioner", "Immediate");
    let waiting = "c WaitForFirstConsumer: waiting for first consumer to be created before binding";
    let table = [
        (
            json!({"/spec/storageClassName": null}),
            Some(&now),
            "c is: {\"spec\":{\"storageClassName\":\"usual\"}}",
        ),
        (
            json!({"/spec/storageClassName": ""}),
            None,
            "c FailedBinding: no persistent volumes available for this claim and no storage class is set",
        ),
        (json!({}), Some(&later), waiting),
        (json!({}), None, "c ProvisioningFailed: storageclass.storage.k8s.io \"fast\" not found"),
        (
            json!({}),
            Some(&old),
            "c ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner",
        ),
        (json!({"/spec/volumeName": "absent"}), Some(&now), ""),
        (
            json!({"/spec/volumeName": "v", "/metadata/annotations": {"pv.kubernetes.io/bind-completed": "yes"}}),
            None,
            "c status: {\"status\":{\"phase\":\"Lost\"}}\nc ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!",
        ),
    ];
    for (fields, class, want) in table {
        assert_eq!(claims(fields.clone(), class, &[]), want, "{fields}");
    }
    let asked = claims(json!({}), Some(&now), &[]);
    assert!(asked.starts_with("c is: {\"metadata\":{\"annotations\":{\"volume.beta.kubernetes.io/storage-provisioner\":\"example.com/p\",\"volume.kubernetes.io/storage-provisioner\":\"example.com/p\"}}}\nc ExternalProvisioning: Waiting for"), "{asked}");
}

#[test]
fn claims_find_the_smallest_volume_that_suits() {
    let now = class("fast", "p", "Immediate");
    let volumes = [
        a_volume("small", json!({"/spec/capacity": {"storage": "1Gi"}})),
        a_volume("big", json!({"/spec/capacity": {"storage": "9Gi"}})),
        a_volume("other", json!({"/spec/storageClassName": "slow"})),
        a_volume("block", json!({"/spec/volumeMode": "Block"})),
        a_volume("shared", json!({"/spec/accessModes": ["ReadOnlyMany"]})),
        a_volume("wide", json!({"/spec/accessModes": ["ReadWriteOnce", "ReadWriteMany"]})),
        a_volume("taken", kept_for("someone")),
        a_volume("fits", json!({"/spec/capacity": {"storage": "3Gi"}})),
    ];
    let bound = claims(json!({}), Some(&now), &volumes);
    let want = [
        r#"fits is: {"metadata":{"annotations":{"pv.kubernetes.io/bound-by-controller":"yes"}},"spec":{"claimRef":{"apiVersion":"v1","kind":"PersistentVolumeClaim","name":"c","namespace":"ns","resourceVersion":"1","uid":"u"}}}"#,
        r#"fits status: {"status":{"message":null,"phase":"Bound"}}"#,
        r#"c is: {"metadata":{"annotations":{"pv.kubernetes.io/bind-completed":"yes","pv.kubernetes.io/bound-by-controller":"yes"}},"spec":{"volumeName":"fits"}}"#,
        r#"c status: {"status":{"accessModes":["ReadWriteOnce"],"capacity":{"storage":"3Gi"},"phase":"Bound"}}"#,
    ];
    assert_eq!(bound, want.join("\n"));
    // One that is kept for the claim wins, and one that it names must suit.
    let kept = claims(json!({}), Some(&now), &[a_volume("fits", json!({})), a_volume("mine", kept_for("u"))]);
    assert!(kept.starts_with("mine status"), "{kept}");
    let named = claims(json!({"/spec/volumeName": "small"}), Some(&now), &volumes);
    assert_eq!(
        named,
        "c VolumeMismatch: Cannot bind to requested volume \"small\": requested PV is too small"
    );
    let taken = claims(json!({"/spec/volumeName": "taken"}), Some(&now), &volumes);
    assert_eq!(taken, "c FailedBinding: volume \"taken\" already bound to a different claim.");
}

#[test]
fn volumes_by_table() {
    let bound = a_claim(json!({"/spec/volumeName": "v"}));
    let elsewhere = a_claim(json!({"/spec/volumeName": "w"}));
    let policy = |policy: &str, phase: &str| {
        let mut fields = kept_for("u");
        fields["/spec/persistentVolumeReclaimPolicy"] = json!(policy);
        fields["/status/phase"] = json!(phase);
        fields
    };
    let ours = |mut fields: Value, by: &str| {
        fields["/metadata/annotations"] = json!({"pv.kubernetes.io/provisioned-by": by});
        fields
    };
    let phase = |phase: &str| format!("v status: {{\"status\":{{\"message\":null,\"phase\":\"{phase}\"}}}}");
    let no_deleter =
        "error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched";
    let table = [
        (json!({"/status/phase": "Pending"}), None, phase("Available")),
        (kept_for(""), None, String::new()),
        (kept_for("u"), Some(&bound), phase("Bound")),
        (policy("Retain", "Bound"), None, phase("Released")),
        (ours(policy("Delete", "Bound"), "kutter.dev/local"), None, phase("Released")),
        (
            policy("Delete", "Released"),
            None,
            format!(
                "v status: {}\nv VolumeFailedDelete: {no_deleter}",
                json!({"status": {"message": no_deleter, "phase": "Failed"}})
            ),
        ),
        (policy("Delete", "Failed"), None, String::new()),
        (kept_for("u"), Some(&elsewhere), "v is: {\"spec\":{\"claimRef\":{\"uid\":null}}}".to_owned()),
        (ours(policy("Delete", "Bound"), "kutter.dev/local"), Some(&elsewhere), phase("Released")),
    ];
    for (fields, claim, want) in table {
        let plan = reclaim::plan(&a_volume("v", fields.clone()), claim);
        assert_eq!(told(&plan), want, "{fields}");
    }
}

fn node(ready: &str) -> Node {
    object(json!({
        "metadata": {"name": "n", "labels": {"kubernetes.io/hostname": "host"}},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }))
}

#[test]
fn a_node_makes_and_removes_directories() {
    let local = class("local", "kutter.dev/local", "WaitForFirstConsumer");
    let asked = json!({
        "/metadata/annotations": {
            "volume.kubernetes.io/storage-provisioner": "kutter.dev/local",
            "volume.kubernetes.io/selected-node": "n",
        },
    });
    let claim = a_claim(asked.clone());
    let (ready, away) = (node("True"), node("Unknown"));
    let demand = |claim: &PersistentVolumeClaim, node: &'static str| {
        let of = match node {
            "ready" => Some(&ready),
            "away" => Some(&away),
            _ => None,
        };
        local::for_claim(claim, Some(&local), None, |_| of, || None)
    };
    assert_eq!(demand(&claim, "ready"), Demand::Make { node: "n".into(), volume: "pvc-u".into() });
    let Demand::Nothing(plan) = demand(&claim, "away") else { panic!("a node that is away was asked") };
    assert!(told(&plan).contains("selected-node\":null"), "{}", told(&plan));
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let plan = local::made(&claim, &local, &ready, Ok("/pv/pvc-u".into()), now);
    assert_eq!(told(&plan), "create \"pvc-u\"");
    let Action::Create { object: made, .. } = &plan.actions[0] else { panic!("nothing is made") };
    let made: PersistentVolume = object((**made).clone());
    let labels = |host: &str| [("kubernetes.io/hostname".to_owned(), host.to_owned())].into();
    let reachable = controllers::volume::matching::reachable_from;
    assert!(reachable(&made, Some(&labels("host"))) && !reachable(&made, Some(&labels("other"))));
    // In use it stays; released it goes, as soon as its node is there.
    let mut volume = made;
    let phase = |volume: &mut PersistentVolume, phase: &str| {
        volume.status.get_or_insert_default().phase = Some(phase.into());
    };
    phase(&mut volume, "Bound");
    assert!(matches!(local::for_volume(&volume, Some(&ready), now), Demand::Nothing(_)));
    phase(&mut volume, "Released");
    let Demand::Nothing(plan) = local::for_volume(&volume, Some(&away), now) else { panic!("asked") };
    assert_eq!(told(&plan), "");
    assert!(matches!(local::for_volume(&volume, Some(&ready), now), Demand::Remove { .. }));
    let plan = local::removed(&volume, Ok(()), now);
    assert_eq!(told(&plan), "pvc-u is: {\"metadata\":{\"finalizers\":[]}}\ndelete pvc-u");
    let plan = local::removed(&volume, Err("busy".into()), now);
    assert!(told(&plan).ends_with("pvc-u VolumeFailedDelete: busy"));
}

#[test]
fn only_own_volumes_grow_by_themselves() {
    let claim = a_claim(json!({"/status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}}));
    let own = json!({"/metadata/annotations": {"pv.kubernetes.io/provisioned-by": "kutter.dev/local"},
        "/spec/capacity": {"storage": "1Gi"}});
    let plan = expand::plan(&claim, Some(&a_volume("v", own)));
    assert!(
        told(&plan).starts_with("v is: {\"spec\":{\"capacity\":{\"storage\":\"2Gi\"}}}\nc status"),
        "{}",
        told(&plan)
    );
    let plan = expand::plan(&claim, Some(&a_volume("v", json!({}))));
    assert_eq!(told(&plan), "c ExternalExpanding: waiting for an external controller to expand this PVC");
}
