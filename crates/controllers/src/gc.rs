//! Garbage collection: objects go when the last of their owners is gone.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;

use crate::claim::owners_patch;
use crate::{Action, Note, Plan, Propagation, Resource, Target};

/// Set while an object waits for its dependents to be deleted.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Set while an object waits for its dependents to be let go.
pub const ORPHAN: &str = "orphan";

/// An object of the owner graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its kind.
    pub resource: Resource,
    /// Its metadata, or as much of it as matters here.
    pub meta: ObjectMeta,
}

/// What is known of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// It exists.
    Solid,
    /// It waits for its dependents to be deleted.
    Waiting,
    /// It does not exist: the API said so.
    Absent,
    /// It exists, but in another namespace, where no owner can be.
    Elsewhere,
}

/// What the planner is told.
pub struct View<'a> {
    /// The object.
    pub item: &'a Node,
    /// Its owners and what is known of each.
    pub owners: Vec<(&'a OwnerReference, Owner)>,
    /// What names it as an owner.
    pub dependents: Vec<&'a Node>,
}

impl Node {
    /// Deletion has begun.
    #[must_use]
    pub fn is_deleting(&self) -> bool {
        self.meta.deletion_timestamp.is_some()
    }

    /// The object has this finalizer.
    #[must_use]
    pub fn has(&self, finalizer: &str) -> bool {
        self.meta.finalizers.iter().flatten().any(|f| f == finalizer)
    }

    /// The object waits for its dependents to be deleted.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.is_deleting() && self.has(FOREGROUND)
    }

    /// Its owners.
    pub fn owners(&self) -> impl Iterator<Item = &OwnerReference> {
        self.meta.owner_references.iter().flatten()
    }

    fn uid(&self) -> &str {
        self.meta.uid.as_deref().unwrap_or("")
    }
}

/// Whether the owner is in a namespace other than that of the object.
#[must_use]
pub fn is_elsewhere(item: &Node, owner: &Node) -> bool {
    owner.resource.namespaced && owner.meta.namespace != item.meta.namespace
}

/// Deletes, lets go of, or finishes one object; and tells of owners that cannot be.
#[must_use]
pub fn plan(view: &View<'_>) -> Plan {
    let mut plan = plan_silently(view);
    let elsewhere = view.owners.iter().filter(|(_, state)| *state == Owner::Elsewhere);
    let events: Vec<Action> = elsewhere.map(|(owner, _)| stray(view.item, owner)).collect();
    plan.actions.splice(0..0, events);
    plan
}

/// Says that an owner is not where it would have to be.
fn stray(item: &Node, owner: &OwnerReference) -> Action {
    let namespace = item.meta.namespace.as_deref().unwrap_or("");
    let OwnerReference { api_version, kind, name, uid, .. } = owner;
    let identity = format!("[{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}]");
    let text = format!("ownerRef {identity} does not exist in namespace \"{namespace}\"");
    let about = Target::at(item.resource.clone(), &item.meta);
    Action::Event { about, note: Note::warning("OwnerRefInvalidNamespace", text) }
}

fn plan_silently(view: &View<'_>) -> Plan {
    let item = view.item;
    if item.is_deleting() {
        return match (item.has(ORPHAN), item.has(FOREGROUND)) {
            (true, _) => orphan(view),
            (false, true) => finish(view),
            (false, false) => Plan::idle("it is being deleted"),
        };
    }
    if view.owners.is_empty() {
        return Plan::idle("it has no owner");
    }
    // An object without a namespace whose owner has one is left alone: nothing can be said of the owner.
    let counts = |o: Owner| o == Owner::Solid || (o == Owner::Elsewhere && item.meta.namespace.is_none());
    let solid = view.owners.iter().any(|(_, o)| counts(*o));
    if solid {
        let keep: Vec<&OwnerReference> =
            view.owners.iter().filter(|(_, o)| counts(*o)).map(|(r, _)| *r).collect();
        if keep.len() == view.owners.len() {
            return Plan::idle("an owner exists");
        }
        let actions = vec![owners_patch(item.resource.clone(), &item.meta, &keep)];
        return Plan { actions, ..Plan::idle("an owner exists, others do not") };
    }
    let waited_for = view.owners.iter().any(|(_, o)| *o == Owner::Waiting);
    if waited_for && !view.dependents.is_empty() {
        let mut plan = Plan::idle("an owner waits for it to go, dependents first");
        if view.dependents.iter().any(|d| d.is_waiting()) {
            // Two that wait for each other would wait for ever.
            let mut owners: Vec<OwnerReference> = item.owners().cloned().collect();
            owners.iter_mut().for_each(|o| o.block_owner_deletion = Some(false));
            plan.actions.push(owners_patch(item.resource.clone(), &item.meta, &owners));
        }
        plan.actions.push(delete(item, Propagation::Foreground));
        return plan;
    }
    let propagation = match (item.has(ORPHAN), item.has(FOREGROUND)) {
        (true, _) => Propagation::Orphan,
        (false, true) => Propagation::Foreground,
        (false, false) => Propagation::Background,
    };
    Plan { actions: vec![delete(item, propagation)], ..Plan::idle("no owner is left") }
}

fn delete(item: &Node, propagation: Propagation) -> Action {
    let target = Target::at(item.resource.clone(), &item.meta);
    Action::Delete { target, grace_s: None, propagation: Some(propagation), report: None }
}

