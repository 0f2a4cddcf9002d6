//! The client: typed requests over any transport.
//!
//! Namespaces are plain strings: empty for cluster-scoped kinds, and for "all namespaces" when listing.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::json::decode;
use crate::options::Query;
use crate::{
    ApiError, ApiResource, Body, Config, ConfigError, DeleteOptions, Error, HttpsTransport, Kind, List,
    ListOptions, Patch, Transport, TransportError, WatchStream, WriteOptions,
};

/// The largest answer that is read whole, in bytes.
const ANSWER_BYTES_MAX: usize = 512 << 20;
const JSON: &str = "application/json";
/// Asks for metadata alone, of one object, of a list, or of a watch.
const PARTIAL: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
const PARTIAL_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// A client of one API server with one identity. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    user_agent: Arc<str>,
    namespace: Arc<str>,
}

impl Client {
    /// A client over this transport.
    #[must_use]
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, user_agent: Arc::from("kutter"), namespace: Arc::from("default") }
    }

    /// A client over the network.
    pub fn from_config(config: Config) -> Result<Self, ConfigError> {
        let namespace = Arc::from(config.namespace.as_str());
        Ok(Self { namespace, ..Self::new(Arc::new(HttpsTransport::new(config)?)) })
    }

    /// The same client under another user agent.
    #[must_use]
    pub fn named(&self, user_agent: &str) -> Self {
        Self { user_agent: Arc::from(user_agent), ..self.clone() }
    }

    /// The namespace the configuration names, or `default`.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Reads one object.
    pub async fn get<K: Kind>(&self, namespace: &str, name: &str) -> Result<K, Error> {
        self.get_at(&K::resource(), namespace, name).await
    }

    /// Lists objects; follows no continuation.
    pub async fn list<K: Kind>(&self, namespace: &str, options: &ListOptions) -> Result<List<K>, Error> {
        self.list_at(&K::resource(), namespace, options).await
    }

    /// Creates the object in the namespace its metadata names.
    pub async fn create<K: Kind>(&self, object: &K) -> Result<K, Error> {
        let namespace = object.meta().namespace.as_deref().unwrap_or("");
        self.create_at(&K::resource(), namespace, object, &WriteOptions::default()).await
    }

    /// Replaces the object; its resourceVersion, if set, must be the current one.
    pub async fn update<K: Kind>(&self, object: &K) -> Result<K, Error> {
        self.replace(object, None).await
    }

    /// Replaces the object's status.
    pub async fn update_status<K: Kind>(&self, object: &K) -> Result<K, Error> {
        self.replace(object, Some("status")).await
    }

    async fn replace<K: Kind>(&self, object: &K, subresource: Option<&str>) -> Result<K, Error> {
        let meta = object.meta();
        let (namespace, name) = (meta.namespace.as_deref().unwrap_or(""), named(meta.name.as_deref())?);
        self.update_at(&K::resource(), namespace, name, subresource, object, &WriteOptions::default()).await
    }

    /// Patches the object.
    pub async fn patch<K: Kind>(
        &self,
        namespace: &str,
        name: &str,
        patch: &Patch,
        options: &WriteOptions,
    ) -> Result<K, Error> {
        self.patch_at(&K::resource(), (namespace, name), None, patch, options).await
    }

    /// Patches the object's status.
    pub async fn patch_status<K: Kind>(
        &self,
        namespace: &str,
        name: &str,
        patch: &Patch,
    ) -> Result<K, Error> {
        let options = WriteOptions::default();
        self.patch_at(&K::resource(), (namespace, name), Some("status"), patch, &options).await
    }

    /// Deletes the object; the answer is the object as it goes, or a status.
    pub async fn delete<K: Kind>(
        &self,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Value, Error> {
        self.delete_at(&K::resource(), namespace, name, options).await
    }

    /// Deletes every object the options select.
    pub async fn delete_collection<K: Kind>(
        &self,
        namespace: &str,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<Value, Error> {
        self.delete_collection_at(&K::resource(), namespace, list, options).await
    }

    /// Starts a watch from `list.resource_version`.
    pub async fn watch<K: Kind>(&self, namespace: &str, list: &ListOptions) -> Result<WatchStream, Error> {
        self.watch_at(&K::resource(), namespace, list, false, false).await
    }

    /// [`Client::get`] of a kind known at run time.
    pub async fn get_at<T: DeserializeOwned>(
        &self,
        resource: &ApiResource,
        namespace: &str,
        name: &str,
    ) -> Result<T, Error> {
        self.json(Method::GET, &resource.path(namespace, Some(name), None), JSON, None::<&Value>).await
    }

    /// [`Client::list`] of a kind known at run time.
    pub async fn list_at<T: DeserializeOwned>(
        &self,
        resource: &ApiResource,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<List<T>, Error> {
        let uri = options.query().onto(&resource.path(namespace, None, None));
        self.json(Method::GET, &uri, JSON, None::<&Value>).await
    }

    /// Lists the metadata of objects.
    pub async fn list_partial<T: DeserializeOwned>(
        &self,
        resource: &ApiResource,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<List<T>, Error> {
        let uri = options.query().onto(&resource.path(namespace, None, None));
        self.accepting(Method::GET, &uri, PARTIAL_LIST).await
    }

    /// [`Client::list_at`] or [`Client::list_partial`], not decoded; with what was asked, for errors.
    pub(crate) async fn list_text(
        &self,
        resource: &ApiResource,
        namespace: &str,
        options: &ListOptions,
        partial: bool,
    ) -> Result<(String, Bytes), Error> {
        let uri = options.query().onto(&resource.path(namespace, None, None));
        let accept = if partial { PARTIAL_LIST } else { JSON };
        self.exchange(Method::GET, &uri, accept, JSON, Bytes::new()).await
    }

    /// [`Client::create`] of a kind known at run time.
    pub async fn create_at<B: Serialize, T: DeserializeOwned>(
        &self,
        resource: &ApiResource,
        namespace: &str,
        object: &B,
        options: &WriteOptions,
    ) -> Result<T, Error> {
        let uri = options.query().onto(&resource.path(namespace, None, None));
        self.json(Method::POST, &uri, JSON, Some(object)).await
    }

    /// Replaces an object of a kind known at run time, or its subresource.
    pub async fn update_at<B: Serialize, T: DeserializeOwned>(
        &self,
        resource: &ApiResource,
        namespace: &str,
        name: &str,
        subresource: Option<&str>,
        object: &B,
        options: &WriteOptions,
    ) -> Result<T, Error> {
        let uri = options.query().onto(&resource.path(namespace, Some(name), subresource));
        self.json(Method::PUT, &uri, JSON, Some(object)).await
    }

    /// Patches an object of a kind known at run time, or its subresource.
    pub async fn patch_at<T: DeserializeOwned>(
        &self,
        resource: &ApiResource,
        (namespace, name): (&str, &str),
        subresource: Option<&str>,
        patch: &Patch,
        options: &WriteOptions,
    ) -> Result<T, Error> {
        let uri = options.query().onto(&resource.path(namespace, Some(name), subresource));
        let (content_type, body) = patch.parts();
        self.json(Method::PATCH, &uri, content_type, Some(body)).await
    }

    /// [`Client::delete`] of a kind known at run time.
    pub async fn delete_at<T: DeserializeOwned>(
        &self,
        resource: &ApiResource,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<T, Error> {
        let uri = resource.path(namespace, Some(name), None);
        self.json(Method::DELETE, &uri, JSON, Some(options)).await
    }

    /// [`Client::delete_collection`] of a kind known at run time.
    pub async fn delete_collection_at(
        &self,
        resource: &ApiResource,
        namespace: &str,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<Value, Error> {
        let uri = list.query().onto(&resource.path(namespace, None, None));
        self.json(Method::DELETE, &uri, JSON, Some(options)).await
    }

    /// Creates a subresource: `pods/binding`, `pods/eviction`, `serviceaccounts/token`.
    pub async fn create_subresource<K: Kind, B: Serialize, T: DeserializeOwned>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        body: &B,
    ) -> Result<T, Error> {
        let uri = K::resource().path(namespace, Some(name), Some(subresource));
        self.json(Method::POST, &uri, JSON, Some(body)).await
    }

    /// Starts a watch of a kind known at run time. With `initial`, the objects that exist come first, and a
    /// bookmark marks their end; with `partial`, the server sends metadata alone.
    pub async fn watch_at(
        &self,
        resource: &ApiResource,
        namespace: &str,
        list: &ListOptions,
        initial: bool,
        partial: bool,
    ) -> Result<WatchStream, Error> {
        let mut query = list.query();
        query.text("watch", "true");
        query.text("allowWatchBookmarks", "true");
        if initial {
            query.text("sendInitialEvents", "true");
            query.text("resourceVersionMatch", "NotOlderThan");
        }
        let uri = query.onto(&resource.path(namespace, None, None));
        let accept = if partial { PARTIAL } else { JSON };
        let request = self.request(Method::GET, &uri).header(ACCEPT, accept);
        Ok(WatchStream::new(self.open(request, Bytes::new()).await?.into_body()))
    }

    /// Whether the object exists in the form the type describes; `None` when there is no such object.
    pub async fn find<K: Kind>(&self, namespace: &str, name: &str) -> Result<Option<K>, Error> {
        match self.get(namespace, name).await {
            Ok(object) => Ok(Some(object)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Server-side apply of the object, taking over every field it names.
    pub async fn apply<K: Kind>(&self, object: &K, manager: &str) -> Result<K, Error> {
        let meta = object.meta();
        let value = crate::json::to_value(object)?;
        let options =
            WriteOptions { force: true, field_manager: manager.to_owned(), ..WriteOptions::default() };
        let (namespace, name) = (meta.namespace.as_deref().unwrap_or(""), named(meta.name.as_deref())?);
        self.patch(namespace, name, &Patch::Apply(value), &options).await
    }

    /// Sends any request (path and query in the URI) and gives the answer as it comes, unless it is an
    /// error: for logs, tables, proxies and discovery.
    pub async fn raw(
        &self,
        method: Method,
        uri: &str,
        accept: &str,
        body: Bytes,
    ) -> Result<Response<Body>, Error> {
        let mut request = self.request(method, uri).header(ACCEPT, accept);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, JSON);
        }
        self.open(request, body).await
    }

    /// GETs any path and decodes the answer: discovery, tables.
    pub async fn get_raw<T: DeserializeOwned>(&self, uri: &str) -> Result<T, Error> {
        self.accepting(Method::GET, uri, JSON).await
    }

    /// GETs any path as text: logs, health, metrics.
    pub async fn get_text(&self, uri: &str) -> Result<String, Error> {
        let response = self.raw(Method::GET, uri, "*/*", Bytes::new()).await?;
        let bytes = whole(response.into_body()).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn accepting<T: DeserializeOwned>(
        &self,
        method: Method,
        uri: &str,
        accept: &str,
    ) -> Result<T, Error> {
        let (what, answer) = self.exchange(method, uri, accept, JSON, Bytes::new()).await?;
        decode(what, &answer)
    }

    async fn json<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        uri: &str,
        content_type: &str,
        body: Option<&B>,
    ) -> Result<T, Error> {
        let body = body.map(serde_json::to_vec).transpose().map_err(|e| Error::Request(e.to_string()))?;
        let body = body.map(Bytes::from).unwrap_or_default();
        let (what, answer) = self.exchange(method, uri, JSON, content_type, body).await?;
        decode(what, &answer)
    }

    /// Sends a request and reads the whole answer; gives what was asked too, for errors. All that does not
    /// depend on the kind is here, so that there is one of it and not one for every kind.
    async fn exchange(
        &self,
        method: Method,
        uri: &str,
        accept: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<(String, Bytes), Error> {
        let what = format!("{method} {uri}");
        let mut request = self.request(method, uri).header(ACCEPT, accept);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let response = self.open(request, body).await?;
        Ok((what, whole(response.into_body()).await?))
    }

    fn request(&self, method: Method, uri: &str) -> http::request::Builder {
        Request::builder().method(method).uri(uri).header(USER_AGENT, &*self.user_agent)
    }

    /// Sends and turns refusals into errors.
    async fn open(&self, request: http::request::Builder, body: Bytes) -> Result<Response<Body>, Error> {
        let request = request.body(body).map_err(|e| Error::Request(e.to_string()))?;
        let response = self.transport.send(request).await?;
        if response.status().is_success() || response.status().is_informational() {
            return Ok(response);
        }
        Err(refusal(response).await)
    }
}

fn named(name: Option<&str>) -> Result<&str, Error> {
    name.filter(|n| !n.is_empty()).ok_or_else(|| Error::Request("the object has no name".to_owned()))
}

async fn whole(body: Body) -> Result<Bytes, Error> {
    let collected = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    Ok(collected
        .map_err(|source| TransportError { what: "read the answer".to_owned(), source: Some(source) })?
        .to_bytes())
}

/// Reads an error answer; one that is not a Status becomes one.
async fn refusal(response: Response<Body>) -> Error {
    let code = response.status();
    let retry_after_s =
        response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    let bytes = match whole(response.into_body()).await {
        Ok(bytes) => bytes,
        Err(error) => return error,
    };
    let mut status = serde_json::from_slice::<Status>(&bytes).unwrap_or_else(|_| Status {
        message: Some(String::from_utf8_lossy(&bytes[..bytes.len().min(2048)]).trim().to_owned()),
        status: Some("Failure".to_owned()),
        ..Status::default()
    });
    status.code.get_or_insert(i32::from(code.as_u16()));
    if status.message.as_deref().unwrap_or("").is_empty() {
        status.message = Some(format!("the server answered {code}"));
    }
    Error::Api(ApiError { status: Box::new(status), retry_after_s })
}

/// A resource's query with one more pair, for callers that build their own.
impl ApiResource {
    /// The path of a collection with these list options, for [`Client::raw`].
    #[must_use]
    pub fn list_uri(&self, namespace: &str, options: &ListOptions) -> String {
        let query: Query = options.query();
        query.onto(&self.path(namespace, None, None))
    }
}
