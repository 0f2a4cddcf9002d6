//! Values under a schema, as server-side apply sees them: their field set, their merge, their difference, and the
//! removal of a set of fields. Follows the semantics of upstream's structured-merge-diff.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};

use crate::fieldset::{FieldSet, field_element};
use crate::{Emit, Field, ListType, Schema, Type};

/// How apply treats a value.
enum Form<'a> {
    /// As a whole.
    Leaf,
    /// By field or key.
    Map,
    /// By item.
    List(&'a ListType),
}

/// The form of a value; without a schema (unknown fields) objects go by key and lists as a whole.
fn form<'a>(schema: Option<&'a Schema>, value: &Value) -> Form<'a> {
    match (schema, value) {
        (Some(s), Value::Object(_))
            if s.is_atomic() || matches!(s.ty, Type::Raw | Type::Any) && !s.preserve_unknown =>
        {
            Form::Leaf
        }
        (_, Value::Object(_)) => Form::Map,
        (Some(s), Value::Array(_)) if s.is_list() && *s.list_type() != ListType::Atomic => {
            Form::List(s.list_type())
        }
        _ => Form::Leaf,
    }
}

fn child<'a>(schema: Option<&'a Schema>, name: &str) -> Option<&'a Schema> {
    schema.and_then(|s| s.field(name))
}

/// Whether the canonical form of the object always has this field, so that its appearance is no change.
fn always_there(field: &Field) -> bool {
    let plain_struct = !field.pointer && field.emit == Emit::OmitEmpty && field.schema.object().is_some();
    plain_struct || field.emit == Emit::Keep
}

/// The elements that name the items of an associative list or set, in order.
fn item_elements(list: &ListType, item: Option<&Schema>, items: &[Value]) -> Vec<String> {
    let name = |(index, value): (usize, &Value)| match list {
        ListType::Set => format!("v:{value}"),
        ListType::Map(keys) => {
            let pick = |key| {
                let given = value.get(key).filter(|v| !v.is_null());
                let default = || item.and_then(|i| i.field(key)).and_then(Schema::default);
                Some((key, given.or_else(default)?))
            };
            let picked: BTreeMap<&str, &Value> = keys.iter().map(AsRef::as_ref).filter_map(pick).collect();
            // A map of text to values can always be written.
            format!("k:{}", serde_json::to_string(&picked).unwrap_or_default())
        }
        ListType::Atomic => format!("i:{index}"),
    };
    items.iter().enumerate().map(name).collect()
}

/// Every field that `value` sets.
pub fn field_set(schema: &Schema, value: &Value) -> FieldSet {
    set_of(Some(schema), value).1
}

/// Whether the value's own path is a member, and what lies below it.
fn set_of(schema: Option<&Schema>, value: &Value) -> (bool, FieldSet) {
    let mut set = FieldSet::new();
    match (form(schema, value), value) {
        (Form::Map, Value::Object(map)) => {
            for (key, value) in map {
                let sub = child(schema, key);
                let (member, below) = set_of(sub, value);
                let known = schema.and_then(Schema::object).is_some_and(|o| o.field(key).is_some());
                let hollow = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                set.graft(field_element(key), member || hollow || !known, below);
            }
            (false, set)
        }
        (Form::List(list), Value::Array(items)) => {
            let item = schema.and_then(Schema::item);
            for (element, value) in item_elements(list, item, items).into_iter().zip(items) {
                set.graft(element, true, set_of(item, value).1);
            }
            (false, set)
        }
        _ => (true, set),
    }
}

/// The paths of lists and maps within `value` that are replaced as a whole.
pub fn atomics(schema: &Schema, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    atomics_at(Some(schema), value, &mut String::new(), &mut found);
    found
}

