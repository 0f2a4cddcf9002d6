//! CustomResourceDefinitions: names, versions, columns, subresources, conversion and what was stored.
//!
//! What all versions have alike upstream keeps once, beside them, and its errors say so: [`Shared`].

use base::names;
use serde_json::Value;

use super::check::At;
use super::{meta, url};
use crate::custom::{self, accept::Approval};

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] =
    ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];
const WARNING_MAX: usize = 256;
const SELECTABLE_MAX: usize = 8;
const APPROVED: &str = "api-approved.kubernetes.io";

/// A new definition.
pub fn create(at: &At<'_>) {
    let (metadata, spec) = (at.get("metadata"), at.get("spec"));
    meta::accessor(&metadata, false, names::dns1123_subdomain);
    let wanted = format!("{}.{}", spec.get("names").get("plural").text(), spec.get("group").text());
    let name = metadata.get("name");
    if !name.is_empty() && name.text() != wanted {
        name.invalid("must be spec.names.plural+\".\"+spec.group");
    }
    judge(at, None);
}

/// A changed definition keeps its group, its plural name and, once it is served, its kind and scope.
pub fn update(new: &At<'_>, old: &At<'_>, subresource: &str) {
    meta::update(&new.get("metadata"), &old.get("metadata"));
    if subresource == "status" {
        return accepted(&new.get("status"));
    }
    judge(new, Some(old));
    let (spec, before) = (new.get("spec"), old.get("spec"));
    let (is, was) = (spec.get("names"), before.get("names"));
    let established = |old: &At<'_>| {
        let status = old.get("status");
        let conditions = status.get("conditions");
        let mut all = conditions.items();
        all.any(|c| c.get("type").text() == "Established" && c.get("status").text() == "True")
    };
    if established(old) {
        spec.get("scope").immutable(&before.get("scope"));
        is.get("kind").immutable(&was.get("kind"));
    }
    spec.get("group").immutable(&before.get("group"));
    is.get("plural").immutable(&was.get("plural"));
}

fn judge(at: &At<'_>, old: Option<&At<'_>>) {
    let (spec, status) = (at.get("spec"), at.get("status"));
    group(&spec.get("group"));
    spec.get("scope").need_one_of(&["Cluster", "Namespaced"]);
    versions(&spec);
    let names = spec.get("names");
    for field in ["plural", "singular", "kind", "listKind"] {
        names.get(field).need();
    }
    self::names(&names);
    shared(&spec);
    for error in custom::check(at.value) {
        at.push(error);
    }
    let strategy = spec.get("conversion");
    let strategy = strategy.get("strategy");
    if strategy.text() == "Webhook" && spec.get("preserveUnknownFields").truth() {
        strategy.invalid("must be None if spec.preserveUnknownFields is true");
    }
    conversion(&spec.get("conversion"));
    accepted(&status);
    stored(&status.get("storedVersions"), &spec.get("versions"));
    approval(at, old);
    let keeps = |old: &At<'_>| old.get("spec").get("preserveUnknownFields").truth();
    let unknown = spec.get("preserveUnknownFields");
    if unknown.truth() && !old.is_some_and(keeps) {
        unknown.invalid(
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        );
    }
}

fn group(at: &At<'_>) {
    if !at.need() {
        return;
    }
    let wrong = names::dns1123_subdomain(at.text());
    if !wrong.is_empty() {
        at.invalid(&wrong.join(","));
    } else if !at.text().contains('.') {
        at.invalid("should be a domain with at least one dot");
    }
}

/// Which parts all versions have alike.
struct Shared {
    subresources: bool,
    columns: bool,
    selectable: bool,
}

impl Shared {
    fn of(versions: &At<'_>) -> Shared {
        let list: Vec<&Value> = versions.items().map(|version| version.value).collect();
        let alike = |field: &str| list.windows(2).all(|pair| pair[0].get(field) == pair[1].get(field));
        Shared {
            subresources: alike("subresources"),
            columns: alike("additionalPrinterColumns"),
            selectable: alike("selectableFields"),
        }
    }
}

fn versions(spec: &At<'_>) {
    let list = spec.get("versions");
    let shared = Shared::of(&list);
    let mut seen: Vec<&str> = Vec::new();
    let mut twice = false;
    for version in list.items() {
        let name = version.get("name");
        let text = version.text_of("name");
        twice |= seen.contains(&text);
        seen.push(text);
        let wrong = names::dns1035_label(text);
        if !wrong.is_empty() {
            name.invalid_text(&wrong.join(","));
        }
        warning(&version);
        let schema = version.get("schema");
        if !schema.get("openAPIV3Schema").is_set() {
            schema.get("openAPIV3Schema").required("");
        }
        if !shared.subresources {
            subresources(&version.get("subresources"));
        }
        if !shared.columns {
            version.get("additionalPrinterColumns").items().for_each(|column| self::column(&column));
        }
        if !shared.selectable {
            let why = "may only be set when `version.schema.openAPIV3Schema` is not included";
            selectable(&version.get("selectableFields"), schema.get("openAPIV3Schema").value, why);
        }
    }
    if twice {
        list.invalid("must contain unique version names");
    }
    if list.items().filter(|version| version.get("storage").truth()).count() != 1 {
        list.invalid("must have exactly one version marked as storage version");
    }
    let first = list.nth(0);
    let wrong = names::dns1035_label(first.get("name").text());
    if !first.get("name").is_empty() && !wrong.is_empty() {
        spec.get("version").invalid_as(first.get("name").text(), &wrong.join(","));
    }
}

