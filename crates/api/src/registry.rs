//! All kinds served at one moment: built-in and custom, looked up by path or by kind.

use std::collections::HashMap;
use std::sync::Arc;

use crate::kinds::{KindDef, builtin};

/// An immutable set of kinds. A change of CRDs makes a new one.
#[derive(Debug)]
pub struct Registry {
    kinds: Vec<Arc<KindDef>>,
    by_path: HashMap<String, usize>,
    by_kind: HashMap<String, usize>,
}

fn key(group: &str, version: &str, name: &str) -> String {
    let mut out = String::with_capacity(group.len() + version.len() + name.len() + 2);
    out.push_str(group);
    out.push('/');
    out.push_str(version);
    out.push('/');
    out.push_str(name);
    out
}

impl Registry {
    /// The built-in kinds.
    pub fn builtin() -> Registry {
        Registry::of(builtin().into_iter().map(Arc::new).collect())
    }

    /// These kinds; of two at the same path or of the same name the first is served.
    pub fn of(kinds: Vec<Arc<KindDef>>) -> Registry {
        let mut registry = Registry { kinds, by_path: HashMap::new(), by_kind: HashMap::new() };
        for (i, k) in registry.kinds.iter().enumerate() {
            registry.by_path.entry(key(&k.group, &k.version, &k.plural)).or_insert(i);
            registry.by_kind.entry(key(&k.group, &k.version, &k.kind)).or_insert(i);
        }
        registry
    }

    /// This registry's built-in kinds with these custom kinds instead of its own.
    pub fn with_custom(&self, custom: impl IntoIterator<Item = Arc<KindDef>>) -> Registry {
        let mut kinds: Vec<Arc<KindDef>> = self.kinds.iter().filter(|k| !k.custom).cloned().collect();
        kinds.extend(custom);
        Registry::of(kinds)
    }

    /// All kinds in discovery's order.
    pub fn kinds(&self) -> &[Arc<KindDef>] {
        &self.kinds
    }

    /// The kind served at `/apis/{group}/{version}/{plural}` (group empty: `/api/{version}/{plural}`).
    pub fn by_path(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<KindDef>> {
        self.by_path.get(&key(group, version, plural)).map(|i| &self.kinds[*i])
    }

    /// The kind of this name.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<KindDef>> {
        self.by_kind.get(&key(group, version, kind)).map(|i| &self.kinds[*i])
    }

    /// The versions of a resource, most preferred first.
    pub fn versions<'a>(&'a self, group: &'a str, plural: &'a str) -> impl Iterator<Item = &'a Arc<KindDef>> {
        self.kinds.iter().filter(move |k| k.group == group && k.plural == plural)
    }

    /// The groups in discovery's order, each with its versions, most preferred first.
    pub fn groups(&self) -> Vec<(String, Vec<String>)> {
        let mut groups: Vec<(String, Vec<String>)> = Vec::new();
        let mut at: HashMap<&str, usize> = HashMap::new();
        for k in &self.kinds {
            let i = *at.entry(k.group.as_ref()).or_insert_with(|| {
                groups.push((k.group.to_string(), Vec::new()));
                groups.len() - 1
            });
            if !groups[i].1.iter().any(|v| *v == k.version) {
                groups[i].1.push(k.version.to_string());
            }
        }
        groups
    }
}