fn atomics_at(schema: Option<&Schema>, value: &Value, path: &mut String, found: &mut Vec<String>) {
    let length = path.len();
    match (form(schema, value), value) {
        (Form::Map, Value::Object(map)) => {
            for (key, value) in map {
                path.push('.');
                path.push_str(key);
                atomics_at(child(schema, key), value, path, found);
                path.truncate(length);
            }
        }
        (Form::List(list), Value::Array(items)) => {
            let item = schema.and_then(Schema::item);
            for (element, value) in item_elements(list, item, items).into_iter().zip(items) {
                // Keys are what tells items apart, as clients write it: [name="a"].
                let name = element.split_once(':').map_or(element.as_str(), |(_, name)| name);
                path.push_str(&format!("[{name}]"));
                atomics_at(item, value, path, found);
                path.truncate(length);
            }
        }
        (_, Value::Object(_) | Value::Array(_)) => found.push(path.clone()),
        _ => {}
    }
}

/// `live` with everything that `config` sets.
pub fn merge(schema: &Schema, live: &Value, config: &Value) -> Value {
    merge_at(Some(schema), live, config)
}

fn merge_at(schema: Option<&Schema>, live: &Value, config: &Value) -> Value {
    match (form(schema, config), live, config) {
        (Form::Map, Value::Object(live), Value::Object(config)) => {
            let kept = live.iter().filter(|(key, _)| !config.contains_key(*key));
            let kept = kept.map(|(key, value)| (key.clone(), value.clone()));
            let set = config.iter().filter_map(|(key, value)| {
                let new = match live.get(key) {
                    Some(old) => merge_at(child(schema, key), old, value),
                    None => value.clone(),
                };
                (!new.is_null()).then(|| (key.clone(), new))
            });
            Value::Object(kept.chain(set).collect())
        }
        (Form::List(list), Value::Array(live), Value::Array(config)) => {
            merge_lists(list, schema.and_then(Schema::item), live, config)
        }
        _ => config.clone(),
    }
}

/// Items in the order of `config`; those only in `live` stay where they were relative to their neighbours.
fn merge_lists(list: &ListType, item: Option<&Schema>, live: &[Value], config: &[Value]) -> Value {
    let live_names = item_elements(list, item, live);
    let config_names = item_elements(list, item, config);
    let in_config: HashMap<&str, ()> = config_names.iter().map(|n| (n.as_str(), ())).collect();
    let position: HashMap<&str, usize> =
        live_names.iter().enumerate().map(|(i, n)| (n.as_str(), i)).collect();
    let mut merged = Vec::with_capacity(live.len() + config.len());
    let mut next = 0;
    for (name, value) in config_names.iter().zip(config) {
        match position.get(name.as_str()) {
            Some(&at) => {
                while next < at {
                    if !in_config.contains_key(live_names[next].as_str()) {
                        merged.push(live[next].clone());
                    }
                    next += 1;
                }
                merged.push(merge_at(item, &live[at], value));
            }
            None => merged.push(value.clone()),
        }
    }
    let rest = live[next..].iter().zip(&live_names[next..]);
    merged.extend(rest.filter(|(_, n)| !in_config.contains_key(n.as_str())).map(|(v, _)| v.clone()));
    Value::Array(merged)
}

/// What changed between two states.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Set now and not before.
    pub added: FieldSet,
    /// Set before and now, to different values.
    pub modified: FieldSet,
    /// Set before and not now.
    pub removed: FieldSet,
}

impl Comparison {
    /// Everything below `element` as it is, and what was found there.
    fn graft(&mut self, element: String, at: Own, below: Comparison) {
        for (set, member, found) in [
            (&mut self.modified, at == Own::Modified, below.modified),
            (&mut self.removed, at == Own::Removed, below.removed),
        ] {
            set.graft(element.as_str(), member, found);
        }
        self.added.graft(element, at == Own::Added, below.added);
    }
}

/// What happened to a path itself, whatever lies below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    Nothing,
    Added,
    Modified,
    Removed,
}

