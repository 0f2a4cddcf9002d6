//! The smaller kinds of the core group.

use base::names;
use serde_json::Value;

use super::check::At;
use super::workload::replication_controller;
use super::{Create, Rules, Update, meta, net, placement, pod, resources, service, storage};

const SECRET_MAX: usize = 1 << 20;
const FROZEN: &str = "field is immutable when `immutable` is set";
const REDACTED: &str = "<secret contents redacted>";

/// The rules of a kind of the core group.
pub fn rules(kind: &str) -> Option<Rules> {
    let (create, update): (Create, Update) = match kind {
        "Service" => (service::create, service::update),
        "ConfigMap" => (config_map, |new, old, _| {
            meta::update(&new.get("metadata"), &old.get("metadata"));
            frozen(new, old, &["data", "binaryData"]);
            config_map(new);
        }),
        "Secret" => (secret, |new, old, _| {
            meta::update(&new.get("metadata"), &old.get("metadata"));
            new.get("type").immutable(&old.get("type"));
            frozen(new, old, &["data"]);
            secret(new);
        }),
        "Namespace" => (namespace, namespace_update),
        "Node" => (node, node_update),
        "ServiceAccount" => (service_account, |new, old, _| {
            meta::update(&new.get("metadata"), &old.get("metadata"));
            service_account(new);
        }),
        "LimitRange" => (limit_range, |new, _, _| limit_range(new)),
        "ResourceQuota" => (quota, quota_update),
        "Endpoints" => (endpoints, |new, old, _| {
            meta::update(&new.get("metadata"), &old.get("metadata"));
            endpoints(new);
        }),
        "PersistentVolumeClaim" => (storage::claim, storage::claim_update),
        "PersistentVolume" => (storage::volume, storage::volume_update),
        "PodTemplate" => (pod_template, |new, old, _| {
            meta::update(&new.get("metadata"), &old.get("metadata"));
            pod::template(&new.get("template"));
        }),
        "ReplicationController" => (replication_controller::create, replication_controller::update),
        _ => return None,
    };
    Some(Rules { create, update })
}

fn config_map(at: &At<'_>) {
    meta::create(&at.get("metadata"), true, names::dns1123_subdomain);
    let (data, binary) = (at.get("data"), at.get("binaryData"));
    let mut size = 0;
    for (key, value) in data.entries() {
        for what in names::config_key(key) {
            value.invalid_as(key, &what);
        }
        if binary.key(key).is_set() {
            value.invalid_as(key, "duplicate of key present in binaryData");
        }
        size += value.text().len();
    }
    for (key, value) in binary.entries() {
        for what in names::config_key(key) {
            value.invalid_as(key, &what);
        }
        size += decoded_len(value.text());
    }
    if size > SECRET_MAX {
        at.too_long(SECRET_MAX);
    }
}

/// Bytes that base64 text stands for.
fn decoded_len(text: &str) -> usize {
    (text.len() / 4 * 3).saturating_sub(text.bytes().rev().take_while(|b| *b == b'=').count())
}

fn secret(at: &At<'_>) {
    meta::create(&at.get("metadata"), true, names::dns1123_subdomain);
    let data = at.get("data");
    let mut size = 0;
    for (key, value) in data.entries() {
        for what in names::config_key(key) {
            value.invalid_as(key, &what);
        }
        size += decoded_len(value.text());
    }
    if size > SECRET_MAX {
        data.too_long(SECRET_MAX);
    }
    let need = |key: &str| {
        if !data.key(key).is_set() {
            data.key(key).required("");
        }
    };
    match at.get("type").text() {
        "kubernetes.io/service-account-token" => {
            let metadata = at.get("metadata");
            let annotations = metadata.get("annotations");
            if annotations.key("kubernetes.io/service-account.name").is_empty() {
                annotations.key("kubernetes.io/service-account.name").required("");
            }
        }
        "kubernetes.io/dockercfg" => json_key(&data.key(".dockercfg")),
        "kubernetes.io/dockerconfigjson" => json_key(&data.key(".dockerconfigjson")),
        "kubernetes.io/basic-auth" if !data.key("username").is_set() && !data.key("password").is_set() => {
            need("username");
            need("password");
        }
        "kubernetes.io/ssh-auth" if data.key("ssh-privatekey").is_empty() => {
            data.key("ssh-privatekey").required("");
        }
        "kubernetes.io/tls" => {
            need("tls.crt");
            need("tls.key");
        }
        _ => {}
    }
}

