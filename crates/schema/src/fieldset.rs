//! Sets of field paths: who owns what in an object, in the form of `metadata.managedFields[].fieldsV1`.
//!
//! A path is a sequence of elements written as in `FieldsV1`: `f:name` for a field or map key, `k:{…}` for an item of
//! an associative list, `v:…` for a member of a set, `i:n` for a position. Elements are kept in that very text,
//! in canonical form, so that reading, comparing and writing a set needs no other representation.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde_json::{Map, Value};

/// A set of paths, as a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    nodes: BTreeMap<Box<str>, Node>,
}

/// What a set says of one element and what lies below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Node {
    /// The path that ends here is in the set.
    member: bool,
    children: FieldSet,
}

impl FieldSet {
    /// The empty set.
    pub fn new() -> FieldSet {
        FieldSet::default()
    }

    /// A set of paths of plain field names, each written with dots (`metadata.name`).
    pub fn of_fields(paths: &[&str]) -> FieldSet {
        let mut set = FieldSet::new();
        for path in paths {
            let elements: Vec<String> = path.split('.').map(|name| format!("f:{name}")).collect();
            set.insert(&elements);
        }
        set
    }

    /// Whether no path is in the set.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds a path. The empty path is in no set.
    pub fn insert<S: AsRef<str>>(&mut self, path: &[S]) {
        if let [first, rest @ ..] = path {
            let node = self.nodes.entry(first.as_ref().into()).or_default();
            match rest {
                [] => node.member = true,
                _ => node.children.insert(rest),
            }
        }
    }

    /// Adds everything of `other` below `element`.
    pub(crate) fn graft(&mut self, element: &str, member: bool, children: FieldSet) {
        if member || !children.is_empty() {
            let node = self.nodes.entry(element.into()).or_default();
            node.member |= member;
            node.children.absorb(children);
        }
    }

    fn absorb(&mut self, other: FieldSet) {
        for (element, node) in other.nodes {
            match self.nodes.entry(element) {
                Entry::Vacant(place) => {
                    place.insert(node);
                }
                Entry::Occupied(mut place) => {
                    place.get_mut().member |= node.member;
                    place.get_mut().children.absorb(node.children);
                }
            }
        }
    }

    /// Whether the path of this single element is in the set.
    pub(crate) fn has(&self, element: &str) -> bool {
        self.nodes.get(element).is_some_and(|n| n.member)
    }

    /// The part of the set below an element.
    pub(crate) fn below(&self, element: &str) -> Option<&FieldSet> {
        self.nodes.get(element).map(|n| &n.children).filter(|c| !c.is_empty())
    }

    /// Elements with what lies below them.
    pub(crate) fn elements(&self) -> impl Iterator<Item = (&str, &FieldSet)> {
        self.nodes.iter().map(|(element, node)| (element.as_ref(), &node.children))
    }

    /// Paths in either.
    pub fn union(&self, other: &FieldSet) -> FieldSet {
        let mut result = self.clone();
        result.absorb(other.clone());
        result
    }

