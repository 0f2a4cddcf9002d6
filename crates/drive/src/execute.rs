//! Carries out plans. It makes no choices: what fails ends the pass, and the planner decides anew.

use std::ops::Range;
use std::sync::Arc;

use client::{ApiResource, Client, DeleteOptions, Error, ListOptions, ObjectKey, Patch, WriteOptions};
use controllers::{Action, Note, Propagation, Report, Resource, Target};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::caches::{Written, Wrote};
use crate::events::Recorder;

/// Requests of one plan that are under way at once.
const AT_ONCE: usize = 128;

/// How a plan went.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was written, for the freshness gate.
    pub writes: Vec<Written>,
    /// What ended it before its end.
    pub failure: Option<Stopped>,
}

/// Why a plan was not carried out to its end.
#[derive(Debug)]
pub enum Stopped {
    /// The view was out of date; planning again will do.
    Stale(String),
    /// The server refused, or there was no answer.
    Failed {
        /// What was tried.
        verb: &'static str,
        /// The server's message.
        message: String,
    },
}

/// What is read of an answer: enough to know when caches show it.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    metadata: Meta,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    deletion_timestamp: Option<IgnoredAny>,
    finalizers: Option<Vec<IgnoredAny>>,
}

type Done = Result<Option<Written>, (&'static str, Error)>;

/// Carries out the actions in order; runs of creations and of deletions go in parallel, on all cores.
pub async fn execute(client: &Client, recorder: &Recorder, actions: &Arc<[Action]>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut next = 0;
    while let Some(first) = actions.get(next) {
        let kind = std::mem::discriminant(first);
        let parallel = matches!(first, Action::Create { .. } | Action::Delete { .. });
        let alike = actions[next..].iter().take_while(|a| std::mem::discriminant(*a) == kind).count();
        let end = next + if parallel { alike } else { 1 };
        if end - next == 1 {
            note(&mut outcome, perform(client, recorder, first).await);
        } else {
            // Creations start slowly, so that what is refused for all is tried for few.
            let window = if matches!(first, Action::Create { .. }) { 1 } else { AT_ONCE };
            run(&mut outcome, client, recorder, actions, next..end, window).await;
        }
        if outcome.failure.is_some() {
            return outcome;
        }
        next = end;
    }
    outcome
}

/// Carries out a run of actions side by side. The window opens by one with every success and nothing is begun after
/// a failure.
async fn run(
    outcome: &mut Outcome,
    client: &Client,
    recorder: &Recorder,
    actions: &Arc<[Action]>,
    mut which: Range<usize>,
    mut window: usize,
) {
    let mut running = tokio::task::JoinSet::new();
    loop {
        while outcome.failure.is_none() && running.len() < window {
            let Some(index) = which.next() else { break };
            let (client, recorder, actions) = (client.clone(), recorder.clone(), actions.clone());
            running.spawn(async move { perform(&client, &recorder, &actions[index]).await });
        }
        match running.join_next().await {
            None => return,
            Some(Ok(done)) => note(outcome, done),
            Some(Err(broken)) => {
                let failed = Stopped::Failed { verb: "carry out", message: broken.to_string() };
                outcome.failure.get_or_insert(failed);
            }
        }
        window = (window + 1).min(AT_ONCE);
    }
}

fn note(outcome: &mut Outcome, done: Done) {
    match done {
        Ok(written) => outcome.writes.extend(written),
        Err((verb, error)) => {
            outcome.failure.get_or_insert_with(|| stopped(verb, &error));
        }
    }
}

fn stopped(verb: &'static str, error: &Error) -> Stopped {
    let stale = match verb {
        "create" => error.is_already_exists(),
        _ => error.is_conflict() || error.is_not_found(),
    };
    match stale {
        true => Stopped::Stale(error.to_string()),
        false => Stopped::Failed { verb, message: error.chain() },
    }
}

async fn perform(client: &Client, recorder: &Recorder, action: &Action) -> Done {
    match action {
        Action::Create { resource, object, report } => {
            let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("");
            let created = client.create_at(&api(resource), namespace, object, &WriteOptions::default()).await;
            match created {
                // Nothing can be made here any more, and nothing needs to be.
                Err(error) if error.is_namespace_terminating() => Ok(None),
                created => told(recorder, report.as_ref(), "create", created).map(|o| revision(resource, &o)),
            }
        }
        Action::Patch { target, subresource, patch, report } => {
            let patch = Patch::Merge((**patch).clone());
            let sub = Some(*subresource).filter(|s| !s.is_empty());
            let place = (target.namespace.as_str(), target.name.as_str());
            let options = WriteOptions::default();
            let patched = client.patch_at(&api(&target.resource), place, sub, &patch, &options).await;
            told(recorder, report.as_ref(), "patch", patched).map(|o| revision(&target.resource, &o))
        }
        Action::Delete { target, grace_s, propagation, report } => {
            delete(client, recorder, target, *grace_s, *propagation, report.as_ref()).await
        }
        Action::DeleteAll { resource, namespace } => {
            let (list, options) = (ListOptions::default(), DeleteOptions::default());
            let deleted = client.delete_collection_at(&api(resource), namespace, &list, &options).await;
            deleted.map(|_| None).map_err(|e| ("delete", e))
        }
        Action::Post { target, subresource, body } => {
            let uri = api(&target.resource).path(&target.namespace, Some(&target.name), Some(subresource));
            let body = serde_json::to_vec(body).map_err(|e| ("post", Error::Request(e.to_string())))?;
            let posted = client.raw(http::Method::POST, &uri, "application/json", body.into()).await;
            posted.map(|_| None).map_err(|e| ("post", e))
        }
        Action::Replace { target, subresource, object } => {
            let place = api(&target.resource);
            let options = WriteOptions::default();
            let sub = Some(*subresource).filter(|s| !s.is_empty());
            let replaced: Result<Answer, Error> =
                client.update_at(&place, &target.namespace, &target.name, sub, object, &options).await;
            replaced.map(|o| revision(&target.resource, &o)).map_err(|e| ("update", e))
        }
        Action::Event { about, note } => {
            recorder.tell(about, note);
            Ok(None)
        }
    }
}

async fn delete(
    client: &Client,
    recorder: &Recorder,
    target: &Target,
    grace_s: Option<i64>,
    propagation: Option<Propagation>,
    report: Option<&Report>,
) -> Done {
    let mut options = DeleteOptions { grace_period_seconds: grace_s, ..DeleteOptions::default() };
    if !target.uid.is_empty() {
        options.preconditions = DeleteOptions::uid(&target.uid).preconditions;
    }
    options.propagation_policy = propagation.map(|p| match p {
        Propagation::Orphan => client::Propagation::Orphan,
        Propagation::Background => client::Propagation::Background,
        Propagation::Foreground => client::Propagation::Foreground,
    });
    let deleted = client.delete_at(&api(&target.resource), &target.namespace, &target.name, &options).await;
    let written = Written {
        group: target.resource.group.to_string(),
        plural: target.resource.plural.to_string(),
        key: ObjectKey::new(&target.namespace, &target.name),
        what: Wrote::Deletion { uid: target.uid.clone() },
    };
    match deleted {
        // Gone already, or another object by now: either way this one is not there.
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(Some(written)),
        deleted => told(recorder, report, "delete", deleted).map(|_| Some(written)),
    }
}

/// Tells how an action went, if the planner asked for it.
fn told(
    recorder: &Recorder,
    report: Option<&Report>,
    verb: &'static str,
    result: Result<Answer, Error>,
) -> Result<Answer, (&'static str, Error)> {
    let Some(report) = report else { return result.map_err(|e| (verb, e)) };
    match &result {
        Ok(_) => {
            if let Some(note) = &report.done {
                recorder.tell(&report.about, note);
            }
        }
        Err(error) if matches!(stopped(verb, error), Stopped::Stale(_)) => {}
        Err(error) => {
            if let Some(note) = &report.failed {
                let message = format!("{}{}", note.message, error.chain());
                recorder.tell(&report.about, &Note { message, ..note.clone() });
            }
        }
    }
    result.map_err(|e| (verb, e))
}

/// Where the caches must get to before they show this object.
fn revision(resource: &Resource, object: &Answer) -> Option<Written> {
    let meta = &object.metadata;
    // An object whose last finalizer goes is deleted by the same write, at a revision that is not told.
    let going = meta.deletion_timestamp.is_some() && meta.finalizers.is_none();
    let what = match going {
        true => Wrote::Deletion { uid: meta.uid.clone()? },
        false => Wrote::Revision(meta.resource_version.as_deref()?.parse().ok()?),
    };
    Some(Written {
        group: resource.group.to_string(),
        plural: resource.plural.to_string(),
        key: ObjectKey::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref()?),
        what,
    })
}

/// The client's word for a kind.
#[must_use]
pub fn api(resource: &Resource) -> ApiResource {
    ApiResource {
        group: resource.group.clone(),
        version: resource.version.clone(),
        kind: resource.kind.clone(),
        plural: resource.plural.clone(),
        namespaced: resource.namespaced,
    }
}