fn json_key(at: &At<'_>) {
    use base64::Engine;
    if !at.is_set() {
        return at.required("");
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(at.text()).unwrap_or_default();
    let parsed: Result<serde_json::Map<String, Value>, _> = serde_json::from_slice(&bytes);
    if parsed.is_err() {
        let detail = match bytes.first() {
            None => "unexpected end of JSON input".to_string(),
            Some(byte) => {
                format!("invalid character '{}' looking for beginning of value", char::from(*byte))
            }
        };
        at.invalid_as(REDACTED, &detail);
    }
}

/// Objects that say they are immutable.
fn frozen(new: &At<'_>, old: &At<'_>, fields: &[&str]) {
    if !old.get("immutable").truth() {
        return;
    }
    if !new.get("immutable").truth() {
        new.get("immutable").forbidden(FROZEN);
    }
    for field in fields {
        if !new.get(field).same(&old.get(field)) {
            new.get(field).forbidden(FROZEN);
        }
    }
}

fn namespace(at: &At<'_>) {
    meta::create(&at.get("metadata"), false, names::dns1123_label);
    for name in at.get("spec").get("finalizers").items() {
        name.rule(names::qualified_name);
        if !name.text().contains('/')
            && !["kubernetes", "orphan", "foregroundDeletion"].contains(&name.text())
        {
            name.invalid("name is neither a standard finalizer name nor is it fully qualified");
        }
    }
}

fn namespace_update(new: &At<'_>, old: &At<'_>, subresource: &str) {
    meta::update(&new.get("metadata"), &old.get("metadata"));
    let status = new.get("status");
    let phase = status.get("Phase").with(status.get("phase").value).text();
    if subresource == "status" {
        let deleting = !new.get("metadata").get("deletionTimestamp").is_empty();
        let place = status.get("Phase");
        match (deleting, phase) {
            (false, phase) if phase != "Active" => {
                place.invalid_as(phase, "may only be 'Active' if `deletionTimestamp` is empty");
            }
            (true, phase) if phase != "Terminating" => {
                place.invalid_as(phase, "may only be 'Terminating' if `deletionTimestamp` is not empty");
            }
            _ => {}
        }
    }
}

fn node(at: &At<'_>) {
    meta::create(&at.get("metadata"), false, names::dns1123_subdomain);
    taints(&at.get("spec").get("taints"));
    let status = at.get("status");
    for list in ["capacity", "allocatable"] {
        for (key, amount) in status.get(list).entries() {
            resources::amount(key, &amount);
        }
    }
    let spec = at.get("spec");
    let ranges = spec.get("podCIDRs");
    ranges.items().for_each(|range| net::cidr(&range));
    if ranges.len() > 2 {
        ranges.invalid("may specify no more than one CIDR for each IP family");
    }
}

fn taints(at: &At<'_>) {
    let mut seen: Vec<(String, String)> = Vec::new();
    for taint in at.items() {
        taint.get("key").rule(names::qualified_name);
        let value = taint.get("value");
        let wrong = names::label_value(value.text());
        if !wrong.is_empty() {
            value.invalid_as(value.text(), &wrong.join(";"));
        }
        placement::taint_effect(&taint.get("effect"));
        let key = (taint.get("key").text().to_string(), taint.get("effect").text().to_string());
        if seen.contains(&key) {
            taint.push(duplicate_taint(&taint));
        }
        seen.push(key);
    }
}

fn duplicate_taint(taint: &At<'_>) -> schema::FieldError {
    let mut error = schema::FieldError::duplicate(taint.place(), taint.value.clone());
    error.detail = "taints must be unique by key and effect pair".to_string();
    error
}

fn node_update(new: &At<'_>, old: &At<'_>, _subresource: &str) {
    meta::update(&new.get("metadata"), &old.get("metadata"));
    let (spec, before, status) = (new.get("spec"), old.get("spec"), new.get("status"));
    for list in ["capacity", "allocatable"] {
        for (key, amount) in status.get(list).entries() {
            resources::amount(key, &amount);
        }
    }
    let addresses = status.get("addresses");
    let mut seen: Vec<&Value> = Vec::new();
    for address in addresses.value.as_array().into_iter().flatten().enumerate() {
        if seen.contains(&address.1) {
            addresses.nth(address.0).duplicate();
        }
        seen.push(address.1);
    }
    if !before.get("podCIDRs").is_empty() && !spec.get("podCIDRs").same(&before.get("podCIDRs")) {
        spec.get("podCIDRs").forbidden("node updates may not change podCIDR except from \"\" to valid");
    }
    let (id, had) = (spec.get("providerID"), before.get("providerID"));
    if !had.is_empty() && id.text() != had.text() {
        id.forbidden("node updates may not change providerID except from \"\" to valid");
    }
    taints(&spec.get("taints"));
}

fn service_account(at: &At<'_>) {
    meta::create(&at.get("metadata"), true, names::dns1123_subdomain);
}

fn pod_template(at: &At<'_>) {
    meta::create(&at.get("metadata"), true, names::dns1123_subdomain);
    pod::template(&at.get("template"));
}

fn limit_range(at: &At<'_>) {
    meta::create(&at.get("metadata"), true, names::dns1123_subdomain);
    let mut seen: Vec<String> = Vec::new();
    for limit in at.get("spec").get("limits").items() {
        let kind = limit.get("type");
        let before = kind.found();
        kind.rule(names::qualified_name);
        let standard = matches!(kind.text(), "Pod" | "Container" | "PersistentVolumeClaim");
        if kind.found() == before && !standard && !kind.text().contains('/') {
            kind.invalid_text("must be a standard limit type or fully qualified");
        }
        if seen.iter().any(|s| s == kind.text()) {
            kind.duplicate();
        }
        seen.push(kind.text().to_string());
        amounts(&limit, kind.text());
    }
}

fn amounts(limit: &At<'_>, kind: &str) {
    let lists = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];
    for list in ["max", "min"] {
        for (key, _) in limit.get(list).entries() {
            range_name(key, kind, &limit.get(list));
        }
    }
    if kind == "Pod" {
        for list in ["default", "defaultRequest"] {
            if !limit.get(list).is_empty() {
                limit.get(list).forbidden("may not be specified when `type` is 'Pod'");
            }
        }
    } else {
        for list in ["default", "defaultRequest"] {
            for (key, _) in limit.get(list).entries() {
                range_name(key, kind, &limit.get(list));
            }
        }
    }
    if kind == "PersistentVolumeClaim" {
        let named = |list: &str| limit.get(list).key("storage").is_set();
        if !named("min") && !named("max") {
            limit
                .get("limits")
                .required("either minimum or maximum storage value is required, but neither was provided");
        }
    }
    let mut keys: Vec<String> = Vec::new();
    for list in lists {
        keys.extend(limit.get(list).entries().map(|(key, _)| key.to_string()));
    }
    keys.sort_unstable();
    keys.dedup();
    keys.iter().for_each(|key| compare(limit, key));
}

