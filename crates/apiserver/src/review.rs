//! Access reviews: questions that are answered and not stored.

use http::Response;
use serde_json::{Value, json};
use serve::Body;

use crate::answer;
use crate::authenticate::Identity;
use crate::authorize::Attributes;
use crate::codec::{self, FieldValidation};
use crate::negotiate::{self, View};
use crate::object::{at, set_at};
use crate::server::Call;
use crate::status::{Cause, Status};

/// POST of a review.
pub async fn answer(call: &mut Call) -> Result<Response<Body>, Status> {
    let output = call.output()?;
    if output.view != View::Whole {
        return Err(Status::not_acceptable(negotiate::MEDIA_TYPES));
    }
    let validation = FieldValidation::parse(&call.query, "CreateOptions")?;
    let body = call.take_body().await?;
    let media = negotiate::content_type(&call.head.headers).to_string();
    let mut review = codec::decode(&call.resource.def, &media, &body, validation, &mut call.warnings)?;
    let def = call.resource.def.clone();
    match (def.group.as_ref(), def.kind.as_ref()) {
        (
            "authorization.k8s.io",
            "SelfSubjectAccessReview" | "SubjectAccessReview" | "LocalSubjectAccessReview",
        ) => {
            access(call, &mut review)?;
        }
        ("authorization.k8s.io", "SelfSubjectRulesReview") => rules(call, &mut review)?,
        ("authentication.k8s.io", "TokenReview") => {
            crate::authenticate::token::review(&call.server, &mut review);
        }
        ("authentication.k8s.io", "SelfSubjectReview") => {
            set_at(&mut review, "status.userInfo", user_info(&call.identity));
        }
        _ => {
            let message = format!("{} is not answered by this server yet", def.kind);
            return Err(Status::new(501, "NotImplemented", message));
        }
    }
    answer::computed(201, output, &call.resource, &review)
}

/// A user as reviews show it.
pub fn user_info(identity: &Identity) -> Value {
    let mut info = json!({"username": identity.name, "groups": identity.groups});
    if !identity.uid.is_empty() {
        info["uid"] = identity.uid.as_str().into();
    }
    if !identity.extra.is_empty() {
        info["extra"] = json!(identity.extra);
    }
    info
}

/// All that the caller may do in a namespace, as far as roles say so.
fn rules(call: &Call, review: &mut Value) -> Result<(), Status> {
    let namespace = at(review, "spec.namespace").and_then(Value::as_str).unwrap_or("");
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in call.server.rbac.rules_of(&call.identity, namespace) {
        if !rule.paths.is_empty() {
            paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.paths}));
        } else {
            let mut shown =
                json!({"verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources});
            if !rule.names.is_empty() {
                shown["resourceNames"] = json!(rule.names);
            }
            resources.push(shown);
        }
    }
    let status = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false});
    set_at(review, "status", status);
    Ok(())
}

fn access(call: &Call, review: &mut Value) -> Result<(), Status> {
    let own = call.resource.def.kind == "SelfSubjectAccessReview";
    let identity = match own {
        true => (*call.identity).clone(),
        false => {
            let text = |path: &str| at(review, path).and_then(Value::as_str).unwrap_or("").to_string();
            let groups = at(review, "spec.groups").and_then(Value::as_array).into_iter().flatten();
            let groups: Vec<String> = groups.filter_map(Value::as_str).map(str::to_string).collect();
            Identity { name: text("spec.user"), uid: text("spec.uid"), groups, ..Identity::default() }
        }
    };
    let resource = at(review, "spec.resourceAttributes").filter(|value| value.is_object());
    let path = at(review, "spec.nonResourceAttributes").filter(|value| value.is_object());
    let attributes = match (resource, path) {
        (Some(asked), None) => {
            let text = |field: &str| asked.get(field).and_then(Value::as_str).unwrap_or("").to_string();
            Attributes {
                is_resource: true,
                verb: text("verb"),
                group: text("group"),
                version: text("version"),
                resource: text("resource"),
                subresource: text("subresource"),
                namespace: text("namespace"),
                name: text("name"),
                ..Attributes::default()
            }
        }
        (None, Some(asked)) => {
            let text = |field: &str| asked.get(field).and_then(Value::as_str).unwrap_or("").to_string();
            Attributes { verb: text("verb"), path: text("path"), ..Attributes::default() }
        }
        (both, _) => {
            let what = match both {
                Some(_) => "cannot be specified in combination with resourceAttributes",
                None => "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            };
            let cause = Cause::invalid("spec.resourceAttributes", &Value::Null, what);
            return Err(Status::invalid("authorization.k8s.io", &call.resource.def.kind, "", vec![cause]));
        }
    };
    let decision = call.server.authorize(&identity, &attributes);
    let mut status = json!({"allowed": decision.allowed});
    if !decision.reason.is_empty() {
        status["reason"] = decision.reason.into();
    }
    set_at(review, "status", status);
    Ok(())
}
