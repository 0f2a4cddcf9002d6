//! Makes a pod's sandbox and plugs it into the network.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::api::node::v1::RuntimeClass;
use oci::runtime::{DnsConfig, Map, NamespaceMode, NamespaceOptions, SandboxConfig, SandboxMetadata};
use pods::dns;

use crate::cgroups;
use crate::kubelet::Kubelet;
use crate::observe::{POD_NAME, POD_NAMESPACE, POD_UID, ips_file};

/// The labels on everything that belongs to a pod.
pub fn labels(pod: &Pod) -> Map {
    let m = &pod.metadata;
    let text = |v: &Option<String>| v.clone().unwrap_or_default();
    let mut labels: Map = m.labels.clone().unwrap_or_default();
    labels.insert(POD_NAME.into(), text(&m.name));
    labels.insert(POD_NAMESPACE.into(), text(&m.namespace));
    labels.insert(POD_UID.into(), text(&m.uid));
    labels
}

/// Which namespaces the pod shares; whose ids it has.
pub fn namespaces(k: &Kubelet, pod: &Pod) -> Result<NamespaceOptions, String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let user = match spec.host_users {
        Some(false) => {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            Some(k.users.of(uid).map_err(|e| format!("create user namespace: {e}"))?)
        }
        _ => None,
    };
    let host = |on: Option<bool>| if on == Some(true) { NamespaceMode::Host } else { NamespaceMode::Pod };
    Ok(NamespaceOptions {
        network: host(spec.host_network),
        ipc: host(spec.host_ipc),
        pid: match (spec.host_pid, spec.share_process_namespace) {
            (Some(true), _) => NamespaceMode::Host,
            (_, Some(true)) => NamespaceMode::Pod,
            _ => NamespaceMode::Container,
        },
        user,
        ..NamespaceOptions::default()
    })
}

/// The handler that the pod's RuntimeClass names.
async fn handler(k: &Kubelet, spec: &PodSpec) -> Result<String, String> {
    let handler = match spec.runtime_class_name.as_deref().filter(|name| !name.is_empty()) {
        None => String::new(),
        Some(name) => {
            let found = k.client.find::<RuntimeClass>("", name).await;
            let found = found.map_err(|e| format!("read RuntimeClass {name:?}: {}", e.chain()))?;
            found.ok_or_else(|| format!("RuntimeClass {name:?} not found"))?.handler
        }
    };
    if spec.host_users == Some(false) && !maps_ids(k, &handler).await? {
        return Err(match handler.as_str() {
            "" => "can't set `spec.hostUsers: false`, runtime does not support user namespaces".into(),
            name => format!(
                "can't set `spec.hostUsers: false`, RuntimeClass handler {name:?} does not support user namespaces"
            ),
        });
    }
    Ok(handler)
}

/// Whether the runtime gives user namespaces to pods of this handler.
async fn maps_ids(k: &Kubelet, handler: &str) -> Result<bool, String> {
    let status = k.runtime.status().await.map_err(|e| format!("ask the runtime what it can do: {e}"))?;
    Ok(status.handlers.iter().any(|h| h.name == handler && h.user_namespaces))
}

/// Whether any container is privileged.
fn privileged(spec: &PodSpec) -> bool {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut own = containers.map(|c| c.security_context.as_ref());
    let mut later = spec.ephemeral_containers.iter().flatten().map(|c| c.security_context.as_ref());
    own.by_ref().chain(later.by_ref()).flatten().any(|s| s.privileged == Some(true))
}

/// The pod's resolver, and warnings about it.
pub fn resolver(k: &Kubelet, pod: &Pod) -> (dns::Resolver, Vec<String>) {
    let host = std::fs::read_to_string(&k.options.resolv_conf).map(|t| dns::parse(&t)).unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
    dns::resolver(&spec, namespace, &k.options.cluster_dns, &k.options.cluster_domain, &host)
}

