//! Claims and volumes.

use base::names;
use serde_json::Value;

use super::check::At;
use super::{meta, placement, resources, volume};

const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// A new claim.
pub fn claim(at: &At<'_>) {
    meta::create(&at.get("metadata"), true, names::dns1123_subdomain);
    claim_spec(&at.get("spec"));
}

/// What a claim asks for.
pub fn claim_spec(at: &At<'_>) {
    let modes = at.get("accessModes");
    modes.need_for("at least 1 access mode is required");
    meta::selector(&at.get("selector"));
    access(&modes);
    let resources = at.get("resources");
    let requests = resources.get("requests");
    let storage = requests.key("storage");
    match storage.quantity() {
        None => resources.key("storage").required(""),
        Some(_) => {
            resources::name("storage", &storage, true);
            positive(&storage);
        }
    }
    at.get("storageClassName").rule_if_set(names::dns1123_subdomain);
    at.get("volumeMode").one_of_if_set(&["Block", "Filesystem"]);
    source(&at.get("dataSource"));
    let reference = at.get("dataSourceRef");
    source(&reference);
    if !reference.get("namespace").is_empty() {
        reference.get("namespace").rule(names::dns1123_label);
    }
    at.get("volumeAttributesClassName").rule_if_set(names::dns1123_subdomain);
}

fn positive(at: &At<'_>) {
    if let Some(amount) = at.quantity().filter(|amount| amount.sign() <= 0) {
        at.invalid_as(amount.to_string(), "must be greater than zero");
    }
}

fn access(modes: &At<'_>) {
    let mut pod = false;
    for mode in modes.items() {
        if !MODES.contains(&mode.text()) {
            modes.with(mode.value).unsupported(&MODES);
        }
        pod |= mode.text() == "ReadWriteOncePod";
    }
    if pod && modes.len() > 1 {
        modes.forbidden("may not use ReadWriteOncePod with other access modes");
    }
}

fn source(at: &At<'_>) {
    if !at.is_set() {
        return;
    }
    at.get("name").need();
    at.get("kind").need();
    let group = at.get("apiGroup");
    if group.is_empty() && at.get("kind").text() != "PersistentVolumeClaim" {
        at.invalid_as(
            at.get("kind").text(),
            "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
        );
    }
    group.rule_if_set(names::dns1123_subdomain);
}

/// A changed claim: bound ones may grow and change their class of attributes.
pub fn claim_update(new: &At<'_>, old: &At<'_>, subresource: &str) {
    meta::update(&new.get("metadata"), &old.get("metadata"));
    if subresource == "status" {
        let status = new.get("status");
        for (key, amount) in status.get("capacity").entries() {
            resources::amount(key, &amount);
        }
        return;
    }
    claim(new);
    let (spec, before) = (new.get("spec"), old.get("spec"));
    let storage = |at: &Value| at.pointer("/resources/requests/storage").cloned();
    let (now, had) = (storage(spec.value), storage(before.value));
    let bound = old.get("status").get("phase").text() == "Bound";
    let mut munged = spec.value.clone();
    let keep = |munged: &mut Value, field: &str| {
        let Some(map) = munged.as_object_mut() else { return };
        match before.value.get(field) {
            Some(value) => map.insert(field.to_string(), value.clone()),
            None => map.remove(field),
        };
    };
    if before.get("volumeName").is_empty() {
        keep(&mut munged, "volumeName");
    }
    if before.get("storageClassName").is_empty() && !before.get("storageClassName").is_set() {
        keep(&mut munged, "storageClassName");
    }
    keep(&mut munged, "volumeAttributesClassName");
    if bound && let (Some(slot), Some(had)) = (munged.pointer_mut("/resources/requests/storage"), &had) {
        *slot = had.clone();
    }
    if munged != *before.value {
        spec.forbidden(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n",
        );
    }
    let mode = new.get("volumeMode");
    mode.with(spec.get("volumeMode").value).immutable(&before.get("volumeMode"));
    let resources = spec.get("resources");
    let requests = resources.get("requests");
    let (place, null) = (requests.get("storage"), Value::Null);
    let before = place.with(had.as_ref().unwrap_or(&null)).quantity();
    let after = place.with(now.as_ref().unwrap_or(&null)).quantity();
    if let (Some(before), Some(after)) = (before, after)
        && after < before
    {
        let capacity = old.get("status");
        let capacity = capacity.get("capacity").get("storage").quantity();
        if capacity.is_none() {
            place.forbidden("field can not be less than previous value");
        } else if capacity.is_some_and(|capacity| after <= capacity) {
            place.forbidden("field can not be less than status.capacity");
        }
    }
}

