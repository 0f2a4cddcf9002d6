//! `/stats/summary`: what the node, its pods and their containers use.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use oci::cgroup::Cgroups;
use oci::runtime::{CpuStats, InterfaceStats, MemoryStats, Pressure, SandboxStats, Waited};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::facts::meminfo;
use crate::kubelet::Kubelet;
use crate::stats::{PodUse, node_cpu, pods, started};
use crate::{observe, usage};

/// Two readings closer than this, in nanoseconds, say little of a rate.
const APART: i64 = 1_000_000_000;

/// Processor time as last read, of everything by its id, for rates.
#[derive(Debug, Default)]
pub struct Rates(Mutex<HashMap<String, Reading>>);

#[derive(Debug, Clone, Copy)]
struct Reading {
    at: i64,
    used: u64,
    /// Nanoseconds a second between this reading and the one before.
    rate: u64,
}

impl Rates {
    /// Nanoseconds of processor time a second since the last reading; at first since `began`.
    fn of(&self, id: &str, cpu: &CpuStats, began: Option<i64>) -> Option<u64> {
        let mut known = self.0.lock();
        let (at, used) = (cpu.timestamp, cpu.usage_core_nanoseconds);
        let last = known.get(id).copied();
        if let Some(last) = last.filter(|l| at - l.at < APART && at >= l.at) {
            return Some(last.rate);
        }
        let (from, before) = match last.filter(|l| used >= l.used) {
            Some(last) => (last.at, last.used),
            None => (began?, 0),
        };
        let span = u128::try_from(at - from).ok().filter(|s| *s > 0)?;
        let rate = u64::try_from(u128::from(used - before) * 1_000_000_000 / span).unwrap_or(u64::MAX);
        known.insert(id.to_owned(), Reading { at, used, rate });
        Some(rate)
    }

    /// Forgets all others.
    fn keep(&self, ids: &HashSet<String>) {
        self.0.lock().retain(|id, _| ids.contains(id));
    }
}

fn stamp(nanos: i64) -> Value {
    observe::time(nanos).map_or(Value::Null, |t| json!(t))
}

fn psi(p: &Pressure) -> Value {
    let share = |hundredths: u32| f64::from(hundredths) / 100.0;
    let one = |w: &Waited| json!({ "total": w.total, "avg10": share(w.avg10), "avg60": share(w.avg60), "avg300": share(w.avg300) });
    json!({ "full": one(&p.full), "some": one(&p.some) })
}

fn cpu(c: &oci::runtime::CpuStats, pressure: Option<&Pressure>) -> Value {
    let mut value = json!({ "time": stamp(c.timestamp), "usageCoreNanoSeconds": c.usage_core_nanoseconds });
    if let Some(p) = pressure {
        value["psi"] = psi(p);
    }
    value
}

fn io(time: &Value, pressure: Option<&Pressure>) -> Value {
    pressure.map_or(Value::Null, |p| json!({ "time": time, "psi": psi(p) }))
}

/// Processor use: `id` names whose it is.
fn rated(k: &Kubelet, id: &str, c: &CpuStats, began: Option<jiff::Timestamp>, p: Option<&Pressure>) -> Value {
    let mut value = cpu(c, p);
    let began = began.and_then(|t| i64::try_from(t.as_nanosecond()).ok());
    if let Some(rate) = k.rates.of(id, c, began) {
        value["usageNanoCores"] = json!(rate);
    }
    value
}

fn memory(m: &oci::runtime::MemoryStats, pressure: Option<&Pressure>) -> Value {
    let mut value = json!({
        "time": stamp(m.timestamp), "usageBytes": m.usage, "workingSetBytes": m.working_set,
        "rssBytes": m.rss, "pageFaults": m.page_faults, "majorPageFaults": m.major_page_faults,
    });
    if let Some(available) = m.available {
        value["availableBytes"] = json!(available);
    }
    if let Some(p) = pressure {
        value["psi"] = psi(p);
    }
    value
}

/// Null where swap is not counted.
fn swap(m: &MemoryStats) -> Value {
    let Some(used) = m.swap else { return Value::Null };
    let mut value = json!({ "time": stamp(m.timestamp), "swapUsageBytes": used });
    if let Some(available) = m.swap_available {
        value["swapAvailableBytes"] = json!(available);
    }
    value
}

