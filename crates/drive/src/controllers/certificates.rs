//! CertificateSigningRequests: approval of nodes, the cluster's signers, and the cleaner.

use std::collections::BTreeMap;
use std::time::Duration;

use base::certificate::Request;
use client::{Client, Error};
use controllers::certificates::{self, Verdict};
use controllers::{Plan, Wake, pod};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;

use crate::shell::{Authority, Pass, Planner, Wiring};

/// A request that is not approved is looked at again after as long as it has waited, within these.
const RETRY_MIN: SignedDuration = SignedDuration::from_secs(1);
const RETRY_MAX: SignedDuration = SignedDuration::from_secs(1000);
fn read(authority: &dyn Authority, csr: &CertificateSigningRequest) -> Result<Request, String> {
    authority.read(&csr.spec.request.0).map_err(|why| format!("unable to parse csr: {why}"))
}

pub(super) fn approver(wiring: &mut Wiring) -> Planner {
    let requests = wiring.own::<CertificateSigningRequest>();
    let settings = wiring.settings().clone();
    let client = wiring.client().named("certificatesigningrequest-approving-controller");
    Planner::asking(move |key, now| {
        let (found, client) = (requests.get_key(&key), client.clone());
        let authority = settings.authority.clone();
        async move {
            match (found.filter(|csr| certificates::is_undecided(csr)), authority) {
                (Some(csr), Some(authority)) => decide(&client, &*authority, &csr, now).await,
                (_, None) => Ok(Plan::idle("no authority is configured")),
                (None, _) => Ok(Plan::idle("there is nothing to decide")),
            }
        }
    })
}

async fn decide(
    client: &Client,
    authority: &dyn Authority,
    csr: &CertificateSigningRequest,
    now: Timestamp,
) -> Result<Plan, Error> {
    let asked = match read(authority, csr) {
        Ok(asked) => asked,
        Err(why) => return Ok(Plan::idle(why)),
    };
    if let Some(name) = certificates::serving_node(csr, &asked) {
        let node = client.find::<Node>("", name).await?;
        let approved = node.and_then(|node| certificates::approve_serving(csr, &asked, &node, now));
        return Ok(approved.unwrap_or_else(|| again(csr, "it names more than the node's addresses", now)));
    }
    let rights = certificates::recognize(csr, &asked);
    if rights.is_empty() {
        return Ok(Plan::idle("it is not of a kind that is approved unasked"));
    }
    for right in rights {
        if allowed(client, csr, right.subresource).await? {
            return Ok(certificates::approve(csr, right, now));
        }
    }
    Ok(again(csr, "its maker may not have it approved", now))
}

/// Looks again after as long as the request has waited.
fn again(csr: &CertificateSigningRequest, why: &str, now: Timestamp) -> Plan {
    let since = csr.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
    let pause = now.duration_since(since).clamp(RETRY_MIN, RETRY_MAX);
    let mut plan = Plan::idle(format!("{}: {why}", pod::name(csr)));
    plan.wake = now.checked_add(pause).map_or(Wake::OnChange, Wake::At);
    plan
}

async fn allowed(client: &Client, csr: &CertificateSigningRequest, right: &str) -> Result<bool, Error> {
    let extra: Option<BTreeMap<String, Vec<String>>> = csr.spec.extra.clone();
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: csr.spec.username.clone(),
            uid: csr.spec.uid.clone(),
            groups: csr.spec.groups.clone(),
            extra,
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".to_owned()),
                resource: Some("certificatesigningrequests".to_owned()),
                subresource: Some(right.to_owned()),
                verb: Some("create".to_owned()),
                version: Some("*".to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    Ok(client.create(&review).await?.status.is_some_and(|status| status.allowed))
}

pub(super) fn signer(wiring: &mut Wiring) -> Planner {
    let requests = wiring.own::<CertificateSigningRequest>();
    let settings = wiring.settings().clone();
    Planner::local(move |pass: &Pass<'_>| {
        let Some(authority) = &settings.authority else { return Plan::idle("no authority is configured") };
        let Some(csr) = requests.get_key(pass.key) else { return Plan::idle("the request is gone") };
        let asked = read(&**authority, &csr);
        match certificates::judge(&csr, asked.as_ref().map_err(String::as_str)) {
            Verdict::Leave(why) => Plan::idle(why),
            Verdict::Refuse(why) => certificates::refuse(&csr, &why, pass.now),
            Verdict::Sign(life) => {
                let life = Duration::try_from(life).unwrap_or_default();
                let usages = csr.spec.usages.as_deref().unwrap_or_default();
                match authority.sign(&csr.spec.request.0, usages, life) {
                    Ok(certificate) => certificates::issue(&csr, &certificate),
                    Err(why) => certificates::refuse(&csr, &why, pass.now),
                }
            }
        }
    })
}

pub(super) fn cleaner(wiring: &mut Wiring) -> Planner {
    let requests = wiring.own::<CertificateSigningRequest>();
    let settings = wiring.settings().clone();
    Planner::local(move |pass: &Pass<'_>| {
        let Some(csr) = requests.get_key(pass.key) else { return Plan::idle("the request is gone") };
        let certificate = csr.status.as_ref().and_then(|s| s.certificate.as_ref());
        let authority = settings.authority.as_ref();
        let expires = certificate.zip(authority).and_then(|(c, authority)| authority.expiry(&c.0));
        certificates::clean(&csr, expires, pass.now)
    })
}
