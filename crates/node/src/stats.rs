//! What the node and its pods use, as metrics in the text format.

use std::sync::Arc;

use base::exposition::Text;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use oci::runtime::{Filter, Pressure, SandboxState, SandboxStats};

use crate::kubelet::Kubelet;
use crate::observe::POD_UID;
use crate::usage;

/// A pod's use, with the pod where the API knows it.
pub struct PodUse {
    /// As the runtime reports it.
    pub stats: SandboxStats,
    /// The pod.
    pub pod: Option<Pod>,
}

/// Asks the runtime about every running pod at once.
pub async fn pods(k: &Kubelet) -> Vec<PodUse> {
    let all = k.all_pods();
    let sandboxes = k.runtime.list_sandboxes(Filter::default()).await.unwrap_or_default();
    let live =
        sandboxes.into_iter().filter(|s| s.state == SandboxState::Ready && s.labels.contains_key(POD_UID));
    let each = live.map(|s| async move { k.runtime.sandbox_stats(&s.id).await.ok() });
    let stats = futures_util::future::join_all(each).await;
    let with_pod = |stats: SandboxStats| {
        let pod = all.iter().find(|p| p.metadata.uid.as_deref() == Some(&stats.metadata.uid)).cloned();
        PodUse { stats, pod }
    };
    stats.into_iter().flatten().map(with_pod).collect()
}

/// When a container started, as the pod's status has it.
pub(crate) fn started(u: &PodUse, name: &str) -> Option<Time> {
    let status = u.pod.as_ref()?.status.as_ref()?;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses);
    let one = all.chain(&status.ephemeral_container_statuses).flatten().find(|c| c.name == name)?;
    one.state.as_ref()?.running.as_ref()?.started_at.clone()
}

/// Processor time of the node in nanoseconds: that of its pods if it is a part of the machine, else that of the whole
/// machine since the boot.
pub(crate) fn node_cpu(k: &Kubelet) -> u64 {
    if k.options.size.cpus.is_some() {
        let cgroups = oci::cgroup::Cgroups::detect().unwrap_or_default();
        return cgroups.cpu(&k.options.cgroup_root).usage_core_nanoseconds;
    }
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = stat.lines().next().unwrap_or("");
    let ticks: Vec<u64> = first.split_whitespace().skip(1).filter_map(|w| w.parse().ok()).collect();
    // All but idle and waiting; guest time is part of user time already.
    let busy: u64 =
        ticks.iter().take(8).enumerate().filter(|(i, _)| !matches!(i, 3 | 4)).map(|(_, t)| t).sum();
    busy * 10_000_000
}

/// The runtime's stamps are in nanoseconds.
fn millis(nanos: i64) -> i64 {
    nanos / 1_000_000
}

