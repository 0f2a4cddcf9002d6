//! What the server itself puts into objects: identity, generation, the parting of spec and status, and the few
//! facts of single kinds.

use std::borrow::Cow;

use api::Generation;
use serde_json::{Map, Value, json};
use store::Draft;

use crate::object::{self, is_deleting, meta_text, metadata_mut};
use crate::resource::Resource;
use crate::server::Call;
use crate::settle;
use crate::status::Status;

/// Seconds a pod is given to end when nobody says otherwise.
const POD_GRACE: i64 = 30;
/// Seconds an event is kept.
const EVENT_LIFE: i64 = 3600;

/// A new object: system fields, first generation, no status.
pub fn create(call: &Call, object: &mut Value) -> Result<(), Status> {
    let def = &call.resource.def;
    let now = object::timestamp(jiff::Timestamp::now());
    let metadata = metadata_mut(object);
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
        metadata.remove(field);
    }
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), now.into());
    if !matches!(def.generation, Generation::None | Generation::Update) {
        metadata.insert("generation".into(), 1.into());
    }
    if def.has_status() && clears_status(def) {
        clear_status(def, object);
    }
    settle::distinct_owners(object);
    match (def.group.as_ref(), def.kind.as_ref()) {
        ("", "Pod") => pod(object),
        ("", "Namespace") => namespace(object),
        ("", "PersistentVolumeClaim") => {
            settle::data_sources(object);
            object::set_at(object, "status", json!({"phase": "Pending"}));
        }
        ("", "PersistentVolume") => {
            let now = object::timestamp(jiff::Timestamp::now());
            object::set_at(object, "status", json!({"phase": "Pending", "lastPhaseTransitionTime": now}));
        }
        ("batch", "Job") => job(object),
        ("apps", "DaemonSet") => settle::template_generation(None, object),
        ("certificates.k8s.io", "CertificateSigningRequest") => requester(call, object),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => crate::custom::prepare(object),
        _ => {}
    }
    Ok(())
}

/// Kinds that keep the status a client sends on create.
fn clears_status(def: &api::KindDef) -> bool {
    !(def.group.is_empty() && matches!(def.plural.as_ref(), "nodes"))
}

/// No status, written as the kind's decoder would write it.
fn clear_status(def: &api::KindDef, object: &mut Value) {
    let field = def.schema().object().and_then(|root| root.field("status"));
    match field.filter(|field| !def.custom && !field.pointer && field.schema.is_object()) {
        Some(field) => {
            let mut empty = json!({});
            if schema::canonicalize(&field.schema, &mut empty).is_ok() {
                object["status"] = empty;
            }
        }
        None => put(object, "status", None),
    }
}

fn pod(object: &mut Value) {
    let class = quality(object);
    let mut status = json!({"phase": "Pending", "qosClass": class});
    let gates = object.pointer("/spec/schedulingGates").and_then(Value::as_array);
    if gates.is_some_and(|gates| !gates.is_empty()) {
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "lastProbeTime": null,
            "lastTransitionTime": object::timestamp(jiff::Timestamp::now()),
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]);
    }
    object::set_at(object, "status", status);
}

/// A job finds its pods by its uid, unless its maker chose the labels.
fn job(object: &mut Value) {
    if object.pointer("/spec/manualSelector") == Some(&Value::Bool(true)) {
        return;
    }
    let uid = meta_text(object, "uid").to_owned();
    let name = object::name(object).to_owned();
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let Some(template) = spec.get_mut("template").and_then(Value::as_object_mut) else { return };
    let metadata = template.entry("metadata").or_insert_with(|| json!({}));
    if metadata.is_null() {
        *metadata = json!({});
    }
    let Some(metadata) = metadata.as_object_mut() else { return };
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if labels.is_null() {
        *labels = json!({});
    }
    let Some(labels) = labels.as_object_mut() else { return };
    for prefix in ["", "batch.kubernetes.io/"] {
        labels.entry(format!("{prefix}job-name")).or_insert_with(|| name.as_str().into());
        labels.entry(format!("{prefix}controller-uid")).or_insert_with(|| uid.as_str().into());
    }
    let selector = spec.entry("selector").or_insert_with(|| json!({}));
    if selector.is_null() {
        *selector = json!({});
    }
    if selector.get("matchLabels").is_none_or(Value::is_null) {
        selector["matchLabels"] = json!({});
    }
    if let Some(wanted) = selector["matchLabels"].as_object_mut() {
        wanted.entry("batch.kubernetes.io/controller-uid").or_insert_with(|| uid.into());
    }
}