/// A new volume.
pub fn volume(at: &At<'_>) {
    meta::create(&at.get("metadata"), false, names::dns1123_subdomain);
    volume_spec(&at.get("spec"), false);
}

/// A volume on its own, or written into an attachment (`inline`).
pub fn volume_spec(spec: &At<'_>, inline: bool) {
    let capacity = spec.get("capacity");
    if inline {
        for field in ["claimRef", "capacity"] {
            if !spec.get(field).is_empty() {
                spec.get(field).forbidden("may not be specified in the context of inline volumes");
            }
        }
        if !spec.get("csi").is_set() {
            spec.get("csi").required("has to be specified in the context of inline volumes");
        }
    }
    spec.get("accessModes").need();
    access(&spec.get("accessModes"));
    let reclaim = spec.get("persistentVolumeReclaimPolicy");
    if inline {
        if !["", "Retain"].contains(&reclaim.text()) {
            reclaim.forbidden("may only be Retain in the context of inline volumes");
        }
    } else {
        room(&capacity);
        reclaim.one_of_if_set(&["Delete", "Recycle", "Retain"]);
    }
    let affinity = spec.get("nodeAffinity");
    if affinity.is_set() && inline {
        affinity.forbidden("may not be specified in the context of inline volumes");
    } else if affinity.is_set() {
        match affinity.get("required").is_set() {
            false => affinity.get("required").required("must specify required node constraints"),
            true => placement::node_selector(&affinity.get("required")),
        }
    }
    volume::persistent(spec);
    if spec.get("local").is_set() && !affinity.is_set() {
        affinity.required("Local volume requires node affinity");
    }
    let root = spec.get("hostPath").get("path").text() == "/";
    if root && reclaim.text() == "Recycle" {
        reclaim.forbidden("may not be 'recycle' for a hostPath mount of '/'");
    }
    let class = spec.get("storageClassName");
    match inline && !class.is_empty() {
        true => class.forbidden("may not be specified in the context of inline volumes"),
        false => class.rule_if_set(names::dns1123_subdomain),
    }
    let mode = spec.get("volumeMode");
    match inline && mode.is_set() && mode.text() != "Filesystem" {
        true => mode
            .forbidden("may not specify volumeMode other than Filesystem in the context of inline volumes"),
        false => mode.one_of_if_set(&["Block", "Filesystem"]),
    }
    attributes_class(spec);
}

/// The class of attributes a driver can change.
fn attributes_class(spec: &At<'_>) {
    let class = spec.get("volumeAttributesClassName");
    if !class.is_set() {
        return;
    }
    if class.need_for("an empty string is disallowed") {
        class.rule(names::dns1123_subdomain);
    }
    if !spec.get("csi").is_set() {
        spec.get("csi").required("has to be specified when using volumeAttributesClassName");
    }
}

/// How big a volume is, and nothing else.
fn room(capacity: &At<'_>) {
    capacity.need();
    if capacity.len() != 1 || !capacity.key("storage").is_set() {
        capacity.unsupported_as(capacity.value.clone(), &["storage"]);
    }
    for (key, amount) in capacity.entries() {
        resources::amount(key, &amount);
        positive(&amount);
    }
}

/// A changed volume keeps its source.
pub fn volume_update(new: &At<'_>, old: &At<'_>, subresource: &str) {
    if subresource == "status" {
        return meta::update(&new.get("metadata"), &old.get("metadata"));
    }
    // Upstream judges the whole twice here, and says so.
    volume(new);
    volume(new);
    let (spec, before) = (new.get("spec"), old.get("spec"));
    let own = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    ];
    let source = |at: &At<'_>| -> Vec<(String, Value)> {
        let fields = at.value.as_object().into_iter().flatten();
        fields.filter(|(key, _)| !own.contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    if source(&spec) != source(&before) {
        spec.get("persistentvolumesource")
            .forbidden("spec.persistentvolumesource is immutable after creation\n");
    }
    new.get("volumeMode").with(spec.get("volumeMode").value).immutable(&before.get("volumeMode"));
    let affinity = spec.get("nodeAffinity");
    if before.get("nodeAffinity").is_set() && !affinity.same(&before.get("nodeAffinity")) {
        let place = new.get("nodeAffinity");
        place.with(affinity.value).invalid("field is immutable, except for updating from beta label to GA");
    }
}
