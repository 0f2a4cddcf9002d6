//! Events, APIServices, and the ranges and addresses of Services.

use base::names;
use schema::FieldError;
use serde_json::Value;

use super::check::At;
use super::{Create, Rules, Update, meta, net};

/// Characters of an event's words; the note may be longer.
const EVENT_WORD_MAX: usize = 128;
const EVENT_NOTE_MAX: usize = 1024;

/// The rules of these kinds, whatever their group.
pub fn rules(group: &str, kind: &str) -> Option<Rules> {
    let (create, update): (Create, Update) = match (group, kind) {
        ("", "Event") => (|at| legacy_event(at, &CORE), |at, _, _| legacy_event(at, &CORE)),
        ("events.k8s.io", "Event") => (event, event_update),
        ("apiregistration.k8s.io", "APIService") => (service, |new, old, sub| {
            meta::update(&new.get("metadata"), &old.get("metadata"));
            match sub {
                "status" => service_status(&new.get("status")),
                _ => service(new),
            }
        }),
        ("networking.k8s.io", "ServiceCIDR") => (range, range_update),
        ("networking.k8s.io", "IPAddress") => (address, |new, old, _| {
            meta::update(&new.get("metadata"), &old.get("metadata"));
            address(new);
            let (spec, before) = (new.get("spec"), old.get("spec"));
            spec.get("parentRef").immutable(&before.get("parentRef"));
        }),
        _ => return None,
    };
    Some(Rules { create, update })
}

/// How a version of events names what all of them have.
struct Names {
    object: &'static str,
    note: &'static str,
    controller: &'static str,
}

const CORE: Names = Names { object: "involvedObject", note: "message", controller: "reportingComponent" };
const EVENTS: Names = Names { object: "regarding", note: "note", controller: "reportingController" };

/// What every event keeps; errors have the names of the core version, but for the controller.
fn legacy_event(at: &At<'_>, names: &Names) {
    let (metadata, object) = (at.get("metadata"), at.get(names.object));
    let (space, own) = (object.get("namespace"), metadata.get("namespace"));
    let mismatch = || {
        let place = at.get("involvedObject");
        place.get("namespace").invalid_as(space.text(), "does not match event.namespace");
    };
    if at.get("eventTime").is_empty() {
        let same = space.text() == own.text() || (space.is_empty() && own.text() == "default");
        if !same {
            mismatch();
        }
    } else {
        if space.is_empty() && !["default", "kube-system"].contains(&own.text()) {
            mismatch();
        }
        let controller = at.get(names.controller);
        controller.need();
        controller.rule(base::names::qualified_name);
        for (field, max) in
            [("reportingInstance", EVENT_WORD_MAX), ("action", EVENT_WORD_MAX), ("reason", EVENT_WORD_MAX)]
        {
            at.get(field).need();
            short(&at.get(field), at.get(field).text(), max);
        }
        short(&at.get("message"), at.get(names.note).text(), EVENT_NOTE_MAX);
    }
    let place = at.get("namespace");
    for what in base::names::dns1123_subdomain(own.text()) {
        place.invalid_as(own.text(), &what);
    }
}

fn short(at: &At<'_>, text: &str, max: usize) {
    if text.len() > max {
        at.invalid_as("", &format!("can have at most {max} characters"));
    }
}

fn event(at: &At<'_>) {
    legacy_event(at, &EVENTS);
    meta::create(&at.get("metadata"), true, names::dns1123_subdomain);
    series(at);
    at.get("eventTime").need();
    let kind = at.get("type");
    if !["Normal", "Warning"].contains(&kind.text()) {
        kind.invalid_as("", &format!("has invalid value: {}", kind.text()));
    }
    for (field, shown) in [
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
    ] {
        let value = at.get(field);
        if !value.is_empty() && value.value != &Value::from(0) {
            at.get(shown).invalid_as("", "needs to be unset");
        }
    }
    let source = at.get("deprecatedSource");
    if !source.get("component").is_empty() || !source.get("host").is_empty() {
        at.get("source").invalid_as("", "needs to be unset");
    }
}

fn series(at: &At<'_>) {
    let series = at.get("series");
    if !series.is_set() {
        return;
    }
    if series.get("count").int() < 2 {
        at.push(FieldError::invalid("series.count", "", "should be at least 2"));
    }
    if series.get("lastObservedTime").is_empty() {
        at.push(FieldError::required("series.lastObservedTime", ""));
    }
}

