//! Types of the kinds that a policy is about: what of its expressions does not fit them stands in its status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::KindDef;
use cel::{Decl, DeclKind, FieldType, ListKind, ObjectType, REQUEST_BYTES_MAX, Type};
use schema::{ListType, Schema};
use serde_json::{Value, json};
use store::{Precondition, Range, Write};

use super::env::{self, Extras};
use super::plan;
use crate::object::{self, at, set_at};
use crate::server::ApiServer;

const TABLE: &str = "admissionregistration.k8s.io/validatingadmissionpolicies";
/// Kinds a policy is checked against at most.
const TYPES_MAX: usize = 10;
/// Deeper types are not known to expressions.
const DEPTH_MAX: usize = 24;
/// How long to wait when the policies cannot be followed.
const RETRY: Duration = Duration::from_secs(1);

/// Checks policies as they come and change, until the server ends.
pub async fn follow(server: Arc<ApiServer>) {
    let mut stopping = server.stopping();
    loop {
        let revision = server.store.revision();
        settle(&server).await;
        let Ok(mut events) = server.store.watch(TABLE, revision) else {
            tokio::time::sleep(RETRY).await;
            continue;
        };
        tokio::select! {
            _ = events.next(64) => {}
            _ = stopping.changed() => return,
        }
    }
}

/// Checks the policies whose generation has not been checked.
async fn settle(server: &ApiServer) {
    let snapshot = server.store.snapshot(TABLE);
    let stored: Vec<Arc<store::Object>> = snapshot.iter(&Range::default()).cloned().collect();
    for object in stored {
        let Ok(mut policy) = serde_json::from_slice::<Value>(&object.json) else { continue };
        let generation = at(&policy, "metadata.generation").cloned().unwrap_or_default();
        if at(&policy, "status.observedGeneration") == Some(&generation) {
            continue;
        }
        let warnings = warnings(server, &policy);
        set_at(&mut policy, "status.observedGeneration", generation);
        let checked = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
        set_at(&mut policy, "status.typeChecking", checked);
        let catalog = server.catalog();
        let Some(resource) = catalog.stored(super::GROUP, "validatingadmissionpolicies") else { return };
        let write = Write {
            key: object.key.clone(),
            precondition: Precondition::Revision(object.modified),
            value: Some(object::draft(resource, &policy)),
            last: None,
        };
        // Whoever was faster brings us back by the event of that write.
        if let Err(cause) = server.store.write(write).await {
            tracing::debug!(%cause, name = object::name(&policy), "write the status of a policy");
        }
    }
}

fn warnings(server: &ApiServer, policy: &Value) -> Vec<Value> {
    let spec = &policy["spec"];
    let kinds = kinds(server, spec);
    if kinds.is_empty() {
        return Vec::new();
    }
    let params = param_decl(server, spec);
    let extras = Extras { params: spec["paramKind"].is_object(), authorizer: true, patches: false };
    let checks: Vec<(String, cel::Env)> = kinds
        .iter()
        .map(|def| {
            let object = decl(def);
            let env = env::env(extras, Some(&object), params.as_ref());
            let (_, known) = plan::variables(spec, &env);
            let env = env.variable("variables", env::variables(&known));
            let group = if def.group.is_empty() { String::new() } else { def.group.to_string() };
            (format!("{group}/{}, Kind={}", def.version, def.kind), env)
        })
        .collect();
    let mut warnings = Vec::new();
    for (i, validation) in spec["validations"].as_array().into_iter().flatten().enumerate() {
        for field in ["expression", "messageExpression"] {
            let Some(text) = validation[field].as_str().filter(|text| !text.is_empty()) else { continue };
            let wrong = |(kind, env): &(String, cel::Env)| {
                let cause = env::compile(env, text, &[]).err()?;
                Some(format!("{kind}: {cause}\n"))
            };
            let lines: Vec<String> = checks.iter().filter_map(wrong).collect();
            if !lines.is_empty() {
                let place = format!("spec.validations[{i}].{field}");
                warnings.push(json!({"fieldRef": place, "warning": lines.join("\n")}));
            }
        }
    }
    warnings
}

