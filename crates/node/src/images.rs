//! Brings a container's image here, with the reasons that statuses and events give.

use std::sync::Arc;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{Container, Pod};
use oci::runtime::{Error, ImageError, PullRequest, RegistryAuth};
use pods::image::{Step, step};
use pods::model::Waiting;
use serde::Deserialize;

use crate::kubelet::Kubelet;

/// Why there is no image: the waiting state, and whether to back off.
#[derive(Debug)]
pub struct Missing {
    /// For the container's status.
    pub waiting: Waiting,
    /// Whether a pull was tried and failed.
    pub pulled: bool,
}

fn missing(reason: &str, message: String, pulled: bool) -> Missing {
    Missing { waiting: Waiting { reason: reason.into(), message }, pulled }
}

/// Answers with the image's id once it is here.
pub async fn ensure(k: &Kubelet, pod: &Pod, c: &Container, field: &str) -> Result<String, Missing> {
    let image = c.image.clone().unwrap_or_default();
    let say = |warning, reason, message: String| {
        k.events.pod(pod, Some(field.to_string()), warning, reason, message);
    };
    if !pods::image::valid(&image) {
        let text = format!(
            "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format"
        );
        say(true, "InspectFailed", text.clone());
        say(true, "Failed", "Error: InvalidImageName".into());
        return Err(missing("InvalidImageName", text, false));
    }
    let lock: Arc<tokio::sync::Mutex<()>> = k.pulls.lock().entry(image.clone()).or_default().clone();
    let here = k.runtime.image_status(&image).await.map_err(|e| failure(&image, &e))?;
    let policy = c.image_pull_policy.as_deref();
    match (step(&image, policy, here.is_some()), &here) {
        (Step::Use, Some(found)) => {
            let text = format!(
                "Container image \"{image}\" already present on machine and can be accessed by the pod"
            );
            say(false, "Pulled", text);
            return Ok(found.id.clone());
        }
        (Step::Never, _) => {
            let text = format!("Container image \"{image}\" is not present with pull policy of Never");
            say(true, "ErrImageNeverPull", text.clone());
            return Err(missing("ErrImageNeverPull", text, false));
        }
        _ => {}
    }
    let asked = Instant::now();
    let guard = lock.lock().await;
    let started = Instant::now();
    say(false, "Pulling", format!("Pulling image \"{image}\""));
    let outcome = pull(k, pod, &image).await;
    drop(guard);
    match outcome {
        Ok(id) => {
            let size = k.runtime.image_status(&id).await.ok().flatten().map_or(0, |i| i.size);
            let (took, whole) = (started.elapsed().as_millis(), asked.elapsed().as_millis());
            say(
                false,
                "Pulled",
                format!(
                    "Successfully pulled image \"{image}\" in {took}ms ({whole}ms including waiting). Image size: {size} bytes."
                ),
            );
            Ok(id)
        }
        Err(error) => {
            let failed = failure(&image, &error);
            say(true, "Failed", format!("Failed to pull image \"{image}\": {error}"));
            say(true, "Failed", format!("Error: {}", failed.waiting.reason));
            Err(failed)
        }
    }
}

fn failure(image: &str, error: &Error) -> Missing {
    let reason = match error {
        Error::Image(ImageError::InvalidName { .. }) => "InvalidImageName",
        Error::Image(ImageError::RegistryUnavailable { .. }) => "RegistryUnavailable",
        Error::Image(_) => "ErrImagePull",
        _ => "ErrImagePull",
    };
    let message = match reason {
        "InvalidImageName" => format!("Failed to apply default image tag \"{image}\": {error}"),
        _ => format!("failed to pull image \"{image}\": {error}"),
    };
    missing(reason, message, reason != "InvalidImageName")
}

async fn pull(k: &Kubelet, pod: &Pod, image: &str) -> Result<String, Error> {
    let mut last = None;
    let mut tries: Vec<Option<RegistryAuth>> =
        credentials(k, pod, image).await.into_iter().map(Some).collect();
    if tries.is_empty() {
        tries.push(None);
    }
    for auth in tries {
        let request = PullRequest { reference: image.to_string(), auth };
        match k.runtime.pull_image(request, None).await {
            Ok(id) => return Ok(id),
            Err(e) => last = Some(e),
        }
    }
    Err(last.unwrap_or_else(|| Error::Failed("no way to pull the image".into())))
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: std::collections::BTreeMap<String, Entry>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    #[serde(rename = "identitytoken")]
    identity_token: String,
}

/// Credentials of the pod's pull secrets that are for this image's registry.
async fn credentials(k: &Kubelet, pod: &Pod, image: &str) -> Vec<RegistryAuth> {
    let m = &pod.metadata;
    let (namespace, uid) = (m.namespace.as_deref().unwrap_or(""), m.uid.as_deref().unwrap_or(""));
    let mut found = Vec::new();
    let list = pod.spec.as_ref().and_then(|s| s.image_pull_secrets.as_deref()).unwrap_or_default();
    for reference in list {
        let Ok(Some(secret)) = k.refs.secret(uid, namespace, &reference.name).await else { continue };
        for (key, wrapped) in [(".dockerconfigjson", true), (".dockercfg", false)] {
            let Some(data) = secret.data.as_ref().and_then(|d| d.get(key)) else { continue };
            let auths = if wrapped {
                serde_json::from_slice::<DockerConfig>(&data.0).map(|c| c.auths).ok()
            } else {
                serde_json::from_slice(&data.0).ok()
            };
            let matching = auths.into_iter().flatten().filter(|(host, _)| serves(host, image));
            found.extend(matching.map(|(_, e)| auth(e)));
        }
    }
    found
}

fn auth(e: Entry) -> RegistryAuth {
    let decoded = STANDARD.decode(&e.auth).ok().and_then(|b| String::from_utf8(b).ok());
    let pair = decoded.as_deref().and_then(|t| t.split_once(':'));
    let (username, password) = pair.map_or((e.username, e.password), |(u, p)| (u.to_string(), p.to_string()));
    RegistryAuth { username, password, identity_token: e.identity_token, registry_token: String::new() }
}

/// Whether credentials for `host` (perhaps a URL, perhaps with a path) are meant for this image.
fn serves(host: &str, image: &str) -> bool {
    let plain = host.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let plain = plain.strip_suffix("/v1").or(plain.strip_suffix("/v2")).unwrap_or(plain);
    let first = image.split('/').next().unwrap_or("");
    let named = image.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    let whole = if named { image.to_string() } else { format!("docker.io/{image}") };
    let plain = if plain == "index.docker.io" { "docker.io" } else { plain };
    whole.strip_prefix(plain).is_some_and(|rest| rest.starts_with(['/', ':', '@']) || rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::serves;

    #[test]
    fn credentials_match_registries() {
        let table = [
            ("https://index.docker.io/v1/", "nginx", true),
            ("docker.io", "library/nginx:1", true),
            ("quay.io", "quay.io/a/b", true),
            ("quay.io/a", "quay.io/a/b", true),
            ("quay.io/x", "quay.io/a/b", false),
            ("quay.io", "quay.io.evil/a", false),
            ("localhost:5000", "localhost:5000/a", true),
        ];
        for (host, image, want) in table {
            assert_eq!(serves(host, image), want, "{host} {image}");
        }
    }
}
