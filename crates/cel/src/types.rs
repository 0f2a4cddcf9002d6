//! Types as the checker knows them, and declarations of data that carry a type, names of fields and sizes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A type of the language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// What a faulty expression has; agrees with everything.
    Error,
    /// Known at run time only; agrees with everything.
    Dyn,
    /// `null`
    Null,
    /// `bool`
    Bool,
    /// 64 bits with sign.
    Int,
    /// 64 bits without sign.
    Uint,
    /// 64-bit floating point.
    Double,
    /// Text.
    String,
    /// Bytes.
    Bytes,
    /// A point in time.
    Timestamp,
    /// A length of time.
    Duration,
    /// A type as a value.
    Type(Option<Arc<Type>>),
    /// A list and what it holds.
    List(Arc<Type>),
    /// A map, its keys and values.
    Map(Arc<(Type, Type)>),
    /// A value that may be missing.
    Optional(Arc<Type>),
    /// An object with declared fields.
    Object(Arc<ObjectType>),
    /// A library's type, such as `kubernetes.Quantity`.
    Named(&'static str),
    /// A type to be found out while checking.
    Free(u32),
    /// A parameter of a declared function.
    Param(char),
}

/// An object's name and fields. Two are the same type if their names are.
#[derive(Clone, Debug)]
pub struct ObjectType {
    /// Name in messages.
    pub name: Arc<str>,
    /// By the name they have in expressions (see [`crate::escape`]).
    pub fields: BTreeMap<Arc<str>, FieldType>,
}

/// A field of an object.
#[derive(Clone, Debug)]
pub struct FieldType {
    /// What it holds.
    pub decl: Arc<Decl>,
    /// Its name in JSON.
    pub json: Arc<str>,
}

impl PartialEq for ObjectType {
    fn eq(&self, other: &ObjectType) -> bool {
        self.name == other.name
    }
}

impl Eq for ObjectType {}

impl Type {
    /// A list of these.
    pub fn list(of: Type) -> Type {
        Type::List(Arc::new(of))
    }

    /// A map.
    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new((key, value)))
    }

    /// One that may be missing.
    pub fn optional(of: Type) -> Type {
        Type::Optional(Arc::new(of))
    }

    pub(crate) fn is_dyn(&self) -> bool {
        matches!(self, Type::Dyn | Type::Error)
    }

    /// Whether values have a constant size.
    pub(crate) fn is_scalar(&self) -> bool {
        match self {
            Type::Bool | Type::Int | Type::Uint | Type::Double | Type::Timestamp | Type::Duration => true,
            Type::Optional(of) => of.is_scalar(),
            _ => false,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::Error => "!error!",
            Type::Dyn => "dyn",
            Type::Null => "null",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Timestamp => "timestamp",
            Type::Duration => "duration",
            Type::Type(None) => "type",
            Type::Type(Some(of)) => return write!(f, "type({of})"),
            Type::List(of) => return write!(f, "list({of})"),
            Type::Map(of) => return write!(f, "map({}, {})", of.0, of.1),
            Type::Optional(of) => return write!(f, "optional_type({of})"),
            Type::Object(object) => &object.name,
            Type::Named(name) => name,
            Type::Free(n) => return write!(f, "_var{n}"),
            Type::Param(c) => return write!(f, "{c}"),
        })
    }
}

/// Sizes are counted up to this: the largest request, in bytes.
pub const REQUEST_BYTES_MAX: u64 = 3 * 1024 * 1024;

/// How elements of a list relate, which decides how lists compare and add up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    /// In order.
    #[default]
    Atomic,
    /// Each once, in any order.
    Set,
    /// By these keys, in any order.
    Map(Vec<String>),
}

/// A declaration of data: its type, how JSON becomes it, and how large it may be.
#[derive(Clone, Debug)]
pub struct Decl {
    /// What it is.
    pub kind: DeclKind,
    /// Most characters, bytes, items or entries; `u64::MAX` if nothing is known.
    pub size_max: u64,
    /// Fewest bytes it takes in JSON.
    pub bytes_min: u64,
}

/// What a declaration is of.
#[derive(Clone, Debug)]
pub enum DeclKind {
    /// A type without parts. Timestamps, durations and bytes are texts in JSON.
    Plain(Type),
    /// A list.
    List(Arc<Decl>, ListKind),
    /// A map from texts.
    Map(Arc<Decl>),
    /// An object.
    Object(Arc<ObjectType>),
}

impl Decl {
    /// Anything, of any size.
    pub fn any() -> Arc<Decl> {
        Decl::plain(Type::Dyn)
    }

    /// A type without parts; nothing is said of sizes.
    pub fn plain(of: Type) -> Arc<Decl> {
        Arc::new(Decl { kind: DeclKind::Plain(of), size_max: u64::MAX, bytes_min: 1 })
    }

    /// An object with fields of the same names as in JSON.
    pub fn object(name: &str, fields: impl IntoIterator<Item = (&'static str, Arc<Decl>)>) -> Arc<Decl> {
        let fields = fields
            .into_iter()
            .map(|(name, decl)| (Arc::from(name), FieldType { decl, json: Arc::from(name) }))
            .collect();
        let kind = DeclKind::Object(Arc::new(ObjectType { name: name.into(), fields }));
        Arc::new(Decl { kind, size_max: u64::MAX, bytes_min: 2 })
    }

    /// The type that expressions see.
    pub fn ty(&self) -> Type {
        match &self.kind {
            DeclKind::Plain(of) => of.clone(),
            DeclKind::List(of, _) => Type::list(of.ty()),
            DeclKind::Map(of) => Type::map(Type::String, of.ty()),
            DeclKind::Object(object) => Type::Object(object.clone()),
        }
    }

    /// What one step of a path leads to: a field, `@items`, `@values`.
    pub(crate) fn step(&self, name: &str) -> Option<&Decl> {
        match (&self.kind, name) {
            (DeclKind::List(of, _) | DeclKind::Map(of), "@items" | "@values") => Some(of),
            (DeclKind::Object(object), name) => object.fields.get(name).map(|f| &*f.decl),
            _ => None,
        }
    }
}
