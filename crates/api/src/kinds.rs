//! The table of built-in kinds and the words that describe a kind, built-in or custom.

use std::sync::{Arc, OnceLock};

use schema::{Schema, Text};

/// The compiled-in table.
const TABLE: &str = include_str!("../facts/kinds.table");

/// The verbs that `*` stands for, in discovery's order.
pub const ALL_VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// Where objects of a kind live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In the cluster.
    Cluster,
}

/// What bumps `metadata.generation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Generation {
    /// Never set.
    #[default]
    None,
    /// 1 on create, never bumped.
    Create,
    /// 1 on create, bumped by a change outside metadata and status.
    Content,
    /// Like content, and bumped by annotations too (Deployment).
    Annotations,
    /// Like content, and bumped by labels too (EndpointSlice).
    Labels,
    /// Not set on create, bumped like content (CSIDriver).
    Update,
}

/// How a selectable field's value becomes text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldForm {
    /// Absent is the empty text.
    Text,
    /// Absent is `false`.
    Bool,
    /// Absent is `0`.
    Int,
}

/// A field that `fieldSelector` may name (besides `metadata.name` and, if namespaced, `metadata.namespace`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectableField {
    /// The label in the selector.
    pub name: Text,
    /// The path of the value, dot-separated; of several, parted by `|`, the first with a value counts.
    pub path: Text,
    /// How the value becomes text.
    pub form: FieldForm,
}

/// A column of the Table view.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The head.
    pub name: Text,
    /// OpenAPI type: `string`, `integer`, `boolean`, `date`, `number`.
    pub ty: Text,
    /// `name` for the column that names the object, else empty.
    pub format: Text,
    /// 0 always shown, 1 wide only.
    pub priority: i32,
    /// For custom resources, the JSONPath of the value; built-in columns are computed.
    pub json_path: Option<Text>,
    /// A sentence.
    pub description: Text,
}

/// A subresource such as `scale`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// The last segment of the path.
    pub name: Text,
    /// The kind it takes and gives: group (empty for core), version, kind.
    pub kind: (Text, Text, Text),
    /// Allowed verbs.
    pub verbs: Vec<Text>,
}

/// How a kind scales (custom resources; built-in kinds use `spec.replicas` and `status.replicas`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScalePaths {
    /// Path of the wanted count, such as `.spec.replicas`.
    pub spec: String,
    /// Path of the observed count.
    pub status: String,
    /// Path of the serialized label selector.
    pub selector: Option<String>,
}

/// One served version of a kind.
#[derive(Debug)]
pub struct KindDef {
    /// API group; empty for core.
    pub group: Text,
    /// Version.
    pub version: Text,
    /// Kind.
    pub kind: Text,
    /// Kind of the list.
    pub list_kind: Text,
    /// Resource name in paths.
    pub plural: Text,
    /// Singular name.
    pub singular: Text,
    /// Short names for the command line.
    pub short_names: Vec<Text>,
    /// Categories such as `all`.
    pub categories: Vec<Text>,
    /// Namespaced or not.
    pub scope: Scope,
    /// Allowed verbs.
    pub verbs: Vec<Text>,
    /// Subresources in discovery's order.
    pub subresources: Vec<Subresource>,
    /// Selectable fields besides name and namespace.
    pub selectable: Vec<SelectableField>,
    /// Table columns; empty means the default pair of name and creation time.
    pub columns: Vec<Column>,
    /// What bumps the generation.
    pub generation: Generation,
    /// The group (empty for core) and version objects are stored as.
    pub stored: (Text, Text),
    /// Whether PUT creates what is absent.
    pub put_creates: bool,
    /// Whether PUT wants a resourceVersion.
    pub put_strict: bool,
    /// Whether this is a custom resource.
    pub custom: bool,
    /// `spec.conversion.webhook` of a custom resource whose versions a webhook converts.
    pub conversion: Option<Arc<serde_json::Value>>,
    /// Scale paths of a custom resource with the subresource.
    pub scale: Option<ScalePaths>,
    /// The full type name of a built-in kind, such as `core_v1.Pod`.
    pub type_name: Text,
    schema: OnceLock<Arc<Schema>>,
}

impl KindDef {
    /// A custom kind around its compiled schema; the caller fills the rest.
    pub fn custom(group: &str, version: &str, kind: &str, plural: &str, schema: Arc<Schema>) -> KindDef {
        let own = |s: &str| Text::Owned(s.to_string());
        KindDef {
            group: own(group),
            version: own(version),
            kind: own(kind),
            list_kind: Text::Owned(format!("{kind}List")),
            plural: own(plural),
            singular: Text::Owned(kind.to_lowercase()),
            short_names: Vec::new(),
            categories: Vec::new(),
            scope: Scope::Namespaced,
            verbs: ALL_VERBS.map(Text::Borrowed).to_vec(),
            subresources: Vec::new(),
            selectable: Vec::new(),
            columns: Vec::new(),
            generation: Generation::Content,
            stored: (own(group), own(version)),
            put_creates: false,
            put_strict: true,
            custom: true,
            conversion: None,
            scale: None,
            type_name: Text::Borrowed(""),
            schema: OnceLock::from(schema),
        }
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        join(&self.group, &self.version)
    }

    /// The schema, compiled on first use.
    pub fn schema(&self) -> &Arc<Schema> {
        self.schema.get_or_init(|| crate::types::schema_of_owned(&self.type_name))
    }

