//! From a container of a Pod to a container of the runtime, and its start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Container, ImageVolumeSource, Pod, SecurityContext as PodSecurity, Volume, VolumeDevice, VolumeMount,
};
use oci::runtime::{
    ContainerConfig, DEFAULT_MASKED_PATHS, DEFAULT_READONLY_PATHS, Device, GroupsPolicy, Map, Mount,
    NamespaceMode, Propagation, Resources, SeccompProfile, SecurityContext,
};
use pods::env::{self, Sources};
use pods::model::Waiting;
use pods::spec::Sort;
use pods::{resources, spec};

use crate::kubelet::Kubelet;
use crate::observe::{CONTAINER_NAME, HASH, MESSAGE_POLICY, message_file};
use crate::volume::Mounted;
use crate::{hooks, images, sandbox, volume};

/// A container to start.
pub struct Order {
    /// The pod.
    pub pod: Arc<Pod>,
    /// The container's name.
    pub name: String,
    /// Its sort.
    pub sort: Sort,
    /// How often it was restarted.
    pub attempt: u32,
    /// The sandbox.
    pub sandbox: String,
    /// The pod's addresses.
    pub ips: Vec<String>,
    /// The pod's volumes.
    pub volumes: Mounted,
    /// Ids of containers by name, for ephemeral ones that look at another.
    pub ids: BTreeMap<String, String>,
}

/// Why a container was not started.
#[derive(Debug)]
pub struct Failure {
    /// For its status.
    pub waiting: Waiting,
    /// The image whose pull was tried and failed.
    pub pull: Option<String>,
}

fn failure(reason: &str, message: String) -> Failure {
    Failure { waiting: Waiting { reason: reason.into(), message }, pull: None }
}

/// `spec.containers{name}` and the like, as events name a container.
pub fn field(sort: Sort, name: &str) -> String {
    match sort {
        Sort::Init | Sort::Sidecar => format!("spec.initContainers{{{name}}}"),
        Sort::Regular => format!("spec.containers{{{name}}}"),
        Sort::Ephemeral => format!("spec.ephemeralContainers{{{name}}}"),
    }
}

/// Brings the image, makes the container, starts it and runs its postStart hook. Answers with its id.
pub async fn start(k: &Arc<Kubelet>, order: &Order) -> Result<String, Failure> {
    let pod = &*order.pod;
    let found = pod.spec.as_ref().and_then(|s| spec::find(s, &order.name));
    let Some((_, c)) = found else {
        return Err(failure(
            "CreateContainerConfigError",
            format!("container {} is not in the pod", order.name),
        ));
    };
    let place = field(order.sort, &order.name);
    let say =
        |warning, reason, message: String| k.events.pod(pod, Some(place.clone()), warning, reason, message);
    let ensure = async |image: &str, policy: Option<&str>| {
        let wanted = images::Wanted { image, policy, field: &place };
        let done = images::ensure(k, pod, wanted).await;
        done.map_err(|m| Failure { waiting: m.waiting, pull: m.pulled.then(|| image.to_owned()) })
    };
    for volume in image_volumes(pod, &c) {
        let policy = volume.pull_policy.as_deref();
        ensure(volume.reference.as_deref().unwrap_or_default(), policy).await?;
    }
    let image = ensure(c.image.as_deref().unwrap_or_default(), c.image_pull_policy.as_deref()).await?;
    let config = match config(k, order, &c, image).await {
        Ok(config) => config,
        Err(error) => {
            say(true, "Failed", format!("Error: {error}"));
            return Err(failure("CreateContainerConfigError", error));
        }
    };
    let id = match k.runtime.create_container(&order.sandbox, config).await {
        Ok(id) => id,
        Err(error) => {
            say(true, "Failed", format!("Error: {error}"));
            return Err(failure("CreateContainerError", error.to_string()));
        }
    };
    say(false, "Created", "Container created".into());
    if let Err(error) = k.runtime.start_container(&id).await {
        say(true, "Failed", format!("Error: {error}"));
        return Err(failure("RunContainerError", error.to_string()));
    }
    say(false, "Started", "Container started".into());
    if let Some(hook) = c.lifecycle.as_ref().and_then(|l| l.post_start.as_ref())
        && let Err(error) = hooks::run(k, pod, &c, &id, &order.ips, hook, hooks::FOREVER).await
    {
        tracing::info!(container = order.name, error, "the postStart hook failed");
        say(true, "FailedPostStartHook", "PostStartHook failed".into());
        say(false, "Killing", "FailedPostStartHook".into());
        let grace = pod.spec.as_ref().map_or(30, spec::grace_seconds);
        let _ = k.runtime.stop_container(&id, u32::try_from(grace).unwrap_or(30)).await;
        return Err(failure("PostStartHookError", error));
    }
    Ok(id)
}

