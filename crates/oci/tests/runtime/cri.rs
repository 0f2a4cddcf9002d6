//! What only a runtime behind CRI can get into.

use crate::containerd::ctr;
use crate::rig::{Rig, script};
use oci::runtime::Filter;

/// A task that CRI does not know of, as a start that was cut off leaves it: container and sandbox can be removed.
pub async fn task_unknown_to_cri(rig: &Rig) {
    let sandbox = rig.sandbox("stuck").await;
    let make = async |name: &str| {
        let id = rig.runtime.create_container(&sandbox, script(name, "sleep 1000")).await.expect("create");
        ctr(&rig.home.dir, &["task", "start", "--detach", "--null-io", &id]);
        id
    };
    let (one, two) = (make("one").await, make("two").await);
    rig.runtime.remove_container(&one).await.expect("the container is removed");
    assert!(!ctr(&rig.home.dir, &["task", "ls"]).contains(&one));
    assert!(ctr(&rig.home.dir, &["task", "ls"]).contains(&two));
    rig.runtime.remove_sandbox(&sandbox).await.expect("the sandbox is removed");
    let left = ctr(&rig.home.dir, &["task", "ls", "-q"]);
    assert!(!left.contains(&two) && !left.contains(&sandbox), "{left}");
    assert!(rig.runtime.list_containers(Filter::default()).await.expect("list").is_empty());
}
