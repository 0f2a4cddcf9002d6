//! What must hold at every write and after every crash.

use std::collections::BTreeMap;

use serde_json::Value;
use store::Key;

use crate::scene;

/// Which object has which revision.
pub type State = BTreeMap<(String, String), u64>;

/// Watches every write.
#[derive(Default)]
pub struct Checker {
    /// The state after every acknowledged write, and its revision.
    now: (State, u64),
    /// What may be found after a crash.
    possible: Vec<(State, u64)>,
    /// What did not hold.
    pub broken: Vec<String>,
}

fn controllers(object: &Value) -> Vec<&str> {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let controlling = owners.into_iter().flatten().filter(|owner| owner["controller"] == true);
    controlling.filter_map(|owner| owner["uid"].as_str()).collect()
}

impl Checker {
    /// Takes note of a write that is durable.
    pub fn written(&mut self, key: &Key, revision: u64, old: Option<&Value>, new: Option<&Value>) {
        let name = format!("{}/{} at {revision}", key.resource, key.name);
        if revision != self.now.1 + 1 {
            self.broken.push(format!("{name}: a revision after {}", self.now.1));
        }
        let place = (key.resource.to_string(), key.name.to_string());
        match new {
            Some(_) => drop(self.now.0.insert(place, revision)),
            None => drop(self.now.0.remove(&place)),
        }
        self.now.1 = revision;
        if let Some(new) = new {
            self.counts(&name, key, new);
        }
        let (Some(old), Some(new)) = (old, new) else { return };
        let holder = |object: &Value| object["spec"]["claimRef"]["uid"].as_str().map(str::to_owned);
        if let (Some(before), Some(now)) = (holder(old), holder(new))
            && before != now
        {
            self.broken.push(format!("{name}: a volume of {before} is given to {now}"));
        }
        let (had, has) = (controllers(old), controllers(new));
        if has.len() > 1 || (!had.is_empty() && !has.is_empty() && had != has) {
            self.broken.push(format!("{name}: adopted by {has:?}, though {had:?} has it"));
        }
        let node = |object: &Value| object["spec"]["nodeName"].as_str().map(str::to_owned);
        if node(old).is_some() && node(old) != node(new) {
            self.broken.push(format!("{name}: bound to {:?}, though on {:?}", node(new), node(old)));
        }
    }

    /// No more than was asked for.
    fn counts(&mut self, name: &str, key: &Key, new: &Value) {
        if let Some(done) = new["status"]["succeeded"].as_u64().filter(|done| *done > scene::COMPLETIONS) {
            self.broken.push(format!("{name}: {done} completions"));
        }
        let ordinal = key.name.strip_prefix("db-").and_then(|number| number.parse::<u64>().ok());
        if &*key.resource == "pods" && ordinal.is_some_and(|ordinal| ordinal >= scene::ORDINALS) {
            self.broken.push(format!("{name}: nobody asked for so many"));
        }
    }

    /// The state that everyone was told of.
    pub fn state(&self) -> (State, u64) {
        self.now.clone()
    }

    /// After a crash there is `told`, or what the write that was under way made of it.
    pub fn crashed(&mut self, told: (State, u64)) {
        self.possible = vec![told, self.now.clone()];
    }

    /// Compares what was opened.
    pub fn opened(&mut self, revision: u64, found: &State) {
        match self.possible.iter().find(|(state, at)| *at == revision && state == found) {
            Some(state) => self.now = state.clone(),
            None => self.broken.push(format!(
                "after a crash the store is at {revision} with {} objects; acknowledged was {} with {}",
                found.len(),
                self.possible.first().map_or(0, |(_, at)| *at),
                self.possible.first().map_or(0, |(state, _)| state.len()),
            )),
        }
    }
}
