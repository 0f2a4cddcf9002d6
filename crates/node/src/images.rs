//! Brings a container's image here, with the reasons that statuses and events give.

use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use oci::registry::keyring::Keyring;
use oci::runtime::{Error, ImageError, PullRequest};
use pods::image::{Step, step, took};
use pods::model::Waiting;

use crate::kubelet::Kubelet;
use crate::pulled::{Credential, Origin};

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

/// An image that a container needs.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// As in the spec.
    pub image: &'a str,
    /// `imagePullPolicy`.
    pub policy: Option<&'a str>,
    /// What events are about, e.g. `spec.containers{web}`.
    pub field: &'a str,
}

/// Answers with the image's id once it is here.
pub async fn ensure(k: &Kubelet, pod: &Pod, wanted: Wanted<'_>) -> Result<String, Missing> {
    let done = find_or_pull(k, pod, wanted).await;
    if let Err(missing) = &done {
        let text = format!("Error: {}", missing.waiting.reason);
        k.events.pod(pod, Some(wanted.field.to_owned()), true, "Failed", text);
    }
    done
}

async fn find_or_pull(k: &Kubelet, pod: &Pod, wanted: Wanted<'_>) -> Result<String, Missing> {
    let Wanted { image, policy, field } = wanted;
    let say = |warning, reason, message: String| {
        k.events.pod(pod, Some(field.to_owned()), warning, reason, message);
    };
    if !pods::image::valid(image) {
        let text = format!(
            "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format"
        );
        say(true, "InspectFailed", text.clone());
        return Err(missing("InvalidImageName", text, false));
    }
    let here = k.runtime.image_status(image).await.map_err(|error| {
        let text = format!("Failed to inspect image \"{image}\": {error}");
        say(true, "InspectFailed", text.clone());
        missing("ImageInspectError", text, false)
    })?;
    let never = || {
        let text = format!("Container image \"{image}\" is not present with pull policy of Never");
        say(true, "ErrImageNeverPull", text.clone());
        missing("ErrImageNeverPull", text, false)
    };
    let next = step(image, policy, here.is_some());
    if next == Step::Never {
        return Err(never());
    }
    let credentials = credentials(k, pod, image, field).await;
    match &here {
        Some(found) if next == Step::Use && k.pulled.allows(&found.id, image, &credentials) => {
            let text = format!(
                "Container image \"{image}\" already present on machine and can be accessed by the pod"
            );
            say(false, "Pulled", text);
            return Ok(found.id.clone());
        }
        // That somebody else's secret brought it here is nobody's business.
        Some(_) if policy == Some("Never") => return Err(never()),
        _ => {}
    }
    say(false, "Pulling", format!("Pulling image \"{image}\""));
    let asked = Instant::now();
    // The semaphore is never closed.
    let turn = k.pulls.acquire().await.ok();
    let started = Instant::now();
    let outcome = pull(k, image, &credentials).await;
    drop(turn);
    match outcome {
        Ok(id) => {
            let size = k.runtime.image_status(&id).await.ok().flatten().map_or(0, |i| i.size);
            let (pulling, whole) = (took(started.elapsed()), took(asked.elapsed()));
            say(
                false,
                "Pulled",
                format!(
                    "Successfully pulled image \"{image}\" in {pulling} ({whole} including waiting). Image size: {size} bytes."
                ),
            );
            Ok(id)
        }
        Err(error) => {
            say(true, "Failed", format!("Failed to pull image \"{image}\": {error}"));
            Err(failure(image, &error))
        }
    }
}

fn failure(image: &str, error: &Error) -> Missing {
    match error {
        Error::Image(ImageError::InvalidName { .. }) => {
            let text = format!("Failed to apply default image tag \"{image}\": {error}");
            missing("InvalidImageName", text, false)
        }
        Error::Image(ImageError::RegistryUnavailable { .. }) => {
            let text = format!("image pull failed for {image} because the registry is unavailable: {error}");
            missing("RegistryUnavailable", text, true)
        }
        other => missing("ErrImagePull", other.to_string(), true),
    }
}

/// Tries the pod's credentials one after another; if none of them is accepted, or there is none, what this
/// machine knows.
async fn pull(k: &Kubelet, image: &str, credentials: &[Credential]) -> Result<String, Error> {
    let mut first = None;
    for credential in credentials.iter().map(Some).chain([None]) {
        let auth = credential.map(|c| c.auth.clone());
        let request = PullRequest { reference: image.to_owned(), auth };
        let error = match k.runtime.pull_image(request, None).await {
            Ok(id) => {
                k.pulled.note(&id, image, credential);
                return Ok(id);
            }
            Err(error) => error,
        };
        // Registries hide what one may not see behind a 404.
        let other_may_help =
            matches!(&error, Error::Image(ImageError::Unauthorized { .. } | ImageError::NotFound { .. }));
        if !other_may_help {
            return Err(error);
        }
        first.get_or_insert(error);
    }
    Err(first.unwrap_or_else(|| Error::Failed("no way to pull the image".into())))
}

/// Credentials for an image out of the pod's pull secrets.
async fn credentials(k: &Kubelet, pod: &Pod, image: &str, field: &str) -> Vec<Credential> {
    let m = &pod.metadata;
    let (namespace, uid) = (m.namespace.as_deref().unwrap_or(""), m.uid.as_deref().unwrap_or(""));
    let (mut found, mut lacking) = (Vec::new(), Vec::new());
    let list = pod.spec.as_ref().and_then(|s| s.image_pull_secrets.as_deref()).unwrap_or_default();
    for reference in list.iter().filter(|r| !r.name.is_empty()) {
        let Ok(Some(secret)) = k.refs.secret(uid, namespace, &reference.name).await else {
            lacking.push(reference.name.as_str());
            continue;
        };
        let mut keyring = Keyring::default();
        let data = |key: &str| secret.data.as_ref().and_then(|d| d.get(key));
        let read = match secret.type_.as_deref() {
            Some("kubernetes.io/dockerconfigjson") => {
                data(".dockerconfigjson").map(|d| keyring.add_config(&d.0))
            }
            Some("kubernetes.io/dockercfg") => data(".dockercfg").map(|d| keyring.add_legacy(&d.0)),
            _ => None,
        };
        if let Some(Err(error)) = read {
            tracing::warn!(pod = pods::spec::describe(pod), secret = reference.name, %error, "a pull secret does not parse");
        }
        let origin = Origin {
            namespace: namespace.to_owned(),
            name: reference.name.clone(),
            uid: secret.metadata.uid.clone().unwrap_or_default(),
        };
        let own = keyring.lookup(image).into_iter();
        found.extend(own.map(|auth| Credential { auth, origin: origin.clone() }));
    }
    if !lacking.is_empty() {
        let text = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            lacking.join(", ")
        );
        k.events.pod(pod, Some(field.to_owned()), true, "FailedToRetrieveImagePullSecret", text);
    }
    found
}
