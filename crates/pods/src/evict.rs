//! Eviction: when a resource of the node runs low, which pod has to go.

use std::collections::BTreeMap;
use std::str::FromStr;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;

use crate::model::End;
use crate::resources;

/// A resource that can run low.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signal {
    /// `memory.available`
    Memory,
    /// `nodefs.available`
    NodeFs,
    /// `nodefs.inodesFree`
    NodeFsInodes,
    /// `imagefs.available`
    ImageFs,
    /// `imagefs.inodesFree`
    ImageFsInodes,
    /// `pid.available`
    Pid,
}

impl Signal {
    /// The resource's name in messages.
    pub fn resource(self) -> &'static str {
        match self {
            Signal::Memory => "memory",
            Signal::NodeFs | Signal::ImageFs => "ephemeral-storage",
            Signal::NodeFsInodes | Signal::ImageFsInodes => "inodes",
            Signal::Pid => "pids",
        }
    }

    /// The node condition it sets.
    pub fn condition(self) -> &'static str {
        match self {
            Signal::Memory => "MemoryPressure",
            Signal::NodeFs | Signal::NodeFsInodes | Signal::ImageFs | Signal::ImageFsInodes => "DiskPressure",
            Signal::Pid => "PIDPressure",
        }
    }

    /// By the name that thresholds are written with.
    fn named(name: &str) -> Option<Signal> {
        Some(match name {
            "memory.available" => Signal::Memory,
            "nodefs.available" => Signal::NodeFs,
            "nodefs.inodesFree" => Signal::NodeFsInodes,
            "imagefs.available" => Signal::ImageFs,
            "imagefs.inodesFree" => Signal::ImageFsInodes,
            "pid.available" => Signal::Pid,
            _ => return None,
        })
    }
}

/// What is there of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Which.
    pub signal: Signal,
    /// What is free.
    pub available: u64,
    /// All there is.
    pub capacity: u64,
}

/// How much must stay free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Least {
    /// Bytes or pieces.
    Amount(u64),
    /// Hundredths of a percent of all there is.
    Share(u64),
}

/// What must stay free: upstream's default hard thresholds of 100 MiB of memory, 10 % of the disk, 5 % of the inodes
/// and 15 % of the image disk, but never more of a disk than [`DISK_MOST`]: a tenth of a large disk that is shared
/// with everything else on a machine is no emergency. Thresholds that are given replace all of these.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Thresholds {
    given: Option<BTreeMap<Signal, Least>>,
}

/// The most bytes of a disk that must stay free.
pub const DISK_MOST: u64 = 2 << 30;

impl Thresholds {
    /// What must stay free of a resource; 0 is nothing.
    pub fn of(&self, signal: Signal, capacity: u64) -> u64 {
        if let Some(given) = &self.given {
            return match given.get(&signal) {
                Some(Least::Amount(n)) => *n,
                Some(Least::Share(s)) => {
                    u64::try_from(u128::from(capacity) * u128::from(*s) / 10_000).unwrap_or(u64::MAX)
                }
                None => 0,
            };
        }
        match signal {
            Signal::Memory => 100 << 20,
            Signal::NodeFs => (capacity / 10).min(DISK_MOST),
            Signal::NodeFsInodes | Signal::ImageFsInodes => capacity / 20,
            Signal::ImageFs => (capacity / 100 * 15).min(DISK_MOST),
            Signal::Pid => 0,
        }
    }

    /// The readings that are below their threshold, memory first.
    pub fn crossed(&self, readings: &[Reading]) -> Vec<Reading> {
        let mut low: Vec<_> = readings
            .iter()
            .copied()
            .filter(|r| r.capacity > 0 && r.available < self.of(r.signal, r.capacity))
            .collect();
        low.sort_by_key(|r| r.signal);
        low
    }
}

impl FromStr for Thresholds {
    type Err = String;

    /// From `memory.available<100Mi,nodefs.available<10%`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut given = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let wrong = || format!("eviction threshold {part:?} is not SIGNAL<QUANTITY or SIGNAL<PERCENT%");
            let (name, least) = part.split_once('<').ok_or_else(wrong)?;
            let signal =
                Signal::named(name).ok_or_else(|| format!("eviction signal {name:?} is not known"))?;
            let least = match least.strip_suffix('%') {
                Some(percent) => {
                    let share: f64 = percent.parse().map_err(|_| wrong())?;
                    if !(0.0..=100.0).contains(&share) {
                        return Err(wrong());
                    }
                    Least::Share((share * 100.0) as u64)
                }
                None => Least::Amount(
                    crate::quantity::value(least).and_then(|n| u64::try_from(n).ok()).ok_or_else(wrong)?,
                ),
            };
            given.insert(signal, least);
        }
        Ok(Self { given: Some(given) })
    }
}

/// One pod's use, in bytes.
#[derive(Debug, Clone)]
pub struct Use<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Working set.
    pub memory: u64,
    /// Local disk.
    pub disk: u64,
    /// Memory or local disk, as the resource is, of each container.
    pub containers: Vec<(String, u64)>,
}

/// Whether the node never evicts it.
pub fn critical(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    let is_static =
        annotations.and_then(|a| a.get("kubernetes.io/config.source")).is_some_and(|s| s != "api");
    is_static || pod.spec.as_ref().and_then(|s| s.priority).is_some_and(|p| p >= 2_000_000_000)
}

