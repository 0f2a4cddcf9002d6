//! The `Schema` graph: what one value may look like and how every engine treats it.
//!
//! Built-in kinds and CustomResourceDefinitions compile to the same graph. Object types are reached through
//! [`ObjectRef`], which resolves on first use, so recursive types work and unused types cost nothing.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

/// Text that is a slice of the compiled-in facts for built-in kinds, and owned for CRDs.
pub type Text = Cow<'static, str>;

/// The form of a value.
#[derive(Clone, Debug)]
pub enum Type {
    /// `true` or `false`.
    Bool,
    /// A 32-bit signed integer.
    Int32,
    /// A 64-bit signed integer.
    Int64,
    /// A number.
    Float,
    /// Text.
    String,
    /// Base64 text in JSON, raw bytes in protobuf.
    Bytes,
    /// A `resource.Quantity`: text or a number in JSON.
    Quantity,
    /// An integer or text.
    IntOrString,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// A Go duration such as `1m30s`.
    Duration,
    /// Any JSON; in protobuf a message whose field 1 holds the JSON text.
    Raw,
    /// Any JSON without a protobuf form.
    Any,
    /// A JSON object with known fields.
    Object(ObjectRef),
    /// A JSON object whose keys are free and whose values share a schema.
    Map(Arc<Schema>),
    /// A JSON array.
    List(Arc<Schema>),
    /// Protobuf wraps this list of strings into a message of its own (`ExtraValue`, `Verbs`).
    WrappedStrings(Arc<Schema>),
    /// A JSON schema or something simpler.
    Either(Either, ObjectRef),
}

/// The simpler alternative to a JSON schema in the few fields of `JSONSchemaProps` that have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Either {
    /// Schema or boolean.
    Bool,
    /// Schema or list of schemas.
    Schemas,
    /// Schema or list of strings.
    Strings,
}

/// How server-side apply sees a list, and what must be unique in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// Replaced as a whole.
    #[default]
    Atomic,
    /// Unique scalars.
    Set,
    /// Unique by these keys.
    Map(Vec<Text>),
}

/// Strategic-merge directives of one field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// `merge`: lists merge by [`Patch::key`] (or as sets of scalars).
    pub merge: bool,
    /// `retainKeys`.
    pub retain_keys: bool,
    /// `replace`.
    pub replace: bool,
    /// The merge key of list items.
    pub key: Option<Text>,
}

/// A value's schema. Attributes rarely used sit in [`Rules`].
#[derive(Clone, Debug)]
pub struct Schema {
    /// The form.
    pub ty: Type,
    /// List semantics; meaningful for lists only.
    pub list: ListType,
    /// Whether an object or map is replaced as a whole by apply.
    pub atomic: bool,
    /// Whether an object of an atomic type is merged field by field here all the same.
    pub granular: bool,
    /// Strategic-merge directives.
    pub patch: Patch,
    /// Whether an explicit null is kept (CRDs).
    pub nullable: bool,
    /// `x-kubernetes-preserve-unknown-fields`.
    pub preserve_unknown: bool,
    /// `x-kubernetes-embedded-resource`.
    pub embedded: bool,
    /// Everything else, absent for most values.
    pub rules: Option<Box<Rules>>,
}

/// Defaults, limits and words about a value.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Put in place of an absent value.
    pub default: Option<Value>,
    /// The values allowed; empty means all.
    pub enumeration: Vec<Value>,
    /// Inclusive unless `exclusive_minimum`.
    pub minimum: Option<f64>,
    /// Inclusive unless `exclusive_maximum`.
    pub maximum: Option<f64>,
    /// See `minimum`.
    pub exclusive_minimum: bool,
    /// See `maximum`.
    pub exclusive_maximum: bool,
    /// The value is a multiple of this.
    pub multiple_of: Option<f64>,
    /// In Unicode code points.
    pub min_length: Option<u64>,
    /// In Unicode code points.
    pub max_length: Option<u64>,
    /// List items.
    pub min_items: Option<u64>,
    /// List items.
    pub max_items: Option<u64>,
    /// Object keys.
    pub min_properties: Option<u64>,
    /// Object keys.
    pub max_properties: Option<u64>,
    /// A regular expression found anywhere in the text.
    pub pattern: Option<Text>,
    /// The compiled pattern, made on first use; `None` if it does not compile.
    pub regex: OnceLock<Option<regex_automata::meta::Regex>>,
    /// An OpenAPI format name.
    pub format: Option<Text>,
    /// Required in the sense of OpenAPI: names of an object's fields (CRD value validations).
    pub required: Vec<Text>,
    /// Whether the value may not change on update.
    pub immutable: bool,
    /// Whether JSON Schema's `uniqueItems` holds.
    pub unique_items: bool,
    /// CRD value validations.
    pub all_of: Vec<Schema>,
    /// CRD value validations.
    pub any_of: Vec<Schema>,
    /// CRD value validations.
    pub one_of: Vec<Schema>,
    /// CRD value validations.
    pub not: Option<Box<Schema>>,
    /// `x-kubernetes-validations`, as they are published.
    pub expressions: Vec<Value>,
    /// At the root of a custom resource's schema, all of its expressions; `None` if there are none.
    pub rule_tree: Option<Arc<crate::expressions::Lazy>>,
    /// A sentence for `explain`.
    pub description: Option<Text>,
}

