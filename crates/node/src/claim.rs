//! From a pod's claim to what is mounted for it.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use volumes::device::Device;
use volumes::setup::Source;

use crate::kubelet::Kubelet;

/// The volume behind a claim.
#[derive(Debug, Clone)]
pub struct Found {
    /// The volume's name.
    pub volume: String,
    /// Where its data are.
    pub source: Source,
    /// A device of the node rather than a directory.
    pub block: bool,
    /// The group that its annotation gives to the pod.
    pub group: Option<u32>,
}

/// The claim a pod's volume names, and whether it must be the pod's own.
pub fn name(pod: &Pod, v: &Volume) -> Option<(String, bool)> {
    let own = || format!("{}-{}", pod.metadata.name.as_deref().unwrap_or(""), v.name);
    match (&v.persistent_volume_claim, &v.ephemeral) {
        (Some(claim), _) => Some((claim.claim_name.clone(), false)),
        (None, Some(_)) => Some((own(), true)),
        (None, None) => None,
    }
}

/// Reads the claim and its volume. Errors are in upstream's words.
pub async fn find(k: &Kubelet, pod: &Pod, v: &Volume) -> Result<Found, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
    let Some((name, own)) = name(pod, v) else { return Err(format!("volume {} names no claim", v.name)) };
    let failed = |why: String| format!("error processing PVC {namespace}/{name}: {why}");
    let claim: PersistentVolumeClaim = k
        .client
        .get(namespace, &name)
        .await
        .map_err(|e| failed(format!("failed to fetch PVC from API server: {}", e.chain())))?;
    let uid = claim.metadata.uid.as_deref().unwrap_or("");
    let volume = usable(&claim).map_err(|why| failed(why.into()))?;
    let owners = claim.metadata.owner_references.iter().flatten();
    if own
        && !owners
            .into_iter()
            .any(|o| o.controller == Some(true) && Some(&o.uid) == pod.metadata.uid.as_ref())
    {
        let pod = pod.metadata.name.as_deref().unwrap_or("");
        return Err(format!(
            "PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"
        ));
    }
    let pv: PersistentVolume = k
        .client
        .get("", &volume)
        .await
        .map_err(|e| failed(format!("failed to fetch PV {volume} from API server: {}", e.chain())))?;
    let spec = pv.spec.unwrap_or_default();
    match spec.claim_ref.as_ref().map(|r| r.uid.as_deref().unwrap_or("")) {
        None => {
            return Err(failed(format!(
                "found PV object {volume} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
            )));
        }
        Some(other) if other != uid => {
            return Err(failed(format!(
                "found PV object {volume} but its pv.Spec.ClaimRef.UID {other} does not point to claim.UID {uid}"
            )));
        }
        Some(_) => {}
    }
    let block = spec.volume_mode.as_deref() == Some("Block");
    used_as(pod, &v.name, block)?;
    let gid = pv.metadata.annotations.as_ref().and_then(|a| a.get("pv.beta.kubernetes.io/gid"));
    let group = gid.and_then(|g| g.parse().ok());
    let source = match (spec.host_path, spec.local) {
        (Some(h), _) => Source::HostPath { path: h.path.into(), kind: h.type_.unwrap_or_default() },
        (None, Some(local)) if !block && is_device(&local.path) => Source::Device(Device {
            at: mounts_dir(&k.options.data_dir).join(&volume),
            device: local.path.into(),
            kind: local.fs_type.filter(|t| !t.is_empty()).unwrap_or_else(|| "ext4".into()),
            options: spec.mount_options.unwrap_or_default(),
        }),
        (None, Some(local)) => Source::Directory { path: local.path.into() },
        (None, None) => return Err(format!("PV {volume} has a source that this node does not support")),
    };
    Ok(Found { volume, source, block, group })
}

/// Where file systems of devices are mounted.
pub fn mounts_dir(data: &Path) -> PathBuf {
    data.join("plugins/kubernetes.io/local-volume/mounts")
}

/// Whether the path is a block device, or a link to one.
pub fn is_device(path: impl AsRef<Path>) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device())
}

/// The claim's volume, if pods may use it.
fn usable(claim: &PersistentVolumeClaim) -> Result<String, &'static str> {
    let guarded = claim.metadata.finalizers.iter().flatten().any(|f| f == "kubernetes.io/pvc-protection");
    if claim.metadata.deletion_timestamp.is_some() && !guarded {
        return Err("PVC is being deleted");
    }
    if claim.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Bound") {
        return Err("PVC is not bound");
    }
    let volume = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|v| !v.is_empty());
    volume.ok_or("PVC has empty pvc.Spec.VolumeName")
}

/// A device is not mounted, and a directory is no device.
fn used_as(pod: &Pod, volume: &str, block: bool) -> Result<(), String> {
    let (mounted, mapped) = uses(pod, volume);
    match (block, mounted, mapped) {
        (true, true, _) => {
            Err(format!("volume {volume} has volumeMode Block, but is specified in volumeMounts"))
        }
        (false, _, true) => {
            Err(format!("volume {volume} has volumeMode Filesystem, but is specified in volumeDevices"))
        }
        _ => Ok(()),
    }
}

/// Whether any container mounts the volume, and whether any has it as a device.
pub fn uses(pod: &Pod, volume: &str) -> (bool, bool) {
    let Some(spec) = &pod.spec else { return (false, false) };
    let plain = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let plain = plain.map(|c| (&c.volume_mounts, &c.volume_devices));
    let later = spec.ephemeral_containers.iter().flatten().map(|c| (&c.volume_mounts, &c.volume_devices));
    let (mut mounted, mut mapped) = (false, false);
    for (mounts, devices) in plain.chain(later) {
        mounted |= mounts.iter().flatten().any(|m| m.name == volume);
        mapped |= devices.iter().flatten().any(|d| d.name == volume);
    }
    (mounted, mapped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_volume_is_used_as_what_it_is() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [{
            "name": "c",
            "volumeMounts": [{"name": "files", "mountPath": "/f"}],
            "volumeDevices": [{"name": "disk", "devicePath": "/dev/d"}],
        }]}}))
        .expect("a pod");
        assert_eq!(
            (uses(&pod, "files"), uses(&pod, "disk"), uses(&pod, "spare")),
            ((true, false), (false, true), (false, false))
        );
        let told = |volume, block| used_as(&pod, volume, block).err().unwrap_or_default();
        assert_eq!(told("files", false), "");
        assert_eq!(told("disk", true), "");
        assert_eq!(
            told("files", true),
            "volume files has volumeMode Block, but is specified in volumeMounts"
        );
        assert_eq!(
            told("disk", false),
            "volume disk has volumeMode Filesystem, but is specified in volumeDevices"
        );
    }
}
