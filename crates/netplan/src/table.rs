//! What is installed, and the smallest batch that turns it into what is wanted.
//!
//! The table is a set of *parts*, one per Service, policy group and so on. Replacing a part gives the operations
//! for exactly that part: a change of one Service among thousands costs what the Service costs. Sets and chains
//! may be shared by parts and are counted. An element that two parts claim belongs to the first one; the other
//! waits and takes over when the first lets go (two Services with one external address must not break a batch).

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::ruleset::{Bytes, Chain, Element, Part, Set};

/// One operation on the kernel's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Create a set.
    AddSet(Set),
    /// Create a chain, without rules.
    AddChain(Chain),
    /// Remove all rules of a chain.
    FlushChain(String),
    /// Remove an element.
    DelElement(Element),
    /// Append the rules of a chain.
    AddRules(Chain),
    /// Add an element.
    AddElement(Element),
    /// Remove a chain.
    DelChain(String),
    /// Remove a set.
    DelSet(String),
}

/// Operations for one transaction, in an order the kernel accepts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// The operations.
    pub ops: Vec<Op>,
    /// The table is to be emptied first: the operations are all there is.
    pub replace: bool,
}

impl Batch {
    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty() && !self.replace
    }

    fn sort(&mut self) {
        self.ops.sort_by_key(|op| match op {
            Op::AddSet(_) => 0,
            Op::AddChain(_) => 1,
            Op::FlushChain(_) => 2,
            Op::DelElement(_) => 3,
            Op::AddRules(_) => 4,
            Op::AddElement(_) => 5,
            Op::DelChain(_) => 6,
            Op::DelSet(_) => 7,
        });
    }
}

#[derive(Debug, Clone)]
struct Counted<T> {
    value: T,
    users: usize,
}

