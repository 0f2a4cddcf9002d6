//! The tree of an expression, as the parser makes it with macros already expanded.

use std::sync::Arc;

/// Names the accumulator of expanded macros; no source text can spell it.
pub(crate) const RESULT: &str = "@result";

/// A node. `id` numbers the nodes of one expression, `at` is the character in the source it is reported at.
#[derive(Clone, Debug)]
pub(crate) struct Expr {
    pub id: u32,
    pub at: u32,
    /// Levels of nodes from here down.
    pub depth: u16,
    pub kind: Kind,
}

/// A constant.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
}

/// What a node is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Literal(Literal),
    Ident(Arc<str>),
    /// `operand.field`, or with `test` the question whether it is there.
    Select {
        operand: Box<Expr>,
        field: Arc<str>,
        test: bool,
    },
    Call {
        function: Arc<str>,
        target: Option<Box<Expr>>,
        args: Vec<Expr>,
    },
    /// Elements, and whether each is optional.
    List(Vec<(Expr, bool)>),
    Map(Vec<Entry>),
    Struct {
        name: Arc<str>,
        fields: Vec<Field>,
    },
    Fold(Box<Fold>),
}

/// `key: value` of a map.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key: Expr,
    pub value: Expr,
    pub optional: bool,
}

/// `name: value` of an object; `at` is where the name stands.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub at: u32,
    pub name: Arc<str>,
    pub value: Expr,
    pub optional: bool,
}

/// A loop over `range` with an accumulator: what every macro comes down to.
#[derive(Clone, Debug)]
pub(crate) struct Fold {
    pub range: Expr,
    /// The element of a list or the key of a map; with `second`, the index or key.
    pub first: Arc<str>,
    /// The value beside the index or key.
    pub second: Option<Arc<str>>,
    pub accumulator: Arc<str>,
    pub init: Expr,
    /// The loop goes on while this is true.
    pub condition: Expr,
    pub step: Expr,
    pub result: Expr,
}

impl Kind {
    /// Calls with every direct child.
    pub(crate) fn children<'a>(&'a self, mut see: impl FnMut(&'a Expr)) {
        match self {
            Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select { operand, .. } => see(operand),
            Kind::Call { target, args, .. } => {
                target.iter().for_each(|t| see(t));
                args.iter().for_each(see);
            }
            Kind::List(items) => items.iter().for_each(|(item, _)| see(item)),
            Kind::Map(entries) => entries.iter().for_each(|e| {
                see(&e.key);
                see(&e.value);
            }),
            Kind::Struct { fields, .. } => fields.iter().for_each(|f| see(&f.value)),
            Kind::Fold(fold) => {
                for part in [&fold.range, &fold.init, &fold.condition, &fold.step, &fold.result] {
                    see(part);
                }
            }
        }
    }
}

impl Expr {
    /// How many nodes there are from here down.
    pub(crate) fn size(&self) -> usize {
        let mut size = 1;
        self.kind.children(|child| size += child.size());
        size
    }

    /// The dotted name this spells, if it is only names.
    pub(crate) fn dotted(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident(name) => Some(name.to_string()),
            Kind::Select { operand, field, test: false } => {
                let mut name = operand.dotted()?;
                name.push('.');
                name.push_str(field);
                Some(name)
            }
            _ => None,
        }
    }

    /// The text, of a text constant.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Literal(Literal::String(text)) => Some(text),
            _ => None,
        }
    }
}
