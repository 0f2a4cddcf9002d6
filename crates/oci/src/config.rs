//! What is asked of a runtime: sandboxes, containers, resources, pulls. Plain data in CRI's words.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Labels or annotations.
pub type Map = BTreeMap<String, String>;

/// Identity of a pod, as the kubelet names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxMetadata {
    /// Pod name.
    pub name: String,
    /// Pod uid.
    pub uid: String,
    /// Pod namespace.
    pub namespace: String,
    /// How often the sandbox was made anew.
    pub attempt: u32,
}

/// A sandbox to make.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// Identity.
    pub metadata: SandboxMetadata,
    /// Host name inside; unused with the host's network.
    pub hostname: String,
    /// Directory of the log files of its containers.
    pub log_directory: PathBuf,
    /// Kept for the caller; the kubelet writes resolv.conf and mounts it.
    pub dns: DnsConfig,
    /// Kept, matched by filters.
    pub labels: Map,
    /// Kept.
    pub annotations: Map,
    /// Cgroup under which those of the containers are made, e.g. `/kubepods/burstable/pod<uid>`.
    pub cgroup_parent: String,
    /// Namespaced kernel parameters, dotted or with slashes.
    pub sysctls: Map,
    /// Which namespaces are shared with whom.
    pub namespaces: NamespaceOptions,
    /// Name of the runtime handler from the RuntimeClass; empty for the default.
    pub runtime_handler: String,
    /// A container in it is going to be privileged.
    #[serde(default)]
    pub privileged: bool,
}

/// Name resolution of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// Addresses of servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options of resolv.conf.
    pub options: Vec<String>,
}

/// Who shares a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// All containers of the pod.
    #[default]
    Pod,
    /// Each container its own.
    Container,
    /// The node's.
    Host,
    /// The one of another container (`NamespaceOptions::target`).
    Target,
}

/// Namespaces of a sandbox or a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceOptions {
    /// `Pod` or `Host`.
    pub network: NamespaceMode,
    /// `Pod`, `Container`, `Host` or `Target`.
    pub pid: NamespaceMode,
    /// `Pod` or `Host`.
    pub ipc: NamespaceMode,
    /// Container whose PID namespace is entered with `Target`.
    pub target: String,
    /// A user namespace of the pod with these mappings; `None`: the node's.
    pub user: Option<UserNamespace>,
}

impl Default for NamespaceOptions {
    fn default() -> Self {
        Self {
            network: NamespaceMode::Pod,
            pid: NamespaceMode::Container,
            ipc: NamespaceMode::Pod,
            target: String::new(),
            user: None,
        }
    }
}

/// Mappings of a user namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// Of users.
    pub uids: Vec<IdMapping>,
    /// Of groups.
    pub gids: Vec<IdMapping>,
}

impl UserNamespace {
    /// The node's number of a user inside; what is not mapped is nobody.
    pub fn uid(&self, inside: u32) -> u32 {
        outside(&self.uids, inside)
    }

    /// The node's number of a group inside.
    pub fn gid(&self, inside: u32) -> u32 {
        outside(&self.gids, inside)
    }
}

fn outside(ranges: &[IdMapping], inside: u32) -> u32 {
    const NOBODY: u32 = 65_534;
    let of = |r: &IdMapping| {
        inside.checked_sub(r.container_id).filter(|n| *n < r.length).map(|n| r.host_id.wrapping_add(n))
    };
    ranges.iter().find_map(of).unwrap_or(NOBODY)
}

/// One range of ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    /// First id on the node.
    pub host_id: u32,
    /// First id inside.
    pub container_id: u32,
    /// How many.
    pub length: u32,
}

/// A container to make.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// Container name in the pod.
    pub name: String,
    /// How often it was restarted.
    pub attempt: u32,
    /// Image as the kubelet resolved it: an image id, or any reference kept here.
    pub image: String,
    /// Image as the user wrote it, kept for status.
    pub user_image: String,
    /// Replaces the image's entrypoint; when set and `args` is empty, the image's cmd is ignored too.
    pub command: Vec<String>,
    /// Replaces the image's cmd.
    pub args: Vec<String>,
    /// Empty: the image's, else `/`.
    pub working_dir: String,
    /// Added to the image's environment, later wins.
    pub env: Vec<(String, String)>,
    /// In the order given; the runtime sorts by depth of the path.
    pub mounts: Vec<Mount>,
    /// Device nodes of the host.
    pub devices: Vec<Device>,
    /// Kept, matched by filters.
    pub labels: Map,
    /// Kept.
    pub annotations: Map,
    /// Relative to the sandbox's log directory; empty: output is dropped.
    pub log_path: String,
    /// Keep a standard input open that attach writes to.
    pub stdin: bool,
    /// Close it when the first attach that wrote to it ends.
    pub stdin_once: bool,
    /// Run behind a terminal.
    pub tty: bool,
    /// Limits.
    pub resources: Resources,
    /// Users, capabilities and the like.
    pub security: SecurityContext,
    /// Stop signal that overrides the image's, e.g. `SIGUSR1`.
    pub stop_signal: Option<String>,
}

