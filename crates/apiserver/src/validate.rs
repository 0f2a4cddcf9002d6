//! Validation: the rules of all objects here, the rules of single kinds by the kind table.

use serde_json::Value;

use crate::object::{self, meta_text};
use crate::resource::Resource;
use crate::status::Cause;

/// Lists that are always written and may be empty nonetheless, by kind.
const MAY_BE_EMPTY: [(&str, &str); 3] =
    [("CSINode", "spec.drivers"), ("EndpointSlice", "endpoints"), ("LimitRange", "spec.limits")];

/// Bytes that the annotations of one object may have together.
const ANNOTATIONS_MAX: usize = 256 << 10;

/// What is wrong with a new object.
pub fn create(resource: &Resource, object: &Value) -> Vec<Cause> {
    let mut causes = metadata(resource, object);
    causes.extend(by_schema(resource, object, None));
    causes
}

/// What the schema says of the value; parts that did not change are taken as they are.
fn by_schema(resource: &Resource, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let schema = resource.def.schema();
    let errors = match resource.def.custom {
        true => schema::validate::validate(schema, object, old),
        false => schema::validate::validate_builtin(schema, object),
    };
    let may_be_empty = |error: &schema::FieldError| {
        MAY_BE_EMPTY.contains(&(resource.def.kind.as_ref(), error.field.as_str()))
    };
    let errors = errors.into_iter().filter(|error| !may_be_empty(error));
    let mut causes: Vec<Cause> = errors.map(Cause::from).collect();
    if resource.def.group.is_empty() {
        match resource.def.kind.as_ref() {
            "ConfigMap" | "Secret" => causes.extend(keys(object)),
            "Pod" => causes.extend(sysctls(object)),
            _ => {}
        }
    }
    if resource.def.group == "admissionregistration.k8s.io" {
        causes.extend(match_conditions(object));
    }
    if resource.def.kind == "CustomResourceDefinition" {
        causes.extend(api::custom::check(object).into_iter().map(Cause::from));
    }
    causes
}

/// What is wrong with a changed object.
pub fn update(resource: &Resource, subresource: &str, old: &Value, new: &Value) -> Vec<Cause> {
    let mut causes = labels(new);
    if subresource != "status" || resource.def.custom {
        causes.extend(by_schema(resource, new, Some(old)));
    }
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        let (before, after) = (meta_text(old, field), meta_text(new, field));
        if before != after {
            let value = new.pointer(&format!("/metadata/{field}")).unwrap_or(&Value::Null);
            causes.push(Cause::invalid(format!("metadata.{field}"), value, "field is immutable"));
        }
    }
    if object::is_deleting(new) {
        let before: Vec<&str> = object::finalizers(old).collect();
        let added: Vec<&str> = object::finalizers(new).filter(|name| !before.contains(name)).collect();
        if !added.is_empty() && object::is_deleting(old) {
            causes.push(Cause::forbidden(
                "metadata.finalizers",
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
                ),
            ));
        }
    }
    if resource.def.group.is_empty() && matches!(resource.def.kind.as_ref(), "ConfigMap" | "Secret") {
        causes.extend(frozen(old, new));
    }
    causes
}

/// Expressions of webhooks are not evaluated, and what is not evaluated must not be taken for a condition.
fn match_conditions(object: &Value) -> Vec<Cause> {
    let hooks = object.get("webhooks").and_then(Value::as_array).into_iter().flatten();
    let with = hooks.enumerate().filter(|(_, hook)| {
        hook.get("matchConditions").and_then(Value::as_array).is_some_and(|list| !list.is_empty())
    });
    let what = "match conditions of webhooks are not supported by this server yet";
    with.map(|(i, _)| Cause::forbidden(format!("webhooks[{i}].matchConditions"), what)).collect()
}

/// Kernel parameters have dotted (or slashed) names of small letters.
fn sysctls(pod: &Value) -> Vec<Cause> {
    const PATTERN: &str = "^[a-z0-9]([-_a-z0-9]*[a-z0-9])?([\\./][a-z0-9]([-_a-z0-9]*[a-z0-9])?)*$";
    const LENGTH_MAX: usize = 253;
    let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let word = |part: &str| {
        let bytes = part.as_bytes();
        let ends = bytes.first().copied().is_some_and(edge) && bytes.last().copied().is_some_and(edge);
        ends && bytes.iter().all(|c| edge(*c) || matches!(c, b'-' | b'_'))
    };
    let list = pod.pointer("/spec/securityContext/sysctls").and_then(Value::as_array);
    let mut causes = Vec::new();
    let mut seen = Vec::new();
    for (i, sysctl) in list.into_iter().flatten().enumerate() {
        let name = sysctl.get("name").and_then(Value::as_str).unwrap_or("");
        let path = format!("spec.securityContext.sysctls[{i}].name");
        if name.is_empty() {
            causes.push(Cause::required(path, ""));
        } else if name.len() > LENGTH_MAX || !name.split(['.', '/']).all(word) {
            let what = format!("must have at most {LENGTH_MAX} characters and match regex {PATTERN}");
            causes.push(Cause::invalid(path, &Value::from(name), &what));
        } else if seen.contains(&name) {
            causes.push(Cause::field("FieldValueDuplicate", path, format!("Duplicate value: {name:?}")));
        }
        seen.push(name);
    }
    causes
}

