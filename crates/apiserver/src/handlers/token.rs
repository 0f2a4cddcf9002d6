//! POST to an account's `token`: a TokenRequest is answered with a signed token.

use http::Response;
use serde_json::{Value, json};
use serve::Body;

use crate::admission::{self, AdmissionContext, Operation};
use crate::answer;
use crate::authenticate::token::{Bound, Claims, ISSUER, claims};
use crate::object::{self, at, meta_text, set_at};
use crate::server::Call;
use crate::status::{Cause, Status};

use super::subresource::{body_of, current};

const GROUP: &str = "authentication.k8s.io";
/// Shortest and longest lifetime, and the one without a wish, in seconds.
const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;
const SECONDS_DEFAULT: i64 = 3600;
/// A pod's mounted token asks for this lifetime and gets a year, for clients that never read it again.
const SECONDS_MOUNTED: i64 = 3607;
const SECONDS_EXTENDED: i64 = 365 * 24 * 3600;
const TYPE: &str = "authentication_v1.TokenRequest";

/// Answers the request.
pub async fn create(call: &mut Call) -> Result<Response<Body>, Status> {
    let output = call.output()?;
    let mut request = body_of(call, TYPE, "CreateOptions").await?;
    let name = call.info.name.clone();
    check_names(call, &request, &name)?;
    let account = current(call)?;
    settle(call, &mut request, &account, &name)?;
    let seconds = at(&request, "spec.expirationSeconds").and_then(Value::as_i64).unwrap_or(SECONDS_DEFAULT);
    check_lifetime(seconds)?;
    admit(call, &request, &name).await?;
    let list = at(&request, "spec.audiences").and_then(Value::as_array).into_iter().flatten();
    let audiences: Vec<String> = list.filter_map(Value::as_str).map(str::to_string).collect();
    let now = jiff::Timestamp::now();
    let own = audiences.iter().all(|audience| audience == ISSUER);
    let mut claims = claims(&account, audiences, now.as_second(), seconds);
    bind(call, &request, &name, &mut claims)?;
    if own && claims.kubernetes.pod.is_some() && seconds == SECONDS_MOUNTED {
        claims.kubernetes.warnafter = Some(claims.exp);
        claims.exp = claims.iat + SECONDS_EXTENDED;
    }
    let tokens = call.server.tokens.get().ok_or_else(|| Status::unavailable("tokens are not ready"))?;
    let token = tokens.sign(&claims).map_err(Status::internal)?;
    let until = now.saturating_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(now);
    set_at(&mut request, "metadata.creationTimestamp", object::timestamp(now).into());
    let status = json!({"token": token, "expirationTimestamp": object::timestamp(until)});
    set_at(&mut request, "status", status);
    request["kind"] = "TokenRequest".into();
    request["apiVersion"] = "authentication.k8s.io/v1".into();
    Ok(answer::typed(201, output.format, TYPE, &request))
}

async fn admit(call: &mut Call, request: &Value, name: &str) -> Result<(), Status> {
    let plugins = call.server.plugins.read().clone();
    let Call { server, identity, resource, info, warnings, .. } = &mut *call;
    let mut context = AdmissionContext {
        server,
        identity,
        operation: Operation::Create,
        resource,
        subresource: "token",
        namespace: &info.namespace,
        name,
        old: None,
        dry_run: false,
        warnings,
    };
    admission::validate(&plugins, request, &mut context).await
}

fn check_names(call: &Call, request: &Value, name: &str) -> Result<(), Status> {
    for (field, wanted, what) in
        [("name", name, "name"), ("namespace", call.info.namespace.as_str(), "namespace")]
    {
        let own = meta_text(request, field);
        if !own.is_empty() && own != wanted {
            let detail = format!("must match the service account {what} if specified");
            let cause = Cause::invalid(format!("metadata.{field}"), &own.into(), &detail);
            return Err(Status::invalid(GROUP, "TokenRequest", name, vec![cause]));
        }
    }
    Ok(())
}

/// Fills in what the request leaves to the server.
fn settle(call: &Call, request: &mut Value, account: &Value, name: &str) -> Result<(), Status> {
    let (wanted, uid) = (meta_text(request, "uid"), meta_text(account, "uid"));
    if !wanted.is_empty() && wanted != uid {
        let cause = format!(
            "the UID in the token request ({wanted}) does not match the UID of the service account ({uid})"
        );
        return Err(Status::conflict(GROUP, "TokenRequest", name, &cause));
    }
    let uid = uid.to_string();
    set_at(request, "metadata.name", name.into());
    set_at(request, "metadata.namespace", call.info.namespace.as_str().into());
    set_at(request, "metadata.uid", uid.into());
    if at(request, "spec.audiences").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        set_at(request, "spec.audiences", json!([ISSUER]));
    }
    if at(request, "spec.expirationSeconds").is_none_or(Value::is_null) {
        set_at(request, "spec.expirationSeconds", SECONDS_DEFAULT.into());
    }
    if at(request, "spec.boundObjectRef").is_none() {
        set_at(request, "spec.boundObjectRef", Value::Null);
    }
    Ok(())
}

fn check_lifetime(seconds: i64) -> Result<(), Status> {
    let detail = match seconds {
        ..SECONDS_MIN => "may not specify a duration less than 10 minutes",
        SECONDS_MIN..=SECONDS_MAX => return Ok(()),
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    let cause = Cause::invalid("spec.expirationSeconds", &seconds.into(), detail);
    Err(Status::invalid(GROUP, "TokenRequest", "", vec![cause]))
}

fn find(call: &Call, plural: &str, namespace: &str, name: &str) -> Result<Value, Status> {
    let absent = || Status::not_found("", plural, name);
    let catalog = call.server.catalog();
    let resource = catalog.stored("", plural).ok_or_else(absent)?;
    let found = call.server.store.get(&resource.key(namespace, name)).ok_or_else(absent)?;
    serde_json::from_slice(&found.json).map_err(Status::internal)
}

fn bind(call: &Call, request: &Value, account: &str, claims: &mut Claims) -> Result<(), Status> {
    let Some(reference) = at(request, "spec.boundObjectRef").filter(|value| value.is_object()) else {
        return Ok(());
    };
    let text = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or("");
    let (version, kind, name, uid) = (text("apiVersion"), text("kind"), text("name"), text("uid"));
    let namespace = call.info.namespace.as_str();
    let bound = match kind {
        _ if version.contains('/') => None,
        "Pod" => Some(("pods", namespace)),
        "Node" => Some(("nodes", "")),
        "Secret" => Some(("secrets", namespace)),
        _ => None,
    };
    let Some((plural, namespace)) = bound else {
        return Err(Status::bad_request(format!(
            "cannot bind token to object of type {version}, Kind={kind}"
        )));
    };
    let found = find(call, plural, namespace, name)?;
    let private = &mut claims.kubernetes;
    match plural {
        "pods" => {
            if at(&found, "spec.serviceAccountName").and_then(Value::as_str) != Some(account) {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                )));
            }
            private.pod = Some(Bound::of(&found));
            let node = at(&found, "spec.nodeName").and_then(Value::as_str).unwrap_or("");
            private.node = (!node.is_empty()).then(|| match find(call, "nodes", "", node) {
                Ok(node) => Bound::of(&node),
                Err(_) => Bound { name: node.into(), uid: String::new() },
            });
        }
        "nodes" => private.node = Some(Bound::of(&found)),
        _ => private.secret = Some(Bound::of(&found)),
    }
    if !uid.is_empty() && uid != meta_text(&found, "uid") {
        let cause = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict("", kind, name, &cause));
    }
    Ok(())
}
