//! Claims, templates and classes of devices. Expressions are only looked at for their length.

use base::names;
use serde_json::Value;

use super::check::At;
use super::{Create, Rules, Update, csi, meta, placement, resources, slices};

/// Bounds of lists.
const REQUESTS_MAX: usize = 32;
const SELECTORS_MAX: usize = 32;
const ALTERNATIVES_MAX: usize = 8;
const RESERVED_MAX: usize = 256;
/// Bytes of an expression and of opaque parameters.
const BYTES_MAX: usize = 10 << 10;
const DOMAIN_MAX: usize = 253;
const IDENTIFIER_MAX: usize = 32;
const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];
const NO_REQUEST: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// The rules of a kind of the group resource.k8s.io.
pub fn rules(kind: &str) -> Option<Rules> {
    let (create, update): (Create, Update) = match kind {
        "DeviceClass" => (class, |new, old, _| {
            class(new);
            meta::update(&new.get("metadata"), &old.get("metadata"));
        }),
        "ResourceClaim" => (claim, claim_update),
        "ResourceClaimTemplate" => (template, |new, old, _| {
            meta::update(&new.get("metadata"), &old.get("metadata"));
            new.get("spec").immutable(&old.get("spec"));
        }),
        "ResourceSlice" => (slices::create, slices::update),
        _ => return None,
    };
    Some(Rules { create, update })
}

fn class(at: &At<'_>) {
    meta::create(&at.get("metadata"), false, names::dns1123_subdomain);
    let spec = at.get("spec");
    selectors(&spec.get("selectors"));
    bounded(&spec.get("config"), REQUESTS_MAX, opaque);
    let name = spec.get("extendedResourceName");
    if name.is_set() && !resources::extended(name.text()) {
        name.invalid("must be a valid extended resource name");
    }
}

fn claim(at: &At<'_>) {
    meta::create(&at.get("metadata"), true, names::dns1123_subdomain);
    claim_spec(&at.get("spec"));
}

fn claim_update(new: &At<'_>, old: &At<'_>, subresource: &str) {
    if subresource == "status" {
        return claim_status(new, old);
    }
    meta::create(&new.get("metadata"), true, names::dns1123_subdomain);
    meta::update(&new.get("metadata"), &old.get("metadata"));
    new.get("spec").immutable(&old.get("spec"));
}

fn template(at: &At<'_>) {
    meta::create(&at.get("metadata"), true, names::dns1123_subdomain);
    let spec = at.get("spec");
    let inner = spec.get("metadata");
    meta::labels(&inner.get("labels"));
    meta::annotations(&inner.get("annotations"));
    claim_spec(&spec.get("spec"));
}

/// Every item of a list that is not too long.
pub fn bounded(at: &At<'_>, max: usize, rule: impl Fn(&At<'_>)) {
    match at.len() > max {
        true => at.at_most(max),
        false => at.items().for_each(|item| rule(&item)),
    }
}

/// No two items with the same key; `key` is empty for items that are their own.
pub fn distinct(at: &At<'_>, key: &str) {
    let mut seen: Vec<&str> = Vec::new();
    for item in at.items() {
        let text = if key.is_empty() { item.value.as_str().unwrap_or("") } else { item.text_of(key) };
        match seen.contains(&text) {
            true => item.duplicate_of(text),
            false => seen.push(text),
        }
    }
}

fn claim_spec(spec: &At<'_>) {
    let devices = spec.get("devices");
    let requests = devices.get("requests");
    bounded(&requests, REQUESTS_MAX, request);
    distinct(&requests, "name");
    let refers = |at: &At<'_>| request_name(at, &requests);
    bounded(&devices.get("constraints"), REQUESTS_MAX, |constraint| {
        bounded(&constraint.get("requests"), REQUESTS_MAX, refers);
        distinct(&constraint.get("requests"), "");
        let (same, other) = (constraint.get("matchAttribute"), constraint.get("distinctAttribute"));
        match (same.is_set(), other.is_set()) {
            (true, _) => full_name(&same),
            (false, true) => full_name(&other),
            (false, false) => constraint.required(
                "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
            ),
        }
    });
    bounded(&devices.get("config"), REQUESTS_MAX, |config| {
        bounded(&config.get("requests"), REQUESTS_MAX, refers);
        distinct(&config.get("requests"), "");
        opaque(config);
    });
}