    /// Whether `namespace` belongs into its paths.
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Whether the verb is allowed on the resource itself.
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// Whether objects are stored at all (reviews and bindings are not).
    pub fn is_stored(&self) -> bool {
        self.allows("get") && self.type_name != "core_v1.ComponentStatus" && self.group != "metrics.k8s.io"
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether spec and status are written apart.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// The store's resource name: `core/pods`, `apps/deployments`; both Event kinds share `core/events`.
    pub fn resource(&self) -> String {
        let group: &str = if self.stored.0.is_empty() { "core" } else { &self.stored.0 };
        format!("{group}/{}", self.plural)
    }

    /// `pods` or `deployments.apps`, as in messages.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_string()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// Whether a selector may name the field.
    pub fn selects(&self, field: &str) -> bool {
        field == "metadata.name"
            || (field == "metadata.namespace" && self.namespaced())
            || self.selectable.iter().any(|f| f.name == field)
    }
}

/// `v1` for the core group, `group/version` otherwise.
pub fn join(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_string() } else { format!("{group}/{version}") }
}

/// Splits an `apiVersion` into group and version.
pub fn split(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

fn group_of(text: &'static str) -> (Text, Text) {
    let (group, version) = text.split_once('/').unwrap_or(("", text));
    (Text::Borrowed(if group == "core" { "" } else { group }), Text::Borrowed(version))
}

fn words(list: &'static str) -> Vec<Text> {
    list.split(',').map(Text::Borrowed).collect()
}

/// The built-in kinds in discovery's order.
pub fn builtin() -> Vec<KindDef> {
    let mut kinds: Vec<KindDef> = Vec::new();
    let mut head = (Text::Borrowed(""), Text::Borrowed(""), "");
    for line in TABLE.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(detail) = line.strip_prefix("  ") {
            if let Some(kind) = kinds.last_mut() {
                read_detail(kind, detail);
            }
        } else if line.split(' ').next().is_some_and(|w| w.contains('/')) {
            let (gv, module) = line.split_once(' ').unwrap_or((line, ""));
            let (group, version) = group_of(gv);
            head = (group, version, module);
        } else {
            kinds.push(read_kind(&head, line));
        }
    }
    kinds
}

fn read_kind(head: &(Text, Text, &'static str), line: &'static str) -> KindDef {
    let mut parts = line.split(' ');
    let mut next = || parts.next().unwrap_or("");
    let (kind, plural, scope, verbs) = (next(), next(), next(), next());
    let mut def = KindDef {
        group: head.0.clone(),
        version: head.1.clone(),
        kind: Text::Borrowed(kind),
        list_kind: Text::Owned(format!("{kind}List")),
        plural: Text::Borrowed(plural),
        singular: Text::Owned(kind.to_lowercase()),
        short_names: Vec::new(),
        categories: Vec::new(),
        scope: if scope == "ns" { Scope::Namespaced } else { Scope::Cluster },
        verbs: if verbs == "*" { ALL_VERBS.map(Text::Borrowed).to_vec() } else { words(verbs) },
        subresources: Vec::new(),
        selectable: Vec::new(),
        columns: Vec::new(),
        generation: Generation::None,
        stored: (head.0.clone(), head.1.clone()),
        put_creates: false,
        put_strict: false,
        custom: false,
        conversion: None,
        scale: None,
        type_name: Text::Owned(format!("{}.{kind}", head.2)),
        schema: OnceLock::new(),
    };
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match key {
            "singular" => def.singular = Text::Borrowed(value),
            "short" => def.short_names = words(value),
            "in" => def.categories = words(value),
            "stored" => def.stored = group_of(value),
            "put" => {
                def.put_creates = value.contains("creates");
                def.put_strict = value.contains("strict");
            }
            "generation" => {
                def.generation = match value {
                    "create" => Generation::Create,
                    "content" => Generation::Content,
                    "annotations" => Generation::Annotations,
                    "labels" => Generation::Labels,
                    "update" => Generation::Update,
                    _ => Generation::None,
                }
            }
            _ => debug_assert!(false, "kinds.table: {part}"),
        }
    }
    def
}

fn read_detail(def: &mut KindDef, detail: &'static str) {
    if let Some(list) = detail.strip_prefix("fields ") {
        def.selectable = list.split(' ').map(read_field).collect();
    } else if let Some(list) = detail.strip_prefix("columns ") {
        def.columns = list.split(' ').map(read_column).collect();
    } else if let Some(sub) = detail.strip_prefix('/') {
        let mut parts = sub.split(' ');
        let mut next = || parts.next().unwrap_or("");
        let (name, kind, verbs) = (next(), next(), next());
        let kind = match kind.rsplit_once('.') {
            Some((gv, kind)) => {
                let (group, version) = group_of(gv);
                (group, version, Text::Borrowed(kind))
            }
            None => (def.group.clone(), def.version.clone(), Text::Borrowed(kind)),
        };
        def.subresources.push(Subresource { name: Text::Borrowed(name), kind, verbs: words(verbs) });
    }
}

fn read_field(text: &'static str) -> SelectableField {
    let (head, path) = text.split_once('=').unwrap_or((text, ""));
    let (name, form) = head.split_once(':').unwrap_or((head, ""));
    SelectableField {
        name: Text::Borrowed(name),
        path: Text::Borrowed(if path.is_empty() { name } else { path }),
        form: match form {
            "bool" => FieldForm::Bool,
            "int" => FieldForm::Int,
            _ => FieldForm::Text,
        },
    }
}

fn read_column(text: &'static str) -> Column {
    let (text, wide) = text.strip_suffix('+').map_or((text, 0), |t| (t, 1));
    let (text, format) = text.strip_suffix("/name").map_or((text, ""), |t| (t, "name"));
    let (name, ty) = text.split_once(':').unwrap_or((text, "string"));
    Column {
        name: Text::Owned(name.replace('_', " ")),
        ty: Text::Borrowed(ty),
        format: Text::Borrowed(format),
        priority: wide,
        json_path: None,
        description: Text::Borrowed(""),
    }
}