/// ConfigMaps and Secrets that variables need, read beforehand.
struct Fetched {
    maps: BTreeMap<String, Option<BTreeMap<String, String>>>,
    secrets: BTreeMap<String, Option<BTreeMap<String, Vec<u8>>>>,
    volumes: BTreeMap<String, PathBuf>,
}

impl Sources for Fetched {
    fn config_map(&self, name: &str) -> Option<BTreeMap<String, String>> {
        self.maps.get(name).cloned().flatten()
    }
    fn secret(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        self.secrets.get(name).cloned().flatten()
    }
    fn file_key(&self, volume: &str, path: &str, key: &str) -> Result<Option<String>, String> {
        let root = self.volumes.get(volume).ok_or_else(|| format!("volume {volume} not found"))?;
        let inside = Path::new(path).components().all(|c| matches!(c, std::path::Component::Normal(_)));
        if !inside {
            return Err(format!("path {path:?} must stay inside the volume"));
        }
        let Ok(text) = std::fs::read_to_string(root.join(path)) else { return Ok(None) };
        let value = text.lines().find_map(|l| l.trim().strip_prefix(key)?.strip_prefix('='));
        Ok(value.map(|v| v.trim_matches(['\'', '"']).to_string()))
    }
}

async fn fetch(k: &Kubelet, order: &Order, c: &Container) -> Result<Fetched, String> {
    let m = &order.pod.metadata;
    let (namespace, uid) = (m.namespace.as_deref().unwrap_or(""), m.uid.as_deref().unwrap_or(""));
    let mut fetched =
        Fetched { maps: BTreeMap::new(), secrets: BTreeMap::new(), volumes: order.volumes.paths.clone() };
    let from = c.env_from.iter().flatten();
    let vars = || c.env.iter().flatten().filter_map(|v| v.value_from.as_ref());
    let maps = from.clone().filter_map(|f| f.config_map_ref.as_ref().map(|r| &r.name));
    for name in maps.chain(vars().filter_map(|v| v.config_map_key_ref.as_ref().map(|r| &r.name))) {
        let map = k.refs.config_map(uid, namespace, name).await.map_err(|e| e.chain())?;
        fetched.maps.insert(name.clone(), map.map(|m| m.data.clone().unwrap_or_default()));
    }
    let secrets = from.filter_map(|f| f.secret_ref.as_ref().map(|r| &r.name));
    for name in secrets.chain(vars().filter_map(|v| v.secret_key_ref.as_ref().map(|r| &r.name))) {
        let secret = k.refs.secret(uid, namespace, name).await.map_err(|e| e.chain())?;
        let data = secret.map(|s| s.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect());
        fetched.secrets.insert(name.clone(), data);
    }
    Ok(fetched)
}

/// Images that a container mounts.
fn image_volumes<'a>(pod: &'a Pod, c: &'a Container) -> impl Iterator<Item = &'a ImageVolumeSource> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let mounted = |v: &&Volume| c.volume_mounts.iter().flatten().any(|m| m.name == v.name);
    volumes.filter(mounted).filter_map(|v| v.image.as_ref())
}

