//! Lists: a gather of stored bytes over a snapshot. Nothing is decoded unless another view is asked for.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut, Bytes, BytesMut};
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};
use serve::Body;
use store::{Object, Range, Snapshot, StoreError};

use crate::answer;
use crate::conversion;
use crate::negotiate::{Format, Output, View};
use crate::proto;
use crate::resource::Resource;
use crate::selector::Selection;
use crate::server::Call;
use crate::status::{Cause, Status};

/// About how many bytes of a list are gathered at a time.
const CHUNK: usize = 128 << 10;

/// How long the pages of one list show one state, in seconds. Then the list goes on with the latest, if the client
/// wants that: whoever takes this long for a page would else keep an old state in memory.
const TOKEN_LIFE: i64 = 300;

/// What a list or watch asks for.
pub struct ListOptions {
    /// Both selectors.
    pub selection: Selection,
    /// The most objects wanted; 0 for all.
    pub limit: usize,
    /// Where to go on.
    pub token: Option<Token>,
    /// The resourceVersion as given.
    pub version: String,
    /// `Exact`, `NotOlderThan` or empty.
    pub version_match: String,
}

/// A decoded continue token.
#[derive(Debug, Clone)]
pub struct Token {
    /// The revision of the first page; `None` to go on with the latest state.
    pub revision: Option<u64>,
    /// When the first page was made, in seconds since 1970.
    pub since: i64,
    /// The last object already given.
    pub after: (String, String),
}

/// One page of a table.
pub struct Picked {
    /// The objects.
    pub objects: Vec<Arc<Object>>,
    /// The revision of the list.
    pub revision: u64,
    /// The token for the next page, or empty.
    pub token: String,
    /// How many are left, when that is known.
    pub remaining: Option<u64>,
}

fn invalid(field: &str, reason: &'static str, message: String) -> Status {
    Status::invalid("meta.k8s.io", "ListOptions", "", vec![Cause::field(reason, field, message)])
}

impl ListOptions {
    /// Reads and checks the query.
    pub fn parse(call: &Call) -> Result<Self, Status> {
        let query = &call.query;
        let selection = Selection::parse(
            query.text("labelSelector"),
            query.text("fieldSelector"),
            &call.resource.labels,
        )?;
        let limit = query.number("limit")?.unwrap_or(0).max(0) as usize;
        let version = query.text("resourceVersion").to_string();
        let version_match = query.text("resourceVersionMatch").to_string();
        let token = query.text("continue");
        match version_match.as_str() {
            "" => {}
            _ if version.is_empty() && call.info.verb != "watch" => {
                let what = "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided";
                return Err(invalid("resourceVersionMatch", "FieldValueForbidden", what.into()));
            }
            "Exact" if version == "0" => {
                let what = "Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                return Err(invalid("resourceVersionMatch", "FieldValueForbidden", what.into()));
            }
            "Exact" | "NotOlderThan" => {}
            other => {
                let what = format!(
                    "Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\", \"\""
                );
                return Err(invalid("resourceVersionMatch", "FieldValueNotSupported", what));
            }
        }
        if !version_match.is_empty() && !token.is_empty() {
            let what = "Forbidden: resourceVersionMatch is forbidden when continue is provided";
            return Err(invalid("resourceVersionMatch", "FieldValueForbidden", what.into()));
        }
        let token = match token {
            "" => None,
            _ if !version.is_empty() && version != "0" => {
                return Err(Status::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            text => Some(Token::decode(text)?),
        };
        super::get::revision(&version)?;
        Ok(Self { selection, limit, token, version, version_match })
    }
}

impl Token {
    fn encode(revision: Option<u64>, since: i64, object: &Object) -> String {
        let start = format!("{}/{}\u{0}", object.key.namespace, object.key.name);
        let revision = revision.map_or(-1, |revision| revision as i64);
        let token = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start, "since": since});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    fn decode(text: &str) -> Result<Self, Status> {
        let wrong = |cause: &str| {
            Status::bad_request(format!("invalid continue token: continue key is not valid: {cause}"))
        };
        let bytes =
            URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|cause| wrong(&cause.to_string()))?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|cause| wrong(&cause.to_string()))?;
        if value["v"] != "meta.k8s.io/v1" {
            return Err(wrong("server does not recognize this encoded version"));
        }
        let start = value["start"].as_str().unwrap_or("").trim_end_matches('\u{0}');
        let (namespace, name) = start.rsplit_once('/').ok_or_else(|| wrong("incorrect encoded start key"))?;
        let revision = match value["rv"].as_i64() {
            Some(0) | None => return Err(wrong("incorrect encoded start resourceVersion")),
            Some(revision) => u64::try_from(revision).ok(),
        };
        let since = value["since"].as_i64().unwrap_or(0);
        Ok(Self { revision, since, after: (namespace.trim_start_matches('/').to_string(), name.to_string()) })
    }
}

