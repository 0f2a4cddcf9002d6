//! A node against our own API server and controllers: real processes, real containers, no pod network.

#[path = "../../../oci/tests/runtime/busybox.rs"]
mod busybox;
#[path = "../../../oci/tests/runtime/containerd.rs"]
mod containerd;
mod kills;
mod kubelet;
mod life;
mod peer;
mod pressure;
mod pulls;
mod registry;
mod rig;

use rig::{Rig, Sort};

#[tokio::test(flavor = "multi_thread")]
async fn embedded() {
    both(Sort::Embedded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cri() {
    both(Sort::Cri).await;
}

async fn both(sort: Sort) {
    let mut rig = Rig::new(sort, &["--pod-max-pids=64"]).await;
    kubelet::all(&rig).await;
    life::all(&mut rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_embedded() {
    kills::at_any_moment(&mut Rig::new(Sort::Embedded, &[]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_cri() {
    kills::at_any_moment(&mut Rig::new(Sort::Cri, &[]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_from_a_registry() {
    pulls::all(&Rig::new(Sort::Embedded, &[]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn short_of_memory() {
    pressure::memory().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn short_of_disk() {
    pressure::images().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_from_files() {
    pressure::statics().await;
}
