//! Scores: which of the nodes that can take a pod is best. Each part gives 0 to 100 and has upstream's weight.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Node, PodSpec};

use crate::affinity::{term_matches, untolerated};
use crate::class::Class;
use crate::info::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};

/// The best mark of each part.
const BEST: i64 = 100;
/// Size of an image on a node that counts fully.
const IMAGE_BYTES_MAX: i64 = 1000 << 20;
/// Size of images on a node below which they do not count.
const IMAGE_BYTES_MIN: i64 = 23 << 20;

/// The total score of each node, in the order given.
pub fn scores(class: &Class, nodes: &[usize], snapshot: &Snapshot) -> Vec<i64> {
    let mut marks: Vec<i64> = nodes.iter().map(|slot| class.evals[*slot].room).collect();
    let mut add = |part: &dyn Fn(usize, usize) -> i64| {
        marks.iter_mut().zip(nodes).enumerate().for_each(|(i, (mark, slot))| *mark += part(i, *slot));
    };
    if !class.images.is_empty() {
        add(&|_, slot| class.images.get(slot).copied().unwrap_or(0));
    }
    let preferred = nodes.iter().map(|slot| class.evals[*slot].preferred).max().unwrap_or(0);
    if preferred > 0 {
        add(&|_, slot| 2 * (class.evals[slot].preferred * BEST / preferred));
    }
    let taints = nodes.iter().map(|slot| class.evals[*slot].taints).max().unwrap_or(0);
    if taints > 0 {
        add(&|_, slot| 3 * (BEST - class.evals[slot].taints * BEST / taints));
    } else {
        add(&|_, _| 3 * BEST);
    }
    let demands = &class.demands;
    if !demands.is_empty() {
        let near: Vec<i64> = nodes
            .iter()
            .map(|slot| demands.preference(*slot, &snapshot.topologies, &snapshot.held))
            .collect();
        let near = between(near);
        add(&|i, _| 2 * near[i]);
    }
    if demands.has_soft() {
        let spread = spread_marks(demands.crowding(nodes, &snapshot.slots, &snapshot.topologies));
        add(&|i, _| 2 * spread[i]);
    }
    marks
}

/// Marks between the lowest and the highest.
fn between(raw: Vec<i64>) -> Vec<i64> {
    let (low, high) = (raw.iter().copied().min().unwrap_or(0), raw.iter().copied().max().unwrap_or(0));
    let span = (high - low) as f64;
    let mark = |v: i64| if high == low { 0 } else { (BEST as f64 * ((v - low) as f64 / span)) as i64 };
    raw.into_iter().map(mark).collect()
}

/// The less crowded the better; nodes that are not judged get nothing.
fn spread_marks(crowding: Vec<Option<i64>>) -> Vec<i64> {
    let judged = || crowding.iter().flatten().copied();
    let (low, high) = (judged().min().unwrap_or(0), judged().max().unwrap_or(0));
    let mark = |crowd: Option<i64>| match crowd {
        None => 0,
        Some(_) if high == 0 => BEST,
        Some(crowd) => BEST * (high + low - crowd) / high,
    };
    crowding.iter().map(|c| mark(*c)).collect()
}

/// Marks for what is left on a node with the pod there: much, and CPU and memory in balance.
pub fn room(pod: &PodInfo, node: &NodeInfo) -> i64 {
    least_allocated(pod, node) + balanced(pod, node)
}

/// Share of what is left on average, of the resources that the node has.
fn least_allocated(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let (used, asked, have) = (&node.likely, &pod.likely, &node.allocatable);
    let parts =
        [(used.cpu_milli + asked.cpu_milli, have.cpu_milli), (used.memory + asked.memory, have.memory)];
    let left = |(wanted, have): (i64, i64)| if wanted > have { 0 } else { (have - wanted) * BEST / have };
    let parts: [Option<i64>; 2] = parts.map(|part| (part.1 > 0).then(|| left(part)));
    let count = parts.iter().flatten().count() as i64;
    if count == 0 { 0 } else { parts.iter().flatten().sum::<i64>() / count }
}

