//! What a runtime answers: status, statistics, images, events. Plain data in CRI's words.

use crate::config::{Map, Mount, NamespaceOptions, Resources, SandboxMetadata};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// Nanoseconds since 1970, UTC.
pub type Nanos = i64;

/// Name and version of a runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// `kutter`, `containerd`, `cri-o`.
    pub name: String,
    /// Of the runtime.
    pub version: String,
    /// Of the interface, `v1`.
    pub api_version: String,
}

/// Whether the runtime can work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeStatus {
    /// Containers can be made.
    pub ready: bool,
    /// Pods can be plugged; the embedded runtime leaves this to the node and always says true.
    pub network_ready: bool,
    /// Why not, for people.
    pub message: String,
    /// What this machine lacks and what is done instead, e.g. `oom_score_adj cannot be lowered`.
    pub notes: Vec<String>,
    /// Handlers that a RuntimeClass can name; `""` is the default.
    pub handlers: Vec<Handler>,
    /// `supplementalGroupsPolicy` is followed.
    pub groups_policy: bool,
}

/// A handler that a RuntimeClass can name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handler {
    /// Its name; empty for the default.
    pub name: String,
    /// Mounts can be read-only with everything below.
    pub recursive_readonly: bool,
    /// Pods can have user namespaces.
    pub user_namespaces: bool,
}

/// A sandbox that was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// Path of its network namespace; `None` with the host's.
    pub netns: Option<PathBuf>,
    /// Addresses, when the runtime plugs the network itself.
    pub ips: Vec<IpAddr>,
}

/// State of a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxState {
    /// Its namespaces are held.
    Ready,
    /// Stopped or broken.
    #[default]
    NotReady,
}

/// What is known of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxStatus {
    /// Its id.
    pub id: String,
    /// Identity.
    pub metadata: SandboxMetadata,
    /// State.
    pub state: SandboxState,
    /// When it was made.
    pub created_at: Nanos,
    /// Path of its network namespace; `None` with the host's or when stopped.
    pub netns: Option<PathBuf>,
    /// Addresses, when the runtime plugs the network itself.
    pub ips: Vec<IpAddr>,
    /// As given.
    pub namespaces: NamespaceOptions,
    /// As given.
    pub cgroup_parent: String,
    /// As given.
    pub log_directory: PathBuf,
    /// As given.
    pub labels: Map,
    /// As given.
    pub annotations: Map,
    /// As given.
    pub runtime_handler: String,
}

/// State of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Made, not started.
    #[default]
    Created,
    /// Its process runs.
    Running,
    /// Its process ended, or it could not be started.
    Exited,
    /// The runtime lost track.
    Unknown,
}

/// What is known of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its id.
    pub id: String,
    /// Its sandbox.
    pub sandbox: String,
    /// Name in the pod.
    pub name: String,
    /// How often it was restarted.
    pub attempt: u32,
    /// State.
    pub state: ContainerState,
    /// When it was made.
    pub created_at: Nanos,
    /// 0: never started.
    pub started_at: Nanos,
    /// 0: not ended.
    pub finished_at: Nanos,
    /// 128 + signal when a signal ended it.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `Unknown`; empty while it runs.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Process id in the supervisor's PID namespace; 0 when none runs.
    pub pid: u32,
    /// Image as the user wrote it.
    pub image: String,
    /// Digest reference (`name@sha256:…`) when it has one, else the id.
    pub image_ref: String,
    /// Image id (`sha256:…` of its configuration).
    pub image_id: String,
    /// As given.
    pub labels: Map,
    /// As given.
    pub annotations: Map,
    /// Whole path; empty: none.
    pub log_path: PathBuf,
    /// As given; only in `container_status`.
    pub mounts: Vec<Mount>,
    /// As in effect; only in `container_status`.
    pub resources: Resources,
    /// User, group and groups of the first process.
    pub user: LinuxUser,
    /// The signal that `stop_container` sends first, e.g. `SIGTERM`.
    pub stop_signal: String,
}

/// User of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinuxUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Extra groups.
    pub supplemental_groups: Vec<u32>,
}

/// Use of CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuStats {
    /// When it was read.
    pub timestamp: Nanos,
    /// Nanoseconds since the start, over all cores.
    pub usage_core_nanoseconds: u64,
}

/// Use of memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStats {
    /// When it was read.
    pub timestamp: Nanos,
    /// Use less inactive page cache: what evictions look at.
    pub working_set: u64,
    /// Limit less working set; `None` without a limit.
    pub available: Option<u64>,
    /// All of it.
    pub usage: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Since the start.
    pub page_faults: u64,
    /// Since the start.
    pub major_page_faults: u64,
    /// What of it is on disk; `None` where that is not counted.
    pub swap: Option<u64>,
    /// Limit of swap less its use; `None` without a limit.
    pub swap_available: Option<u64>,
}

