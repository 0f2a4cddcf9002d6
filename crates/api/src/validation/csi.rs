//! Drivers of volumes, what nodes say of them, attachments, attribute classes and room for volumes.

use base::names;

use super::check::At;
use super::{Create, Rules, Update, meta, storage};

/// Bytes a driver's id of a node may have.
const NODE_ID_MAX: usize = 256;
/// Bytes of all parameters of a class together, and how many there may be.
const PARAMETERS_MAX: usize = 512;
const PARAMETERS_BYTES_MAX: usize = 256 << 10;
/// Bytes of what drivers say about an attachment.
const METADATA_MAX: usize = 256 << 10;
const MESSAGE_MAX: usize = 1 << 10;
/// Seconds a token lives at least and at most.
const TOKEN_SECONDS: std::ops::RangeInclusive<i64> = 600..=1 << 32;

/// The rules of these kinds of the group storage.k8s.io.
pub fn rules(kind: &str) -> Option<Rules> {
    let (create, update): (Create, Update) = match kind {
        "CSIDriver" => (driver, driver_update),
        "CSINode" => (node, node_update),
        "VolumeAttachment" => (attachment, |new, old, _| {
            attachment(new);
            new.get("spec").immutable(&old.get("spec"));
        }),
        "VolumeAttributesClass" => (class, class_update),
        "CSIStorageCapacity" => (capacity, |new, old, _| {
            meta::update(&new.get("metadata"), &old.get("metadata"));
            capacity(new);
            for field in ["nodeTopology", "storageClassName"] {
                new.get(field).immutable(&old.get(field));
            }
        }),
        _ => return None,
    };
    Some(Rules { create, update })
}

fn driver(at: &At<'_>) {
    meta::create(&at.get("metadata"), false, names::dns1123_subdomain);
    driver_spec(&at.get("spec"));
}

fn driver_spec(spec: &At<'_>) {
    // Upstream's name of the first is none of the fields.
    for (field, shown) in [
        ("attachRequired", "attachedRequired"),
        ("podInfoOnMount", "podInfoOnMount"),
        ("storageCapacity", "storageCapacity"),
        ("seLinuxMount", "seLinuxMount"),
    ] {
        if !spec.get(field).is_set() {
            spec.get(shown).required("");
        }
    }
    spec.get("fsGroupPolicy").one_of_if_set(&["File", "None", "ReadWriteOnceWithFSType"]);
    tokens(&spec.get("tokenRequests"));
    let modes = spec.get("volumeLifecycleModes");
    for mode in modes.items().filter(|mode| !["Persistent", "Ephemeral"].contains(&mode.text())) {
        modes.unsupported_as(mode.text(), &["Persistent", "Ephemeral"]);
    }
    let period = spec.get("nodeAllocatableUpdatePeriodSeconds");
    if period.is_set() && period.int() < 10 {
        period.invalid("must be greater than or equal to 10 seconds");
    }
    let secrets = spec.get("serviceAccountTokenInSecrets");
    if secrets.is_set() && spec.get("tokenRequests").is_empty() {
        secrets.invalid("serviceAccountTokenInSecrets is set but no tokenRequests are specified");
    }
}

fn tokens(at: &At<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for token in at.items() {
        let audience = token.text_of("audience");
        if seen.contains(&audience) {
            token.get("audience").duplicate_of(audience);
            continue;
        }
        seen.push(audience);
        let seconds = token.get("expirationSeconds");
        if seconds.is_set() && seconds.int() < *TOKEN_SECONDS.start() {
            seconds.invalid("may not specify a duration less than 10 minutes");
        }
        if seconds.int() > *TOKEN_SECONDS.end() {
            seconds.invalid("may not specify a duration larger than 2^32 seconds");
        }
    }
}

fn driver_update(new: &At<'_>, old: &At<'_>, _: &str) {
    meta::update(&new.get("metadata"), &old.get("metadata"));
    let (spec, before) = (new.get("spec"), old.get("spec"));
    driver_spec(&spec);
    spec.get("attachedRequired")
        .with(spec.get("attachRequired").value)
        .immutable(&before.get("attachRequired"));
    spec.get("volumeLifecycleModes").immutable(&before.get("volumeLifecycleModes"));
}

fn node(at: &At<'_>) {
    meta::create(&at.get("metadata"), false, names::dns1123_subdomain);
    let spec = at.get("spec");
    let drivers = spec.get("drivers");
    let mut seen: Vec<&str> = Vec::new();
    for driver in drivers.items() {
        let (name, id) = (driver.get("name"), driver.get("nodeID"));
        driver_name(&name);
        id.need();
        if id.text().len() > NODE_ID_MAX {
            id.invalid(&format!("must be {NODE_ID_MAX} characters or less"));
        }
        driver.get("allocatable").get("count").not_negative();
        let text = driver.text_of("name");
        if seen.contains(&text) {
            name.duplicate_of(text);
        }
        seen.push(text);
        topology_keys(&driver);
    }
}

