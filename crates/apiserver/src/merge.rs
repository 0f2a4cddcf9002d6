//! Strategic merge by the schema's directives.

use api::KindDef;
use serde_json::Value;

use crate::status::Status;

/// Merges `patch` into `object`.
pub fn strategic(def: &KindDef, object: &mut Value, patch: &Value) -> Result<(), Status> {
    merge(Some(def.schema()), object, patch);
    Ok(())
}

/// Objects merge, lists with a merge key merge by it, everything else is replaced.
fn merge(schema: Option<&schema::Schema>, target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if changes.get("$patch").and_then(Value::as_str) == Some("replace") {
        let mut whole = patch.clone();
        if let Value::Object(whole) = &mut whole {
            whole.remove("$patch");
        }
        *target = whole;
        return;
    }
    if !target.is_object() {
        *target = Value::Object(Default::default());
    }
    let Value::Object(fields) = target else { return };
    for (name, change) in changes.iter().filter(|(name, _)| !name.starts_with('$')) {
        let below = schema.and_then(|schema| schema.field(name));
        if change.is_null() {
            fields.remove(name);
        } else if let (Value::Array(items), Some(list)) = (change, below.filter(|s| s.patch().merge)) {
            let own = fields.entry(name.clone()).or_insert_with(|| Value::Array(Vec::new()));
            merge_list(list, own, items);
        } else {
            merge(below, fields.entry(name.clone()).or_insert(Value::Null), change);
        }
    }
}

fn merge_list(list: &schema::Schema, target: &mut Value, changes: &[Value]) {
    if !target.is_array() {
        *target = Value::Array(Vec::new());
    }
    let Value::Array(items) = target else { return };
    let directive = |item: &Value| item.get("$patch").and_then(Value::as_str).map(str::to_string);
    if changes.iter().any(|change| directive(change).as_deref() == Some("replace")) {
        *items = changes.iter().filter(|change| directive(change).is_none()).cloned().collect();
        return;
    }
    let Some(key) = list.merge_key() else {
        for change in changes {
            if !items.contains(change) {
                items.push(change.clone());
            }
        }
        return;
    };
    for change in changes {
        let found = items.iter().position(|item| item.get(key) == change.get(key));
        match (found, directive(change).as_deref()) {
            (Some(at), Some("delete")) => {
                items.remove(at);
            }
            (None, Some("delete")) => {}
            (Some(at), _) => merge(list.item(), &mut items[at], change),
            (None, _) => {
                let mut fresh = Value::Null;
                merge(list.item(), &mut fresh, change);
                items.push(fresh);
            }
        }
    }
}
