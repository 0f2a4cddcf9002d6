//! What kind an object is of, and where the API serves it.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope, Resource};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Group, version, kind, plural and scope of one resource: all that is needed to address it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ApiResource {
    /// The API group; empty for the core group.
    pub group: Cow<'static, str>,
    /// The version within the group.
    pub version: Cow<'static, str>,
    /// The kind, as objects name it.
    pub kind: Cow<'static, str>,
    /// The resource's plural, as paths name it.
    pub plural: Cow<'static, str>,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
}

impl ApiResource {
    /// `v1` or `group/version`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The path of the collection, of an object in it, or of an object's subresource. An empty namespace
    /// means all namespaces, or none for cluster-scoped kinds.
    #[must_use]
    pub fn path(&self, namespace: &str, name: Option<&str>, subresource: Option<&str>) -> String {
        let mut path = String::with_capacity(96);
        if self.group.is_empty() {
            path.push_str("/api/");
        } else {
            path.push_str("/apis/");
            path.push_str(&self.group);
            path.push('/');
        }
        path.push_str(&self.version);
        if self.namespaced && !namespace.is_empty() {
            path.push_str("/namespaces/");
            push_segment(&mut path, namespace);
        }
        path.push('/');
        path.push_str(&self.plural);
        for segment in [name, subresource].into_iter().flatten() {
            path.push('/');
            push_segment(&mut path, segment);
        }
        path
    }
}

/// Appends a path segment, percent-encoded. Slashes stay: subresources such as `proxy/a/b` have them, and
/// names cannot.
fn push_segment(path: &mut String, segment: &str) {
    for byte in segment.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b':' | b'/' | b'@' => {
                path.push(byte as char);
            }
            other => path.push_str(&format!("%{other:02X}")),
        }
    }
}

/// Anything with object metadata that can be read from the API.
pub trait Object: DeserializeOwned + Serialize + Send + Sync + 'static {
    /// The object's metadata.
    fn meta(&self) -> &ObjectMeta;
    /// The object's metadata, to change.
    fn meta_mut(&mut self) -> &mut ObjectMeta;
}

impl<K> Object for K
where
    K: k8s_openapi::Metadata<Ty = ObjectMeta> + DeserializeOwned + Serialize + Send + Sync + 'static,
{
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }
}

/// A kind known at compile time: every top-level kind of `k8s-openapi`.
pub trait Kind: Object {
    /// Where the API serves it.
    fn resource() -> ApiResource;
}

impl<K> Kind for K
where
    K: Object + Resource,
    K::Scope: ScopeOf,
{
    fn resource() -> ApiResource {
        ApiResource {
            group: Cow::Borrowed(K::GROUP),
            version: Cow::Borrowed(K::VERSION),
            kind: Cow::Borrowed(K::KIND),
            plural: Cow::Borrowed(K::URL_PATH_SEGMENT),
            namespaced: K::Scope::NAMESPACED,
        }
    }
}

/// Tells the two scopes of top-level kinds apart.
pub trait ScopeOf {
    /// Whether objects live in a namespace.
    const NAMESPACED: bool;
}

impl ScopeOf for ClusterResourceScope {
    const NAMESPACED: bool = false;
}

impl ScopeOf for NamespaceResourceScope {
    const NAMESPACED: bool = true;
}

/// An object of a kind not known at compile time, whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DynamicObject {
    /// `v1` or `group/version`.
    #[serde(rename = "apiVersion", default, skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    /// The kind.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Everything else.
    #[serde(flatten)]
    pub data: serde_json::Map<String, Value>,
}

impl Object for DynamicObject {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// An object's metadata alone. Lists and watches of it ask the server to send nothing else.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PartialObject {
    /// The metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
}

impl Object for PartialObject {
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// A list of objects, or one page of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
pub struct List<T> {
    /// Revision and continuation.
    #[serde(default)]
    pub metadata: ListMeta,
    /// The objects.
    #[serde(default = "Vec::new", deserialize_with = "null_as_empty")]
    pub items: Vec<T>,
}

fn null_as_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(d)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::{Node, Pod};

    use super::*;

    #[test]
    fn paths() {
        let cases = [
            (Pod::resource().path("a", Some("b"), Some("log")), "/api/v1/namespaces/a/pods/b/log"),
            (Pod::resource().path("", None, None), "/api/v1/pods"),
            (Node::resource().path("ignored", Some("n"), None), "/api/v1/nodes/n"),
            (Deployment::resource().path("x", None, None), "/apis/apps/v1/namespaces/x/deployments"),
            (Node::resource().path("", Some("a b?c"), None), "/api/v1/nodes/a%20b%3Fc"),
        ];
        for (got, want) in cases {
            assert_eq!(got, want);
        }
    }
}
