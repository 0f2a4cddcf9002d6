//! The Node object: registration, lease, capacity, conditions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use client::{Error, Patch, WriteOptions};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use oci::runtime::RuntimeStatus;
use serde_json::json;

use crate::facts;
use crate::kubelet::Kubelet;

/// Between renewals of the lease.
const LEASE_PERIOD: Duration = Duration::from_secs(10);
/// How long the lease holds, in seconds.
const LEASE_SECONDS: i32 = 40;
/// Renewals between status reports when nothing changes: five minutes.
const REPORT_EVERY: u32 = 30;

/// Registers, then renews the lease for ever and reports what changed.
pub async fn run(k: Arc<Kubelet>) {
    let mut delay = Duration::from_millis(100);
    while let Err(error) = register(&k).await {
        tracing::warn!(error = %error.chain(), "the node is not registered yet");
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(Duration::from_secs(7));
    }
    tracing::info!(node = k.options.name, addresses = k.options.ip_texts().join(","), "registered");
    k.events.node(&k.options.name, false, "Starting", "Starting kubelet.".into());
    let mut silent = 0_u32;
    let mut lease: Option<Lease> = None;
    let mut reported: Option<NodeStatus> = None;
    let mut beats = 0;
    loop {
        let status = status(&k, reported.as_ref()).await;
        if beats % REPORT_EVERY == 0 || reported.as_ref().is_none_or(|r| differs(r, &status)) {
            match report(&k, &status).await {
                Ok(()) => reported = Some(status),
                Err(error) if error.is_not_found() => {
                    let _ = register(&k).await;
                }
                Err(error) => tracing::warn!(error = %error.chain(), "the node's status was not reported"),
            }
        }
        beats += 1;
        match renew(&k, lease.take()).await {
            Ok(renewed) => {
                if silent > 0 {
                    tracing::info!(missed = silent, "the API server answers again");
                }
                (lease, silent) = (Some(renewed), 0);
            }
            Err(error) => {
                silent += 1;
                tracing::warn!(error = %error.chain(), "the node's lease was not renewed; pods and Services go on");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LEASE_PERIOD) => {}
            // The lease is renewed early; that does no harm.
            () = k.pressed.notified() => {}
        }
    }
}

/// Whether anything but the heartbeat differs.
fn differs(old: &NodeStatus, new: &NodeStatus) -> bool {
    let plain = |s: &NodeStatus| {
        let mut s = s.clone();
        for c in s.conditions.iter_mut().flatten() {
            c.last_heartbeat_time = None;
        }
        s
    };
    plain(old) != plain(new)
}

async fn register(k: &Kubelet) -> Result<(), Error> {
    let o = &k.options;
    let mut labels = o.labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", o.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", k.machine.arch.as_str()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", k.machine.arch.as_str()),
    ] {
        labels.insert(key.into(), value.into());
    }
    let mut annotations = o.annotations.clone();
    annotations.insert("volumes.kubernetes.io/controller-managed-attach-detach".into(), Some("true".into()));
    let status = status(k, None).await;
    let node = Node {
        metadata: ObjectMeta {
            name: Some(o.name.clone()),
            labels: Some(labels.clone()),
            annotations: Some(
                annotations.iter().filter_map(|(k, v)| Some((k.clone(), v.clone()?))).collect(),
            ),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: (!o.taints.is_empty()).then(|| o.taints.clone()),
            provider_id: o.provider_id.clone(),
            pod_cidr: o.pod_cidr.clone(),
            pod_cidrs: o.pod_cidr.clone().map(|c| vec![c]),
            ..NodeSpec::default()
        }),
        status: Some(status),
    };
    let made = match k.client.create(&node).await {
        Ok(made) => made,
        Err(e) if e.is_already_exists() => {
            let patch =
                Patch::Strategic(json!({ "metadata": { "labels": labels, "annotations": annotations } }));
            k.client.patch::<Node>("", &o.name, &patch, &WriteOptions::default()).await?
        }
        Err(e) => return Err(e),
    };
    *k.node.lock() = Some(made);
    Ok(())
}

async fn report(k: &Kubelet, status: &NodeStatus) -> Result<(), Error> {
    let mut value = client::to_value(status)?;
    if let Some(list) = value.get_mut("addresses").and_then(|a| a.as_array_mut()) {
        list.insert(0, json!({ "$patch": "replace" }));
    }
    let patch = Patch::Strategic(json!({ "status": value }));
    let node = k.client.patch_status::<Node>("", &k.options.name, &patch).await?;
    *k.node.lock() = Some(node);
    Ok(())
}

