//! Real containers on every implementation of the runtime: the same tests on both.

mod containerd;
mod rig;
mod suite;

use rig::Rig;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded() {
    suite::all(&Rig::embedded().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cri() {
    suite::all(&Rig::cri().await).await;
}
