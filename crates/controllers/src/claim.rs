//! Which of the objects a selector finds belong to a controller, and how that comes to be.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use crate::{Action, Object, Target, pod, select::Labels};

/// Sorts objects into those the owner has or takes, with the patches that make it so.
///
/// Owned objects that no longer match are let go; orphans that match are taken. An owner that is being
/// deleted takes and releases nothing.
pub fn claim<'a, K: Object>(
    owner: &Target,
    owner_deleting: bool,
    selects: impl Fn(Option<&Labels>) -> bool,
    objects: impl IntoIterator<Item = &'a K>,
) -> (Vec<&'a K>, Vec<Action>) {
    let (mut owned, mut actions) = (Vec::new(), Vec::new());
    for object in objects {
        let meta = object.metadata();
        let matching = selects(meta.labels.as_ref());
        match pod::controller_of(meta) {
            Some(controller) if controller.uid != owner.uid => {}
            Some(_) if matching => owned.push(object),
            Some(_) if owner_deleting => {}
            Some(_) => actions.push(release(K::resource(), meta, &owner.uid)),
            None if matching && !owner_deleting && !pod::is_deleting(object) => {
                actions.push(adopt(K::resource(), meta, owner));
                owned.push(object);
            }
            None => {}
        }
    }
    (owned, actions)
}

fn adopt(resource: crate::Resource, meta: &ObjectMeta, owner: &Target) -> Action {
    let mut owners = meta.owner_references.clone().unwrap_or_default();
    owners.retain(|o| o.uid != owner.uid);
    owners.push(owner.controller_reference());
    owners_patch(resource, meta, &owners)
}

fn release(resource: crate::Resource, meta: &ObjectMeta, uid: &str) -> Action {
    let mut owners = meta.owner_references.clone().unwrap_or_default();
    owners.retain(|o| o.uid != uid);
    owners_patch(resource, meta, &owners)
}

/// Replaces the owners, provided the object has not changed.
pub(crate) fn owners_patch<T: serde::Serialize>(
    resource: crate::Resource,
    meta: &ObjectMeta,
    owners: &[T],
) -> Action {
    let patch = json!({"metadata": {"ownerReferences": owners, "resourceVersion": meta.resource_version}});
    Action::merge(Target::at(resource, meta), "", patch)
}
