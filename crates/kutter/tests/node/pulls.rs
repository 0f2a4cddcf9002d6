//! Images from a registry: without and with credentials, and what is said meanwhile.

use client::WriteOptions;
use k8s_openapi::api::core::v1::{Pod, Secret, ServiceAccount};
use serde_json::json;

use crate::busybox::busybox;
use crate::registry::Registry;
use crate::rig::{Rig, Sort, ready, status, waits};

/// Images from a registry: without and with credentials, and what is said meanwhile.
pub async fn all(sort: Sort) {
    let rig = Rig::new(sort, &[]).await;
    let registry = Registry::start(&busybox()).await;
    let with = |image: &str| json!({ "terminationGracePeriodSeconds": 0, "containers": [{ "name": "c", "image": image }] });
    let (public, private) = (registry.name("app:1"), registry.name("private/app:1"));
    rig.create("public", with(&public)).await;
    let pod = rig.pod("public", "runs", ready).await;
    let id = status(&pod, "c").map(|s| s.image_id.clone()).expect("image id");
    assert!(id.starts_with(&registry.name("app@sha256:")), "{id}");
    rig.event("public", "Pulling", &format!("Pulling image \"{public}\"")).await;
    rig.event("public", "Pulled", &format!("Successfully pulled image \"{public}\" in ")).await;

    // Refused without credentials, and told so; whoever mends the name does not wait for the back-off.
    rig.create("refused", with(&private)).await;
    let pod = rig.pod("refused", "backs off", |p| waits(p, "c", "ImagePullBackOff")).await;
    let waiting = status(&pod, "c").and_then(|s| s.state.clone()?.waiting?.message).expect("message");
    let start = format!("Back-off pulling image \"{private}\": ErrImagePull: not authorized to pull ");
    assert!(waiting.starts_with(&start), "{waiting}");
    rig.event("refused", "Failed", "Error: ErrImagePull").await;
    rig.event("refused", "Failed", &format!("Failed to pull image \"{private}\": not authorized")).await;
    rig.event("refused", "BackOff", &format!("Back-off pulling image \"{private}\"")).await;
    let patch = json!({ "spec": { "containers": [{ "name": "c", "image": public }] } });
    let patch = client::Patch::Strategic(patch);
    rig.client.patch::<Pod>("default", "refused", &patch, &WriteOptions::default()).await.expect("patched");
    rig.pod("refused", "runs after its image was mended", ready).await;

    // Through the service account, as most do it.
    let secret = json!({
        "metadata": { "name": "pull", "namespace": "default" },
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": { ".dockerconfigjson": registry.docker_config() },
    });
    rig.client.create::<Secret>(&serde_json::from_value(secret).expect("secret")).await.expect("secret");
    let patch = client::Patch::Strategic(json!({ "imagePullSecrets": [{ "name": "pull" }] }));
    rig.client
        .patch::<ServiceAccount>("default", "default", &patch, &WriteOptions::default())
        .await
        .expect("patched");
    rig.create("allowed", with(&private)).await;
    rig.pod("allowed", "runs", ready).await;

    // What a secret brought here is not for pods without it.
    let patch = client::Patch::Strategic(json!({ "imagePullSecrets": [{ "$patch": "replace" }] }));
    rig.client
        .patch::<ServiceAccount>("default", "default", &patch, &WriteOptions::default())
        .await
        .expect("patched");
    let mut never = with(&private);
    never["containers"][0]["imagePullPolicy"] = json!("Never");
    rig.create("never", never).await;
    rig.create("sneaks", with(&private)).await;
    rig.pod("sneaks", "is refused", |p| waits(p, "c", "ImagePullBackOff")).await;
    rig.pod("never", "is refused", |p| waits(p, "c", "ErrImageNeverPull")).await;
    for name in ["public", "refused", "allowed", "sneaks", "never"] {
        rig.delete(name).await;
    }
}
