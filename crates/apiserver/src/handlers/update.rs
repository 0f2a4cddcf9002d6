//! PUT of an object.

use http::Response;
use serve::Body;

use crate::answer;
use crate::codec::{self, FieldValidation};
use crate::negotiate;
use crate::object::meta_text;
use crate::server::Call;
use crate::status::Status;

use super::change::{Changed, Edit, change};

/// PUT of the whole object.
pub async fn update(call: &mut Call) -> Result<Response<Body>, Status> {
    put(call, "").await
}

/// PUT of the object or of one of its subresources that take the object itself.
pub async fn put(call: &mut Call, subresource: &str) -> Result<Response<Body>, Status> {
    let output = call.output()?;
    let dry_run = call.query.dry_run()?;
    let validation = FieldValidation::parse(&call.query, "UpdateOptions")?;
    let body = call.take_body().await?;
    let media = negotiate::content_type(&call.head.headers).to_string();
    let object = codec::decode(&call.resource.def, &media, &body, validation, &mut call.warnings)?;
    let name = call.info.name.clone();
    let key = call.resource.key(&call.info.namespace, &name);
    let absent = call.server.store.get(&key).is_none();
    if absent && subresource.is_empty() && call.resource.def.put_creates {
        if crate::object::name(&object) != name {
            let own = crate::object::name(&object);
            let message =
                format!("the name of the object ({own}) does not match the name on the URL ({name})");
            return Err(Status::bad_request(message));
        }
        if meta_text(&object, "uid").is_empty() && meta_text(&object, "resourceVersion").is_empty() {
            return match super::create_object(call, object, dry_run, true).await? {
                Changed::Stored(object) => answer::stored(201, output, &call.resource, &object),
                Changed::Value(value) => answer::computed(201, output, &call.resource, &value),
            };
        }
    }
    let mut make = |_: &serde_json::Value| Ok(object.clone());
    let edit = Edit { make: &mut make, subresource, put: true, dry_run, track: true };
    match change(call, &name, edit).await? {
        Changed::Stored(object) => answer::stored(200, output, &call.resource, &object),
        Changed::Value(value) => answer::computed(200, output, &call.resource, &value),
    }
}
