//! The paths of an OpenAPI document: one operation per verb of every kind and subresource.

use serde_json::{Map, Value, json};

use super::schemas::Schemas;
use super::{Edition, base_path};
use crate::kinds::{KindDef, Scope, Subresource};

const MEDIA: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAMS: [&str; 2] =
    ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
const LIST: [&str; 10] = [
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
const WRITE: [&str; 3] = ["dryRun", "fieldManager", "fieldValidation"];
const DELETE: [&str; 4] = ["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"];

pub(super) struct Paths {
    edition: Edition,
    out: Map<String, Value>,
}

/// What an operation is about, the same for all verbs of one path.
struct About<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    /// `CoreV1` and, if namespaced, `Namespaced`.
    id: (String, &'static str),
    protobuf: bool,
}

impl Paths {
    pub(super) fn new(edition: Edition) -> Paths {
        Paths { edition, out: Map::new() }
    }

    pub(super) fn finish(self) -> Value {
        Value::Object(self.out)
    }

    fn put(&mut self, path: &str, method: &str, operation: Value) {
        let slot = self.out.entry(path).or_insert_with(|| json!({"parameters": []}));
        slot[method] = operation;
    }

    /// Sets the parameters all operations of a path share.
    fn shared(&mut self, path: &str, kind: &str, extra: &[&str]) {
        let mut list: Vec<Value> = Vec::new();
        for (mark, name, text) in [
            ("{name}", "name", format!("name of the {kind}")),
            ("{namespace}", "namespace", "namespace of the object".to_string()),
            ("{path}", "path", "path to the resource behind the proxy".to_string()),
        ] {
            if path.contains(mark) {
                let mut parameter = self.parameter(name, "path", &text, "string");
                parameter["required"] = true.into();
                list.push(parameter);
            }
        }
        list.push(self.parameter("pretty", "query", describe("pretty").1, "string"));
        list.extend(extra.iter().map(|name| self.query(name)));
        if let Some(slot) = self.out.get_mut(path) {
            slot["parameters"] = list.into();
        }
    }

    fn query(&self, name: &str) -> Value {
        let (ty, text) = describe(name);
        self.parameter(name, "query", text, ty)
    }

    fn parameter(&self, name: &str, place: &str, text: &str, ty: &str) -> Value {
        match self.edition {
            Edition::V2 => {
                json!({"name": name, "in": place, "description": text, "type": ty, "uniqueItems": true})
            }
            Edition::V3 => json!({"name": name, "in": place, "description": text,
                "schema": {"type": ty, "uniqueItems": true}}),
        }
    }

    /// The list of a group version's resources.
    pub(super) fn add_resource_list(&mut self, group: &str, version: &str, schemas: &mut Schemas<'_>) {
        let about = About { group, version, kind: "", id: (id_of(group, version), ""), protobuf: true };
        let answer = schemas.reference("meta_v1.APIResourceList");
        let id = format!("get{}APIResources", about.id.0);
        let mut operation =
            self.operation(&about, &id, "", "get available resources", &[], None, &[(200, &answer)]);
        if let Some(map) = operation.as_object_mut() {
            map.remove("x-kubernetes-action");
            map.remove("x-kubernetes-group-version-kind");
        }
        let path = format!("{}/", base_path(group, version));
        self.put(&path, "get", operation);
        if let Some(slot) = self.out.get_mut(&path).and_then(Value::as_object_mut) {
            slot.remove("parameters");
        }
    }

    /// All paths of a kind.
    pub(super) fn add(&mut self, kind: &KindDef, schemas: &mut Schemas<'_>) {
        let namespaced = kind.scope == Scope::Namespaced;
        let about = About {
            group: &kind.group,
            version: &kind.version,
            kind: &kind.kind,
            id: (id_of(&kind.group, &kind.version), if namespaced { "Namespaced" } else { "" }),
            protobuf: !kind.custom,
        };
        let (own, list) = if kind.custom || kind.allows("list") {
            schemas.kind(kind)
        } else {
            (schemas.reference(&kind.type_name), Value::Null)
        };
        let base = base_path(&kind.group, &kind.version);
        let middle = if namespaced { "/namespaces/{namespace}" } else { "" };
        let all = format!("{base}{middle}/{}", kind.plural);
        let one = format!("{all}/{{name}}");
        self.collection(kind, &about, &all, &own, &list, schemas);
        self.single(kind, &about, &one, &own, schemas);
        for sub in &kind.subresources {
            self.subresource(kind, &about, &one, sub, schemas);
        }
        if namespaced && kind.allows("list") {
            let everywhere = format!("{base}/{}", kind.plural);
            let id = format!("list{}{}ForAllNamespaces", about.id.0, kind.kind);
            let text = format!("list or watch objects of kind {}", kind.kind);
            let operation = self.operation(&about, &id, "list", &text, &[], None, &[(200, &list)]);
            self.put(&everywhere, "get", operation);
            self.shared(&everywhere, &kind.kind, &LIST);
        }
    }

    fn collection(
        &mut self,
        kind: &KindDef,
        about: &About<'_>,
        path: &str,
        own: &Value,
        list: &Value,
        schemas: &mut Schemas<'_>,
    ) {
        let (id, scope) = (&about.id.0, about.id.1);
        if kind.allows("list") {
            let id = format!("list{id}{scope}{}", kind.kind);
            let text = format!("list or watch objects of kind {}", kind.kind);
            let operation = self.operation(about, &id, "list", &text, &LIST, None, &[(200, list)]);
            self.put(path, "get", operation);
        }
        if kind.allows("create") {
            let id = format!("create{id}{scope}{}", kind.kind);
            let answers = [(200, own), (201, own), (202, own)];
            let text = format!("create a {}", kind.kind);
            let operation = self.operation(about, &id, "post", &text, &WRITE, Some(own), &answers);
            self.put(path, "post", operation);
        }
        if kind.allows("deletecollection") {
            let id = format!("delete{id}Collection{scope}{}", kind.kind);
            let (options, status) =
                (schemas.reference("meta_v1.DeleteOptions"), schemas.reference("meta_v1.Status"));
            let parameters: Vec<&str> = DELETE
                .iter()
                .chain(LIST.iter().filter(|p| !["watch", "allowWatchBookmarks"].contains(p)))
                .copied()
                .collect();
            let text = format!("delete collection of {}", kind.kind);
            let operation = self.operation(
                about,
                &id,
                "deletecollection",
                &text,
                &parameters,
                Some(&options),
                &[(200, &status)],
            );
            self.put(path, "delete", operation);
        }
        self.shared(path, &kind.kind, &[]);
    }

    fn single(
        &mut self,
        kind: &KindDef,
        about: &About<'_>,
        path: &str,
        own: &Value,
        schemas: &mut Schemas<'_>,
    ) {
        let (id, scope) = (&about.id.0, about.id.1);
        let name = format!("{id}{scope}{}", kind.kind);
        if !kind.allows("get") {
            return;
        }
        self.read_write(about, path, &name, own, |verb| kind.allows(verb), schemas);
        if kind.allows("delete") {
            let (options, status) =
                (schemas.reference("meta_v1.DeleteOptions"), schemas.reference("meta_v1.Status"));
            let answers = [(200, &status), (202, &status)];
            let id = format!("delete{name}");
            let text = format!("delete a {}", kind.kind);
            let operation = self.operation(about, &id, "delete", &text, &DELETE, Some(&options), &answers);
            self.put(path, "delete", operation);
        }
        self.shared(path, &kind.kind, &[]);
    }

    fn read_write(
        &mut self,
        about: &About<'_>,
        path: &str,
        name: &str,
        own: &Value,
        allows: impl Fn(&str) -> bool,
        schemas: &mut Schemas<'_>,
    ) {
        let kind = about.kind;
        if allows("get") {
            let text = format!("read the specified {kind}");
            let operation =
                self.operation(about, &format!("read{name}"), "get", &text, &[], None, &[(200, own)]);
            self.put(path, "get", operation);
        }
        let answers = [(200, own), (201, own)];
        if allows("update") {
            let text = format!("replace the specified {kind}");
            let id = format!("replace{name}");
            let operation = self.operation(about, &id, "put", &text, &WRITE, Some(own), &answers);
            self.put(path, "put", operation);
        }
        if allows("patch") {
            let patch = schemas.reference("meta_v1.Patch");
            let parameters = [&WRITE[..], &["force"]].concat();
            let text = format!("partially update the specified {kind}");
            let id = format!("patch{name}");
            let operation = self.operation(about, &id, "patch", &text, &parameters, Some(&patch), &answers);
            self.put(path, "patch", operation);
        }
    }

    fn subresource(
        &mut self,
        kind: &KindDef,
        about: &About<'_>,
        one: &str,
        sub: &Subresource,
        schemas: &mut Schemas<'_>,
    ) {
        let path = format!("{one}/{}", sub.name);
        let mut suffix = sub.name.to_string();
        suffix[..1].make_ascii_uppercase();
        let name = format!("{}{}{}{suffix}", about.id.0, about.id.1, kind.kind);
        let about = About {
            group: &sub.kind.0,
            version: &sub.kind.1,
            kind: &sub.kind.2,
            id: about.id.clone(),
            protobuf: about.protobuf,
        };
        if sub.kind.2.ends_with("Options") {
            self.connect(&about, &path, &name, sub);
            if sub.name == "proxy" {
                self.connect(&about, &format!("{path}/{{path}}"), &format!("{name}WithPath"), sub);
            }
            return;
        }
        let own = if kind.custom && sub.kind.2 == kind.kind {
            schemas.kind(kind).0
        } else {
            schemas.reference(&type_name(kind, sub))
        };
        self.read_write(&about, &path, &name, &own, |verb| sub.verbs.iter().any(|v| v == verb), schemas);
        if sub.verbs.iter().any(|v| v == "create") {
            let answers = [(200, &own), (201, &own), (202, &own)];
            let text = format!("create {} of a {}", sub.name, kind.kind);
            let id = format!("create{name}");
            let operation = self.operation(&about, &id, "post", &text, &WRITE, Some(&own), &answers);
            self.put(&path, "post", operation);
        }
        self.shared(&path, &sub.kind.2, &[]);
    }

    /// Streams: every method the verbs allow, with an answer of any form.
    fn connect(&mut self, about: &About<'_>, path: &str, name: &str, sub: &Subresource) {
        let methods: &[(&str, &str)] = if sub.name == "proxy" {
            &[
                ("get", "Get"),
                ("put", "Put"),
                ("post", "Post"),
                ("delete", "Delete"),
                ("options", "Options"),
                ("head", "Head"),
                ("patch", "Patch"),
            ]
        } else {
            &[("get", "Get"), ("post", "Post")]
        };
        let (before, after) = name.split_at(about.id.0.len());
        for (method, word) in methods {
            let id = format!("connect{before}{word}{after}");
            let text = format!("connect {} requests to {}", method.to_uppercase(), sub.name);
            let mut operation = self.operation(about, &id, "connect", &text, &[], None, &[]);
            let answer = match self.edition {
                Edition::V2 => json!({"description": "OK", "schema": {"type": "string"}}),
                Edition::V3 => {
                    json!({"description": "OK", "content": {"*/*": {"schema": {"type": "string"}}}})
                }
            };
            operation["responses"]["200"] = answer;
            self.put(path, method, operation);
        }
        self.shared(path, about.kind, options_of(&sub.name));
    }

    #[expect(clippy::too_many_arguments, reason = "one call per operation, each with all of its parts")]
    fn operation(
        &self,
        about: &About<'_>,
        id: &str,
        action: &str,
        text: &str,
        parameters: &[&str],
        body: Option<&Value>,
        answers: &[(u16, &Value)],
    ) -> Value {
        let mut media: Vec<&str> =
            MEDIA.iter().filter(|m| about.protobuf || !m.ends_with("protobuf")).copied().collect();
        if action == "list" {
            media.extend(STREAMS.iter().filter(|m| about.protobuf || !m.contains("protobuf")));
        }
        let mut responses = Map::new();
        for (code, schema) in answers {
            let words = match code {
                200 => "OK",
                201 => "Created",
                _ => "Accepted",
            };
            let answer = match self.edition {
                Edition::V2 => json!({"description": words, "schema": schema}),
                Edition::V3 => json!({"description": words, "content": content(&media, schema)}),
            };
            responses.insert(code.to_string(), answer);
        }
        responses.insert("401".to_string(), json!({"description": "Unauthorized"}));
        let mut out = json!({"tags": [tag_of(about)], "description": text, "operationId": id, "responses": responses,
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {"group": about.group, "version": about.version, "kind": about.kind}});
        let mut list: Vec<Value> = parameters.iter().map(|name| self.query(name)).collect();
        let takes: Vec<&str> = match (action, about.protobuf) {
            ("patch", _) => PATCHES.to_vec(),
            (_, true) => vec!["*/*"],
            (_, false) => vec!["application/json", "application/yaml"],
        };
        if let (Some(schema), Edition::V3) = (body, self.edition) {
            let required = !action.starts_with("delete");
            out["requestBody"] = json!({"content": content(&takes, schema)});
            if required {
                out["requestBody"]["required"] = true.into();
            }
        } else if let Some(schema) = body {
            let mut parameter = json!({"name": "body", "in": "body", "schema": schema});
            if !action.starts_with("delete") {
                parameter["required"] = true.into();
            }
            list.insert(0, parameter);
        }
        if self.edition == Edition::V2 {
            out["consumes"] = json!(takes);
            out["produces"] = json!(media);
            out["schemes"] = json!(["https"]);
        }
        if !list.is_empty() {
            out["parameters"] = list.into();
        }
        out
    }
}

fn content(media: &[&str], schema: &Value) -> Value {
    media.iter().map(|m| (m.to_string(), json!({"schema": schema}))).collect::<Map<_, _>>().into()
}

/// The facts' name of a subresource's type.
fn type_name(kind: &KindDef, sub: &Subresource) -> String {
    let module = match (sub.kind.0.as_ref(), sub.kind.1.as_ref()) {
        (group, _) if group == kind.group => kind.type_name.split('.').next().unwrap_or("").to_string(),
        (group, version) => format!("{}_{version}", group.split('.').next().unwrap_or(group)),
    };
    format!("{module}.{}", sub.kind.2)
}

/// The group's labels without `k8s.io`, and `core` for the group without name.
fn group_words(group: &str) -> Vec<&str> {
    let short = group.strip_suffix(".k8s.io").unwrap_or(group);
    if short.is_empty() { vec!["core"] } else { short.split(['.', '-']).filter(|w| !w.is_empty()).collect() }
}

fn capital(word: &str) -> String {
    let mut out = word.to_string();
    if out.is_char_boundary(1) {
        out[..1].make_ascii_uppercase();
    }
    out
}

/// `RbacAuthorizationV1`.
fn id_of(group: &str, version: &str) -> String {
    let words: String = group_words(group).into_iter().map(capital).collect();
    format!("{words}{}", capital(version))
}

/// `rbacAuthorization_v1`, of the group version that serves the path.
fn tag_of(about: &About<'_>) -> String {
    let id = &about.id.0;
    let at = id.rfind('V').unwrap_or(id.len());
    let (group, version) = id.split_at(at);
    let mut group = group.to_string();
    if group.is_char_boundary(1) && !group.is_empty() {
        group[..1].make_ascii_lowercase();
    }
    format!("{group}_{}", version.to_lowercase())
}

fn options_of(subresource: &str) -> &'static [&'static str] {
    match subresource {
        "exec" => &["command", "container", "stderr", "stdin", "stdout", "tty"],
        "attach" => &["container", "stderr", "stdin", "stdout", "tty"],
        "portforward" => &["ports"],
        "proxy" => &["path"],
        _ => &[],
    }
}

