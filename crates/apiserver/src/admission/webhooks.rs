//! Admission by webhooks: what MutatingWebhookConfigurations and ValidatingWebhookConfigurations ask for.
//!
//! Mutating webhooks are called one after the other in the order of their configurations' names; those that want it
//! are called once more when another changed the object after them. Validating webhooks are called at once.

use std::borrow::Cow;
use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::Value;
use store::Range;

use super::rules::{self, Place};
use super::{AdmissionContext, Admitted, Plugin, review};
use crate::codec::{self, FieldValidation};
use crate::conversion;
use crate::convert;
use crate::policies;
use crate::resource::Resource;
use crate::server::ApiServer;
use crate::status::Status;

/// The kind of webhooks that may change objects.
const MUTATING: &str = "mutatingwebhookconfigurations";
/// The kind of webhooks that may only refuse.
const VALIDATING: &str = "validatingwebhookconfigurations";

/// The plugin.
pub struct Webhooks;

/// A webhook that wants to see the request, and the version it wants to see it in.
struct Called {
    hook: Value,
    name: String,
    resource: Arc<Resource>,
}

/// Objects that configure admission itself are never shown to webhooks, so that no webhook can lock the door.
fn is_exempt(context: &AdmissionContext<'_>) -> bool {
    let def = &context.resource.def;
    def.group == "admissionregistration.k8s.io"
        && (def.plural.ends_with("webhookconfigurations")
            || def.plural.ends_with("admissionpolicies")
            || def.plural.ends_with("admissionpolicybindings"))
}

/// The webhooks of all configurations of a kind, in order.
fn configured(context: &AdmissionContext<'_>, plural: &str) -> Vec<Value> {
    let catalog = context.server.catalog();
    let Some(resource) = catalog.stored("admissionregistration.k8s.io", plural) else { return Vec::new() };
    let snapshot = context.server.store.snapshot(&resource.table);
    if snapshot.is_empty() || is_exempt(context) {
        return Vec::new();
    }
    let configurations = snapshot.iter(&Range::default());
    let values = configurations.filter_map(|object| serde_json::from_slice::<Value>(&object.json).ok());
    values.flat_map(|value| value["webhooks"].as_array().cloned().unwrap_or_default()).collect()
}

/// Whether a webhook wants to see the request, and as which version of the kind.
fn called(hook: Value, object: &Value, context: &AdmissionContext<'_>) -> Option<Called> {
    let def = &context.resource.def;
    let rules = hook["rules"].as_array().cloned().unwrap_or_default();
    let namespaced = def.namespaced() && !context.namespace.is_empty();
    let wants = |version: &str| {
        let place =
            Place { group: &def.group, version, plural: &def.plural, subresource: context.subresource };
        rules.iter().any(|rule| rules::covers(rule, place, context.operation, namespaced))
    };
    let catalog = context.server.catalog();
    let version = match wants(&def.version) {
        true => def.version.to_string(),
        false if hook["matchPolicy"] == "Exact" => return None,
        false => {
            let mut others = catalog.registry.versions(&def.group, &def.plural);
            others.find(|other| wants(&other.version))?.version.to_string()
        }
    };
    let resource = catalog.get(&def.group, &version, &def.plural)?.clone();
    let selected = rules::in_namespace(&hook["namespaceSelector"], object, context)
        && rules::of_object(&hook["objectSelector"], object, context.old);
    let name = hook["name"].as_str().unwrap_or("").to_string();
    selected.then_some(Called { hook, name, resource })
}

/// The object as another version of its kind.
pub async fn as_version<'a>(
    server: &ApiServer,
    value: &'a Value,
    from: &Resource,
    to: &Resource,
) -> Result<Cow<'a, Value>, Status> {
    if from.def.version == to.def.version || !value.is_object() {
        return Ok(Cow::Borrowed(value));
    }
    let mut value = value.clone();
    if conversion::is_hooked(from) {
        return conversion::value(server, from, &to.def.api_version(), value).await.map(Cow::Owned);
    }
    if let Some(stored) = &from.stored {
        convert::to_stored(&from.def, stored, &mut value);
    }
    match &to.stored {
        Some(stored) => convert::from_stored(&to.def, stored, &mut value),
        None => value["apiVersion"] = to.def.api_version().into(),
    }
    Ok(Cow::Owned(value))
}

fn internal(name: &str, cause: &str) -> Status {
    Status::internal(format!("failed calling webhook {name:?}: {cause}"))
}

/// What a webhook's refusal is to the client.
fn refusal(name: &str, status: &Value) -> Status {
    let denied = format!("admission webhook {name:?} denied the request");
    let text = |field: &str| status[field].as_str().unwrap_or("").to_string();
    let message = match (text("message").as_str(), text("reason").as_str()) {
        ("", "") => format!("{denied} without explanation"),
        ("", why) | (why, _) => format!("{denied}: {why}"),
    };
    let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok());
    let mut refused = Status::new(code.filter(|code| (400..600).contains(code)).unwrap_or(400), "", message);
    refused.reason = Cow::Owned(text("reason"));
    refused
}

