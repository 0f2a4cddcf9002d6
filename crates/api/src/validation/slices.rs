//! Slices of the devices that drivers offer.

use base::names;
use serde_json::Value;

use super::check::At;
use super::devices::{attribute_name, bounded, distinct, label, pool_name, taint};
use super::{csi, meta, placement};

const DEVICES_MAX: usize = 128;
/// With taints, shared counters or lists of values.
const DEVICES_ADVANCED_MAX: usize = 64;
const TAINTS_MAX: usize = 16;
const COUNTERS_MAX: usize = 8;
const FACTS_MAX: usize = 32;
const TEXT_MAX: usize = 64;
const CONDITIONS_MAX: usize = 4;
const PLACES: [&str; 4] = ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"];

/// A new slice.
pub fn create(at: &At<'_>) {
    meta::create(&at.get("metadata"), false, names::dns1123_subdomain);
    judge(&at.get("spec"), None);
}

/// A changed slice keeps its driver, pool and node.
pub fn update(new: &At<'_>, old: &At<'_>, _: &str) {
    meta::update(&new.get("metadata"), &old.get("metadata"));
    judge(&new.get("spec"), Some(&old.get("spec")));
}

fn judge(spec: &At<'_>, old: Option<&At<'_>>) {
    csi::driver_name(&spec.get("driver"));
    let pool = spec.get("pool");
    pool_name(&pool.get("name"));
    let (count, generation) = (pool.get("resourceSliceCount"), pool.get("generation"));
    if count.int() <= 0 {
        count.invalid_as(count.int(), "must be greater than zero");
    }
    if generation.int() < 0 {
        generation.invalid("must be greater than or equal to zero");
    }
    if let Some(old) = old {
        pool.get("name").immutable(&old.get("pool").get("name"));
        spec.get("driver").immutable(&old.get("driver"));
        spec.get("nodeName").immutable(&old.get("nodeName"));
    }
    place(spec);
    let (devices, counters) = (spec.get("devices"), spec.get("sharedCounters"));
    if devices.is_set() && counters.is_set() {
        spec.invalid_as("", "only one of `sharedCounters` or `devices` is allowed");
    }
    let max =
        if devices.items().any(|device| is_advanced(&device)) { DEVICES_ADVANCED_MAX } else { DEVICES_MAX };
    let single = spec.get("perDeviceNodeSelection").truth();
    bounded(&devices, max, |device| self::device(device, single));
    if devices.len() <= max {
        distinct(&devices, "name");
    }
    bounded(&counters, COUNTERS_MAX, |set| {
        label(&set.get("name"));
        amounts(&set.get("counters"));
    });
    distinct(&counters, "name");
}

fn is_advanced(device: &At<'_>) -> bool {
    let attributes = device.get("attributes");
    let lists =
        |at: &At<'_>| ["bools", "ints", "strings", "versions"].iter().any(|kind| at.get(kind).is_set());
    !device.get("taints").is_empty()
        || !device.get("consumesCounters").is_empty()
        || attributes.entries().any(|(_, attribute)| lists(&attribute))
}

/// Which nodes can use the devices: said in exactly one way.
fn place(spec: &At<'_>) {
    let (node, selector) = (spec.get("nodeName"), spec.get("nodeSelector"));
    let mut said: Vec<String> = Vec::new();
    for field in PLACES {
        let here = spec.get(field);
        let empty = match field {
            "nodeName" => here.is_empty(),
            "nodeSelector" => false,
            _ => !here.truth(),
        };
        match (here.is_set(), empty) {
            (true, false) => said.push(format!("`{field}`")),
            (true, true) if field == "nodeName" => {
                here.invalid("must be either unset or set to a non-empty string");
            }
            (true, true) => here.invalid("must be either unset or set to true"),
            (false, _) => {}
        }
    }
    node.rule_if_set(names::dns1123_subdomain);
    if selector.is_set() {
        placement::node_selector(&selector);
        let terms = selector.get("nodeSelectorTerms");
        if terms.len() != 1 {
            terms.invalid("must have exactly one node selector term");
        }
    }
    let all: Vec<String> = PLACES.iter().map(|field| format!("`{field}`")).collect();
    let one = format!("exactly one of {} is required", all.join(", "));
    match said.len() {
        0 => spec.required(&one),
        1 => {}
        _ => spec
            .invalid_as(format!("{{{}}}", said.join(", ")), &format!("{one}, but multiple fields are set")),
    }
}

