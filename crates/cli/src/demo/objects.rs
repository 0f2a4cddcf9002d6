//! The objects of the demo application: read from the manifests in this program, applied, removed.

use std::borrow::Cow;

use client::{ApiResource, Client, Patch, WriteOptions};
use serde_json::Value;

use crate::{CliError, Doing};

const MANIFESTS: [&str; 2] = [include_str!("../../demo/base.yaml"), include_str!("../../demo/apps.yaml")];

/// Every object of the demo, in the order of creation.
pub fn all() -> Result<Vec<Value>, CliError> {
    let documents = MANIFESTS.iter().flat_map(|m| m.split("\n---\n"));
    documents.map(|d| serde_saphyr::from_str(d).doing("read the demo's manifests")).collect()
}

/// Where the API serves an object of the demo.
fn resource(object: &Value) -> ApiResource {
    let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let lower = kind.to_lowercase();
    // The one irregular plural among them.
    let plural = if lower == "ingress" { "ingresses".to_owned() } else { format!("{lower}s") };
    ApiResource {
        group: Cow::Owned(group.to_owned()),
        version: Cow::Owned(version.to_owned()),
        namespaced: kind != "Namespace",
        kind: Cow::Owned(kind),
        plural: Cow::Owned(plural),
    }
}

/// `Kind name`.
pub fn title(object: &Value) -> String {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]))
}

/// Applies every object; gives one line for each that the cluster refused.
pub async fn apply(client: &Client) -> Result<Vec<String>, CliError> {
    let mut refused = Vec::new();
    for object in all()? {
        let meta = &object["metadata"];
        let namespace = meta["namespace"].as_str().unwrap_or_default();
        let name = meta["name"].as_str().unwrap_or_default();
        let options =
            WriteOptions { force: true, field_manager: "kutter-demo".into(), ..WriteOptions::default() };
        let patch = Patch::Apply(object.clone());
        let place = (namespace, name);
        let result = client.patch_at::<Value>(&resource(&object), place, None, &patch, &options).await;
        if let Err(error) = result {
            refused.push(format!("{}: {}", title(&object), error.chain()));
        }
    }
    Ok(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_parse_and_name_what_they_are() {
        let objects = all().expect("manifests");
        assert!(objects.len() >= 14, "{}", objects.len());
        for object in &objects {
            assert!(object["metadata"]["name"].is_string(), "{object}");
            assert_eq!(object["kind"] == "Namespace", object["metadata"]["namespace"].is_null(), "{object}");
        }
        let paths: Vec<String> = objects.iter().map(|o| resource(o).path("shop", None, None)).collect();
        assert!(paths.contains(&"/apis/networking.k8s.io/v1/namespaces/shop/ingresses".to_owned()));
        assert!(paths.contains(&"/api/v1/namespaces".to_owned()));
    }
}
