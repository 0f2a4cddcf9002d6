//! The errors a client sees: `Status` objects with upstream's codes, reasons, messages and details.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

/// One refusal, as the `Status` kind says it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason, empty for none.
    pub reason: Cow<'static, str>,
    /// Human-readable message.
    pub message: String,
    /// What it is about.
    pub details: Option<Box<Details>>,
    /// `metadata.continue`, set only when a paged list has expired.
    pub continue_token: Option<String>,
}

/// What a [`Status`] is about.
#[derive(Debug, Clone, Default)]
pub struct Details {
    /// The object's name.
    pub name: String,
    /// The API group.
    pub group: String,
    /// The resource (for lookups) or kind (for validation).
    pub kind: String,
    /// The object's uid.
    pub uid: String,
    /// The single causes.
    pub causes: Vec<Cause>,
    /// Seconds after which to try again, 0 for none.
    pub retry_after: u32,
}

/// One cause within [`Details`].
#[derive(Debug, Clone)]
pub struct Cause {
    /// Machine-readable reason.
    pub reason: Cow<'static, str>,
    /// What is wrong.
    pub message: String,
    /// The path of the field.
    pub field: String,
}

/// `plural.group`, or `plural` in the legacy group: how messages name a resource or kind.
pub fn qualified(group: &str, name: &str) -> String {
    if group.is_empty() { name.to_string() } else { format!("{name}.{group}") }
}

impl Status {
    /// A status without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: Cow::Borrowed(reason),
            message: message.into(),
            details: None,
            continue_token: None,
        }
    }

    /// Adds what it is about; all empty for details without content.
    pub fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let (group, kind, name) = (group.to_string(), kind.to_string(), name.to_string());
        self.details = Some(Box::new(Details { name, group, kind, ..Details::default() }));
        self
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 404 on an object.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} not found", qualified(group, resource));
        Self::new(404, "NotFound", message).about(group, resource, name)
    }

    /// 404 on a resource that is not served.
    pub fn no_resource() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource").about("", "", "")
    }

    /// 405.
    pub fn no_method() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", message).about("", "", "")
    }

    /// 409 on a create.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", qualified(group, resource));
        Self::new(409, "AlreadyExists", message).about(group, resource, name)
    }

    /// 409 on a create whose generated name is taken.
    pub fn generate_name_taken(group: &str, resource: &str, name: &str) -> Self {
        let message = format!(
            "{} {name:?} already exists, the server was not able to generate a unique name for the object",
            qualified(group, resource)
        );
        let mut status = Self::new(409, "AlreadyExists", message).about(group, resource, name);
        if let Some(details) = &mut status.details {
            details.retry_after = 1;
        }
        status
    }

    /// 409 on a change, with the cause in words.
    pub fn conflict(group: &str, resource: &str, name: &str, cause: &str) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {} {name:?}: {cause}", qualified(group, resource));
        Self::new(409, "Conflict", message).about(group, resource, name)
    }

    /// 409 because the object is not at the version the client saw.
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        Self::conflict(
            group,
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 403 by a rule of the server.
    pub fn forbidden(group: &str, resource: &str, name: &str, cause: &str) -> Self {
        let resource_name = qualified(group, resource);
        let message = match name {
            "" => format!("{resource_name} is forbidden: {cause}"),
            name => format!("{resource_name} {name:?} is forbidden: {cause}"),
        };
        Self::new(403, "Forbidden", message).about(group, resource, name)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 422 with causes, which may not be empty.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let lines: Vec<String> = causes
            .iter()
            .map(|cause| match cause.field.as_str() {
                "" => cause.message.clone(),
                field => format!("{field}: {}", cause.message),
            })
            .collect();
        let mut distinct: Vec<&String> = Vec::new();
        for line in &lines {
            if !distinct.contains(&line) {
                distinct.push(line);
            }
        }
        let text = match distinct.as_slice() {
            [one] => one.to_string(),
            many => format!("[{}]", many.iter().map(|line| line.as_str()).collect::<Vec<_>>().join(", ")),
        };
        let message = format!("{} {name:?} is invalid: {text}", qualified(group, kind));
        let mut status = Self::new(422, "Invalid", message).about(group, kind, name);
        if let Some(details) = &mut status.details {
            details.causes = causes;
        }
        status
    }

    /// 410 with a reason in words.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413.
    pub fn too_large(limit: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    /// 415.
    pub fn unsupported_media_type(accepted: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {accepted}"
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 406.
    pub fn not_acceptable(available: &str) -> Self {
        let watch = match available.contains("protobuf") {
            true => ", application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch",
            false => ", application/json;stream=watch",
        };
        let message = format!("406: Not Acceptable\n\nAvailable representations: {available}{watch}");
        Self::new(406, "NotAcceptable", message).about("", "", "")
    }

    /// 500.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        let mut status =
            Self::new(500, "InternalError", format!("Internal error occurred: {cause}")).about("", "", "");
        if let Some(details) = &mut status.details {
            details.causes =
                vec![Cause { reason: Cow::Borrowed(""), message: cause.to_string(), field: String::new() }];
        }
        status
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// 429 with the seconds after which to try again.
    pub fn too_many(message: impl Into<String>, retry_after: u32) -> Self {
        let mut status = Self::new(429, "TooManyRequests", message).about("", "", "");
        if let Some(details) = &mut status.details {
            details.retry_after = retry_after;
        }
        status
    }

    /// 504 because the asked revision lies too far ahead.
    pub fn too_large_revision(requested: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {requested}, current: {current}");
        let mut status = Self::new(504, "Timeout", message).about("", "", "");
        if let Some(details) = &mut status.details {
            details.retry_after = 1;
            details.causes = vec![Cause {
                reason: Cow::Borrowed("ResourceVersionTooLarge"),
                message: "Too large resource version".to_string(),
                field: String::new(),
            }];
        }
        status
    }

    /// 409 because other managers own fields that an apply sets.
    pub fn apply_conflict(message: String, conflicts: &[schema::managed::Conflict]) -> Self {
        let mut status = Self::new(409, "Conflict", message).about("", "", "");
        if let Some(details) = &mut status.details {
            let causes = conflicts.iter().map(|conflict| {
                let text = format!("conflict with {}", conflict.manager);
                Cause::field("FieldManagerConflict", conflict.field.clone(), text)
            });
            details.causes = causes.collect();
        }
        status
    }

    /// Adds a cause without a field.
    pub fn with_cause(mut self, reason: &'static str, message: impl Into<String>) -> Self {
        let cause = Cause { reason: Cow::Borrowed(reason), message: message.into(), field: String::new() };
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// The object clients see.
    pub fn to_value(&self) -> Value {
        let mut metadata = Map::new();
        if let Some(token) = &self.continue_token {
            metadata.insert("continue".into(), token.as_str().into());
        }
        let mut object = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": "Failure",
            "message": self.message,
            "code": self.code,
        });
        if !self.reason.is_empty() {
            object["reason"] = self.reason.as_ref().into();
        }
        if let Some(details) = &self.details {
            object["details"] = details.to_value();
        }
        object
    }
}

impl Details {
    /// The object clients see, without empty fields.
    pub fn to_value(&self) -> Value {
        let mut object = Map::new();
        for (key, text) in
            [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)]
        {
            if !text.is_empty() {
                object.insert(key.into(), text.as_str().into());
            }
        }
        if !self.causes.is_empty() {
            object.insert("causes".into(), self.causes.iter().map(Cause::to_value).collect());
        }
        if self.retry_after > 0 {
            object.insert("retryAfterSeconds".into(), self.retry_after.into());
        }
        Value::Object(object)
    }
}

