//! Who may approve and sign certificate requests (CertificateApproval, CertificateSigning), and which subject no
//! one may ask for (CertificateSubjectRestriction, NodeRestriction).

use base64::Engine;
use serde_json::Value;

use super::{AdmissionContext, Admitted, Operation, Plugin};
use crate::authenticate::{Identity, MASTERS};
use crate::authorize::Attributes;
use crate::object::at;
use crate::status::Status;

const GROUP: &str = "certificates.k8s.io";
const OF_NODES: [&str; 2] = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

/// The checks.
pub struct Signers;

impl Plugin for Signers {
    fn name(&self) -> &'static str {
        "Signers"
    }

    fn validate<'a>(&'a self, object: &'a Value, context: &'a mut AdmissionContext<'_>) -> Admitted<'a> {
        let verdict = check(object, context);
        Box::pin(async { verdict })
    }
}

fn check(object: &Value, context: &AdmissionContext<'_>) -> Result<(), Status> {
    let def = &context.resource.def;
    if def.group != GROUP || def.plural != "certificatesigningrequests" {
        return Ok(());
    }
    let signer = at(object, "spec.signerName").and_then(Value::as_str).unwrap_or("");
    let refused = |cause: &str| Status::forbidden(&def.group, &def.plural, context.name, cause);
    let verb = match (context.operation, context.subresource) {
        (Operation::Create, "") => {
            let checked = subject(object, signer).and_then(|()| own_name(object, signer, context.identity));
            return checked.map_err(|cause| refused(&cause));
        }
        (Operation::Update, "approval") => "approve",
        (Operation::Update, "status") if decides(object, context.old) => "sign",
        _ => return Ok(()),
    };
    match may(context, verb, signer) {
        true => Ok(()),
        false => Err(refused(&format!("user not permitted to {verb} requests with signerName {signer:?}"))),
    }
}

/// Whether a change of the status issues a certificate or a verdict.
fn decides(object: &Value, old: Option<&Value>) -> bool {
    let part = |of: &Value, path: &str| {
        let found = at(of, path).cloned().unwrap_or_default();
        if found.as_array().is_some_and(Vec::is_empty) { Value::Null } else { found }
    };
    let old = old.unwrap_or(&Value::Null);
    ["status.certificate", "status.conditions"].iter().any(|path| part(old, path) != part(object, path))
}

fn may(context: &AdmissionContext<'_>, verb: &str, signer: &str) -> bool {
    let allowed = |name: String| {
        let asked = Attributes {
            verb: verb.into(),
            is_resource: true,
            group: GROUP.into(),
            version: "*".into(),
            resource: "signers".into(),
            name,
            ..Attributes::default()
        };
        context.server.authorize(context.identity, &asked).allowed
    };
    allowed(signer.to_owned())
        || signer.split_once('/').is_some_and(|(domain, _)| allowed(format!("{domain}/*")))
}

fn parsed(object: &Value) -> Result<base::certificate::Request, String> {
    let request = at(object, "spec.request").and_then(Value::as_str).unwrap_or("");
    let pem = base64::engine::general_purpose::STANDARD.decode(request).map_err(|cause| cause.to_string())?;
    serve::pki::read_request(&pem).map_err(|cause| cause.to_string())
}

/// Nobody asks to be a master.
fn subject(object: &Value, signer: &str) -> Result<(), String> {
    if signer != CLIENT {
        return Ok(());
    }
    let asked = parsed(object).map_err(|cause| format!("failed to parse CSR: {cause}"))?;
    match asked.organizations.iter().any(|group| group == MASTERS) {
        true => Err(format!("use of {CLIENT} signer with {MASTERS} group is not allowed")),
        false => Ok(()),
    }
}

/// A node asks for certificates in its own name alone (a part of NodeRestriction).
fn own_name(object: &Value, signer: &str, identity: &Identity) -> Result<(), String> {
    let Some(node) = policy::node::name_of(&identity.name, &identity.groups) else { return Ok(()) };
    if !OF_NODES.contains(&signer) {
        return Ok(());
    }
    let asked = parsed(object).map_err(|cause| format!("unable to parse csr: {cause}"))?;
    match asked.name == identity.name {
        true => Ok(()),
        false => Err(format!("can only create a node CSR with CN=system:node:{node}")),
    }
}
