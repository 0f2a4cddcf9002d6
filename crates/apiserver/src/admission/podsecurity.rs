//! PodSecurity: pods, templates and namespaces are judged by the labels of their namespace.

use policy::podsecurity::{self as security, Answer, NamespaceAnswer, Pod, Policy};
use serde_json::Value;
use store::Range;

use super::{AdmissionContext, Admitted, Operation, Plugin};
use crate::status::{Cause, Status};

/// The checks.
pub struct PodSecurity;

impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn validate<'a>(&'a self, object: &'a Value, context: &'a mut AdmissionContext<'_>) -> Admitted<'a> {
        let verdict = check(object, context);
        Box::pin(async { verdict })
    }
}

fn check(object: &Value, context: &mut AdmissionContext<'_>) -> Result<(), Status> {
    let def = &context.resource.def;
    if !matches!(context.operation, Operation::Create | Operation::Update) || !object.is_object() {
        return Ok(());
    }
    let settings = &context.server.settings.pod_security;
    let is_namespace = def.group.is_empty() && def.plural == "namespaces";
    let named = |list: &[String], name: &str| list.iter().any(|one| one == name);
    if !is_namespace
        && (named(&settings.usernames, &context.identity.name)
            || named(&settings.namespaces, context.namespace))
    {
        return Ok(());
    }
    match (&*def.group, &*def.plural, context.subresource) {
        ("", "namespaces", "") => namespace(object, context),
        ("", "pods", subresource) if security::is_looked_at(subresource) => pod(object, context),
        (group, plural, "") => match security::template(group, plural, object) {
            Some(template) => settle(workload(template, context), context),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// The standards of the request's namespace, if they ask for anything.
fn standards(context: &AdmissionContext<'_>) -> Option<(Policy, Vec<security::BadLabel>)> {
    let catalog = context.server.catalog();
    let namespaces = catalog.stored("", "namespaces")?;
    let namespace = context.server.store.get(&namespaces.key("", context.namespace))?;
    let labels = &namespace.index.labels;
    let label = |key: &str| labels.iter().find(|(own, _)| &**own == key).map(|(_, value)| &**value);
    let (policy, bad) = Policy::of(&context.server.settings.pod_security.defaults, label);
    (!policy.is_open() || !bad.is_empty()).then_some((policy, bad))
}

fn pod(object: &Value, context: &mut AdmissionContext<'_>) -> Result<(), Status> {
    let Some((policy, bad)) = standards(context) else { return Ok(()) };
    if context.operation == Operation::Update
        && context.old.is_some_and(|old| !security::is_significant(old, object))
    {
        return Ok(());
    }
    if is_exempt(Pod::of(object), context) {
        return Ok(());
    }
    settle(security::review_pod(&policy, &bad, Pod::of(object)), context)
}

/// Whether the pod's runtime class keeps it apart from what the standards protect.
fn is_exempt(pod: Pod<'_>, context: &AdmissionContext<'_>) -> bool {
    let class = pod.spec["runtimeClassName"].as_str().unwrap_or("");
    !class.is_empty() && context.server.settings.pod_security.runtime_classes.iter().any(|one| one == class)
}

fn workload(template: Pod<'_>, context: &AdmissionContext<'_>) -> Answer {
    if is_exempt(template, context) {
        return Answer::default();
    }
    let found = standards(context);
    found.map_or_else(Answer::default, |(policy, bad)| security::controller(&policy, &bad, template))
}

fn settle(answer: Answer, context: &mut AdmissionContext<'_>) -> Result<(), Status> {
    warn(answer.warnings, context);
    let def = &context.resource.def;
    match answer.refused {
        Some(why) => Err(Status::forbidden(&def.group, &def.plural, context.name, &why)),
        None => Ok(()),
    }
}

/// A change is judged anew when another came first, but warned of once.
fn warn(warnings: Vec<String>, context: &mut AdmissionContext<'_>) {
    for warning in warnings {
        if !context.warnings.contains(&warning) {
            context.warnings.push(warning);
        }
    }
}

fn namespace(object: &Value, context: &mut AdmissionContext<'_>) -> Result<(), Status> {
    let old = context.old.filter(|_| context.operation == Operation::Update);
    match security::namespace(&context.server.settings.pod_security.defaults, old, object) {
        NamespaceAnswer::Fine => Ok(()),
        NamespaceAnswer::Invalid(bad) => {
            let causes = bad.iter().map(|bad| Cause::field("FieldValueInvalid", bad.field(), bad.message()));
            Err(Status::invalid("", "Namespace", context.name, causes.collect()))
        }
        NamespaceAnswer::Check(_)
            if context.server.settings.pod_security.namespaces.iter().any(|one| one == context.name) =>
        {
            Ok(())
        }
        NamespaceAnswer::Check(enforce) => {
            let pods = pods(context);
            warn(security::existing(context.name, enforce, &pods), context);
            Ok(())
        }
    }
}

fn pods(context: &AdmissionContext<'_>) -> Vec<Value> {
    let catalog = context.server.catalog();
    let Some(resource) = catalog.stored("", "pods") else { return Vec::new() };
    let snapshot = context.server.store.snapshot(&resource.table);
    let range = Range { namespace: Some(context.name.into()), after: None };
    snapshot.iter(&range).filter_map(|pod| serde_json::from_slice(&pod.json).ok()).collect()
}
