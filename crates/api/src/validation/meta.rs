//! Metadata of every object: names, labels, annotations, owners, finalizers, managers.

use base::names;
use schema::FieldError;
use serde_json::Value;

use super::check::At;

/// Bytes that the annotations of one object may have together.
const ANNOTATIONS_MAX: usize = 256 << 10;
/// Bytes of the name of a field manager.
const MANAGER_MAX: usize = 128;
/// Characters of the name of a finalizer's or owner's subresource.
const SUBRESOURCE_MAX: usize = 256;

/// Bytes of a condition's reason and message.
const REASON_MAX: usize = 1 << 10;
const MESSAGE_MAX: usize = 32 << 10;

/// What a name has to be.
pub type NameRule = fn(&str) -> Vec<String>;

/// Metadata of a new object.
pub fn create(metadata: &At<'_>, namespaced: bool, rule: NameRule) {
    accessor(metadata, namespaced, rule);
    for name in metadata.get("finalizers").items() {
        let standard = matches!(name.text(), "orphan" | "foregroundDeletion" | "kubernetes");
        if !standard && !name.text().contains('/') {
            name.invalid("name is neither a standard finalizer name nor is it fully qualified");
        }
    }
}

/// What every object's metadata keeps, whatever its kind.
pub fn accessor(metadata: &At<'_>, namespaced: bool, rule: NameRule) {
    let name = metadata.get("name");
    match name.text() {
        "" => name.required("name or generateName is required"),
        _ => name.rule(rule),
    }
    let namespace = metadata.get("namespace");
    if namespaced {
        namespace.need_rule(names::dns1123_label);
    } else if !namespace.is_empty() {
        namespace.forbidden("not allowed on this type");
    }
    metadata.get("generation").not_negative();
    labels(&metadata.get("labels"));
    annotations(&metadata.get("annotations"));
    owners(&metadata.get("ownerReferences"));
    finalizers(&metadata.get("finalizers"));
    managers(&metadata.get("managedFields"));
}

/// Metadata of a changed object.
pub fn update(new: &At<'_>, old: &At<'_>) {
    let finalizers = new.get("finalizers");
    if !old.get("deletionTimestamp").is_empty() {
        let before = old.get("finalizers");
        let had: Vec<&str> = before.items().map(|name| name.text()).collect();
        let mut added: Vec<&str> =
            finalizers.items().map(|name| name.text()).filter(|name| !had.contains(name)).collect();
        added.sort_unstable();
        if !added.is_empty() {
            finalizers.forbidden(&format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
            ));
        }
    }
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp"] {
        immutable_text(&new.get(field), &old.get(field));
    }
    new.get("deletionGracePeriodSeconds").immutable(&old.get("deletionGracePeriodSeconds"));
    if new.get("generation").int() < old.get("generation").int() {
        new.get("generation").invalid("must not be decremented");
    }
    labels(&new.get("labels"));
    annotations(&new.get("annotations"));
    owners(&new.get("ownerReferences"));
    managers(&new.get("managedFields"));
}

/// Absent and empty are the same.
fn immutable_text(new: &At<'_>, old: &At<'_>) {
    if new.text() != old.text() {
        new.invalid("field is immutable");
    }
}

/// Keys and values of labels.
pub fn labels(at: &At<'_>) {
    for (key, value) in at.entries() {
        for what in names::qualified_name(key) {
            at.invalid_as(key, &what);
        }
        for what in names::label_value(value.text()) {
            at.invalid_as(value.text(), &what);
        }
    }
}

/// Keys and size of annotations.
pub fn annotations(at: &At<'_>) {
    let mut size = 0;
    for (key, value) in at.entries() {
        size += key.len() + value.text().len();
        let lower = key.bytes().any(|b| b.is_ascii_uppercase()).then(|| key.to_ascii_lowercase());
        for what in names::qualified_name(lower.as_deref().unwrap_or(key)) {
            at.invalid_as(key, &what);
        }
    }
    if size > ANNOTATIONS_MAX {
        at.too_long(ANNOTATIONS_MAX);
    }
}

