//! A node against our own API server and controllers: real processes, real containers, no pod network.

#[path = "../../../oci/tests/runtime/busybox.rs"]
mod busybox;
#[path = "../../../oci/tests/runtime/containerd.rs"]
mod containerd;
mod kills;
mod kubelet;
mod life;
mod machine;
#[path = "../namespaces/mod.rs"]
mod namespaces;
mod peer;
mod pressure;
mod pulls;
mod registry;
mod rig;

use rig::{Rig, Sort};

/// Each on either runtime.
macro_rules! on_both {
    ($($name:ident: $sort:ident => $all:expr;)*) => {
        $(mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread")]
            async fn embedded() {
                let $sort = Sort::Embedded;
                $all.await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn cri() {
                let $sort = Sort::Cri;
                $all.await;
            }
        })*
    };
}

on_both! {
    pods: sort => all(sort);
    killed: sort => kills::at_any_moment(sort);
    images_from_a_registry: sort => pulls::all(sort);
    short_of_memory: sort => pressure::memory(sort);
    short_of_disk: sort => pressure::images(sort);
    shut_down: sort => pressure::shutdown(sort);
    pods_from_files: sort => pressure::statics(sort);
}

async fn all(sort: Sort) {
    let mut rig = Rig::new(sort, &["--pod-max-pids=64", "--runtime-handler=runc"]).await;
    kubelet::all(&rig).await;
    life::all(&mut rig).await;
}
