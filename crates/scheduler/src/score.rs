//! Scores: which of the nodes that can take a pod is best. Each part gives 0 to 100 and has upstream's weight.

use crate::affinity::{term_matches, untolerated};
use crate::info::PodInfo;
use crate::snapshot::NodeInfo;
use crate::topology::{Demands, siblings};

/// The best mark of each part.
const BEST: i64 = 100;
/// Size of images on a node that counts fully.
const IMAGE_BYTES_MAX: i64 = 1000 << 20;
/// Size of images on a node below which they do not count.
const IMAGE_BYTES_MIN: i64 = 23 << 20;

/// The total score of each node, in the order given.
pub fn scores(pod: &PodInfo, nodes: &[&NodeInfo], demands: &Demands) -> Vec<i64> {
    let each = |f: &dyn Fn(&NodeInfo) -> i64| -> Vec<i64> { nodes.iter().map(|n| f(n)).collect() };
    let parts = [
        (each(&|n| least_allocated(pod, n)), 1),
        (each(&|n| balanced(pod, n)), 1),
        (each(&|n| image_locality(pod, n)), 1),
        (highest_is_best(each(&|n| node_preference(pod, n))), 2),
        (lowest_is_best(each(&|n| soft_taints(pod, n))), 3),
        (highest_is_best(each(&|n| demands.preference(n))), 2),
        (
            lowest_is_best(each(&|n| {
                if demands.has_soft_spread() { demands.crowding(n) } else { siblings(pod, n) }
            })),
            2,
        ),
    ];
    (0..nodes.len()).map(|i| parts.iter().map(|(marks, weight)| marks[i] * weight).sum()).collect()
}

fn highest_is_best(raw: Vec<i64>) -> Vec<i64> {
    let (low, high) = bounds(&raw);
    raw.into_iter().map(|v| if high == low { 0 } else { (v - low) * BEST / (high - low) }).collect()
}

fn lowest_is_best(raw: Vec<i64>) -> Vec<i64> {
    let (low, high) = bounds(&raw);
    raw.into_iter().map(|v| if high == low { BEST } else { (high - v) * BEST / (high - low) }).collect()
}

fn bounds(raw: &[i64]) -> (i64, i64) {
    (raw.iter().copied().min().unwrap_or(0), raw.iter().copied().max().unwrap_or(0))
}

/// Share of a resource that is left with the pod on the node, 0 to 100.
fn left(used: i64, asked: i64, capacity: i64) -> i64 {
    if capacity <= 0 || used + asked > capacity { 0 } else { (capacity - used - asked) * BEST / capacity }
}

fn least_allocated(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let cpu = left(node.likely.cpu_milli, pod.likely.cpu_milli, node.allocatable.cpu_milli);
    let memory = left(node.likely.memory, pod.likely.memory, node.allocatable.memory);
    (cpu + memory) / 2
}

/// Best when CPU and memory are used to the same share.
fn balanced(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let share =
        |used: i64, capacity: i64| if capacity <= 0 { BEST } else { (used * BEST / capacity).min(BEST) };
    let cpu = share(node.requested.cpu_milli + pod.requested.cpu_milli, node.allocatable.cpu_milli);
    let memory = share(node.requested.memory + pod.requested.memory, node.allocatable.memory);
    BEST - (cpu - memory).abs() / 2
}

fn image_locality(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let images = node
        .node
        .as_ref()
        .and_then(|n| n.status.as_ref())
        .and_then(|s| s.images.as_deref())
        .unwrap_or_default();
    let size_of = |name: &str| {
        let found = images.iter().find(|i| i.names.iter().flatten().any(|n| n == name));
        found.and_then(|i| i.size_bytes).unwrap_or(0)
    };
    let containers = &pod.spec().containers;
    let present: i64 = containers.iter().filter_map(|c| c.image.as_deref()).map(size_of).sum();
    let most = IMAGE_BYTES_MAX * i64::try_from(containers.len().max(1)).unwrap_or(1);
    (present.clamp(IMAGE_BYTES_MIN, most) - IMAGE_BYTES_MIN) * BEST / (most - IMAGE_BYTES_MIN)
}

fn node_preference(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let affinity = pod.spec().affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let preferred = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
    let terms = preferred.unwrap_or_default().iter();
    terms.filter(|t| term_matches(&t.preference, node)).map(|t| i64::from(t.weight)).sum()
}

fn soft_taints(pod: &PodInfo, node: &NodeInfo) -> i64 {
    untolerated(pod.spec(), node, &["PreferNoSchedule"]).len() as i64
}