/// Makes the sandbox, the files every container gets, and the network.
pub async fn make(k: &Arc<Kubelet>, pod: &Pod, attempt: u32) -> Result<(), String> {
    let m = &pod.metadata;
    let text = |v: &Option<String>| v.clone().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    let uid = text(&m.uid);
    let dir = k.pod_dir(&uid);
    std::fs::create_dir_all(dir.join("containers"))
        .map_err(|e| format!("make directory {}: {e}", dir.display()))?;
    let logs = k.pod_logs(pod);
    std::fs::create_dir_all(&logs).map_err(|e| format!("make directory {}: {e}", logs.display()))?;
    let (hostname, fqdn) =
        dns::hostname(&spec, &text(&m.name), &text(&m.namespace), &k.options.cluster_domain);
    let on_host = spec.host_network == Some(true);
    let (resolver, warnings) = resolver(k, pod);
    for warning in warnings {
        k.events.pod(pod, None, true, "DNSConfigForming", warning);
    }
    // What the kernel of the pod calls it.
    let full = fqdn.as_ref().filter(|_| spec.set_hostname_as_fqdn == Some(true));
    let name = full.unwrap_or(&hostname).clone();
    let config = SandboxConfig {
        metadata: SandboxMetadata {
            name: text(&m.name),
            uid: uid.clone(),
            namespace: text(&m.namespace),
            attempt,
        },
        hostname: if on_host { String::new() } else { name.clone() },
        log_directory: logs,
        dns: DnsConfig {
            servers: resolver.servers.clone(),
            searches: resolver.searches.clone(),
            options: resolver.options.clone(),
        },
        labels: labels(pod),
        annotations: m.annotations.clone().unwrap_or_default(),
        cgroup_parent: cgroups::path(&k.options, pod),
        sysctls: sysctls(pod),
        runtime_handler: handler(k, &spec).await?,
        namespaces: namespaces(k, pod)?,
        privileged: privileged(&spec),
    };
    cgroups::make(&k.options, pod);
    let made = k.runtime.run_sandbox(config).await.map_err(|e| e.to_string())?;
    let ips = match plug(k, pod, &made, on_host).await {
        Ok(ips) => ips,
        Err(error) => {
            let _ = k.network.detach(&uid).await;
            if let Err(e) = k.runtime.remove_sandbox(&made.id).await {
                tracing::warn!(error = %e, sandbox = %made.id, "a sandbox without network is left");
            }
            return Err(error);
        }
    };
    let aliases = spec.host_aliases.clone().unwrap_or_default();
    let hosts = if on_host {
        dns::host_hosts(&std::fs::read_to_string("/etc/hosts").unwrap_or_default(), &aliases)
    } else {
        dns::hosts(&ips, &hostname, fqdn.as_deref(), &aliases)
    };
    let own_name = match on_host {
        true => std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default(),
        false => format!("{name}\n"),
    };
    let kept = format!("{} {}\n", made.id, ips.join(" "));
    let files = [
        (dir.join("hosts"), hosts),
        (dir.join("hostname"), own_name),
        (dir.join("resolv.conf"), dns::render(&resolver)),
        (ips_file(&dir), kept),
    ];
    for (path, text) in files {
        std::fs::write(&path, text).map_err(|e| format!("write {}: {e}", path.display()))?;
    }
    Ok(())
}

async fn plug(
    k: &Arc<Kubelet>,
    pod: &Pod,
    made: &oci::runtime::Sandbox,
    on_host: bool,
) -> Result<Vec<String>, String> {
    if on_host {
        return Ok(k.options.ip_texts());
    }
    if !made.ips.is_empty() {
        return Ok(made.ips.iter().map(ToString::to_string).collect());
    }
    let Some(netns) = &made.netns else { return Err("the sandbox has no network namespace".into()) };
    let ips = k.network.attach(netns, pod).await?;
    Ok(ips.iter().map(ToString::to_string).collect())
}

fn sysctls(pod: &Pod) -> Map {
    let security = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let list = security.and_then(|s| s.sysctls.as_deref()).unwrap_or_default();
    list.iter().map(|s| (s.name.clone(), s.value.clone())).collect()
}
