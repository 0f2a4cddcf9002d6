//! A pod's volumes: resolves what comes from the API, then has the crate `volumes` make them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, ServiceAccount, ServiceAccountTokenProjection, Volume,
};
use parking_lot::Mutex;
use pods::downward::{self, Facts};
use volumes::atomic::{File, Payload};
use volumes::setup::{Ownership, Source, set_up};

use crate::claim;
use crate::kubelet::Kubelet;

/// Where a pod's volumes are, and when tokens in them must be renewed.
#[derive(Debug, Clone, Default)]
pub struct Mounted {
    /// Volume name to path. Image volumes are absent: the runtime mounts them.
    pub paths: BTreeMap<String, PathBuf>,
    /// Volume name to device of the node.
    pub devices: BTreeMap<String, PathBuf>,
    /// Groups that volumes give to every container.
    pub groups: Vec<u32>,
    /// When to make them again because a token gets old.
    pub renew: Option<Timestamp>,
}

impl Mounted {
    /// Whether the volume is there.
    pub fn has(&self, volume: &str) -> bool {
        self.paths.contains_key(volume) || self.devices.contains_key(volume)
    }

    /// Whether a container uses a volume that is not there: one that came later does.
    pub fn lacks(&self, pod: &Pod) -> bool {
        let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        volumes
            .filter(|v| v.image.is_none() && !self.has(&v.name))
            .any(|v| claim::uses(pod, &v.name) != (false, false))
    }
}

/// Where devices are mounted, with the uids of the pods that use them.
pub type Devices = Arc<Mutex<BTreeMap<PathBuf, BTreeSet<String>>>>;

/// Tokens of one pod, kept between passes.
pub type Tokens = BTreeMap<String, (TokenRequest, Timestamp)>;

/// Makes or refreshes every volume that a container uses. What claims lead to is settled with the first mount.
pub async fn mount(
    k: &Kubelet,
    pod: &Pod,
    tokens: &mut Tokens,
    before: Option<Mounted>,
) -> Result<Mounted, String> {
    let mut mounted = Mounted { renew: None, ..before.clone().unwrap_or_default() };
    let Some(spec) = &pod.spec else { return Ok(mounted) };
    let uid = pod.metadata.uid.as_deref().unwrap_or("");
    let dir = k.pod_dir(uid);
    let security = spec.security_context.as_ref();
    let own = Ownership {
        group: security.and_then(|s| s.fs_group).and_then(|g| u32::try_from(g).ok()),
        on_mismatch: security.and_then(|s| s.fs_group_change_policy.as_deref()) == Some("OnRootMismatch"),
    };
    for v in spec.volumes.iter().flatten() {
        let unused = claim::uses(pod, &v.name) == (false, false);
        let settled = before.as_ref().is_some_and(|b| b.has(&v.name)) && claim::name(pod, v).is_some();
        if unused || settled || v.image.is_some() {
            continue;
        }
        let mut what = v.name.clone();
        let resolved = match claim::name(pod, v) {
            Some(_) => {
                let unmounted = |e: String| {
                    let name = &v.name;
                    format!(
                        "Unable to attach or mount volumes: unmounted volumes=[{name}], unattached volumes=[], failed to process volumes=[{name}]: {e}"
                    )
                };
                let found = claim::find(k, pod, v).await.map_err(unmounted)?;
                what.clone_from(&found.volume);
                mounted.groups.extend(found.group);
                if found.block {
                    let device = device(&found)
                        .map_err(|e| format!("MapVolume.SetUp failed for volume \"{what}\" : {e}"))?;
                    mounted.devices.insert(v.name.clone(), device);
                    continue;
                }
                Ok(found.source)
            }
            None => resolve(k, pod, v, tokens, &mut mounted.renew).await,
        };
        let failed = |e: String| format!("MountVolume.SetUp failed for volume \"{what}\" : {e}");
        let source = resolved.map_err(failed)?;
        let (dir, name) = (dir.clone(), v.name.clone());
        let stamp = Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%N").to_string();
        let shared = (k.devices.clone(), uid.to_owned());
        let work = move || {
            let Source::Device(d) = &source else { return set_up(&dir, &name, &source, own, &stamp) };
            // No one may take it away before this pod is known to use it.
            let mut devices = shared.0.lock();
            devices.entry(d.at.clone()).or_default().insert(shared.1);
            set_up(&dir, &name, &source, own, &stamp)
        };
        let made = tokio::task::spawn_blocking(work).await.map_err(|e| failed(e.to_string()))?;
        mounted.paths.insert(v.name.clone(), made.map_err(|e| failed(e.to_string()))?);
    }
    Ok(mounted)
}

/// The device a volume of mode Block is.
fn device(found: &claim::Found) -> Result<PathBuf, String> {
    let (Source::HostPath { path, .. } | Source::Directory { path }) = &found.source else {
        return Err("the volume is no device".into());
    };
    match claim::is_device(path) {
        true => Ok(path.clone()),
        false => Err(format!("{} is not a block device", path.display())),
    }
}

