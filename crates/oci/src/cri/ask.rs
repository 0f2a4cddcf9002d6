//! From our words to CRI's.

use super::{signals, wire};
use crate::config::*;
use crate::runtime::Error;

/// Annotation in which a sandbox carries its own configuration: CRI wants it back with every container, and tells
/// less of it than the kubelet knows.
pub const CONFIG: &str = "io.kutter.sandbox-config";
/// Annotation with the image as the user wrote it.
pub const USER_IMAGE: &str = "io.kutter.user-image";

fn mode(mode: NamespaceMode) -> i32 {
    match mode {
        NamespaceMode::Pod => 0,
        NamespaceMode::Container => 1,
        NamespaceMode::Host => 2,
        NamespaceMode::Target => 3,
    }
}

fn ranges(list: &[IdMapping]) -> Vec<wire::IDMapping> {
    let one = |m: &IdMapping| wire::IDMapping {
        host_id: m.host_id,
        container_id: m.container_id,
        length: m.length,
    };
    list.iter().map(one).collect()
}

fn namespaces(n: &NamespaceOptions) -> wire::NamespaceOption {
    wire::NamespaceOption {
        network: mode(n.network),
        pid: mode(n.pid),
        ipc: mode(n.ipc),
        target_id: n.target.clone(),
        userns_options: n.user.as_ref().map(|u| wire::UserNamespace {
            mode: mode(NamespaceMode::Pod),
            uids: ranges(&u.uids),
            gids: ranges(&u.gids),
        }),
    }
}

fn profile(p: &SeccompProfile) -> wire::SecurityProfile {
    let (profile_type, localhost_ref) = match p {
        SeccompProfile::RuntimeDefault => (0, String::new()),
        SeccompProfile::Unconfined => (1, String::new()),
        SeccompProfile::Localhost(path) => (2, path.to_string_lossy().into_owned()),
    };
    wire::SecurityProfile { profile_type, localhost_ref }
}

/// A sandbox.
pub fn sandbox(config: &SandboxConfig) -> Result<wire::PodSandboxConfig, Error> {
    let kept =
        serde_json::to_string(config).map_err(|e| Error::Failed(format!("encode sandbox config: {e}")))?;
    let mut annotations = config.annotations.clone();
    annotations.insert(CONFIG.into(), kept);
    let m = &config.metadata;
    Ok(wire::PodSandboxConfig {
        metadata: Some(wire::PodSandboxMetadata {
            name: m.name.clone(),
            uid: m.uid.clone(),
            namespace: m.namespace.clone(),
            attempt: m.attempt,
        }),
        hostname: config.hostname.clone(),
        log_directory: config.log_directory.to_string_lossy().into_owned(),
        dns_config: Some(wire::DNSConfig {
            servers: config.dns.servers.clone(),
            searches: config.dns.searches.clone(),
            options: config.dns.options.clone(),
        }),
        labels: config.labels.clone(),
        annotations,
        linux: Some(wire::LinuxPodSandboxConfig {
            cgroup_parent: config.cgroup_parent.clone(),
            security_context: Some(wire::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(&config.namespaces)),
                privileged: config.privileged,
                seccomp: Some(profile(&SeccompProfile::RuntimeDefault)),
                ..Default::default()
            }),
            sysctls: config.sysctls.iter().map(|(k, v)| (k.replace('/', "."), v.clone())).collect(),
            resources: None,
        }),
    })
}

/// An image by reference.
pub fn image(reference: &str) -> wire::ImageSpec {
    wire::ImageSpec { image: reference.into(), ..Default::default() }
}