/// Best when the pod brings the shares of CPU and memory that are asked for closer together; nothing for pods that
/// ask for neither.
fn balanced(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let (used, asked, have) = (&node.requested, &pod.requested, &node.allocatable);
    if asked.cpu_milli == 0 && asked.memory == 0 {
        return 0;
    }
    let even = |cpu: i64, memory: i64| {
        if have.cpu_milli == 0 || have.memory == 0 {
            return BEST;
        }
        let share = |amount: i64, of: i64| (amount as f64 / of as f64).min(1.0);
        let apart = ((share(cpu, have.cpu_milli) - share(memory, have.memory)) / 2.0).abs();
        ((1.0 - apart) * BEST as f64) as i64
    };
    let after = even(used.cpu_milli + asked.cpu_milli, used.memory + asked.memory);
    let before = even(used.cpu_milli, used.memory);
    BEST / 2 + (BEST / 2 + after - before) / 2
}

/// Weight of the preferred node affinity terms that the node suits.
pub fn node_preference(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let affinity = pod.spec().affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let preferred = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
    let terms = preferred.unwrap_or_default().iter();
    terms.filter(|t| term_matches(&t.preference, node)).map(|t| i64::from(t.weight)).sum()
}

/// How many soft taints of the node the pod does not tolerate.
pub fn soft_taints(pod: &PodInfo, node: &NodeInfo) -> i64 {
    untolerated(pod.spec(), node, &["PreferNoSchedule"]).count() as i64
}

/// Names of the images that a pod starts from.
pub fn images(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let volumes = spec.volumes.iter().flatten().filter_map(|v| v.image.as_ref()?.reference.as_deref());
    containers.filter_map(|c| c.image.as_deref()).chain(volumes)
}

/// Images with their sizes on the nodes that have them.
#[derive(Debug, Clone, Default)]
pub struct Images {
    sizes: HashMap<String, BTreeMap<usize, i64>>,
    of_slot: HashMap<usize, Vec<(String, i64)>>,
    nodes: std::collections::BTreeSet<usize>,
    /// Changes whenever marks may change.
    pub version: u64,
}

impl Images {
    /// A node came, changed or went.
    pub fn set(&mut self, slot: usize, node: Option<&Node>) {
        let status = node.and_then(|n| n.status.as_ref());
        let images = status.and_then(|s| s.images.as_deref()).unwrap_or_default();
        let all = images
            .iter()
            .flat_map(|i| i.names.iter().flatten().map(|name| (name.clone(), i.size_bytes.unwrap_or(0))));
        let new: Vec<(String, i64)> = all.collect();
        let count = self.nodes.len();
        match node {
            Some(_) => self.nodes.insert(slot),
            None => self.nodes.remove(&slot),
        };
        let old = self.of_slot.remove(&slot).unwrap_or_default();
        let changed = old != new;
        if changed {
            for (name, _) in &old {
                if let Some(sizes) = self.sizes.get_mut(name) {
                    sizes.remove(&slot);
                    if sizes.is_empty() {
                        self.sizes.remove(name);
                    }
                }
            }
            for (name, size) in &new {
                self.sizes.entry(name.clone()).or_default().insert(slot, *size);
            }
        }
        if !new.is_empty() {
            self.of_slot.insert(slot, new);
        }
        if changed || self.nodes.len() != count {
            self.version += 1;
        }
    }

    /// Marks for images that are there already, by slot; empty if none is anywhere.
    pub fn marks(&self, spec: &PodSpec, slots: &[NodeInfo]) -> Vec<i64> {
        let mut present: Vec<i64> = Vec::new();
        for name in images(spec) {
            let Some(sizes) = self.sizes.get(&*tagged(name)) else { continue };
            present.resize(slots.len(), 0);
            // An image that few nodes have counts less, so that these few are not overrun.
            let share = sizes.len() as f64 / self.nodes.len() as f64;
            for (slot, size) in sizes {
                present[*slot] += (*size as f64 * share) as i64;
            }
        }
        let containers = spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len);
        let most = IMAGE_BYTES_MAX * i64::try_from(containers.max(1)).unwrap_or(1);
        let mark = |present: i64| {
            (present.clamp(IMAGE_BYTES_MIN, most) - IMAGE_BYTES_MIN) * BEST / (most - IMAGE_BYTES_MIN)
        };
        present.into_iter().map(mark).collect()
    }
}

/// The image's name with a tag.
fn tagged(name: &str) -> std::borrow::Cow<'_, str> {
    match name.rfind(':') > name.rfind('/') {
        true => name.into(),
        false => format!("{name}:latest").into(),
    }
}
