//! Images from registries (OCI distribution and Docker registry API v2).
//!
//! A pull asks the mirrors of an image's registry, then the registry itself, for the manifest; picks this
//! machine's platform; and unpacks layers while they arrive, a few at a time. What arrives counts only once
//! its size and digest are what the manifest says. A broken transfer goes on where it stopped.

mod auth;
mod blob;
pub mod config;
mod endpoint;
mod http;
pub mod keyring;
mod manifest;
mod proxy;
mod pull;
mod tls;

pub use config::Registries;
pub use http::Times;
pub use manifest::architecture;
pub use pull::pull;

use crate::runtime::{Error, ImageError};
use ::http::HeaderMap;
use ::http::header::RETRY_AFTER;
use std::time::Duration;

/// Where the registries file is, unless told otherwise.
pub const FILE: &str = "/etc/kutter/registries.yaml";
/// Longest wait that a registry may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// Reads what a registry may send: a manifest, and the challenge of a refusal. For fuzzing.
#[doc(hidden)]
pub fn read_answer(body: &[u8], headers: &HeaderMap) -> bool {
    let media = headers.get(::http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    manifest::parse(body, media).is_ok() | auth::challenge(headers).is_some()
}

/// What bounds a pull.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tries of one document or layer at one place.
    pub attempts: u32,
    /// Wait after the first failed try; doubles with each.
    pub pause: Duration,
    /// Longest wait between two tries.
    pub pause_max: Duration,
    /// Times of a request.
    pub times: Times,
    /// Layers that arrive side by side.
    pub layers_at_once: usize,
    /// How far layers may expand.
    pub unpack: Expansion,
}

/// How many bytes a layer may unpack to: `ratio` times its size, yet always `floor`.
#[derive(Clone, Copy, Debug)]
pub struct Expansion {
    /// Bytes that any layer may have.
    pub floor: u64,
    /// Bytes for each byte that arrives.
    pub ratio: u64,
}

impl Expansion {
    /// The bound for a layer that arrives as `size` bytes.
    pub fn bound(self, size: u64) -> u64 {
        size.saturating_mul(self.ratio).max(self.floor)
    }
}

impl Default for Expansion {
    fn default() -> Self {
        Self { floor: 1 << 30, ratio: 200 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            attempts: 6,
            pause: Duration::from_millis(250),
            pause_max: Duration::from_secs(8),
            times: Times { connect: Duration::from_secs(10), stall: Duration::from_secs(60) },
            layers_at_once: 3,
            unpack: Expansion::default(),
        }
    }
}

impl Limits {
    /// The wait after `failed` tries, unless the registry asked for another.
    pub(crate) fn wait(&self, failed: u32, fault: &Fault) -> Duration {
        let doubled = self.pause.saturating_mul(1 << failed.saturating_sub(1).min(16));
        fault.wait().unwrap_or(doubled.min(self.pause_max))
    }
}

/// Why a request failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fault {
    /// No connection.
    #[error("{0}")]
    Unreachable(String),
    /// The connection broke.
    #[error("{0}")]
    Broken(String),
    /// A file of this machine, or a certificate.
    #[error("{0}")]
    Setup(String),
    /// The answer makes no sense.
    #[error("{0}")]
    Protocol(String),
    /// Credentials are missing or refused.
    #[error("{0}")]
    Unauthorized(String),
    /// Content is not what its digest promises.
    #[error("{reason}")]
    Corrupt {
        /// What was promised.
        digest: String,
        /// What came.
        reason: String,
    },
    /// An answer that is no success.
    #[error("{text}")]
    Status {
        /// HTTP status.
        code: u16,
        /// For people.
        text: String,
        /// Host and port that answered.
        from: String,
        /// Its headers.
        headers: Box<HeaderMap>,
    },
}

impl Fault {
    pub(crate) fn protocol(text: String) -> Self {
        Self::Protocol(text)
    }

    /// Another try may help.
    pub(crate) fn transient(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Broken(_) => true,
            Self::Status { code, .. } => matches!(code, 408 | 425 | 429 | 500..=599),
            _ => false,
        }
    }

    fn wait(&self) -> Option<Duration> {
        let Self::Status { headers, .. } = self else { return None };
        let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
    }

    /// As an error of the pull of `reference` from `registry`.
    pub(crate) fn explain(self, reference: &str, registry: &str) -> Error {
        let reference = reference.to_owned();
        let reason = self.to_string();
        match self {
            Self::Unauthorized(_) | Self::Status { code: 401 | 403, .. } => {
                ImageError::Unauthorized { reference, reason }
            }
            Self::Status { code: 404, .. } => ImageError::NotFound { reference, reason },
            Self::Unreachable(_) | Self::Broken(_) => {
                ImageError::RegistryUnavailable { registry: registry.to_owned(), reason }
            }
            Self::Status { code: 429 | 500..=599, .. } => {
                ImageError::RegistryUnavailable { registry: registry.to_owned(), reason }
            }
            Self::Corrupt { digest, reason } => ImageError::Corrupt { digest, reason },
            Self::Setup(_) | Self::Protocol(_) | Self::Status { .. } => {
                ImageError::Other { reference, reason }
            }
        }
        .into()
    }
}