fn request(at: &At<'_>) {
    at.get("name").rule(names::dns1123_label);
    let (exactly, first) = (at.get("exactly"), at.get("firstAvailable"));
    let one = "exactly one of `exactly` or `firstAvailable` is required";
    match (exactly.is_set(), !first.is_empty()) {
        (false, false) => at.required(one),
        (true, true) => at.invalid_as(Value::Null, &format!("{one}, but multiple fields are set")),
        (true, false) => wanted(&exactly),
        (false, true) => {
            bounded(&first, ALTERNATIVES_MAX, |sub| {
                sub.get("name").rule(names::dns1123_label);
                wanted(sub);
            });
            distinct(&first, "name");
        }
    }
}

/// A name in the form of a label.
pub fn label(at: &At<'_>) {
    if at.need() {
        at.rule(names::dns1123_label);
    }
}

/// Devices of one class.
fn wanted(at: &At<'_>) {
    at.get("deviceClassName").need_rule(names::dns1123_subdomain);
    selectors(&at.get("selectors"));
    let (mode, count) = (at.get("allocationMode"), at.get("count"));
    match mode.text() {
        "All" if count.int() != 0 => count.invalid("must not be specified when allocationMode is 'All'"),
        "All" => {}
        "ExactCount" if count.int() <= 0 => count.invalid_as(count.int(), "must be greater than zero"),
        "ExactCount" => {}
        _ => mode.unsupported(&["All", "ExactCount"]),
    }
    at.get("tolerations").items().for_each(|toleration| self::toleration(&toleration));
}

fn toleration(at: &At<'_>) {
    at.get("key").rule_if_set(names::qualified_name);
    let (operator, value) = (at.get("operator"), at.get("value"));
    match operator.text() {
        "Exists" if !value.is_empty() => value.invalid("must be empty for operator `Exists`"),
        "Exists" => {}
        "Equal" => value.rule(names::label_value),
        "" => operator.required(""),
        _ => operator.unsupported(&["Equal", "Exists"]),
    }
    if !at.get("effect").is_empty() {
        at.get("effect").one_of(&EFFECTS);
    }
}

/// A taint of a device.
pub fn taint(at: &At<'_>) {
    at.get("key").rule(names::qualified_name);
    at.get("value").rule_if_set(names::label_value);
    at.get("effect").need_one_of(&EFFECTS);
}

fn selectors(at: &At<'_>) {
    bounded(at, SELECTORS_MAX, |selector| {
        let cel = selector.get("cel");
        match cel.is_set() {
            true => expression(&cel.get("expression")),
            false => cel.required(""),
        }
    });
}

/// A selector that compiles; one that is too long is not looked into.
fn expression(at: &At<'_>) {
    if at.text().len() > BYTES_MAX {
        return at.at_most_bytes(BYTES_MAX);
    }
    match cel::DeviceSelector::compile(at.text()) {
        Ok(_) => {}
        Err(cel::SelectorError::Invalid(why)) => at.invalid(&why),
        Err(error @ cel::SelectorError::TooComplex) => at.forbidden(&error.to_string()),
    }
}

/// A reference to a request of the claim, or to an alternative of one.
fn request_name(at: &At<'_>, requests: &At<'_>) {
    let parts: Vec<&str> = at.text().split('/').collect();
    if parts.len() > 2 {
        return at.invalid(NO_REQUEST);
    }
    for part in &parts {
        for what in names::dns1123_label(part) {
            at.invalid_as(*part, &what);
        }
    }
    let named = |list: &At<'_>, name: &str| list.items().any(|item| item.get("name").text() == name);
    let found = match parts[..] {
        [name, sub] => requests
            .items()
            .any(|request| request.get("name").text() == name && named(&request.get("firstAvailable"), sub)),
        _ => named(requests, at.text()),
    };
    if !found {
        at.invalid_text(NO_REQUEST);
    }
}