/// The document of `/metrics/resource`, which metrics.k8s.io is made from.
pub async fn resource(k: &Arc<Kubelet>) -> String {
    let pods = pods(k).await;
    let mut t = Text::default();
    let seconds = |n: u64| n as f64 / 1e9;
    let containers = || {
        pods.iter().flat_map(|p| p.stats.containers.iter().map(move |c| (p, c))).map(|(p, c)| {
            let m = &p.stats.metadata;
            let labels = [
                ("container", c.name.as_str()),
                ("namespace", m.namespace.as_str()),
                ("pod", m.name.as_str()),
            ];
            (labels, c, p)
        })
    };
    t.family("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the container");
    for (labels, c, _) in containers() {
        let value = seconds(c.cpu.usage_core_nanoseconds);
        t.sample_at("container_cpu_usage_seconds_total", &labels, value, millis(c.cpu.timestamp));
    }
    t.family("container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes");
    for (labels, c, _) in containers() {
        t.sample_at(
            "container_memory_working_set_bytes",
            &labels,
            c.memory.working_set as f64,
            millis(c.memory.timestamp),
        );
    }
    t.family("container_start_time_seconds", "gauge", "Start time of the container since unix epoch");
    for (labels, c, p) in containers() {
        let start = started(p, &c.name).map_or(0.0, |t| t.0.as_millisecond() as f64 / 1e3);
        t.sample("container_start_time_seconds", &labels, start);
    }
    let now = jiff::Timestamp::now().as_millisecond();
    t.family("node_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the node");
    t.sample_at("node_cpu_usage_seconds_total", &[], seconds(node_cpu(k)), now);
    t.family("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes");
    let used = k.machine.memory.saturating_sub(k.options.size.available(&k.options.cgroup_root));
    t.sample_at("node_memory_working_set_bytes", &[], used as f64, now);
    let labels = |p: &PodUse| (p.stats.metadata.namespace.clone(), p.stats.metadata.name.clone());
    t.family("pod_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the pod");
    for p in &pods {
        let (namespace, pod) = labels(p);
        let l = [("namespace", namespace.as_str()), ("pod", pod.as_str())];
        t.sample_at(
            "pod_cpu_usage_seconds_total",
            &l,
            seconds(p.stats.cpu.usage_core_nanoseconds),
            millis(p.stats.cpu.timestamp),
        );
    }
    t.family("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes");
    for p in &pods {
        let (namespace, pod) = labels(p);
        let l = [("namespace", namespace.as_str()), ("pod", pod.as_str())];
        t.sample_at(
            "pod_memory_working_set_bytes",
            &l,
            p.stats.memory.working_set as f64,
            millis(p.stats.memory.timestamp),
        );
    }
    t.family(
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    t.sample("resource_scrape_error", &[], 0.0);
    t.done()
}

/// The document of `/metrics/cadvisor`: the families dashboards look at.
pub async fn cadvisor(k: &Arc<Kubelet>) -> String {
    let pods = pods(k).await;
    let mut t = Text::default();
    type Pick = fn(&oci::runtime::ContainerStats) -> f64;
    let families: [(&str, &str, &str, Pick); 6] = [
        ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |c| {
            c.cpu.usage_core_nanoseconds as f64 / 1e9
        }),
        ("container_memory_usage_bytes", "gauge", "Current memory usage in bytes.", |c| {
            c.memory.usage as f64
        }),
        ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |c| {
            c.memory.working_set as f64
        }),
        ("container_memory_rss", "gauge", "Size of RSS in bytes.", |c| c.memory.rss as f64),
        ("container_fs_usage_bytes", "gauge", "Number of bytes that are consumed by the container.", |c| {
            c.writable_layer.used_bytes as f64
        }),
        ("container_processes", "gauge", "Number of processes running inside the container.", |c| {
            c.pids as f64
        }),
    ];
    for (name, kind, help, pick) in families {
        t.family(name, kind, help);
        for (p, c) in pods.iter().flat_map(|p| p.stats.containers.iter().map(move |c| (p, c))) {
            let m = &p.stats.metadata;
            let labels = [
                ("container", c.name.as_str()),
                ("id", c.id.as_str()),
                ("namespace", m.namespace.as_str()),
                ("pod", m.name.as_str()),
            ];
            t.sample_at(name, &labels, pick(c), millis(c.cpu.timestamp));
        }
    }
    waiting(&mut t, &pods);
    for (name, rx) in
        [("container_network_receive_bytes_total", true), ("container_network_transmit_bytes_total", false)]
    {
        t.family(name, "counter", "Cumulative count of bytes.");
        for (p, i) in pods.iter().flat_map(|p| p.stats.interfaces.iter().map(move |i| (p, i))) {
            let m = &p.stats.metadata;
            let labels = [
                ("interface", i.name.as_str()),
                ("namespace", m.namespace.as_str()),
                ("pod", m.name.as_str()),
            ];
            t.sample(name, &labels, if rx { i.rx_bytes } else { i.tx_bytes } as f64);
        }
    }
    t.done()
}

/// How long the processes of containers waited.
fn waiting(t: &mut Text, pods: &[PodUse]) {
    type Pick = fn(&oci::runtime::Pressures) -> Option<Pressure>;
    let kinds: [(&str, Pick); 3] = [("cpu", |p| p.cpu), ("memory", |p| p.memory), ("io", |p| p.io)];
    for (kind, pick) in kinds {
        for (word, full) in [("waiting", false), ("stalled", true)] {
            let name = format!("container_pressure_{kind}_{word}_seconds_total");
            let who = if full { "all tasks have" } else { "tasks have" };
            let help = format!("Total time duration {who} waited due to {kind} congestion.");
            t.family(&name, "counter", &help);
            for (p, c) in pods.iter().flat_map(|p| p.stats.containers.iter().map(move |c| (p, c))) {
                let Some(pressure) = pick(&c.pressure) else { continue };
                let m = &p.stats.metadata;
                let labels = [
                    ("container", c.name.as_str()),
                    ("id", c.id.as_str()),
                    ("namespace", m.namespace.as_str()),
                    ("pod", m.name.as_str()),
                ];
                let waited = if full { pressure.full } else { pressure.some };
                t.sample_at(&name, &labels, waited.total as f64 / 1e6, millis(c.cpu.timestamp));
            }
        }
    }
}