async fn config(k: &Kubelet, order: &Order, c: &Container, image: String) -> Result<ContainerConfig, String> {
    let pod = &*order.pod;
    let pod_spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
    let links = pod_spec.enable_service_links.unwrap_or(true);
    let services = k.services.list(namespace);
    let master = k.services.get("default", "kubernetes");
    let refs: Vec<_> = services.iter().chain(master.as_ref()).map(|s| &**s).collect();
    let services = env::service_links(&refs, namespace, links);
    let hosts = k.options.ip_texts();
    let facts = volume::facts(k, &order.ips, &hosts);
    let sources = fetch(k, order, c).await?;
    let vars = env::variables(pod, c, &services, &facts, &sources)?;
    let expand = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|t| env::expand(t, |n| vars.get(n).cloned())).collect()
    };
    let (command, args) = (expand(&c.command), expand(&c.args));
    let security = security(k, order, c, &image).await?;
    let mounts = mounts(k, order, c, &vars)?;
    let uid = pod.metadata.uid.as_deref().unwrap_or("");
    let mut labels = sandbox::labels(pod);
    labels.insert(CONTAINER_NAME.into(), c.name.clone());
    let policy = c.termination_message_policy.clone().unwrap_or_else(|| "File".into());
    let annotations = Map::from([(HASH.into(), spec::hash(c).to_string()), (MESSAGE_POLICY.into(), policy)]);
    let logs = k.pod_logs(pod).join(&c.name);
    std::fs::create_dir_all(&logs).map_err(|e| format!("make directory {}: {e}", logs.display()))?;
    let _ = uid;
    Ok(ContainerConfig {
        name: c.name.clone(),
        attempt: order.attempt,
        image,
        user_image: c.image.clone().unwrap_or_default(),
        command,
        args,
        working_dir: c.working_dir.clone().unwrap_or_default(),
        env: vars.into_iter().collect(),
        mounts,
        devices: devices(order, c)?,
        labels,
        annotations,
        log_path: format!("{}/{}.log", c.name, order.attempt),
        stdin: c.stdin == Some(true),
        stdin_once: c.stdin_once == Some(true),
        tty: c.tty == Some(true),
        resources: limits(k, pod, c),
        security,
        stop_signal: c.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()),
    })
}

/// The cgroup settings of a container.
pub fn limits(k: &Kubelet, pod: &Pod, c: &Container) -> Resources {
    let cgroup = resources::container_cgroup(c);
    let memory = i64::try_from(k.machine.memory).unwrap_or(i64::MAX);
    let score = pod.spec.as_ref().map(|s| resources::oom_score(s, c, memory));
    Resources {
        cpu_shares: Some(cgroup.cpu_shares),
        cpu_quota: Some(k.options.size.quota(cgroup.cpu_quota).unwrap_or(-1)),
        cpu_period: Some(cgroup.cpu_period),
        memory_limit: Some(cgroup.memory_limit.unwrap_or(0)),
        memory_swap_limit: cgroup.memory_limit,
        oom_score_adj: score,
        ..Resources::default()
    }
}

