//! Admission by expressions: match conditions of webhooks, ValidatingAdmissionPolicies, MutatingAdmissionPolicies.
//!
//! Policies are compiled when a request first meets them, and again when they change. Without any policy a request
//! costs two looks at empty tables.

mod check;
mod env;
mod eval;
mod mutating;
mod params;
mod plan;
mod request;
mod typecheck;
mod validating;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use store::{Object, Range};

use crate::admission::{AdmissionContext, Admitted, Plugin};
use crate::server::ApiServer;

pub use check::check;
pub use mutating::reinvoke;
pub use plan::Policy;
pub use request::conditions_hold;
pub use typecheck::follow;

const GROUP: &str = "admissionregistration.k8s.io";
/// Tables of policies and their bindings.
const MUTATING: (&str, &str) = (
    "admissionregistration.k8s.io/mutatingadmissionpolicies",
    "admissionregistration.k8s.io/mutatingadmissionpolicybindings",
);
const VALIDATING: (&str, &str) = (
    "admissionregistration.k8s.io/validatingadmissionpolicies",
    "admissionregistration.k8s.io/validatingadmissionpolicybindings",
);
/// Compiled conditions of webhooks that are kept.
const CONDITIONS_MAX: usize = 1024;

/// What was compiled.
#[derive(Default)]
pub struct Policies {
    /// By kind (whether it is a mutating one) and name.
    compiled: Mutex<HashMap<(bool, String), Compiled>>,
    /// Conditions of webhooks by their text.
    conditions: Mutex<HashMap<String, Arc<plan::Conditions>>>,
}

/// A policy, and the revision it was compiled from.
type Compiled = (u64, Arc<Policy>);

/// A policy with its bindings.
pub struct Active {
    /// The policy.
    pub policy: Arc<Policy>,
    /// Its bindings in the order of their names.
    pub bindings: Vec<Arc<Value>>,
}

impl Policies {
    /// The conditions of a webhook, compiled.
    pub fn conditions(&self, list: &Value) -> Arc<plan::Conditions> {
        let text = list.to_string();
        if let Some(known) = self.conditions.lock().get(&text) {
            return known.clone();
        }
        let extras = env::Extras { authorizer: true, ..env::Extras::default() };
        let made = Arc::new(plan::conditions(&env::env(extras, None, None), list));
        let mut kept = self.conditions.lock();
        if kept.len() >= CONDITIONS_MAX {
            kept.clear();
        }
        kept.entry(text).or_insert(made).clone()
    }

    fn policy(&self, mutating: bool, object: &Object) -> Option<Arc<Policy>> {
        let key = (mutating, object.key.name.to_string());
        if let Some((revision, known)) = self.compiled.lock().get(&key)
            && *revision == object.modified
        {
            return Some(known.clone());
        }
        let value: Value = serde_json::from_slice(&object.json).ok()?;
        let made = Arc::new(Policy::compile(mutating, &value));
        self.compiled.lock().insert(key, (object.modified, made.clone()));
        Some(made)
    }

    /// Forgets policies that are gone.
    fn retain(&self, mutating: bool, names: &[&str]) {
        let mut kept = self.compiled.lock();
        if kept.len() > names.len() * 2 + 16 {
            kept.retain(|(own, name), _| *own != mutating || names.contains(&name.as_str()));
        }
    }
}

/// The policies that have bindings.
pub fn active(server: &ApiServer, mutating: bool) -> Vec<Active> {
    let (policies, bindings) = match mutating {
        true => MUTATING,
        false => VALIDATING,
    };
    let bindings = server.store.snapshot(bindings);
    if bindings.is_empty() {
        return Vec::new();
    }
    let mut by_policy: HashMap<String, Vec<Arc<Value>>> = HashMap::new();
    for binding in bindings.iter(&Range::default()) {
        let Some(tree) = server.trees.of(binding) else { continue };
        let name = tree["spec"]["policyName"].as_str().unwrap_or("").to_string();
        by_policy.entry(name).or_default().push(tree);
    }
    let policies = server.store.snapshot(policies);
    let objects: Vec<&Arc<Object>> = policies.iter(&Range::default()).collect();
    let names: Vec<&str> = objects.iter().map(|object| &*object.key.name).collect();
    server.policies.retain(mutating, &names);
    let found = objects.into_iter().filter_map(|object| {
        let bindings = by_policy.remove(&*object.key.name)?;
        Some(Active { policy: server.policies.policy(mutating, object)?, bindings })
    });
    found.collect()
}

/// Whether there may be policies that want to be asked again when webhooks changed an object.
pub fn reinvokes(server: &ApiServer) -> bool {
    active(server, true).iter().any(|active| active.policy.reinvoked)
}

/// The plugin of both kinds of policies.
pub struct PolicyPlugin;

impl Plugin for PolicyPlugin {
    fn name(&self) -> &'static str {
        "AdmissionPolicies"
    }

    fn mutate<'a>(&'a self, object: &'a mut Value, context: &'a mut AdmissionContext<'_>) -> Admitted<'a> {
        Box::pin(mutating::mutate(object, context))
    }

    fn validate<'a>(&'a self, object: &'a Value, context: &'a mut AdmissionContext<'_>) -> Admitted<'a> {
        Box::pin(validating::validate(object, context))
    }
}
