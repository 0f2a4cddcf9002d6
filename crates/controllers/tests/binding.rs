//! The binder over a small world in memory: passes see the world as it was some time ago, are cut off anywhere, and
//! are planned anew. However that goes, in the end each volume has one claim, and each bound claim its volume.

use std::collections::BTreeMap;

use controllers::volume::{claim, reclaim};
use controllers::{Action, Plan};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Objects by plural and name.
type Objects = BTreeMap<(String, String), Value>;

#[derive(Default)]
struct World {
    now: Objects,
    past: Vec<Objects>,
    revision: u64,
}

/// One pass: about which object, how long ago the view was true, and after how many writes it is cut off.
#[derive(Debug, Clone)]
struct Step {
    about: usize,
    ago: usize,
    cut: usize,
}

fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else { return into.clone_from(patch) };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in patch {
        match value {
            Value::Null => drop(into.as_object_mut().and_then(|o| o.remove(key))),
            value => merge(&mut into[key.as_str()], value),
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).expect("the world holds objects")
}

fn all<T: serde::de::DeserializeOwned>(objects: &Objects, plural: &str) -> Vec<T> {
    objects.iter().filter(|((p, _), _)| p == plural).map(|(_, o)| read(o)).collect()
}

impl World {
    fn put(&mut self, plural: &str, name: &str, spec: Value) {
        self.revision += 1;
        let object = json!({
            "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{}", self.revision),
                "resourceVersion": self.revision.to_string()},
            "spec": spec, "status": {"phase": "Pending"},
        });
        self.now.insert((plural.to_owned(), name.to_owned()), object);
    }

    /// Carries out the plan up to a number of writes, or to the first that is refused; gives how many it wanted.
    fn carry_out(&mut self, plan: &Plan, cut: usize) -> usize {
        let writes: Vec<_> = plan.actions.iter().filter(|a| !matches!(a, Action::Event { .. })).collect();
        for action in writes.iter().take(cut) {
            let Action::Patch { target, subresource, patch, .. } = action else { panic!("{action:?}") };
            let key = (target.resource.plural.to_string(), target.name.clone());
            let Some(object) = self.now.get_mut(&key) else { break };
            let differs = |field: &str| {
                patch["metadata"].get(field).is_some_and(|wanted| *wanted != object["metadata"][field])
            };
            if differs("uid") || differs("resourceVersion") {
                break;
            }
            self.past.push(self.now.clone());
            let Some(object) = self.now.get_mut(&key) else { break };
            let status = object["status"].clone();
            merge(object, patch);
            if *subresource != "status" {
                object["status"] = status;
            }
            self.revision += 1;
            object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        }
        writes.len()
    }

    fn pass(&mut self, about: &(String, String), ago: usize, cut: usize) -> usize {
        let past = self.past.len().saturating_sub(ago);
        let seen = self.past[past..].first().unwrap_or(&self.now);
        let Some(object) = seen.get(about) else { return 0 };
        let plan = match about.0.as_str() {
            "persistentvolumes" => {
                let volume: PersistentVolume = read(object);
                let name = object.pointer("/spec/claimRef/name").and_then(Value::as_str).unwrap_or_default();
                let key = ("persistentvolumeclaims".to_owned(), name.to_owned());
                let seen: Option<PersistentVolumeClaim> = seen.get(&key).map(read);
                // That a claim is gone is asked of the API itself.
                let sure = match reclaim::is_orphan(&volume, seen.as_ref()) {
                    true => self.now.get(&key).map(read),
                    false => seen,
                };
                reclaim::plan(&volume, sure.as_ref())
            }
            _ => {
                let wants: PersistentVolumeClaim = read(object);
                let volumes: Vec<PersistentVolume> = all(seen, "persistentvolumes");
                let name = object.pointer("/spec/volumeName").and_then(Value::as_str);
                let named = volumes.iter().find(|v| name.is_some() && v.metadata.name.as_deref() == name);
                claim::plan(&claim::View {
                    claim: &wants,
                    class: None,
                    default: None,
                    named,
                    volumes: volumes.iter().collect(),
                    waiting_pods: Vec::new(),
                })
            }
        };
        self.carry_out(&plan, cut)
    }

    /// Passes over everything until nothing is to be done.
    fn settle(&mut self) {
        for _ in 0..50 {
            let keys: Vec<_> = self.now.keys().cloned().collect();
            if keys.iter().map(|key| self.pass(key, 0, usize::MAX)).sum::<usize>() == 0 {
                return;
            }
        }
        panic!("the binder does not come to rest: {:#?}", self.now);
    }

    fn check(&self) {
        let volumes: Vec<PersistentVolume> = all(&self.now, "persistentvolumes");
        let claims: Vec<PersistentVolumeClaim> = all(&self.now, "persistentvolumeclaims");
        let phase = controllers::volume::claim_phase;
        assert!(claims.iter().all(|c| phase(c) != "Lost"), "no volume went, but a claim lost its own");
        for c in claims.iter().filter(|c| phase(c) == "Bound") {
            let name = controllers::volume::volume_name(c);
            let volume =
                volumes.iter().find(|v| v.metadata.name.as_deref() == Some(name)).expect("its volume");
            let of = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()).expect("a claim");
            assert_eq!(of.uid, c.metadata.uid, "{name} is of another claim");
            assert_eq!(controllers::volume::volume_phase(volume), "Bound");
        }
        for v in volumes.iter().filter(|v| controllers::volume::volume_phase(v) == "Bound") {
            let of = v.spec.as_ref().and_then(|s| s.claim_ref.as_ref()).expect("a claim");
            let owner =
                claims.iter().find(|c| c.metadata.uid == of.uid).expect("a bound volume has its claim");
            assert_eq!(phase(owner), "Bound");
            assert_eq!(Some(controllers::volume::volume_name(owner)), v.metadata.name.as_deref());
        }
        // A claim that waits finds nothing: every volume of its size is taken.
        for c in
            claims.iter().filter(|c| phase(c) == "Pending" && controllers::volume::volume_name(c).is_empty())
        {
            let free = volumes.iter().filter(|v| controllers::volume::volume_phase(v) == "Available");
            let suits = |v: &&PersistentVolume| {
                controllers::volume::capacity(v) >= controllers::volume::requested(c)
                    && v.spec.as_ref().is_some_and(|s| s.claim_ref.is_none())
            };
            assert!(!{ free }.any(|v| suits(&v)), "{:?} waits beside a free volume", c.metadata.name);
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..12usize, 0..6usize, 0..5usize).prop_map(|(about, ago, cut)| Step { about, ago, cut });
    prop::collection::vec(step, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn each_volume_has_one_claim(
        wants in prop::collection::vec((1..4u8, prop::option::of(0..4usize)), 1..6),
        has in prop::collection::vec((1..4u8, prop::option::of(0..5usize)), 1..6),
        steps in steps(),
        goes in prop::option::of(0..6usize),
    ) {
        let mut world = World::default();
        for (i, (size, kept)) in has.iter().enumerate() {
            let mut spec = json!({"capacity": {"storage": format!("{size}Gi")}, "accessModes": ["ReadWriteOnce"],
                "storageClassName": "s", "persistentVolumeReclaimPolicy": "Retain"});
            if let Some(claim) = kept {
                spec["claimRef"] = json!({"namespace": "ns", "name": format!("c{claim}")});
            }
            world.put("persistentvolumes", &format!("v{i}"), spec);
        }
        for (i, (size, named)) in wants.iter().enumerate() {
            let mut spec = json!({"resources": {"requests": {"storage": format!("{size}Gi")}},
                "accessModes": ["ReadWriteOnce"], "storageClassName": "s"});
            if let Some(volume) = named {
                spec["volumeName"] = json!(format!("v{volume}"));
            }
            world.put("persistentvolumeclaims", &format!("c{i}"), spec);
        }
        let keys: Vec<_> = world.now.keys().cloned().collect();
        for step in &steps {
            world.pass(&keys[step.about % keys.len()], step.ago, step.cut);
        }
        if let Some(i) = goes {
            world.past.push(world.now.clone());
            world.now.remove(&("persistentvolumeclaims".to_owned(), format!("c{i}")));
        }
        world.settle();
        world.check();
    }
}
