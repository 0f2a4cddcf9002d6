//! A Deployment and its ReplicaSets over a small world in memory: plans are carried out to a random prefix,
//! as if the controllers were killed, and planned anew.

use std::collections::BTreeMap;

use controllers::{Action, Plan, deployment, pod, replicaset};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

#[derive(Default)]
struct World {
    objects: BTreeMap<(String, String), Value>,
    revision: u64,
    seconds: i64,
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

impl World {
    fn put(&mut self, plural: &str, mut object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap_or("").to_owned();
        let key = (plural.to_owned(), name);
        if self.objects.contains_key(&key) {
            return;
        }
        self.revision += 1;
        object["metadata"]["uid"] = json!(format!("uid-{}", self.revision));
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        object["metadata"]["generation"] = json!(1);
        object["metadata"]["creationTimestamp"] = json!(self.now().to_string());
        self.objects.insert(key, object);
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + self.seconds).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn all<K: DeserializeOwned>(&self, plural: &str) -> Vec<K> {
        let of = self.objects.iter().filter(|((p, _), _)| p == plural);
        of.map(|(_, o)| serde_json::from_value(o.clone()).expect("the world holds what planners wrote"))
            .collect()
    }

    /// Carries out at most `limit` actions; gives how many there were, events aside.
    fn carry_out(&mut self, plan: &Plan, limit: usize) -> usize {
        let writes = plan.actions.iter().filter(|a| !matches!(a, Action::Event { .. }));
        for action in writes.clone().take(limit) {
            match action {
                Action::Create { resource, object, .. } => self.put(&resource.plural, (**object).clone()),
                Action::Delete { target, .. } => {
                    self.objects.remove(&(target.resource.plural.to_string(), target.name.clone()));
                }
                Action::Patch { target, subresource, patch, .. } => {
                    if !self.patch(&target.resource.plural, &target.name, subresource, patch) {
                        break;
                    }
                }
                other => panic!("the world does not know {other:?}"),
            }
        }
        writes.count()
    }

    fn patch(&mut self, plural: &str, name: &str, subresource: &str, patch: &Value) -> bool {
        self.revision += 1;
        let Some(object) = self.objects.get_mut(&(plural.to_owned(), name.to_owned())) else { return false };
        let wanted = patch.pointer("/metadata/resourceVersion");
        if wanted.is_some_and(|w| *w != object["metadata"]["resourceVersion"]) {
            return false;
        }
        let before = object["spec"].clone();
        merge(object, patch);
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        if subresource.is_empty() && object["spec"] != before {
            let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
            object["metadata"]["generation"] = json!(generation + 1);
        }
        true
    }

    fn plan_deployment(&self) -> Plan {
        let d = self.all::<Deployment>("deployments").remove(0);
        let (sets, pods): (Vec<ReplicaSet>, Vec<Pod>) = (self.all("replicasets"), self.all("pods"));
        let next = deployment::next_name(&d);
        let view = deployment::View {
            deployment: &d,
            sets: sets.iter().collect(),
            namesake: sets.iter().find(|s| pod::name(*s) == next),
            pods: pods.iter().collect(),
            failure: None,
        };
        deployment::plan(&view, self.now())
    }

    fn plan_sets(&self) -> Vec<Plan> {
        let (sets, pods): (Vec<ReplicaSet>, Vec<Pod>) = (self.all("replicasets"), self.all("pods"));
        let view = |set| replicaset::View {
            set,
            resource: replicaset::resource(),
            pods: pods.iter().collect(),
            related_on_node: BTreeMap::new(),
            failure: None,
        };
        sets.iter().map(|set| replicaset::plan(&view(set), self.now())).collect()
    }

    /// What a kubelet does: pods of images that work become ready.
    fn run_pods(&mut self) {
        for p in self.all::<Pod>("pods") {
            if pod::phase(&p).is_empty() && image(&p) != "broken" {
                let now = self.now().to_string();
                let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": now}]);
                let status = json!({"status": {"phase": "Running", "conditions": ready}});
                self.patch("pods", pod::name(&p), "status", &status);
            }
        }
    }

    /// One round, with each plan cut off after so many actions; whether nothing was to be done.
    fn round(&mut self, cuts: &mut impl Iterator<Item = usize>) -> bool {
        self.seconds += 1;
        let plan = self.plan_deployment();
        let mut planned = self.carry_out(&plan, cuts.next().unwrap_or(usize::MAX));
        for plan in self.plan_sets() {
            planned += self.carry_out(&plan, cuts.next().unwrap_or(usize::MAX));
        }
        self.run_pods();
        planned == 0
    }