impl Called {
    /// Asks the webhook; nothing when it could not be asked and that does not matter to it.
    async fn ask(
        &self,
        object: &Value,
        context: &AdmissionContext<'_>,
        mutating: bool,
    ) -> Result<Option<review::Answer>, Status> {
        let name = &self.name;
        let (from, to) = (context.resource, &*self.resource);
        let shown = as_version(context.server, object, from, to).await?;
        let old = match context.old {
            Some(old) => Some(as_version(context.server, old, from, to).await?),
            None => None,
        };
        if !self.conditions_hold(&shown, old.as_deref(), context)? {
            return Ok(None);
        }
        let harmless = matches!(self.hook["sideEffects"].as_str(), Some("None" | "NoneOnDryRun"));
        if context.dry_run && !harmless {
            let message = format!("admission webhook {name:?} does not support dry run");
            return Err(Status::bad_request(message));
        }
        let ignores = self.hook["failurePolicy"] == "Ignore";
        let versions = self.hook["admissionReviewVersions"].as_array().cloned().unwrap_or_default();
        let version = versions.iter().filter_map(Value::as_str).find(|v| matches!(*v, "v1" | "v1beta1"));
        let outcome = match version {
            None => Err("could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)".to_string()),
            Some(version) => {
                let def = &self.resource.def;
                let place = Place {
                    group: &def.group,
                    version: &def.version,
                    plural: &def.plural,
                    subresource: context.subresource,
                };
                let review = review::request(context, (place, &def.kind), &shown, old.as_deref(), version);
                review::ask(context.server, &self.hook, review, mutating).await
            }
        };
        match outcome {
            Ok(answer) if answer.allowed => Ok(Some(answer)),
            Ok(answer) => Err(refusal(name, &answer.status)),
            Err(cause) if ignores => {
                tracing::warn!(webhook = name, cause, "a webhook could not be asked, and its requests go on");
                Ok(None)
            }
            Err(cause) => Err(internal(name, &cause)),
        }
    }

    /// Whether the webhook's conditions let the request come to it.
    fn conditions_hold(
        &self,
        object: &Value,
        old: Option<&Value>,
        context: &AdmissionContext<'_>,
    ) -> Result<bool, Status> {
        let list = &self.hook["matchConditions"];
        if list.as_array().is_none_or(Vec::is_empty) {
            return Ok(true);
        }
        let compiled = context.server.policies.conditions(list);
        match policies::conditions_hold(&compiled, (object, old), &self.resource, context) {
            Ok(holds) => Ok(holds),
            Err(_) if self.hook["failurePolicy"] == "Ignore" => Ok(false),
            Err(cause) => {
                let def = &context.resource.def;
                Err(Status::forbidden(&def.group, &def.plural, context.name, &cause))
            }
        }
    }

    /// The object with the webhook's patch; nothing when it changed nothing.
    async fn patched(
        &self,
        server: &ApiServer,
        object: &Value,
        patch: &[u8],
        own: &Resource,
    ) -> Result<Option<Value>, Status> {
        let name = &self.name;
        let operations: json_patch::Patch = serde_json::from_slice(patch).map_err(|cause| {
            internal(name, &format!("received undecodable patch in webhook response: {cause}"))
        })?;
        if operations.0.is_empty() {
            return Ok(None);
        }
        if !object.is_object() {
            return Err(Status::internal(format!(
                "admission webhook {name:?} attempted to modify the object, which is not supported for this operation"
            )));
        }
        let mut new = as_version(server, object, own, &self.resource).await?.into_owned();
        json_patch::patch(&mut new, &operations).map_err(Status::internal)?;
        let mut new = as_version(server, &new, &self.resource, own).await?.into_owned();
        codec::settle(&own.def, None, &mut new, FieldValidation::Ignore, &mut Vec::new())
            .map_err(Status::internal)?;
        codec::default(&own.def, &mut new);
        Ok((new != *object).then_some(new))
    }
}

async fn mutate(object: &mut Value, context: &mut AdmissionContext<'_>) -> Result<(), Status> {
    let hooks = configured(context, MUTATING);
    let before = (!hooks.is_empty() && policies::reinvokes(context.server)).then(|| object.clone());
    // For each webhook that wants to be called again, the object as it left it.
    let mut again: Vec<(Value, Value)> = Vec::new();
    for hook in hooks {
        let Some(called) = called(hook, object, context) else { continue };
        one(&called, object, context).await?;
        if called.hook["reinvocationPolicy"] == "IfNeeded" {
            again.push((called.hook, object.clone()));
        }
    }
    for (hook, seen) in again {
        if seen != *object
            && let Some(called) = called(hook, object, context)
        {
            one(&called, object, context).await?;
        }
    }
    match before {
        Some(before) if before != *object => policies::reinvoke(object, context).await,
        _ => Ok(()),
    }
}

async fn one(called: &Called, object: &mut Value, context: &mut AdmissionContext<'_>) -> Result<(), Status> {
    let Some(answer) = called.ask(object, context, true).await? else { return Ok(()) };
    context.warnings.extend(answer.warnings);
    let Some(patch) = answer.patch else { return Ok(()) };
    if let Some(new) = called.patched(context.server, object, &patch, context.resource).await? {
        *object = new;
    }
    Ok(())
}

async fn validate(object: &Value, context: &mut AdmissionContext<'_>) -> Result<(), Status> {
    let hooks = configured(context, VALIDATING);
    let wanted: Vec<Called> = hooks.into_iter().filter_map(|hook| called(hook, object, context)).collect();
    let answers = join_all(wanted.iter().map(|called| called.ask(object, context, false))).await;
    for answer in answers {
        if let Some(answer) = answer? {
            context.warnings.extend(answer.warnings);
        }
    }
    Ok(())
}

impl Plugin for Webhooks {
    fn name(&self) -> &'static str {
        "Webhooks"
    }

    fn mutate<'a>(&'a self, object: &'a mut Value, context: &'a mut AdmissionContext<'_>) -> Admitted<'a> {
        Box::pin(mutate(object, context))
    }

    fn validate<'a>(&'a self, object: &'a Value, context: &'a mut AdmissionContext<'_>) -> Admitted<'a> {
        Box::pin(validate(object, context))
    }
}
