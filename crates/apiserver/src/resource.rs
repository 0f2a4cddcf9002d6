//! What the request path needs of each served kind, worked out once per change of the registry.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use api::kinds::FieldForm;
use api::{KindDef, Registry};
use bytes::Bytes;
use parking_lot::Mutex;
use store::{Key, Object};

/// A selectable field, ready for the index.
#[derive(Debug, Clone)]
pub struct Field {
    /// The label in selectors.
    pub key: Arc<str>,
    /// The path of its value.
    pub path: String,
    /// How the value becomes text.
    pub form: FieldForm,
}

impl AsRef<str> for Field {
    fn as_ref(&self) -> &str {
        &self.key
    }
}

/// One served version of a kind.
#[derive(Debug)]
pub struct Resource {
    /// The kind.
    pub def: Arc<KindDef>,
    /// The store's table.
    pub table: Arc<str>,
    /// `{"kind":"Pod","apiVersion":"v1",`: how its objects begin.
    pub head: String,
    /// How stored objects begin; differs from `head` when another version is the stored one.
    pub stored_head: String,
    /// The kind of the stored version, when that is another.
    pub stored: Option<Arc<KindDef>>,
    /// Selectable fields of the stored version, in the index's order.
    pub fields: Vec<Field>,
    /// Selectable fields of this version; other than `fields` when another is stored.
    pub own_fields: Vec<Field>,
    /// What selectors of this version call those fields; empty for what it does not let select.
    pub labels: Vec<Arc<str>>,
    /// Whether what was stored before a default was declared must get it when it is read.
    pub defaults: bool,
    /// How lists begin: `{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"`.
    pub list_head: String,
}

impl Resource {
    fn new(registry: &Registry, def: &Arc<KindDef>) -> Self {
        let version = def.api_version();
        let stored_version = api::kinds::join(&def.stored.0, &def.stored.1);
        let stored = (stored_version != version)
            .then(|| registry.by_path(&def.stored.0, &def.stored.1, &def.plural).cloned())
            .flatten();
        let selectable = stored.clone().unwrap_or_else(|| def.clone());
        let fields_of = |def: &KindDef| -> Vec<Field> {
            let field = |field: &api::kinds::SelectableField| Field {
                key: Arc::from(field.name.as_ref()),
                path: field.path.to_string(),
                form: field.form,
            };
            def.selectable.iter().map(field).collect()
        };
        let (fields, own_fields) = (fields_of(&selectable), fields_of(def));
        let own = |field: &Field| {
            let found =
                def.selectable.iter().find(|own| crate::convert::stored_path(def, &own.path) == field.path);
            Arc::from(found.map_or("", |own| own.name.as_ref()))
        };
        let labels = fields.iter().map(|field| if stored.is_none() { field.key.clone() } else { own(field) });
        // What a webhook converts is selected by what it has been converted to.
        let labels = match def.conversion {
            Some(_) => own_fields.iter().map(|field| field.key.clone()).collect(),
            None => labels.collect(),
        };
        let head = |kind: &str, version: &str| format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",");
        Self {
            table: Arc::from(def.resource()),
            head: head(&def.kind, &version),
            stored_head: head(&def.kind, &stored_version),
            stored,
            defaults: def.custom && schema::defaulting::declares(def.schema()),
            fields,
            own_fields,
            labels,
            list_head: format!("{}\"metadata\":{{\"resourceVersion\":\"", head(&def.list_kind, &version)),
            def: def.clone(),
        }
    }

    /// The key of one of its objects.
    pub fn key(&self, namespace: &str, name: &str) -> Key {
        let namespace = if self.def.namespaced() { namespace } else { "" };
        Key { resource: self.table.clone(), namespace: Arc::from(namespace), name: Arc::from(name) }
    }

    /// The object's JSON in this version.
    pub fn present(&self, object: &Object) -> Bytes {
        let bytes = match &self.stored {
            // Custom objects may be of a version that was the stored one, or have been converted already.
            _ if self.def.custom && object.json.starts_with(self.head.as_bytes()) => object.json.clone(),
            None if self.def.custom => crate::convert::present(self, &self.def, object),
            None => object.json.clone(),
            Some(stored) => crate::convert::present(self, stored, object),
        };
        match self.defaults {
            true => self.completed(bytes),
            false => bytes,
        }
    }

    /// The object with the defaults it lacks.
    fn completed(&self, bytes: Bytes) -> Bytes {
        let Ok(old) = serde_json::from_slice::<serde_json::Value>(&bytes) else { return bytes };
        let mut new = old.clone();
        schema::defaulting::default(self.def.schema(), &mut new);
        match new == old {
            true => bytes,
            false => serde_json::to_vec(&new).map_or(bytes, Bytes::from),
        }
    }

    /// The object's JSON without its opening brace, kind and apiVersion, as list items are written.
    pub fn present_item(&self, object: &Object) -> (Bytes, usize) {
        let json = self.present(object);
        let skip =
            if !self.def.custom && json.starts_with(self.head.as_bytes()) { self.head.len() } else { 1 };
        (json, skip)
    }
}