/// What all versions have alike.
fn shared(spec: &At<'_>) {
    let list = spec.get("versions");
    let (shared, first) = (Shared::of(&list), list.nth(0));
    if shared.subresources {
        let place = spec.get("subresources");
        subresources(&place.with(first.get("subresources").value));
    }
    if shared.columns {
        let place = spec.get("additionalPrinterColumns");
        let place = place.with(first.get("additionalPrinterColumns").value);
        place.items().for_each(|column| self::column(&column));
    }
    if shared.selectable {
        let place = spec.get("selectableFields");
        let schema = first.value.pointer("/schema/openAPIV3Schema").unwrap_or(&Value::Null);
        let why = "may only be set when validations.schema is included";
        selectable(&place.with(first.get("selectableFields").value), schema, why);
    }
}

fn warning(version: &At<'_>) {
    let at = version.get("deprecationWarning");
    if !at.is_set() {
        return;
    }
    if !version.get("deprecated").truth() {
        return at.invalid("can only be set for deprecated versions");
    }
    if at.text().len() > WARNING_MAX {
        at.invalid("must be <= 256 characters long");
    }
    if at.is_empty() {
        at.invalid("must not be an empty string");
    }
    if let Some((i, _)) = at.text().char_indices().find(|(_, c)| c.is_control()) {
        at.invalid(&format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {i}"
        ));
    }
}

/// A path of fields joined by dots.
fn path(at: &At<'_>, below: &[&str], why: &str) {
    if !at.text().starts_with('.') {
        at.invalid("must be a simple json path starting with .");
    } else if !below.is_empty() && !below.iter().any(|start| at.text().starts_with(start)) {
        at.invalid(why);
    }
}

fn subresources(at: &At<'_>) {
    let scale = at.get("scale");
    if !scale.is_set() {
        return;
    }
    let (spec, status) = (scale.get("specReplicasPath"), scale.get("statusReplicasPath"));
    if spec.need() {
        path(&spec, &[".spec."], "should be a json path under .spec");
    }
    if status.need() {
        path(&status, &[".status."], "should be a json path under .status");
    }
    let selector = scale.get("labelSelectorPath");
    if !selector.is_empty() {
        path(&selector, &[".spec.", ".status."], "should be a json path under either .spec or .status");
    }
}

fn column(at: &At<'_>) {
    at.get("name").need();
    let (kind, format) = (at.get("type"), at.get("format"));
    let types = format!("must be one of {}", COLUMN_TYPES.join(","));
    if kind.need_for(&types) && !COLUMN_TYPES.contains(&kind.text()) {
        kind.invalid(&types);
    }
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format.text()) {
        format.invalid(&format!("must be one of {}", COLUMN_FORMATS.join(",")));
    }
    let place = at.get("JSONPath");
    let place = place.with(at.get("jsonPath").value);
    if place.need() {
        path(&place, &[], "");
    }
}

/// Fields that field selectors can use: plain values the schema knows.
fn selectable(at: &At<'_>, schema: &Value, missing: &str) {
    if at.is_empty() {
        return;
    }
    if schema.is_null() {
        return at.invalid_as("", missing);
    }
    let mut seen: Vec<&str> = Vec::new();
    for field in at.items() {
        let place = field.get("jsonPath");
        if !place.need() {
            continue;
        }
        let (ty, root) = match lookup(schema, place.text()) {
            Ok(found) => found,
            Err(why) => {
                place.invalid(&format!("is an invalid path: {why}"));
                continue;
            }
        };
        if root == "metadata" {
            place.invalid("must not point to fields in metadata");
        }
        if !["string", "boolean", "integer"].contains(&ty) {
            place.invalid(
                "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
            );
        }
        let text = field.text_of("jsonPath");
        match seen.contains(&text) {
            true => place.duplicate(),
            false => seen.push(text),
        }
    }
    if seen.len() > SELECTABLE_MAX {
        at.at_most(SELECTABLE_MAX);
    }
}

