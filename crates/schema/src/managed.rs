//! Server-side apply and the upkeep of `metadata.managedFields`, as upstream's field manager does it.
//!
//! Every writer of an object owns fields: an *updater* those its updates changed, an *applier* exactly those its
//! last configuration set. An apply that would change a field another manager owns is a conflict, unless forced.

mod entries;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::Schema;
use crate::fieldset::FieldSet;
use crate::typed::{added, compare, field_set, merge, remove, with_named_parents};
use entries::{
    Fields, Identity, Managers, Operation, Ownership, decode, is_reset, managers_of, put_entries,
    take_entries,
};

/// Update managers kept by name; older ones are merged into [`ANCIENT`].
const UPDATERS_MAX: usize = 10;
const ANCIENT: &str = "ancient-changes";
/// Owner of what an object had before it was first applied.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Who writes, and when.
#[derive(Debug, Clone, Copy)]
pub struct Actor<'a> {
    /// The field manager.
    pub manager: &'a str,
    /// The version written in, such as `apps/v1`.
    pub api_version: &'a str,
    /// The subresource written through, or empty.
    pub subresource: &'a str,
    /// RFC 3339 with seconds.
    pub now: &'a str,
}

/// Fields that an apply would take from another manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The other manager as told to people: `"name" using apps/v1`.
    pub manager: String,
    /// The field, `.spec.replicas`.
    pub field: String,
}

/// Why an apply was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ApplyError {
    /// Other managers own fields that the configuration sets to other values.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The configuration carries managedFields.
    #[error("metadata.managedFields must be nil")]
    ManagedFields,
}

/// What never is anyone's: identity and what the server keeps.
const STRIPPED: [&[&str]; 12] = [
    &["f:apiVersion"],
    &["f:kind"],
    &["f:metadata"],
    &["f:metadata", "f:name"],
    &["f:metadata", "f:namespace"],
    &["f:metadata", "f:creationTimestamp"],
    &["f:metadata", "f:selfLink"],
    &["f:metadata", "f:uid"],
    &["f:metadata", "f:clusterName"],
    &["f:metadata", "f:generation"],
    &["f:metadata", "f:managedFields"],
    &["f:metadata", "f:resourceVersion"],
];

/// Brings the managedFields of `new` up to date after an update from `live` (absent on create) by `actor`.
/// `reset` are the fields this endpoint does not take from the writer.
pub fn track_update(
    schema: &Schema,
    live: Option<&Value>,
    new: &mut Value,
    actor: Actor<'_>,
    reset: &FieldSet,
) {
    let given = take_entries(new);
    let reset_asked = given.as_ref().is_some_and(is_reset);
    let mut managers = match given.and_then(|given| decode(given, live)) {
        Some(managers) if !managers.is_empty() => managers,
        _ if reset_asked => Managers::new(),
        _ => live.map(managers_of).unwrap_or_default(),
    };
    let was_tracked = !managers.is_empty() || live.is_none_or(|l| !managers_of(l).is_empty());
    if !was_tracked {
        return;
    }
    let (touched, removed) = match live {
        Some(live) => changes(schema, live, new),
        None => (added(schema, new), FieldSet::new()),
    };
    let own = Identity {
        operation: Operation::Update,
        manager: actor.manager.to_owned(),
        api_version: actor.api_version.to_owned(),
        subresource: actor.subresource.to_owned(),
    };
    let old = managers.remove(&own);
    release(&mut managers, &own, &[&touched, &removed]);
    let before = old.as_ref().map(|o| o.fields.known().into_owned()).unwrap_or_default();
    let mut fields = before.clone();
    fields.subtract(&removed);
    fields.absorb(touched);
    let fields = owned(fields, reset);
    if !fields.is_empty() {
        let time = match old {
            Some(old) if before == fields => old.time,
            _ => actor.now.to_owned(),
        };
        let fields = Fields::Known(fields);
        managers.insert(own, Ownership { fields, api_version: actor.api_version.to_owned(), time });
    }
    cap_updaters(&mut managers);
    put_entries(new, managers);
}