/// A document and its tag.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its bytes.
    pub body: Bytes,
    /// The strong tag, with quotes.
    pub etag: String,
}

impl Document {
    /// A value as JSON.
    pub fn of(value: &serde_json::Value) -> Self {
        Self::new(serde_json::to_vec(value).unwrap_or_default())
    }

    /// Bytes as they are.
    pub fn new(bytes: Vec<u8>) -> Self {
        let body = Bytes::from(bytes);
        Self { etag: api::discovery::etag(&body), body }
    }
}

/// All resources of one registry, and the documents about them.
#[derive(Debug)]
pub struct Catalog {
    /// The registry it was made of.
    pub registry: Arc<Registry>,
    by_path: HashMap<String, Arc<Resource>>,
    /// By plural: the groups that serve it, each with the version that is stored.
    stored: HashMap<String, Vec<(String, Arc<Resource>)>>,
    aggregated: [OnceLock<Document>; 2],
    openapi_v2: OnceLock<Document>,
    openapi_v2_protobuf: OnceLock<Document>,
    openapi_v3: Mutex<HashMap<String, Document>>,
}

impl Catalog {
    /// Works out the resources of a registry.
    pub fn new(registry: Arc<Registry>) -> Self {
        let by_path: HashMap<String, Arc<Resource>> = registry
            .kinds()
            .iter()
            .map(|def| {
                let path = format!("{}/{}/{}", def.group, def.version, def.plural);
                (path, Arc::new(Resource::new(&registry, def)))
            })
            .collect();
        let mut stored: HashMap<String, Vec<(String, Arc<Resource>)>> = HashMap::new();
        for def in registry.kinds() {
            let groups = stored.entry(def.plural.to_string()).or_default();
            let found = by_path.get(&format!("{}/{}/{}", def.stored.0, def.stored.1, def.plural));
            if let Some(found) = found.filter(|_| groups.iter().all(|(group, _)| *group != def.group)) {
                groups.push((def.group.to_string(), found.clone()));
            }
        }
        let (aggregated, openapi_v2, openapi_v2_protobuf, openapi_v3) = Default::default();
        Self { registry, by_path, stored, aggregated, openapi_v2, openapi_v2_protobuf, openapi_v3 }
    }

    /// Discovery in one document: of the core group, or of all others.
    pub fn aggregated(&self, core: bool) -> Document {
        let make = || Document::of(&api::discovery::aggregated(&self.registry, core));
        self.aggregated[usize::from(core)].get_or_init(make).clone()
    }

    /// OpenAPI v2 of everything.
    pub fn openapi_v2(&self) -> Document {
        self.openapi_v2.get_or_init(|| Document::of(&api::openapi::v2(&self.registry))).clone()
    }

    /// OpenAPI v2 of everything as protobuf, which old clients insist on.
    pub fn openapi_v2_protobuf(&self) -> Document {
        let make = || Document::new(api::openapi::proto::encode(&api::openapi::v2(&self.registry)));
        self.openapi_v2_protobuf.get_or_init(make).clone()
    }

    /// OpenAPI v3 of one group version, by the name the index gives it.
    pub fn openapi_v3(&self, name: &str) -> Option<Document> {
        if let Some(known) = self.openapi_v3.lock().get(name) {
            return Some(known.clone());
        }
        let (group, version) = api::openapi::gv_of_document(name)?;
        let made = Document::of(&api::openapi::v3(&self.registry, &group, &version)?);
        self.openapi_v3.lock().insert(name.to_string(), made.clone());
        Some(made)
    }

    /// The resource at `/apis/group/version/plural`.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        let mut path = String::with_capacity(group.len() + version.len() + plural.len() + 2);
        for part in [group, "/", version, "/", plural] {
            path.push_str(part);
        }
        self.by_path.get(&path)
    }

    /// The resource in which objects of a table are stored.
    pub fn stored(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.stored.get(plural)?.iter().find(|(own, _)| own == group).map(|(_, resource)| resource)
    }

    /// Every resource.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.by_path.values()
    }
}
