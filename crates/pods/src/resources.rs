//! Requests and limits: QoS class, pod totals and the cgroup parameters made from them.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity::{milli, of};
use crate::spec;

/// The QoS class of a pod.
pub fn qos(spec: &PodSpec) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    let whole = spec.resources.as_ref().filter(|r| r.requests.is_some() || r.limits.is_some());
    let parts: Vec<&ResourceRequirements> = match whole {
        Some(r) => vec![r],
        None => {
            let all = spec::inits(spec).iter().chain(&spec.containers);
            all.map(|c| c.resources.as_ref().unwrap_or(&EMPTY)).collect()
        }
    };
    for r in parts {
        for name in ["cpu", "memory"] {
            let limit = of(r.limits.as_ref(), name).filter(|v| *v > 0);
            let request = of(r.requests.as_ref(), name).filter(|v| *v > 0);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request.or(limit) == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

const EMPTY: ResourceRequirements = ResourceRequirements { claims: None, limits: None, requests: None };

/// The resources a pod asks of its node, in thousandths: the larger of what runs together and each init phase.
pub fn requests(spec: &PodSpec) -> BTreeMap<String, i128> {
    total(spec, |r| r.requests.as_ref(), |r| r.limits.as_ref())
}

/// The pod's limits in thousandths. A resource that any container leaves unlimited is absent.
pub fn limits(spec: &PodSpec) -> BTreeMap<String, i128> {
    let mut sum = total(spec, |r| r.limits.as_ref(), |_| None);
    let whole = spec.resources.as_ref().and_then(|r| r.limits.as_ref());
    let all = || spec::inits(spec).iter().chain(&spec.containers);
    sum.retain(|name, _| {
        whole.is_some_and(|w| w.contains_key(name))
            || all().all(|c| {
                c.resources.as_ref().and_then(|r| r.limits.as_ref()).is_some_and(|l| l.contains_key(name))
            })
    });
    sum
}

type List = BTreeMap<String, Quantity>;

fn total(
    spec: &PodSpec,
    pick: fn(&ResourceRequirements) -> Option<&List>,
    fallback: fn(&ResourceRequirements) -> Option<&List>,
) -> BTreeMap<String, i128> {
    let one = |r: Option<&ResourceRequirements>| -> BTreeMap<String, i128> {
        let Some(r) = r else { return BTreeMap::new() };
        let mut sum = BTreeMap::new();
        for list in [fallback(r), pick(r)].into_iter().flatten() {
            sum.extend(list.iter().filter_map(|(k, v)| Some((k.clone(), milli(&v.0)?))));
        }
        sum
    };
    let add = |a: &mut BTreeMap<String, i128>, b: &BTreeMap<String, i128>| {
        for (k, v) in b {
            *a.entry(k.clone()).or_default() += v;
        }
    };
    let mut sidecars = BTreeMap::new();
    let mut peak: BTreeMap<String, i128> = BTreeMap::new();
    for c in spec::inits(spec) {
        let mut phase = one(c.resources.as_ref());
        if spec::is_sidecar(c) {
            add(&mut sidecars, &phase);
            phase = sidecars.clone();
        } else {
            add(&mut phase, &sidecars);
        }
        for (k, v) in phase {
            let p = peak.entry(k).or_default();
            *p = (*p).max(v);
        }
    }
    let mut sum = sidecars;
    for c in &spec.containers {
        add(&mut sum, &one(c.resources.as_ref()));
    }
    for (k, v) in peak {
        let s = sum.entry(k).or_default();
        *s = (*s).max(v);
    }
    sum.extend(one(spec.resources.as_ref()));
    let overhead = spec.overhead.iter().flatten();
    add(&mut sum, &overhead.filter_map(|(k, v)| Some((k.clone(), milli(&v.0)?))).collect());
    sum
}

/// What a cgroup is told, in the kernel's units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cgroup {
    /// cpu.shares of v1; v2 derives its weight from it.
    pub cpu_shares: u64,
    /// Microseconds per period; none is unlimited.
    pub cpu_quota: Option<i64>,
    /// The period in microseconds.
    pub cpu_period: u64,
    /// Bytes; none is unlimited.
    pub memory_limit: Option<i64>,
}

/// The CFS period.
pub const PERIOD: u64 = 100_000;

fn shares(milli_cpu: i128) -> u64 {
    if milli_cpu <= 0 {
        return 2;
    }
    u64::try_from((milli_cpu * 1024 / 1000).clamp(2, 262_144)).unwrap_or(2)
}

fn quota(milli_cpu: i128) -> Option<i64> {
    (milli_cpu > 0)
        .then(|| i64::try_from((milli_cpu * i128::from(PERIOD) / 1000).max(1000)).unwrap_or(i64::MAX))
}

fn bytes(milli: i128) -> Option<i64> {
    (milli > 0).then(|| i64::try_from(milli / 1000).unwrap_or(i64::MAX))
}

/// The cgroup of one container.
pub fn container_cgroup(c: &Container) -> Cgroup {
    let r = c.resources.as_ref();
    let limits = r.and_then(|r| r.limits.as_ref());
    let request = r.and_then(|r| of(r.requests.as_ref(), "cpu")).or(of(limits, "cpu")).unwrap_or(0);
    Cgroup {
        cpu_shares: shares(request),
        cpu_quota: quota(of(limits, "cpu").unwrap_or(0)),
        cpu_period: PERIOD,
        memory_limit: bytes(of(limits, "memory").unwrap_or(0)),
    }
}

/// The cgroup around a pod.
pub fn pod_cgroup(spec: &PodSpec) -> Cgroup {
    let limits = limits(spec);
    Cgroup {
        cpu_shares: shares(requests(spec).get("cpu").copied().unwrap_or(0)),
        cpu_quota: quota(limits.get("cpu").copied().unwrap_or(0)),
        cpu_period: PERIOD,
        memory_limit: bytes(limits.get("memory").copied().unwrap_or(0)),
    }
}

/// oom_score_adj of a container on a node with this much memory: the less it asked for, the earlier it dies.
pub fn oom_score(spec: &PodSpec, c: &Container, node_memory: i64) -> i32 {
    if matches!(spec.priority_class_name.as_deref(), Some("system-node-critical")) {
        return -997;
    }
    match qos(spec) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let request =
                c.resources.as_ref().and_then(|r| of(r.requests.as_ref(), "memory")).unwrap_or(0) / 1000;
            let share = 1000 * request / i128::from(node_memory.max(1));
            i32::try_from((1000 - share).clamp(3, 999)).unwrap_or(999)
        }
    }
}

/// Host ports the pod binds: `(address, protocol, port)`.
pub fn host_ports(spec: &PodSpec) -> BTreeSet<(String, String, i32)> {
    let all = spec::inits(spec).iter().filter(|c| spec::is_sidecar(c)).chain(&spec.containers);
    all.flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            let port = p.host_port.filter(|p| *p > 0)?;
            let ip = p.host_ip.clone().unwrap_or_default();
            Some((ip, p.protocol.clone().unwrap_or_else(|| "TCP".into()), port))
        })
        .collect()
}