/// Compares two states of an object.
pub fn compare(schema: &Schema, old: &Value, new: &Value) -> Comparison {
    let mut comparison = Comparison::default();
    compare_at(Some(schema), Some(old), Some(new), &mut comparison);
    comparison
}

/// Puts what differs below the two into `out` and tells what happened to their path.
fn compare_at(
    schema: Option<&Schema>,
    old: Option<&Value>,
    new: Option<&Value>,
    out: &mut Comparison,
) -> Own {
    let (old, new) = (old.filter(|v| !v.is_null()), new.filter(|v| !v.is_null()));
    let Some(shape) = new.or(old) else { return Own::Nothing };
    if old == new {
        return Own::Nothing;
    }
    let hollow = |v: Option<&Value>| match v {
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
        None => true,
    };
    let other_form = matches!((old, new), (Some(a), Some(b)) if a.is_object() != b.is_object());
    let leaf = other_form || hollow(old) && hollow(new);
    let as_a_whole = match form(schema, shape) {
        Form::Map if !leaf => {
            compare_maps(schema, old, new, out);
            false
        }
        Form::List(list) if !leaf => {
            compare_lists(list, schema.and_then(Schema::item), old, new, out);
            false
        }
        _ => true,
    };
    match (old, new) {
        (None, _) => Own::Added,
        (_, None) => Own::Removed,
        _ if as_a_whole => Own::Modified,
        _ => Own::Nothing,
    }
}

fn compare_maps(schema: Option<&Schema>, old: Option<&Value>, new: Option<&Value>, out: &mut Comparison) {
    let (old, new) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
    let in_old = |key: &String| old.is_some_and(|m| m.contains_key(key));
    let only_new = new.into_iter().flat_map(Map::keys).filter(|key| !in_old(key));
    for key in old.into_iter().flat_map(Map::keys).chain(only_new) {
        let (before, after) = (old.and_then(|m| m.get(key)), new.and_then(|m| m.get(key)));
        if before == after {
            continue;
        }
        let field = schema.and_then(Schema::object).and_then(|o| o.field(key));
        let sub = field.map(|f| &f.schema).or_else(|| child(schema, key));
        let mut below = Comparison::default();
        let own = if before.is_none() != after.is_none() && field.is_some_and(always_there) {
            // The canonical form has an empty struct or list here: only what lies in it counts.
            let zero = zero_like(before.or(after));
            compare_at(sub, Some(before.unwrap_or(&zero)), Some(after.unwrap_or(&zero)), &mut below)
        } else {
            compare_at(sub, before, after, &mut below)
        };
        out.graft(field_element(key), own, below);
    }
}

/// Every field that a new object sets: what [`compare`] finds added to or modified in an empty one.
pub fn added(schema: &Schema, new: &Value) -> FieldSet {
    let mut set = FieldSet::new();
    added_at(Some(schema), new, false, &mut set);
    set
}

/// Puts what is set below the value into `out` and tells whether its own path is set. What is `always_there` counts
/// from its zero value on.
fn added_at(schema: Option<&Schema>, new: &Value, always_there: bool, out: &mut FieldSet) -> bool {
    if new.is_null() || always_there && *new == zero_like(Some(new)) {
        return false;
    }
    let own = match (form(schema, new), new) {
        (Form::Map, Value::Object(map)) if !map.is_empty() => {
            for (key, value) in map {
                let field = schema.and_then(Schema::object).and_then(|o| o.field(key));
                let sub = field.map(|f| &f.schema).or_else(|| child(schema, key));
                let mut below = FieldSet::new();
                let own = added_at(sub, value, field.is_some_and(self::always_there), &mut below);
                out.graft(field_element(key), own, below);
            }
            false
        }
        (Form::List(list), Value::Array(items)) if !items.is_empty() => {
            let item = schema.and_then(Schema::item);
            for (element, value) in item_elements(list, item, items).into_iter().zip(items) {
                let mut below = FieldSet::new();
                let own = added_at(item, value, false, &mut below);
                // Of several of the same name the last counts.
                out.put(element, own, below);
            }
            false
        }
        _ => true,
    };
    own || !always_there
}