/// Space on the file system of the pods' files, with what is used of it: bytes and inodes.
fn space(k: &Kubelet, used: Option<[u64; 2]>) -> Value {
    let Some([free, all, inodes_free, inodes]) = volumes::scan::file_system(&k.options.data_dir) else {
        return Value::Null;
    };
    let [bytes, entries] = used.unwrap_or([all.saturating_sub(free), inodes.saturating_sub(inodes_free)]);
    json!({
        "time": jiff::Timestamp::now(), "availableBytes": free, "capacityBytes": all, "usedBytes": bytes,
        "inodesFree": inodes_free, "inodes": inodes, "inodesUsed": entries,
    })
}

fn boot_time() -> Option<jiff::Timestamp> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let seconds = stat.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()?;
    jiff::Timestamp::from_second(seconds).ok()
}

fn network(interfaces: &[InterfaceStats], time: Value) -> Value {
    let one = |i: &InterfaceStats| {
        json!({ "name": i.name, "rxBytes": i.rx_bytes, "rxErrors": i.rx_errors,
            "txBytes": i.tx_bytes, "txErrors": i.tx_errors })
    };
    let mut value = interfaces.first().map_or_else(|| json!({ "name": "" }), one);
    value["time"] = time;
    value["interfaces"] = interfaces.iter().map(one).collect();
    value
}

/// Bytes and inodes of the log files of each container of each pod, by uid and name.
async fn logs(k: &Kubelet, pods: &[PodUse]) -> HashMap<String, BTreeMap<String, [u64; 2]>> {
    let mut dirs: Vec<(String, PathBuf)> = Vec::new();
    for u in pods {
        if let Some(pod) = &u.pod {
            dirs.push((u.stats.metadata.uid.clone(), k.pod_logs(pod)));
        }
    }
    let scan = move || {
        let of = |dir: PathBuf| -> BTreeMap<String, [u64; 2]> {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            let one = |e: std::fs::DirEntry| {
                let counted = volumes::scan::usage(&e.path());
                Some((e.file_name().into_string().ok()?, [counted.bytes, counted.inodes]))
            };
            entries.filter_map(one).collect()
        };
        dirs.into_iter().map(|(uid, dir)| (uid, of(dir))).collect()
    };
    tokio::task::spawn_blocking(scan).await.unwrap_or_default()
}

/// The document.
pub async fn summary(k: &Arc<Kubelet>) -> Value {
    let volumes = usage::all(k).await;
    let all = pods(k).await;
    let logs = logs(k, &all).await;
    let known = all.iter().flat_map(|u| {
        std::iter::once(u.stats.id.clone()).chain(u.stats.containers.iter().map(|c| c.id.clone()))
    });
    k.rates.keep(&known.chain(["node", "pods"].map(String::from)).collect());
    let none = BTreeMap::new();
    let one = |u: &PodUse| {
        let uid = &u.stats.metadata.uid;
        let uses = volumes.get(uid).map(|v| v.as_slice()).unwrap_or_default();
        let mut value = pod(k, u, logs.get(uid).unwrap_or(&none), uses);
        if !uses.is_empty() {
            value["volume"] = uses.iter().map(|v| v.json(&u.stats.metadata.namespace)).collect();
        }
        value
    };
    let pods: Vec<Value> = all.iter().map(one).collect();
    json!({ "node": node(k), "pods": pods })
}

fn node(k: &Kubelet) -> Value {
    let now = jiff::Timestamp::now();
    let at = i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX);
    let (total, available) = (k.machine.memory, k.options.size.available(&k.options.cgroup_root));
    let used = total.saturating_sub(available);
    let cgroups = Cgroups::detect().unwrap_or_default();
    let pressure = cgroups.pressures("/");
    let cpu = CpuStats { timestamp: at, usage_core_nanoseconds: node_cpu(k) };
    let stat = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let events = |name: &str| -> u64 {
        let mut lines = stat.lines().filter_map(|l| l.split_once(' '));
        lines.find(|(key, _)| *key == name).and_then(|(_, n)| n.trim().parse().ok()).unwrap_or(0)
    };
    let (swap_all, swap_free) = (meminfo("SwapTotal"), meminfo("SwapFree"));
    let interfaces = InterfaceStats::parse(&std::fs::read_to_string("/proc/net/dev").unwrap_or_default());
    let disk = space(k, None);
    let root = &k.options.cgroup_root;
    let (pods_cpu, pods_memory) = (cgroups.cpu(root), cgroups.memory(root));
    let boot = boot_time();
    let mut memory = json!({
        "time": now, "availableBytes": available, "usageBytes": used, "workingSetBytes": used,
        "rssBytes": meminfo("AnonPages"), "pageFaults": events("pgfault"), "majorPageFaults": events("pgmajfault"),
    });
    if let Some(p) = &pressure.memory {
        memory["psi"] = psi(p);
    }
    json!({
        "nodeName": k.options.name,
        "systemContainers": [{
            "name": "pods", "startTime": boot, "cpu": rated(k, "pods", &pods_cpu, boot, None),
            "memory": self::memory(&pods_memory, None), "swap": swap(&pods_memory),
        }],
        "startTime": boot,
        "cpu": rated(k, "node", &cpu, boot, pressure.cpu.as_ref()),
        "memory": memory,
        "io": io(&json!(now), pressure.io.as_ref()),
        "network": network(&interfaces, json!(now)),
        "fs": disk,
        "runtime": { "imageFs": disk, "containerFs": disk },
        "rlimit": { "time": now, "maxpid": crate::facts::pid_max(), "curproc": crate::facts::processes() },
        "swap": { "time": now, "swapAvailableBytes": swap_free, "swapUsageBytes": swap_all.saturating_sub(swap_free) },
    })
}

