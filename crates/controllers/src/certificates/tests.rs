//! Tables of requests.

use serde_json::{Value, json};

use super::*;

const NOW: &str = "2026-01-02T00:00:00Z";

fn csr(signer: &str, usages: &[&str], conditions: Value) -> CertificateSigningRequest {
    let value = json!({"metadata": {"name": "r", "creationTimestamp": "2026-01-01T12:00:00Z"},
        "spec": {"request": "", "signerName": signer, "usages": usages, "username": "system:node:a"},
        "status": {"conditions": conditions}});
    serde_json::from_value(value).expect("a request")
}

fn condition(kind: &str, at: &str) -> Value {
    json!([{"type": kind, "status": "True", "lastUpdateTime": at}])
}

fn node(name: &str) -> Request {
    Request { name: name.to_owned(), organizations: vec![NODES.to_owned()], ..Request::default() }
}

const CLIENT_USAGES: [&str; 3] = ["digital signature", "key encipherment", "client auth"];
/// Signer, usages, request, and what is wrong with it.
type Case<'a> = (&'a str, &'a [&'a str], &'a Request, Result<(), &'a str>);
const SERVER_USAGES: [&str; 2] = ["digital signature", "server auth"];

#[test]
fn signers_by_table() {
    let approved = condition("Approved", NOW);
    let (own, other) = (node("system:node:a"), node("somebody"));
    let named = Request { dns: 1, ..own.clone() };
    let mail = Request { emails: 1, ..named.clone() };
    let masters = Request { organizations: vec!["system:masters".to_owned()], ..own.clone() };
    let table: [Case<'_>; 13] = [
        (KUBELET_CLIENT, &CLIENT_USAGES, &own, Ok(())),
        (KUBELET_CLIENT, &["client auth", "digital signature"], &own, Ok(())),
        (KUBELET_CLIENT, &CLIENT_USAGES, &other, Err("subject common name does not begin with system:node:")),
        (KUBELET_CLIENT, &CLIENT_USAGES, &masters, Err("subject organization is not system:nodes")),
        (KUBELET_CLIENT, &CLIENT_USAGES, &named, Err("DNS subjectAltNames are not allowed")),
        (
            KUBELET_CLIENT,
            &SERVER_USAGES,
            &own,
            Err("usages did not match [client auth digital signature key encipherment]"),
        ),
        (KUBELET_SERVING, &SERVER_USAGES, &named, Ok(())),
        (KUBELET_SERVING, &SERVER_USAGES, &own, Err("DNS or IP subjectAltName is required")),
        (KUBELET_SERVING, &SERVER_USAGES, &mail, Err("Email subjectAltNames are not allowed")),
        (CLIENT, &CLIENT_USAGES, &other, Ok(())),
        (
            CLIENT,
            &["digital signature"],
            &other,
            Err("missing required usage for client certificate: client auth"),
        ),
        (CLIENT, &["server auth"], &other, Err("invalid usage for client certificate: server auth")),
        (LEGACY, &["server auth"], &other, Ok(())),
    ];
    for (signer, usages, request, wanted) in table {
        let verdict = judge(&csr(signer, usages, approved.clone()), Ok(request));
        let wanted = match wanted {
            Ok(()) => Verdict::Sign(LIFE_MAX),
            Err(why) => Verdict::Refuse(why.to_owned()),
        };
        assert_eq!(verdict, wanted, "{signer} {usages:?}");
    }
}

#[test]
fn only_approved_requests_are_signed_and_lives_are_bounded() {
    let own = node("system:node:a");
    for conditions in [json!([]), condition("Denied", NOW)] {
        let waiting = csr(KUBELET_CLIENT, &CLIENT_USAGES, conditions);
        assert!(matches!(judge(&waiting, Ok(&own)), Verdict::Leave(_)));
    }
    let foreign = csr("example.com/x", &CLIENT_USAGES, condition("Approved", NOW));
    assert!(matches!(judge(&foreign, Ok(&own)), Verdict::Leave(_)));
    for (asked, given) in [(60, 600), (3600, 3600), (i32::MAX, 365 * 86_400)] {
        let mut wanted = csr(KUBELET_CLIENT, &CLIENT_USAGES, condition("Approved", NOW));
        wanted.spec.expiration_seconds = Some(asked);
        assert_eq!(judge(&wanted, Ok(&own)), Verdict::Sign(SignedDuration::from_secs(given)));
    }
}

#[test]
fn nodes_are_recognized() {
    let rights = |signer: &str, request: &Request| -> Vec<&str> {
        let found = recognize(&csr(signer, &CLIENT_USAGES, json!([])), request);
        found.into_iter().map(|right| right.subresource).collect()
    };
    assert_eq!(rights(KUBELET_CLIENT, &node("system:node:a")), ["selfnodeclient", "nodeclient"]);
    assert_eq!(rights(KUBELET_CLIENT, &node("system:node:b")), ["nodeclient"]);
    assert!(rights(KUBELET_CLIENT, &node("b")).is_empty());
    assert!(rights(CLIENT, &node("system:node:a")).is_empty());
}

#[test]
fn old_requests_go() {
    let now: Timestamp = NOW.parse().expect("time");
    let hours = |h: i64| now.checked_add(SignedDuration::from_hours(h)).expect("time");
    // conditions, issued, certificate's end, gone after this many hours from now
    let table = [
        (json!([]), false, None, 12),
        (condition("Denied", NOW), false, None, 1),
        (condition("Failed", NOW), false, None, 1),
        (condition("Approved", NOW), false, None, 24),
        (condition("Approved", NOW), true, None, 1),
        (condition("Approved", NOW), true, Some(now), 0),
    ];
    for (conditions, issued, expires, kept) in table {
        let mut request = csr(CLIENT, &CLIENT_USAGES, conditions);
        if issued {
            request.status.get_or_insert_default().certificate = Some(ByteString(vec![1]));
        }
        assert_eq!(clean(&request, expires, hours(kept)).actions, [], "{request:?}");
        let later = hours(kept).checked_add(SignedDuration::from_secs(1)).expect("time");
        assert_eq!(clean(&request, expires, later).actions.len(), 1, "{request:?}");
    }
}

#[test]
fn a_node_may_serve_under_its_own_addresses() {
    let own: Node = serde_json::from_value(json!({
        "metadata": {"name": "n"},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "n"}]},
    }))
    .unwrap();
    let mut request = csr(KUBELET_SERVING, &["digital signature", "server auth"], json!([]));
    request.spec.username = Some("system:node:n".into());
    request.spec.groups = Some(vec![NODES.into()]);
    let asked = |name: &str, names: &[&str]| Request {
        ips: names.len(),
        names: names.iter().map(|n| (*n).to_owned()).collect(),
        ..node(name)
    };
    let now = Timestamp::UNIX_EPOCH;
    let approved = |asked: &Request| {
        serving_node(&request, asked).map(|_| approve_serving(&request, asked, &own, now).is_some())
    };
    let table: [(&str, &[&str], Option<bool>); 5] = [
        ("system:node:n", &["10.0.0.1", "n"], Some(true)),
        ("system:node:n", &["10.0.0.1", "127.0.0.1"], Some(false)),
        ("system:node:n", &["kubernetes.default"], Some(false)),
        ("system:node:m", &["10.0.0.1"], None),
        ("system:node:n", &[], None),
    ];
    for (name, names, expected) in table {
        assert_eq!(approved(&asked(name, names)), expected, "{name} {names:?}");
    }
    assert!(is_undecided(&request));
}