async fn security(k: &Kubelet, order: &Order, c: &Container, image: &str) -> Result<SecurityContext, String> {
    let pod_spec = order.pod.spec.clone().unwrap_or_default();
    let whole = pod_spec.security_context.clone().unwrap_or_default();
    let own = c.security_context.clone().unwrap_or_default();
    let user = own.run_as_user.or(whole.run_as_user);
    let mut as_user = user;
    if own.run_as_non_root.or(whole.run_as_non_root) == Some(true) {
        let found = k.runtime.image_status(image).await.ok().flatten().unwrap_or_default();
        let named = found.username;
        match user.or(found.uid.filter(|_| named.is_empty())) {
            Some(0) => {
                return Err("container has runAsNonRoot and image will run as root".into());
            }
            None if !named.is_empty() && user.is_none() => {
                return Err(format!(
                    "container has runAsNonRoot and image has non-numeric user ({named}), cannot verify user is non-root"
                ));
            }
            None => return Err("container has runAsNonRoot and image will run as root".into()),
            found => as_user = user.or(found.filter(|_| user.is_some())),
        }
    }
    let privileged = own.privileged == Some(true);
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked") || privileged;
    let paths =
        |list: &[&str]| if unmasked { Vec::new() } else { list.iter().map(|p| (*p).to_string()).collect() };
    let mut groups = whole.supplemental_groups.clone().unwrap_or_default();
    groups.extend(whole.fs_group);
    groups.extend(order.volumes.groups.iter().map(|g| i64::from(*g)));
    let capabilities = own.capabilities.clone().unwrap_or_default();
    let mut namespaces = sandbox::namespaces(k, &order.pod)?;
    let target = pod_spec
        .ephemeral_containers
        .iter()
        .flatten()
        .find(|e| e.name == c.name)
        .and_then(|e| order.ids.get(e.target_container_name.as_deref()?));
    if let Some(target) = target {
        namespaces.pid = NamespaceMode::Target;
        namespaces.target = target.clone();
    }
    Ok(SecurityContext {
        run_as_user: as_user,
        run_as_group: own.run_as_group.or(whole.run_as_group),
        run_as_username: None,
        supplemental_groups: groups,
        groups_policy: match whole.supplemental_groups_policy.as_deref() {
            Some("Strict") => GroupsPolicy::Strict,
            _ => GroupsPolicy::Merge,
        },
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        privileged,
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        no_new_privs: no_new_privs(&own),
        seccomp: seccomp(k, &own, whole.seccomp_profile.as_ref()),
        masked_paths: paths(DEFAULT_MASKED_PATHS),
        readonly_paths: paths(DEFAULT_READONLY_PATHS),
        namespaces,
    })
}

fn no_new_privs(own: &PodSecurity) -> bool {
    let admin = own.capabilities.as_ref().and_then(|c| c.add.as_deref()).unwrap_or_default();
    let admin = admin.iter().any(|c| c == "SYS_ADMIN" || c == "CAP_SYS_ADMIN");
    own.allow_privilege_escalation == Some(false) && own.privileged != Some(true) && !admin
}

fn seccomp(
    k: &Kubelet,
    own: &PodSecurity,
    whole: Option<&k8s_openapi::api::core::v1::SeccompProfile>,
) -> SeccompProfile {
    if own.privileged == Some(true) {
        return SeccompProfile::Unconfined;
    }
    let Some(profile) = own.seccomp_profile.as_ref().or(whole) else { return SeccompProfile::Unconfined };
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("RuntimeDefault", _) => SeccompProfile::RuntimeDefault,
        ("Localhost", Some(file)) => {
            SeccompProfile::Localhost(k.options.data_dir.join("seccomp").join(file.trim_start_matches('/')))
        }
        _ => SeccompProfile::Unconfined,
    }
}

fn mounts(
    k: &Kubelet,
    order: &Order,
    c: &Container,
    vars: &BTreeMap<String, String>,
) -> Result<Vec<Mount>, String> {
    let uid = order.pod.metadata.uid.as_deref().unwrap_or("");
    let dir = k.pod_dir(uid);
    let mut list = Vec::new();
    for (i, m) in c.volume_mounts.iter().flatten().enumerate() {
        list.push(mount(order, c, (i, m), vars, &dir)?);
    }
    let taken = |path: &str| list_has(c, path);
    for file in ["hosts", "hostname", "resolv.conf"] {
        let at = &format!("/etc/{file}");
        if !taken(at) && dir.join(file).exists() {
            let (host_path, container_path) = (dir.join(file), PathBuf::from(at));
            list.push(Mount { host_path, container_path, ..Mount::default() });
        }
    }
    let at = c.termination_message_path.clone().filter(|p| !p.is_empty());
    let at = at.unwrap_or_else(|| "/dev/termination-log".into());
    let file = message_file(&dir, &c.name, order.attempt);
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent).map_err(|e| format!("make directory {}: {e}", parent.display()))?;
    }
    std::fs::write(&file, "").map_err(|e| format!("write {}: {e}", file.display()))?;
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(&file, open).map_err(|e| format!("set mode of {}: {e}", file.display()))?;
    list.push(Mount { host_path: file, container_path: at.into(), ..Mount::default() });
    Ok(list)
}