fn range_name(key: &str, kind: &str, list: &At<'_>) {
    let here = list.key(key);
    match kind {
        "Pod" | "Container" => resources::container_name(key, &here),
        _ => resources::name(key, &here, true),
    }
}

fn compare(limit: &At<'_>, key: &str) {
    let amount = |list: &str| limit.get(list).key(key).quantity();
    let (min, max) = (amount("min"), amount("max"));
    let (default, request, ratio) =
        (amount("default"), amount("defaultRequest"), amount("maxLimitRequestRatio"));
    let wrong = |list: &str, value: base::quantity::Quantity, what: String| {
        limit.get(list).key(key).invalid_as(value.to_string(), &what);
    };
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        wrong("min", min, format!("min value {min} is greater than max value {max}"));
    }
    if let (Some(request), Some(min)) = (request, min)
        && min > request
    {
        wrong(
            "defaultRequest",
            request,
            format!("min value {min} is greater than default request value {request}"),
        );
    }
    if let (Some(request), Some(max)) = (request, max)
        && request > max
    {
        wrong(
            "defaultRequest",
            request,
            format!("default request value {request} is greater than max value {max}"),
        );
    }
    if let (Some(request), Some(default)) = (request, default)
        && request > default
    {
        let what = format!("default request value {request} is greater than default limit value {default}");
        wrong("defaultRequest", request, what);
    }
    if let (Some(default), Some(min)) = (default, min)
        && min > default
    {
        wrong("default", min, format!("min value {min} is greater than default value {default}"));
    }
    if let (Some(default), Some(max)) = (default, max)
        && default > max
    {
        wrong("default", max, format!("default value {default} is greater than max value {max}"));
    }
    if let Some(ratio) = ratio.filter(|ratio| ratio.millis() < 1000) {
        wrong("maxLimitRequestRatio", ratio, format!("ratio {ratio} is less than 1"));
    }
}

