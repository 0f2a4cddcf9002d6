//! The one way an existing object changes: read, compute, check, admit, and write if nobody was faster.

use std::sync::Arc;

use serde_json::{Map, Value};
use store::{Object, Precondition, StoreError, Write};

use crate::admission::{self, AdmissionContext, Operation};
use crate::object::{self, is_deleting, meta_text};
use crate::server::Call;
use crate::status::{Cause, Status};
use crate::{codec, conversion, managed, prepare, services, validate};

/// How often a change without a resourceVersion is computed anew when others are faster.
const ATTEMPTS_MAX: usize = 16;

/// What computes the new state.
pub struct Edit<'a> {
    /// The new state, from the state before. Both are of the request's version.
    pub make: &'a mut (dyn FnMut(&Value) -> Result<Value, Status> + Send),
    /// The subresource that is written, empty for the object itself.
    pub subresource: &'a str,
    /// Whether it is a PUT, which for some kinds must carry a resourceVersion.
    pub put: bool,
    /// Whether nothing is to be stored.
    pub dry_run: bool,
    /// Whether `managedFields` are to be kept up here; apply does it by itself, bindings do not count.
    pub track: bool,
}

/// An [`Edit`] without its computation.
#[derive(Clone, Copy)]
struct Way<'a> {
    subresource: &'a str,
    put: bool,
    dry_run: bool,
    track: bool,
}

/// The outcome of a change.
pub enum Changed {
    /// What is stored now.
    Stored(Arc<Object>),
    /// What would be stored (dry run).
    Value(Value),
}

/// What a store's refusal of a write means.
pub fn store_error(call: &Call, name: &str, error: StoreError) -> Status {
    let (group, plural) = call.names();
    match error {
        StoreError::Conflict { current: None, .. } => Status::not_found(group, plural, name),
        StoreError::Conflict { .. } => Status::modified(group, plural, name),
        other => super::unavailable(other),
    }
}

/// The object's value in the request's version.
pub fn value_of(call: &Call, object: &Object) -> Result<Value, Status> {
    serde_json::from_slice(&call.resource.present(object)).map_err(Status::internal)
}

/// Changes the object `name` of the request's namespace.
pub async fn change(call: &mut Call, name: &str, edit: Edit<'_>) -> Result<Changed, Status> {
    let Edit { make, subresource, put, dry_run, track } = edit;
    let way = Way { subresource, put, dry_run, track };
    let key = call.resource.key(&call.info.namespace, name);
    for _ in 0..ATTEMPTS_MAX {
        let current = call.server.store.get(&key).ok_or_else(|| call.not_found(name))?;
        let current = conversion::object(&call.server, &call.resource, current).await?;
        let old = value_of(call, &current)?;
        let mut new = make(&old)?;
        check_identity(call, name, &new)?;
        let conditional = check_version(call, &current, &old, &new, way)?;
        codec::default(&call.resource.def, &mut new);
        prepare::update(call, &old, &mut new, subresource)?;
        if call.resource.def.custom {
            codec::default(&call.resource.def, &mut new);
        }
        admit(call, name, &old, &mut new, way).await?;
        if is_same(&old, &new) {
            return Ok(if dry_run { Changed::Value(old) } else { Changed::Stored(current) });
        }
        if dry_run {
            return Ok(Changed::Value(new));
        }
        let server = call.server.clone();
        let mut reserved = services::shared::reserve(&server, &call.resource, Some(&old), &mut new).await?;
        let write = write(call, &current, &new).await?;
        let gone = write.value.is_none();
        let states = server.remembers(&call.resource, &call.info.namespace).then_some((old, new));
        let service = states.as_ref().map(|(_, new)| new);
        match services::claims::write(&server, write, &reserved, service).await {
            Ok(object) => {
                reserved.keep();
                match &states {
                    Some((old, new)) => {
                        server.after_write(&call.resource, Some(old), (!gone).then_some(new));
                    }
                    None => server.quotas.missed(&call.resource, &call.info.namespace),
                }
                let object = conversion::object(&call.server, &call.resource, object).await?;
                return Ok(Changed::Stored(object));
            }
            Err(StoreError::Conflict { current: Some(_), .. }) if !conditional => continue,
            Err(error) => return Err(store_error(call, name, error)),
        }
    }
    let (group, plural) = call.names();
    Err(Status::modified(group, plural, name))
}

async fn write(call: &Call, current: &Object, new: &Value) -> Result<Write, Status> {
    let gone = is_deleting(new)
        && object::finalizers(new).next().is_none()
        && grace(new) == 0
        && prepare::finalized(&call.resource, new);
    let draft = conversion::draft(&call.server, &call.resource, new).await?;
    let (value, last) = if gone { (None, Some(draft)) } else { (Some(draft), None) };
    let precondition = Precondition::Revision(current.modified);
    Ok(Write { key: current.key.clone(), precondition, value, last })
}