    /// Paths in `self` and not in `other`.
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        self.filter(other, |in_other| !in_other)
    }

    /// Paths in both.
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        self.filter(other, |in_other| in_other)
    }

    fn filter(&self, other: &FieldSet, keep: fn(bool) -> bool) -> FieldSet {
        static NOTHING: Node = Node { member: false, children: FieldSet { nodes: BTreeMap::new() } };
        let mut result = FieldSet::new();
        for (element, node) in &self.nodes {
            let theirs = other.nodes.get(element).unwrap_or(&NOTHING);
            let member = node.member && keep(theirs.member);
            result.graft(element, member, node.children.filter(&theirs.children, keep));
        }
        result
    }

    /// `self` without the paths of `other` and everything below them.
    pub fn recursive_difference(&self, other: &FieldSet) -> FieldSet {
        let mut result = FieldSet::new();
        for (element, node) in &self.nodes {
            match other.nodes.get(element) {
                Some(theirs) if theirs.member => {}
                Some(theirs) => {
                    result.graft(element, node.member, node.children.recursive_difference(&theirs.children));
                }
                None => result.graft(element, node.member, node.children.clone()),
            }
        }
        result
    }

    /// Every path, written for people: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.collect(&mut String::new(), &mut found);
        found
    }

    fn collect(&self, prefix: &mut String, found: &mut Vec<String>) {
        for (element, node) in &self.nodes {
            let length = prefix.len();
            prefix.push_str(&describe(element));
            if node.member {
                found.push(prefix.clone());
            }
            node.children.collect(prefix, found);
            prefix.truncate(length);
        }
    }

    /// The `FieldsV1` form.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        for (element, node) in &self.nodes {
            let mut below = match node.children.to_json() {
                Value::Object(map) => map,
                _ => Map::new(),
            };
            if node.member && !below.is_empty() {
                below.insert(".".into(), Value::Object(Map::new()));
            }
            map.insert(element.to_string(), Value::Object(below));
        }
        Value::Object(map)
    }

    /// Reads the `FieldsV1` form. What is not of that form gives `None`.
    pub fn from_json(value: &Value) -> Option<FieldSet> {
        let mut set = FieldSet::new();
        for (element, below) in value.as_object()? {
            if element == "." {
                continue;
            }
            let map = below.as_object()?;
            let member = map.is_empty() || map.contains_key(".");
            let node = Node { member, children: FieldSet::from_json(below)? };
            set.nodes.insert(canonical(element)?, node);
        }
        Some(set)
    }
}

/// The element with its JSON part rewritten without spaces and with sorted keys.
fn canonical(element: &str) -> Option<Box<str>> {
    let (kind, rest) = element.split_at_checked(2)?;
    match kind {
        "f:" | "i:" => Some(element.into()),
        "k:" | "v:" => {
            let value: Value = serde_json::from_str(rest).ok()?;
            Some(format!("{kind}{value}").into())
        }
        _ => None,
    }
}

fn describe(element: &str) -> String {
    let (kind, rest) = element.split_at_checked(2).unwrap_or(("", element));
    match kind {
        "k:" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let parts: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("[{}]", parts.join(","))
        }
        "v:" => format!("[={rest}]"),
        "i:" => format!("[{rest}]"),
        _ => format!(".{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(value: Value) -> FieldSet {
        FieldSet::from_json(&value).unwrap()
    }

    #[test]
    fn json_round_trips_and_is_canonical() {
        let value = json!({"f:spec": {"f:ports": {".": {}, "k:{\"protocol\":\"TCP\", \"containerPort\":80}": {".": {}, "f:name": {}}}}});
        let canonical = json!({"f:spec": {"f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}}}}});
        assert_eq!(set(value).to_json(), canonical);
        assert_eq!(FieldSet::from_json(&json!({"x": {}})), None);
        assert_eq!(FieldSet::from_json(&json!({"f:a": 1})), None);
    }

    #[test]
    fn set_algebra_by_table() {
        let a = set(json!({"f:a": {}, "f:b": {".": {}, "f:c": {}}}));
        let b = set(json!({"f:b": {}, "f:d": {}}));
        assert_eq!(a.union(&b), set(json!({"f:a": {}, "f:b": {".": {}, "f:c": {}}, "f:d": {}})));
        assert_eq!(a.difference(&b), set(json!({"f:a": {}, "f:b": {"f:c": {}}})));
        assert_eq!(a.intersection(&b), set(json!({"f:b": {}})));
        assert_eq!(a.recursive_difference(&b), set(json!({"f:a": {}})));
        assert!(a.difference(&a).is_empty());
    }

    #[test]
    fn paths_are_readable() {
        let fields = set(
            json!({"f:spec": {"f:c": {"k:{\"name\":\"x\"}": {".": {}, "f:image": {}}}, "f:f": {"v:\"y\"": {}}}}),
        );
        assert_eq!(fields.paths(), [".spec.c[name=\"x\"]", ".spec.c[name=\"x\"].image", ".spec.f[=\"y\"]"]);
    }
}
