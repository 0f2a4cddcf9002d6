//! CertificateSigningRequests: what they ask for and whom, and who may decide what. What is inside of requests and
//! certificates is judged by whoever can read them.

use base::names;
use serde_json::Value;

use super::check::At;
use super::meta;

const DECISIONS: [&str; 2] = ["Approved", "Denied"];
/// Conditions that, once there, stay and are true.
const FINAL: [&str; 3] = ["Approved", "Denied", "Failed"];
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const LEGACY: &str = "kubernetes.io/legacy-unknown";
const DOMAIN_MAX: usize = 253;
/// A domain, a slash, a namespace, a dot and a name.
const SIGNER_MAX: usize = DOMAIN_MAX + 1 + 63 + 1 + 253;

/// A new request.
pub fn create(at: &At<'_>) {
    request(at, None);
}

/// A changed request: what was wrong before may stay wrong.
pub fn update(new: &At<'_>, old: &At<'_>, subresource: &str) {
    request(new, Some(old));
    let conditions = new.get("status");
    let conditions = conditions.get("conditions");
    for kind in FINAL {
        if of_type(new.value, kind).len() < of_type(old.value, kind).len() {
            conditions.forbidden(&format!("updates may not remove a condition of type {kind:?}"));
        }
    }
    for kind in DECISIONS.iter().filter(|_| subresource != "approval") {
        let (before, after) = (of_type(old.value, kind), of_type(new.value, kind));
        match after.len().cmp(&before.len()) {
            std::cmp::Ordering::Greater => {
                conditions.forbidden(&format!("updates may not add a condition of type {kind:?}"));
            }
            std::cmp::Ordering::Equal if before != after => {
                conditions.forbidden(&format!("updates may not modify a condition of type {kind:?}"));
            }
            _ => {}
        }
    }
    let status = new.get("status");
    let (certificate, before) = (status.get("certificate"), old.get("status"));
    let before = before.get("certificate").text();
    if certificate.text() != before {
        if subresource != "status" {
            certificate.forbidden("updates may not set certificate content");
        } else if !before.is_empty() {
            certificate.forbidden("updates may not modify existing certificate content");
        }
    }
    meta::update(&new.get("metadata"), &old.get("metadata"));
}

fn list<'a>(object: &'a Value, part: &str, field: &str) -> &'a [Value] {
    let found = object.get(part).and_then(|part| part.get(field)).and_then(Value::as_array);
    found.map_or(&[], Vec::as_slice)
}

fn of_type<'a>(object: &'a Value, kind: &str) -> Vec<&'a Value> {
    list(object, "status", "conditions").iter().filter(|condition| condition["type"] == kind).collect()
}

fn repeats(values: &[Value]) -> bool {
    values.iter().enumerate().any(|(at, value)| values[..at].contains(value))
}

fn request(at: &At<'_>, old: Option<&At<'_>>) {
    meta::accessor(&at.get("metadata"), false, |_| Vec::new());
    let old = old.map_or(&Value::Null, |old| old.value);
    let spec = at.get("spec");
    let usages = spec.get("usages");
    usages.need();
    let known = |usage: &Value| usage.as_str().is_some_and(|usage| USAGES.contains(&usage));
    let before = list(old, "spec", "usages");
    for (index, usage) in usages.items().enumerate() {
        if before.iter().all(known) && !known(usage.value) {
            usage.unsupported(&USAGES);
        }
        if !repeats(before) && list(at.value, "spec", "usages")[..index].contains(usage.value) {
            usage.duplicate();
        }
    }
    let signer = spec.get("signerName");
    match signer.text() {
        LEGACY if old["spec"]["signerName"] != LEGACY => {
            signer.invalid("the legacy signerName is not allowed via this API version");
        }
        _ => signer_name(&signer),
    }
    let life = spec.get("expirationSeconds");
    if life.is_set() && life.int() < 600 {
        life.invalid("may not specify a duration less than 600 seconds (10 minutes)");
    }
    conditions(&at.get("status"), old);
}

fn signer_name(at: &At<'_>) {
    let name = at.text();
    if !at.need() {
        return;
    }
    let parts: Vec<&str> = name.split('/').collect();
    let [domain, path] = parts.as_slice() else {
        return at.invalid("must be a fully qualified domain and path of the form 'example.com/signer-name'");
    };
    if domain.len() > DOMAIN_MAX {
        at.at_most_bytes(DOMAIN_MAX);
    }
    labels(at, domain, names::dns1123_label);
    if !domain.contains('.') {
        at.invalid_as(*domain, "should be a domain with at least two segments separated by dots");
    }
    labels(at, path, names::dns1123_subdomain);
    at.at_most_bytes(SIGNER_MAX);
}