/// GET of a collection.
pub async fn list(call: &mut Call) -> Result<Response<Body>, Status> {
    let output = call.output()?;
    let options = ListOptions::parse(call)?;
    let picked = pick(call, &options).await?;
    match (output.view, output.format) {
        (View::Whole, Format::Json) => Ok(gather(call, picked)),
        (View::Whole, Format::Protobuf) => Ok(gather_protobuf(call, picked)),
        _ => view(call, output, picked),
    }
}

/// Takes the page the options ask for.
pub async fn pick(call: &Call, options: &ListOptions) -> Result<Picked, Status> {
    let snapshot = snapshot(call, options).await?;
    let namespace = &call.info.namespace;
    let mut range = Range::default();
    if call.resource.def.namespaced() && !namespace.is_empty() {
        range.namespace = Some(Arc::from(namespace.as_str()));
    }
    if let Some(token) = &options.token {
        range.after = Some((Arc::from(token.after.0.as_str()), Arc::from(token.after.1.as_str())));
    }
    let everything = options.selection.is_everything();
    let mut objects = Vec::new();
    // Fields of a version that a webhook makes are known once it has made it.
    let converted = match conversion::is_hooked(&call.resource) && options.selection.has_fields() {
        true => {
            let all = snapshot.iter(&range).cloned().collect();
            Some(conversion::objects(&call.server, &call.resource, all).await?)
        }
        false => None,
    };
    let mut rest: Box<dyn Iterator<Item = &Arc<Object>> + Send> = match &converted {
        Some(all) => Box::new(all.iter()),
        None => snapshot.iter(&range),
    };
    let mut more = false;
    for object in rest.by_ref() {
        if !everything && !options.selection.matches(object) {
            continue;
        }
        if options.limit > 0 && objects.len() == options.limit {
            more = true;
            break;
        }
        objects.push(object.clone());
    }
    let revision = snapshot.revision();
    let token = match (more, objects.last()) {
        (true, Some(last)) => {
            let since =
                options.token.as_ref().filter(|token| token.revision.is_some()).map(|token| token.since);
            let since = since.unwrap_or_else(|| jiff::Timestamp::now().as_second());
            Token::encode(Some(revision), since, last)
        }
        _ => String::new(),
    };
    let objects = conversion::objects(&call.server, &call.resource, objects).await?;
    let remaining = (more && everything).then(|| rest.count() as u64 + 1);
    Ok(Picked { objects, revision, token, remaining })
}

async fn snapshot(call: &Call, options: &ListOptions) -> Result<Arc<dyn Snapshot>, Status> {
    let store = &call.server.store;
    let table = &call.resource.table;
    if let Some(token) = &options.token {
        let Some(revision) = token.revision else { return Ok(store.snapshot(table)) };
        if jiff::Timestamp::now().as_second() - token.since > TOKEN_LIFE {
            return Err(expired(token));
        }
        return store.snapshot_at(table, revision).map_err(|error| match error {
            StoreError::Expired { .. } => expired(token),
            other => super::unavailable(other),
        });
    }
    match super::get::revision(&options.version)? {
        Some(revision) if options.version_match == "Exact" => {
            store.snapshot_at(table, revision).map_err(super::unavailable)
        }
        Some(revision) => {
            super::reach(&**store, Some(revision)).await?;
            Ok(store.snapshot(table))
        }
        None if options.version.is_empty() => {
            super::reach(&**store, None).await?;
            Ok(store.snapshot(table))
        }
        None => Ok(store.snapshot(table)),
    }
}

/// 410 with a token that goes on with the latest state.
fn expired(token: &Token) -> Status {
    let start = format!("{}/{}\u{0}", token.after.0, token.after.1);
    let fresh = URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": -1, "start": start}).to_string());
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    status.continue_token = Some(fresh);
    status
}

fn head(resource: &Resource, picked: &Picked) -> String {
    let mut head = format!("{}{}\"", resource.list_head, picked.revision);
    if !picked.token.is_empty() {
        head.push_str(&format!(",\"continue\":\"{}\"", picked.token));
    }
    if let Some(remaining) = picked.remaining {
        head.push_str(&format!(",\"remainingItemCount\":{remaining}"));
    }
    head.push_str("},\"items\":[");
    head
}