async fn resolve(
    k: &Kubelet,
    pod: &Pod,
    v: &Volume,
    tokens: &mut Tokens,
    renew: &mut Option<Timestamp>,
) -> Result<Source, String> {
    if let Some(e) = &v.empty_dir {
        let memory = e.medium.as_deref() == Some("Memory");
        let size = e
            .size_limit
            .as_ref()
            .and_then(|q| pods::quantity::value(&q.0))
            .and_then(|v| u64::try_from(v).ok());
        return Ok(Source::EmptyDir { memory, size: size.filter(|s| *s > 0) });
    }
    if let Some(h) = &v.host_path {
        let kind = h.type_.clone().unwrap_or_default();
        return Ok(Source::HostPath { path: h.path.clone().into(), kind });
    }
    let mut payload = Payload::new();
    if let Some(c) = &v.config_map {
        let mode = c.default_mode.unwrap_or(0o644);
        config_map(k, pod, &mut payload, (&c.name, c.items.as_deref(), c.optional == Some(true), mode))
            .await?;
        return Ok(Source::Files { payload, secret: false });
    }
    if let Some(s) = &v.secret {
        let name = s.secret_name.clone().unwrap_or_default();
        let mode = s.default_mode.unwrap_or(0o644);
        secret(k, pod, &mut payload, (&name, s.items.as_deref(), s.optional == Some(true), mode)).await?;
        return Ok(Source::Files { payload, secret: true });
    }
    if let Some(d) = &v.downward_api {
        let mode = d.default_mode.unwrap_or(0o644);
        downward_files(k, pod, &mut payload, d.items.as_deref().unwrap_or_default(), mode)?;
        return Ok(Source::Files { payload, secret: false });
    }
    if let Some(p) = &v.projected {
        let mode = p.default_mode.unwrap_or(0o644);
        for s in p.sources.iter().flatten() {
            if let Some(c) = &s.config_map {
                let part = (c.name.as_str(), c.items.as_deref(), c.optional == Some(true), mode);
                config_map(k, pod, &mut payload, part).await?;
            } else if let Some(c) = &s.secret {
                let part = (c.name.as_str(), c.items.as_deref(), c.optional == Some(true), mode);
                secret(k, pod, &mut payload, part).await?;
            } else if let Some(d) = &s.downward_api {
                downward_files(k, pod, &mut payload, d.items.as_deref().unwrap_or_default(), mode)?;
            } else if let Some(t) = &s.service_account_token {
                token(k, pod, &mut payload, t, mode, tokens, renew).await?;
            } else if s.cluster_trust_bundle.as_ref().is_some_and(|c| c.optional != Some(true)) {
                return Err("clusterTrustBundle projections are not supported".into());
            } else if s.pod_certificate.is_some() {
                return Err("podCertificate projections are not supported".into());
            }
        }
        return Ok(Source::Files { payload, secret: true });
    }
    Err("this kind of volume is not supported on this node".into())
}

type Part<'a> = (&'a str, Option<&'a [KeyToPath]>, bool, i32);

fn mode(bits: i32) -> u32 {
    u32::try_from(bits).unwrap_or(0o644) & 0o777
}

fn project(
    payload: &mut Payload,
    data: BTreeMap<String, Vec<u8>>,
    what: &str,
    (_, items, optional, default): Part<'_>,
) -> Result<(), String> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        let all = data.into_iter().map(|(k, data)| (k, File { data, mode: mode(default), uid: None }));
        payload.extend(all);
        return Ok(());
    };
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => {
                let file = File { data: bytes.clone(), mode: mode(item.mode.unwrap_or(default)), uid: None };
                payload.insert(item.path.clone(), file);
            }
            None if optional => {}
            None => return Err(format!("references non-existent {what} key: {}", item.key)),
        }
    }
    Ok(())
}

async fn config_map(k: &Kubelet, pod: &Pod, payload: &mut Payload, part: Part<'_>) -> Result<(), String> {
    let m = &pod.metadata;
    let (namespace, uid) = (m.namespace.as_deref().unwrap_or(""), m.uid.as_deref().unwrap_or(""));
    let found = k.refs.config_map(uid, namespace, part.0).await.map_err(|e| e.chain())?;
    let Some(map) = found else {
        return if part.2 { Ok(()) } else { Err(format!("configmap \"{}\" not found", part.0)) };
    };
    let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
    project(payload, text.chain(binary).collect(), "config", part)
}

async fn secret(k: &Kubelet, pod: &Pod, payload: &mut Payload, part: Part<'_>) -> Result<(), String> {
    let m = &pod.metadata;
    let (namespace, uid) = (m.namespace.as_deref().unwrap_or(""), m.uid.as_deref().unwrap_or(""));
    let found = k.refs.secret(uid, namespace, part.0).await.map_err(|e| e.chain())?;
    let Some(secret) = found else {
        return if part.2 { Ok(()) } else { Err(format!("secret \"{}\" not found", part.0)) };
    };
    let data = secret.data.iter().flatten().map(|(k, ByteString(v))| (k.clone(), v.clone()));
    project(payload, data.collect(), "secret", part)
}

