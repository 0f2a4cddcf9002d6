//! What a request is to policies: which of them it meets, as which version, and what expressions see of it.

use std::sync::Arc;

use cel::Question;
use serde_json::Value;

use super::eval::{Hook, Inputs};
use super::plan::Conditions;
use crate::admission::{AdmissionContext, Operation, Place, covers, in_namespace, of_object, request_facts};
use crate::resource::Resource;

/// What expressions see of a request besides its objects.
pub struct Facts {
    /// The variable `request`.
    pub request: Value,
    /// The namespace, or null.
    pub namespace: Arc<Value>,
    /// The question about the request's own resource.
    pub question: Question,
}

impl Facts {
    /// The facts of a request, as `seen`.
    pub fn of(context: &AdmissionContext<'_>, seen: &Resource, object: &Value) -> Self {
        let def = &seen.def;
        let place = Place {
            group: &def.group,
            version: &def.version,
            plural: &def.plural,
            subresource: context.subresource,
        };
        let mut request = request_facts(context, (place, &def.kind), object);
        if request.get("name").is_none() {
            request["name"] = crate::object::name(object).into();
        }
        let own = &context.resource.def;
        let question = Question {
            group: own.group.to_string(),
            resource: own.plural.to_string(),
            subresource: context.subresource.to_string(),
            namespace: context.namespace.to_string(),
            name: context.name.to_string(),
            ..Question::default()
        };
        Self { request, namespace: namespace(context), question }
    }

    /// What expressions see.
    pub fn inputs<'a>(
        &'a self,
        hook: &'a Hook<'a>,
        object: &'a Value,
        old: &'a Value,
        params: &'a Value,
    ) -> Inputs<'a> {
        Inputs {
            object,
            old,
            params,
            request: &self.request,
            namespace: &self.namespace,
            hook,
            question: &self.question,
        }
    }
}

/// Null for `oldObject` and `params` that are not there.
pub static NULL: Value = Value::Null;

/// Whether all conditions of a webhook hold for a request, as `seen`.
pub fn conditions_hold(
    compiled: &Conditions,
    (object, old): (&Value, Option<&Value>),
    seen: &Resource,
    context: &AdmissionContext<'_>,
) -> Result<bool, String> {
    let facts = Facts::of(context, seen, object);
    let hook = Hook { server: context.server, identity: context.identity };
    // Conditions of webhooks do not know the namespace.
    let inputs = Inputs { namespace: &NULL, ..facts.inputs(&hook, object, old.unwrap_or(&NULL), &NULL) };
    super::eval::conditions(compiled, &inputs)
}

fn namespace(context: &AdmissionContext<'_>) -> Arc<Value> {
    let def = &context.resource.def;
    let itself = def.group.is_empty() && def.plural == "namespaces";
    let found = || {
        let catalog = context.server.catalog();
        let key = catalog.stored("", "namespaces")?.key("", context.namespace);
        context.server.trees.of(&*context.server.store.get(&key)?)
    };
    let none = itself || context.namespace.is_empty();
    if none { Arc::default() } else { found().unwrap_or_default() }
}

fn named(rule: &Value, name: &str) -> bool {
    let names = rule.get("resourceNames").and_then(Value::as_array);
    names.is_none_or(|names| names.is_empty() || names.iter().any(|own| own == name))
}

/// As which version of its kind a request meets these constraints; nothing if it does not.
pub fn meets(constraints: &Value, object: &Value, context: &AdmissionContext<'_>) -> Option<Arc<Resource>> {
    let def = &context.resource.def;
    let namespaced = def.namespaced() && !context.namespace.is_empty();
    let name = match context.name {
        "" => crate::object::name(object),
        name => name,
    };
    let list = |field: &str| constraints.get(field).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let by = |rules: &[Value], version: &str| {
        let place =
            Place { group: &def.group, version, plural: &def.plural, subresource: context.subresource };
        rules.iter().any(|rule| covers(rule, place, context.operation, namespaced) && named(rule, name))
    };
    let catalog = context.server.catalog();
    let exact = constraints.get("matchPolicy").is_some_and(|policy| policy == "Exact");
    let version = |rules: &[Value]| match by(rules, &def.version) {
        true => Some(def.version.to_string()),
        false if exact => None,
        false => {
            let mut others = catalog.registry.versions(&def.group, &def.plural);
            others.find(|other| by(rules, &other.version)).map(|other| other.version.to_string())
        }
    };
    if version(list("excludeResourceRules")).is_some() {
        return None;
    }
    let version = match list("resourceRules") {
        [] => def.version.to_string(),
        rules => version(rules)?,
    };
    let selector = |field: &str| constraints.get(field).unwrap_or(&NULL);
    let selected = in_namespace(selector("namespaceSelector"), object, context)
        && of_object(selector("objectSelector"), object, context.old);
    if !selected {
        return None;
    }
    catalog.get(&def.group, &version, &def.plural).cloned()
}

/// Whether policies have a say: not on policies and webhooks themselves, so that none can lock the door.
pub fn is_judged(context: &AdmissionContext<'_>) -> bool {
    let def = &context.resource.def;
    let own = def.group == super::GROUP
        && (def.plural.ends_with("webhookconfigurations")
            || def.plural.ends_with("admissionpolicies")
            || def.plural.ends_with("admissionpolicybindings"));
    let binds = def.group.is_empty() && context.subresource == "binding";
    let asks = matches!(def.group.as_ref(), "authentication.k8s.io" | "authorization.k8s.io");
    !own && !binds && !asks && (context.operation != Operation::Connect || !context.subresource.is_empty())
}
