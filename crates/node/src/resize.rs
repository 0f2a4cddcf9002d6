//! Resize in place: running containers get the resources that their pod wants by now.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use pods::model::Life;
use pods::plan::Action;

use crate::container;
use crate::observe::Snapshot;
use crate::worker::{Done, Worker};

/// The changed kinds of resources, `cpu` and `memory`.
fn changed(old: &ResourceRequirements, new: &ResourceRequirements) -> Vec<&'static str> {
    let amount = |list: &Option<BTreeMap<String, _>>, name: &str| -> Option<i128> {
        pods::quantity::of(list.as_ref(), name)
    };
    ["cpu", "memory"]
        .into_iter()
        .filter(|name| {
            amount(&old.requests, name) != amount(&new.requests, name)
                || amount(&old.limits, name) != amount(&new.limits, name)
        })
        .collect()
}

/// Whether one of these changes needs the container to start anew.
fn restarts(c: &Container, changed: &[&str]) -> bool {
    let policies = c.resize_policy.iter().flatten();
    policies.filter(|p| p.restart_policy == "RestartContainer").any(|p| changed.contains(&&*p.resource_name))
}

impl Worker {
    /// Brings running containers to the resources of the pod; the end of each change is a wake-up.
    pub(crate) fn resize(&mut self, pod: &Pod, snap: &Snapshot) -> Vec<Action> {
        let mut kills = Vec::new();
        let Some(spec) = pod.spec.as_ref() else { return kills };
        self.applied.retain(|id, _| snap.seen.containers.iter().any(|c| c.id == *id));
        let sidecars = pods::spec::inits(spec).iter().filter(|c| pods::spec::is_sidecar(c));
        for c in sidecars.chain(&spec.containers) {
            let Some(seen) = snap.seen.newest(&c.name).filter(|s| s.life == Life::Running) else { continue };
            let wanted = c.resources.clone().unwrap_or_default();
            let key = format!("resize:{}", c.name);
            if self.busy(&key) {
                continue;
            }
            match self.applied.get(&seen.id) {
                // A container is made with the resources of its time; only a pod that was changed can have others.
                None if pod.metadata.generation.unwrap_or(1) <= 1 => {
                    self.applied.insert(seen.id.clone(), wanted);
                    continue;
                }
                Some(now) if changed(now, &wanted).is_empty() => {
                    self.applied.insert(seen.id.clone(), wanted);
                    continue;
                }
                Some(now) if restarts(c, &changed(now, &wanted)) => {
                    let message = format!("Container {} resize requires restart", c.name);
                    let (id, name) = (seen.id.clone(), c.name.clone());
                    kills.push(Action::Kill { id, name, message, grace: None });
                    continue;
                }
                _ => {}
            }
            let (k, id, limits) = (self.k.clone(), seen.id.clone(), container::limits(&self.k, pod, c));
            self.spawn(&key, async move {
                match k.runtime.update_resources(&id, limits).await {
                    Ok(()) => Done::Resized(id, Ok(wanted)),
                    Err(error) => Done::Resized(id, Err(error.to_string())),
                }
            });
        }
        kills
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn resources(cpu: &str, memory: &str) -> ResourceRequirements {
        serde_json::from_value(json!({"requests": {"cpu": cpu, "memory": memory}})).expect("resources")
    }

    #[test]
    fn equal_amounts_are_no_change() {
        let now = resources("100m", "64Mi");
        assert!(changed(&now, &resources("0.1", "65536Ki")).is_empty());
        assert_eq!(changed(&now, &resources("200m", "64Mi")), ["cpu"]);
        assert_eq!(changed(&now, &resources("200m", "65Mi")), ["cpu", "memory"]);
    }

    #[test]
    fn a_restart_is_asked_for_by_resource() {
        let c: Container = serde_json::from_value(json!({"name": "c", "resizePolicy": [
            {"resourceName": "memory", "restartPolicy": "RestartContainer"},
            {"resourceName": "cpu", "restartPolicy": "NotRequired"},
        ]}))
        .expect("a container");
        assert!(restarts(&c, &["memory"]) && restarts(&c, &["cpu", "memory"]));
        assert!(!restarts(&c, &["cpu"]));
    }
}
