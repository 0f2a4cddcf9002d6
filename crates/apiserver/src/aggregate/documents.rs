//! Discovery and OpenAPI with what other servers serve. Made on first demand, kept until something changes.

use std::sync::{Arc, OnceLock};

use api::openapi::proto;
use http::Response;
use http::request::Parts;
use serde_json::{Value, json};
use serve::Body;

use super::merge::{self, Shown};
use super::{Aggregation, Remote};
use crate::answer;
use crate::discovery::{AGGREGATED, tagged, wants_aggregated};
use crate::negotiate::Format;
use crate::openapi::wants_protobuf;
use crate::resource::{Catalog, Document};
use crate::server::ApiServer;
use crate::status::Status;

/// The documents over one catalog and one state of the other servers.
pub struct Documents {
    catalog: Arc<Catalog>,
    remotes: Arc<Vec<Arc<Remote>>>,
    groups: Vec<(String, Vec<String>)>,
    shown: Vec<Shown>,
    aggregated: OnceLock<Document>,
    openapi_v2: [OnceLock<Document>; 2],
}

impl Aggregation {
    /// The documents of this moment.
    pub(super) fn documents(&self, catalog: Arc<Catalog>) -> Arc<Documents> {
        let mut kept = self.documents.lock();
        if let Some(known) = kept.as_ref().filter(|known| Arc::ptr_eq(&known.catalog, &catalog)) {
            return known.clone();
        }
        let remotes = self.remotes();
        let shown: Vec<Shown> = remotes
            .iter()
            .map(|remote| Shown {
                group: remote.group.clone(),
                version: remote.version.clone(),
                resources: remote.resources.clone(),
                fresh: remote.available,
            })
            .collect();
        let priorities = self.priorities.read().clone();
        let groups = merge::order(catalog.registry.groups(), &shown, &priorities);
        let made = Documents {
            catalog,
            remotes,
            groups,
            shown,
            aggregated: OnceLock::new(),
            openapi_v2: Default::default(),
        };
        let made = Arc::new(made);
        *kept = Some(made.clone());
        made
    }
}

impl Documents {
    fn aggregated(&self) -> Document {
        let make = || {
            let local = api::discovery::aggregated(&self.catalog.registry, false);
            Document::of(&merge::aggregated(local, &self.shown, &self.groups))
        };
        self.aggregated.get_or_init(make).clone()
    }

    fn openapi_v2_value(&self) -> Value {
        let local = api::openapi::v2(&self.catalog.registry);
        let others = self.remotes.iter().filter_map(|remote| {
            let document = remote.openapi.as_ref()?;
            Some((format!("{}/", remote.path()), &document.0))
        });
        merge::openapi_v2(local, others)
    }

    fn openapi_v2(&self, protobuf: bool) -> Document {
        let make = || match protobuf {
            true => Document::new(proto::encode(&self.openapi_v2_value())),
            false => Document::of(&self.openapi_v2_value()),
        };
        self.openapi_v2[usize::from(protobuf)].get_or_init(make).clone()
    }

    fn openapi_v3(&self) -> Value {
        let mut index = api::openapi::v3_index(&self.catalog.registry, |name| {
            let document = self.catalog.openapi_v3(name);
            document.map(|document| document.etag.trim_matches('"').to_string()).unwrap_or_default()
        });
        for remote in self.remotes.iter() {
            let name = remote.path().trim_start_matches('/').to_string();
            match &remote.openapi_v3 {
                Some(hash) => {
                    let url = format!("/openapi/v3/{name}?hash={hash}");
                    index["paths"][name] = json!({"serverRelativeURL": url});
                }
                None => {
                    index["paths"].as_object_mut().map(|paths| paths.remove(&name));
                }
            }
        }
        index
    }
}

/// Discovery with other servers; nothing when it is about this server alone.
pub fn discovery(
    server: &ApiServer,
    segments: &[&str],
    format: Format,
    head: &Parts,
) -> Option<Response<Body>> {
    if !server.aggregation.any() {
        return None;
    }
    let documents = || server.aggregation.documents(server.catalog());
    let (type_name, value) = match segments {
        ["apis"] if wants_aggregated(head) => {
            return Some(tagged(AGGREGATED, documents().aggregated(), head));
        }
        ["apis"] => {
            let documents = documents();
            let named = documents.groups.iter().filter(|(group, _)| !group.is_empty());
            let groups: Vec<Value> = named.map(|(group, versions)| merge::entry(group, versions)).collect();
            let list = json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups});
            ("meta_v1.APIGroupList", list)
        }
        ["apis", group] => {
            let documents = documents();
            let (group, versions) = documents.groups.iter().find(|(name, _)| name == group)?;
            let mut entry = merge::entry(group, versions);
            entry["kind"] = "APIGroup".into();
            entry["apiVersion"] = "v1".into();
            ("meta_v1.APIGroup", entry)
        }
        _ => return None,
    };
    Some(answer::typed(200, format, type_name, &value))
}

/// OpenAPI with other servers; nothing when it is about this server alone.
pub async fn openapi(
    server: &Arc<ApiServer>,
    segments: &[&str],
    identity: &crate::Identity,
    head: &Parts,
) -> Result<Option<Response<Body>>, Status> {
    if !server.aggregation.any() {
        return Ok(None);
    }
    let documents = || server.aggregation.documents(server.catalog());
    match segments {
        ["openapi", "v2"] => {
            let protobuf = wants_protobuf(head)?;
            let media = if protobuf { proto::MEDIA_TYPE } else { "application/json" };
            Ok(Some(tagged(media, documents().openapi_v2(protobuf), head)))
        }
        ["openapi", "v3"] => Ok(Some(answer::value(200, Format::Json, &documents().openapi_v3()))),
        ["openapi", "v3", "apis", group, version] => match server.aggregation.find(group, version) {
            Some(remote) => {
                let (mut own, ()) = http::Request::new(()).into_parts();
                own.method = head.method.clone();
                own.uri = head.uri.clone();
                own.headers = head.headers.clone();
                super::forward(server, &remote, identity, own, serve::empty()).await.map(Some)
            }
            None => Ok(None),
        },
        _ => Ok(None),
    }
}