async fn renew(k: &Kubelet, lease: Option<Lease>) -> Result<Lease, Error> {
    const NAMESPACE: &str = "kube-node-lease";
    let name = &k.options.name;
    let now = Some(MicroTime(Timestamp::now()));
    let known = match lease {
        Some(lease) => Some(lease),
        None => k.client.find::<Lease>(NAMESPACE, name).await?,
    };
    if let Some(mut lease) = known {
        let spec = lease.spec.get_or_insert_default();
        spec.renew_time = now;
        spec.holder_identity = Some(name.clone());
        spec.lease_duration_seconds = Some(LEASE_SECONDS);
        return k.client.update(&lease).await;
    }
    let node = k.node.lock().clone().unwrap_or_default();
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.clone(),
        uid: node.metadata.uid.unwrap_or_default(),
        ..OwnerReference::default()
    };
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(NAMESPACE.into()),
            owner_references: (!owner.uid.is_empty()).then(|| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: now,
            ..LeaseSpec::default()
        }),
    };
    k.client.create(&lease).await
}

/// What the node has.
fn capacity(k: &Kubelet) -> BTreeMap<String, Quantity> {
    let disk = volumes::scan::file_system(&k.options.data_dir).map_or(0, |f| f[1]);
    BTreeMap::from([
        ("cpu".into(), Quantity(k.machine.cpus.to_string())),
        ("memory".into(), Quantity(format!("{}Ki", k.machine.memory / 1024))),
        ("ephemeral-storage".into(), Quantity(format!("{}Ki", disk / 1024))),
        ("pods".into(), Quantity(k.options.max_pods.to_string())),
        ("hugepages-1Gi".into(), Quantity("0".into())),
        ("hugepages-2Mi".into(), Quantity("0".into())),
    ])
}

/// What pods may use of it.
fn allocatable(k: &Kubelet) -> BTreeMap<String, Quantity> {
    let mut list = capacity(k);
    let memory = k.machine.memory.saturating_sub(100 << 20);
    list.insert("memory".into(), Quantity(format!("{}Ki", memory / 1024)));
    let disk = volumes::scan::file_system(&k.options.data_dir).map_or(0, |f| f[1]);
    list.insert("ephemeral-storage".into(), Quantity((disk - disk / 10).to_string()));
    list
}

/// Allocatable amounts in thousandths.
pub fn allocatable_milli(k: &Kubelet) -> BTreeMap<String, i128> {
    let each = allocatable(k).into_iter();
    each.filter_map(|(name, q)| Some((name, pods::quantity::milli(&q.0)?))).collect()
}

async fn status(k: &Kubelet, old: Option<&NodeStatus>) -> NodeStatus {
    let runtime = k.runtime.status().await;
    let conditions = conditions(k, &runtime, old);
    let (handlers, features) = runtime_features(runtime.ok());
    let images = images(k).await;
    let port = i32::from(*k.port.lock());
    let o = &k.options;
    let mut addresses: Vec<NodeAddress> =
        o.ips.iter().map(|ip| NodeAddress { type_: "InternalIP".into(), address: ip.to_string() }).collect();
    addresses.push(NodeAddress { type_: "Hostname".into(), address: o.name.clone() });
    let m = &k.machine;
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(capacity(k)),
        allocatable: Some(allocatable(k)),
        conditions: Some(conditions),
        daemon_endpoints: Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port }) }),
        node_info: Some(NodeSystemInfo {
            architecture: m.arch.clone(),
            boot_id: m.boot_id.clone(),
            container_runtime_version: format!("{}://{}", k.runtime_name, k.runtime_version),
            kernel_version: m.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: base::KUBERNETES_VERSION.into(),
            machine_id: m.machine_id.clone(),
            operating_system: "linux".into(),
            os_image: m.os_image.clone(),
            system_uuid: m.system_uuid.clone(),
            ..NodeSystemInfo::default()
        }),
        images: Some(images),
        runtime_handlers: handlers,
        features,
        ..NodeStatus::default()
    }
}

/// The 50 largest images.
async fn images(k: &Kubelet) -> Vec<ContainerImage> {
    let mut list = k.runtime.list_images().await.unwrap_or_default();
    list.sort_by_key(|i| std::cmp::Reverse(i.size));
    list.into_iter()
        .take(50)
        .map(|i| ContainerImage {
            names: Some(i.digests.into_iter().chain(i.tags).take(5).collect()),
            size_bytes: i64::try_from(i.size).ok(),
        })
        .collect()
}