type ElementKey = (std::borrow::Cow<'static, str>, Bytes);

/// The table as installed.
#[derive(Debug, Clone, Default)]
pub struct Table {
    parts: BTreeMap<String, Part>,
    sets: HashMap<String, Counted<Set>>,
    chains: HashMap<String, Counted<Chain>>,
    /// Which part's element is in the kernel.
    owners: HashMap<ElementKey, Arc<str>>,
    /// Elements of parts that came later to a key that has an owner.
    waiting: HashMap<ElementKey, Vec<(Arc<str>, Element)>>,
}

impl Table {
    /// An empty table.
    pub fn new() -> Table {
        Table::default()
    }

    /// Names of the parts that begin with `prefix`.
    pub fn parts<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        let from = self.parts.range(prefix.to_owned()..);
        from.map(|(n, _)| n.as_str()).take_while(move |n| n.starts_with(prefix))
    }

    /// A part.
    pub fn part(&self, name: &str) -> Option<&Part> {
        self.parts.get(name)
    }

    /// Keys that more than one part claims, as text: the parts in the order of their claims.
    pub fn conflicts(&self) -> Vec<String> {
        let mut out = Vec::new();
        for (key, who) in &self.waiting {
            let first = self.owners.get(key).map(|o| o.to_string()).unwrap_or_default();
            let rest: Vec<&str> = who.iter().map(|(n, _)| &**n).collect();
            out.push(format!("{}: {first} before {}", key.0, rest.join(", ")));
        }
        out.sort();
        out
    }

    /// Replaces several parts (`None` removes one) and gives the operations for one transaction.
    pub fn replace<I: IntoIterator<Item = (String, Option<Part>)>>(&mut self, changes: I) -> Batch {
        let mut batch = Batch::default();
        let changes: Vec<_> = changes.into_iter().collect();
        // New parts first: what is shared by an old and a new part is kept, not deleted and made again.
        let mut olds = Vec::new();
        for (name, new) in changes {
            let old = self.parts.remove(&name);
            if old == new {
                if let Some(p) = old {
                    self.parts.insert(name, p);
                }
                continue;
            }
            if let Some(p) = &new {
                self.add_frames(p, &mut batch);
            }
            olds.push((name, old.unwrap_or_default(), new));
        }
        for (name, old, new) in &mut olds {
            self.swap_elements(name, old, new.as_ref(), &mut batch);
        }
        for (_, old, _) in &olds {
            self.drop_frames(old, &mut batch);
        }
        for (name, _, new) in olds {
            if let Some(p) = new {
                self.parts.insert(name, p);
            }
        }
        batch.sort();
        batch
    }

    /// The whole table, for a first installation or a resync.
    pub fn full(&self) -> Batch {
        let mut batch = Batch { ops: Vec::new(), replace: true };
        for s in self.sets.values() {
            batch.ops.push(Op::AddSet(s.value.clone()));
        }
        for c in self.chains.values() {
            batch.ops.push(Op::AddChain(c.value.clone()));
            batch.ops.push(Op::AddRules(c.value.clone()));
        }
        for (name, part) in &self.parts {
            for e in &part.elements {
                let key = (e.set.clone(), e.key.clone());
                if self.owners.get(&key).is_some_and(|o| **o == **name) {
                    batch.ops.push(Op::AddElement(e.clone()));
                }
            }
        }
        batch.sort();
        batch
    }

    fn add_frames(&mut self, part: &Part, batch: &mut Batch) {
        for set in &part.sets {
            let have =
                self.sets.entry(set.name.clone()).or_insert_with(|| Counted { value: set.clone(), users: 0 });
            if have.users == 0 {
                batch.ops.push(Op::AddSet(set.clone()));
            }
            have.users += 1;
        }
        for chain in &part.chains {
            let fresh = !self.chains.contains_key(&chain.name);
            let have = self
                .chains
                .entry(chain.name.clone())
                .or_insert_with(|| Counted { value: chain.clone(), users: 0 });
            have.users += 1;
            if fresh {
                batch.ops.push(Op::AddChain(chain.clone()));
                batch.ops.push(Op::AddRules(chain.clone()));
            } else if have.value != *chain {
                have.value = chain.clone();
                batch.ops.retain(|op| !matches!(op, Op::AddRules(c) if c.name == chain.name));
                batch.ops.push(Op::FlushChain(chain.name.clone()));
                batch.ops.push(Op::AddRules(chain.clone()));
            }
        }
    }

    fn drop_frames(&mut self, part: &Part, batch: &mut Batch) {
        for chain in &part.chains {
            let Some(have) = self.chains.get_mut(&chain.name) else { continue };
            have.users = have.users.saturating_sub(1);
            if have.users == 0 {
                self.chains.remove(&chain.name);
                batch.ops.push(Op::FlushChain(chain.name.clone()));
                batch.ops.push(Op::DelChain(chain.name.clone()));
            }
        }
        for set in &part.sets {
            let Some(have) = self.sets.get_mut(&set.name) else { continue };
            have.users = have.users.saturating_sub(1);
            if have.users == 0 {
                self.sets.remove(&set.name);
                batch.ops.push(Op::DelSet(set.name.clone()));
            }
        }
    }

    fn swap_elements(&mut self, name: &str, old: &Part, new: Option<&Part>, batch: &mut Batch) {
        let wanted: HashMap<(&str, &[u8]), &Element> = new
            .map(|p| p.elements.iter().map(|e| ((e.set.as_ref(), &*e.key), e)).collect())
            .unwrap_or_default();
        let had: HashMap<(&str, &[u8]), &Element> =
            old.elements.iter().map(|e| ((e.set.as_ref(), &*e.key), e)).collect();
        let name: Arc<str> = name.into();
        for e in &old.elements {
            match wanted.get(&(e.set.as_ref(), &*e.key)) {
                Some(n) if *n == e => {}
                Some(n) => self.update(&name, e, n, batch),
                None => self.release(&name, e, batch),
            }
        }
        for e in new.map(|p| p.elements.as_slice()).unwrap_or_default() {
            if !had.contains_key(&(e.set.as_ref(), &*e.key)) {
                self.claim(&name, e, batch);
            }
        }
    }

    fn update(&mut self, name: &Arc<str>, old: &Element, new: &Element, batch: &mut Batch) {
        let key = (old.set.clone(), old.key.clone());
        if self.owners.get(&key) == Some(name) {
            batch.ops.push(Op::DelElement(old.clone()));
            batch.ops.push(Op::AddElement(new.clone()));
        } else if let Some(who) = self.waiting.get_mut(&key) {
            who.iter_mut().filter(|(n, _)| n == name).for_each(|(_, e)| *e = new.clone());
        }
    }

    fn claim(&mut self, name: &Arc<str>, e: &Element, batch: &mut Batch) {
        let key = (e.set.clone(), e.key.clone());
        match self.owners.entry(key) {
            Entry::Occupied(first) => {
                self.waiting.entry(first.key().clone()).or_default().push((name.clone(), e.clone()));
            }
            Entry::Vacant(free) => {
                free.insert(name.clone());
                batch.ops.push(Op::AddElement(e.clone()));
            }
        }
    }

    fn release(&mut self, name: &Arc<str>, e: &Element, batch: &mut Batch) {
        let key = (e.set.clone(), e.key.clone());
        let mut who = self.waiting.remove(&key).unwrap_or_default();
        if self.owners.get(&key) == Some(name) {
            batch.ops.push(Op::DelElement(e.clone()));
            if who.is_empty() {
                self.owners.remove(&key);
            } else {
                let (heir, element) = who.remove(0);
                self.owners.insert(key.clone(), heir);
                batch.ops.push(Op::AddElement(element));
            }
        } else {
            who.retain(|(n, _)| n != name);
        }
        if !who.is_empty() {
            self.waiting.insert(key, who);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::{Data, DataKind, KeyBuilder, Type};

    fn part(ports: &[u16]) -> Part {
        let set = Set {
            name: "s".into(),
            key: vec![Type::Port],
            data: DataKind::None,
            interval: false,
            dynamic: false,
        };
        let element = |p: &u16| Element {
            set: "s".into(),
            key: KeyBuilder::new().port(*p).done(),
            end: None,
            data: Data::None,
        };
        let chain = Chain { name: format!("c{}", ports.len()), hook: None, rules: vec![] };
        Part { sets: vec![set], chains: vec![chain], elements: ports.iter().map(element).collect() }
    }

    fn names(b: &Batch) -> Vec<String> {
        b.ops
            .iter()
            .map(|op| match op {
                Op::AddSet(s) => format!("+set {}", s.name),
                Op::AddChain(c) => format!("+chain {}", c.name),
                Op::FlushChain(c) => format!("flush {c}"),
                Op::AddRules(c) => format!("rules {}", c.name),
                Op::AddElement(e) => format!("+{}", u16::from_be_bytes([e.key[0], e.key[1]])),
                Op::DelElement(e) => format!("-{}", u16::from_be_bytes([e.key[0], e.key[1]])),
                Op::DelChain(c) => format!("-chain {c}"),
                Op::DelSet(s) => format!("-set {s}"),
            })
            .collect()
    }

    #[test]
    fn only_what_changed_is_sent() {
        let mut t = Table::new();
        let b = t.replace([("a".to_owned(), Some(part(&[1, 2])))]);
        assert_eq!(names(&b), ["+set s", "+chain c2", "rules c2", "+1", "+2"]);
        let b = t.replace([("a".to_owned(), Some(part(&[2, 3])))]);
        assert_eq!(names(&b), ["-1", "+3"]);
        assert!(t.replace([("a".to_owned(), Some(part(&[2, 3])))]).is_empty());
        let b = t.replace([("a".to_owned(), None)]);
        assert_eq!(names(&b), ["flush c2", "-2", "-3", "-chain c2", "-set s"]);
        assert!(t.full().ops.is_empty());
    }

    #[test]
    fn a_contested_key_belongs_to_the_first_and_is_inherited() {
        let mut t = Table::new();
        t.replace([("a".to_owned(), Some(part(&[1])))]);
        assert!(t.replace([("b".to_owned(), Some(part(&[1])))]).is_empty());
        assert_eq!(t.conflicts(), ["s: a before b"]);
        assert_eq!(names(&t.full()).iter().filter(|n| *n == "+1").count(), 1);
        assert_eq!(names(&t.replace([("a".to_owned(), None)])), ["-1", "+1"]);
        assert_eq!(names(&t.replace([("b".to_owned(), None)])), ["flush c1", "-1", "-chain c1", "-set s"]);
    }
}
