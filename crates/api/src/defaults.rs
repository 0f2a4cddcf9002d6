//! Defaults that depend on other fields, one function per type; plain ones stand in the facts.
//!
//! Functions are pure and work on canonical values that have their plain defaults already.

mod core;
mod workloads;

use schema::Hook;
use serde_json::{Map, Value};

type Fields = Map<String, Value>;

/// The function that completes values of this type.
pub fn hook(type_name: &str) -> Option<Hook> {
    Some(match type_name {
        "core_v1.Pod" => core::pod,
        "core_v1.PodSpec" => core::pod_spec,
        "core_v1.Secret" => core::secret,
        "core_v1.Container" | "core_v1.EphemeralContainer" => core::container,
        "core_v1.Volume" => core::volume,
        "core_v1.Service" => core::service,
        "core_v1.ReplicationController" => core::replication_controller,
        "core_v1.NodeStatus" => core::node_status,
        "core_v1.Namespace" => core::namespace,
        "core_v1.LimitRangeItem" => core::limit_range_item,
        "apps_v1.DeploymentStrategy" => workloads::deployment_strategy,
        "apps_v1.DaemonSetUpdateStrategy" => workloads::daemon_set_strategy,
        "apps_v1.StatefulSetUpdateStrategy" => workloads::stateful_set_strategy,
        "apps_v1.StatefulSetSpec" => workloads::stateful_set_spec,
        "batch_v1.Job" => workloads::job,
        "autoscaling_v2.HorizontalPodAutoscalerSpec" => workloads::autoscaler,
        "networking_v1.NetworkPolicySpec" => workloads::network_policy,
        "rbac_v1.Subject" => workloads::subject,
        "resource_v1.ExactDeviceRequest" | "resource_v1.DeviceSubRequest" => workloads::device_request,
        "apiextensions_v1.CustomResourceDefinition" => workloads::custom_resource_definition,
        _ => return None,
    })
}

/// Sets a field unless it is there.
fn put(map: &mut Fields, name: &str, value: impl Into<Value>) {
    let slot = map.entry(name).or_insert(Value::Null);
    if slot.is_null() {
        *slot = value.into();
    }
}

fn text<'a>(map: &'a Fields, name: &str) -> &'a str {
    map.get(name).and_then(Value::as_str).unwrap_or("")
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Array(a)) => a.is_empty(),
        Some(Value::Object(m)) => m.is_empty(),
        Some(Value::String(s)) => s.is_empty(),
        Some(_) => false,
    }
}

/// The object in a field, made if absent.
fn child<'a>(map: &'a mut Fields, name: &str) -> Option<&'a mut Fields> {
    let slot = map.entry(name).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut()
}