/// Small lists are one buffer; of large ones only a chunk at a time is in memory.
fn gather(call: &Call, picked: Picked) -> Response<Body> {
    let resource = call.resource.clone();
    let mut chunk = BytesMut::with_capacity(4096);
    chunk.put_slice(head(&resource, &picked).as_bytes());
    let mut objects = picked.objects.into_iter();
    let done = fill(&mut chunk, &resource, &mut objects, true);
    if done {
        return answer::compressed(call, 200, "application/json", chunk.freeze());
    }
    if answer::wants_gzip(call) {
        while !fill(&mut chunk, &resource, &mut objects, false) {}
        return answer::compressed(call, 200, "application/json", chunk.freeze());
    }
    let stream = futures_util::stream::unfold(
        (Some(chunk), objects, resource),
        |(chunk, mut objects, resource)| async move {
            let ready = chunk?.freeze();
            let mut next = BytesMut::with_capacity(CHUNK + 16384);
            let left = !fill(&mut next, &resource, &mut objects, false) || !next.is_empty();
            Some((Ok(ready), (left.then_some(next), objects, resource)))
        },
    );
    streamed("application/json", stream)
}

fn streamed(
    content_type: &'static str,
    stream: impl futures_util::Stream<Item = Result<Bytes, serve::BoxError>> + Send + 'static,
) -> Response<Body> {
    let mut response = Response::new(serve::streamed(stream));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Appends objects until the chunk is full; true when the list has been closed.
fn fill(
    chunk: &mut BytesMut,
    resource: &Resource,
    objects: &mut std::vec::IntoIter<Arc<Object>>,
    mut first: bool,
) -> bool {
    if objects.len() == 0 && !first && chunk.is_empty() {
        return true;
    }
    while let Some(object) = objects.next() {
        if !std::mem::take(&mut first) {
            chunk.put_u8(b',');
        }
        let (json, skip) = resource.present_item(&object);
        if skip > 0 {
            chunk.put_u8(b'{');
        }
        chunk.put_slice(&json[skip..]);
        if chunk.len() >= CHUNK && objects.len() > 0 {
            return false;
        }
    }
    chunk.put_slice(b"]}");
    true
}

fn gather_protobuf(call: &Call, picked: Picked) -> Response<Body> {
    let resource = &call.resource;
    let metadata = proto::list_meta(picked.revision, &picked.token, picked.remaining);
    let messages: Vec<Bytes> = picked.objects.iter().map(|object| proto::message(resource, object)).collect();
    let items: Vec<&[u8]> = messages.iter().map(|message| message.as_ref()).collect();
    let version = resource.def.api_version();
    let body = schema::protobuf::encode_list(&version, &resource.def.list_kind, &metadata, items.into_iter());
    answer::compressed(call, 200, Format::Protobuf.content_type(), body.into())
}

fn view(call: &Call, output: Output, picked: Picked) -> Result<Response<Body>, Status> {
    let resource = &call.resource;
    let values: Vec<Value> = picked
        .objects
        .iter()
        .map(|object| serde_json::from_slice(&resource.present(object)).map_err(Status::internal))
        .collect::<Result<_, _>>()?;
    let mut metadata = json!({"resourceVersion": picked.revision.to_string()});
    if !picked.token.is_empty() {
        metadata["continue"] = picked.token.into();
    }
    if let Some(remaining) = picked.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    match output.view {
        View::Table => {
            let include = match call.query.text("includeObject") {
                "" => "Metadata",
                include => include,
            };
            let table = crate::view::table(resource, &values, metadata, true, include);
            Ok(answer::value(200, output.format, &output.versioned(table)))
        }
        View::Metadata => {
            let items: Vec<Value> = values.iter().map(crate::view::partial).collect();
            let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata, "items": items});
            let list = output.versioned(list);
            Ok(answer::typed(200, output.format, "meta_v1.PartialObjectMetadataList", &list))
        }
        View::Whole => {
            let values: Vec<Value> = values.into_iter().map(|value| item(resource, value)).collect();
            let list = json!({"kind": resource.def.list_kind, "apiVersion": resource.def.api_version(),
                "metadata": metadata, "items": values});
            Ok(answer::value(200, output.format, &list))
        }
    }
}

/// Items of built-in lists do not repeat kind and apiVersion.
fn item(resource: &Resource, mut value: Value) -> Value {
    if !resource.def.custom
        && let Some(map) = value.as_object_mut()
    {
        map.remove("kind");
        map.remove("apiVersion");
    }
    value
}