fn quota(at: &At<'_>) {
    meta::create(&at.get("metadata"), true, names::dns1123_subdomain);
    for (key, amount) in at.get("spec").get("hard").entries() {
        resources::quota_name(key, &amount);
        resources::amount(key, &amount);
    }
}

fn quota_update(new: &At<'_>, old: &At<'_>, subresource: &str) {
    meta::update(&new.get("metadata"), &old.get("metadata"));
    if subresource == "status" {
        let status = new.get("status");
        for list in ["hard", "used"] {
            for (key, amount) in status.get(list).entries() {
                resources::quota_name(key, &amount);
                resources::amount(key, &amount);
            }
        }
        return;
    }
    quota(new);
    let (spec, before) = (new.get("spec"), old.get("spec"));
    let set = |at: &At<'_>| {
        let mut list: Vec<String> = at.get("scopes").items().map(|scope| scope.text().to_string()).collect();
        list.sort_unstable();
        list
    };
    if set(&spec) != set(&before) {
        spec.get("scopes").invalid("field is immutable");
    }
}

fn endpoints(at: &At<'_>) {
    meta::create(&at.get("metadata"), true, names::dns1123_subdomain);
    for subset in at.get("subsets").items() {
        let (ready, other, ports) =
            (subset.get("addresses"), subset.get("notReadyAddresses"), subset.get("ports"));
        if ready.is_empty() && other.is_empty() {
            subset.required("must specify `addresses` or `notReadyAddresses`");
        }
        for address in ready.items().chain(other.items()) {
            let ip = address.get("ip");
            let before = ip.found();
            net::ip(&ip);
            if ip.found() == before {
                service::usable(&ip);
            }
            address.get("hostname").rule_if_set(names::dns1123_label);
            address.get("nodeName").rule_if_set(names::dns1123_subdomain);
        }
        for port in ports.items() {
            if ports.len() > 1 && port.get("name").is_empty() {
                port.get("name").required("");
            } else {
                port.get("name").rule_if_set(names::dns1123_label);
            }
            port.get("port").port();
            port.get("protocol").need_one_of(&["SCTP", "TCP", "UDP"]);
            port.get("appProtocol").rule_if_set(names::qualified_name);
        }
    }
}