fn downward_files(
    k: &Kubelet,
    pod: &Pod,
    payload: &mut Payload,
    items: &[DownwardAPIVolumeFile],
    default: i32,
) -> Result<(), String> {
    let hosts = k.options.ip_texts();
    let facts = facts(k, &[], &hosts);
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(f), _) => downward::field(pod, &f.field_path, &facts)?,
            (None, Some(r)) => downward::resource(pod, None, r, &facts)?,
            (None, None) => continue,
        };
        let file = File { data: text.into_bytes(), mode: mode(item.mode.unwrap_or(default)), uid: None };
        payload.insert(item.path.clone(), file);
    }
    Ok(())
}

/// The facts for the downward API on this node.
pub fn facts<'a>(k: &Kubelet, pod_ips: &'a [String], host_ips: &'a [String]) -> Facts<'a> {
    let have = crate::register::allocatable_milli(k);
    let of = |name: &str| have.get(name).copied().unwrap_or(0);
    Facts { pod_ips, host_ips, cpu: of("cpu"), memory: of("memory"), storage: of("ephemeral-storage") }
}

async fn token(
    k: &Kubelet,
    pod: &Pod,
    payload: &mut Payload,
    want: &ServiceAccountTokenProjection,
    default: i32,
    tokens: &mut Tokens,
    renew: &mut Option<Timestamp>,
) -> Result<(), String> {
    let audience = want.audience.clone().unwrap_or_default();
    let seconds = want.expiration_seconds.unwrap_or(3600);
    let key = format!("{audience}/{seconds}");
    let now = Timestamp::now();
    if tokens.get(&key).is_none_or(|(_, due)| *due <= now) {
        let request = request_token(k, pod, &audience, seconds).await;
        match request {
            Ok(fresh) => drop(tokens.insert(key.clone(), (fresh, due(now, seconds)))),
            // A token that still holds is better than none.
            Err(e) if tokens.contains_key(&key) => {
                tracing::warn!(error = e, "a service account token was not renewed");
                let soon = now.saturating_add(SignedDuration::from_secs(30)).unwrap_or(now);
                if let Some(kept) = tokens.get_mut(&key) {
                    kept.1 = soon;
                }
            }
            Err(e) => return Err(format!("failed to fetch token: {e}")),
        }
    }
    let Some((token, due)) = tokens.get(&key) else { return Err("no token".into()) };
    *renew = Some(renew.map_or(*due, |r| r.min(*due)));
    let text = token.status.as_ref().and_then(|s| s.token.clone()).unwrap_or_default();
    // With an fsGroup the group may read it; a pod that runs as one user owns it.
    let security = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let group = security.is_some_and(|s| s.fs_group.is_some());
    let user = one_user(pod);
    let bits = if group || user.is_some() { 0o600 } else { mode(default) };
    payload.insert(want.path.clone(), File { data: text.into_bytes(), mode: bits, uid: user });
    Ok(())
}

/// The user that every container runs as, when the spec says so.
fn one_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let whole = spec.security_context.as_ref().and_then(|s| s.run_as_user);
    let mut users = pods::spec::all(spec)
        .into_iter()
        .map(|(_, c)| c.security_context.as_ref().and_then(|s| s.run_as_user).or(whole));
    let first = users.next()??;
    users.all(|u| u == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

/// A token is renewed after four fifths of its life, at most a day.
fn due(now: Timestamp, seconds: i64) -> Timestamp {
    let life = (seconds * 4 / 5).min(24 * 3600);
    now.saturating_add(SignedDuration::from_secs(life)).unwrap_or(now)
}

async fn request_token(k: &Kubelet, pod: &Pod, audience: &str, seconds: i64) -> Result<TokenRequest, String> {
    let m = &pod.metadata;
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).unwrap_or("default");
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: (!audience.is_empty()).then(|| vec![audience.to_string()]),
            expiration_seconds: Some(seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: m.name.clone(),
                uid: m.uid.clone(),
            }),
        }),
        ..TokenRequest::default()
    };
    let namespace = m.namespace.as_deref().unwrap_or("");
    let made =
        k.client.create_subresource::<ServiceAccount, _, _>(namespace, account, "token", &request).await;
    made.map_err(|e| e.chain())
}

/// Unmounts devices that no pod but this one used.
pub fn release_devices(devices: &Devices, uid: &str) {
    let mut devices = devices.lock();
    devices.retain(|at, users| {
        users.remove(uid);
        if !users.is_empty() {
            return true;
        }
        if let Err(error) = volumes::device::tear_down(at) {
            tracing::warn!(%error, "a device stays mounted");
        }
        false
    });
}