/// The type of the field a path leads to, and the first part of the path.
fn lookup<'a>(schema: &'a Value, path: &'a str) -> Result<(&'a str, &'a str), String> {
    let Some(rest) = path.strip_prefix('.') else {
        let first = path.split(['.', '[']).next().unwrap_or("");
        return Err(format!("expected [ or . but got: {first}"));
    };
    let mut here = schema;
    for name in rest.split('.') {
        let field = here.get("properties").and_then(|all| all.get(name));
        let Some(next) = field.or_else(|| here.get("additionalProperties").filter(|s| s.is_object())) else {
            return Err(match name {
                "" => "unexpected end of JSON path".to_string(),
                _ => "does not refer to a valid field".to_string(),
            });
        };
        here = next;
    }
    let root = rest.split('.').next().unwrap_or("");
    Ok((here.get("type").and_then(Value::as_str).unwrap_or(""), root))
}

fn names(at: &At<'_>) {
    for field in ["plural", "singular", "kind", "listKind"] {
        let name = at.get(field);
        let kind = field.to_lowercase().ends_with("kind");
        let text = if kind { name.text().to_lowercase() } else { name.text().to_string() };
        let wrong = names::dns1035_label(&text);
        if name.is_empty() || wrong.is_empty() {
            continue;
        }
        let intro = if kind { "may have mixed case, but should otherwise match: " } else { "" };
        name.invalid(&format!("{intro}{}", wrong.join(",")));
    }
    for field in ["shortNames", "categories"] {
        for name in at.get(field).items() {
            let wrong = names::dns1035_label(name.text());
            if !wrong.is_empty() {
                name.invalid_text(&wrong.join(","));
            }
        }
    }
    let (kind, list) = (at.get("kind"), at.get("listKind"));
    if !kind.is_empty() && kind.text() == list.text() {
        list.invalid("kind and listKind may not be the same");
    }
}

/// The names under which it is served.
fn accepted(status: &At<'_>) {
    names(&status.get("acceptedNames"));
}

fn conversion(at: &At<'_>) {
    if !at.is_set() {
        return;
    }
    let strategy = at.get("strategy");
    strategy.need_one_of(&["None", "Webhook"]);
    let hook = at.get("webhook");
    let (client, reviews) = (hook.get("clientConfig"), hook.get("conversionReviewVersions"));
    let (place, versions) = (at.get("webhookClientConfig"), at.get("conversionReviewVersions"));
    let (place, versions) = (place.with(client.value), versions.with(reviews.value));
    if strategy.text() != "Webhook" {
        let why = "should not be set when strategy is not set to Webhook";
        if place.is_set() {
            place.forbidden(why);
        }
        if !versions.is_empty() {
            versions.forbidden(why);
        }
        return;
    }
    match (place.is_set(), place.get("url").is_set(), place.get("service").is_set()) {
        (false, ..) => place.required("required when strategy is set to Webhook"),
        (true, true, false) => url::webhook(&place.get("url")),
        (true, false, true) => url::service(&place.get("service")),
        _ => place.required("exactly one of url or service is required"),
    }
    review_versions(&versions);
}

fn review_versions(at: &At<'_>) {
    if !at.need() {
        return;
    }
    let mut seen: Vec<&str> = Vec::new();
    for version in at.items() {
        let text = version.value.as_str().unwrap_or("");
        if seen.contains(&text) {
            version.invalid("duplicate version");
            continue;
        }
        seen.push(text);
        version.rule(names::dns1035_label);
    }
    if !seen.iter().any(|version| REVIEWS.contains(version)) {
        at.invalid(&format!("must include at least one of {}", REVIEWS.join(", ")));
    }
}

/// Versions objects may be stored in stay among the versions.
fn stored(at: &At<'_>, versions: &At<'_>) {
    if at.is_empty() {
        return at.invalid("must have at least one stored version");
    }
    let has = |list: &At<'_>, name: &str| list.items().any(|item| item.text() == name);
    for version in versions.items().filter(|version| version.get("storage").truth()) {
        let name = version.text_of("name");
        if !has(at, name) {
            at.invalid(&format!("must have the storage version {name}"));
        }
    }
    for version in at.items() {
        let name = version.text();
        if !versions.items().any(|known| known.get("name").text() == name) {
            version.invalid(&format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            ));
        }
    }
}

/// Groups of the community need a word of who approved them.
fn approval(at: &At<'_>, old: Option<&At<'_>>) {
    let (spec, metadata) = (at.get("spec"), at.get("metadata"));
    if !custom::accept::protected(spec.get("group").text()) {
        return;
    }
    let (state, words) = custom::accept::approval(at.value);
    if old.is_some_and(|old| custom::accept::approval(old.value).0 == state) {
        return;
    }
    let annotations = metadata.get("annotations");
    let place = annotations.key(APPROVED);
    match state {
        Approval::Missing => place.required(&words),
        Approval::Invalid => place.invalid(&words),
        Approval::Given | Approval::Bypassed => {}
    }
}