/// The pod to evict for `signal` and how it ends: first those above their request, then the lowest priority, then
/// the furthest above.
pub fn choose<'a>(reading: &Reading, threshold: u64, uses: &[Use<'a>]) -> Option<(&'a Pod, End)> {
    let signal = reading.signal;
    let asked = |u: &Use<'_>| -> u64 {
        let name = if signal == Signal::Memory { "memory" } else { "ephemeral-storage" };
        let spec = u.pod.spec.as_ref();
        let milli = spec.map(|s| resources::requests(s).get(name).copied().unwrap_or(0)).unwrap_or(0);
        u64::try_from(milli / 1000).unwrap_or(0)
    };
    let amount = |u: &Use<'_>| if signal == Signal::Memory { u.memory } else { u.disk };
    let rank = |u: &&Use<'a>| {
        let (used, request) = (amount(u), asked(u));
        let priority = u.pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
        (used <= request, priority, std::cmp::Reverse(used.saturating_sub(request)))
    };
    let victim = uses.iter().filter(|u| !critical(u.pod)).min_by_key(rank)?;
    let mut message = format!(
        "The node was low on resource: {}. Threshold quantity: {}, available: {}. ",
        signal.resource(),
        bytes(threshold),
        bytes(reading.available)
    );
    message.push_str(&larger(signal, victim));
    let grace = Some(SignedDuration::from_secs(1));
    let disruption = Some("TerminationByKubelet".to_string());
    Some((victim.pod, End { reason: "Evicted".into(), message, grace, disruption }))
}

/// The containers that use more than they asked for.
fn larger(signal: Signal, victim: &Use<'_>) -> String {
    let resource = signal.resource();
    let mut text = String::new();
    let spec = victim.pod.spec.as_ref();
    let all = spec.into_iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    for c in all {
        let Some((_, used)) = victim.containers.iter().find(|(name, _)| *name == c.name) else { continue };
        let asked = c.resources.as_ref().and_then(|r| r.requests.as_ref()?.get(resource));
        let amount = asked.and_then(|q| crate::quantity::value(&q.0)).unwrap_or(0);
        if i64::try_from(*used).unwrap_or(i64::MAX) > amount {
            let asked = asked.map_or("0", |q| q.0.as_str());
            let (name, used) = (&c.name, bytes(*used));
            text.push_str(&format!(
                "Container {name} was using {used}, request is {asked}, has larger consumption of {resource}. "
            ));
        }
    }
    text
}

/// As quantities are written: the largest binary unit that leaves a whole number.
fn bytes(n: u64) -> String {
    let mut n = n;
    let mut unit = "";
    for next in ["Ki", "Mi", "Gi", "Ti"] {
        if n == 0 || !n.is_multiple_of(1024) {
            break;
        }
        n /= 1024;
        unit = next;
    }
    format!("{n}{unit}")
}

/// How a pod ends whose emptyDir or total local storage is above its limit, if one is.
pub fn over_limit(pod: &Pod, empty_dirs: &[(String, u64)], total: u64) -> Option<End> {
    let spec = pod.spec.as_ref()?;
    let end = |message| {
        let grace = Some(SignedDuration::from_secs(1));
        Some(End { reason: "Evicted".into(), message, grace, disruption: None })
    };
    for (name, used) in empty_dirs {
        let volume = spec.volumes.iter().flatten().find(|v| v.name == *name);
        let limit = volume.and_then(|v| v.empty_dir.as_ref()).and_then(|e| e.size_limit.as_ref());
        let Some(limit) = limit else { continue };
        if crate::quantity::value(&limit.0).is_some_and(|l| l > 0 && *used > u64::try_from(l).unwrap_or(0)) {
            return end(format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{}\". ", limit.0));
        }
    }
    let limit = resources::limits(spec).get("ephemeral-storage").copied().filter(|l| *l > 0)?;
    if i128::from(total) * 1000 > limit {
        let text = bytes(u64::try_from(limit / 1000).unwrap_or(0));
        return end(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {text}. "
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn thresholds() {
        let plain = Thresholds::default();
        assert_eq!(plain.of(Signal::Memory, 1 << 40), 100 << 20);
        assert_eq!(plain.of(Signal::NodeFs, 1000), 100);
        let given: Thresholds = "memory.available<1Gi, nodefs.available<12.5%".parse().expect("thresholds");
        assert_eq!(given.of(Signal::Memory, 0), 1 << 30);
        assert_eq!(given.of(Signal::NodeFs, 1000), 125);
        assert_eq!(given.of(Signal::ImageFs, 1000), 0);
        for bad in ["memory.available>1Gi", "memory.free<1Gi", "memory.available<x", "nodefs.available<101%"]
        {
            assert!(bad.parse::<Thresholds>().is_err(), "{bad}");
        }
    }

    #[test]
    fn amounts_as_quantities() {
        for (n, text) in
            [(0, "0"), (1000, "1000"), (1024, "1Ki"), (100 << 20, "100Mi"), ((1 << 20) + 1024, "1025Ki")]
        {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn who_uses_more_than_asked_goes_first() {
        let pod = |name: &str, priority: i32, request: &str| -> Pod {
            serde_json::from_value(
                json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": [
                {"name": "c", "resources": {"requests": {"memory": request}}}]}}),
            )
            .expect("a pod")
        };
        let pods = [pod("within", 0, "100Mi"), pod("above-high", 10, "1Mi"), pod("above", 0, "1Mi")];
        let uses: Vec<Use<'_>> = pods
            .iter()
            .map(|pod| Use { pod, memory: 2 << 20, disk: 0, containers: vec![("c".into(), 2 << 20)] })
            .collect();
        let reading = Reading { signal: Signal::Memory, available: 50 << 20, capacity: 1 << 30 };
        let (victim, end) = choose(&reading, 100 << 20, &uses).expect("a victim");
        assert_eq!(victim.metadata.name.as_deref(), Some("above"));
        assert_eq!(
            end.message,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. \
             Container c was using 2Mi, request is 1Mi, has larger consumption of memory. "
        );
    }
}
