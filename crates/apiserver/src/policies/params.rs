//! The parameters of a binding.

use serde_json::Value;
use store::Range;

use super::plan::Policy;
use crate::conversion;
use crate::handlers::selects;
use crate::resource::Resource;
use crate::server::ApiServer;

/// The parameters a policy is to be evaluated with by a binding; one null if it has none. The error is a
/// misconfiguration, with whether it is the policy's own and not the binding's.
pub async fn collect(
    server: &ApiServer,
    policy: &Policy,
    binding: &Value,
    namespace: &str,
) -> Result<Vec<Value>, (bool, String)> {
    let Some((version, kind)) = &policy.param_kind else { return Ok(vec![Value::Null]) };
    let (group, short) = api::kinds::split(version);
    let catalog = server.catalog();
    let def = catalog.registry.by_kind(group, short, kind);
    let resource = def.and_then(|def| catalog.get(group, short, &def.plural)).cloned();
    let Some(resource) = resource else {
        let cause = format!("failed to find resource referenced by paramKind: '{version}, Kind={kind}'");
        return Err((true, cause));
    };
    let reference = &binding["spec"]["paramRef"];
    if !reference.is_object() {
        return Ok(vec![Value::Null]);
    }
    let text = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or("");
    let wrong = |cause: &str| (false, cause.to_string());
    let space = match (resource.def.namespaced(), text("namespace"), namespace) {
        (false, "", _) => "",
        (false, ..) => {
            return Err(wrong("paramRef.namespace must not be provided for a cluster-scoped `paramKind`"));
        }
        (true, "", "") => {
            return Err(wrong(
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources",
            ));
        }
        (true, "", own) => own,
        (true, given, _) => given,
    };
    let selector = reference.get("selector").filter(|selector| selector.is_object());
    let objects = match (text("name"), selector) {
        ("", Some(selector)) => selected(server, &resource, space, selector),
        ("", None) => return Err(wrong("one of name or selector must be provided")),
        (name, _) => server.store.get(&resource.key(space, name)).into_iter().collect(),
    };
    let objects = conversion::objects(server, &resource, objects).await;
    let objects = objects.map_err(|status| (false, status.message))?;
    let found: Vec<Value> =
        objects.iter().filter_map(|object| serde_json::from_slice(&resource.present(object)).ok()).collect();
    if found.is_empty() && text("parameterNotFoundAction") == "Deny" {
        let cause = "no params found for policy binding with `Deny` parameterNotFoundAction";
        return Err(wrong(cause));
    }
    Ok(found)
}

fn selected(
    server: &ApiServer,
    resource: &Resource,
    space: &str,
    selector: &Value,
) -> Vec<std::sync::Arc<store::Object>> {
    let namespace = resource.def.namespaced().then(|| space.into());
    let snapshot = server.store.snapshot(&resource.table);
    let objects = snapshot.iter(&Range { namespace, after: None });
    let fits = |object: &&std::sync::Arc<store::Object>| {
        let labels = object.index.labels.iter().map(|(key, value)| (key.to_string(), Value::from(&**value)));
        selects(selector, &Value::Object(labels.collect()))
    };
    objects.filter(fits).cloned().collect()
}