/// Applies `config` to `live` (`{}` to create). Gives the new object with its managedFields.
pub fn apply(
    schema: &Schema,
    live: &Value,
    config: &Value,
    actor: Actor<'_>,
    force: bool,
    reset: &FieldSet,
) -> Result<Value, ApplyError> {
    if config["metadata"].get("managedFields").is_some_and(|m| !m.is_null() && m != &json!([])) {
        return Err(ApplyError::ManagedFields);
    }
    let mut managers = managers_of(live);
    if managers.is_empty() && live.as_object().is_some_and(|o| !o.is_empty()) {
        adopt_existing(schema, &mut managers, live, actor);
    }
    let own = Identity {
        operation: Operation::Apply,
        manager: actor.manager.to_owned(),
        api_version: String::new(),
        subresource: actor.subresource.to_owned(),
    };
    let last = managers.remove(&own).map(|last| (last.fields.known().into_owned(), last.time));
    let fields = owned(field_set(schema, config), reset);
    let mut merged = merge(schema, live, config);
    take_entries(&mut merged);
    let time = match &last {
        Some((last, time)) if *last == fields => time.clone(),
        _ => actor.now.to_owned(),
    };
    let kept = last.as_ref().is_none_or(|(last, _)| fields.covers(last));
    let fields = Fields::Known(fields);
    managers.insert(own.clone(), Ownership { fields, api_version: actor.api_version.to_owned(), time });
    let mut new = match &last {
        Some((last, _)) if !kept => prune(schema, &merged, &managers, last),
        _ => merged,
    };
    let (touched, removed) = changes(schema, live, &new);
    let conflicts = conflicts(&managers, &own, &touched);
    if !force && !conflicts.is_empty() {
        return Err(ApplyError::Conflicts(conflicts));
    }
    release(&mut managers, &own, &[&touched, &removed]);
    if managers.get(&own).is_some_and(|o| o.fields.is_empty()) {
        managers.remove(&own);
    }
    put_entries(&mut new, managers);
    Ok(new)
}

/// What is set now and was not so before, and what is not set any more. The entries of `before` are no part of it,
/// `after` has none.
fn changes(schema: &Schema, before: &Value, after: &Value) -> (FieldSet, FieldSet) {
    let change = compare(schema, before, after);
    let mut touched = change.modified;
    touched.absorb(change.added);
    let mut removed = change.removed;
    removed.subtract_below(&FieldSet::of_fields(&["metadata.managedFields"]));
    (touched, removed)
}

fn owned(mut fields: FieldSet, reset: &FieldSet) -> FieldSet {
    STRIPPED.iter().for_each(|path| fields.withdraw(path));
    fields.subtract_below(reset);
    fields
}

/// Takes what changed from every manager but `own`; who has nothing left goes.
fn release(managers: &mut Managers<'_>, own: &Identity, changed: &[&FieldSet]) {
    if changed.iter().all(|fields| fields.is_empty()) {
        return;
    }
    managers.retain(|identity, ownership| {
        if identity == own {
            return true;
        }
        changed.iter().for_each(|fields| ownership.fields.subtract(fields));
        !ownership.fields.is_empty()
    });
}

/// The fields of a configuration that the live object still has as the configuration says.
pub fn unchanged(schema: &Schema, config: &Value, live: &Value) -> FieldSet {
    let change = compare(schema, config, live);
    let mut fields = field_set(schema, config);
    [change.modified, change.added, change.removed].iter().for_each(|changed| fields.subtract(changed));
    fields
}

fn conflicts(managers: &Managers<'_>, own: &Identity, touched: &FieldSet) -> Vec<Conflict> {
    let others = managers.iter().filter(|(identity, _)| *identity != own);
    let concerned = others.filter(|(_, ownership)| ownership.fields.overlaps(touched));
    let found = concerned.flat_map(|(identity, ownership)| {
        let fields = ownership.fields.known().intersection(touched).paths();
        fields.into_iter().map(|field| Conflict { manager: describe(identity, ownership), field })
    });
    found.collect()
}

/// Removes from `merged` what the manager's last configuration set and its new one does not, as far as nobody else
/// owns it. `managers` already has the new configuration.
fn prune(schema: &Schema, merged: &Value, managers: &Managers<'_>, last: &FieldSet) -> Value {
    let named = |set: &FieldSet| with_named_parents(Some(schema), set);
    let pruned = remove(schema, merged, &named(last));
    let everything = field_set(schema, merged);
    let managed = managers.values().fold(FieldSet::new(), |all, o| all.union(&o.fields.known()));
    let kept = named(&field_set(schema, &pruned)).union(&named(&managed));
    let pruned = remove(schema, merged, &named(&everything).difference(&kept));
    let gone = everything.difference(&field_set(schema, &pruned)).intersection(last);
    remove(schema, merged, &gone)
}

/// An object that was never tracked belongs to nobody in particular before its first apply.
fn adopt_existing(schema: &Schema, managers: &mut Managers<'_>, live: &Value, actor: Actor<'_>) {
    let fields = owned(field_set(schema, live), &FieldSet::new());
    if fields.is_empty() {
        return;
    }
    let identity = Identity {
        operation: Operation::Update,
        manager: BEFORE_FIRST_APPLY.to_owned(),
        api_version: actor.api_version.to_owned(),
        subresource: String::new(),
    };
    let (fields, api_version) = (Fields::Known(fields), actor.api_version.to_owned());
    managers.insert(identity, Ownership { fields, api_version, time: actor.now.to_owned() });
}

