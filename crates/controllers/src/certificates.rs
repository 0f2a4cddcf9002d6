//! Certificate requests: which are approved unasked, what the cluster's signers make of approved ones, and when
//! they are cleared away. Follows upstream's `pkg/controller/certificates`.

use std::collections::BTreeSet;

use base::certificate::Request;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{Action, Plan, Wake};

/// Signs what clients show to the API server.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Signs what kubelets show to the API server.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signs what kubelets serve with.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Signs anything; kept for old clients.
pub const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// The longest life of a certificate, and its life if none is asked for.
const LIFE_MAX: SignedDuration = SignedDuration::from_hours(365 * 24);
const LIFE_MIN: SignedDuration = SignedDuration::from_mins(10);
/// How long requests are kept after they were decided.
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
/// How long requests are kept on which nobody acts.
const PENDING: SignedDuration = SignedDuration::from_hours(24);
const NODES: &str = "system:nodes";
const NODE: &str = "system:node:";

/// A right that lets its holder's request be approved unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recognized {
    /// The subresource of certificatesigningrequests that the requester must be allowed to create.
    pub subresource: &'static str,
    /// What the condition says.
    pub message: &'static str,
}

/// What the cluster's signers make of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is not theirs, or not yet, or no longer.
    Leave(&'static str),
    /// It is refused for good, and why.
    Refuse(String),
    /// It is signed with the usages it names, for this long.
    Sign(SignedDuration),
}

fn conditions(csr: &CertificateSigningRequest) -> impl Iterator<Item = &CertificateSigningRequestCondition> {
    csr.status.iter().flat_map(|s| s.conditions.iter().flatten())
}

fn has(csr: &CertificateSigningRequest, kind: &str) -> bool {
    conditions(csr).any(|c| c.type_ == kind)
}

fn is_issued(csr: &CertificateSigningRequest) -> bool {
    csr.status.as_ref().and_then(|s| s.certificate.as_ref()).is_some_and(|c| !c.0.is_empty())
}

fn usages(csr: &CertificateSigningRequest) -> BTreeSet<&str> {
    csr.spec.usages.iter().flatten().map(String::as_str).collect()
}

/// Whether a request waits for a decision of a signer for which there is approval unasked.
#[must_use]
pub fn is_undecided(csr: &CertificateSigningRequest) -> bool {
    let ours = [KUBELET_CLIENT, KUBELET_SERVING].contains(&csr.spec.signer_name.as_str());
    ours && !is_issued(csr) && !has(csr, "Approved") && !has(csr, "Denied")
}

/// The rights, one of which suffices for approval, in the order they are asked for.
#[must_use]
pub fn recognize(csr: &CertificateSigningRequest, request: &Request) -> Vec<Recognized> {
    if csr.spec.signer_name != KUBELET_CLIENT || check_kubelet_client(request, &usages(csr)).is_err() {
        return Vec::new();
    }
    let own = Recognized {
        subresource: "selfnodeclient",
        message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
    };
    let any = Recognized {
        subresource: "nodeclient",
        message: "Auto approving kubelet client certificate after SubjectAccessReview.",
    };
    match csr.spec.username.as_deref() == Some(&request.name) {
        true => vec![own, any],
        false => vec![any],
    }
}

/// The node that asks for a serving certificate in its own name, if that is what the request is.
#[must_use]
pub fn serving_node<'a>(csr: &CertificateSigningRequest, request: &'a Request) -> Option<&'a str> {
    let own = csr.spec.signer_name == KUBELET_SERVING
        && csr.spec.username.as_deref() == Some(&request.name)
        && csr.spec.groups.as_ref().is_some_and(|groups| groups.iter().any(|g| g == NODES))
        && check_kubelet_serving(request, &usages(csr)).is_ok();
    request.name.strip_prefix(NODE).filter(|_| own)
}

/// Approves a node's serving certificate if it names nothing but the node's own addresses; upstream leaves that to
/// people. `None` when it names more.
#[must_use]
pub fn approve_serving(
    csr: &CertificateSigningRequest,
    request: &Request,
    node: &Node,
    now: Timestamp,
) -> Option<Plan> {
    let addresses = node.status.iter().flat_map(|s| s.addresses.iter().flatten());
    let own: BTreeSet<&str> =
        addresses.map(|a| a.address.as_str()).chain(node.metadata.name.as_deref()).collect();
    let message = "Auto approving kubelet serving certificate for the node's own addresses.";
    let right = Recognized { subresource: "", message };
    request.names.iter().all(|n| own.contains(n.as_str())).then(|| approve(csr, right, now))
}

fn with_condition(
    csr: &CertificateSigningRequest,
    kind: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> CertificateSigningRequest {
    let mut new = csr.clone();
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let status = new.status.get_or_insert_with(CertificateSigningRequestStatus::default);
    status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
        last_transition_time: Some(now.clone()),
        last_update_time: Some(now),
        message: Some(message.to_owned()),
        reason: Some(reason.to_owned()),
        status: "True".to_owned(),
        type_: kind.to_owned(),
    });
    new
}

/// Approves a request whose maker has this right.
#[must_use]
pub fn approve(csr: &CertificateSigningRequest, right: Recognized, now: Timestamp) -> Plan {
    let new = with_condition(csr, "Approved", "AutoApproved", right.message, now);
    let action = Action::patch_at(crate::Target::of(csr), "approval", csr, &new);
    Plan { actions: action.into_iter().collect(), ..Plan::default() }
}