/// The quality-of-service class of a pod, from the requests and limits of its containers.
pub fn quality(pod: &Value) -> &'static str {
    let lists = ["containers", "initContainers"];
    let containers: Vec<&Value> = lists
        .iter()
        .filter_map(|list| pod.get("spec").and_then(|spec| spec.get(list)).and_then(Value::as_array))
        .flatten()
        .collect();
    let amount = |of: &Value, what: &str, name: &str| -> Option<String> {
        let value = of.get("resources")?.get(what)?.get(name)?;
        let text = value.as_str().map(Cow::Borrowed).unwrap_or_else(|| Cow::Owned(value.to_string()));
        (!matches!(text.as_ref(), "0" | "")).then(|| text.into_owned())
    };
    let (mut any, mut guaranteed) = (false, true);
    let pod_level = pod.get("spec").filter(|spec| spec.get("resources").is_some());
    let judged: Vec<&Value> = pod_level.map_or(containers, |spec| vec![spec]);
    for container in judged {
        for name in ["cpu", "memory"] {
            let (limit, request) = (amount(container, "limits", name), amount(container, "requests", name));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
        (false, _) => "BestEffort",
    }
}

fn namespace(object: &mut Value) {
    let name = object::name(object).to_string();
    object::set_at(object, "spec", json!({"finalizers": ["kubernetes"]}));
    object::set_at(object, "status", json!({"phase": "Active"}));
    if !name.is_empty() {
        label_namespace(object, &name);
    }
}

/// A volume says when it came into its phase, unless whoever changed it says so.
fn date_phase(old: &Value, new: &mut Value) {
    let field = |object: &Value, name: &str| object.pointer(&format!("/status/{name}")).cloned();
    let dated = field(old, "lastPhaseTransitionTime") != field(new, "lastPhaseTransitionTime");
    if field(old, "phase") != field(new, "phase") && !dated {
        let now = object::timestamp(jiff::Timestamp::now());
        object::set_at(new, "status.lastPhaseTransitionTime", now.into());
    }
}

/// Every namespace carries its name as a label.
pub fn label_namespace(object: &mut Value, name: &str) {
    let labels = metadata_mut(object).entry("labels").or_insert_with(|| Value::Object(Map::new()));
    if !labels.is_object() {
        *labels = Value::Object(Map::new());
    }
    labels["kubernetes.io/metadata.name"] = name.into();
}

/// A certificate request says who made it.
fn requester(call: &Call, object: &mut Value) {
    object::set_at(object, "spec.username", call.identity.name.as_str().into());
    object::set_at(object, "spec.groups", call.identity.groups.clone().into());
    if !call.identity.uid.is_empty() {
        object::set_at(object, "spec.uid", call.identity.uid.as_str().into());
    }
    if !call.identity.extra.is_empty() {
        object::set_at(object, "spec.extra", json!(call.identity.extra));
    }
}

/// A changed object: what the client may not change is taken from the state before.
pub fn update(call: &Call, old: &Value, new: &mut Value, subresource: &str) -> Result<(), Status> {
    let def = &call.resource.def;
    project(&call.resource, old, new, subresource);
    settle::update(def, old, new, subresource);
    if def.kind == "CustomResourceDefinition" && subresource.is_empty() {
        crate::custom::remember_stored(new);
    }
    if def.group == "certificates.k8s.io" && def.kind == "CertificateSigningRequest" {
        crate::certificates::settle(old, new, subresource);
    }
    if def.group.is_empty() && def.kind == "Service" && subresource.is_empty() {
        carry_service(&call.resource, old, new);
        crate::services::transition::settle(old, new);
    }
    let kept = ["uid", "creationTimestamp", "selfLink", "generateName", "namespace"];
    let mut before: Vec<(&str, Option<Value>)> = kept
        .iter()
        .filter(|field| meta_text(new, field).is_empty())
        .map(|field| (*field, old.pointer(&format!("/metadata/{field}")).cloned()))
        .collect();
    for field in ["generation", "deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion"] {
        before.push((field, old.pointer(&format!("/metadata/{field}")).cloned()));
    }
    let metadata = metadata_mut(new);
    for (field, value) in before {
        match value {
            Some(value) => metadata.insert(field.into(), value),
            None => metadata.remove(field),
        };
    }
    if def.group.is_empty() && def.kind == "Namespace" {
        label_namespace(new, &call.info.name);
    }
    if def.group.is_empty() && def.kind == "PersistentVolume" {
        date_phase(old, new);
    }
    let bump = match def.generation {
        Generation::None | Generation::Create => false,
        // Neither a node for the pod nor a report is a change of what is wanted.
        _ if matches!(subresource, "binding" | "status") => false,
        _ => content_changed(def.generation, old, new),
    };
    if bump {
        let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        metadata_mut(new).insert("generation".into(), (generation + 1).into());
    }
    Ok(())
}