/// Merges the oldest updaters of this version into one when there are too many.
fn cap_updaters(managers: &mut Managers<'_>) {
    let mut updaters: Vec<(String, Identity)> = managers
        .iter()
        .filter(|(i, _)| i.operation == Operation::Update && i.subresource.is_empty() && i.manager != ANCIENT)
        .map(|(i, o)| (o.time.clone(), i.clone()))
        .collect();
    if updaters.len() <= UPDATERS_MAX {
        return;
    }
    updaters.sort();
    let surplus = updaters.len() - UPDATERS_MAX + 1;
    for (_, identity) in updaters.into_iter().take(surplus) {
        let Some(ownership) = managers.remove(&identity) else { continue };
        let ancient = Identity { manager: ANCIENT.to_owned(), ..identity };
        match managers.get_mut(&ancient) {
            Some(existing) => {
                existing.fields = Fields::Known(existing.fields.known().union(&ownership.fields.known()));
                existing.time = existing.time.clone().max(ownership.time);
            }
            None => {
                managers.insert(ancient, ownership);
            }
        }
    }
}

fn describe(identity: &Identity, ownership: &Ownership<'_>) -> String {
    let mut text = format!("{:?}", identity.manager);
    if !identity.subresource.is_empty() {
        text.push_str(&format!(" with subresource {:?}", identity.subresource));
    }
    if identity.operation == Operation::Update {
        text.push_str(&format!(" using {}", ownership.api_version));
    }
    text
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", only.manager, only.field);
    }
    let mut by_manager: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for conflict in conflicts {
        by_manager.entry(&conflict.manager).or_default().push(&conflict.field);
    }
    let mut lines = Vec::new();
    for (manager, fields) in by_manager {
        lines.push(format!("conflicts with {manager}:"));
        lines.extend(fields.into_iter().map(|field| format!("- {field}")));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schema() -> Schema {
        let item = json!({"type": "object", "properties": {"name": {"type": "string"},
            "image": {"type": "string"}, "env": {"type": "object", "additionalProperties": {"type": "string"}}}});
        let spec = json!({"type": "object", "properties": {
            "one": {"type": "string"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "deep": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "set": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
            "items": {"type": "array", "items": item, "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"]}}});
        let root = json!({"type": "object", "properties": {"spec": spec}});
        crate::crd::compile(
            "Thing",
            &root,
            &crate::crd::compile("Meta", &json!({"type": "object"}), &Schema::new(crate::Type::Any)),
        )
    }

    /// A configuration: each part is there or not.
    fn configuration() -> impl Strategy<Value = Value> {
        let text = || prop::option::of("[xy]");
        let map = || prop::collection::btree_map("[abc]", "[xy]", 0..3);
        let item = (text(), prop::option::of(map()));
        let items = prop::collection::btree_map("[pqr]", item, 0..3);
        let parts = (text(), prop::option::of(map()), (text(), text()), prop::option::of(map()));
        (parts, prop::collection::btree_set("[xyz]", 0..3), items).prop_map(|(parts, set, items)| {
            let (one, labels, (a, b), free) = parts;
            let mut spec =
                json!({"one": one, "labels": labels, "deep": {"a": a, "b": b}, "free": free, "set": set});
            let named = |(name, (image, env))| json!({"name": name, "image": image, "env": env});
            spec["items"] = items.into_iter().map(named).collect();
            let mut config = json!({"spec": spec});
            drop_nulls(&mut config);
            config
        })
    }

    fn drop_nulls(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|_, v| !v.is_null());
                map.values_mut().for_each(drop_nulls);
            }
            Value::Array(items) => items.iter_mut().for_each(drop_nulls),
            _ => {}
        }
    }

    proptest! {
        #[test]
        fn what_a_new_object_sets_is_what_an_empty_one_lacks(new in configuration()) {
            let change = compare(&schema(), &json!({}), &new);
            prop_assert!(change.removed.is_empty());
            prop_assert_eq!(added(&schema(), &new), change.modified.union(&change.added));
        }

        #[test]
        fn nothing_is_pruned_while_everything_of_before_is_still_set(
            live in configuration(), other in configuration(), before in configuration(), now in configuration()
        ) {
            let schema = schema();
            // What is set now holds all that was set before.
            let now = merge(&schema, &before, &now);
            let last = field_set(&schema, &before);
            let fields = field_set(&schema, &now);
            prop_assume!(fields.covers(&last));
            let merged = merge(&schema, &merge(&schema, &live, &before), &now);
            let entry = |fields| Ownership { fields: Fields::Known(fields), api_version: "v1".into(), time: String::new() };
            let name = |manager: &str, operation| Identity {
                operation, manager: manager.into(), api_version: String::new(), subresource: String::new(),
            };
            let managers = Managers::from([
                (name("me", Operation::Apply), entry(fields)),
                (name("other", Operation::Update), entry(field_set(&schema, &other))),
            ]);
            prop_assert_eq!(prune(&schema, &merged, &managers, &last), merged);
        }
    }
}
