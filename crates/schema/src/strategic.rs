//! Strategic merge patch: a merge patch that knows which lists merge by key, with upstream's directives `$patch`,
//! `$retainKeys`, `$deleteFromPrimitiveList/FIELD` and `$setElementOrder/FIELD`.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::Schema;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Why a patch cannot be applied.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum PatchError {
    /// `$patch` has a value other than `replace`, `merge` and `delete`.
    #[error("Unknown patch type found: {0}")]
    UnknownDirective(String),
    /// A list item lacks the key by which the list merges.
    #[error("map: {0} does not contain declared merge key: {1}")]
    NoMergeKey(String, String),
    /// A directive is not of the form it should have.
    #[error("invalid patch format of {0}")]
    BadDirective(String),
    /// The patch itself is no object.
    #[error("expected a JSON object as the patch")]
    NotAnObject,
}

/// Applies `patch` to `original`.
pub fn strategic_merge(schema: &Schema, original: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Value::Object(patch) = patch else { return Err(PatchError::NotAnObject) };
    let original = original.as_object().cloned().unwrap_or_default();
    merge_maps(Some(schema), original, patch).map(Value::Object)
}

fn merge_maps(
    schema: Option<&Schema>,
    mut original: Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<Map<String, Value>, PatchError> {
    match patch.get(DIRECTIVE).map(directive).transpose()? {
        Some(Directive::Replace) => return Ok(without_directives(patch)),
        Some(Directive::Delete) => return Ok(Map::new()),
        Some(Directive::Merge) | None => {}
    }
    retain_keys(&mut original, patch)?;
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(DELETE_FROM) {
            delete_primitives(&mut original, field, value)?;
        }
    }
    for (key, value) in patch.iter().filter(|(k, _)| !k.starts_with('$')) {
        let sub = schema.and_then(|s| s.field(key));
        let order = patch.get(&format!("{ORDER}{key}"));
        match (original.get_mut(key).map(Value::take), value) {
            (_, Value::Null) => {
                original.remove(key);
            }
            (old, Value::Object(new)) if !sub.is_some_and(|s| s.patch().replace) => {
                let old = match old {
                    Some(Value::Object(old)) => old,
                    _ => Map::new(),
                };
                original.insert(key.clone(), Value::Object(merge_maps(sub, old, new)?));
            }
            (old, Value::Array(new)) if sub.is_some_and(|s| s.patch().merge) => {
                let old = match old {
                    Some(Value::Array(old)) => old,
                    _ => Vec::new(),
                };
                original.insert(key.clone(), Value::Array(merge_lists(sub, old, new, order)?));
            }
            (_, new) => {
                original.insert(key.clone(), new.clone());
            }
        }
    }
    reorder_only(schema, &mut original, patch)?;
    Ok(original)
}