fn grace(object: &Value) -> i64 {
    object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0)
}

/// Whether two states differ in nothing but their version and the times of their writers.
fn is_same(old: &Value, new: &Value) -> bool {
    let of_entry = |_: &str, old: &Value, new: &Value| old == new;
    let of_metadata = |key: &str, old: &Value, new: &Value| match (key, old, new) {
        ("managedFields", Value::Array(old), Value::Array(new)) => {
            old.len() == new.len()
                && old.iter().zip(new).all(|(old, new)| same_but(old, new, "time", of_entry))
        }
        _ => old == new,
    };
    same_but(old, new, "", |key, old, new| match key {
        "metadata" => same_but(old, new, "resourceVersion", of_metadata),
        _ => old == new,
    })
}

/// Whether two values are alike, the field `aside` left out and the others compared by `same`.
fn same_but(old: &Value, new: &Value, aside: &str, same: impl Fn(&str, &Value, &Value) -> bool) -> bool {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return old == new };
    let size = |map: &Map<String, Value>| map.len() - usize::from(map.contains_key(aside));
    let mut fields = old.iter().filter(|(key, _)| *key != aside);
    size(old) == size(new) && fields.all(|(key, old)| new.get(key).is_some_and(|new| same(key, old, new)))
}

async fn admit(
    call: &mut Call,
    name: &str,
    old: &Value,
    new: &mut Value,
    way: Way<'_>,
) -> Result<(), Status> {
    let plugins = call.server.plugins.read().clone();
    let manager = managed::manager(call);
    let Call { server, identity, resource, info, warnings, .. } = call;
    let mut context = AdmissionContext {
        server,
        identity,
        operation: Operation::Update,
        resource,
        subresource: way.subresource,
        namespace: &info.namespace,
        name,
        old: Some(old),
        dry_run: way.dry_run,
        warnings,
    };
    admission::admit(&plugins, new, &mut context).await?;
    if way.track {
        managed::updated(&resource.def, &manager, way.subresource, Some(old), new);
    }
    let mut kept = Vec::new();
    let causes = validate::update(resource, way.subresource, old, new, &mut kept);
    super::warn(context.warnings, kept);
    if !causes.is_empty() {
        return Err(Status::invalid(&resource.def.group, &resource.def.kind, name, causes));
    }
    super::warn(context.warnings, api::warnings::update(&resource.def, way.subresource, old, new));
    super::warn(context.warnings, super::doubts(resource, new));
    admission::validate(&plugins, new, &mut context).await
}

fn check_identity(call: &Call, name: &str, new: &Value) -> Result<(), Status> {
    let own = object::name(new);
    if own != name {
        let message = match own {
            "" => "name must be provided".to_string(),
            own => format!("the name of the object ({own}) does not match the name on the URL ({name})"),
        };
        return Err(Status::bad_request(message));
    }
    let namespace = meta_text(new, "namespace");
    if call.resource.def.namespaced() && !namespace.is_empty() && namespace != call.info.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Whether the client asked for a version; refuses when it is not the current one.
fn check_version(
    call: &Call,
    current: &Object,
    old: &Value,
    new: &Value,
    way: Way<'_>,
) -> Result<bool, Status> {
    let (group, plural) = call.names();
    let name = &*current.key.name;
    let (had, wants) = (meta_text(old, "uid"), meta_text(new, "uid"));
    if !wants.is_empty() && wants != had {
        let path = match current.key.namespace.as_ref() {
            "" => format!("/registry/{plural}/{name}"),
            namespace => format!("/registry/{plural}/{namespace}/{name}"),
        };
        return Err(Status::conflict(
            group,
            plural,
            name,
            &format!(
                "StorageError: invalid object, Code: 4, Key: {path}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {wants}, UID in object meta: {had}"
            ),
        ));
    }
    let wanted = meta_text(new, "resourceVersion");
    if wanted.is_empty() || wanted == "0" {
        if way.put && call.resource.def.put_strict {
            let cause = Cause::field(
                "FieldValueInvalid",
                "metadata.resourceVersion",
                "Invalid value: 0: must be specified for an update",
            );
            return Err(Status::invalid(group, &call.resource.def.kind, name, vec![cause]));
        }
        return Ok(false);
    }
    match wanted.parse::<u64>() {
        Ok(revision) if revision == current.modified => Ok(way.put),
        Ok(_) => Err(Status::modified(group, plural, name)),
        Err(_) => {
            let cause = Cause::field(
                "FieldValueInvalid",
                "metadata.resourceVersion",
                format!("Invalid value: {wanted:?}: strconv.ParseUint: parsing {wanted:?}: invalid syntax"),
            );
            Err(Status::invalid(group, &call.resource.def.kind, name, vec![cause]))
        }
    }
}
