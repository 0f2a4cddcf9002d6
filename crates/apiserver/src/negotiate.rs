//! Which form the answer has: the `Accept` header and the query, and what bodies may come as.

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use serde_json::Value;

use crate::query::Query;
use crate::status::Status;

/// How bytes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/json`.
    Json,
    /// `application/json` with line breaks, for people.
    Pretty,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

/// What is shown of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// The object itself.
    Whole,
    /// `meta.k8s.io/v1` Table.
    Table,
    /// `meta.k8s.io/v1` PartialObjectMetadata or its list.
    Metadata,
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// How bytes are written.
    pub format: Format,
    /// What is shown.
    pub view: View,
    /// Whether views are to be of `meta.k8s.io/v1beta1`.
    pub beta: bool,
}

impl Output {
    /// The view in the version that was asked for.
    pub fn versioned(self, mut view: Value) -> Value {
        if self.beta {
            to_beta(&mut view);
            for list in ["items", "rows"] {
                let rows = view.get_mut(list).and_then(Value::as_array_mut);
                for row in rows.into_iter().flatten() {
                    to_beta(row);
                    row.get_mut("object").into_iter().for_each(to_beta);
                }
            }
        }
        view
    }
}

fn to_beta(view: &mut Value) {
    if view.get("apiVersion").and_then(Value::as_str) == Some("meta.k8s.io/v1") {
        view["apiVersion"] = "meta.k8s.io/v1beta1".into();
    }
}

/// What bodies may come as, in messages.
pub const MEDIA_TYPES: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
/// The same for custom resources, which have no protobuf form.
pub const MEDIA_TYPES_CUSTOM: &str = "application/json, application/yaml";

impl Format {
    /// The value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json | Self::Pretty => "application/json",
            Self::Yaml => "application/yaml",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }

    /// The value of `Content-Type` of a watch.
    pub fn stream_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            _ => "application/json",
        }
    }
}

struct Clause<'a> {
    media: &'a str,
    params: Vec<(&'a str, &'a str)>,
}

fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut ranked: Vec<(f32, Clause<'_>)> = accept
        .split(',')
        .map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().unwrap_or("");
            let params: Vec<_> = parts.filter_map(|param| param.split_once('=')).collect();
            let quality = params.iter().find(|(key, _)| *key == "q").and_then(|(_, q)| q.parse().ok());
            (quality.unwrap_or(1.0), Clause { media, params })
        })
        .collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    ranked.into_iter().map(|(_, clause)| clause).collect()
}

/// Chooses the form of the answer. `protobuf` says whether the kind has one; `views` whether Table and
/// PartialObjectMetadata are possible.
pub fn output(headers: &HeaderMap, query: &Query, protobuf: bool, views: bool) -> Result<Output, Status> {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let json = || if pretty(headers, query) { Format::Pretty } else { Format::Json };
    if accept.is_empty() {
        return Ok(Output { format: json(), view: View::Whole, beta: false });
    }
    for clause in clauses(accept) {
        let format = match clause.media {
            "application/json" | "application/*" | "*/*" => json(),
            "application/yaml" => Format::Yaml,
            "application/vnd.kubernetes.protobuf" if protobuf => Format::Protobuf,
            _ => continue,
        };
        let param = |name: &str| clause.params.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let view = match param("as") {
            None | Some("") => View::Whole,
            Some(_) if !views || param("g") != Some("meta.k8s.io") => continue,
            Some(_) if !matches!(param("v"), Some("v1" | "v1beta1")) => continue,
            Some("Table") => View::Table,
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") => View::Metadata,
            Some(_) => continue,
        };
        let beta = view != View::Whole && param("v") == Some("v1beta1");
        return Ok(Output { format, view, beta });
    }
    let media = if protobuf { MEDIA_TYPES } else { MEDIA_TYPES_CUSTOM };
    Err(Status::not_acceptable(media))
}

/// The form of an error, which must not itself be an error.
pub fn error_format(headers: &HeaderMap, query: &Query) -> Format {
    output(headers, query, true, true).map_or(Format::Json, |output| output.format)
}

fn pretty(headers: &HeaderMap, query: &Query) -> bool {
    match query.get("pretty") {
        Some(value) => !matches!(value, "0" | "false"),
        None => {
            let agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("");
            ["curl", "Wget", "Mozilla/5.0"].iter().any(|known| agent.starts_with(known))
        }
    }
}

/// The media type of a body, without parameters; JSON when nothing is said.
pub fn content_type(headers: &HeaderMap) -> &str {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    match text.split(';').next().map(str::trim) {
        None | Some("") => "application/json",
        Some(media) => media,
    }
}