/// Propagation of mounts made later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// None.
    #[default]
    Private,
    /// From the host into the container.
    HostToContainer,
    /// Both ways; only for privileged containers.
    Bidirectional,
}

/// One mount of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// File or directory on the node. Must exist unless `image` is set.
    pub host_path: PathBuf,
    /// Where it appears; made when it is missing.
    pub container_path: PathBuf,
    /// No writing.
    pub readonly: bool,
    /// With `readonly`: mounts below are read-only too.
    pub recursive_readonly: bool,
    /// Of mounts made later.
    pub propagation: Propagation,
    /// Mount the content of this image instead of a host path; always read-only.
    pub image: Option<String>,
    /// Only this path inside the image.
    pub image_sub_path: String,
}

/// One device of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// On the node.
    pub host_path: PathBuf,
    /// Inside.
    pub container_path: PathBuf,
    /// Any of `rwm`.
    pub permissions: String,
}

/// Limits of a container. `None` leaves a setting as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Relative weight, 2–262144.
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU a period; -1: no limit.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Bytes; 0 or -1: no limit.
    pub memory_limit: Option<i64>,
    /// Bytes of memory and swap together.
    pub memory_swap_limit: Option<i64>,
    /// -1000–1000.
    pub oom_score_adj: Option<i32>,
    /// List of CPUs, e.g. `0-3`; empty: all.
    pub cpuset_cpus: String,
    /// List of memory nodes; empty: all.
    pub cpuset_mems: String,
    /// Page size (`2MB`) to bytes.
    pub hugepages: BTreeMap<String, u64>,
    /// Processes; 0 or -1: no limit.
    pub pids_limit: Option<i64>,
    /// cgroup v2 files and what to write into them.
    pub unified: Map,
}

/// How supplemental groups come about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupsPolicy {
    /// Those given, and those of the user in the image's /etc/group.
    #[default]
    Merge,
    /// Only those given.
    Strict,
}

/// Which system calls are open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompProfile {
    /// Every one.
    #[default]
    Unconfined,
    /// The runtime's default list.
    RuntimeDefault,
    /// The profile in this file of the node.
    Localhost(PathBuf),
}

/// Who the process is and what it may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityContext {
    /// Numeric user; before `run_as_username`. Neither: the image's user.
    pub run_as_user: Option<i64>,
    /// Numeric group; only with a user.
    pub run_as_group: Option<i64>,
    /// User by name from the image's /etc/passwd.
    pub run_as_username: Option<String>,
    /// Extra groups (supplementalGroups and fsGroup).
    pub supplemental_groups: Vec<i64>,
    /// Whether the image's groups count.
    pub groups_policy: GroupsPolicy,
    /// Added to the default set, with or without `CAP_`; `ALL`.
    pub add_capabilities: Vec<String>,
    /// Taken from it; `ALL`.
    pub drop_capabilities: Vec<String>,
    /// Everything open: all capabilities and devices, no masks, no seccomp.
    pub privileged: bool,
    /// The root file system is read-only.
    pub readonly_rootfs: bool,
    /// Set-user-id programs give no new rights.
    pub no_new_privs: bool,
    /// System calls.
    pub seccomp: SeccompProfile,
    /// Hidden paths; the kubelet gives the default list, or none for procMount Unmasked.
    pub masked_paths: Vec<String>,
    /// Read-only paths, likewise.
    pub readonly_paths: Vec<String>,
    /// Namespaces; for network and ipc the sandbox's count.
    pub namespaces: NamespaceOptions,
}

/// Which sandboxes or containers to list. Everything given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// This id.
    pub id: Option<String>,
    /// Containers of this sandbox.
    pub sandbox: Option<String>,
    /// All of these labels.
    pub labels: Map,
}

/// An image to pull.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullRequest {
    /// As the user wrote it, e.g. `nginx:1.27`.
    pub reference: String,
    /// Credentials, when there are any.
    pub auth: Option<RegistryAuth>,
}

/// Credentials of one registry.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryAuth {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// Sent to the token service to get an access token.
    pub identity_token: String,
    /// Sent to the registry as it is.
    pub registry_token: String,
}

impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryAuth").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Paths that a container does not see unless the caller asks for an unmasked /proc.
pub const DEFAULT_MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Paths that a container cannot write unless the caller asks for an unmasked /proc.
pub const DEFAULT_READONLY_PATHS: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
