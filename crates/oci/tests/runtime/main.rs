//! Real containers on every implementation of the runtime: the same tests on both.

mod busybox;
mod containerd;
mod cri;
mod rig;
mod suite;
mod users;

use oci::runtime::Runtime;
use rig::Rig;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded() {
    let rig = Rig::embedded().await;
    suite::all(&rig).await;
    users::all(&rig).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cri() {
    let rig = Rig::cri().await;
    suite::all(&rig).await;
    cri::task_unknown_to_cri(&rig).await;
    let other = containerd::again(&rig.home.dir).await;
    assert_eq!(other.version().await.expect("version"), rig.runtime.version().await.expect("version"));
}