/// How a zero value is written by the canonical form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Emit {
    /// Left out when empty, false, 0 or absent; plain structs are always written.
    #[default]
    OmitEmpty,
    /// Always written.
    Keep,
    /// Left out when zero, structs too.
    OmitZero,
}

/// A field of an object.
#[derive(Clone, Debug)]
pub struct Field {
    /// The JSON name.
    pub name: Text,
    /// The protobuf tag; 0 means the field has none.
    pub tag: u32,
    /// Whether absence differs from the zero value.
    pub pointer: bool,
    /// What the canonical form does with a zero value.
    pub emit: Emit,
    /// OpenAPI's `required`.
    pub required: bool,
    /// The type whose Go struct declares the field; differs from the object's own for inlined fields.
    pub owner: Text,
    /// The value's schema.
    pub schema: Schema,
}

/// One step of an object's protobuf encoding, in tag order.
#[derive(Clone, Debug)]
pub enum Wire {
    /// `fields[i]` under its own tag.
    Field(usize),
    /// Fields that are flat in JSON but a nested message in protobuf.
    Inline(u32, Arc<Object>),
}

/// An object type with known fields.
#[derive(Clone, Debug)]
pub struct Object {
    /// The short type name, such as `PodSpec`.
    pub name: Text,
    /// The module of the facts, such as `core_v1`; empty for CRDs.
    pub module: Text,
    /// Fields in declaration order, inlined ones flattened.
    pub fields: Vec<Field>,
    /// Protobuf order.
    pub wire: Vec<Wire>,
    /// Whether apply replaces the object as a whole wherever it is used.
    pub atomic: bool,
    /// Whether this is an API object with `apiVersion`, `kind`.
    pub root: bool,
    /// Conditional defaults.
    pub hook: Option<Hook>,
    /// Fields that have a canonical value even when absent.
    pub(crate) written: Box<[u16]>,
    /// Whether anything below has a default.
    pub(crate) defaults_below: OnceLock<bool>,
    /// The mark of each field's name and its position, in the order of marks.
    by_name: Box<[(u32, u16)]>,
}

impl Field {
    /// Whether the canonical form has the field even when it is absent.
    pub(crate) fn is_always_written(&self) -> bool {
        // Structs cannot be empty in Go.
        let structure = matches!(
            self.schema.ty,
            Type::Object(_) | Type::Time | Type::MicroTime | Type::Quantity | Type::IntOrString | Type::Raw
        );
        match self.emit {
            Emit::OmitZero => false,
            Emit::Keep => true,
            Emit::OmitEmpty => structure && !self.pointer,
        }
    }
}

/// What tells most names apart without a look at all of them: the length and three letters.
fn mark(name: &str) -> u32 {
    let bytes = name.as_bytes();
    let at = |i: usize| bytes.get(i).copied().unwrap_or(0);
    u32::from_be_bytes([bytes.len() as u8, at(0), at(bytes.len() / 2), at(bytes.len().saturating_sub(1))])
}

impl Object {
    /// Builds the lookup tables. `inline` are the messages nested in protobuf only.
    pub fn new(name: Text, module: Text, fields: Vec<Field>, inline: Vec<(u32, Arc<Object>)>) -> Object {
        let own = fields.iter().enumerate().filter(|(_, f)| f.tag != 0 && f.owner == name);
        let mut wire: Vec<(u32, Wire)> = own.map(|(i, f)| (f.tag, Wire::Field(i))).collect();
        wire.extend(inline.into_iter().map(|(tag, o)| (tag, Wire::Inline(tag, o))));
        wire.sort_by_key(|(tag, _)| *tag);
        let mut by_name: Vec<(u32, u16)> =
            (0..u16::MAX).zip(&fields).map(|(i, f)| (mark(&f.name), i)).collect();
        by_name.sort_unstable();
        let written =
            (0..fields.len()).filter(|i| fields[*i].is_always_written()).map(|i| i as u16).collect();
        Object {
            name,
            module,
            written,
            defaults_below: OnceLock::new(),
            fields,
            wire: wire.into_iter().map(|(_, w)| w).collect(),
            atomic: false,
            root: false,
            hook: None,
            by_name: by_name.into(),
        }
    }

    /// The field of this JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.index(name).map(|i| &self.fields[i])
    }

    /// The position in [`Object::fields`] of the field of this JSON name.
    pub fn index(&self, name: &str) -> Option<usize> {
        let mark = mark(name);
        let first = self.by_name.partition_point(|(own, _)| *own < mark);
        let alike = self.by_name[first..].iter().take_while(|(own, _)| *own == mark);
        alike.map(|(_, at)| *at as usize).find(|at| self.fields[*at].name == name)
    }
}

