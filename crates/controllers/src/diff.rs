//! Merge patches (RFC 7396) from what is to what should be.

use serde::Serialize;
use serde_json::{Map, Value};

/// The object as JSON. The kinds planners handle always have a JSON form.
///
/// It goes by way of its text, as objects are sent: a second form of output would be a second copy of the
/// encoders of all kinds in the program.
pub(crate) fn value<T: Serialize>(object: &T) -> Value {
    let value = serde_json::to_vec(object).and_then(|text| serde_json::from_slice(&text));
    value.unwrap_or(Value::Null)
}

/// The patch that turns `old` into `new`; `None` when they are the same.
#[must_use]
pub fn merge_patch(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut patch = Map::new();
    for key in old.keys().filter(|k| !new.contains_key(*k)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, new) in new {
        match old.get(key) {
            None => {
                patch.insert(key.clone(), new.clone());
            }
            Some(old) => {
                if let Some(change) = merge_patch(old, new) {
                    patch.insert(key.clone(), change);
                }
            }
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patches() {
        let cases = [
            (json!({"a": 1}), json!({"a": 1}), None),
            (json!({"a": 1, "b": 2}), json!({"a": 1}), Some(json!({"b": null}))),
            (json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": 3, "c": 2}}), Some(json!({"a": {"b": 3}}))),
            (json!({"a": [1]}), json!({"a": [1, 2]}), Some(json!({"a": [1, 2]}))),
        ];
        for (old, new, want) in cases {
            assert_eq!(merge_patch(&old, &new), want, "{old} -> {new}");
        }
    }
}
