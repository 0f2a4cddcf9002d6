//! DELETE of one object or of many: graceful for pods, in two steps when finalizers hold the object.

use std::sync::Arc;

use http::Response;
use schema::decode::Target;
use serde_json::{Value, json};
use serve::Body;
use store::{Object, Precondition, StoreError, Write};

use crate::admission::{self, AdmissionContext, Operation};
use crate::codec::{self, FieldValidation};
use crate::object::{self, metadata_mut};
use crate::server::Call;
use crate::status::{Cause, Status, success};
use crate::{answer, negotiate};
use crate::{conversion, prepare};

use super::change::{store_error, value_of};
use super::list::{ListOptions, pick};

/// How often a delete is tried anew when others change the object meanwhile.
const ATTEMPTS_MAX: usize = 16;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// How to delete.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds to let the object end by itself.
    pub grace: Option<i64>,
    /// The uid the object must have.
    pub uid: Option<String>,
    /// The resourceVersion the object must have.
    pub version: Option<String>,
    /// `Orphan`, `Background` or `Foreground`.
    pub propagation: Option<String>,
    /// Whether nothing is to be stored.
    pub dry_run: bool,
}

/// The outcome of a delete.
pub enum Deleted {
    /// It is gone; this was its last state.
    Gone(Arc<Object>),
    /// It stays until finalizers or the grace period end.
    Marked(Arc<Object>),
    /// What would have happened (dry run).
    Dry,
}

impl DeleteOptions {
    /// Reads them from the body, or from the query when there is no body.
    pub async fn read(call: &mut Call) -> Result<Self, Status> {
        let body = call.take_body().await?;
        let mut options = Self { dry_run: call.query.dry_run()?, ..Self::default() };
        if body.is_empty() {
            options.grace = call.query.number("gracePeriodSeconds")?;
            options.propagation = call.query.get("propagationPolicy").map(str::to_string);
            match call.query.get("orphanDependents") {
                Some("true" | "1") => options.propagation = Some("Orphan".into()),
                Some(_) => options.propagation = Some("Background".into()),
                None => {}
            }
        } else {
            let value = Self::decode(call, &body)?;
            options.grace = value.get("gracePeriodSeconds").and_then(Value::as_i64);
            let text = |path: &str| object::at(&value, path).and_then(Value::as_str).map(str::to_string);
            options.uid = text("preconditions.uid");
            options.version = text("preconditions.resourceVersion");
            options.propagation = text("propagationPolicy");
            match value.get("orphanDependents").and_then(Value::as_bool) {
                Some(true) => options.propagation = Some("Orphan".into()),
                Some(false) => options.propagation = Some("Background".into()),
                None => {}
            }
            options.dry_run |= value.get("dryRun").and_then(Value::as_array).is_some_and(|l| !l.is_empty());
        }
        options.check()
    }

    fn decode(call: &mut Call, body: &[u8]) -> Result<Value, Status> {
        let schema =
            api::schema_of("meta_v1.DeleteOptions").ok_or_else(|| Status::internal("no DeleteOptions"))?;
        let media = negotiate::content_type(&call.head.headers).to_string();
        let format = codec::form(&media, true)?;
        // Clients send the options under the group and version they speak.
        let version = match format {
            schema::decode::Format::Protobuf => {
                schema::protobuf::open(body).map(|e| e.api_version.to_string()).unwrap_or_default()
            }
            _ => serde_json::from_slice::<Value>(body)
                .map(|value| value["apiVersion"].as_str().unwrap_or("").to_string())
                .unwrap_or_default(),
        };
        let version = if version.is_empty() { "v1".to_string() } else { version };
        let (group, version) = api::kinds::split(&version);
        let target = Target { group, version, kind: "DeleteOptions", schema: &schema };
        codec::decode_as(&target, format, body, FieldValidation::Ignore, &mut call.warnings)
    }