/// The kinds that the rules name without asterisks, in order.
fn kinds(server: &ApiServer, spec: &Value) -> Vec<Arc<KindDef>> {
    let catalog = server.catalog();
    let mut found: Vec<Arc<KindDef>> = Vec::new();
    let rules = spec["matchConstraints"]["resourceRules"].as_array();
    for rule in rules.into_iter().flatten() {
        let texts = |field: &str| -> Vec<&str> {
            rule[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
        };
        let (groups, versions) = (texts("apiGroups"), texts("apiVersions"));
        if groups.iter().chain(&versions).any(|text| text.contains('*')) {
            continue;
        }
        for (group, version) in groups.iter().flat_map(|g| versions.iter().map(move |v| (*g, *v))) {
            for plural in texts("resources") {
                let def = catalog.registry.by_path(group, version, plural);
                let new = |def: &&Arc<KindDef>| !found.iter().any(|known| Arc::ptr_eq(known, def));
                if let Some(def) = def.filter(new).filter(|_| found.len() < TYPES_MAX) {
                    found.push(def.clone());
                }
            }
        }
    }
    found.sort_by(|a, b| (&a.group, &a.version, &a.kind).cmp(&(&b.group, &b.version, &b.kind)));
    found
}

fn param_decl(server: &ApiServer, spec: &Value) -> Option<Arc<Decl>> {
    let (group, version) = api::kinds::split(spec["paramKind"]["apiVersion"].as_str()?);
    let kind = spec["paramKind"]["kind"].as_str()?;
    server.catalog().registry.by_kind(group, version, kind).map(|def| decl(def))
}

/// The declaration of a kind.
fn decl(def: &KindDef) -> Arc<Decl> {
    let Some(of) = declared(def.schema(), &def.kind, DEPTH_MAX) else { return Decl::any() };
    let DeclKind::Object(own) = &of.kind else { return of };
    let mut fields = own.fields.clone();
    for name in ["apiVersion", "kind"] {
        let field = FieldType { decl: Decl::plain(Type::String), json: name.into() };
        fields.entry(name.into()).or_insert(field);
    }
    made(DeclKind::Object(Arc::new(ObjectType { name: own.name.clone(), fields })))
}

fn made(kind: DeclKind) -> Arc<Decl> {
    Arc::new(Decl { kind, size_max: REQUEST_BYTES_MAX, bytes_min: 1 })
}

fn declared(schema: &Schema, name: &str, depth: usize) -> Option<Arc<Decl>> {
    use schema::Type as Own;
    if depth == 0 || schema.preserve_unknown {
        return Some(Decl::any());
    }
    Some(match &schema.ty {
        Own::Bool => Decl::plain(Type::Bool),
        Own::Int32 | Own::Int64 => Decl::plain(Type::Int),
        Own::Float => Decl::plain(Type::Double),
        Own::String | Own::Quantity | Own::Duration => Decl::plain(Type::String),
        Own::Bytes => Decl::plain(Type::Bytes),
        Own::Time | Own::MicroTime => Decl::plain(Type::Timestamp),
        Own::IntOrString | Own::Raw | Own::Any | Own::Either(..) => Decl::any(),
        Own::Map(of) => made(DeclKind::Map(declared(of, &format!("{name}.@elem"), depth - 1)?)),
        Own::List(of) | Own::WrappedStrings(of) => {
            let kind = match schema.list_type() {
                ListType::Atomic => ListKind::Atomic,
                ListType::Set => ListKind::Set,
                ListType::Map(keys) => {
                    ListKind::Map(keys.iter().filter_map(|key| cel::escape(key)).collect())
                }
            };
            made(DeclKind::List(declared(of, &format!("{name}.@idx"), depth - 1)?, kind))
        }
        Own::Object(_) => {
            let mut fields: BTreeMap<Arc<str>, FieldType> = BTreeMap::new();
            for field in &schema.object()?.fields {
                let (Some(own), Some(decl)) = (
                    cel::escape(&field.name),
                    declared(&field.schema, &format!("{name}.{}", field.name), depth - 1),
                ) else {
                    continue;
                };
                fields.insert(own.into(), FieldType { decl, json: field.name.as_ref().into() });
            }
            made(DeclKind::Object(Arc::new(ObjectType { name: name.into(), fields })))
        }
    })
}