/// Owners need their four texts, and at most one may be the controller.
fn owners(at: &At<'_>) {
    let mut controller: Option<At<'_>> = None;
    for owner in at.items() {
        let field = |name| owner.value.get(name).and_then(Value::as_str).unwrap_or("");
        if field("apiVersion").rsplit('/').next().is_none_or(str::is_empty) {
            at.get("apiVersion").invalid_as(field("apiVersion"), "version must not be empty");
        }
        for name in ["kind", "name", "uid"] {
            if field(name).is_empty() {
                at.get(name).invalid_as("", "must not be empty");
            }
        }
        if field("apiVersion") == "v1" && field("kind") == "Event" {
            at.invalid_as(owner.value.clone(), "/v1, Kind=Event is disallowed from being an owner");
        }
        if !owner.get("controller").truth() {
            continue;
        }
        match controller {
            None => controller = Some(owner),
            Some(first) => {
                let id = |at: &At<'_>| format!("{}/{}", at.get("kind").text(), at.get("name").text());
                at.invalid(&format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {} and {}",
                    id(&first),
                    id(&owner)
                ));
            }
        }
    }
}

fn finalizers(at: &At<'_>) {
    let (mut orphan, mut foreground) = (false, false);
    for name in at.items() {
        for what in names::qualified_name(name.text()) {
            at.invalid_as(name.text(), &what);
        }
        orphan |= name.text() == "orphan";
        foreground |= name.text() == "foregroundDeletion";
    }
    if orphan && foreground {
        at.invalid("finalizer orphan and foregroundDeletion cannot be both set");
    }
}

fn managers(at: &At<'_>) {
    for entry in at.items() {
        let operation = entry.get("operation");
        if !matches!(operation.text(), "Apply" | "Update") {
            operation.invalid_text("must be `Apply` or `Update`");
        }
        let form = entry.get("fieldsType");
        if !matches!(form.text(), "" | "FieldsV1") {
            form.invalid("must be `FieldsV1`");
        }
        let manager = entry.get("manager");
        manager.at_most_bytes(MANAGER_MAX);
        for (i, c) in manager.text().chars().enumerate() {
            if c.is_control() {
                manager.invalid(&format!("should only contain printable characters (at position {i})"));
            }
        }
        entry.get("subresource").at_most_bytes(SUBRESOURCE_MAX);
    }
}

/// Conditions of a status: one of each type, with a reason in one word.
pub fn conditions(at: &At<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for condition in at.items() {
        let (kind, reason) = (condition.text_of("type"), condition.get("reason"));
        if seen.contains(&kind) {
            condition.get("type").duplicate_of(kind);
        }
        seen.push(kind);
        condition.get("type").rule(names::qualified_name);
        condition.get("status").one_of(&["False", "True", "Unknown"]);
        let generation = condition.get("observedGeneration");
        if generation.int() < 0 {
            generation.invalid("must be greater than or equal to zero");
        }
        condition.get("lastTransitionTime").need();
        if reason.need() {
            reason.rule(condition_reason);
            reason.at_most_bytes(REASON_MAX);
        }
        condition.get("message").at_most_bytes(MESSAGE_MAX);
    }
}

fn condition_reason(text: &str) -> Vec<String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = text.as_bytes();
    let inner = bytes.iter().all(|b| word(*b) || matches!(b, b',' | b':'));
    let ends = bytes.first().is_some_and(u8::is_ascii_alphabetic) && bytes.last().is_some_and(|b| word(*b));
    if inner && ends {
        return Vec::new();
    }
    let what = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";
    let examples = ["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"];
    vec![names::regex_error(what, "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", &examples)]
}

/// A label selector.
pub fn selector(at: &At<'_>) {
    labels(&at.get("matchLabels"));
    for term in at.get("matchExpressions").items() {
        let (operator, values, key) = (term.get("operator"), term.get("values"), term.get("key"));
        match operator.text() {
            "In" | "NotIn" => {
                values.need_for("must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
                }
            }
            _ => operator.invalid_text("not a valid selector operator"),
        }
        for what in names::qualified_name(key.text()) {
            key.invalid_text(&what);
        }
        for value in values.items() {
            value.rule(names::label_value);
        }
    }
}

/// Whether labels fulfil a selector.
pub fn selects(selector: &At<'_>, labels: &Value) -> bool {
    let label = |key: &str| labels.get(key).and_then(Value::as_str);
    let exact = selector.get("matchLabels");
    let mut all = exact.entries().map(|(key, value)| label(key) == Some(value.text()));
    let terms = selector.get("matchExpressions");
    all.all(|ok| ok)
        && terms.items().all(|term| {
            let own = label(term.get("key").text());
            let values = term.get("values");
            let among = own.is_some_and(|own| values.items().any(|value| value.text() == own));
            match term.get("operator").text() {
                "In" => among,
                "NotIn" => !among,
                "Exists" => own.is_some(),
                "DoesNotExist" => own.is_none(),
                _ => false,
            }
        })
}

impl At<'_> {
    /// `Too long`.
    pub fn too_long(&self, max: usize) {
        self.push(FieldError::too_long(self.place(), max));
    }
}
