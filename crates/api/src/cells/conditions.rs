//! Cells that sum up conditions.

use serde_json::Value;

use super::{items, text};

/// What was decided of a certificate request.
pub fn request(csr: &Value) -> String {
    let kinds: Vec<&str> = items(csr, "status.conditions").iter().filter_map(|c| text(c, "type")).collect();
    let mut shown = match () {
        () if kinds.contains(&"Denied") => "Denied".to_owned(),
        () if kinds.contains(&"Approved") => "Approved".to_owned(),
        () => "Pending".to_owned(),
    };
    if kinds.contains(&"Failed") {
        shown.push_str(",Failed");
    }
    if text(csr, "status.certificate").is_some_and(|c| !c.is_empty()) {
        shown.push_str(",Issued");
    }
    shown
}

/// How a component of the control plane is.
pub fn component<'a>(object: &'a Value, column: &str) -> Option<&'a str> {
    let healthy = items(object, "conditions").iter().find(|c| text(c, "type") == Some("Healthy"));
    let said = |field: &str| healthy.and_then(|c| text(c, field)).unwrap_or_default();
    Some(match (column, said("status")) {
        ("Status", "True") => "Healthy",
        ("Status", "") => "Unknown",
        ("Status", _) => "Unhealthy",
        ("Message", _) => said("message"),
        ("Error", _) => said("error"),
        _ => return None,
    })
}