/// A container.
pub fn container(c: &ContainerConfig) -> wire::ContainerConfig {
    let mut annotations = c.annotations.clone();
    if !c.user_image.is_empty() {
        annotations.insert(USER_IMAGE.into(), c.user_image.clone());
    }
    let value = |(k, v): &(String, String)| wire::KeyValue { key: k.clone(), value: v.clone().into_bytes() };
    let device = |d: &Device| wire::Device {
        container_path: d.container_path.to_string_lossy().into_owned(),
        host_path: d.host_path.to_string_lossy().into_owned(),
        permissions: d.permissions.clone(),
    };
    wire::ContainerConfig {
        metadata: Some(wire::ContainerMetadata { name: c.name.clone(), attempt: c.attempt }),
        image: Some(wire::ImageSpec { user_specified_image: c.user_image.clone(), ..image(&c.image) }),
        command: c.command.clone(),
        args: c.args.clone(),
        working_dir: c.working_dir.clone(),
        envs: c.env.iter().map(value).collect(),
        mounts: c.mounts.iter().map(|m| mount(m, c.security.namespaces.user.as_ref())).collect(),
        devices: c.devices.iter().map(device).collect(),
        labels: c.labels.clone(),
        annotations,
        log_path: c.log_path.clone(),
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        tty: c.tty,
        linux: Some(wire::LinuxContainerConfig {
            resources: Some(resources(&c.resources)),
            security_context: Some(security(&c.security)),
        }),
        stop_signal: c.stop_signal.as_deref().map_or(0, signals::number),
    }
}

fn mount(m: &Mount, users: Option<&UserNamespace>) -> wire::Mount {
    wire::Mount {
        container_path: m.container_path.to_string_lossy().into_owned(),
        host_path: m.host_path.to_string_lossy().into_owned(),
        readonly: m.readonly || m.image.is_some(),
        propagation: match m.propagation {
            Propagation::Private => 0,
            Propagation::HostToContainer => 1,
            Propagation::Bidirectional => 2,
        },
        recursive_read_only: m.recursive_readonly,
        image: m.image.as_deref().map(image),
        image_sub_path: m.image_sub_path.clone(),
        uid_mappings: users.map(|u| ranges(&u.uids)).unwrap_or_default(),
        gid_mappings: users.map(|u| ranges(&u.gids)).unwrap_or_default(),
    }
}

/// Limits. CRI has no word for `pids_limit`: the pod's cgroup has to bound it.
pub fn resources(r: &Resources) -> wire::LinuxContainerResources {
    let signed = |n: Option<u64>| n.map_or(0, |n| i64::try_from(n).unwrap_or(i64::MAX));
    let page =
        |(size, bytes): (&String, &u64)| wire::HugepageLimit { page_size: size.clone(), limit: *bytes };
    wire::LinuxContainerResources {
        cpu_period: signed(r.cpu_period),
        cpu_quota: r.cpu_quota.unwrap_or(0),
        cpu_shares: signed(r.cpu_shares),
        memory_limit_in_bytes: r.memory_limit.unwrap_or(0).max(0),
        oom_score_adj: i64::from(r.oom_score_adj.unwrap_or(0)),
        cpuset_cpus: r.cpuset_cpus.clone(),
        cpuset_mems: r.cpuset_mems.clone(),
        hugepage_limits: r.hugepages.iter().map(page).collect(),
        unified: r.unified.clone(),
        memory_swap_limit_in_bytes: r.memory_swap_limit.unwrap_or(0).max(0),
    }
}

fn security(s: &SecurityContext) -> wire::LinuxContainerSecurityContext {
    let number = |n: Option<i64>| n.map(|value| wire::Int64Value { value });
    wire::LinuxContainerSecurityContext {
        capabilities: Some(wire::Capability {
            add_capabilities: s.add_capabilities.clone(),
            drop_capabilities: s.drop_capabilities.clone(),
        }),
        privileged: s.privileged,
        namespace_options: Some(namespaces(&s.namespaces)),
        run_as_user: number(s.run_as_user),
        run_as_group: number(s.run_as_group),
        run_as_username: s.run_as_username.clone().filter(|_| s.run_as_user.is_none()).unwrap_or_default(),
        readonly_rootfs: s.readonly_rootfs,
        supplemental_groups: s.supplemental_groups.clone(),
        supplemental_groups_policy: match s.groups_policy {
            GroupsPolicy::Merge => 0,
            GroupsPolicy::Strict => 1,
        },
        no_new_privs: s.no_new_privs,
        masked_paths: s.masked_paths.clone(),
        readonly_paths: s.readonly_paths.clone(),
        seccomp: Some(profile(&s.seccomp)),
    }
}