/// The zero value of the same form. Scalars that are always written have one too.
fn zero_like(value: Option<&Value>) -> Value {
    match value {
        Some(Value::Object(_)) => Value::Object(Map::new()),
        Some(Value::Array(_)) => Value::Array(Vec::new()),
        Some(Value::String(_)) => Value::String(String::new()),
        Some(Value::Number(_)) => Value::from(0),
        Some(Value::Bool(_)) => Value::Bool(false),
        _ => Value::Null,
    }
}

fn compare_lists(
    list: &ListType,
    item: Option<&Schema>,
    old: Option<&Value>,
    new: Option<&Value>,
    out: &mut Comparison,
) {
    let (old, new) = (items_of(old), items_of(new));
    let old_names = item_elements(list, item, old);
    let new_names = item_elements(list, item, new);
    let before: HashMap<&str, &Value> = old_names.iter().map(String::as_str).zip(old).collect();
    let after: HashMap<&str, &Value> = new_names.iter().map(String::as_str).zip(new).collect();
    let only_new = new_names.iter().filter(|n| !before.contains_key(n.as_str()));
    for name in old_names.iter().chain(only_new) {
        let (before, after) = (before.get(name.as_str()).copied(), after.get(name.as_str()).copied());
        let mut below = Comparison::default();
        let own = compare_at(item, before, after, &mut below);
        out.graft(name.clone(), own, below);
    }
}

fn items_of(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The value without the fields of `set`; objects and lists that become empty by it go too.
pub fn remove(schema: &Schema, value: &Value, set: &FieldSet) -> Value {
    remove_at(Some(schema), value, set).unwrap_or_else(|| Value::Object(Map::new()))
}

fn remove_at(schema: Option<&Schema>, value: &Value, set: &FieldSet) -> Option<Value> {
    match (form(schema, value), value) {
        (Form::Map, Value::Object(map)) => {
            let mut kept = Map::new();
            for (key, value) in map {
                let element = field_element(key);
                let rest = match (set.has(&element), set.below(&element)) {
                    (true, _) => None,
                    (false, Some(below)) => remove_at(child(schema, key), value, below),
                    (false, None) => Some(value.clone()),
                };
                if let Some(rest) = rest {
                    kept.insert(key.clone(), rest);
                }
            }
            (!kept.is_empty() || map.is_empty()).then_some(Value::Object(kept))
        }
        (Form::List(list), Value::Array(items)) => {
            let item = schema.and_then(Schema::item);
            let named = item_elements(list, item, items).into_iter().zip(items);
            let kept: Vec<Value> = named
                .filter_map(|(element, value)| match (set.has(&element), set.below(&element)) {
                    (true, _) => None,
                    (false, Some(below)) => remove_at(item, value, below),
                    (false, None) => Some(value.clone()),
                })
                .collect();
            (!kept.is_empty() || items.is_empty()).then_some(Value::Array(kept))
        }
        _ => Some(value.clone()),
    }
}

/// `set` with every named field on the way to a member being a member itself, so that removing the set removes
/// the structs it empties.
pub(crate) fn with_named_parents(schema: Option<&Schema>, set: &FieldSet) -> FieldSet {
    let mut result = FieldSet::new();
    for (element, below) in set.elements() {
        let name = element.strip_prefix("f:");
        let named =
            name.is_some_and(|n| schema.and_then(Schema::object).is_some_and(|o| o.field(n).is_some()));
        let sub = match name {
            Some(name) => child(schema, name),
            None => schema.and_then(Schema::item),
        };
        let member = set.has(element) || named && !below.is_empty();
        result.graft(element, member, with_named_parents(sub, below));
    }
    result
}
