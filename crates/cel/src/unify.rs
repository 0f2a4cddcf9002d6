//! Which types agree, and what free types come to be by agreeing.

use std::collections::HashMap;
use std::sync::Arc;

use crate::types::Type;

/// What is known of free types.
#[derive(Debug, Default)]
pub(crate) struct Bound {
    known: HashMap<u32, Type>,
    next: u32,
    /// What was known before what was learnt last, to take it back.
    learnt: Vec<(u32, Option<Type>)>,
}

impl Bound {
    /// A new free type.
    pub(crate) fn fresh(&mut self) -> Type {
        self.next += 1;
        Type::Free(self.next - 1)
    }

    /// The type with what is known put in; with `close`, what stays free becomes dyn.
    pub(crate) fn settle(&self, of: &Type, close: bool) -> Type {
        match of {
            Type::Free(n) => match self.known.get(n) {
                Some(known) => self.settle(known, close),
                None if close => Type::Dyn,
                None => of.clone(),
            },
            Type::List(of) => Type::list(self.settle(of, close)),
            Type::Optional(of) => Type::optional(self.settle(of, close)),
            Type::Map(of) => Type::map(self.settle(&of.0, close), self.settle(&of.1, close)),
            Type::Type(Some(of)) => Type::Type(Some(Arc::new(self.settle(of, close)))),
            other => other.clone(),
        }
    }

    /// Whether all pairs agree; only then is what was learnt kept.
    pub(crate) fn agree_all<'t>(&mut self, pairs: impl Iterator<Item = (&'t Type, &'t Type)>) -> bool {
        self.learnt.clear();
        for (one, other) in pairs {
            if !self.agree(one, other) {
                while let Some((n, before)) = self.learnt.pop() {
                    match before {
                        Some(before) => self.known.insert(n, before),
                        None => self.known.remove(&n),
                    };
                }
                return false;
            }
        }
        true
    }

    fn learn(&mut self, n: u32, of: Type) {
        let before = self.known.insert(n, of);
        self.learnt.push((n, before));
    }

    /// Whether a value of one type can be where the other is expected.
    pub(crate) fn agrees(&mut self, one: &Type, other: &Type) -> bool {
        self.agree_all(std::iter::once((one, other)))
    }

    fn agree(&mut self, one: &Type, other: &Type) -> bool {
        if let Type::Free(n) = other {
            let known = self.known.contains_key(n);
            if self.bind(one, *n) {
                return true;
            }
            if known {
                return false;
            }
        }
        if let Type::Free(n) = one {
            return self.bind(other, *n);
        }
        match (one, other) {
            (one, other) if one.is_dyn() || other.is_dyn() => true,
            (Type::Null, of) | (of, Type::Null) => matches!(
                of,
                Type::Null
                    | Type::Object(_)
                    | Type::Named(_)
                    | Type::Optional(_)
                    | Type::Timestamp
                    | Type::Duration
            ),
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.agree(a, b),
            (Type::Map(a), Type::Map(b)) => self.agree(&a.0, &b.0) && self.agree(&a.1, &b.1),
            // Types as values compare with each other, whatever they are the types of.
            (Type::Type(_), Type::Type(_)) => true,
            (one, other) => one == other,
        }
    }

    /// Whether a free type can be this.
    fn bind(&mut self, of: &Type, n: u32) -> bool {
        if *of == Type::Free(n) {
            return true;
        }
        match self.known.get(&n).cloned() {
            Some(known) => {
                if *of == known {
                    return true;
                }
                if !self.agree(of, &known) {
                    return false;
                }
                let general = most_general(of, &known);
                if !self.mentions(&general, n) {
                    self.learn(n, general);
                }
                true
            }
            None if self.mentions(of, n) => false,
            None => {
                self.learn(n, of.clone());
                true
            }
        }
    }

    fn mentions(&self, of: &Type, n: u32) -> bool {
        match of {
            Type::Free(m) => *m == n || self.known.get(m).is_some_and(|known| self.mentions(known, n)),
            Type::List(of) | Type::Optional(of) | Type::Type(Some(of)) => self.mentions(of, n),
            Type::Map(of) => self.mentions(&of.0, n) || self.mentions(&of.1, n),
            _ => false,
        }
    }
}

/// The wider of two types that agree.
pub(crate) fn most_general(one: &Type, other: &Type) -> Type {
    if covers(one, other) { one.clone() } else { other.clone() }
}

fn covers(one: &Type, other: &Type) -> bool {
    match (one, other) {
        (Type::Free(_), _) => true,
        (one, _) if one.is_dyn() => true,
        (_, Type::Free(_)) => false,
        (_, other) if other.is_dyn() => false,
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => covers(a, b),
        (Type::Map(a), Type::Map(b)) => covers(&a.0, &b.0) && covers(&a.1, &b.1),
        (one, other) => one == other,
    }
}