fn device(at: &At<'_>, single: bool) {
    at.get("name").rule(names::dns1123_label);
    let (attributes, capacity) = (at.get("attributes"), at.get("capacity"));
    let facts = attributes.len() + capacity.len();
    if facts > FACTS_MAX {
        let what = format!("the total number of attributes and capacities must not exceed {FACTS_MAX}");
        at.invalid_as(facts, &what);
    }
    for (name, attribute) in attributes.entries() {
        attribute_name(&attributes, name);
        self::attribute(&attribute);
    }
    for (name, amount) in capacity.entries() {
        attribute_name(&capacity, name);
        if amount.get("requestPolicy").is_set() && !at.get("allowMultipleAllocations").truth() {
            amount.get("requestPolicy").forbidden("allowMultipleAllocations must be true");
        }
    }
    bounded(&at.get("taints"), TAINTS_MAX, taint);
    for consumed in at.get("consumesCounters").items() {
        label(&consumed.get("counterSet"));
        amounts(&consumed.get("counters"));
    }
    distinct(&at.get("consumesCounters"), "counterSet");
    let places = ["nodeName", "nodeSelector", "allNodes"];
    let said = places.iter().filter(|field| at.get(field).is_set()).count();
    if !single && said > 0 {
        let what = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
        at.invalid_as(Value::Null, what);
    } else if single && said == 0 {
        at.required("exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec");
    }
    binding(at);
}

/// Amounts by name.
fn amounts(at: &At<'_>) {
    at.need();
    for (name, _) in at.entries() {
        for what in names::dns1123_label(name) {
            at.invalid_as(name, &what);
        }
    }
}

fn attribute(at: &At<'_>) {
    let kinds = ["bool", "int", "string", "version", "bools", "ints", "strings", "versions"];
    let said = kinds.iter().filter(|kind| at.get(kind).is_set()).count();
    at.get("string").at_most_bytes(TEXT_MAX);
    at.get("strings").items().for_each(|text| text.at_most_bytes(TEXT_MAX));
    if at.get("version").is_set() {
        version(&at.get("version"));
    }
    at.get("versions").items().for_each(|text| version(&text));
    match said {
        0 => at.invalid_as("", "exactly one value must be specified"),
        1 => {}
        _ => at.invalid("exactly one value must be specified"),
    }
}

/// A version after semver 2.0.0.
fn version(at: &At<'_>) {
    let text = at.text();
    let (core, build) = text.split_once('+').map_or((text, None), |(core, build)| (core, Some(build)));
    let (core, early) = core.split_once('-').map_or((core, None), |(core, early)| (core, Some(early)));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let number = |part: &str| digits(part) && (part == "0" || !part.starts_with('0'));
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let numbers: Vec<&str> = core.split('.').collect();
    let fits = numbers.len() == 3
        && numbers.iter().all(|part| number(part))
        && early.is_none_or(|e| e.split('.').all(|part| word(part) && (!digits(part) || number(part))))
        && build.is_none_or(|b| b.split('.').all(word));
    if !fits {
        at.invalid_text("must be a string compatible with semver.org spec 2.0.0");
    }
    at.at_most_bytes(TEXT_MAX);
}

/// Conditions of binding go together, and differ.
fn binding(at: &At<'_>) {
    let (wanted, failing) = (at.get("bindingConditions"), at.get("bindingFailureConditions"));
    for (own, other) in [(&wanted, &failing), (&failing, &wanted)] {
        bounded(own, CONDITIONS_MAX, |condition| condition.rule(names::qualified_name));
        distinct(own, "");
        if own.is_empty() && !other.is_empty() {
            let (own, other) = match own.place().ends_with("bindingConditions") {
                true => ("bindingConditions", "bindingFailureConditions"),
                false => ("bindingFailureConditions", "bindingConditions"),
            };
            at.get(own).invalid(&format!("{own} are required to use {other}"));
        }
    }
    for condition in failing.items().filter(|c| wanted.items().any(|w| w.same(c))) {
        condition.invalid("bindingFailureConditions must not overlap with bindingConditions");
    }
}
