//! From CRI's words to ours.

use super::ask::{CONFIG, USER_IMAGE};
use super::{signals, wire};
use crate::config::*;
use crate::state::*;
use std::net::IpAddr;
use std::path::PathBuf;

/// The address that the network shim tells the runtime; it stands for none.
pub const NO_ADDRESS: &str = "169.254.169.1";

fn metadata(m: Option<wire::PodSandboxMetadata>) -> SandboxMetadata {
    let m = m.unwrap_or_default();
    SandboxMetadata { name: m.name, uid: m.uid, namespace: m.namespace, attempt: m.attempt }
}

/// A sandbox of a list, and the configuration it was made with. One that somebody else made has no configuration.
pub fn listed(s: wire::PodSandbox) -> (SandboxStatus, Option<SandboxConfig>) {
    let mut annotations = s.annotations;
    let config: Option<SandboxConfig> =
        annotations.remove(CONFIG).and_then(|text| serde_json::from_str(&text).ok());
    let known = config.clone().unwrap_or_default();
    let status = SandboxStatus {
        id: s.id,
        metadata: metadata(s.metadata),
        state: if s.state == 0 { SandboxState::Ready } else { SandboxState::NotReady },
        created_at: s.created_at,
        netns: None,
        ips: vec![],
        namespaces: known.namespaces,
        cgroup_parent: known.cgroup_parent,
        log_directory: known.log_directory,
        labels: s.labels,
        annotations,
        runtime_handler: s.runtime_handler,
    };
    (status, config)
}

/// What only the long answer about a sandbox has: its addresses and its network namespace.
pub fn network(r: &wire::PodSandboxStatusResponse) -> (Vec<IpAddr>, Option<PathBuf>) {
    let network = r.status.as_ref().and_then(|s| s.network.as_ref());
    let texts = network
        .into_iter()
        .flat_map(|n| std::iter::once(n.ip.as_str()).chain(n.additional_ips.iter().map(|ip| ip.ip.as_str())));
    let ips = texts.filter(|ip| *ip != NO_ADDRESS).filter_map(|ip| ip.parse().ok()).collect();
    let info: Option<serde_json::Value> = r.info.get("info").and_then(|t| serde_json::from_str(t).ok());
    let Some(info) = info else { return (ips, None) };
    let namespaces = info.pointer("/runtimeSpec/linux/namespaces").and_then(|n| n.as_array());
    let entry = namespaces.into_iter().flatten().find(|n| n["type"] == "network");
    let named = entry.and_then(|n| n["path"].as_str()).map(PathBuf::from);
    // The runtime may work in a mount namespace of its own, where only it sees the name.
    let process =
        info["pid"].as_u64().filter(|p| *p != 0).map(|p| PathBuf::from(format!("/proc/{p}/ns/net")));
    (ips, named.filter(|p| is_mounted(p)).or(process.filter(|_| entry.is_some())))
}

fn is_mounted(path: &std::path::Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |p: &std::path::Path| std::fs::metadata(p).map(|m| m.dev()).ok();
    path.exists() && device(path) != path.parent().and_then(device)
}

/// A container.
pub fn container(sandbox: &str, r: wire::ContainerStatusResponse) -> ContainerStatus {
    let s = r.status.unwrap_or_default();
    let mut annotations = s.annotations;
    let written = annotations.remove(USER_IMAGE);
    let spec = s.image.unwrap_or_default();
    let info: Option<serde_json::Value> = r.info.get("info").and_then(|t| serde_json::from_str(t).ok());
    let info = info.unwrap_or_default();
    let m = s.metadata.unwrap_or_default();
    let state = match s.state {
        0 => ContainerState::Created,
        1 => ContainerState::Running,
        2 => ContainerState::Exited,
        _ => ContainerState::Unknown,
    };
    let own_id =
        info.pointer("/config/image/image").and_then(|v| v.as_str()).filter(|i| i.starts_with("sha256:"));
    let image_id = if s.image_id.is_empty() { own_id.unwrap_or(&s.image_ref).to_owned() } else { s.image_id };
    ContainerStatus {
        id: s.id,
        sandbox: sandbox.into(),
        name: m.name,
        attempt: m.attempt,
        state,
        created_at: s.created_at,
        started_at: s.started_at,
        finished_at: s.finished_at,
        exit_code: s.exit_code,
        reason: s.reason,
        message: s.message,
        pid: info["pid"].as_u64().and_then(|p| p.try_into().ok()).unwrap_or(0),
        image: written.unwrap_or(spec.image),
        image_ref: s.image_ref,
        image_id,
        labels: s.labels,
        annotations,
        log_path: s.log_path.into(),
        mounts: s.mounts.into_iter().map(mount).collect(),
        resources: s.resources.and_then(|r| r.linux).map_or_else(|| process_resources(&info), resources),
        user: s.user.and_then(|u| u.linux).map_or_else(|| process_user(&info), user),
        stop_signal: signals::name(s.stop_signal),
    }
}

fn user(u: wire::LinuxContainerUser) -> LinuxUser {
    let id = |n: i64| u32::try_from(n).unwrap_or(0);
    let supplemental_groups = u.supplemental_groups.into_iter().map(id).collect();
    LinuxUser { uid: id(u.uid), gid: id(u.gid), supplemental_groups }
}

