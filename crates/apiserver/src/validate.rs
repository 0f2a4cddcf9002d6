//! Validation: the rules of built-in kinds by `api::validation`, those of custom ones by their schema.

use serde_json::Value;

use crate::resource::Resource;
use crate::status::Cause;

/// Lists that are always written and may be empty nonetheless, by kind.
const MAY_BE_EMPTY: [(&str, &str); 3] =
    [("CSINode", "spec.drivers"), ("EndpointSlice", "endpoints"), ("LimitRange", "spec.limits")];

/// What is wrong with a new object.
pub fn create(resource: &Resource, object: &Value) -> Vec<Cause> {
    let mut warnings = Vec::new();
    let errors = api::validation::create(&resource.def, object);
    let mut causes: Vec<Cause> = errors.into_iter().map(Cause::from).collect();
    by_schema(resource, object, None, &mut causes, &mut warnings);
    causes
}

/// What is wrong with a changed object. What a definition's rules would refuse but was so before is a warning.
pub fn update(
    resource: &Resource,
    subresource: &str,
    old: &Value,
    new: &Value,
    warnings: &mut Vec<String>,
) -> Vec<Cause> {
    let errors = api::validation::update(&resource.def, subresource, old, new);
    let mut causes: Vec<Cause> = errors.into_iter().map(Cause::from).collect();
    let parsed = resource.def.group == "certificates.k8s.io";
    if subresource != "status" || resource.def.custom || parsed {
        by_schema(resource, new, Some(old), &mut causes, warnings);
    }
    causes
}

/// What the schema says of kinds without rules of their own; parts that did not change are taken as they are.
fn by_schema(
    resource: &Resource,
    object: &Value,
    old: Option<&Value>,
    causes: &mut Vec<Cause>,
    warnings: &mut Vec<String>,
) {
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
    let errors = match def.custom {
        true => with_rules(def.schema(), object, old, errors, warnings),
        false => errors,
    };
    let may_be_empty =
        |error: &schema::FieldError| MAY_BE_EMPTY.contains(&(def.kind.as_ref(), error.field.as_str()));
    causes.extend(errors.into_iter().filter(|error| !may_be_empty(error)).map(Cause::from));
}

/// Adds what the rules of a definition refuse, unless the object is so wrong that they cannot be evaluated.
fn with_rules(
    schema: &schema::Schema,
    object: &Value,
    old: Option<&Value>,
    mut errors: Vec<schema::FieldError>,
    warnings: &mut Vec<String>,
) -> Vec<schema::FieldError> {
    use schema::Reason::{Required, TooLong, TooMany, TypeInvalid};
    let lazy = schema.rules.as_ref().and_then(|rules| rules.rule_tree.as_ref());
    let Some(tree) = lazy.and_then(|lazy| lazy.tree()) else { return errors };
    if errors.iter().any(|error| matches!(error.reason, Required | TooLong | TooMany | TypeInvalid)) {
        let why = "some validation rules were not checked because the object was invalid; correct the existing errors \
                   to complete validation";
        errors.push(schema::FieldError::invalid("<nil>", Value::Null, why));
        return errors;
    }
    let (refused, kept) = tree.evaluate(object, old);
    warnings.extend(kept);
    errors.extend(refused);
    errors
}
