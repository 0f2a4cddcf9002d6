//! One object by name: a look-up, and no decoding unless another form is asked for.

use http::Response;
use serve::Body;

use crate::server::Call;
use crate::status::Status;
use crate::{answer, conversion};

/// GET of an object.
pub async fn get(call: &mut Call) -> Result<Response<Body>, Status> {
    let output = call.output()?;
    if let Some(at_least) = revision(call.query.text("resourceVersion"))? {
        super::reach(&*call.server.store, Some(at_least)).await?;
    }
    let key = call.resource.key(&call.info.namespace, &call.info.name);
    let object = call.server.store.get(&key).ok_or_else(|| call.not_found(&call.info.name))?;
    let object = conversion::object(&call.server, &call.resource, object).await?;
    answer::stored(200, output, &call.resource, &object)
}

/// A `resourceVersion` as a number; nothing when it is empty or 0.
pub fn revision(text: &str) -> Result<Option<u64>, Status> {
    match text {
        "" | "0" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            Status::bad_request(format!(
                "invalid resource version: resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
            ))
        }),
    }
}
