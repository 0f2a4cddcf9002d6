//! POST of a new object.

use http::Response;
use rand::Rng;
use serde_json::Value;
use serve::Body;
use store::{Precondition, StoreError, Write};

use crate::admission::{self, AdmissionContext, Operation};
use crate::answer;
use crate::codec::{self, FieldValidation};
use crate::object::{self, meta_text, metadata_mut};
use crate::server::Call;
use crate::status::Status;
use crate::{conversion, managed, negotiate, prepare, validate};

use super::change::Changed;

/// How many names are tried for `generateName`.
const NAMES_MAX: usize = 8;

/// POST to a collection.
pub async fn create(call: &mut Call) -> Result<Response<Body>, Status> {
    let output = call.output()?;
    let dry_run = call.query.dry_run()?;
    let validation = FieldValidation::parse(&call.query, "CreateOptions")?;
    let body = call.take_body().await?;
    let media = negotiate::content_type(&call.head.headers).to_string();
    let object = codec::decode(&call.resource.def, &media, &body, validation, &mut call.warnings)?;
    match create_object(call, object, dry_run, true).await? {
        Changed::Stored(object) => answer::stored(201, output, &call.resource, &object),
        Changed::Value(value) => answer::computed(201, output, &call.resource, &value),
    }
}

/// Creates a decoded object in the request's namespace. `track` says whether `managedFields` are still to be made.
pub async fn create_object(
    call: &mut Call,
    mut object: Value,
    dry_run: bool,
    track: bool,
) -> Result<Changed, Status> {
    settle_namespace(call, &mut object)?;
    if !meta_text(&object, "resourceVersion").is_empty() {
        return Err(Status::new(500, "", "resourceVersion should not be set on objects to be created"));
    }
    codec::default(&call.resource.def, &mut object);
    let prefix = meta_text(&object, "generateName").to_string();
    let generated = object::name(&object).is_empty() && !prefix.is_empty();
    let mut attempts = 0;
    loop {
        let mut candidate = if generated { object.clone() } else { object.take() };
        if generated {
            metadata_mut(&mut candidate).insert("name".into(), generate(&prefix).into());
        }
        prepare::create(call, &mut candidate)?;
        codec::default(&call.resource.def, &mut candidate);
        attempts += 1;
        let name = object::name(&candidate).to_string();
        match admit_and_write(call, &name, candidate, dry_run, track).await? {
            Some(created) => return Ok(created),
            None if generated && attempts < NAMES_MAX => continue,
            None => {
                let (group, plural) = call.names();
                return Err(match generated {
                    true => Status::generate_name_taken(group, plural, &name),
                    false => Status::already_exists(group, plural, &name),
                });
            }
        }
    }
}

/// `None` when the name is taken.
async fn admit_and_write(
    call: &mut Call,
    name: &str,
    mut object: Value,
    dry_run: bool,
    track: bool,
) -> Result<Option<Changed>, Status> {
    let plugins = call.server.plugins.read().clone();
    let manager = track.then(|| managed::manager(call));
    {
        let Call { server, identity, resource, info, warnings, .. } = &mut *call;
        let mut context = AdmissionContext {
            server,
            identity,
            operation: Operation::Create,
            resource,
            subresource: "",
            namespace: &info.namespace,
            name,
            old: None,
            dry_run,
            warnings,
        };
        admission::admit(&plugins, &mut object, &mut context).await?;
        if let Some(manager) = &manager {
            managed::updated(&resource.def, manager, "", None, &mut object);
        }
        let causes = validate::create(resource, &object);
        if !causes.is_empty() {
            return Err(Status::invalid(&resource.def.group, &resource.def.kind, name, causes));
        }
        super::warn(context.warnings, api::warnings::create(&resource.def, &object));
        super::warn(context.warnings, super::doubts(resource, &object));
        admission::validate(&plugins, &object, &mut context).await?;
    }
    let key = call.resource.key(&call.info.namespace, name);
    if call.server.store.get(&key).is_some() {
        return Ok(None);
    }
    let server = call.server.clone();
    if dry_run {
        drop(crate::services::allocate(&server, &call.resource, None, &mut object)?);
        return Ok(Some(Changed::Value(object)));
    }
    let mut reserved = crate::services::shared::reserve(&server, &call.resource, None, &mut object).await?;
    let draft = conversion::draft(&server, &call.resource, &object).await?;
    let write = Write { key, precondition: Precondition::Absent, value: Some(draft), last: None };
    let expiry = prepare::expiry(&call.resource, &object);
    let state = server.remembers(&call.resource, &call.info.namespace).then_some(object);
    let written = match expiry {
        Some(at) => server.store.write_until(write, at).await,
        None => crate::services::claims::write(&server, write, &reserved, state.as_ref()).await,
    };
    match written {
        Ok(stored) => {
            reserved.keep();
            match &state {
                Some(object) => server.after_write(&call.resource, None, Some(object)),
                None => server.quotas.missed(&call.resource, &call.info.namespace),
            }
            let stored = conversion::object(&server, &call.resource, stored).await?;
            Ok(Some(Changed::Stored(stored)))
        }
        Err(StoreError::Conflict { .. }) => Ok(None),
        Err(error) => Err(super::store_error(call, name, error)),
    }
}

fn settle_namespace(call: &Call, object: &mut Value) -> Result<(), Status> {
    let namespace = meta_text(object, "namespace").to_string();
    if !call.resource.def.namespaced() {
        metadata_mut(object).remove("namespace");
        return Ok(());
    }
    if !namespace.is_empty() && namespace != call.info.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    metadata_mut(object).insert("namespace".into(), call.info.namespace.as_str().into());
    Ok(())
}

/// A name of at most 63 bytes: the prefix and five letters or digits that spell no words.
fn generate(prefix: &str) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut end = prefix.len().min(58);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let mut rng = rand::rng();
    let mut name = prefix[..end].to_string();
    for _ in 0..5 {
        name.push(char::from(LETTERS[rng.random_range(0..LETTERS.len())]));
    }
    name
}
