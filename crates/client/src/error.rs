//! Why a request did not do what was asked.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;

use crate::TransportError;

/// The API server answered, and refused.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .status.message.as_deref().unwrap_or("the server gave no message"))]
pub struct ApiError {
    /// The server's answer. Its `code` is always set.
    pub status: Box<Status>,
    /// How long the server asked to wait before trying again, in seconds.
    pub retry_after_s: Option<u64>,
}

impl ApiError {
    /// The HTTP status code.
    #[must_use]
    pub fn code(&self) -> u16 {
        self.status.code.and_then(|c| u16::try_from(c).ok()).unwrap_or(0)
    }

    /// The machine-readable reason, or an empty string.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.status.reason.as_deref().unwrap_or("")
    }
}

/// A request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused it.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// There was no answer.
    #[error("no answer from the API server")]
    Transport(#[from] TransportError),
    /// The answer could not be understood.
    #[error("cannot decode the answer to {what}")]
    Decode {
        /// The request.
        what: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// The request could not be built.
    #[error("cannot build the request: {0}")]
    Request(String),
}

impl Error {
    /// The server's refusal, if that is what this is.
    #[must_use]
    pub fn api(&self) -> Option<&ApiError> {
        match self {
            Self::Api(e) => Some(e),
            _ => None,
        }
    }

    fn is(&self, code: u16, reason: &str) -> bool {
        self.api()
            .is_some_and(|e| if e.reason().is_empty() { e.code() == code } else { e.reason() == reason })
    }

    /// There is no such object or resource.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.is(404, "NotFound")
    }

    /// The object changed meanwhile, or a precondition did not hold.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.api().is_some_and(|e| e.code() == 409 && e.reason() != "AlreadyExists")
    }

    /// An object of that name exists.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.api().is_some_and(|e| e.reason() == "AlreadyExists")
    }

    /// The revision or continuation is too old.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.api().is_some_and(|e| e.code() == 410 || matches!(e.reason(), "Expired" | "Gone"))
    }

    /// The caller may not do this.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.is(403, "Forbidden")
    }

    /// The object is invalid.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        self.is(422, "Invalid")
    }

    /// The caller sent too much, too fast; for evictions, a disruption budget is in the way.
    #[must_use]
    pub fn is_too_many_requests(&self) -> bool {
        self.is(429, "TooManyRequests")
    }

    /// The namespace is being deleted and takes no new objects.
    #[must_use]
    pub fn is_namespace_terminating(&self) -> bool {
        self.api().is_some_and(|e| {
            let causes = e.status.details.as_ref().and_then(|d| d.causes.as_ref());
            causes.is_some_and(|c| c.iter().any(|c| c.reason.as_deref() == Some("NamespaceTerminating")))
        })
    }

    /// The message and every cause, in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text
    }
}