impl From<schema::FieldError> for Cause {
    fn from(error: schema::FieldError) -> Self {
        Self { reason: Cow::Borrowed(error.reason.cause()), message: error.body(), field: error.field }
    }
}

impl Cause {
    /// A cause about a field.
    pub fn field(reason: &'static str, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason: Cow::Borrowed(reason), message: message.into(), field: field.into() }
    }

    /// `FieldValueRequired`.
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        let message = match detail {
            "" => "Required value".to_string(),
            detail => format!("Required value: {detail}"),
        };
        Self::field("FieldValueRequired", field, message)
    }

    /// `FieldValueInvalid`, with the value as JSON.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self::field("FieldValueInvalid", field, format!("Invalid value: {value}: {detail}"))
    }

    /// `FieldValueForbidden`.
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self::field("FieldValueForbidden", field, format!("Forbidden: {detail}"))
    }

    fn to_value(&self) -> Value {
        let mut object = Map::new();
        if !self.reason.is_empty() {
            object.insert("reason".into(), self.reason.as_ref().into());
        }
        if !self.message.is_empty() {
            object.insert("message".into(), self.message.as_str().into());
        }
        if !self.field.is_empty() {
            object.insert("field".into(), self.field.as_str().into());
        }
        Value::Object(object)
    }
}

/// The answer to a delete, or to a request whose result is only "done".
pub fn success(group: &str, resource: &str, name: &str, uid: &str) -> Value {
    let details = Details {
        name: name.into(),
        group: group.into(),
        kind: resource.into(),
        uid: uid.into(),
        ..Details::default()
    };
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details.to_value(),
    })
}