    fn check(self) -> Result<Self, Status> {
        match self.propagation.as_deref() {
            None | Some("Orphan" | "Background" | "Foreground") => Ok(self),
            Some(other) => {
                let message = format!(
                    "Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
                );
                let cause = Cause::field("FieldValueNotSupported", "propagationPolicy", message);
                Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", vec![cause]))
            }
        }
    }
}

/// DELETE of one object.
pub async fn delete(call: &mut Call) -> Result<Response<Body>, Status> {
    let output = call.output()?;
    let options = DeleteOptions::read(call).await?;
    let name = call.info.name.clone();
    let deleted = delete_object(call, &name, &options).await?;
    let (group, plural) = call.names();
    match deleted {
        Deleted::Marked(object) => answer::stored(200, output, &call.resource, &object),
        Deleted::Gone(object) if answers_with_object(call) => {
            answer::stored(200, output, &call.resource, &object)
        }
        Deleted::Gone(object) => {
            let status = success(group, plural, &name, &object.index.uid);
            Ok(answer::typed(200, output.format, "meta_v1.Status", &status))
        }
        Deleted::Dry => {
            let status = success(group, plural, &name, "");
            Ok(answer::typed(200, output.format, "meta_v1.Status", &status))
        }
    }
}

/// Kinds whose deletion is answered with their last state instead of a status.
fn answers_with_object(call: &Call) -> bool {
    let def = &call.resource.def;
    match def.group.as_ref() {
        "" => matches!(
            def.plural.as_ref(),
            "pods"
                | "services"
                | "persistentvolumes"
                | "persistentvolumeclaims"
                | "podtemplates"
                | "resourcequotas"
                | "serviceaccounts"
        ),
        "storage.k8s.io" => true,
        _ => false,
    }
}

/// DELETE of a collection.
pub async fn delete_collection(call: &mut Call) -> Result<Response<Body>, Status> {
    let output = call.output()?;
    let list = ListOptions::parse(call)?;
    let options = DeleteOptions::read(call).await?;
    let picked = pick(call, &list).await?;
    let namespace = call.info.namespace.clone();
    for object in &picked.objects {
        call.info.namespace = object.key.namespace.to_string();
        match delete_object(call, &object.key.name, &options).await {
            Ok(_) => {}
            Err(status) if status.code == 404 => {}
            Err(status) => return Err(status),
        }
    }
    call.info.namespace = namespace;
    let items: Vec<Value> = picked
        .objects
        .iter()
        .filter_map(|object| serde_json::from_slice(&call.resource.present(object)).ok())
        .collect();
    let def = &call.resource.def;
    let list = json!({"kind": def.list_kind, "apiVersion": def.api_version(),
        "metadata": {"resourceVersion": picked.revision.to_string()}, "items": items});
    if output.format == negotiate::Format::Protobuf {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Success"});
        return Ok(answer::typed(200, output.format, "meta_v1.Status", &status));
    }
    Ok(answer::value(200, output.format, &list))
}

/// Deletes the object of this name in the request's namespace, or begins to.
pub async fn delete_object(call: &mut Call, name: &str, options: &DeleteOptions) -> Result<Deleted, Status> {
    let options = &with_default_policy(call, options);
    let key = call.resource.key(&call.info.namespace, name);
    for _ in 0..ATTEMPTS_MAX {
        let current = call.server.store.get(&key).ok_or_else(|| call.not_found(name))?;
        check_preconditions(call, &current, options)?;
        let current = conversion::object(&call.server, &call.resource, current).await?;
        let old = value_of(call, &current)?;
        admit(call, name, &old, options.dry_run).await?;
        let mut new = old.clone();
        let gone = mark(call, &mut new, options);
        if options.dry_run {
            return Ok(Deleted::Dry);
        }
        if !gone && new == old {
            return Ok(Deleted::Marked(current));
        }
        let value = match gone {
            true => None,
            false => Some(conversion::draft(&call.server, &call.resource, &new).await?),
        };
        let precondition = Precondition::Revision(current.modified);
        match call.server.store.write(Write { key: key.clone(), precondition, value, last: None }).await {
            Ok(object) => {
                call.server.after_write(&call.resource, Some(&old), (!gone).then_some(&new));
                let object = conversion::object(&call.server, &call.resource, object).await?;
                return Ok(if gone { Deleted::Gone(object) } else { Deleted::Marked(object) });
            }
            Err(StoreError::Conflict { current: Some(_), .. }) => continue,
            Err(error) => return Err(store_error(call, name, error)),
        }
    }
    let (group, plural) = call.names();
    Err(Status::modified(group, plural, name))
}