fn content_changed(rule: Generation, old: &Value, new: &Value) -> bool {
    let meta = |object: &Value, field: &str| object.pointer(&format!("/metadata/{field}")).cloned();
    let by_meta = match rule {
        Generation::Annotations => meta(old, "annotations") != meta(new, "annotations"),
        Generation::Labels => meta(old, "labels") != meta(new, "labels"),
        _ => false,
    };
    by_meta || content(old) != content(new)
}

fn content(object: &Value) -> Vec<(&String, &Value)> {
    let fields = object.as_object().into_iter().flatten();
    let aside = ["metadata", "status", "kind", "apiVersion"];
    fields.filter(|(key, _)| !aside.contains(&key.as_str())).collect()
}

/// Keeps of the new state only what the subresource is for.
fn project(resource: &Resource, old: &Value, new: &mut Value, subresource: &str) {
    let def = &resource.def;
    match subresource {
        "" if def.has_status() && clears_status(def) => take(new, old, &["status"]),
        "" => {}
        "status" => {
            let managed = new.pointer("/metadata/managedFields").filter(|_| def.custom).cloned();
            restore(new, old, if def.custom { &["status"] } else { &["status", "metadata"] });
            let kept: &[&str] = match (def.group.as_ref(), def.kind.as_ref()) {
                _ if def.custom => &[],
                (_, "Pod") => &["ownerReferences", "finalizers"],
                ("apps", _) => &["labels"],
                _ => &[],
            };
            for field in kept {
                put(&mut new["metadata"], field, old.pointer(&format!("/metadata/{field}")).cloned());
            }
            if let Some(managed) = managed {
                put(&mut new["metadata"], "managedFields", Some(managed));
            }
        }
        "finalize" => {
            let finalizers = object::at(new, "spec.finalizers").cloned();
            *new = old.clone();
            object::set_at(new, "spec", json!({}));
            put(&mut new["spec"], "finalizers", finalizers);
        }
        "approval" => {
            let conditions = object::at(new, "status.conditions").cloned();
            let metadata = new.get("metadata").cloned();
            *new = old.clone();
            put(new, "metadata", metadata);
            match conditions {
                Some(conditions) => object::set_at(new, "status.conditions", conditions),
                None if new["status"].is_object() => put(&mut new["status"], "conditions", None),
                None => {}
            }
        }
        "ephemeralcontainers" => {
            let list = object::at(new, "spec.ephemeralContainers").cloned();
            let version = meta_text(new, "resourceVersion").to_string();
            *new = old.clone();
            metadata_mut(new).insert("resourceVersion".into(), version.into());
            put(&mut new["spec"], "ephemeralContainers", list);
        }
        "resize" => resize(old, new),
        _ => {}
    }
}

/// Resize changes nothing but the resources and resize policies of containers. Other containers, or in another order,
/// are left for the validation to refuse.
fn resize(old: &Value, new: &mut Value) {
    let names = |pod: &Value, list: &str| -> Vec<Value> {
        let all = pod.pointer(&format!("/spec/{list}")).and_then(Value::as_array);
        all.into_iter().flatten().map(|c| c.get("name").cloned().unwrap_or_default()).collect()
    };
    if ["containers", "initContainers"].iter().any(|list| names(old, list) != names(new, list)) {
        return;
    }
    let mut merged = old.clone();
    for list in ["containers", "initContainers"] {
        let path = format!("/spec/{list}");
        let wanted = new.pointer(&path).and_then(Value::as_array).cloned().unwrap_or_default();
        let Some(own) = merged.pointer_mut(&path).and_then(Value::as_array_mut) else { continue };
        for (container, wanted) in own.iter_mut().zip(wanted) {
            for field in ["resources", "resizePolicy"] {
                put(container, field, wanted.get(field).cloned());
            }
        }
    }
    *new = merged;
}

/// Takes all fields but some from the state before. What is the same already is not copied.
fn restore(new: &mut Value, old: &Value, except: &[&str]) {
    let (Some(new), Some(old)) = (new.as_object_mut(), old.as_object()) else { return };
    new.retain(|field, _| old.contains_key(field) || except.contains(&field.as_str()));
    for (field, value) in old.iter().filter(|(field, _)| !except.contains(&field.as_str())) {
        if new.get(field) != Some(value) {
            new.insert(field.clone(), value.clone());
        }
    }
}

