//! The API server of the simulation: the rules that planners rely on, over the real store and its real files.
//!
//! A crash takes the process away in the middle of a write: of the last write, which nobody was told of yet, any
//! part may be on disk. What is opened again must be the state before or after it, and nothing older.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use controllers::Action;
use jiff::Timestamp;
use serde_json::{Value, json};
use store::{Draft, Embedded, Index, Key, Options, Precondition, Store, StoreError, Write};

use crate::check::Checker;

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such object.
    NotFound,
    /// It exists, or is another than was meant.
    Conflict,
}

/// Rules left out on purpose, to see that the checks notice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sabotage {
    /// None.
    #[default]
    Nothing,
    /// A binding does not look whether the pod has a node.
    BlindBinding,
    /// Revisions in patches are not compared.
    BlindPatch,
    /// What was last acknowledged is not on disk after a crash.
    LateSync,
}

/// The server. It is down between [`Server::crash`] and [`Server::start`].
pub struct Server {
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    store: Option<Arc<Embedded>>,
    sabotage: Sabotage,
    /// What must always hold.
    pub checker: Checker,
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

fn options() -> Options {
    let sizes = 64 << 10;
    Options {
        segment_bytes_first: sizes,
        segment_bytes_max: sizes,
        checkpoint_bytes: 1 << 30,
        reserve_bytes: 0,
        ..Options::default()
    }
}

fn open(dir: &Path) -> Result<Arc<Embedded>, StoreError> {
    Embedded::open(dir, options())
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

impl Server {
    /// A server without objects.
    pub fn new(sabotage: Sabotage) -> Result<Self, String> {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let dir = dir.map_err(|error| format!("make a directory: {error}"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.map_err(|error| format!("make a runtime: {error}"))?;
        let store = open(dir.path()).map_err(|error| error.to_string())?;
        Ok(Self { dir, runtime, store: Some(store), sabotage, checker: Checker::default() })
    }

    /// The store, while the server is up.
    pub fn store(&self) -> Option<&Arc<Embedded>> {
        self.store.as_ref()
    }

    /// Every object of a kind, with the revision they are of.
    pub fn list(&self, plural: &str) -> (Vec<Value>, u64) {
        let Some(store) = &self.store else { return (Vec::new(), 0) };
        let snapshot = store.snapshot(plural);
        let objects = snapshot.iter(&store::Range::default());
        (objects.filter_map(|o| serde_json::from_slice(&o.json).ok()).collect(), snapshot.revision())
    }

    fn get(&self, key: &Key) -> Option<Value> {
        let object = self.store.as_ref()?.get(key)?;
        serde_json::from_slice(&object.json).ok()
    }

    /// Carries out a request. `now` is the simulation's.
    pub fn handle(&mut self, action: &Action, now: Timestamp) -> Result<Value, Refusal> {
        if let Action::Post { target, subresource: crate::plans::LOOK, .. } = action {
            return self.look(target);
        }
        let (key, change) = self.change(action, now)?;
        self.commit(key, change)
    }

    fn change(&self, action: &Action, now: Timestamp) -> Result<(Key, Option<Value>), Refusal> {
        match action {
            Action::Create { resource, object, .. } => {
                let mut object = (**object).clone();
                let key = key(&resource.plural, text(&object, "/metadata/name"));
                if self.get(&key).is_some() {
                    return Err(Refusal::Conflict);
                }
                let next = self.store.as_ref().map_or(0, |store| store.revision()) + 1;
                object["metadata"]["uid"] = json!(format!("uid-{next}"));
                object["metadata"]["generation"] = json!(1);
                object["metadata"]["creationTimestamp"] = json!(now.to_string());
                if resource.plural == "jobs" {
                    select_own(&mut object);
                }
                Ok((key, Some(object)))
            }
            Action::Patch { target, subresource, patch, .. } => {
                let key = key(&target.resource.plural, &target.name);
                let old = self.get(&key).ok_or(Refusal::NotFound)?;
                self.precondition(
                    &old,
                    text(patch, "/metadata/uid"),
                    text(patch, "/metadata/resourceVersion"),
                )?;
                let mut new = old.clone();
                merge(&mut new, patch);
                // The status takes annotations along; spec and labels are not its own.
                match *subresource {
                    "status" => {
                        new["spec"] = old["spec"].clone();
                        new["metadata"]["labels"] = old["metadata"]["labels"].clone();
                    }
                    _ => new["status"] = old["status"].clone(),
                }
                if new["spec"] != old["spec"] {
                    new["metadata"]["generation"] =
                        json!(old["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
                }
                // The last finalizer of an object whose time is over takes it along.
                let over = new["metadata"]["deletionGracePeriodSeconds"] == 0 && !is_held(&new);
                Ok((key, (!over).then_some(new)))
            }
            Action::Delete { target, grace_s, .. } => {
                let key = key(&target.resource.plural, &target.name);
                let mut old = self.get(&key).ok_or(Refusal::NotFound)?;
                self.precondition(&old, &target.uid, "")?;
                // A pod that a node has is taken away by the node.
                let runs = !text(&old, "/spec/nodeName").is_empty() && *grace_s != Some(0);
                if text(&old, "/metadata/deletionTimestamp").is_empty() {
                    old["metadata"]["deletionTimestamp"] = json!(now.to_string());
                    old["metadata"]["deletionGracePeriodSeconds"] = json!(30);
                }
                if !runs {
                    old["metadata"]["deletionGracePeriodSeconds"] = json!(0);
                }
                let stays = runs || is_held(&old);
                Ok((key, stays.then_some(old)))
            }
            Action::Post { target, subresource: "binding", body } => {
                let key = key(&target.resource.plural, &target.name);
                let mut pod = self.get(&key).ok_or(Refusal::NotFound)?;
                self.precondition(&pod, &target.uid, "")?;
                let taken =
                    !text(&pod, "/spec/nodeName").is_empty() && self.sabotage != Sabotage::BlindBinding;
                if taken || !text(&pod, "/metadata/deletionTimestamp").is_empty() {
                    return Err(Refusal::Conflict);
                }
                pod["spec"]["nodeName"] = body["target"]["name"].clone();
                Ok((key, Some(pod)))
            }
            _ => Err(Refusal::NotFound),
        }
    }

    fn precondition(&self, old: &Value, uid: &str, revision: &str) -> Result<(), Refusal> {
        let same = |wanted: &str, field: &str| wanted.is_empty() || text(old, field) == wanted;
        let blind = self.sabotage == Sabotage::BlindPatch;
        match same(uid, "/metadata/uid") && (blind || same(revision, "/metadata/resourceVersion")) {
            true => Ok(()),
            false => Err(Refusal::Conflict),
        }
    }

    /// Whether the object of a request that only looks is there.
    fn look(&self, target: &controllers::Target) -> Result<Value, Refusal> {
        let found = self.get(&key(&target.resource.plural, &target.name)).ok_or(Refusal::NotFound)?;
        let same = text(&found, "/metadata/uid") == target.uid;
        if same { Ok(found) } else { Err(Refusal::NotFound) }
    }

    fn commit(&mut self, key: Key, value: Option<Value>) -> Result<Value, Refusal> {
        let Some(store) = &self.store else { return Err(Refusal::NotFound) };
        let before = store.get(&key);
        let precondition =
            before.as_ref().map_or(Precondition::Absent, |o| Precondition::Revision(o.modified));
        let old = before.and_then(|o| serde_json::from_slice(&o.json).ok());
        let draft = value.map(draft);
        let write = Write { key: key.clone(), precondition, value: draft.clone(), last: None };
        let written = self.runtime.block_on(store.write(write)).map_err(|_| Refusal::Conflict)?;
        let new: Value = serde_json::from_slice(&written.json).unwrap_or_default();
        let shown = draft.is_some().then_some(&new);
        self.checker.written(&key, store.revision(), old.as_ref(), shown);
        Ok(new)
    }

    /// The process dies while it writes `doing`, whose part of the files ends anywhere.
    pub fn crash(&mut self, doing: Option<&Action>, now: Timestamp, cut: impl FnOnce(usize) -> usize) {
        let before = self.files();
        let told = self.checker.state();
        if let Some(action) = doing {
            let _ = self.handle(action, now);
        }
        // What is on disk now is what a dead process leaves: closing would put it in order.
        let mut left = self.files();
        self.store = None;
        if let Some((path, at, bytes)) = torn(&before, &left) {
            let keep = cut(bytes.len());
            let lost = before.get(&path).and_then(|old| old.get(at + keep..at + bytes.len()));
            if let (Some(file), Some(lost)) = (left.get_mut(&path), lost) {
                file[at + keep..at + bytes.len()].copy_from_slice(lost);
            }
        }
        self.put_back(&left);
        // Whoever tells before it has synced has promised the write that is lost now.
        let told = if self.sabotage == Sabotage::LateSync { self.checker.state() } else { told };
        self.checker.crashed(told);
    }

    /// Opens what the crash left and compares.
    pub fn start(&mut self) -> Result<(), String> {
        let store = open(self.dir.path()).map_err(|error| format!("the store does not open: {error}"))?;
        let mut found = BTreeMap::new();
        for plural in store.counts().keys() {
            for object in store.snapshot(plural).iter(&store::Range::default()) {
                found.insert((plural.to_string(), object.key.name.to_string()), object.modified);
            }
        }
        self.checker.opened(store.revision(), &found);
        self.store = Some(store);
        Ok(())
    }

    /// Makes the files what they were.
    fn put_back(&self, files: &Files) {
        for path in self.files().keys().filter(|path| !files.contains_key(*path)) {
            let _ = std::fs::remove_file(path);
        }
        for (path, bytes) in files {
            if let Err(error) = std::fs::write(path, bytes) {
                panic!("the simulation cannot write {}: {error}", path.display());
            }
        }
    }

    /// The files of the store and of its log.
    fn files(&self) -> Files {
        let dirs = [self.dir.path().to_path_buf(), self.dir.path().join("log")];
        let entries = dirs.iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten();
        let paths = entries.map(|entry| entry.path()).filter(|path| path.is_file());
        paths.filter_map(|path| Some((path.clone(), std::fs::read(path).ok()?))).collect()
    }
}

/// The part of a file that a write changed.
fn torn(before: &Files, after: &Files) -> Option<(PathBuf, usize, Vec<u8>)> {
    after.iter().find_map(|(path, new)| {
        let old = before.get(path)?;
        let from = old.iter().zip(new).position(|(a, b)| a != b)?;
        let to = old.iter().zip(new).rposition(|(a, b)| a != b)? + 1;
        Some((path.clone(), from, new[from..to].to_vec()))
    })
}

fn is_held(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty())
}

/// A Job selects the pods that have its uid.
fn select_own(job: &mut Value) {
    let own = json!({"batch.kubernetes.io/controller-uid": job["metadata"]["uid"],
        "batch.kubernetes.io/job-name": job["metadata"]["name"]});
    job["spec"]["selector"] = json!({"matchLabels": {
        "batch.kubernetes.io/controller-uid": job["metadata"]["uid"]}});
    job["spec"]["template"]["metadata"]["labels"] = own;
}

/// The place of an object; there is one namespace.
fn key(plural: &str, name: &str) -> Key {
    Key { resource: plural.into(), namespace: "default".into(), name: name.into() }
}

fn draft(mut object: Value) -> Draft {
    const HOLE: &str = r#""resourceVersion":""#;
    object["metadata"]["resourceVersion"] = json!("");
    let bytes = object.to_string();
    let hole = bytes.find(HOLE).map_or(0, |at| at + HOLE.len());
    Draft { hole: u32::try_from(hole).unwrap_or(0), bytes: bytes.into(), index: Index::default() }
}

/// RFC 7396, but for the preconditions, which are no change.
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else { return into.clone_from(patch) };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in patch.iter().filter(|(key, _)| *key != "resourceVersion") {
        match value {
            Value::Null => drop(into.as_object_mut().and_then(|into| into.remove(key))),
            value => merge(&mut into[key.as_str()], value),
        }
    }
}
