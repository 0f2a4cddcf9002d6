//! For whom an endpoint is best, by the `trafficDistribution` of its Service.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, ForNode, ForZone};

/// Hints the endpoint at its zone, and for `PreferSameNode` at its node; endpoints that are not ready get none.
pub fn hint(service: &Service, endpoint: &mut Endpoint) {
    let wish = service.spec.as_ref().and_then(|s| s.traffic_distribution.as_deref()).unwrap_or("");
    let ready = endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(true);
    let (zones, nodes) = match wish {
        _ if !ready => return,
        "PreferClose" | "PreferSameZone" => (true, false),
        "PreferSameNode" => (true, true),
        _ => return,
    };
    let zone = endpoint.zone.clone().filter(|_| zones).map(|name| vec![ForZone { name }]);
    let node = endpoint.node_name.clone().filter(|_| nodes).map(|name| vec![ForNode { name }]);
    if zone.is_some() || node.is_some() {
        endpoint.hints = Some(EndpointHints { for_zones: zone, for_nodes: node });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hints_by_table() {
        // distribution, ready, zone; zone and node hinted at
        let table = [
            (None, true, Some("a"), (false, false)),
            (Some("PreferClose"), true, Some("a"), (true, false)),
            (Some("PreferSameZone"), true, Some("a"), (true, false)),
            (Some("PreferSameZone"), false, Some("a"), (false, false)),
            (Some("PreferSameZone"), true, None, (false, false)),
            (Some("PreferSameNode"), true, Some("a"), (true, true)),
            (Some("PreferSameNode"), true, None, (false, true)),
        ];
        for (wish, ready, zone, want) in table {
            let service: Service =
                serde_json::from_value(json!({"spec": {"trafficDistribution": wish}})).expect("service");
            let mut endpoint: Endpoint = serde_json::from_value(
                json!({"addresses": ["10.0.0.1"], "conditions": {"ready": ready}, "zone": zone, "nodeName": "n"}),
            )
            .expect("endpoint");
            hint(&service, &mut endpoint);
            let hints = endpoint.hints.unwrap_or_default();
            assert_eq!(
                (hints.for_zones.is_some(), hints.for_nodes.is_some()),
                want,
                "{wish:?} {ready} {zone:?}"
            );
        }
    }
}
