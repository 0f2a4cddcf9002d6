//! The closed set of things controllers do, and the plans they come in.

use std::borrow::Cow;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::{ClusterResourceScope, Metadata, NamespaceResourceScope, Resource as KubeResource};
use serde::Serialize;
use serde_json::{Value, json};

use crate::diff;

/// Where the API serves a kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    /// The API group; empty for the core group.
    pub group: Cow<'static, str>,
    /// The version within the group.
    pub version: Cow<'static, str>,
    /// The kind.
    pub kind: Cow<'static, str>,
    /// The plural, as paths name it.
    pub plural: Cow<'static, str>,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
}

/// Tells the two scopes apart.
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

/// A kind that planners read and write.
pub trait Object: KubeResource + Metadata<Ty = ObjectMeta> + Serialize {
    /// Where the API serves it.
    fn resource() -> Resource;
}

impl<K> Object for K
where
    K: KubeResource + Metadata<Ty = ObjectMeta> + Serialize,
    K::Scope: ScopeOf,
{
    fn resource() -> Resource {
        Resource {
            group: Cow::Borrowed(K::GROUP),
            version: Cow::Borrowed(K::VERSION),
            kind: Cow::Borrowed(K::KIND),
            plural: Cow::Borrowed(K::URL_PATH_SEGMENT),
            namespaced: K::Scope::NAMESPACED,
        }
    }
}

impl Resource {
    /// `v1` or `group/version`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

/// One particular object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its kind.
    pub resource: Resource,
    /// Its namespace, or empty.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: what is done is done to this one or to none. Empty where any will do.
    pub uid: String,
}

impl Target {
    /// The object itself.
    #[must_use]
    pub fn of<K: Object>(object: &K) -> Self {
        Self::at(K::resource(), object.metadata())
    }

    /// The object with this metadata.
    #[must_use]
    pub fn at(resource: Resource, meta: &ObjectMeta) -> Self {
        Self {
            resource,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
        }
    }

    /// What an object that this one controls says of it.
    #[must_use]
    pub fn controller_reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: self.resource.api_version(),
            kind: self.resource.kind.to_string(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }
}

/// What an event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whether it is a warning.
    pub warning: bool,
    /// One word, for machines.
    pub reason: Cow<'static, str>,
    /// A sentence, for people.
    pub message: String,
}

impl Note {
    /// All is as it should be.
    #[must_use]
    pub fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: false, reason: Cow::Borrowed(reason), message: message.into() }
    }

    /// Someone should look.
    #[must_use]
    pub fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: true, reason: Cow::Borrowed(reason), message: message.into() }
    }
}

/// Events that tell how an action went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whom the events are about.
    pub about: Target,
    /// What is said when it went well.
    pub done: Option<Note>,
    /// What is said when it did not; the server's message is appended.
    pub failed: Option<Note>,
}

/// What becomes of an object's dependents when it is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They stay.
    Orphan,
    /// They go afterwards.
    Background,
    /// They go first.
    Foreground,
}

/// One request to the API.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Creates an object. Consecutive creations may run at once.
    Create {
        /// Its kind.
        resource: Resource,
        /// All of it.
        object: Box<Value>,
        /// What to tell.
        report: Option<Report>,
    },
    /// Changes an object by a merge patch.
    Patch {
        /// The object.
        target: Target,
        /// The subresource, or empty.
        subresource: &'static str,
        /// RFC 7396, with the preconditions that must hold within `metadata`.
        patch: Box<Value>,
        /// What to tell.
        report: Option<Report>,
    },
    /// Deletes an object. Consecutive deletions may run at once. One that is gone already is no failure.
    Delete {
        /// The object.
        target: Target,
        /// Seconds until it is forced; `None` takes the object's own.
        grace_s: Option<i64>,
        /// What becomes of its dependents; `None` takes the kind's default.
        propagation: Option<Propagation>,
        /// What to tell.
        report: Option<Report>,
    },
    /// Deletes every object of a kind in a namespace.
    DeleteAll {
        /// The kind.
        resource: Resource,
        /// The namespace.
        namespace: String,
    },
    /// Posts to a subresource: evictions, bindings, finalization.
    Post {
        /// The object.
        target: Target,
        /// The subresource.
        subresource: &'static str,
        /// The body.
        body: Box<Value>,
    },
    /// Replaces a subresource that takes no patch: `namespaces/finalize`, `certificatesigningrequests/approval`.
    Replace {
        /// The object.
        target: Target,
        /// The subresource.
        subresource: &'static str,
        /// All of it.
        object: Box<Value>,
    },
    /// Tells something about an object.
    Event {
        /// The object.
        about: Target,
        /// What is told.
        note: Note,
    },
}

