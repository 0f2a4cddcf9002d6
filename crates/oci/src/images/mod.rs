//! Images: references, the index, content by digest, layers, archives, registries.
//!
//! Everything lies below the directory of the runtime: `content/` holds manifests and configurations by
//! digest, `layers/` one directory for each unpacked layer, named after the digest of its tar (so images
//! share them), and `images.json` says which image has which. Compressed layers are deleted once unpacked.

mod archive;
mod binary;
mod reference;
mod store;
mod unpack;

pub use binary::Binary;
pub use reference::Reference;
pub use store::{Images, Record};
pub use unpack::layer as unpack_layer;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What an image says about the processes made from it (the `config` of an OCI image configuration).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ProcessConfig {
    /// `user[:group]`, names or numbers.
    #[serde(deserialize_with = "null")]
    pub user: String,
    /// `NAME=value`.
    #[serde(deserialize_with = "null")]
    pub env: Vec<String>,
    /// Command, or what comes before it.
    #[serde(deserialize_with = "null")]
    pub entrypoint: Vec<String>,
    /// Command, or its arguments.
    #[serde(deserialize_with = "null")]
    pub cmd: Vec<String>,
    /// Where it starts.
    #[serde(deserialize_with = "null")]
    pub working_dir: String,
    /// Name or number.
    #[serde(deserialize_with = "null")]
    pub stop_signal: String,
    /// Labels of the image.
    #[serde(deserialize_with = "null")]
    pub labels: BTreeMap<String, String>,
}

/// Builders write `null` for what is empty.
fn null<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

/// `sha256:` and the hash of `bytes`.
pub fn digest(bytes: &[u8]) -> String {
    use sha2::Digest;
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

pub(crate) use archive::Configuration;
pub(crate) use reference::is_digest;
pub(crate) use store::{layer_name, remove_dir};

impl Images {
    /// Pulls an image from its registry or a mirror; answers with its id.
    pub async fn pull(
        &self,
        request: crate::config::PullRequest,
        progress: Option<tokio::sync::mpsc::Sender<crate::state::Progress>>,
    ) -> Result<String, crate::runtime::Error> {
        let stores = std::slice::from_ref(self);
        let registries = self.registries.as_deref();
        let record = crate::registry::pull(stores, registries, self.limits, &request, progress).await?;
        Ok(record.id)
    }
}
