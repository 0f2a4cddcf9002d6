//! Eviction: when a resource of the node runs low, which pod has to go.

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
    /// `pid.available`
    Pid,
}

impl Signal {
    /// The resource's name in messages.
    pub fn resource(self) -> &'static str {
        match self {
            Signal::Memory => "memory",
            Signal::NodeFs | Signal::ImageFs => "ephemeral-storage",
            Signal::NodeFsInodes => "inodes",
            Signal::Pid => "pids",
        }
    }

    /// The node condition it sets.
    pub fn condition(self) -> &'static str {
        match self {
            Signal::Memory => "MemoryPressure",
            Signal::NodeFs | Signal::NodeFsInodes | Signal::ImageFs => "DiskPressure",
            Signal::Pid => "PIDPressure",
        }
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

/// What must stay free: upstream's default hard thresholds of 100 MiB of memory, 10 % of the disk, 5 % of the inodes
/// and 15 % of the image disk, but never more of a disk than [`DISK_MOST`]: a tenth of a large disk that is shared
/// with everything else on a machine is no emergency.
pub fn threshold(signal: Signal, capacity: u64) -> u64 {
    match signal {
        Signal::Memory => 100 << 20,
        Signal::NodeFs => (capacity / 10).min(DISK_MOST),
        Signal::NodeFsInodes => capacity / 20,
        Signal::ImageFs => (capacity / 100 * 15).min(DISK_MOST),
        Signal::Pid => 0,
    }
}

/// The most bytes of a disk that must stay free.
pub const DISK_MOST: u64 = 2 << 30;

/// The readings that are below their threshold, memory first.
pub fn crossed(readings: &[Reading]) -> Vec<Reading> {
    let mut low: Vec<_> = readings
        .iter()
        .copied()
        .filter(|r| r.capacity > 0 && r.available < threshold(r.signal, r.capacity))
        .collect();
    low.sort_by_key(|r| r.signal);
    low
}

/// One pod's use, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Use<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Working set.
    pub memory: u64,
    /// Local disk.
    pub disk: u64,
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
pub fn choose<'a>(reading: &Reading, uses: &[Use<'a>]) -> Option<(&'a Pod, End)> {
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
    let threshold = threshold(signal, reading.capacity);
    let message = format!(
        "The node was low on resource: {}. Threshold quantity: {}, available: {}. ",
        signal.resource(),
        bytes(threshold),
        bytes(reading.available)
    );
    let grace = Some(SignedDuration::from_secs(1));
    let disruption = Some("TerminationByKubelet".to_string());
    Some((victim.pod, End { reason: "Evicted".into(), message, grace, disruption }))
}

fn bytes(n: u64) -> String {
    if n >= 1024 { format!("{}Ki", n >> 10) } else { n.to_string() }
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