/// A query parameter's type and words.
fn describe(name: &str) -> (&'static str, &'static str) {
    match name {
        "allowWatchBookmarks" => ("boolean", "whether the watch may send bookmarks"),
        "command" => ("string", "the command and its arguments, one parameter each"),
        "container" => ("string", "the container; the only or the default one if absent"),
        "continue" => ("string", "the token of the last page, to get the next"),
        "dryRun" => ("string", "All: do everything but keep nothing"),
        "fieldManager" => ("string", "who makes the change; at most 128 printable characters"),
        "fieldSelector" => ("string", "selects objects by their fields"),
        "fieldValidation" => {
            ("string", "what unknown and duplicate fields do: Ignore, Warn (default) or Strict")
        }
        "force" => ("boolean", "whether apply takes fields over from other managers"),
        "gracePeriodSeconds" => ("integer", "seconds until the object goes; 0 is at once"),
        "labelSelector" => ("string", "selects objects by their labels"),
        "limit" => ("integer", "the largest number of objects in one answer"),
        "orphanDependents" => ("boolean", "deprecated, use propagationPolicy"),
        "path" => ("string", "the path part of the URL for the proxied request"),
        "ports" => ("integer", "the ports to forward"),
        "pretty" => ("string", "if 'true', the answer is indented"),
        "propagationPolicy" => ("string", "what becomes of dependents: Orphan, Background or Foreground"),
        "resourceVersion" => ("string", "how recent the answer must be"),
        "resourceVersionMatch" => ("string", "how resourceVersion is meant: NotOlderThan or Exact"),
        "sendInitialEvents" => ("boolean", "whether the watch begins with what is there"),
        "stderr" => ("boolean", "whether standard error is streamed"),
        "stdin" => ("boolean", "whether standard input is streamed"),
        "stdout" => ("boolean", "whether standard output is streamed"),
        "timeoutSeconds" => ("integer", "seconds after which the call ends"),
        "tty" => ("boolean", "whether a terminal is allocated"),
        "watch" => ("boolean", "whether changes are streamed instead of a list"),
        _ => ("string", ""),
    }
}