fn opaque(at: &At<'_>) {
    let opaque = at.get("opaque");
    if !opaque.is_set() {
        return opaque.required("");
    }
    csi::driver_name(&opaque.get("driver"));
    let parameters = opaque.get("parameters");
    match parameters.value {
        Value::Null => parameters.required(""),
        value if value.to_string().len() > BYTES_MAX => parameters.too_long(BYTES_MAX),
        Value::Object(_) => {}
        _ => parameters.invalid_as("<value omitted>", "must be a valid JSON object"),
    }
}

/// The name of a pool: subdomains joined by slashes.
pub fn pool_name(at: &At<'_>) {
    if !at.need() {
        return;
    }
    at.at_most_bytes(DOMAIN_MAX);
    for part in at.text().split('/') {
        for what in names::dns1123_subdomain(part) {
            at.invalid_as(part, &what);
        }
    }
}

/// The name of an attribute or capacity: an identifier, perhaps after a domain. Errors are those of `at`.
pub fn attribute_name(at: &At<'_>, name: &str) {
    match name.split('/').collect::<Vec<_>>()[..] {
        [only] => identifier(at, only),
        [domain, own] => {
            let value = Value::from(domain);
            match domain {
                "" => at.invalid_as("", "the domain must not be empty"),
                _ => csi::driver_name(&at.with(&value)),
            }
            match own {
                "" => at.invalid_as("", "the name must not be empty"),
                own => identifier(at, own),
            }
        }
        _ => {}
    }
}

fn identifier(at: &At<'_>, name: &str) {
    if name.len() > IDENTIFIER_MAX {
        at.too_long(IDENTIFIER_MAX);
    }
    let first = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    let fits = name.bytes().next().is_some_and(first) && name.bytes().all(|b| first(b) || b.is_ascii_digit());
    if !fits {
        let what = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'";
        let examples = ["my_name", "MY_NAME", "MyName"];
        at.invalid_as(name, &names::regex_error(what, "[A-Za-z_][A-Za-z0-9_]*", &examples));
    }
}

fn full_name(at: &At<'_>) {
    attribute_name(at, at.text());
    if !at.text().contains('/') {
        at.invalid("a fully qualified name must be a domain and a name separated by a slash");
    }
}

fn claim_status(new: &At<'_>, old: &At<'_>) {
    meta::update(&new.get("metadata"), &old.get("metadata"));
    let (status, before, spec) = (new.get("status"), old.get("status"), new.get("spec"));
    let (reserved, allocation) = (status.get("reservedFor"), status.get("allocation"));
    bounded(&reserved, RESERVED_MAX, |consumer| {
        for field in ["resource", "name", "uid"] {
            consumer.get(field).need();
        }
    });
    distinct(&reserved, "uid");
    if !reserved.is_empty() && !allocation.is_set() {
        reserved.forbidden("may not be specified when `allocated` is not set");
    }
    if !allocation.is_set() {
        return;
    }
    if before.get("allocation").is_set() {
        return allocation.immutable(&before.get("allocation"));
    }
    let devices = spec.get("devices");
    let requests = devices.get("requests");
    let given = allocation.get("devices");
    bounded(&given.get("results"), REQUESTS_MAX, |result| {
        request_name(&result.get("request"), &requests);
        csi::driver_name(&result.get("driver"));
        pool_name(&result.get("pool"));
        result.get("device").rule(names::dns1123_label);
    });
    if allocation.get("nodeSelector").is_set() {
        placement::node_selector(&allocation.get("nodeSelector"));
    }
}
