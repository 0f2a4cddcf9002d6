//! Amounts of resources as small integers: CPU in thousandths of a core, all else in units or bytes.

use std::collections::BTreeMap;

use base::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// CPU a container without a request counts for in scores.
const CPU_DEFAULT: i64 = 100;
/// Memory a container without a request counts for in scores.
const MEMORY_DEFAULT: i64 = 200 << 20;

/// What a node has or pods ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of local storage.
    pub storage: i64,
    /// Pods.
    pub pods: i64,
    /// Everything else by name (devices, huge pages), in units.
    pub others: BTreeMap<String, i64>,
}

impl Resources {
    /// Reads a resource list; what is no quantity counts as nothing.
    pub fn of(list: &BTreeMap<String, Text>) -> Resources {
        let mut resources = Resources::default();
        for (name, text) in list {
            let Ok(quantity) = text.0.parse::<Quantity>() else { continue };
            match name.as_str() {
                "cpu" => resources.cpu_milli = quantity.millis(),
                "memory" => resources.memory = quantity.units(),
                "ephemeral-storage" => resources.storage = quantity.units(),
                "pods" => resources.pods = quantity.units(),
                _ => {
                    resources.others.insert(name.clone(), quantity.units());
                }
            }
        }
        resources
    }

    /// Adds `times` of the other amounts (−1 subtracts).
    pub fn add(&mut self, other: &Resources, times: i64) {
        self.cpu_milli += other.cpu_milli * times;
        self.memory += other.memory * times;
        self.storage += other.storage * times;
        self.pods += other.pods * times;
        for (name, amount) in &other.others {
            let sum = self.others.entry(name.clone()).or_default();
            *sum += amount * times;
            if *sum == 0 {
                self.others.remove(name);
            }
        }
    }

    /// Raises each amount to that of the other.
    fn raise(&mut self, other: &Resources) {
        self.cpu_milli = self.cpu_milli.max(other.cpu_milli);
        self.memory = self.memory.max(other.memory);
        self.storage = self.storage.max(other.storage);
        for (name, amount) in &other.others {
            let own = self.others.entry(name.clone()).or_default();
            *own = (*own).max(*amount);
        }
    }

    /// What a pod asks for: its containers and sidecars together, or what its init containers need at any time if
    /// that is more, plus the overhead; pod-level requests win. One pod.
    pub fn requested_by(spec: &PodSpec) -> Resources {
        Resources::with(spec, requests)
    }

    /// Like [`Resources::requested_by`], with a usual amount for what a container says nothing about: for scores.
    pub fn likely_used_by(spec: &PodSpec) -> Resources {
        Resources::with(spec, |container| {
            let list = container.resources.as_ref().and_then(|r| r.requests.as_ref());
            let says = |name: &str| list.is_some_and(|l| l.contains_key(name));
            let mut wanted = requests(container);
            if !says("cpu") {
                wanted.cpu_milli = CPU_DEFAULT;
            }
            if !says("memory") {
                wanted.memory = MEMORY_DEFAULT;
            }
            wanted
        })
    }

    fn with(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> Resources {
        let mut total = pod_sum(spec, of);
        if let Some(level) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
            let level = Resources::of(level);
            for (own, given) in [(&mut total.cpu_milli, level.cpu_milli), (&mut total.memory, level.memory)] {
                if given > 0 {
                    *own = given;
                }
            }
        }
        if let Some(overhead) = &spec.overhead {
            total.add(&Resources::of(overhead), 1);
        }
        total.pods = 1;
        total
    }
}

fn requests(container: &Container) -> Resources {
    let list = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    list.map(Resources::of).unwrap_or_default()
}

fn pod_sum(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&of(container), 1);
    }
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let wanted = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&wanted, 1);
            starting.raise(&sidecars);
        } else {
            let mut moment = sidecars.clone();
            moment.add(&wanted, 1);
            starting.raise(&moment);
        }
    }
    running.add(&sidecars, 1);
    running.raise(&starting);
    running
}