/// What is wrong with a key is said of the driver.
fn topology_keys(driver: &At<'_>) {
    let keys = driver.get("topologyKeys");
    let mut seen: Vec<&str> = Vec::new();
    for key in keys.items() {
        let text = key.value.as_str().unwrap_or("");
        if text.is_empty() {
            driver.required("");
        }
        if seen.contains(&text) {
            driver.duplicate_of(text);
        }
        seen.push(text);
        for what in names::qualified_name(text) {
            driver.invalid_as(text, &what);
        }
    }
}

/// The name of a driver.
pub fn driver_name(at: &At<'_>) {
    if !at.need() {
        return;
    }
    at.at_most_bytes(63);
    for what in names::dns1123_subdomain(&at.text().to_lowercase()) {
        at.invalid(&what);
    }
}

fn node_update(new: &At<'_>, old: &At<'_>, _: &str) {
    node(new);
    let (spec, before) = (new.get("spec"), old.get("spec"));
    let place = spec.get("drivers");
    let bare = |at: &At<'_>| {
        let mut value = at.value.clone();
        if let Some(map) = value.as_object_mut() {
            map.remove("allocatable");
            if map.get("topologyKeys").and_then(serde_json::Value::as_array).is_some_and(Vec::is_empty) {
                map.insert("topologyKeys".to_string(), serde_json::Value::Null);
            }
            map.entry("topologyKeys").or_insert(serde_json::Value::Null);
        }
        value
    };
    for was in before.get("drivers").items() {
        for is in place.items().filter(|is| is.get("name").same(&was.get("name"))) {
            if bare(&is) != bare(&was) {
                place.invalid_as(bare(&is), "field is immutable");
            }
        }
    }
}

fn attachment(at: &At<'_>) {
    meta::create(&at.get("metadata"), false, names::dns1123_subdomain);
    let spec = at.get("spec");
    driver_name(&spec.get("attacher"));
    let source = spec.get("source");
    let (name, inline) = (source.get("persistentVolumeName"), source.get("inlineVolumeSpec"));
    let one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (name.is_set(), inline.is_set()) {
        (false, false) => source.required(one),
        (true, true) => source.forbidden(one),
        (true, false) => drop(name.need_for("must specify non empty persistentVolumeName")),
        (false, true) => storage::volume_spec(&inline, true),
    }
    spec.get("nodeName").rule(names::dns1123_subdomain);
    let status = at.get("status");
    let metadata = status.get("attachmentMetadata");
    let bytes: usize = metadata.entries().map(|(key, value)| key.len() + value.text().len()).sum();
    if bytes > METADATA_MAX {
        metadata.too_long(METADATA_MAX);
    }
    for field in ["attachError", "detachError"] {
        let error = status.get(field);
        if error.get("message").text().len() > MESSAGE_MAX {
            // Upstream names the bound of another field.
            error.get("message").too_long(METADATA_MAX);
        }
        if error.get("errorCode").int() < 0 {
            error.get("errorCode").invalid(&format!("must be between 0 and {}, inclusive", i32::MAX));
        }
    }
    if name.is_set() {
        name.rule(names::dns1123_subdomain);
    }
}

fn class(at: &At<'_>) {
    meta::create(&at.get("metadata"), false, names::dns1123_subdomain);
    provisioner(&at.get("driverName"));
    parameters(&at.get("parameters"));
    at.get("parameters").need_for("must contain at least one key/value pair");
}

fn class_update(new: &At<'_>, old: &At<'_>, _: &str) {
    meta::update(&new.get("metadata"), &old.get("metadata"));
    for field in ["driverName", "parameters"] {
        if !new.get(field).same(&old.get(field)) {
            new.get(field).forbidden(&format!("updates to {field} are forbidden."));
        }
    }
    class(new);
}

/// Who makes volumes, by name.
pub fn provisioner(at: &At<'_>) {
    if at.need() {
        let lower = at.text().to_lowercase();
        for what in names::qualified_name(&lower) {
            at.invalid_as(lower.as_str(), &what);
        }
    }
}

/// What is handed to who makes volumes.
pub fn parameters(at: &At<'_>) {
    if at.len() > PARAMETERS_MAX {
        return at.too_long(PARAMETERS_MAX);
    }
    for (key, _) in at.entries() {
        if key.is_empty() {
            at.invalid_as("", "field can not be empty.");
        }
    }
    let bytes: usize = at.entries().map(|(key, value)| key.len() + value.text().len()).sum();
    if bytes > PARAMETERS_BYTES_MAX {
        at.too_long(PARAMETERS_BYTES_MAX);
    }
}

fn capacity(at: &At<'_>) {
    meta::create(&at.get("metadata"), true, names::dns1123_subdomain);
    meta::selector(&at.get("nodeTopology"));
    at.get("storageClassName").rule(names::dns1123_subdomain);
    let capacity = at.get("capacity");
    if capacity.quantity().is_some_and(|amount| amount.sign() < 0) {
        capacity.invalid("must be greater than or equal to 0");
    }
}