/// The keys of a ConfigMap or Secret become names of files.
fn keys(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for field in ["data", "binaryData"] {
        for key in object.get(field).and_then(Value::as_object).into_iter().flat_map(|map| map.keys()) {
            for what in base::names::config_key(key) {
                causes.push(Cause::invalid(format!("{field}[{key}]"), &Value::from(key.as_str()), &what));
            }
        }
    }
    causes
}

/// ConfigMaps and Secrets that say they are immutable.
fn frozen(old: &Value, new: &Value) -> Vec<Cause> {
    if old.get("immutable").and_then(Value::as_bool) != Some(true) {
        return Vec::new();
    }
    let same =
        |field: &str| old.get(field).filter(|v| !v.is_null()) == new.get(field).filter(|v| !v.is_null());
    let what = "field is immutable when `immutable` is set";
    let fields = ["immutable", "data", "binaryData", "stringData"];
    fields.iter().filter(|field| !same(field)).map(|field| Cause::forbidden(*field, what)).collect()
}

fn metadata(resource: &Resource, object: &Value) -> Vec<Cause> {
    let name = object::name(object);
    if name.is_empty() {
        return vec![Cause::required("metadata.name", "name or generateName is required")];
    }
    let mut causes: Vec<Cause> = Vec::new();
    let prefix = meta_text(object, "generateName");
    if !prefix.is_empty() {
        // What is appended makes a trailing dash or dot good.
        let probe = format!("{}a", prefix.trim_end_matches(['-', '.']));
        for what in name_rule(resource, &probe) {
            causes.push(Cause::invalid("metadata.generateName", &Value::from(prefix), &what));
        }
    }
    for what in name_rule(resource, name) {
        causes.push(Cause::invalid("metadata.name", &Value::from(name), &what));
    }
    causes.extend(labels(object));
    causes.extend(owners(object));
    causes.extend(finalizers(object));
    causes
}

/// Most names are DNS subdomains; namespaces and services are labels; roles are path segments.
fn name_rule(resource: &Resource, name: &str) -> Vec<String> {
    use base::names::{dns1123_label, dns1123_subdomain, path_segment};
    match (resource.def.group.as_ref(), resource.def.kind.as_ref()) {
        ("", "Namespace" | "Service") => dns1123_label(name),
        ("rbac.authorization.k8s.io", _) => path_segment(name),
        ("networking.k8s.io", "IPAddress") => ip_address(name),
        _ => dns1123_subdomain(name),
    }
}

/// An address is named as it is written in its one canonical form.
fn ip_address(name: &str) -> Vec<String> {
    match name.parse::<std::net::IpAddr>() {
        Ok(address) if address.to_string() == name => Vec::new(),
        Ok(address) => vec![format!("not a valid address in canonical form ({address})")],
        Err(_) => vec!["not a valid IP address".to_string()],
    }
}

/// Owners need their four texts, and at most one may be the controller.
fn owners(object: &Value) -> Vec<Cause> {
    let list = object.pointer("/metadata/ownerReferences").and_then(Value::as_array).into_iter().flatten();
    let mut causes = Vec::new();
    let mut controllers = 0;
    for (index, owner) in list.enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner.get(field).and_then(Value::as_str).unwrap_or("").is_empty() {
                let path = format!("metadata.ownerReferences[{index}].{field}");
                let what = match field {
                    "apiVersion" => "version must not be empty".to_string(),
                    field => format!("must not be empty: {field}"),
                };
                causes.push(Cause::invalid(path, &Value::from(""), &what));
            }
        }
        controllers += usize::from(owner.get("controller").and_then(Value::as_bool) == Some(true));
    }
    if controllers > 1 {
        let what = "Only one reference can have Controller set to true.";
        let list = object.pointer("/metadata/ownerReferences").unwrap_or(&Value::Null);
        causes.push(Cause::invalid("metadata.ownerReferences", list, what));
    }
    causes
}

fn finalizers(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (index, name) in object::finalizers(object).enumerate() {
        for what in base::names::qualified_name(name) {
            causes.push(Cause::invalid("metadata.finalizers", &Value::from(name), &what));
        }
        let standard = matches!(name, "orphan" | "foregroundDeletion" | "kubernetes");
        if !standard && !name.contains('/') {
            let what = "name is neither a standard finalizer name nor is it fully qualified";
            causes.push(Cause::invalid(format!("metadata.finalizers[{index}]"), &Value::from(name), what));
        }
    }
    causes
}

fn labels(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let map = |field: &str| object.pointer(&format!("/metadata/{field}")).and_then(Value::as_object);
    for (key, value) in map("labels").into_iter().flatten() {
        for what in base::names::qualified_name(key) {
            causes.push(Cause::invalid("metadata.labels", &Value::from(key.as_str()), &what));
        }
        for what in base::names::label_value(value.as_str().unwrap_or("")) {
            causes.push(Cause::invalid("metadata.labels", value, &what));
        }
    }
    let mut size = 0;
    for (key, value) in map("annotations").into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        for what in base::names::qualified_name(&key.to_ascii_lowercase()) {
            causes.push(Cause::invalid("metadata.annotations", &Value::from(key.as_str()), &what));
        }
    }
    if size > ANNOTATIONS_MAX {
        let what = format!("Too long: may not be more than {ANNOTATIONS_MAX} bytes");
        causes.push(Cause::field("FieldValueTooLong", "metadata.annotations", what));
    }
    causes
}
