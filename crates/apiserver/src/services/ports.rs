//! Node ports.

use std::collections::HashMap;
use std::sync::Arc;

use rand::Rng;
use serde_json::{Value, json};

use crate::object::{at, set_at};
use crate::status::Cause;

type Ports = HashMap<(u16, &'static str), Arc<str>>;

pub(super) fn protocol(port: &Value) -> &'static str {
    match port.get("protocol").and_then(Value::as_str) {
        Some("UDP") => "UDP",
        Some("SCTP") => "SCTP",
        _ => "TCP",
    }
}

fn number(value: Option<&Value>) -> u16 {
    value.and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok()).unwrap_or(0)
}

/// The ports a Service has on nodes.
pub fn taken(service: &Value) -> Vec<(u16, &'static str)> {
    let list = at(service, "spec.ports").and_then(Value::as_array).into_iter().flatten();
    let mut found: Vec<_> = list
        .map(|port| (number(port.get("nodePort")), protocol(port)))
        .filter(|(port, _)| *port > 0)
        .collect();
    let health = number(at(service, "spec.healthCheckNodePort"));
    if health > 0 {
        found.push((health, "TCP"));
    }
    found
}

/// Whether the Service has a port that tells load balancers of its local endpoints.
pub fn healthy_port_wanted(service: &Value) -> bool {
    let text = |path: &str| at(service, path).and_then(Value::as_str).unwrap_or("");
    text("spec.type") == "LoadBalancer" && text("spec.externalTrafficPolicy") == "Local"
}

/// Gives ports where they are wanted; the first part is what was newly taken, even on failure.
pub fn give(
    used: &mut Ports,
    range: (u16, u16),
    uid: &Arc<str>,
    kind: &str,
    old: Option<&Value>,
    object: &mut Value,
) -> (Vec<(u16, &'static str)>, Result<(), Cause>) {
    let mut given = Vec::new();
    let allocate = at(object, "spec.allocateLoadBalancerNodePorts").and_then(Value::as_bool) != Some(false);
    let wanted = kind == "NodePort" || (kind == "LoadBalancer" && allocate);
    let mut list = at(object, "spec.ports").and_then(Value::as_array).cloned().unwrap_or_default();
    if wanted {
        let before = old.and_then(|old| at(old, "spec.ports")).and_then(Value::as_array);
        carry_over(before, &mut list);
        for (index, port) in list.iter_mut().enumerate() {
            let field = format!("spec.ports[{index}].nodePort");
            let asked = number(port.get("nodePort"));
            match take(used, range, uid, asked, protocol(port), &field, &given) {
                Ok(Some(taken)) => {
                    given.push(taken);
                    port["nodePort"] = taken.0.into();
                }
                Ok(None) => {}
                Err(cause) => return (given, Err(cause)),
            }
        }
        set_at(object, "spec.ports", json!(list));
    } else if kind == "ClusterIP" && old.is_some() {
        for port in list.iter_mut().filter_map(Value::as_object_mut) {
            port.remove("nodePort");
        }
        set_at(object, "spec.ports", json!(list));
    }
    if healthy_port_wanted(object) {
        let asked = number(at(object, "spec.healthCheckNodePort"));
        match take(used, range, uid, asked, "TCP", "spec.healthCheckNodePort", &given) {
            Ok(Some(taken)) => {
                given.push(taken);
                set_at(object, "spec.healthCheckNodePort", taken.0.into());
            }
            Ok(None) => {}
            Err(cause) => return (given, Err(cause)),
        }
    }
    (given, Ok(()))
}

/// An update that says nothing about node ports keeps those of the ports that are still there.
fn carry_over(before: Option<&Vec<Value>>, list: &mut [Value]) {
    let Some(before) = before else { return };
    for port in list.iter_mut().filter(|port| number(port.get("nodePort")) == 0) {
        let same =
            before.iter().find(|old| old.get("port") == port.get("port") && protocol(old) == protocol(port));
        if let Some(own) = same.and_then(|old| old.get("nodePort")) {
            port["nodePort"] = own.clone();
        }
    }
}

/// `None` when the Service has the port already.
fn take(
    used: &mut Ports,
    range: (u16, u16),
    uid: &Arc<str>,
    asked: u16,
    protocol: &'static str,
    field: &str,
    given: &[(u16, &'static str)],
) -> Result<Option<(u16, &'static str)>, Cause> {
    let span = u32::from(range.1.saturating_sub(range.0)) + 1;
    if asked == 0 {
        // A number already given to another protocol of this Service is given again where it is free.
        let shared = given.iter().map(|(port, _)| *port).find(|port| !used.contains_key(&(*port, protocol)));
        let start = rand::rng().random_range(0..span);
        let mut others = (0..span).map(|step| range.0 + ((start + step) % span) as u16);
        let free = shared.or_else(|| {
            others.find(|port| ["TCP", "UDP", "SCTP"].iter().all(|p| !used.contains_key(&(*port, *p))))
        });
        let Some(port) = free else {
            return Err(Cause::field(
                "InternalError",
                field,
                "Internal error: failed to allocate a nodePort: range is full",
            ));
        };
        used.insert((port, protocol), uid.clone());
        return Ok(Some((port, protocol)));
    }
    match used.get(&(asked, protocol)) {
        Some(owner) if owner == uid => return Ok(None),
        Some(_) => return Err(Cause::invalid(field, &json!(asked), "provided port is already allocated")),
        None => {}
    }
    if !(range.0..=range.1).contains(&asked) {
        let what = format!(
            "provided port is not in the valid range. The range of valid ports is {}-{}",
            range.0, range.1
        );
        return Err(Cause::invalid(field, &json!(asked), &what));
    }
    used.insert((asked, protocol), uid.clone());
    Ok(Some((asked, protocol)))
}