/// Jobs and ReplicationControllers leave their pods behind when a client says nothing, as they always have.
fn with_default_policy(call: &mut Call, options: &DeleteOptions) -> DeleteOptions {
    let mut options = options.clone();
    let def = &call.resource.def;
    let job = def.group == "batch" && def.kind == "Job";
    let controller = def.group.is_empty() && def.kind == "ReplicationController";
    if options.propagation.is_none() && (job || controller) {
        options.propagation = Some("Orphan".into());
        let warning = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning";
        if job && !call.warnings.iter().any(|own| own == warning) {
            call.warnings.push(warning.into());
        }
    }
    options
}

fn check_preconditions(call: &Call, current: &Object, options: &DeleteOptions) -> Result<(), Status> {
    let def = &call.resource.def;
    let refuse = |cause: String| Status::conflict(&def.group, &def.kind, &current.key.name, &cause);
    if let Some(uid) = options.uid.as_deref()
        && uid != &*current.index.uid
    {
        return Err(refuse(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            current.index.uid
        )));
    }
    if let Some(version) = options.version.as_deref()
        && version != current.modified.to_string()
    {
        return Err(refuse(format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The object might have been modified",
            current.modified
        )));
    }
    Ok(())
}

async fn admit(call: &mut Call, name: &str, old: &Value, dry_run: bool) -> Result<(), Status> {
    let plugins = call.server.plugins.read().clone();
    let Call { server, identity, resource, info, warnings, .. } = call;
    let mut context = AdmissionContext {
        server,
        identity,
        operation: Operation::Delete,
        resource,
        subresource: "",
        namespace: &info.namespace,
        name,
        old: Some(old),
        dry_run,
        warnings,
    };
    let mut nothing = Value::Null;
    admission::admit(&plugins, &mut nothing, &mut context).await?;
    admission::validate(&plugins, &nothing, &mut context).await
}

/// Marks the object as being deleted; true when nothing holds it any more.
fn mark(call: &Call, object: &mut Value, options: &DeleteOptions) -> bool {
    let grace = prepare::grace(&call.resource, object, options.grace);
    settle_finalizers(object, options.propagation.as_deref());
    prepare::before_delete(&call.resource, object);
    let held = object::finalizers(object).next().is_some() || !prepare::finalized(&call.resource, object);
    if grace == 0 && !held {
        return true;
    }
    let now = jiff::Timestamp::now();
    let first = !object::is_deleting(object);
    let own = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    let metadata = metadata_mut(object);
    if first || own.is_some_and(|own| grace < own) {
        let end = now.checked_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(now);
        metadata.insert("deletionTimestamp".into(), object::timestamp(end).into());
        metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
    }
    if first && let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
        metadata.insert("generation".into(), (generation + 1).into());
    }
    if first {
        prepare::deleting(&call.resource, object);
    }
    false
}

/// The propagation policy becomes a finalizer that the garbage collector works off.
fn settle_finalizers(object: &mut Value, propagation: Option<&str>) {
    let Some(policy) = propagation else { return };
    let wanted = match policy {
        "Orphan" => Some(ORPHAN),
        "Foreground" => Some(FOREGROUND),
        _ => None,
    };
    let mut kept: Vec<Value> = object::finalizers(object)
        .filter(|finalizer| !matches!(*finalizer, ORPHAN | FOREGROUND))
        .map(Value::from)
        .collect();
    kept.extend(wanted.map(Value::from));
    let metadata = metadata_mut(object);
    match kept.is_empty() {
        true => metadata.remove("finalizers"),
        false => metadata.insert("finalizers".into(), kept.into()),
    };
}