/// One pod, with the use of its log files and volumes.
fn pod(k: &Kubelet, u: &PodUse, logs: &BTreeMap<String, [u64; 2]>, volumes: &[usage::Use]) -> Value {
    let s: &SandboxStats = &u.stats;
    let began = u.pod.as_ref().and_then(|p| p.status.as_ref()?.start_time.clone());
    let mut local = [0; 2];
    let mut add = |used: [u64; 2]| local = [local[0] + used[0], local[1] + used[1]];
    let mut containers = Vec::new();
    for c in &s.containers {
        let p = &c.pressure;
        let start = started(u, &c.name).or(began.clone());
        let layer = [c.writable_layer.used_bytes, c.writable_layer.inodes_used];
        let log = logs.get(&c.name).copied().unwrap_or_default();
        add(layer);
        add(log);
        containers.push(json!({
            "name": c.name, "startTime": start,
            "cpu": rated(k, &c.id, &c.cpu, start.map(|t| t.0), p.cpu.as_ref()),
            "memory": memory(&c.memory, p.memory.as_ref()), "swap": swap(&c.memory),
            "io": io(&stamp(c.cpu.timestamp), p.io.as_ref()),
            "rootfs": space(k, Some(layer)),
            "logs": space(k, Some(log)),
        }));
    }
    volumes.iter().filter(|v| v.local).for_each(|v| add([v.amounts[2], v.amounts[5]]));
    json!({
        "podRef": { "name": s.metadata.name, "namespace": s.metadata.namespace, "uid": s.metadata.uid },
        "startTime": began,
        "containers": containers,
        "cpu": rated(k, &s.id, &s.cpu, began.map(|t| t.0), s.pressure.cpu.as_ref()),
        "memory": memory(&s.memory, s.pressure.memory.as_ref()), "swap": swap(&s.memory),
        "io": io(&stamp(s.cpu.timestamp), s.pressure.io.as_ref()),
        "network": (!s.interfaces.is_empty()).then(|| network(&s.interfaces, stamp(s.cpu.timestamp))),
        "ephemeral-storage": space(k, Some(local)),
        "process_stats": { "process_count": s.pids },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_as_others_read_it() {
        let some = Waited { avg10: 151, avg60: 7, avg300: 0, total: 9 };
        let pressure = Pressure { some, full: Waited::default() };
        let value = cpu(&oci::runtime::CpuStats { timestamp: 0, usage_core_nanoseconds: 5 }, Some(&pressure));
        let none = json!({ "total": 0, "avg10": 0.0, "avg60": 0.0, "avg300": 0.0 });
        let some = json!({ "total": 9, "avg10": 1.51, "avg60": 0.07, "avg300": 0.0 });
        assert_eq!(value["psi"], json!({ "full": none, "some": some }));
        assert_eq!(io(&Value::Null, None), Value::Null);
    }

    #[test]
    fn rates_between_readings() {
        const SECOND: i64 = 1_000_000_000;
        let rates = Rates::default();
        let read = |at: i64, used: u64| {
            rates.of("c", &CpuStats { timestamp: at, usage_core_nanoseconds: used }, Some(0))
        };
        assert_eq!(read(10 * SECOND, 5 * SECOND as u64), Some(500_000_000), "since it began");
        assert_eq!(read(10 * SECOND + 5, 6 * SECOND as u64), Some(500_000_000), "too close");
        assert_eq!(read(12 * SECOND, 9 * SECOND as u64), Some(2_000_000_000));
        assert_eq!(read(20 * SECOND, 0), Some(0), "it began anew");
        rates.keep(&HashSet::new());
        let cpu = CpuStats { timestamp: SECOND, usage_core_nanoseconds: 7 };
        assert_eq!(rates.of("c", &cpu, None), None);
    }
}