fn event_update(new: &At<'_>, old: &At<'_>, _: &str) {
    legacy_event(new, &EVENTS);
    meta::update(&new.get("metadata"), &old.get("metadata"));
    if !new.get("series").same(&old.get("series")) {
        series(new);
    }
    for (field, shown) in [
        ("regarding", "involvedObject"),
        ("reason", "reason"),
        ("note", "message"),
        ("deprecatedSource", "source"),
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
        ("reason", "reason"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingController", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ] {
        let (value, before) = (new.get(field), old.get(field));
        let text = value.value.is_string() || before.value.is_string();
        let same = value.same(&before) || (value.is_empty() && before.is_empty());
        if !same {
            let bad =
                if text && field != "eventTime" { Value::from(value.text()) } else { value.value.clone() };
            new.get(shown).invalid_as(bad, "field is immutable");
        }
    }
}

fn service(at: &At<'_>) {
    let (metadata, spec) = (at.get("metadata"), at.get("spec"));
    let (group, version, backend) = (spec.get("group"), spec.get("version"), spec.get("service"));
    meta::create(&metadata, false, names::path_segment);
    let wanted = format!("{}.{}", version.text(), group.text());
    let name = metadata.get("name");
    if !name.is_empty() && names::path_segment(name.text()).is_empty() && name.text() != wanted {
        let wanted = schema::error::go_quote(&wanted);
        name.invalid(&format!("must be `spec.version+\".\"+spec.group`: {wanted}"));
    }
    if group.is_empty() && version.text() != "v1" {
        group.required("only v1 may have an empty group and it better be legacy kube");
    }
    group.rule_if_set(names::dns1123_subdomain);
    version.rule(names::dns1035_label);
    for (field, max) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1_000)] {
        let priority = spec.get(field);
        if !(1..=max).contains(&priority.int()) {
            priority.invalid_as(priority.int(), &format!("must be positive and less than {max}"));
        }
    }
    let (bundle, insecure) = (spec.get("caBundle"), spec.get("insecureSkipTLSVerify"));
    if !backend.is_set() {
        if !bundle.is_empty() {
            let bytes = bundle.text().trim_end_matches('=').len() * 3 / 4;
            bundle.invalid_as(format!("{bytes} bytes"), "local APIServices may not have a caBundle");
        }
        if insecure.truth() {
            insecure.invalid("local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    }
    backend.get("namespace").need();
    backend.get("name").need();
    let port = backend.get("port");
    let wrong = names::port_number(port.int());
    if !wrong.is_empty() {
        port.invalid_as(port.int(), &format!("port is not valid: {}", wrong.join(", ")));
    }
    if insecure.truth() && !bundle.is_empty() {
        insecure.invalid("may not be true if caBundle is present");
    }
}

fn service_status(status: &At<'_>) {
    for condition in status.get("conditions").items() {
        condition.get("status").one_of(&["True", "False", "Unknown"]);
    }
}

fn range(at: &At<'_>) {
    meta::create(&at.get("metadata"), false, names::dns1123_subdomain);
    ranges(&at.get("spec"));
}

fn ranges(spec: &At<'_>) {
    let list = spec.get("cidrs");
    if !list.need_for("at least one CIDR required") {
        return;
    }
    if list.len() > 2 {
        return list.invalid_as(spec.value.clone(), "may only hold up to 2 values");
    }
    list.items().for_each(|cidr| net::cidr(&cidr));
    let families: Vec<bool> =
        list.items().filter_map(|c| net::parse_cidr(c.text())).map(|(ip, _)| ip.is_ipv4()).collect();
    if families == [true, true] || families == [false, false] {
        list.invalid(
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        );
    }
}

fn range_update(new: &At<'_>, old: &At<'_>, subresource: &str) {
    meta::update(&new.get("metadata"), &old.get("metadata"));
    if subresource == "status" {
        return;
    }
    let (spec, before) = (new.get("spec"), old.get("spec"));
    let (is, was) = (spec.get("cidrs"), before.get("cidrs"));
    let grown = (was.len(), is.len()) == (1, 2);
    if was.len() != is.len() && !grown {
        return is.immutable(&was);
    }
    for (a, b) in is.items().zip(was.items()) {
        a.immutable(&b);
    }
    if grown {
        ranges(&spec);
    }
}

fn address(at: &At<'_>) {
    meta::create(&at.get("metadata"), false, super::ip_address);
    let spec = at.get("spec");
    let parent = spec.get("parentRef");
    if !parent.is_set() {
        return parent.required("");
    }
    parent.get("group").rule_if_set(names::dns1123_subdomain);
    parent.get("resource").need_rule(names::path_segment);
    parent.get("name").need_rule(names::path_segment);
    parent.get("namespace").rule_if_set(names::path_segment);
}