/// What becomes of a request; `request` is what it holds, or why that cannot be read.
pub fn judge(csr: &CertificateSigningRequest, request: Result<&Request, &str>) -> Verdict {
    let signer = csr.spec.signer_name.as_str();
    if !matches!(signer, CLIENT | KUBELET_CLIENT | KUBELET_SERVING | LEGACY) {
        return Verdict::Leave("another signer's");
    }
    if is_issued(csr) {
        return Verdict::Leave("it is issued");
    }
    if !has(csr, "Approved") || has(csr, "Denied") {
        return Verdict::Leave("it is not approved");
    }
    if conditions(csr).any(|c| c.type_ == "Failed" && c.status == "True") {
        return Verdict::Leave("it has failed");
    }
    let usages = usages(csr);
    let checked = request.map_err(str::to_owned).and_then(|request| match signer {
        CLIENT => check_client(csr.spec.usages.as_deref().unwrap_or_default()),
        KUBELET_CLIENT => check_kubelet_client(request, &usages),
        KUBELET_SERVING => check_kubelet_serving(request, &usages),
        _ => Ok(()),
    });
    match checked {
        Err(why) => Verdict::Refuse(why),
        Ok(()) => {
            let asked = csr.spec.expiration_seconds.map(|s| SignedDuration::from_secs(s.into()));
            Verdict::Sign(asked.map_or(LIFE_MAX, |life| life.clamp(LIFE_MIN, LIFE_MAX)))
        }
    }
}

/// Hands a certificate (PEM) over.
#[must_use]
pub fn issue(csr: &CertificateSigningRequest, certificate: &str) -> Plan {
    let mut new = csr.clone();
    new.status.get_or_insert_default().certificate = Some(ByteString(certificate.as_bytes().to_vec()));
    Plan { actions: Action::patch_status(csr, &new).into_iter().collect(), ..Plan::default() }
}

/// Says why there will be no certificate.
#[must_use]
pub fn refuse(csr: &CertificateSigningRequest, why: &str, now: Timestamp) -> Plan {
    let new = with_condition(csr, "Failed", "SignerValidationFailure", why, now);
    Plan { actions: Action::patch_status(csr, &new).into_iter().collect(), ..Plan::default() }
}

fn check_client(usages: &[String]) -> Result<(), String> {
    let known = ["digital signature", "key encipherment", "client auth"];
    if let Some(usage) = usages.iter().find(|usage| !known.contains(&usage.as_str())) {
        return Err(format!("invalid usage for client certificate: {usage}"));
    }
    match usages.iter().any(|usage| usage == "client auth") {
        true => Ok(()),
        false => Err("missing required usage for client certificate: client auth".to_owned()),
    }
}

fn check_node(request: &Request, usages: &BTreeSet<&str>, auth: &str) -> Result<(), String> {
    let mut rest = usages.clone();
    rest.remove("key encipherment");
    if rest != BTreeSet::from(["digital signature", auth]) {
        let wanted = BTreeSet::from(["digital signature", "key encipherment", auth]);
        let wanted: Vec<&str> = wanted.into_iter().collect();
        return Err(format!("usages did not match [{}]", wanted.join(" ")));
    }
    match request.name.starts_with(NODE) {
        true => Ok(()),
        false => Err(format!("subject common name does not begin with {NODE}")),
    }
}

fn forbid(names: &[(usize, &str)]) -> Result<(), String> {
    match names.iter().find(|(count, _)| *count > 0) {
        Some((_, kind)) => Err(format!("{kind} subjectAltNames are not allowed")),
        None => Ok(()),
    }
}

fn check_organization(request: &Request) -> Result<(), String> {
    match request.organizations == [NODES] {
        true => Ok(()),
        false => Err(format!("subject organization is not {NODES}")),
    }
}

fn check_kubelet_client(request: &Request, usages: &BTreeSet<&str>) -> Result<(), String> {
    check_organization(request)?;
    let Request { dns, ips, emails, uris, .. } = *request;
    forbid(&[(dns, "DNS"), (emails, "Email"), (ips, "IP"), (uris, "URI")])?;
    check_node(request, usages, "client auth")
}

fn check_kubelet_serving(request: &Request, usages: &BTreeSet<&str>) -> Result<(), String> {
    check_organization(request)?;
    if request.dns + request.ips == 0 {
        return Err("DNS or IP subjectAltName is required".to_owned());
    }
    forbid(&[(request.emails, "Email"), (request.uris, "URI")])?;
    check_node(request, usages, "server auth")
}

/// Deletes a request that has been kept long enough, or says when it will have been. `expires` is when its
/// certificate ends.
#[must_use]
pub fn clean(csr: &CertificateSigningRequest, expires: Option<Timestamp>, now: Timestamp) -> Plan {
    let issued = is_issued(csr);
    let mut ends: Vec<Timestamp> = Vec::new();
    let mut after = |from: Option<&Time>, kept: SignedDuration| {
        ends.extend(from.and_then(|from| from.0.checked_add(kept).ok()));
    };
    for condition in conditions(csr) {
        let since = condition.last_update_time.as_ref();
        match condition.type_.as_str() {
            "Approved" if issued => after(since, DECIDED),
            "Approved" => after(since, PENDING),
            "Denied" | "Failed" => after(since, DECIDED),
            _ => {}
        }
    }
    if conditions(csr).next().is_none() {
        after(csr.metadata.creation_timestamp.as_ref(), PENDING);
    }
    if issued && has(csr, "Approved") {
        ends.extend(expires);
    }
    match ends.into_iter().min() {
        Some(end) if end < now => Plan { actions: vec![Action::delete(csr)], ..Plan::default() },
        Some(end) => {
            let wake = end.checked_add(SignedDuration::from_secs(1)).unwrap_or(end);
            Plan { wake: Wake::At(wake), why: vec!["it is still kept".into()], ..Plan::default() }
        }
        None => Plan::idle("nothing says since when it is as it is"),
    }
}

#[cfg(test)]
mod tests;
