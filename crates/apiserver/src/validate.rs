//! Validation: the rules of built-in kinds by `api::validation`, those of custom ones by their schema.

use serde_json::Value;

use crate::resource::Resource;
use crate::status::Cause;

/// Lists that are always written and may be empty nonetheless, by kind.
const MAY_BE_EMPTY: [(&str, &str); 3] =
    [("CSINode", "spec.drivers"), ("EndpointSlice", "endpoints"), ("LimitRange", "spec.limits")];

/// What is wrong with a new object.
pub fn create(resource: &Resource, object: &Value) -> Vec<Cause> {
    let errors = api::validation::create(&resource.def, object);
    let mut causes: Vec<Cause> = errors.into_iter().map(Cause::from).collect();
    by_schema(resource, object, None, &mut causes);
    causes
}

/// What is wrong with a changed object.
pub fn update(resource: &Resource, subresource: &str, old: &Value, new: &Value) -> Vec<Cause> {
    let errors = api::validation::update(&resource.def, subresource, old, new);
    let mut causes: Vec<Cause> = errors.into_iter().map(Cause::from).collect();
    let parsed = resource.def.group == "certificates.k8s.io";
    if subresource != "status" || resource.def.custom || parsed {
        by_schema(resource, new, Some(old), &mut causes);
    }
    causes
}

/// What the schema says of kinds without rules of their own; parts that did not change are taken as they are.
fn by_schema(resource: &Resource, object: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let def = &resource.def;
    if def.group == "admissionregistration.k8s.io" {
        causes.extend(crate::policies::check(def, old, object));
    }
    if def.group == "certificates.k8s.io" && def.kind == "CertificateSigningRequest" {
        causes.extend(crate::certificates::check(old, object));
    }
    if api::validation::complete(def) {
        return;
    }
    let errors = match def.custom {
        true => schema::validate::validate(def.schema(), object, old),
        false => schema::validate::validate_builtin(def.schema(), object),
    };
    let may_be_empty =
        |error: &schema::FieldError| MAY_BE_EMPTY.contains(&(def.kind.as_ref(), error.field.as_str()));
    causes.extend(errors.into_iter().filter(|error| !may_be_empty(error)).map(Cause::from));
}