/// Orders given for lists that the patch does not otherwise change.
fn reorder_only(
    schema: Option<&Schema>,
    original: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), PatchError> {
    for (key, order) in patch {
        let Some(field) = key.strip_prefix(ORDER).filter(|f| !patch.contains_key(*f)) else { continue };
        let sub = schema.and_then(|s| s.field(field));
        if let Some(Value::Array(items)) = original.get_mut(field) {
            let old = std::mem::take(items);
            *items = merge_lists(sub, old, &[], Some(order))?;
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Directive {
    Merge,
    Replace,
    Delete,
}

fn directive(value: &Value) -> Result<Directive, PatchError> {
    match value.as_str() {
        Some("merge") => Ok(Directive::Merge),
        Some("replace") => Ok(Directive::Replace),
        Some("delete") => Ok(Directive::Delete),
        _ => Err(PatchError::UnknownDirective(value.to_string())),
    }
}

fn without_directives(map: &Map<String, Value>) -> Map<String, Value> {
    let kept = map.iter().filter(|(key, value)| !key.starts_with('$') && !value.is_null());
    kept.map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn retain_keys(original: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), PatchError> {
    let Some(keys) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let keys = keys.as_array().ok_or_else(|| PatchError::BadDirective(RETAIN_KEYS.into()))?;
    let listed = |name: &str| keys.iter().any(|k| k == name);
    let stray = patch.iter().find(|(k, v)| !k.starts_with('$') && !v.is_null() && !listed(k));
    if stray.is_some() {
        return Err(PatchError::BadDirective(RETAIN_KEYS.into()));
    }
    original.retain(|key, _| listed(key));
    Ok(())
}

fn delete_primitives(
    original: &mut Map<String, Value>,
    field: &str,
    values: &Value,
) -> Result<(), PatchError> {
    let values =
        values.as_array().ok_or_else(|| PatchError::BadDirective(format!("{DELETE_FROM}{field}")))?;
    if let Some(Value::Array(items)) = original.get_mut(field) {
        items.retain(|item| !values.contains(item));
    }
    Ok(())
}

/// Merges a list that has the merge strategy: by key for objects, as a set for scalars.
fn merge_lists(
    schema: Option<&Schema>,
    old: Vec<Value>,
    patch: &[Value],
    order: Option<&Value>,
) -> Result<Vec<Value>, PatchError> {
    let key = schema.and_then(Schema::merge_key);
    let item = schema.and_then(Schema::item);
    let directives: Vec<Option<Directive>> =
        patch.iter().map(|p| p.get(DIRECTIVE).map(directive).transpose()).collect::<Result<_, _>>()?;
    if directives.contains(&Some(Directive::Replace)) {
        let kept = patch.iter().zip(&directives).filter(|(_, d)| d.is_none());
        return Ok(kept.map(|(value, _)| value.clone()).collect());
    }
    let before = old.clone();
    let mut merged = old;
    for (value, directive) in patch.iter().zip(directives) {
        let name = identity(value, key)?;
        let at = merged.iter().position(|m| identity(m, key).is_ok_and(|n| n == name));
        match (directive, at, value) {
            (Some(Directive::Delete), Some(_), _) => {
                merged.retain(|m| identity(m, key) != Ok(name));
            }
            (Some(Directive::Delete), None, _) => {}
            (_, Some(at), Value::Object(new)) => {
                let existing = merged[at].as_object_mut().map(std::mem::take).unwrap_or_default();
                merged[at] = Value::Object(merge_maps(item, existing, new)?);
            }
            (_, None, Value::Object(new)) => merged.push(Value::Object(merge_maps(item, Map::new(), new)?)),
            (_, None, scalar) => merged.push(scalar.clone()),
            (_, Some(_), _) => {}
        }
    }
    match order {
        Some(Value::Array(order)) => sort_by_order(merged, order, &before, key),
        Some(_) => Err(PatchError::BadDirective(ORDER.into())),
        None => sort_by_order(merged, patch, &before, key),
    }
}

/// What names an item: its merge key's value, or the scalar itself.
fn identity<'a>(item: &'a Value, key: Option<&str>) -> Result<&'a Value, PatchError> {
    match (item, key) {
        (Value::Object(map), Some(key)) => {
            map.get(key).ok_or_else(|| PatchError::NoMergeKey(item.to_string(), key.to_owned()))
        }
        _ => Ok(item),
    }
}

/// Items named in `order` follow it (without one, the patch's own items come in its order); the others keep their
/// place relative to those that were there before, and come after new ones.
fn sort_by_order(
    items: Vec<Value>,
    order: &[Value],
    before: &[Value],
    key: Option<&str>,
) -> Result<Vec<Value>, PatchError> {
    let text = |item: &Value| identity(item, key).map(Value::to_string);
    let mut rank = HashMap::new();
    for (position, item) in order.iter().enumerate() {
        rank.entry(text(item)?).or_insert(position);
    }
    let mut earlier = HashMap::new();
    for (position, item) in before.iter().enumerate() {
        earlier.entry(text(item)?).or_insert(position);
    }
    let mut ordered = Vec::new();
    let mut others = Vec::new();
    for item in items {
        let name = text(&item)?;
        match rank.get(&name) {
            Some(position) => ordered.push((*position, earlier.get(&name).copied(), item)),
            None => others.push((earlier.get(&name).copied(), item)),
        }
    }
    ordered.sort_by_key(|(position, _, _)| *position);
    let mut result = Vec::with_capacity(ordered.len() + others.len());
    let mut others = others.into_iter().peekable();
    for (_, was, item) in ordered {
        while let Some((other, _)) = others.peek() {
            let other_first = matches!((was, other), (Some(a), Some(b)) if *b < a);
            if !other_first {
                break;
            }
            result.extend(others.next().map(|(_, value)| value));
        }
        result.push(item);
    }
    result.extend(others.map(|(_, value)| value));
    Ok(result)
}
