//! Plugins about storage and ingress: default classes, protection finalizers, and the right to grow a claim.

use std::sync::Arc;

use serde_json::Value;

use super::{Lookup, Operation, Refusal, Request, list_mut, text};

/// The default among classes: the newest that is marked, by name among equals.
fn default_of(classes: Vec<Arc<Value>>, mark: &str) -> Vec<Arc<Value>> {
    let marked = |class: &Value, mark: &str| {
        class.pointer("/metadata/annotations").and_then(|a| a.get(mark)).is_some_and(|value| value == "true")
    };
    let beta = mark.replace("storageclass.kubernetes.io", "storageclass.beta.kubernetes.io");
    let mut defaults: Vec<Arc<Value>> =
        classes.into_iter().filter(|class| marked(class, mark) || marked(class, &beta)).collect();
    defaults.sort_by(|a, b| {
        let age = |class: &Value| text(class, "/metadata/creationTimestamp").to_string();
        let name = |class: &Value| text(class, "/metadata/name").to_string();
        age(b).cmp(&age(a)).then_with(|| name(a).cmp(&name(b)))
    });
    defaults
}

/// Gives a claim without a class the default one.
pub fn default_class(claim: &mut Value, request: &Request<'_>, lookup: &dyn Lookup) {
    let annotated = claim
        .pointer("/metadata/annotations")
        .is_some_and(|annotations| annotations.get("volume.beta.kubernetes.io/storage-class").is_some());
    let named = claim.pointer("/spec/storageClassName").is_some_and(|name| !name.is_null());
    if !request.creates("", "persistentvolumeclaims") || annotated || named {
        return;
    }
    let classes = lookup.list("storage.k8s.io", "storageclasses", "");
    let defaults = default_of(classes, "storageclass.kubernetes.io/is-default-class");
    let spec = claim.get_mut("spec").and_then(Value::as_object_mut);
    if let Some((class, spec)) = defaults.first().zip(spec) {
        spec.insert("storageClassName".into(), text(class, "/metadata/name").into());
    }
}

/// Volumes and claims in use outlive their deletion.
pub fn protect(object: &mut Value, request: &Request<'_>) {
    let finalizer = match (request.group, request.plural) {
        ("", "persistentvolumeclaims") => "kubernetes.io/pvc-protection",
        ("", "persistentvolumes") => "kubernetes.io/pv-protection",
        ("storage.k8s.io", "volumeattributesclasses") => "kubernetes.io/vac-protection",
        _ => return,
    };
    if request.operation != Operation::Create || !request.subresource.is_empty() {
        return;
    }
    if let Some(list) = object.get_mut("metadata").and_then(|metadata| list_mut(metadata, "finalizers"))
        && !list.iter().any(|own| own == finalizer)
    {
        list.push(finalizer.into());
    }
}

/// Gives an ingress without a class the default one.
pub fn default_ingress_class(
    ingress: &mut Value,
    request: &Request<'_>,
    lookup: &dyn Lookup,
) -> Result<(), Refusal> {
    let annotated = ingress
        .pointer("/metadata/annotations")
        .is_some_and(|annotations| annotations.get("kubernetes.io/ingress.class").is_some());
    let named = ingress.pointer("/spec/ingressClassName").is_some_and(|name| !name.is_null());
    if !request.creates("networking.k8s.io", "ingresses") || annotated || named {
        return Ok(());
    }
    let classes = lookup.list("networking.k8s.io", "ingressclasses", "");
    let defaults = default_of(classes, "ingressclass.kubernetes.io/is-default-class");
    let spec = ingress.get_mut("spec").and_then(Value::as_object_mut);
    if let Some((class, spec)) = defaults.first().zip(spec) {
        spec.insert("ingressClassName".into(), text(class, "/metadata/name").into());
    }
    Ok(())
}

fn requested(claim: &Value) -> Option<base::quantity::Quantity> {
    text(claim, "/spec/resources/requests/storage").parse().ok()
}

/// Only bound claims of a class that allows it may grow.
pub fn resize(claim: &Value, request: &Request<'_>, lookup: &dyn Lookup) -> Result<(), Refusal> {
    let Some(old) = request
        .old
        .filter(|_| request.operation == Operation::Update && request.is("", "persistentvolumeclaims"))
    else {
        return Ok(());
    };
    match (requested(old), requested(claim)) {
        (Some(had), Some(wants)) if wants > had => {}
        _ => return Ok(()),
    }
    if text(old, "/status/phase") != "Bound" {
        return Err(Refusal::Forbidden("Only bound persistent volume claims can be expanded".into()));
    }
    let class = text(claim, "/spec/storageClassName");
    let class = lookup.get("storage.k8s.io", "storageclasses", "", class);
    match class.is_some_and(|class| class["allowVolumeExpansion"] == true) {
        true => Ok(()),
        false => Err(Refusal::Forbidden(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize".into(),
        )),
    }
}
