//! Resize in place: running containers get the resources that their pod wants by now.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, ResourceRequirements};
use pods::model::Life;
use pods::plan::Action;
use serde_json::json;

use crate::observe::Snapshot;
use crate::worker::{Done, Worker};
use crate::{cgroups, container};

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

/// What a pod wants for each container that can be resized.
fn wanted(pod: &Pod) -> BTreeMap<String, ResourceRequirements> {
    let spec = pod.spec.as_ref();
    let all = spec.into_iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    all.map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default())).collect()
}

/// What the node had promised before, when nothing on disk says so: for a pod whose resize was pending, what its
/// status says.
fn promised(pod: &Pod) -> BTreeMap<String, ResourceRequirements> {
    let mut list = wanted(pod);
    let Some(status) = &pod.status else { return list };
    let pending = |c: &PodCondition| c.type_ == pods::status::RESIZE_PENDING && c.status == "True";
    if status.conditions.iter().flatten().any(pending) {
        let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        for (name, resources) in all.filter_map(|s| Some((&s.name, s.resources.clone()?))) {
            list.insert(name.clone(), resources);
        }
    }
    list
}

/// In a pod's directory: what the node has promised each of its containers.
const FILE: &str = "allocated.json";

fn recall(file: &Path) -> Option<BTreeMap<String, ResourceRequirements>> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

/// The event of a resize: what is wanted by now.
fn describe(pod: &Pod, what: &str, error: Option<&str>) -> String {
    let list = |containers: &[Container]| -> Vec<_> {
        containers.iter().map(|c| json!({ "name": c.name, "resources": c.resources })).collect()
    };
    let spec = pod.spec.as_ref();
    let mut summary = json!({ "containers": list(spec.map_or(&[], |s| &s.containers)) });
    if let Some(inits) = spec.and_then(|s| s.init_containers.as_deref()) {
        summary["initContainers"] = list(inits).into();
    }
    summary["generation"] = pod.metadata.generation.into();
    if let Some(error) = error {
        summary["error"] = error.into();
    }
    format!("{what}: {summary}")
}

impl Worker {
    /// The pod with the resources that the node has for it: those it asks for if there is room, else those it had.
    pub(crate) fn allocate(&mut self, mut pod: Pod) -> Pod {
        let wanted = wanted(&pod);
        let file = self.k.pod_dir(&self.uid).join(FILE);
        let allocated = self.allocated.get_or_insert_with(|| recall(&file).unwrap_or_else(|| promised(&pod)));
        let differs = wanted.iter().any(|(name, new)| match allocated.get(name) {
            Some(old) => !changed(old, new).is_empty(),
            None => false,
        });
        let over = pod.metadata.deletion_timestamp.is_some() || self.memory.end.is_some();
        if !differs || over {
            if !over {
                *allocated = wanted;
                self.memory.resize.pending = None;
            }
            return pod;
        }
        let mut before = pod.spec.clone().unwrap_or_default();
        let all = before.containers.iter_mut().chain(before.init_containers.iter_mut().flatten());
        for c in all {
            if let Some(old) = allocated.get(&c.name) {
                c.resources = Some(old.clone());
            }
        }
        match self.k.resize(&pod) {
            Ok(()) => {
                *allocated = wanted;
                self.memory.resize.pending = None;
                self.memory.resize.running = Some(None);
                cgroups::widen(&self.k.options, &pod, &before);
                let text = describe(&pod, "Pod resize started", None);
                self.k.events.pod(&pod, None, false, "ResizeStarted", text);
            }
            Err(lacks) => {
                let known = self.memory.resize.pending.as_ref().is_some_and(|(_, m)| *m == lacks);
                if !known {
                    let text = describe(&pod, "Pod resize Deferred", Some(&lacks));
                    self.k.events.pod(&pod, None, true, "ResizeDeferred", text);
                }
                self.memory.resize.pending = Some(("Deferred", lacks));
                pod.spec = Some(before);
            }
        }
        pod
    }

    /// Keeps on disk what the node has promised, once the pod has a directory.
    pub(crate) fn checkpoint(&mut self) {
        let dir = self.k.pod_dir(&self.uid);
        if self.allocated == self.checkpointed || !dir.is_dir() {
            return;
        }
        let text = serde_json::to_vec(&self.allocated).unwrap_or_default();
        let new = dir.join(format!("{FILE}.new"));
        match std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, dir.join(FILE))) {
            Ok(()) => self.checkpointed.clone_from(&self.allocated),
            Err(error) => tracing::warn!(%error, pod = self.uid, "what a pod was promised is not on disk"),
        }
    }

    /// Takes note once every running container has what its pod wants.
    fn settled(&mut self, pod: &Pod, snap: &Snapshot) {
        if self.memory.resize.running.is_none() || self.tasks.keys().any(|t| t.starts_with("resize:")) {
            return;
        }
        let wanted = wanted(pod);
        let done = |name: &String, id: &String| {
            let (Some(want), Some(have)) = (wanted.get(name), self.applied.get(id)) else { return true };
            changed(have, want).is_empty()
        };
        let running = snap.seen.containers.iter().filter(|c| c.life == Life::Running);
        if running.into_iter().all(|c| done(&c.name, &c.id)) {
            self.memory.resize.running = None;
            cgroups::make(&self.k.options, pod);
            let text = describe(pod, "Pod resize completed", None);
            self.k.events.pod(pod, None, false, "ResizeCompleted", text);
        }
    }

    /// Brings running containers to the resources of the pod; the end of each change is a wake-up.
    pub(crate) fn resize(&mut self, pod: &Pod, snap: &Snapshot) -> Vec<Action> {
        let mut kills = Vec::new();
        let Some(spec) = pod.spec.as_ref() else { return kills };
        self.applied.retain(|id, _| snap.seen.containers.iter().any(|c| c.id == *id));
        for c in pods::spec::inits(spec).iter().chain(&spec.containers) {
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
        if kills.is_empty() {
            self.settled(pod, snap);
        }
        kills
    }
}

#[cfg(test)]
mod tests {
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