/// Lets all dependents go, then the object itself.
fn orphan(view: &View<'_>) -> Plan {
    let uid = view.item.uid();
    let release = view.dependents.iter().map(|d| {
        let keep: Vec<&OwnerReference> = d.owners().filter(|o| o.uid != uid).collect();
        owners_patch(d.resource.clone(), &d.meta, &keep)
    });
    let mut plan = Plan { actions: release.collect(), ..Plan::idle("its dependents are to stay") };
    plan.actions.push(without(view.item, ORPHAN));
    plan
}

/// Lets the object go once no dependent blocks it.
fn finish(view: &View<'_>) -> Plan {
    let uid = view.item.uid();
    let blocks = |d: &&&Node| d.owners().any(|o| o.uid == uid && o.block_owner_deletion == Some(true));
    let blocking = view.dependents.iter().filter(blocks).count();
    if blocking > 0 {
        return Plan::idle(format!("{blocking} dependents are still there"));
    }
    Plan { actions: vec![without(view.item, FOREGROUND)], ..Plan::idle("its dependents are gone") }
}

fn without(item: &Node, finalizer: &str) -> Action {
    let keep: Vec<&String> = item.meta.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
    let patch = json!({"metadata": {"finalizers": keep, "resourceVersion": item.meta.resource_version}});
    Action::merge(Target::at(item.resource.clone(), &item.meta), "", patch)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::Object;

    fn node(uid: &str, owners: &[&str], deleting: bool, finalizers: &[&str]) -> Node {
        let owner = |o: &&str| OwnerReference {
            uid: (*o).to_owned(),
            block_owner_deletion: Some(true),
            ..OwnerReference::default()
        };
        Node {
            resource: Pod::resource(),
            meta: ObjectMeta {
                name: Some(uid.to_owned()),
                uid: Some(uid.to_owned()),
                owner_references: Some(owners.iter().map(owner).collect()),
                deletion_timestamp: deleting.then_some(Time(jiff::Timestamp::UNIX_EPOCH)),
                finalizers: Some(finalizers.iter().map(|f| (*f).to_owned()).collect()),
                ..ObjectMeta::default()
            },
        }
    }

    /// The item, its owners' states, its dependents, and what is done, in one word for each action.
    #[test]
    fn decides() {
        use Owner::{Absent, Solid, Waiting};
        let leaf = node("leaf", &["item"], false, &[]);
        let waiting = node("leaf", &["item"], true, &[FOREGROUND]);
        let two = node("item", &["a", "b"], false, &[]);
        let cases = [
            ("an owner exists", [Solid, Solid], Some(&leaf), ""),
            ("one of two is gone", [Solid, Absent], None, "patch"),
            ("all are gone", [Absent, Absent], Some(&leaf), "Background"),
            ("an owner waits", [Waiting, Absent], Some(&leaf), "Foreground"),
            ("an owner waits, no dependents", [Waiting, Absent], None, "Background"),
            ("a circle", [Waiting, Absent], Some(&waiting), "patch Foreground"),
        ];
        for (name, states, dependent, want) in cases {
            let owners = two.owners().zip(states).collect();
            let plan = plan(&View { item: &two, owners, dependents: dependent.into_iter().collect() });
            assert_eq!(words(&plan), want, "{name}");
        }
        let deleting = |finalizers: &[&str]| node("item", &[], true, finalizers);
        let cases = [
            (deleting(&[]), vec![&leaf], ""),
            (deleting(&[FOREGROUND]), vec![&leaf], ""),
            (deleting(&[FOREGROUND]), vec![], "patch"),
            (deleting(&[ORPHAN]), vec![&leaf, &leaf], "patch patch patch"),
        ];
        for (item, dependents, want) in cases {
            let plan = plan(&View { item: &item, owners: Vec::new(), dependents });
            assert_eq!(words(&plan), want, "{:?}", item.meta.finalizers);
        }
    }

    #[test]
    fn owners_in_other_namespaces() {
        use Owner::{Elsewhere, Solid};
        let mut item = node("item", &["a", "b"], false, &[]);
        let of = |item: &Node, states: [Owner; 2]| {
            let owners = item.owners().zip(states).collect();
            words(&plan(&View { item, owners, dependents: Vec::new() }))
        };
        assert_eq!(of(&item, [Elsewhere, Elsewhere]), "event event", "without a namespace it stays");
        item.meta.namespace = Some("n".to_owned());
        assert_eq!(of(&item, [Elsewhere, Elsewhere]), "event event Background");
        assert_eq!(of(&item, [Elsewhere, Solid]), "event patch");
        let mut owner = node("a", &[], false, &[]);
        owner.meta.namespace = Some("other".to_owned());
        assert!(is_elsewhere(&item, &owner));
        owner.meta.namespace = Some("n".to_owned());
        assert!(!is_elsewhere(&item, &owner));
    }

    fn words(plan: &Plan) -> String {
        let word = |a: &Action| match a {
            Action::Event { .. } => "event".to_owned(),
            Action::Delete { propagation: Some(p), .. } => format!("{p:?}"),
            _ => "patch".to_owned(),
        };
        plan.actions.iter().map(word).collect::<Vec<_>>().join(" ")
    }
}