    fn ready(&self) -> usize {
        self.all::<Pod>("pods").iter().filter(|p| pod::is_ready(p)).count()
    }

    fn set_template(&mut self, image: &str, replicas: i32) {
        let template = json!({"spec": {"containers": [{"name": "c", "image": image}]}});
        let spec = json!({"template": template, "replicas": replicas});
        self.patch("deployments", "web", "", &json!({"spec": spec}));
    }
}

fn image(p: &Pod) -> String {
    p.spec.as_ref().and_then(|s| s.containers[0].image.clone()).unwrap_or_default()
}

fn world(replicas: i32, strategy: &Value) -> World {
    let mut world = World::default();
    let labels = json!({"app": "web"});
    let containers = json!([{"name": "c", "image": "v1"}]);
    let spec = json!({
        "replicas": replicas, "selector": {"matchLabels": labels}, "strategy": strategy,
        "revisionHistoryLimit": 2, "progressDeadlineSeconds": 600,
        "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
    });
    world.put("deployments", json!({"metadata": {"name": "web", "namespace": "n"}, "spec": spec}));
    world
}

fn rolling(surge: i32, unavailable: i32) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

fn settle(world: &mut World) {
    assert!((0..400).any(|_| world.round(&mut std::iter::empty())), "no fixed point is reached");
}

/// Reason of `Progressing`, status of `Available`, ready pods, sets with pods, revision.
fn summary(world: &mut World) -> String {
    settle(world);
    let d: Deployment = world.all("deployments").remove(0);
    let status = d.status.unwrap_or_default();
    let condition = |kind: &str| status.conditions.iter().flatten().find(|c| c.type_ == kind).cloned();
    let progressing = condition("Progressing").and_then(|c| c.reason).unwrap_or_default();
    let available = condition("Available").map(|c| c.status).unwrap_or_default();
    let sets = world.all::<ReplicaSet>("replicasets");
    let used = sets.iter().filter(|s| s.spec.as_ref().and_then(|s| s.replicas) > Some(0)).count();
    let revision =
        d.metadata.annotations.and_then(|a| a.get(deployment::REVISION).cloned()).unwrap_or_default();
    format!("{progressing} available={available} ready={} sets={used} revision={revision}", world.ready())
}

#[test]
fn the_life_of_a_deployment() {
    let mut world = world(3, &rolling(1, 0));
    assert_eq!(summary(&mut world), "NewReplicaSetAvailable available=True ready=3 sets=1 revision=1");
    world.set_template("v2", 3);
    assert_eq!(summary(&mut world), "NewReplicaSetAvailable available=True ready=3 sets=1 revision=2");
    world.set_template("broken", 3);
    assert_eq!(summary(&mut world), "ReplicaSetUpdated available=True ready=3 sets=2 revision=3");
    world.seconds += 700;
    assert_eq!(summary(&mut world), "ProgressDeadlineExceeded available=True ready=3 sets=2 revision=3");
    world.set_template("v1", 5);
    assert_eq!(summary(&mut world), "NewReplicaSetAvailable available=True ready=5 sets=1 revision=4");
    assert!(world.all::<ReplicaSet>("replicasets").len() <= 3, "the history is limited");
    let recreate = json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}});
    world.patch("deployments", "web", "", &recreate);
    world.set_template("v5", 2);
    assert_eq!(summary(&mut world), "NewReplicaSetAvailable available=True ready=2 sets=1 revision=5");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Wherever passes are cut off, the rollout ends the same, and never leaves its bounds on the way.
    #[test]
    fn cut_off_passes_converge(
        replicas in 1i32..9, surge in 0i32..3, unavailable in 1i32..3,
        cuts in prop::collection::vec(0usize..4, 0..60),
    ) {
        let mut world = world(replicas, &rolling(surge, unavailable));
        settle(&mut world);
        world.set_template("v2", replicas);
        let mut cuts = cuts.into_iter();
        let low = usize::try_from(replicas - unavailable).unwrap_or(0);
        let high = replicas + surge;
        for _ in 0..40 {
            world.round(&mut cuts);
            let sets = world.all::<ReplicaSet>("replicasets");
            let asked: i32 = sets.iter().filter_map(|s| s.spec.as_ref()?.replicas).sum();
            prop_assert!(world.ready() >= low && asked <= high, "{} ready, {asked} asked for", world.ready());
        }
        settle(&mut world);
        prop_assert_eq!(world.ready(), usize::try_from(replicas).unwrap_or(0));
        prop_assert!(world.all::<Pod>("pods").iter().all(|p| image(p) == "v2"));
        prop_assert!(world.plan_deployment().actions.is_empty(), "a fixed point is planned anew as nothing");
    }
}
