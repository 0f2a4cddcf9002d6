//! Roles and bindings are held to the rights of those who write them, unless these may `escalate` or `bind`.

use policy::escalation::refusal;
use policy::rbac::Rule;
use serde_json::Value;

use super::{AdmissionContext, Admitted, Operation, Plugin};
use crate::authenticate::MASTERS;
use crate::authorize::Attributes;
use crate::object::{self, at};
use crate::status::Status;

const GROUP: &str = "rbac.authorization.k8s.io";

/// The check.
pub struct Escalation;

impl Plugin for Escalation {
    fn name(&self) -> &'static str {
        "Escalation"
    }

    fn validate<'a>(&'a self, object: &'a Value, context: &'a mut AdmissionContext<'_>) -> Admitted<'a> {
        let verdict = check(object, context);
        Box::pin(async { verdict })
    }
}

fn check(object: &Value, context: &AdmissionContext<'_>) -> Result<(), Status> {
    let def = &context.resource.def;
    let writes = matches!(context.operation, Operation::Create | Operation::Update);
    if def.group != GROUP || !writes || context.identity.is_in(MASTERS) {
        return Ok(());
    }
    match def.kind.as_ref() {
        "Role" | "ClusterRole" => role(object, context),
        "RoleBinding" | "ClusterRoleBinding" => binding(object, context),
        _ => Ok(()),
    }
}

fn may(context: &AdmissionContext<'_>, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
    let asked = Attributes {
        verb: verb.into(),
        is_resource: true,
        group: GROUP.into(),
        version: "v1".into(),
        resource: resource.into(),
        namespace: namespace.into(),
        name: name.into(),
        ..Attributes::default()
    };
    context.server.authorize(context.identity, &asked).allowed
}

fn same(context: &AdmissionContext<'_>, object: &Value, fields: &[&str]) -> bool {
    context.old.is_some_and(|old| fields.iter().all(|field| old.get(field) == object.get(field)))
}

fn confirm(context: &AdmissionContext<'_>, given: &[Rule]) -> Result<(), Status> {
    let own = context.server.rbac.rules_of(context.identity, context.namespace);
    let def = &context.resource.def;
    match refusal(&context.identity.name, &context.identity.groups, &own, given) {
        Some(cause) => Err(Status::forbidden(&def.group, &def.plural, context.name, &cause)),
        None => Ok(()),
    }
}

fn role(object: &Value, context: &AdmissionContext<'_>) -> Result<(), Status> {
    let def = &context.resource.def;
    if same(context, object, &["rules", "aggregationRule"])
        || may(context, "escalate", &def.plural, context.namespace, object::name(object))
    {
        return Ok(());
    }
    if object.get("aggregationRule").is_some_and(|rule| !rule.is_null()) {
        let all = || vec!["*".to_string()];
        let everything = [
            Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() },
            Rule { verbs: all(), paths: all(), ..Rule::default() },
        ];
        if confirm(context, &everything).is_err() {
            let cause = "must have cluster-admin privileges to use the aggregationRule";
            return Err(Status::forbidden(&def.group, &def.plural, context.name, cause));
        }
    }
    confirm(context, &Rule::of_role(object))
}

fn binding(object: &Value, context: &AdmissionContext<'_>) -> Result<(), Status> {
    if same(context, object, &["roleRef", "subjects"]) {
        return Ok(());
    }
    let text = |path: &str| at(object, path).and_then(Value::as_str).unwrap_or("");
    let (kind, name) = (text("roleRef.kind"), text("roleRef.name"));
    let (plural, namespace) = match kind {
        "Role" => ("roles", context.namespace),
        _ => ("clusterroles", ""),
    };
    if may(context, "bind", plural, context.namespace, name) {
        return Ok(());
    }
    let catalog = context.server.catalog();
    let found = catalog.stored(GROUP, plural).and_then(|r| context.server.store.get(&r.key(namespace, name)));
    let Some(found) = found else { return Err(Status::not_found(GROUP, plural, name)) };
    let role: Value = serde_json::from_slice(&found.json).unwrap_or_default();
    confirm(context, &Rule::of_role(&role))
}