/// Completes a value of one object type, after its plain defaults.
pub type Hook = fn(&mut serde_json::Map<String, Value>);

/// Finds an object type by its full name, such as `core_v1.PodSpec`.
pub type Resolver = fn(&str) -> Option<Arc<Object>>;

/// A reference to an object type that is resolved on first use.
#[derive(Clone)]
pub struct ObjectRef {
    name: Text,
    cell: OnceLock<Arc<Object>>,
    resolver: Option<Resolver>,
}

impl ObjectRef {
    /// A reference by full name.
    pub fn lazy(name: impl Into<Text>, resolver: Resolver) -> ObjectRef {
        ObjectRef { name: name.into(), cell: OnceLock::new(), resolver: Some(resolver) }
    }

    /// A reference to an object at hand.
    pub fn of(object: Arc<Object>) -> ObjectRef {
        let name = object.name.clone();
        ObjectRef { name, cell: OnceLock::from(object), resolver: None }
    }

    /// The full name, such as `core_v1.PodSpec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The object. An unknown name gives an object without fields; a test over all facts rules that out.
    pub fn get(&self) -> &Arc<Object> {
        self.cell.get_or_init(|| {
            let found = self.resolver.and_then(|r| r(&self.name));
            found.unwrap_or_else(|| {
                Arc::new(Object::new(self.name.clone(), Text::Borrowed(""), Vec::new(), Vec::new()))
            })
        })
    }
}

impl fmt::Debug for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectRef({})", self.name)
    }
}

impl Schema {
    /// A schema without attributes.
    pub fn new(ty: Type) -> Schema {
        Schema {
            ty,
            list: ListType::Atomic,
            atomic: false,
            granular: false,
            patch: Patch::default(),
            nullable: false,
            preserve_unknown: false,
            embedded: false,
            rules: None,
        }
    }

    /// The object type, if this is an object with known fields.
    pub fn object(&self) -> Option<&Object> {
        match &self.ty {
            Type::Object(o) => Some(o.get()),
            _ => None,
        }
    }

    /// The schema of a field (objects) or of any value (maps).
    pub fn field(&self, name: &str) -> Option<&Schema> {
        match &self.ty {
            Type::Object(o) => o.get().field(name).map(|f| &f.schema),
            Type::Map(value) => Some(value),
            _ => None,
        }
    }

    /// The schema of list items or map values.
    pub fn item(&self) -> Option<&Schema> {
        match &self.ty {
            Type::List(item) | Type::Map(item) | Type::WrappedStrings(item) => Some(item),
            _ => None,
        }
    }

    /// Follows field names from here; `[]` steps into list items. `spec.containers[].name` works.
    pub fn at(&self, path: &str) -> Option<&Schema> {
        let mut here = self;
        for part in path.split('.').filter(|p| !p.is_empty()) {
            let name = part.trim_end_matches("[]");
            if !name.is_empty() {
                here = here.field(name)?;
            }
            for _ in 0..(part.len() - name.len()) / 2 {
                here = here.item()?;
            }
        }
        Some(here)
    }

    /// Whether the value is a JSON array.
    pub fn is_list(&self) -> bool {
        matches!(self.ty, Type::List(_) | Type::WrappedStrings(_))
    }

    /// Whether the value is a JSON object (known fields or map).
    pub fn is_object(&self) -> bool {
        matches!(self.ty, Type::Object(_) | Type::Map(_))
    }

    /// Apply's list semantics.
    pub fn list_type(&self) -> &ListType {
        &self.list
    }

    /// The keys of an associative list; empty for other lists.
    pub fn list_keys(&self) -> &[Text] {
        match &self.list {
            ListType::Map(keys) => keys,
            _ => &[],
        }
    }

    /// Whether apply treats this map or object as one value.
    pub fn is_atomic(&self) -> bool {
        self.atomic || (!self.granular && self.object().is_some_and(|o| o.atomic))
    }

    /// Strategic-merge directives.
    pub fn patch(&self) -> &Patch {
        &self.patch
    }

    /// Strategic merge's key of list items.
    pub fn merge_key(&self) -> Option<&str> {
        self.patch.key.as_deref()
    }

    /// The default of an absent value.
    pub fn default(&self) -> Option<&Value> {
        self.rules.as_ref().and_then(|r| r.default.as_ref())
    }

    /// Limits, or the empty set of limits.
    pub fn rules(&self) -> &Rules {
        static NONE: OnceLock<Rules> = OnceLock::new();
        self.rules.as_deref().unwrap_or_else(|| NONE.get_or_init(Rules::default))
    }

    /// Limits for change while a schema is built.
    pub fn rules_mut(&mut self) -> &mut Rules {
        self.rules.get_or_insert_with(Box::default)
    }
}