/// The devices that volumes of mode Block are.
fn devices(order: &Order, c: &Container) -> Result<Vec<Device>, String> {
    let spec = order.pod.spec.as_ref();
    let volumes = spec.and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    let device = |d: &VolumeDevice| {
        let host_path = order.volumes.devices.get(&d.name).cloned();
        let host_path = host_path.ok_or_else(|| format!("volume {} is not mapped", d.name))?;
        let claim =
            volumes.iter().find(|v| v.name == d.name).and_then(|v| v.persistent_volume_claim.as_ref());
        let readonly = claim.is_some_and(|c| c.read_only == Some(true));
        let permissions = if readonly { "r" } else { "mrw" };
        Ok(Device {
            host_path,
            container_path: d.device_path.clone().into(),
            permissions: permissions.into(),
        })
    };
    c.volume_devices.iter().flatten().map(device).collect()
}

fn list_has(c: &Container, path: &str) -> bool {
    c.volume_mounts.iter().flatten().any(|m| m.mount_path.trim_end_matches('/') == path)
}

fn mount(
    order: &Order,
    c: &Container,
    (index, m): (usize, &VolumeMount),
    vars: &BTreeMap<String, String>,
    pod_dir: &Path,
) -> Result<Mount, String> {
    let volumes = order.pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    let volume = volumes.iter().find(|v| v.name == m.name);
    let volume = volume.ok_or_else(|| format!("volume {} of a mount is not in the pod", m.name))?;
    let readonly = m.read_only == Some(true)
        || volume.persistent_volume_claim.as_ref().is_some_and(|c| c.read_only == Some(true))
        || volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some();
    let container_path = if m.mount_path.starts_with('/') {
        PathBuf::from(&m.mount_path)
    } else {
        Path::new("/").join(&m.mount_path)
    };
    let sub = match (&m.sub_path, &m.sub_path_expr) {
        (Some(s), _) if !s.is_empty() => s.clone(),
        (_, Some(e)) if !e.is_empty() => {
            let missing = std::cell::Cell::new(false);
            let text = env::expand(e, |n| {
                let found = vars.get(n).cloned();
                missing.set(missing.get() || found.is_none());
                found
            });
            if missing.get() {
                return Err(format!("subPathExpr {e:?} names a variable that is not set"));
            }
            text
        }
        _ => String::new(),
    };
    let mut mount = Mount {
        container_path,
        readonly,
        recursive_readonly: readonly
            && matches!(m.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
        propagation: match m.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::Private,
        },
        ..Mount::default()
    };
    if let Some(image) = &volume.image {
        mount.image = image.reference.clone();
        mount.image_sub_path = sub;
        mount.readonly = true;
        return Ok(mount);
    }
    let root = order.volumes.paths.get(&m.name).ok_or_else(|| format!("volume {} is not mounted", m.name))?;
    mount.host_path = if sub.is_empty() {
        root.clone()
    } else {
        let target = pod_dir.join("volume-subpaths").join(&m.name).join(&c.name).join(index.to_string());
        volumes::mounts::undo(&target).map_err(|e| e.to_string())?;
        volumes::subpath::bind(root, &sub, &target).map_err(|e| {
            format!(
                "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {e}",
                m.name, c.name
            )
        })?;
        target
    };
    Ok(mount)
}
