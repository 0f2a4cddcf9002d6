//! Questions about a Pod's spec: which containers it has, of which sort, and whether they restart.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

/// The sort of a container within its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Runs to completion before the regular ones.
    Init,
    /// An init container that keeps running beside the regular ones.
    Sidecar,
    /// A container of `spec.containers`.
    Regular,
    /// Added to a running pod, never restarted.
    Ephemeral,
}

/// What a container's exit means for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Start it again.
    Restart,
    /// Leave it.
    Stay,
    /// Start every container of the pod again.
    RestartAll,
}

/// Whether an init container is a sidecar.
pub fn is_sidecar(init: &Container) -> bool {
    init.restart_policy.as_deref() == Some("Always")
}

/// The init containers, none when absent.
pub fn inits(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

/// The ephemeral containers in the shape of regular ones.
pub fn ephemerals(spec: &PodSpec) -> Vec<Container> {
    let list = spec.ephemeral_containers.as_deref().unwrap_or_default();
    list.iter()
        .map(|e| Container {
            name: e.name.clone(),
            image: e.image.clone(),
            image_pull_policy: e.image_pull_policy.clone(),
            command: e.command.clone(),
            args: e.args.clone(),
            working_dir: e.working_dir.clone(),
            env: e.env.clone(),
            env_from: e.env_from.clone(),
            volume_mounts: e.volume_mounts.clone(),
            volume_devices: e.volume_devices.clone(),
            security_context: e.security_context.clone(),
            stdin: e.stdin,
            stdin_once: e.stdin_once,
            tty: e.tty,
            termination_message_path: e.termination_message_path.clone(),
            termination_message_policy: e.termination_message_policy.clone(),
            ports: e.ports.clone(),
            resources: e.resources.clone(),
            ..Container::default()
        })
        .collect()
}

/// Every container with its sort, in the order of start.
pub fn all(spec: &PodSpec) -> Vec<(Sort, Container)> {
    let init =
        inits(spec).iter().map(|c| (if is_sidecar(c) { Sort::Sidecar } else { Sort::Init }, c.clone()));
    let regular = spec.containers.iter().map(|c| (Sort::Regular, c.clone()));
    let ephemeral = ephemerals(spec).into_iter().map(|c| (Sort::Ephemeral, c));
    init.chain(regular).chain(ephemeral).collect()
}

/// The container of this name and its sort.
pub fn find(spec: &PodSpec, name: &str) -> Option<(Sort, Container)> {
    all(spec).into_iter().find(|(_, c)| c.name == name)
}

/// The pod's restart policy.
pub fn restart_policy(spec: &PodSpec) -> &str {
    spec.restart_policy.as_deref().unwrap_or("Always")
}

/// What an exit of `container` (an init or regular one) with this code leads to.
pub fn on_exit(spec: &PodSpec, container: &Container, code: i32) -> Verdict {
    for rule in container.restart_policy_rules.as_deref().unwrap_or_default() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.as_deref().unwrap_or_default().contains(&code);
        let hit = if codes.operator == "NotIn" { !listed } else { listed };
        if hit {
            return if rule.action == "RestartAllContainers" {
                Verdict::RestartAll
            } else {
                Verdict::Restart
            };
        }
    }
    let init = inits(spec).iter().any(|c| c.name == container.name);
    let policy = container.restart_policy.as_deref().unwrap_or(restart_policy(spec));
    match policy {
        "Never" => Verdict::Stay,
        "OnFailure" if code == 0 => Verdict::Stay,
        "Always" if init && !is_sidecar(container) && code == 0 => Verdict::Stay,
        _ => Verdict::Restart,
    }
}

/// Whether the container starts again after this exit.
pub fn restarts(spec: &PodSpec, container: &Container, code: i32) -> bool {
    on_exit(spec, container, code) != Verdict::Stay
}

/// A fingerprint of what may not change under a running container: its name and image.
pub fn hash(container: &Container) -> u64 {
    let text = [container.name.as_bytes(), &[0], container.image.as_deref().unwrap_or("").as_bytes()];
    text.concat().iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

/// Whether the pod's network is the node's.
pub fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_network) == Some(true)
}

/// The seconds of `terminationGracePeriodSeconds`, 30 when unset.
pub fn grace_seconds(spec: &PodSpec) -> i64 {
    spec.termination_grace_period_seconds.unwrap_or(30)
}

/// `name_namespace(uid)`, as messages print a pod.
pub fn describe(pod: &Pod) -> String {
    let m = &pod.metadata;
    format!(
        "{}_{}({})",
        m.name.as_deref().unwrap_or(""),
        m.namespace.as_deref().unwrap_or(""),
        m.uid.as_deref().unwrap_or("")
    )
}
