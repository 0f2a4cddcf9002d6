//! Sets of field paths: who owns what in an object, in the form of `metadata.managedFields[].fieldsV1`.
//!
//! A path is a sequence of elements written as in `FieldsV1`: `f:name` for a field or map key, `k:{…}` for an item of
//! an associative list, `v:…` for a member of a set, `i:n` for a position. Elements are kept in that very text,
//! in canonical form, so that reading, comparing and writing a set needs no other representation.

use serde_json::{Map, Value};

/// A set of paths, as a tree. The elements at each place are sorted: sets are small, and made and merged far more
/// often than searched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    nodes: Vec<Node>,
}

/// What a set says of one element and what lies below it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    element: Box<str>,
    /// The path that ends here is in the set.
    member: bool,
    children: FieldSet,
}

/// The element of a field or map key.
pub(crate) fn field_element(name: &str) -> String {
    let mut element = String::with_capacity(name.len() + 2);
    element.push_str("f:");
    element.push_str(name);
    element
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
            let elements: Vec<String> = path.split('.').map(field_element).collect();
            set.insert(&elements);
        }
        set
    }

    /// Whether no path is in the set.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Where an element is, or would be.
    fn place(&self, element: &str) -> Result<usize, usize> {
        // Most sets are made in order.
        match self.nodes.last() {
            Some(last) if *last.element < *element => Err(self.nodes.len()),
            _ => self.nodes.binary_search_by(|node| (*node.element).cmp(element)),
        }
    }

    fn node(&self, element: &str) -> Option<&Node> {
        self.nodes.get(self.place(element).ok()?)
    }

    /// Adds a path. The empty path is in no set.
    pub fn insert<S: AsRef<str>>(&mut self, path: &[S]) {
        let [first, rest @ ..] = path else { return };
        let at = self.place(first.as_ref()).unwrap_or_else(|at| {
            let node = Node { element: first.as_ref().into(), member: false, children: FieldSet::new() };
            self.nodes.insert(at, node);
            at
        });
        match rest {
            [] => self.nodes[at].member = true,
            _ => self.nodes[at].children.insert(rest),
        }
    }

    /// Takes out one path, and not what lies below it.
    pub(crate) fn withdraw(&mut self, path: &[&str]) {
        let [first, rest @ ..] = path else { return };
        let Ok(at) = self.place(first) else { return };
        let node = &mut self.nodes[at];
        match rest {
            [] => node.member = false,
            _ => node.children.withdraw(rest),
        }
        if !node.member && node.children.is_empty() {
            self.nodes.remove(at);
        }
    }

    /// Adds everything of `other` below `element`.
    pub(crate) fn graft(
        &mut self,
        element: impl Into<Box<str>> + AsRef<str>,
        member: bool,
        children: FieldSet,
    ) {
        if !member && children.is_empty() {
            return;
        }
        match self.place(element.as_ref()) {
            Ok(at) => {
                self.nodes[at].member |= member;
                self.nodes[at].children.absorb(children);
            }
            Err(at) => self.nodes.insert(at, Node { element: element.into(), member, children }),
        }
    }

    /// Puts what lies at `element`, instead of what was there.
    pub(crate) fn put(&mut self, element: String, member: bool, children: FieldSet) {
        if let Ok(at) = self.place(&element) {
            self.nodes.remove(at);
        }
        self.graft(element, member, children);
    }

    /// Adds the paths of `other`.
    pub(crate) fn absorb(&mut self, other: FieldSet) {
        if self.nodes.is_empty() {
            self.nodes = other.nodes;
            return;
        }
        for node in other.nodes {
            match self.place(&node.element) {
                Ok(at) => {
                    self.nodes[at].member |= node.member;
                    self.nodes[at].children.absorb(node.children);
                }
                Err(at) => self.nodes.insert(at, node),
            }
        }
    }

    /// Whether the path of this single element is in the set.
    pub(crate) fn has(&self, element: &str) -> bool {
        self.node(element).is_some_and(|n| n.member)
    }

    /// The part of the set below an element.
    pub(crate) fn below(&self, element: &str) -> Option<&FieldSet> {
        self.node(element).map(|n| &n.children).filter(|c| !c.is_empty())
    }

    /// Elements with what lies below them.
    pub(crate) fn elements(&self) -> impl Iterator<Item = (&str, &FieldSet)> {
        self.nodes.iter().map(|node| (&*node.element, &node.children))
    }

    /// Whether every path of `other` is in the set.
    pub(crate) fn covers(&self, other: &FieldSet) -> bool {
        other.nodes.iter().all(|theirs| match self.node(&theirs.element) {
            Some(node) => (node.member || !theirs.member) && node.children.covers(&theirs.children),
            None => false,
        })
    }

    /// Paths in either.
    pub fn union(&self, other: &FieldSet) -> FieldSet {
        let mut result = self.clone();
        result.absorb(other.clone());
        result
    }

    /// Paths in `self` and not in `other`.
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        let mut result = self.clone();
        result.subtract(other);
        result
    }

    /// Takes out the paths of `other`.
    pub(crate) fn subtract(&mut self, other: &FieldSet) {
        if other.is_empty() {
            return;
        }
        self.nodes.retain_mut(|node| {
            if let Some(theirs) = other.node(&node.element) {
                node.member &= !theirs.member;
                node.children.subtract(&theirs.children);
            }
            node.member || !node.children.is_empty()
        });
    }

    /// Whether a path is in this set and in one of the canonical `FieldsV1` form.
    pub(crate) fn overlaps(&self, written: &Value) -> bool {
        let Some(written) = written.as_object() else { return false };
        self.nodes.iter().any(|node| {
            written.get(&*node.element).is_some_and(|below| {
                let member = below.as_object().is_some_and(|map| map.is_empty() || map.contains_key("."));
                node.member && member || node.children.overlaps(below)
            })
        })
    }

    /// Paths in both.
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let both = |node: &Node| {
            let theirs = other.node(&node.element)?;
            let member = node.member && theirs.member;
            let children = node.children.intersection(&theirs.children);
            let some = member || !children.is_empty();
            some.then(|| Node { element: node.element.clone(), member, children })
        };
        FieldSet { nodes: self.nodes.iter().filter_map(both).collect() }
    }

    /// Takes out the paths of `other` and everything below them.
    pub fn subtract_below(&mut self, other: &FieldSet) {
        if other.is_empty() {
            return;
        }
        self.nodes.retain_mut(|node| match other.node(&node.element) {
            Some(theirs) if theirs.member => false,
            Some(theirs) => {
                node.children.subtract_below(&theirs.children);
                node.member || !node.children.is_empty()
            }
            None => true,
        });
    }

    /// Every path, written for people: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.collect(&mut String::new(), &mut found);
        found
    }

    fn collect(&self, prefix: &mut String, found: &mut Vec<String>) {
        for node in &self.nodes {
            let length = prefix.len();
            prefix.push_str(&describe(&node.element));
            if node.member {
                found.push(prefix.clone());
            }
            node.children.collect(prefix, found);
            prefix.truncate(length);
        }
    }

    /// The `FieldsV1` form.
    pub fn to_json(&self) -> Value {
        self.clone().into_json()
    }

    /// The `FieldsV1` form, of the set's own texts.
    pub(crate) fn into_json(self) -> Value {
        let mut map = Map::new();
        for node in self.nodes {
            let mut below = match node.children.into_json() {
                Value::Object(map) => map,
                _ => Map::new(),
            };
            if node.member && !below.is_empty() {
                below.insert(".".into(), Value::Object(Map::new()));
            }
            map.insert(node.element.into_string(), Value::Object(below));
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
            let node = Node { element: canonical(element)?, member, children: FieldSet::from_json(below)? };
            match set.place(&node.element) {
                Ok(at) => set.nodes[at] = node,
                Err(at) => set.nodes.insert(at, node),
            }
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
        let mut c = a.clone();
        c.subtract_below(&b);
        assert_eq!(c, set(json!({"f:a": {}})));
        assert!(a.difference(&a).is_empty());
        let mut d = a.clone();
        d.withdraw(&["f:b"]);
        assert_eq!(d, set(json!({"f:a": {}, "f:b": {"f:c": {}}})));
        d.withdraw(&["f:b", "f:c"]);
        assert_eq!(d, set(json!({"f:a": {}})));
        assert!(a.overlaps(&b.to_json()) && b.overlaps(&a.to_json()) && !d.overlaps(&b.to_json()));
        assert!(a.covers(&d) && !d.covers(&a) && !a.covers(&b));
    }

    #[test]
    fn paths_are_readable() {
        let fields = set(
            json!({"f:spec": {"f:c": {"k:{\"name\":\"x\"}": {".": {}, "f:image": {}}}, "f:f": {"v:\"y\"": {}}}}),
        );
        assert_eq!(fields.paths(), [".spec.c[name=\"x\"]", ".spec.c[name=\"x\"].image", ".spec.f[=\"y\"]"]);
    }
}
