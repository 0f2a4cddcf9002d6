//! Options of requests, and the query strings they become.

use serde::Serialize;
use serde_json::Value;

/// Which objects a list, watch or cache is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Label selector in its text form; empty selects everything.
    pub labels: String,
    /// Field selector in its text form; empty selects everything.
    pub fields: String,
    /// Largest number of objects in one page; 0 asks for all.
    pub limit: u32,
    /// Where the previous page ended.
    pub continue_token: String,
    /// The revision to read at; empty reads the newest.
    pub resource_version: String,
    /// How `resource_version` is meant: `Exact` or `NotOlderThan`.
    pub version_match: &'static str,
}

impl ListOptions {
    /// Also requires the field to have this value.
    #[must_use]
    pub fn field(mut self, path: &str, value: &str) -> Self {
        append(&mut self.fields, &format!("{path}={value}"));
        self
    }

    /// Also requires the field not to have this value.
    #[must_use]
    pub fn field_not(mut self, path: &str, value: &str) -> Self {
        append(&mut self.fields, &format!("{path}!={value}"));
        self
    }

    /// Also requires the label to have this value.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        append(&mut self.labels, &format!("{key}={value}"));
        self
    }

    pub(crate) fn query(&self) -> Query {
        let mut query = Query::default();
        query.text("labelSelector", &self.labels);
        query.text("fieldSelector", &self.fields);
        query.text("continue", &self.continue_token);
        query.text("resourceVersion", &self.resource_version);
        query.text("resourceVersionMatch", self.version_match);
        if self.limit > 0 {
            query.text("limit", &self.limit.to_string());
        }
        query
    }
}

fn append(list: &mut String, item: &str) {
    if !list.is_empty() {
        list.push(',');
    }
    list.push_str(item);
}

/// Options of create, update and patch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Do everything but the write.
    pub dry_run: bool,
    /// Who owns the fields that are written.
    pub field_manager: String,
    /// Take fields over from other managers (apply only).
    pub force: bool,
    /// `Ignore`, `Warn` or `Strict`; empty leaves it to the server.
    pub field_validation: &'static str,
}

impl WriteOptions {
    pub(crate) fn query(&self) -> Query {
        let mut query = Query::default();
        query.text("dryRun", if self.dry_run { "All" } else { "" });
        query.text("fieldManager", &self.field_manager);
        query.text("fieldValidation", self.field_validation);
        query.text("force", if self.force { "true" } else { "" });
        query
    }
}

/// What must hold for a deletion to happen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preconditions {
    /// The object is this one, not a namesake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The object has not changed since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

/// What becomes of an object's dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Propagation {
    /// They stay, without this owner.
    Orphan,
    /// They are deleted afterwards.
    Background,
    /// They are deleted first.
    Foreground,
}

/// Options of a deletion.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteOptions {
    /// Seconds until it is forced; `None` takes the object's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i64>,
    /// What must hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconditions: Option<Preconditions>,
    /// What becomes of dependents; `None` takes the kind's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_policy: Option<Propagation>,
    /// `["All"]` for a dry run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dry_run: Vec<String>,
}

impl DeleteOptions {
    /// Deletes only the object with this uid.
    #[must_use]
    pub fn uid(uid: &str) -> Self {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        Self { preconditions: Some(preconditions), ..Self::default() }
    }

    /// With this grace period, in seconds.
    #[must_use]
    pub fn grace(mut self, seconds: i64) -> Self {
        self.grace_period_seconds = Some(seconds);
        self
    }
}

/// A patch and its type.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    /// RFC 6902: a list of operations.
    Json(Value),
    /// RFC 7396.
    Merge(Value),
    /// Strategic merge.
    Strategic(Value),
    /// Server-side apply; the write options name the field manager.
    Apply(Value),
}

impl Patch {
    pub(crate) fn parts(&self) -> (&'static str, &Value) {
        match self {
            Self::Json(v) => ("application/json-patch+json", v),
            Self::Merge(v) => ("application/merge-patch+json", v),
            Self::Strategic(v) => ("application/strategic-merge-patch+json", v),
            Self::Apply(v) => ("application/apply-patch+yaml", v),
        }
    }
}

/// A query string under construction.
#[derive(Debug, Default)]
pub(crate) struct Query(String);

impl Query {
    /// Appends `key=value`, unless the value is empty.
    pub(crate) fn text(&mut self, key: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(key);
        self.0.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    self.0.push(byte as char)
                }
                other => self.0.push_str(&format!("%{other:02X}")),
            }
        }
    }

    pub(crate) fn onto(&self, path: &str) -> String {
        format!("{path}{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let options = ListOptions::default().field("spec.nodeName", "n1").field_not("status.phase", "Failed");
        assert_eq!(
            options.query().onto("/x"),
            "/x?fieldSelector=spec.nodeName%3Dn1%2Cstatus.phase%21%3DFailed"
        );
        assert_eq!(ListOptions::default().query().onto("/x"), "/x");
    }
}