/// Judges the parts between dots up to the first that is wrong.
fn labels(at: &At<'_>, text: &str, rule: fn(&str) -> Vec<String>) {
    let wrong = text.split('.').map(|label| (label, rule(label))).find(|(_, wrong)| !wrong.is_empty());
    for (label, why) in
        wrong.into_iter().flat_map(|(label, all)| all.into_iter().map(move |why| (label, why)))
    {
        at.invalid_as(text, &format!("validating label {label:?}: {why}"));
    }
}

fn list_of_types(status: &Value) -> Vec<&str> {
    let list = status.get("conditions").and_then(Value::as_array).into_iter().flatten();
    list.map(|condition| condition["type"].as_str().unwrap_or("")).collect()
}

fn conditions(status: &At<'_>, old: &Value) {
    let all = status.get("conditions");
    let before = list(old, "status", "conditions");
    let types: Vec<Value> = before.iter().map(|condition| condition["type"].clone()).collect();
    let both = DECISIONS.iter().all(|kind| types.iter().any(|own| own == kind));
    let nameless = types.iter().any(|kind| kind == "");
    let names: Vec<&str> = list_of_types(status.value);
    for (index, condition) in all.items().enumerate() {
        let seen = &names[..index];
        let (kind, state) = (condition.get("type"), condition.get("status"));
        let name = names[index];
        if !nameless {
            kind.need();
        }
        match FINAL.contains(&name) {
            true => state.need_one_of(&["True"]),
            false => state.need_one_of(&["False", "True", "Unknown"]),
        }
        let other = DECISIONS.iter().find(|kind| **kind != name).filter(|_| DECISIONS.contains(&name));
        if !both && other.is_some_and(|other| seen.contains(other)) {
            all.invalid_as(name, "Approved and Denied conditions are mutually exclusive");
        }
        if !repeats(&types) && seen.contains(&name) {
            kind.duplicate();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use serde_json::json;

    use super::*;

    fn sample(conditions: Value) -> Value {
        json!({"metadata": {"name": "c", "resourceVersion": "1"},
            "spec": {"signerName": "example.com/s", "usages": ["client auth"]},
            "status": {"conditions": conditions}})
    }

    fn errors(judge: impl Fn(&RefCell<Vec<schema::FieldError>>)) -> Vec<String> {
        let out = RefCell::new(Vec::new());
        judge(&out);
        out.into_inner().iter().map(ToString::to_string).collect()
    }

    fn created(object: &Value) -> Vec<String> {
        errors(|out| create(&At::root(object, out)))
    }

    fn updated(old: &Value, new: &Value, subresource: &str) -> Vec<String> {
        errors(|out| update(&At::root(new, out), &At::root(old, out), subresource))
    }

    #[test]
    fn new_requests() {
        let mut request = sample(json!([]));
        assert_eq!(created(&request), [""; 0]);
        request["spec"] = json!({"signerName": "examplecom/s", "usages": [], "expirationSeconds": 599});
        let expected = [
            "spec.usages: Required value",
            "spec.signerName: Invalid value: \"examplecom\": should be a domain with at least two segments separated by dots",
            "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)",
        ];
        assert_eq!(created(&request), expected);
        request["spec"] = json!({"signerName": LEGACY, "usages": ["any", "any"]});
        let expected = [
            "spec.usages[1]: Duplicate value: \"any\"",
            "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version",
        ];
        assert_eq!(created(&request), expected);
    }

    #[test]
    fn decisions_are_final_and_one() {
        let yes = json!({"type": "Approved", "status": "True"});
        let no = json!({"type": "Denied", "status": "True"});
        let (open, approved) = (sample(json!([])), sample(json!([yes])));
        assert_eq!(updated(&open, &approved, "approval"), [""; 0]);
        let add = "status.conditions: Forbidden: updates may not add a condition of type \"Approved\"";
        assert_eq!(updated(&open, &approved, "status"), [add]);
        let remove = "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\"";
        assert_eq!(updated(&approved, &open, "approval"), [remove]);
        assert_eq!(updated(&approved, &open, "status"), [remove]);
        let both = "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive";
        assert_eq!(updated(&open, &sample(json!([yes, no])), "approval"), [both]);
        let untrue = sample(json!([{"type": "Denied", "status": "False"}]));
        let expected =
            "status.conditions[0].status: Unsupported value: \"False\": supported values: \"True\"";
        assert_eq!(updated(&open, &untrue, "approval"), [expected]);
    }

    #[test]
    fn certificates_are_set_once() {
        let open = sample(json!([]));
        let mut issued = open.clone();
        issued["status"]["certificate"] = json!("eA==");
        assert_eq!(updated(&open, &issued, "status"), [""; 0]);
        let set = "status.certificate: Forbidden: updates may not set certificate content";
        assert_eq!(updated(&open, &issued, "approval"), [set]);
        let again = "status.certificate: Forbidden: updates may not modify existing certificate content";
        assert_eq!(updated(&issued, &open, "status"), [again]);
    }
}