/// How much of the time processes waited, in hundredths of a percent, and in microseconds since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waited {
    /// Over ten seconds.
    pub avg10: u32,
    /// Over a minute.
    pub avg60: u32,
    /// Over five minutes.
    pub avg300: u32,
    /// Since the start.
    pub total: u64,
}

/// Waiting for one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    /// At least one process waited.
    pub some: Waited,
    /// All of them waited.
    pub full: Waited,
}

/// Waiting for resources; absent where the kernel does not tell (version 1 alone, or without PSI).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressures {
    /// For processors.
    pub cpu: Option<Pressure>,
    /// For memory.
    pub memory: Option<Pressure>,
    /// For disks.
    pub io: Option<Pressure>,
}

/// Use of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsStats {
    /// When it was read.
    pub timestamp: Nanos,
    /// Bytes on disk.
    pub used_bytes: u64,
    /// Files and directories.
    pub inodes_used: u64,
}

/// Use of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStats {
    /// Its id.
    pub id: String,
    /// Its sandbox.
    pub sandbox: String,
    /// Name in the pod.
    pub name: String,
    /// How often it was restarted.
    pub attempt: u32,
    /// As given.
    pub labels: Map,
    /// CPU.
    pub cpu: CpuStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Processes and threads.
    pub pids: u64,
    /// Writable layer.
    pub writable_layer: FsStats,
    /// Waiting of its processes.
    pub pressure: Pressures,
}

/// Bytes of one interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStats {
    /// Its name.
    pub name: String,
    /// Received.
    pub rx_bytes: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Sent.
    pub tx_bytes: u64,
    /// Send errors.
    pub tx_errors: u64,
}

impl InterfaceStats {
    /// From the text of `/proc/net/dev`, without `lo`.
    pub fn parse(text: &str) -> Vec<InterfaceStats> {
        let lines = text.lines().filter_map(|l| l.split_once(':'));
        let parsed = lines.filter_map(|(name, numbers)| {
            let n: Vec<u64> = numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect();
            let [rx_bytes, _, rx_errors, _, _, _, _, _, tx_bytes, _, tx_errors, ..] = n[..] else {
                return None;
            };
            Some(InterfaceStats { name: name.trim().into(), rx_bytes, rx_errors, tx_bytes, tx_errors })
        });
        parsed.filter(|i| i.name != "lo").collect()
    }
}

/// Use of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxStats {
    /// Its id.
    pub id: String,
    /// Identity.
    pub metadata: SandboxMetadata,
    /// Of the pod's cgroup.
    pub cpu: CpuStats,
    /// Of the pod's cgroup.
    pub memory: MemoryStats,
    /// Processes and threads.
    pub pids: u64,
    /// Interfaces of its network namespace; `lo` left out. Empty with the host's.
    pub interfaces: Vec<InterfaceStats>,
    /// Its running containers.
    pub containers: Vec<ContainerStats>,
    /// Waiting of its processes.
    pub pressure: Pressures,
}

/// An image kept here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// `sha256:…` of its configuration.
    pub id: String,
    /// Names with tags.
    pub tags: Vec<String>,
    /// Names with digests.
    pub digests: Vec<String>,
    /// Bytes on disk, unpacked.
    pub size: u64,
    /// Numeric user of the image; `None` when it is a name.
    pub uid: Option<i64>,
    /// User name of the image; empty when it is numeric or absent.
    pub username: String,
    /// Never garbage-collected.
    pub pinned: bool,
    /// When a container was last made from it, or when it came here.
    pub last_used: Nanos,
}

/// How far a pull is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes that have arrived.
    pub done: u64,
    /// Bytes in all, as far as known.
    pub total: u64,
    /// Layers ready.
    pub layers_done: u32,
    /// Layers in all.
    pub layers: u32,
}

/// Space that images and writable layers use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFsInfo {
    /// A path on the file system of the images.
    pub image_path: PathBuf,
    /// Content and unpacked layers.
    pub images: FsStats,
    /// A path on the file system of the writable layers.
    pub container_path: PathBuf,
    /// Writable layers.
    pub containers: FsStats,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// A container was made.
    Created,
    /// Its process was executed.
    Started,
    /// Its process ended.
    Exited,
    /// The kernel killed a process in it for want of memory.
    Oom,
    /// It was removed.
    Deleted,
}

/// Something that happened to a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// To which container.
    pub container: String,
    /// In which sandbox.
    pub sandbox: String,
    /// When.
    pub at: Nanos,
    /// Uid of the pod.
    pub pod_uid: String,
    /// With `Exited`.
    pub exit_code: i32,
}