/// The document of `/metrics`: the kubelet itself.
pub async fn own(k: &Arc<Kubelet>) -> String {
    let mut t = Text::default();
    let pods = k.all_pods();
    let running = |p: &&Pod| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
    t.family("kubelet_running_pods", "gauge", "Number of pods that have a running pod sandbox");
    t.sample("kubelet_running_pods", &[], pods.iter().filter(running).count() as f64);
    counts_of_pods(k, &mut t);
    t.family("kubelet_node_name", "gauge", "The node's name. The count is always 1.");
    t.sample("kubelet_node_name", &[("node", k.options.name.as_str())], 1.0);
    let rss = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = rss.split_whitespace().nth(1).and_then(|w| w.parse::<f64>().ok()).unwrap_or(0.0);
    t.family("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.");
    t.sample("process_resident_memory_bytes", &[], pages * 4096.0);
    k.tally.write(&mut t);
    k.network.show(&mut t);
    let volumes = usage::all(k).await;
    for (name, help, which) in usage::METRICS {
        t.family(name, "gauge", help);
        for p in &pods {
            let (uid, space) = (p.metadata.uid.as_deref(), p.metadata.namespace.as_deref());
            for u in uid.and_then(|u| volumes.get(u)).into_iter().flat_map(|v| v.iter()) {
                let Some(claim) = &u.claim else { continue };
                let labels = [("namespace", space.unwrap_or("")), ("persistentvolumeclaim", claim.as_str())];
                t.sample(name, &labels, u.amounts[which] as f64);
            }
        }
    }
    t.done()
}

/// How many pods there are, by where they come from and how far they got.
fn counts_of_pods(k: &Kubelet, t: &mut Text) {
    let pods: Vec<(Pod, bool)> = k
        .every_handle()
        .into_values()
        .map(|h| {
            let gone = h.gone.load(std::sync::atomic::Ordering::Acquire);
            let mut pod = Pod::clone(&h.pod.lock());
            pod.status = h.status.lock().clone().or(pod.status);
            (pod, gone)
        })
        .collect();
    let fixed = |pod: &Pod| crate::statics::is_static(pod);
    let over = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    let count = |want: &dyn Fn(&(Pod, bool)) -> bool| pods.iter().filter(|p| want(p)).count() as f64;
    for (name, help, alive) in [
        ("kubelet_desired_pods", "The number of pods the kubelet is being instructed to run.", false),
        (
            "kubelet_active_pods",
            "The number of pods the kubelet considers active when it admits new ones.",
            true,
        ),
    ] {
        t.family(name, "gauge", help);
        for (word, from_file) in [("", false), ("true", true)] {
            let value = count(&|(p, gone)| !gone && fixed(p) == from_file && !(alive && over(p)));
            t.sample(name, &[("static", word)], value);
        }
    }
    t.family("kubelet_mirror_pods", "gauge", "The number of mirror pods: one for each static pod.");
    t.sample("kubelet_mirror_pods", &[], count(&|(p, _)| fixed(p)));
    t.family("kubelet_working_pods", "gauge", "Number of pods the kubelet is actually running.");
    let stage = |p: &Pod, gone: bool| match (over(p), gone || p.metadata.deletion_timestamp.is_some()) {
        (true, _) => "terminated",
        (false, true) => "terminating",
        (false, false) => "sync",
    };
    for lifecycle in ["sync", "terminating", "terminated"] {
        for (config, orphaned) in [("desired", false), ("orphan", true)] {
            for (word, from_file) in [("", false), ("true", true)] {
                let value = count(&|(p, gone)| {
                    *gone == orphaned && fixed(p) == from_file && stage(p, *gone) == lifecycle
                });
                let labels = [("config", config), ("lifecycle", lifecycle), ("static", word)];
                t.sample("kubelet_working_pods", &labels, value);
            }
        }
    }
}