impl Action {
    /// Creates this object.
    #[must_use]
    pub fn create<K: Object>(object: &K) -> Self {
        Self::create_reported(object, None)
    }

    /// Creates this object and tells about it.
    #[must_use]
    pub fn create_reported<K: Object>(object: &K, report: Option<Report>) -> Self {
        Self::Create { resource: K::resource(), object: Box::new(diff::value(object)), report }
    }

    /// Changes `old` into `new`, if they differ and if `old` is still what the server has.
    #[must_use]
    pub fn patch<K: Object>(old: &K, new: &K) -> Option<Self> {
        Self::patch_at(Target::of(old), "", old, new)
    }

    /// Changes the status of `old` into that of `new`, under the same conditions.
    #[must_use]
    pub fn patch_status<K: Object>(old: &K, new: &K) -> Option<Self> {
        Self::patch_at(Target::of(old), "status", old, new)
    }

    /// Changes `old` into `new` through a subresource.
    #[must_use]
    pub fn patch_at<T: Serialize>(
        target: Target,
        subresource: &'static str,
        old: &T,
        new: &T,
    ) -> Option<Self> {
        let old = diff::value(old);
        let mut patch = diff::merge_patch(&old, &diff::value(new))?;
        if let Some(version) = old.pointer("/metadata/resourceVersion") {
            patch["metadata"]["resourceVersion"] = version.clone();
        }
        if !target.uid.is_empty() {
            patch["metadata"]["uid"] = json!(target.uid);
        }
        Some(Self::Patch { target, subresource, patch: Box::new(patch), report: None })
    }

    /// A merge patch that holds whatever the object's revision, as long as it is this object.
    #[must_use]
    pub fn merge(target: Target, subresource: &'static str, mut patch: Value) -> Self {
        if !target.uid.is_empty() {
            patch["metadata"]["uid"] = json!(target.uid);
        }
        Self::Patch { target, subresource, patch: Box::new(patch), report: None }
    }

    /// Deletes this object and no namesake.
    #[must_use]
    pub fn delete<K: Object>(object: &K) -> Self {
        Self::Delete { target: Target::of(object), grace_s: None, propagation: None, report: None }
    }

    /// Tells something about this object.
    #[must_use]
    pub fn event<K: Object>(about: &K, note: Note) -> Self {
        Self::Event { about: Target::of(about), note }
    }

    /// The same action with this report.
    #[must_use]
    pub fn reported(mut self, to_tell: Report) -> Self {
        if let Self::Create { report, .. } | Self::Patch { report, .. } | Self::Delete { report, .. } =
            &mut self
        {
            *report = Some(to_tell);
        }
        self
    }
}

/// Why a plan is what it is.
pub type Reason = Cow<'static, str>;

/// When to plan again although nothing changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wake {
    /// Only when something changes.
    #[default]
    OnChange,
    /// At this time at the latest.
    At(Timestamp),
}

impl Wake {
    /// At the earlier of the two.
    #[must_use]
    pub fn or_at(self, time: Option<Timestamp>) -> Self {
        match (self, time) {
            (Self::At(a), Some(b)) => Self::At(a.min(b)),
            (Self::OnChange, Some(b)) => Self::At(b),
            (wake, None) => wake,
        }
    }
}

/// What to do, when to look again, and why.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In this order; the first failure ends the pass.
    pub actions: Vec<Action>,
    /// When to look again.
    pub wake: Wake,
    /// Why; also for doing nothing.
    pub why: Vec<Reason>,
}

impl Plan {
    /// Nothing to do, and why.
    #[must_use]
    pub fn idle(why: impl Into<Reason>) -> Self {
        Self { why: vec![why.into()], ..Self::default() }
    }

    /// Adds a reason.
    pub fn because(&mut self, why: impl Into<Reason>) {
        self.why.push(why.into());
    }
}

/// What went wrong in the pass before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// `create`, `patch`, `delete` …
    pub verb: &'static str,
    /// The server's message.
    pub message: String,
    /// When.
    pub at: Timestamp,
}