fn take(new: &mut Value, old: &Value, fields: &[&str]) {
    for field in fields {
        put(new, field, old.get(field).cloned());
    }
}

fn put(object: &mut Value, field: &str, value: Option<Value>) {
    let Some(map) = object.as_object_mut() else { return };
    match value {
        Some(value) => map.insert(field.to_string(), value),
        None => map.remove(field),
    };
}

/// A changed Service that says nothing of what was given to it keeps it.
fn carry_service(resource: &Resource, old: &Value, new: &mut Value) {
    if !resource.def.group.is_empty() || resource.def.kind != "Service" {
        return;
    }
    let text = |object: &Value, path: &str| {
        object::at(object, path).and_then(Value::as_str).unwrap_or("").to_string()
    };
    let external = |object: &Value| text(object, "spec.type") == "ExternalName";
    if text(new, "spec.type").is_empty() && new.get("spec").is_some() {
        object::set_at(new, "spec.type", "ClusterIP".into());
    }
    if external(old) || external(new) {
        return;
    }
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let path = format!("spec.{field}");
        let given = object::at(new, &path).filter(|value| !value.is_null());
        let absent = given.is_none_or(|value| field == "clusterIP" && value == "");
        if absent && let Some(own) = object::at(old, &path) {
            object::set_at(new, &path, own.clone());
        }
    }
    let (before, after) = (text(old, "spec.clusterIP"), text(new, "spec.clusterIP"));
    let list = object::at(new, "spec.clusterIPs").cloned();
    if before != after && !after.is_empty() && list.as_ref() == object::at(old, "spec.clusterIPs") {
        let mut ips = list.and_then(|list| list.as_array().cloned()).unwrap_or_default();
        match ips.first_mut() {
            Some(first) => *first = after.into(),
            None => ips.push(after.into()),
        }
        object::set_at(new, "spec.clusterIPs", ips.into());
    }
    let health = "spec.healthCheckNodePort";
    if crate::services::healthy_port_wanted(new)
        && object::at(new, health).is_none()
        && let Some(own) = object::at(old, health)
    {
        object::set_at(new, health, own.clone());
    }
}

/// Seconds between the request to delete and the end.
pub fn grace(resource: &Resource, object: &Value, asked: Option<i64>) -> i64 {
    if !resource.def.group.is_empty() || resource.def.kind != "Pod" {
        return 0;
    }
    let text = |path: &str| object::at(object, path).and_then(Value::as_str).unwrap_or("");
    let over = matches!(text("status.phase"), "Failed" | "Succeeded");
    if text("spec.nodeName").is_empty() || over {
        return 0;
    }
    let own = object::at(object, "spec.terminationGracePeriodSeconds").and_then(Value::as_i64);
    let wanted = asked.or(own).unwrap_or(POD_GRACE);
    if wanted < 0 { 1 } else { wanted }
}

/// Whether nothing but `metadata.finalizers` could still hold a deleted object.
pub fn finalized(resource: &Resource, object: &Value) -> bool {
    let namespace = resource.def.group.is_empty() && resource.def.kind == "Namespace";
    let own = object::at(object, "spec.finalizers").and_then(Value::as_array);
    !namespace || own.is_none_or(Vec::is_empty)
}

/// What a kind adds before its deletion is considered: definitions wait for their instances.
pub fn before_delete(resource: &Resource, object: &mut Value) {
    if resource.def.kind == "CustomResourceDefinition" {
        crate::custom::terminating(object);
    }
}

/// What changes in an object when its deletion begins.
pub fn deleting(resource: &Resource, object: &mut Value) {
    if resource.def.group.is_empty() && resource.def.kind == "Namespace" && is_deleting(object) {
        object::set_at(object, "status.phase", "Terminating".into());
    }
}

/// When the store is to delete the object by itself, in seconds since the epoch.
pub fn expiry(resource: &Resource, object: &Value) -> Option<u64> {
    let event = resource.def.kind == "Event" && matches!(resource.def.group.as_ref(), "" | "events.k8s.io");
    let _ = object;
    event.then(|| jiff::Timestamp::now().as_second() + EVENT_LIFE).and_then(|at| u64::try_from(at).ok())
}

/// The bytes to store for an object of the resource's version.
pub fn draft(resource: &Resource, object: &Value) -> Draft {
    match &resource.stored {
        None => object::draft(resource, object),
        Some(stored) => {
            let mut value = object.clone();
            crate::convert::to_stored(&resource.def, stored, &mut value);
            object::draft(resource, &value)
        }
    }
}
