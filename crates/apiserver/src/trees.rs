//! Decoded trees of objects that many requests look up: namespaces, service accounts, classes, limits.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde_json::Value;
use store::{Key, Object};

/// Trees kept at most. Whichever comes to hand goes for a new one.
const KEPT_MAX: usize = 256;

/// Trees by key, each with the revision it was decoded from.
#[derive(Debug, Default)]
pub struct Trees {
    kept: RwLock<HashMap<Key, (u64, Arc<Value>)>>,
}

impl Trees {
    /// The tree of an object as it is stored; nothing if it is no JSON.
    pub fn of(&self, object: &Object) -> Option<Arc<Value>> {
        if let Some((revision, tree)) = self.kept.read().get(&object.key)
            && *revision == object.modified
        {
            return Some(tree.clone());
        }
        let tree: Arc<Value> = Arc::new(serde_json::from_slice(&object.json).ok()?);
        let mut kept = self.kept.write();
        if kept.len() >= KEPT_MAX && !kept.contains_key(&object.key) {
            let some = kept.keys().next().cloned();
            some.and_then(|key| kept.remove(&key));
        }
        kept.insert(object.key.clone(), (object.modified, tree.clone()));
        Some(tree)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, modified: u64, json: &'static str) -> Object {
        Object {
            key: Key { resource: "core/namespaces".into(), namespace: "".into(), name: name.into() },
            json: bytes::Bytes::from_static(json.as_bytes()),
            created: 1,
            modified,
            hole: 0,
            expires: None,
            index: store::Index::default(),
            protobuf: Default::default(),
        }
    }

    #[test]
    fn a_tree_is_of_its_revision_and_only_so_many_are_kept() {
        let trees = Trees::default();
        let first = trees.of(&object("a", 1, r#"{"v":1}"#)).expect("a tree");
        assert!(Arc::ptr_eq(&first, &trees.of(&object("a", 1, r#"{"v":1}"#)).expect("kept")));
        assert_eq!(*trees.of(&object("a", 2, r#"{"v":2}"#)).expect("anew"), serde_json::json!({"v": 2}));
        assert_eq!(trees.of(&object("b", 1, "{")), None);
        for n in 0..2 * KEPT_MAX {
            trees.of(&object(&format!("n-{n}"), 1, "{}"));
        }
        assert_eq!(trees.kept.read().len(), KEPT_MAX);
    }
}