/// What is free of memory and disk now.
pub fn readings(k: &Kubelet) -> Vec<pods::threshold::Reading> {
    use pods::threshold::{Reading, Signal};
    let mut list = vec![Reading {
        signal: Signal::Memory,
        available: k.options.size.available(&k.options.cgroup_root),
        capacity: k.machine.memory,
    }];
    let disks = [
        (Some(&k.options.data_dir), Signal::NodeFs, Signal::NodeFsInodes),
        (k.image_path.get(), Signal::ImageFs, Signal::ImageFsInodes),
    ];
    for (path, bytes, inodes) in disks {
        if let Some([free, all, inodes_free, inodes_all]) = path.and_then(|p| volumes::scan::file_system(p)) {
            list.push(Reading { signal: bytes, available: free, capacity: all });
            list.push(Reading { signal: inodes, available: inodes_free, capacity: inodes_all });
        }
    }
    let most = facts::pid_max();
    list.push(Reading {
        signal: Signal::Pid,
        available: most.saturating_sub(facts::processes()),
        capacity: most,
    });
    list
}

/// What the runtime can do, as pods and people ask for it.
fn runtime_features(
    status: Option<RuntimeStatus>,
) -> (Option<Vec<NodeRuntimeHandler>>, Option<NodeFeatures>) {
    let Some(status) = status else { return (None, None) };
    let one = |h: oci::runtime::Handler| NodeRuntimeHandler {
        name: Some(h.name),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(h.recursive_readonly),
            user_namespaces: Some(h.user_namespaces),
        }),
    };
    let features = NodeFeatures { supplemental_groups_policy: Some(status.groups_policy) };
    (Some(status.handlers.into_iter().map(one).collect()), Some(features))
}

fn conditions(
    k: &Kubelet,
    runtime: &Result<RuntimeStatus, oci::runtime::Error>,
    old: Option<&NodeStatus>,
) -> Vec<NodeCondition> {
    let low = k.pressures();
    let stops = k.shutting_down.load(Ordering::Acquire);
    let why = match runtime {
        _ if stops => Some("node is shutting down".to_owned()),
        Ok(s) if s.ready && s.network_ready => None,
        Ok(s) => Some(s.message.clone()),
        Err(e) => Some(e.to_string()),
    };
    let pressure = |kind: &str, word: &str| {
        let on = low.contains(&kind);
        let (reason, message) = match on {
            true => {
                (format!("KubeletHas{word}Pressure"), format!("kubelet has {} pressure", word.to_lowercase()))
            }
            false => (no_reason(kind).to_string(), no_message(kind).to_string()),
        };
        (kind.to_string(), on, reason, message)
    };
    let mut memory = pressure("MemoryPressure", "InsufficientMemory");
    if memory.1 {
        memory.2 = "KubeletHasInsufficientMemory".into();
        memory.3 = "kubelet has insufficient memory available".into();
    }
    let ready = match why {
        None => ("Ready".into(), true, "KubeletReady".into(), "kubelet is posting ready status".into()),
        Some(why) => {
            let message = if stops { why } else { format!("container runtime is not ready: {why}") };
            ("Ready".into(), false, "KubeletNotReady".into(), message)
        }
    };
    let now = Timestamp::now();
    let list = [memory, pressure("DiskPressure", "Disk"), pressure("PIDPressure", "PID"), ready];
    list.into_iter().map(|c| condition(c, old, now)).collect()
}

fn no_reason(kind: &str) -> &'static str {
    match kind {
        "MemoryPressure" => "KubeletHasSufficientMemory",
        "DiskPressure" => "KubeletHasNoDiskPressure",
        _ => "KubeletHasSufficientPID",
    }
}

fn no_message(kind: &str) -> &'static str {
    match kind {
        "MemoryPressure" => "kubelet has sufficient memory available",
        "DiskPressure" => "kubelet has no disk pressure",
        _ => "kubelet has sufficient PID available",
    }
}

fn condition(
    (kind, on, reason, message): (String, bool, String, String),
    old: Option<&NodeStatus>,
    now: Timestamp,
) -> NodeCondition {
    let status = if on { "True" } else { "False" };
    let before = old.and_then(|o| o.conditions.as_ref()).into_iter().flatten();
    let same = before.into_iter().find(|c| c.type_ == kind && c.status == status);
    NodeCondition {
        last_transition_time: same.and_then(|c| c.last_transition_time.clone()).or(Some(Time(now))),
        last_heartbeat_time: Some(Time(now)),
        type_: kind,
        status: status.into(),
        reason: Some(reason),
        message: Some(message),
    }
}
