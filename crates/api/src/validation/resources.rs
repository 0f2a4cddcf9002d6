//! Amounts of resources: names, signs, whole numbers, requests within limits.

use base::names;

use super::check::At;

const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
const STANDARD: [&str; 14] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
];
const STANDARD_MORE: [&str; 6] = [
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
    "storage",
    "requests.storage",
];

fn standard(name: &str) -> bool {
    STANDARD.contains(&name)
        || STANDARD_MORE.contains(&name)
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
}

/// Names of quotas: standard, or with a domain.
pub fn quota_name(key: &str, at: &At<'_>) {
    let before = at.found();
    name(key, at, false);
    let _ = before;
    if !key.contains('/') && !standard(key) && !key.starts_with("count/") {
        at.invalid_as(key, "must be a standard resource for quota");
    }
}

/// A resource's name.
pub fn name(key: &str, at: &At<'_>, check_standard: bool) {
    let before = at.found();
    for what in names::qualified_name(key) {
        at.invalid_as(key, &what);
    }
    if at.found() == before && check_standard && !key.contains('/') && !standard(key) {
        at.invalid_as(key, "must be a standard resource type or fully qualified");
    }
}

/// A container's resource: of the known ones, or somebody's own with a domain.
pub fn container_name(key: &str, at: &At<'_>) {
    name(key, at, true);
    if !key.contains('/') {
        let known = matches!(key, "cpu" | "memory" | "ephemeral-storage") || key.starts_with("hugepages-");
        if !known {
            at.invalid_as(key, "must be a standard resource for containers");
        }
    } else if !native(key) && !extended(key) {
        at.invalid_as(key, "doesn't follow extended resource name standard");
    }
}

fn native(key: &str) -> bool {
    !key.contains('/') || key.contains("kubernetes.io/")
}

/// Whether a resource is one of a device plugin or class.
pub fn extended(key: &str) -> bool {
    !native(key)
        && !key.starts_with("requests.")
        && names::qualified_name(&format!("requests.{key}")).is_empty()
}

/// Not negative, and whole where the resource is counted.
pub fn amount(key: &str, at: &At<'_>) {
    let Some(amount) = at.quantity() else { return };
    if amount.sign() < 0 {
        at.invalid_as(amount.to_string(), NOT_NEGATIVE);
    }
    let counted = matches!(
        key,
        "pods"
            | "services"
            | "replicationcontrollers"
            | "resourcequotas"
            | "secrets"
            | "configmaps"
            | "persistentvolumeclaims"
            | "services.nodeports"
            | "services.loadbalancers"
    ) || extended(key);
    if counted && amount.millis() % 1000 != 0 {
        at.invalid_as(amount.to_string(), "must be an integer");
    }
}

/// Requests and limits of a container.
pub fn container(at: &At<'_>, claims: &At<'_>) {
    if at.is_set() {
        requirements(at, claims, container_name);
    }
}

/// Requests and limits of a pod as a whole.
pub fn pod(at: &At<'_>, claims: &At<'_>) {
    if at.get("claims").is_set() {
        at.get("claims").forbidden("claims may not be set for Resources at pod-level");
    }
    requirements(at, claims, |key, at| {
        let before = at.found();
        name(key, at, true);
        let known = matches!(key, "cpu" | "memory") || key.starts_with("hugepages-");
        if at.found() == before && !known {
            at.with(&key.into()).unsupported(&["cpu", "memory"]);
        }
    });
}

fn requirements(at: &At<'_>, pod_claims: &At<'_>, rule: fn(&str, &At<'_>)) {
    let (limits, requests) = (at.get("limits"), at.get("requests"));
    let (mut basic, mut huge) = (false, false);
    for list in [&limits, &requests] {
        for (key, here) in list.entries() {
            rule(key, &here);
            amount(key, &here);
            basic |= matches!(key, "cpu" | "memory");
            huge |= key.starts_with("hugepages-");
            if key.starts_with("hugepages-") {
                whole_pages(key, &here);
            }
            if !std::ptr::eq(list, &requests) {
                continue;
            }
            let overcommit = native(key) && !key.starts_with("hugepages-");
            let asked = here.quantity();
            match (asked, limits.key(key).quantity()) {
                (Some(asked), Some(limit)) => {
                    let words = match (overcommit, asked.cmp(&limit)) {
                        (_, std::cmp::Ordering::Equal) => continue,
                        (false, _) => "must be equal to",
                        (true, std::cmp::Ordering::Greater) => "must be less than or equal to",
                        _ => continue,
                    };
                    requests.invalid_as(asked.to_string(), &format!("{words} {key} limit of {limit}"));
                }
                (Some(_), None) if !overcommit => {
                    limits.required("Limit must be set for non overcommitable resources");
                }
                _ => {}
            }
        }
    }
    if huge && !basic {
        at.forbidden("HugePages require cpu or memory");
    }
    claims(&at.get("claims"), pod_claims);
}

fn whole_pages(key: &str, at: &At<'_>) {
    let size = key.strip_prefix("hugepages-").and_then(|size| size.parse::<base::quantity::Quantity>().ok());
    let (Some(size), Some(amount)) = (size, at.quantity()) else { return };
    if size.nanos() <= 0 || amount.nanos() % size.nanos() != 0 {
        at.invalid_as(amount.to_string(), &format!("{amount} is not positive integer multiple of {key}"));
    }
}

fn claims(at: &At<'_>, pod_claims: &At<'_>) {
    let mut seen: Vec<String> = Vec::new();
    for claim in at.items() {
        let name = claim.get("name").text();
        if name.is_empty() {
            claim.required("");
            continue;
        }
        let request = claim.get("request");
        let key = match request.text() {
            "" => name.to_string(),
            request => format!("{name}/{request}"),
        };
        request.rule_if_set(names::dns1123_label);
        let overlaps = |other: &String| {
            *other == key || other == name || (request.is_empty() && other.starts_with(&format!("{name}/")))
        };
        if seen.iter().any(overlaps) {
            claim.duplicate_of(key.as_str());
        }
        seen.push(key);
        let mut known: Vec<&str> = Vec::new();
        for entry in pod_claims.value.as_array().into_iter().flatten() {
            known.extend(entry.get("name").and_then(serde_json::Value::as_str));
        }
        if !known.contains(&name) {
            known.sort_unstable();
            let mut error = schema::FieldError::not_found(claim.place(), name);
            error.detail = match known.is_empty() {
                true => "must be one of the names in pod.spec.resourceClaims which is empty".to_string(),
                false => format!("must be one of the names in pod.spec.resourceClaims: {}", known.join(", ")),
            };
            claim.push(error);
        }
    }
}