/// The user in the specification of the process, for runtimes whose status does not have it.
fn process_user(info: &serde_json::Value) -> LinuxUser {
    let user = &info["runtimeSpec"]["process"]["user"];
    let id = |v: &serde_json::Value| v.as_u64().and_then(|n| n.try_into().ok()).unwrap_or(0);
    let groups = user["additionalGids"].as_array();
    LinuxUser {
        uid: id(&user["uid"]),
        gid: id(&user["gid"]),
        supplemental_groups: groups.into_iter().flatten().map(id).collect(),
    }
}

/// The limits in the specification of the container, likewise.
fn process_resources(info: &serde_json::Value) -> Resources {
    let at = |path: &str| info.pointer(&format!("/runtimeSpec/linux/resources/{path}"));
    let text = |path: &str| at(path).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    Resources {
        cpu_shares: at("cpu/shares").and_then(|v| v.as_u64()),
        cpu_quota: at("cpu/quota").and_then(|v| v.as_i64()),
        cpu_period: at("cpu/period").and_then(|v| v.as_u64()),
        memory_limit: at("memory/limit").and_then(|v| v.as_i64()),
        memory_swap_limit: at("memory/swap").and_then(|v| v.as_i64()),
        cpuset_cpus: text("cpu/cpus"),
        cpuset_mems: text("cpu/mems"),
        ..Resources::default()
    }
}

fn mount(m: wire::Mount) -> Mount {
    Mount {
        host_path: m.host_path.into(),
        container_path: m.container_path.into(),
        readonly: m.readonly,
        recursive_readonly: m.recursive_read_only,
        propagation: match m.propagation {
            1 => Propagation::HostToContainer,
            2 => Propagation::Bidirectional,
            _ => Propagation::Private,
        },
        image: m.image.map(|i| i.image).filter(|i| !i.is_empty()),
        image_sub_path: m.image_sub_path,
    }
}

fn resources(r: wire::LinuxContainerResources) -> Resources {
    let set = |n: i64| (n != 0).then_some(n);
    let unsigned = |n: i64| u64::try_from(n).ok().filter(|n| *n != 0);
    Resources {
        cpu_shares: unsigned(r.cpu_shares),
        cpu_quota: set(r.cpu_quota),
        cpu_period: unsigned(r.cpu_period),
        memory_limit: set(r.memory_limit_in_bytes),
        memory_swap_limit: set(r.memory_swap_limit_in_bytes),
        oom_score_adj: i32::try_from(r.oom_score_adj).ok(),
        cpuset_cpus: r.cpuset_cpus,
        cpuset_mems: r.cpuset_mems,
        hugepages: r.hugepage_limits.into_iter().map(|h| (h.page_size, h.limit)).collect(),
        pids_limit: None,
        unified: r.unified,
    }
}

/// A handler of RuntimeClasses.
pub fn handler(h: wire::RuntimeHandler) -> Handler {
    let features = h.features.unwrap_or_default();
    Handler {
        name: h.name,
        recursive_readonly: features.recursive_read_only_mounts,
        user_namespaces: features.user_namespaces,
    }
}

/// An image.
pub fn image(i: wire::Image, last_used: Nanos) -> Image {
    Image {
        id: i.id,
        tags: i.repo_tags,
        digests: i.repo_digests,
        size: i.size,
        uid: i.uid.map(|u| u.value),
        username: i.username,
        pinned: i.pinned,
        last_used,
    }
}

fn value(v: Option<wire::UInt64Value>) -> u64 {
    v.map_or(0, |v| v.value)
}

/// Use of a file system.
pub fn file_system(u: Option<wire::FilesystemUsage>) -> FsStats {
    let u = u.unwrap_or_default();
    FsStats { timestamp: u.timestamp, used_bytes: value(u.used_bytes), inodes_used: value(u.inodes_used) }
}

/// Use of a container.
pub fn stats(sandbox: &str, s: wire::ContainerStats) -> ContainerStats {
    let a = s.attributes.unwrap_or_default();
    let m = a.metadata.unwrap_or_default();
    let cpu = s.cpu.unwrap_or_default();
    let memory = s.memory.unwrap_or_default();
    let working_set = value(memory.working_set_bytes);
    ContainerStats {
        id: a.id,
        sandbox: sandbox.into(),
        name: m.name,
        attempt: m.attempt,
        labels: a.labels,
        cpu: CpuStats {
            timestamp: cpu.timestamp,
            usage_core_nanoseconds: value(cpu.usage_core_nano_seconds),
        },
        memory: MemoryStats {
            timestamp: memory.timestamp,
            working_set,
            available: memory.available_bytes.map(|v| v.value),
            usage: memory.usage_bytes.map_or(working_set, |v| v.value),
            rss: value(memory.rss_bytes),
            page_faults: value(memory.page_faults),
            major_page_faults: value(memory.major_page_faults),
            ..MemoryStats::default()
        },
        pids: 0,
        writable_layer: file_system(s.writable_layer),
        pressure: Pressures::default(),
    }
}
